//! A wrapper that tries again what may yet succeed, with growing pauses and a deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Cause, Error, Listed, Result, Storage};
use crate::context::{Cancel, Random};
use crate::id::draw;

/// How long to go on trying.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The first pause; each one after is twice as long, up to ten seconds.
    pub pause: Duration,
    /// For one request, once the medium has answered at all: from its first failure on, for a try may itself take
    /// long. There is always a second one.
    pub deadline: Duration,
    /// For one request before the medium has ever answered: a wrong address is told quickly.
    pub first_answer: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            pause: Duration::from_millis(100),
            deadline: Duration::from_secs(180),
            first_answer: Duration::from_secs(8),
        }
    }
}

/// Tries requests to `inner` again while that may help.
pub struct Retried<S> {
    inner: S,
    patience: Patience,
    random: Arc<dyn Random>,
    cancel: Cancel,
    answered: AtomicBool,
}

impl<S: Storage> Retried<S> {
    /// Tries with `patience`, until `cancel` is set. Pauses are drawn from `random`.
    pub fn new(inner: S, patience: Patience, random: Arc<dyn Random>, cancel: Cancel) -> Retried<S> {
        Retried { inner, patience, random, cancel, answered: AtomicBool::new(false) }
    }

    /// Between half and the whole of the pause, so that machines do not stay in step.
    fn jittered(&self, pause: Duration) -> Duration {
        let [byte] = draw::<1>(&*self.random);
        pause.mul_f64(0.5 + f64::from(byte) / 512.0)
    }

    /// Runs `request` until it gives a clear answer. `settle` turns an answer into a final one, or
    /// asks for another try; it is told whether an earlier try may have happened.
    fn again<T>(
        &self,
        mut request: impl FnMut() -> Result<T>,
        settle: impl Fn(Error, bool) -> std::result::Result<Result<T>, Error>,
    ) -> Result<T> {
        let (begun, mut failing) = (Instant::now(), None);
        let mut pause = self.patience.pause;
        let mut uncertain = false;
        loop {
            let error = match request() {
                Ok(value) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(error) => error,
            };
            let error = match settle(error, uncertain) {
                Ok(answer) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return answer;
                }
                Err(error) => error,
            };
            uncertain |= matches!(error.cause, Cause::Uncertain(_));
            let failing = failing.get_or_insert_with(Instant::now);
            let (since, deadline) = match self.answered.load(Ordering::Relaxed) {
                true => (*failing, self.patience.deadline),
                false => (begun, self.patience.first_answer),
            };
            if since.elapsed() + pause > deadline {
                return Err(error);
            }
            if self.cancel.wait(self.jittered(pause)).is_err() {
                return Err(Error { cause: Cause::Interrupted, ..error });
            }
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    fn read<T>(&self, request: impl FnMut() -> Result<T>) -> Result<T> {
        self.again(request, |error, _| match error.cause {
            Cause::Transient(_) | Cause::Uncertain(_) => Err(error),
            _ => Ok(Err(error)),
        })
    }
}

impl<S: Storage> Storage for Retried<S> {
    fn medium(&self) -> Arc<str> {
        self.inner.medium()
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.read(|| self.inner.get(name))
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes> {
        self.read(|| self.inner.get_range(name, offset, length))
    }

    fn put_once(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.inner.put_once(name, bytes)
    }

    fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.again(
            || self.inner.put_once(name, bytes.clone()),
            |error, uncertain| match error.cause {
                Cause::Transient(_) | Cause::Uncertain(_) => Err(error),
                // An earlier try may have put these very bytes; then the name is ours.
                Cause::Exists if uncertain => match self.read(|| self.inner.get(name)) {
                    Ok(there) if there == bytes => Ok(Ok(())),
                    Ok(_) => Ok(Err(error)),
                    Err(unread) => Ok(Err(unread)),
                },
                _ => Ok(Err(error)),
            },
        )
    }

