//! A backup that would break the size bound says so before it stores anything of what it can foresee.

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use common::bucket::{self, World, objects};
use icecore::backup::{self, Options, Report};
use icecore::progress::{Amount, Phase, Progress};
use icecore::source::DirectoryOptions;
use icecore::storage::{Local, Storage};

/// Keeps what is said, and how many packs there were then.
struct Notes {
    repository: PathBuf,
    said: Mutex<Vec<(String, usize)>>,
}

impl Progress for Notes {
    fn begin(&self, _: Phase) {}
    fn expect(&self, _: Amount) {}
    fn settled(&self) {}
    fn advance(&self, _: Amount) {}
    fn note(&self, line: &str) {
        let packs = Local::new(&self.repository).list_all("packs/").unwrap().len();
        self.said.lock().unwrap().push((line.into(), packs));
    }
    fn end(&self) {}
}

fn backup(world: &World, options: &Options) -> (Report, Vec<(String, usize)>) {
    let mut context = world.context();
    let notes = Arc::new(Notes { repository: world.path("repository"), said: Mutex::default() });
    context.progress = notes.clone();
    let report = backup::run(&world.open_with(&context), options).unwrap();
    let said = std::mem::take(&mut *notes.said.lock().unwrap());
    (report, said)
}

fn bytes(world: &World) -> u64 {
    Local::new(world.path("repository")).list_all("").unwrap().iter().map(|listed| listed.size).sum()
}

/// With room nothing is said; a backup that is too large says so first, and in its report; one that turns out
/// to be known already only says what it feared; and a repository that is too large is told at once.
fn says_so(world: &World, options: &Options, add: impl Fn(usize)) {
    let bounded = |max_size| Options { max_size: Some(max_size), ..options.clone() };
    add(0);
    let (report, said) = backup(world, &bounded(100 << 20));
    assert!(said.is_empty() && report.warnings.is_empty(), "{said:?} {:?}", report.warnings);
    let there = bytes(world);

    add(1);
    let (report, said) = backup(world, &bounded(there + 400_000));
    let [(line, packs)] = &said[..] else { panic!("{said:?}") };
    assert!(line.contains("may add up to 1.0 MiB"), "{line}");
    assert!(*packs <= 2, "it had begun to store: {packs} packs");
    let [warning] = &report.warnings[..] else { panic!("{:?}", report.warnings) };
    let over = bytes(world) - (there + 400_000);
    assert!(warning.contains(&format!("{} more than", icecore::progress::size(over))), "{warning} {over}");

    let (report, said) = backup(world, &bounded(1000));
    let [(line, _)] = &said[..] else { panic!("{said:?}") };
    assert!(line.starts_with("warning: the repository has"), "{line}");
    assert_eq!(report.warnings.len(), 1);

    // The same content under other names is read and not stored.
    add(2);
    let (report, said) = backup(world, &bounded(bytes(world) + 400_000));
    assert_eq!((said.len(), report.warnings.len()), (1, 0), "{said:?} {:?}", report.warnings);
}

/// A mebibyte of objects; the second and the third time the same under other names.
fn content(time: usize) -> Vec<u8> {
    bucket::content(if time == 0 { 0 } else { 1 }, 1 << 20)
}

#[test]
fn of_a_directory_before_a_file_is_read() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir_all(source.join("deep")).unwrap();
    let directory = Some(DirectoryOptions { path: source.clone(), ..DirectoryOptions::default() });
    let options = Options { objects: None, directory, ..world.options() };
    says_so(&world, &options, |time| {
        fs::write(source.join(format!("deep/file-{time}")), content(time)).unwrap();
    });
}

#[test]
fn of_a_bucket_before_an_object_is_read() {
    let world = World::new();
    says_so(&world, &world.options(), |time| {
        world.fill([(format!("deep/object-{time}"), content(time))]);
    });
}

#[test]
fn what_waited_is_all_backed_up() {
    let world = World::new();
    world.fill(objects(300));
    let (report, said) = backup(&world, &Options { max_size: Some(200_000), ..world.options() });
    assert_eq!((said.len(), report.warnings.len()), (1, 1), "{said:?} {:?}", report.warnings);
    world.holds(objects(300));
    world.is_whole();
}
