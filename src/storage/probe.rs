//! Whether a medium really keeps two writers from taking one name.
//!
//! Some servers accept the header for create-if-absent and ignore it, others honour it only as long
//! as nobody contends. So it is tried: eight writers put one new name at once, and one may win.

use std::sync::Barrier;
use std::time::Duration;

use bytes::Bytes;

use super::{Cause, Error, Result, Storage};
use crate::context::Random;
use crate::id::draw;

/// Where probes put their names.
pub const PROBE_FOLDER: &str = "probe/";

const WRITERS: usize = 8;

/// A probe in which the winner's answer was lost says nothing; it is made again this often.
const TRIES: u32 = 4;
/// Between the first two tries; twice as long each time.
const PAUSE: Duration = Duration::from_millis(100);

/// Puts one new name from eight threads at once and counts who was told to have won. True when
/// exactly one was, and the bytes that stand there are the winner's.
pub fn arbitrates(storage: &dyn Storage, random: &dyn Random) -> Result<bool> {
    let mut tries = 0;
    loop {
        match probe_once(storage, random)? {
            Judged::Clear(verdict) => return Ok(verdict),
            Judged::Unclear(error) if tries == TRIES => return Err(error),
            Judged::Unclear(_) => std::thread::sleep(PAUSE * 2u32.pow(tries)),
        }
        tries += 1;
    }
}

enum Judged {
    Clear(bool),
    /// Nobody was told to have won, and some were told nothing.
    Unclear(Error),
}

fn probe_once(storage: &dyn Storage, random: &dyn Random) -> Result<Judged> {
    let name = format!("{PROBE_FOLDER}{}", data_encoding::HEXLOWER.encode(&draw::<12>(random)));
    let barrier = Barrier::new(WRITERS);
    let answers: Vec<Result<()>> = std::thread::scope(|scope| {
        let put = |writer: usize| {
            barrier.wait();
            storage.put_once(&name, Bytes::from(format!("writer {writer}")))
        };
        let threads: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || put(writer))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    });
    let verdict = judge(storage, &name, &answers);
    // A name that may not be deleted is garbage, and the verdict stands.
    let _ = storage.delete(&name);
    verdict
}

fn judge(storage: &dyn Storage, name: &str, answers: &[Result<()>]) -> Result<Judged> {
    let (mut winners, mut unclear) = (Vec::new(), None);
    for (writer, answer) in answers.iter().enumerate() {
        match answer {
            Ok(()) => winners.push(writer),
            Err(e) => match e.cause {
                Cause::Exists => {}
                Cause::Uncertain(_) | Cause::Transient(_) => unclear = Some(e.clone()),
                _ => return Err(e.clone()),
            },
        }
    }
    match (&winners[..], unclear) {
        (&[winner], _) => Ok(Judged::Clear(storage.get(name)? == format!("writer {winner}"))),
        ([], Some(error)) => Ok(Judged::Unclear(error)),
        _ => Ok(Judged::Clear(false)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::context::Seeded;
    use crate::storage::{Listed, Local};

    /// Accepts every put, as a server that ignores the header does.
    struct Overwriting(Local);

    impl Storage for Overwriting {
        fn medium(&self) -> Arc<str> {
            self.0.medium()
        }
        fn is_remote(&self) -> bool {
            self.0.is_remote()
        }
        fn get(&self, name: &str) -> Result<Bytes> {
            self.0.get(name)
        }
        fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes> {
            self.0.get_range(name, offset, length)
        }
        fn put_once(&self, name: &str, bytes: Bytes) -> Result<()> {
            match self.0.put_once(name, bytes) {
                Err(e) if e.is_exists() => Ok(()),
                done => done,
            }
        }
        fn list(&self, folder: &str, show: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
            self.0.list(folder, show)
        }
        fn delete(&self, name: &str) -> Result<()> {
            self.0.delete(name)
        }
    }

    #[test]
    fn a_probe_whose_winner_got_no_answer_is_made_again() {
        use std::sync::atomic::{AtomicBool, Ordering};

        use crate::storage::{Faulty, Injected, Operation};
        let directory = tempfile::tempdir().unwrap();
        let first = AtomicBool::new(true);
        let lost = move |operation, _: &str| {
            let lose = operation == Operation::Put && first.swap(false, Ordering::SeqCst);
            lose.then(|| Injected::After(Cause::Uncertain("lost".into())))
        };
        // One of the eight loses its answer; where that is the winner, a second probe decides.
        assert!(arbitrates(&Faulty::new(Local::new(directory.path()), lost), &Seeded::new(1)).unwrap());
    }

    #[test]
    fn a_directory_arbitrates_and_a_medium_that_accepts_every_put_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let random = Seeded::new(1);
        assert!(arbitrates(&Local::new(directory.path()), &random).unwrap());
        assert!(!arbitrates(&Overwriting(Local::new(directory.path())), &random).unwrap());
        assert!(Local::new(directory.path()).names("").unwrap().is_empty());
    }
}