    fn list(&self, folder: &str, show: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        // What a broken listing has shown cannot be taken back, so each try is gathered first.
        let all = self.read(|| {
            let mut all = Vec::new();
            self.inner.list(folder, &mut |listed| {
                all.push(listed);
                Ok(())
            })?;
            Ok(all)
        })?;
        all.into_iter().try_for_each(show)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.read(|| self.inner.delete(name))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::context::Seeded;
    use crate::fault::Kind;
    use crate::storage::{Faulty, Injected, Local, Operation};

    fn patience() -> Patience {
        let pause = Duration::from_millis(1);
        Patience { pause, deadline: Duration::from_millis(500), first_answer: Duration::from_millis(50) }
    }

    /// A directory where the first `times` requests of `operation` fail with `injected`.
    fn failing(
        directory: &tempfile::TempDir,
        operation: Operation,
        times: u32,
        injected: Injected,
    ) -> Retried<Faulty<Local>> {
        let left = AtomicU32::new(times);
        let plan = move |op, _: &str| {
            let fails = op == operation
                && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
            fails.then(|| injected.clone())
        };
        let faulty = Faulty::new(Local::new(directory.path()), plan);
        Retried::new(faulty, patience(), Arc::new(Seeded::new(1)), Cancel::default())
    }

    #[test]
    fn a_put_whose_answer_was_lost_counts_as_put() {
        let directory = tempfile::tempdir().unwrap();
        let lost = Injected::After(Cause::Uncertain("lost".into()));
        let storage = failing(&directory, Operation::Put, 1, lost);
        storage.put("a", Bytes::from_static(b"mine")).unwrap();
        assert_eq!(storage.get("a").unwrap(), "mine");
    }

    #[test]
    fn a_name_taken_by_other_bytes_is_never_taken_for_ones_own() {
        let directory = tempfile::tempdir().unwrap();
        Local::new(directory.path()).put("a", Bytes::from_static(b"other")).unwrap();
        let lost = Injected::Instead(Cause::Uncertain("lost".into()));
        let storage = failing(&directory, Operation::Put, 1, lost);
        assert!(storage.put("a", Bytes::from_static(b"mine")).unwrap_err().is_exists());
        assert_eq!(storage.get("a").unwrap(), "other");
    }

    #[test]
    fn a_name_taken_at_the_first_try_is_said_even_if_the_bytes_agree() {
        let directory = tempfile::tempdir().unwrap();
        Local::new(directory.path()).put("a", Bytes::from_static(b"mine")).unwrap();
        let storage = failing(&directory, Operation::Get, 0, Injected::Instead(Cause::NotFound));
        assert!(storage.put("a", Bytes::from_static(b"mine")).unwrap_err().is_exists());
    }

    #[test]
    fn a_medium_that_never_answers_is_given_up_soon() {
        let directory = tempfile::tempdir().unwrap();
        let down = Injected::Instead(Cause::Transient("down".into()));
        let storage = failing(&directory, Operation::Get, u32::MAX, down);
        let begun = Instant::now();
        assert_eq!(storage.get("a").unwrap_err().kind(), Kind::Unreachable);
        assert!(begun.elapsed() < Duration::from_millis(300));
    }

    #[test]
    fn what_fails_late_is_tried_once_more() {
        let directory = tempfile::tempdir().unwrap();
        Local::new(directory.path()).put("a", Bytes::from_static(b"there")).unwrap();
        let (patience, tries) = (patience(), AtomicU32::new(0));
        let plan = move |_, _: &str| {
            let broken = tries.fetch_add(1, Ordering::SeqCst) == 1;
            broken.then(|| {
                std::thread::sleep(patience.deadline);
                Injected::Instead(Cause::Transient("broken".into()))
            })
        };
        let faulty = Faulty::new(Local::new(directory.path()), plan);
        let storage = Retried::new(faulty, patience, Arc::new(Seeded::new(1)), Cancel::default());
        storage.get("a").unwrap();
        assert_eq!(storage.get("a").unwrap(), "there");
    }

    #[test]
    fn an_interrupt_ends_the_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let down = Injected::Instead(Cause::Transient("down".into()));
        let storage = failing(&directory, Operation::Get, u32::MAX, down);
        storage.cancel.cancel();
        assert_eq!(storage.get("a").unwrap_err().kind(), Kind::Interrupted);
    }
}
