//! Jobs done on several threads, through a bounded queue. The first failure ends it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::context::Interrupted;
use crate::mutex::{into_inner, lock};

/// Cores that this process may use; two where that cannot be told.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get())
}

/// What workers share.
struct Shared<E> {
    failure: Mutex<Option<E>>,
    failed: AtomicBool,
}

/// Where jobs are given.
pub struct Pool<'a, J, E> {
    queue: Sender<J>,
    shared: &'a Shared<E>,
}

impl<J, E> Pool<'_, J, E> {
    /// Waits for a place in the queue. An error once any job failed, which is told in its place.
    pub fn give(&self, job: J) -> Result<(), Interrupted> {
        if self.has_failed() || self.queue.send(job).is_err() { Err(Interrupted) } else { Ok(()) }
    }

    /// Whether any job failed, so that no more is done.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::SeqCst)
    }
}

/// Takes what is left of a queue where its worker panics, so that nobody waits for ever, also where all do.
struct Unfinished<'a, J, E> {
    queue: &'a Receiver<J>,
    shared: &'a Shared<E>,
}

impl<J, E> Drop for Unfinished<'_, J, E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.failed.store(true, Ordering::SeqCst);
            self.queue.iter().for_each(drop);
        }
    }
}

impl<E> Shared<E> {
    fn work<J, S>(&self, queue: &Receiver<J>, mut own: S, work: &impl Fn(&mut S, J) -> Result<(), E>) {
        let _unfinished = Unfinished { queue, shared: self };
        for job in queue {
            // After a failure jobs are only taken, so that nobody waits for ever.
            if self.failed.load(Ordering::SeqCst) {
                continue;
            }
            if let Err(error) = work(&mut own, job) {
                lock(&self.failure).get_or_insert(error);
                self.failed.store(true, Ordering::SeqCst);
            }
        }
    }
}

/// Does the jobs that `give` gives on `threads` threads, each with an `own` of its own; at most `ahead` jobs
/// wait. All are done when this returns.
pub fn run<J: Send, S, E: Send, T>(
    threads: usize,
    ahead: usize,
    own: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, J) -> Result<(), E> + Sync,
    give: impl FnOnce(&Pool<'_, J, E>) -> Result<T, E>,
) -> Result<T, E> {
    let shared = Shared { failure: Mutex::new(None), failed: AtomicBool::new(false) };
    let (sender, receiver) = bounded(ahead);
    let given = std::thread::scope(|scope| {
        for _ in 0..threads {
            let (queue, shared, own, work) = (receiver.clone(), &shared, &own, &work);
            scope.spawn(move || shared.work(&queue, own(), work));
        }
        drop(receiver);
        let pool = Pool { queue: sender, shared: &shared };
        give(&pool)
    });
    // A worker's failure is the cause; that no more was given is only its consequence.
    match into_inner(shared.failure) {
        Some(error) => Err(error),
        None => given,
    }
}

/// What `of` makes of each thing, in their order, so many at once.
pub fn several<T: Sync, R: Send>(at_once: usize, things: &[T], of: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let taken = std::iter::from_fn(|| {
            let at = next.fetch_add(1, Ordering::Relaxed);
            Some((at, things.get(at)?))
        });
        taken.map(|(at, thing)| (at, of(thing))).collect::<Vec<_>>()
    };
    let mut made = std::thread::scope(|scope| {
        let others: Vec<_> = (1..at_once.min(things.len())).map(|_| scope.spawn(work)).collect();
        let mut made = work();
        others.into_iter().for_each(|other| made.extend(joined(other.join())));
        made
    });
    made.sort_unstable_by_key(|(at, _)| *at);
    made.into_iter().map(|(_, made)| made).collect()
}

/// The same of what may fail: after the first failure nothing more is begun.
pub fn try_several<T: Sync, R: Send, E: Send>(
    at_once: usize,
    things: &[T],
    of: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let failure = Mutex::new(None);
    let made = several(at_once, things, |thing| {
        if lock(&failure).is_some() {
            return None;
        }
        match of(thing) {
            Ok(made) => Some(made),
            Err(error) => {
                lock(&failure).get_or_insert(error);
                None
            }
        }
    });
    match into_inner(failure) {
        Some(error) => Err(error),
        None => Ok(made.into_iter().flatten().collect()),
    }
}

