//! A directory never shows half a file: not while it is written, not after the writer was killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use icecore::storage::{Local, Storage};

/// Tells the writer below where to write.
const DIRECTORY: &str = "ICECORE_CRASH_DIRECTORY";

/// The one content that the file `name` may have, large enough to be caught half-way.
fn content(name: &str) -> Bytes {
    let mut bytes = vec![0; (1 << 20) + name.len() * 100_003];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Everything that a listing shows is whole. Gives how many files that is.
fn all_are_whole(storage: &dyn Storage) -> usize {
    let shown = storage.list_all("").unwrap();
    for listed in &shown {
        let whole = content(&listed.name);
        assert_eq!(listed.size, whole.len() as u64, "{} is shown with another size", listed.name);
        assert!(storage.get(&listed.name).unwrap() == whole, "{} has other bytes", listed.name);
    }
    shown.len()
}

/// Waits until so many looks were taken, so that some fall between files however fast they are written; a second
/// at most, for whoever looks may have failed.
fn wait_for(looks: &AtomicUsize, count: usize) {
    for _ in 0..1000 {
        if looks.load(Ordering::SeqCst) >= count {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_file_is_never_seen_half_written() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Local::new(directory.path());
    let (writing, looks) = (AtomicBool::new(true), AtomicUsize::new(0));
    let name = |writer: usize, number: usize| format!("packs/{writer}/{number}");
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (storage, looks) = (&storage, &looks);
                scope.spawn(move || {
                    for number in 0..12 {
                        wait_for(looks, number / 2);
                        let name = name(writer, number);
                        // Whoever looks for it early finds nothing, or all of it.
                        storage.put(&name, content(&name)).unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while writing.load(Ordering::SeqCst) {
                all_are_whole(&storage);
                looks.fetch_add(1, Ordering::SeqCst);
            }
        });
        // A reader that knows the names does not wait for a listing.
        scope.spawn(|| {
            let mut sooner = BTreeMap::new();
            while writing.load(Ordering::SeqCst) {
                for name in (0..4).flat_map(|writer| (0..12).map(move |number| name(writer, number))) {
                    match storage.get(&name) {
                        Ok(bytes) => {
                            assert!(bytes == *sooner.entry(name.clone()).or_insert_with(|| content(&name)))
                        }
                        Err(error) => assert!(error.is_not_found(), "{error}"),
                    }
                }
            }
        });
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        writing.store(false, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok));
    });
    assert!(looks.load(Ordering::SeqCst) > 3);
    assert_eq!(all_are_whole(&storage), 48);
    assert!(left_overs(directory.path()).is_empty());
}

fn left_overs(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory.join("tmp")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "run by writers_that_were_killed_leave_only_whole_files"]
fn write_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let storage = Local::new(PathBuf::from(directory));
    // Ends by itself, should nobody be left to kill it.
    for number in 0..1000 {
        let name = format!("packs/{:02x}/{}-{number}", number % 5, std::process::id());
        storage.put(&name, content(&name)).unwrap();
        println!("{name}");
    }
}

/// A writer of its own process, ended however this test ends.
struct Victim(Child);

impl Victim {
    fn start(directory: &Path, log: &Path) -> Victim {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "write_until_killed", "--ignored", "--nocapture", "--test-threads=1"]);
        let log = fs::File::create(log).unwrap();
        Victim(command.env(DIRECTORY, directory).stdout(log).spawn().unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn writers_that_were_killed_leave_only_whole_files() {
    let directory = tempfile::tempdir().unwrap();
    let (repository, log) = (directory.path().join("repository"), directory.path().join("log"));
    let mut left = 0;
    for round in 0..12u64 {
        let victim = Victim::start(&repository, &log);
        let begun = Instant::now();
        // Killed at another point of its work each time, but not before it began.
        let said = || fs::read_to_string(&log).unwrap();
        while !said().contains("packs/") && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(3 + round * 7));
        drop(victim);
        let storage = Local::new(&repository);
        all_are_whole(&storage);
        // What it said it had put is there.
        for name in said().lines().filter(|line| line.starts_with("packs/")) {
            assert!(storage.get(name).is_ok(), "{name} was put and is not there");
        }
        // What it left is in nobody's way.
        let name = format!("packs/00/after-{round}");
        storage.put(&name, content(&name)).unwrap();
        left = left_overs(&repository).len();
    }
    println!("{left} left-overs in the temporary folder");
    assert!(all_are_whole(&Local::new(&repository)) >= 12);
}