/// The same for a few things, all at once.
pub fn each<T: Sync, R: Send>(things: &[T], of: impl Fn(&T) -> R + Sync) -> Vec<R> {
    several(things.len(), things, of)
}

/// Things that follow each other in parts of at most so many, and of so many bytes; what is larger is a part by itself.
pub fn parts<'a, T>(
    mut things: &'a [T],
    (most, bytes): (usize, u64),
    size: impl Fn(&T) -> u64 + 'a,
) -> impl Iterator<Item = &'a [T]> {
    std::iter::from_fn(move || {
        let mut sum = 0u64;
        let fits = |thing: &&T| {
            sum = sum.saturating_add(size(thing));
            sum <= bytes
        };
        let many = things.iter().take(most).take_while(fits).count().max(1);
        let (part, rest) = things.split_at_checked(many)?;
        things = rest;
        Some(part)
    })
}

/// What both make, at once.
pub fn both<A, B: Send>(here: impl FnOnce() -> A, there: impl FnOnce() -> B + Send) -> (A, B) {
    std::thread::scope(|scope| {
        let there = scope.spawn(there);
        (here(), joined(there.join()))
    })
}

/// What a thread made; its panic goes on here.
fn joined<T>(joined: std::thread::Result<T>) -> T {
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What [`ahead`] hands over together weighs so many bytes, and so many such batches wait. In smaller ones a thread
/// would wait for the other's waking up for as long as it works.
const BATCH: usize = 128 << 10;
const BATCHES: usize = 4;
/// The first thing made so long after the last batch was handed over ends its own, however little is in that.
const SOON: Duration = Duration::from_millis(50);

/// Whoever makes things is given where they go; false there once nobody wants more.
pub type Give<'a, T> = dyn FnMut(T) -> bool + 'a;

/// What `make` gives, in order, made on a thread of its own some way ahead of whoever takes it. `weigh` tells how
/// many bytes a thing holds, about.
pub fn ahead<'s, T: Send + 's, E: Send + 's>(
    scope: &'s Scope<'s, '_>,
    mut weigh: impl FnMut(&T) -> usize + Send + 's,
    make: impl FnOnce(&mut Give<'_, T>) -> Result<(), E> + Send + 's,
) -> impl Iterator<Item = Result<T, E>> + 's {
    let (sender, receiver) = bounded(BATCHES);
    scope.spawn(move || {
        let (mut batch, mut weight, mut began) = (Vec::new(), 0, Instant::now());
        let made = make(&mut |thing| {
            weight += weigh(&thing);
            batch.push(Ok(thing));
            if weight < BATCH && began.elapsed() < SOON {
                return true;
            }
            let next = Vec::with_capacity(batch.len());
            let sent = sender.send(std::mem::replace(&mut batch, next));
            (weight, began) = (0, Instant::now());
            sent.is_ok()
        });
        batch.extend(made.err().map(Err));
        // Fails only where nobody wants it any more.
        let _ = sender.send(batch);
    });
    receiver.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Failure {
        Job(u64),
        Stopped,
    }

    impl From<Interrupted> for Failure {
        fn from(_: Interrupted) -> Failure {
            Failure::Stopped
        }
    }

    #[test]
    fn every_job_is_done_once() {
        let sum = AtomicU64::new(0);
        let work = |_: &mut (), job: u64| {
            sum.fetch_add(job, Ordering::SeqCst);
            Ok::<(), Failure>(())
        };
        let given = run(
            3,
            2,
            || (),
            work,
            |pool| {
                for job in 0..1000 {
                    pool.give(job)?;
                }
                Ok("given")
            },
        );
        assert_eq!((given, sum.into_inner()), (Ok("given"), 499_500));
    }

    #[test]
    fn what_is_made_of_several_comes_in_their_order_and_so_many_are_made_at_once() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let things: Vec<u64> = (0..100).collect();
        let made = several(5, &things, |thing| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            now.fetch_sub(1, Ordering::SeqCst);
            thing * 2
        });
        assert_eq!(made, (0..100).map(|thing| thing * 2).collect::<Vec<_>>());
        assert!((2..=5).contains(&most.into_inner()));
        assert_eq!(both(|| 1, || 2), (1, 2));
        let begun = AtomicU64::new(0);
        let failing = |thing: &u64| {
            begun.fetch_add(1, Ordering::SeqCst);
            if *thing < 10 { Ok(*thing) } else { Err(Failure::Job(*thing)) }
        };
        assert_eq!(try_several(1, &things, failing), Err(Failure::Job(10)));
        assert_eq!(begun.into_inner(), 11);
        assert_eq!(try_several(3, &things[..10], |thing| Ok::<_, Failure>(*thing)).unwrap(), things[..10]);
        let parted: Vec<&[u64]> = parts(&[1, 2, 3, 9, 9, 1, 1, 1, 1], (3, 6), |&size| size).collect();
        assert_eq!(parted, [&[1, 2, 3][..], &[9], &[9], &[1, 1, 1], &[1]]);
        assert_eq!(parts(&[], (3, 6), |&size| size).count(), 0);
    }

    #[test]
    fn what_is_made_ahead_comes_in_order_and_its_failure_last() {
        let make = |give: &mut Give<'_, u64>| {
            for number in 0..1000 {
                assert!(give(number));
            }
            Err(Failure::Stopped)
        };
        let taken: Vec<_> = std::thread::scope(|scope| ahead(scope, |_| 1000, make).collect());
        assert_eq!(taken[..1000], (0..1000).map(Ok).collect::<Vec<_>>());
        assert_eq!(taken[1000..], [Err(Failure::Stopped)]);
    }

    #[test]
    fn what_is_made_slowly_is_taken_before_a_batch_is_full() {
        let (taken, was_taken) = bounded(1);
        let make = move |give: &mut Give<'_, u64>| {
            give(0);
            std::thread::sleep(SOON);
            give(1);
            was_taken.recv_timeout(Duration::from_secs(60)).map_err(|_| Failure::Stopped)
        };
        std::thread::scope(|scope| {
            let mut things = ahead(scope, |_| 1, make);
            assert_eq!(things.next(), Some(Ok(0)));
            taken.send(()).unwrap();
            assert_eq!(things.collect::<Vec<_>>(), [Ok(1)]);
        });
    }

    #[test]
    fn who_makes_ahead_ends_when_nobody_wants_more() {
        let make = |give: &mut Give<'_, u64>| {
            (0..).take_while(|number| give(*number)).count();
            Ok::<(), Failure>(())
        };
        let first: Vec<_> = std::thread::scope(|scope| ahead(scope, |_| 1000, make).take(3).collect());
        assert_eq!(first, [Ok(0), Ok(1), Ok(2)]);
    }

    #[test]
    fn what_waits_does_not_weigh_more_than_its_batches() {
        const WEIGHT: usize = 1000;
        let made = AtomicU64::new(0);
        let make = |give: &mut Give<'_, u64>| {
            (0..).take_while(|number| give(*number)).for_each(|number| made.store(number, Ordering::SeqCst));
            Ok::<(), Failure>(())
        };
        std::thread::scope(|scope| {
            let mut taken = ahead(scope, |_| WEIGHT, make);
            assert_eq!(taken.next(), Some(Ok(0)));
            std::thread::sleep(std::time::Duration::from_millis(100));
            // Those that wait, the one that was taken, and the one that has no place.
            let most = (BATCHES + 2) * (BATCH + WEIGHT) / WEIGHT;
            assert!(made.load(Ordering::SeqCst) <= most as u64);
        });
    }

    #[test]
    fn workers_that_all_panic_end_it_and_the_panic_goes_on() {
        let work = |_: &mut (), _: u64| -> Result<(), Failure> { panic!("made up") };
        let give = |pool: &Pool<'_, u64, Failure>| (0..).try_for_each(|job| Ok(pool.give(job)?));
        assert!(std::panic::catch_unwind(|| run(2, 2, || (), work, give)).is_err());
    }

    #[test]
    fn the_first_failure_ends_it_and_is_told() {
        let work = |_: &mut (), job: u64| if job == 7 { Err(Failure::Job(7)) } else { Ok(()) };
        let give = |pool: &Pool<'_, u64, Failure>| (0..).try_for_each(|job| Ok(pool.give(job)?));
        assert_eq!(run(2, 2, || (), work, give), Err(Failure::Job(7)));
    }
}
