//! A backup that was interrupted is gone on with: what was read is not read again, and nothing is believed
//! that was not judged anew.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::bucket::{After, PASSPHRASE, World, content, interrupt_after, objects, options};
use icecore::backup::{self, Report};
use icecore::context::Context;
use icecore::fault::Kind;
use icecore::format::{Condemned, Name};
use icecore::repository::{Access, Repository};
use icecore::storage::{CredentialVars, Location, S3Access, S3Address};
use icecore::store::Tuning;

const COUNT: usize = 600;
const READ: u64 = 400;

/// A backup that ends by Ctrl-C once [`READ`] objects were read.
fn interrupted(world: &World) {
    let mut context = world.context();
    context.progress = interrupt_after(READ, context.cancel.clone());
    let error = backup::run(&world.open_with(&context), &world.options()).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted, "{error}");
    assert!(world.open().view().unwrap().snapshots.is_empty());
}

/// How many objects the backup took over and how many it asked the source for.
fn resumed_and_read(report: &Report) -> (u64, u64) {
    let (_, counts) = report.objects.as_ref().unwrap();
    assert_eq!(counts.resumed + counts.read_count, COUNT as u64);
    assert_eq!((counts.count, counts.added), (COUNT as u64, COUNT as u64));
    (counts.resumed, report.source_requests.1)
}

fn logs(world: &World) -> usize {
    let id = world.open().id().to_string();
    fs::read_dir(world.path("cache").join(id).join("logs")).map_or(0, |entries| entries.count())
}

#[test]
fn an_interrupted_first_backup_is_gone_on_with_and_reads_only_what_it_had_not_read() {
    let world = World::new();
    world.fill(objects(COUNT));
    interrupted(&world);
    assert_eq!(logs(&world), 1);
    let (resumed, read) = resumed_and_read(&world.backup().unwrap());
    assert!(resumed >= READ, "{resumed} were taken over");
    assert_eq!(read, COUNT as u64 - resumed);
    assert_eq!(logs(&world), 0, "there is a snapshot: nothing is left to go on with");
    world.is_whole();
    // A source that is compared byte by byte with what was taken over.
    let repository = world.open();
    let info = repository.view().unwrap().snapshots.remove(0);
    let browser = icecore::browse::Browser::open(&repository).unwrap();
    for number in [0, 1, 17, COUNT - 1] {
        let (key, body) = objects(COUNT).nth(number).unwrap();
        let mut found = Vec::new();
        browser
            .cat(&info.clone().into(), icecore::browse::Side::Objects, key.as_bytes(), None, &mut found)
            .unwrap();
        assert!(found == body, "{key}");
    }
}

#[test]
fn a_backup_that_is_interrupted_again_and_again_ends() {
    let world = World::new();
    world.fill(objects(COUNT));
    let mut reads = 0;
    for _ in 0..20 {
        let mut context = world.context();
        // What is taken over counts as done at once; 150 more are read each time.
        context.progress = interrupt_after(reads + 150, context.cancel.clone());
        match backup::run(&world.open_with(&context), &world.options()) {
            Ok(report) => {
                resumed_and_read(&report);
                world.is_whole();
                return;
            }
            Err(error) => assert_eq!(error.kind(), Kind::Interrupted, "{error}"),
        }
        reads += 150;
    }
    panic!("it never ends");
}

#[test]
fn an_object_that_changed_since_it_was_read_is_read_again_and_one_that_vanished_is_not_in_the_snapshot() {
    let world = World::new();
    world.fill(objects(COUNT));
    interrupted(&world);
    let (changed, _) = objects(COUNT).next().unwrap();
    let (vanished, _) = objects(COUNT).nth(20).unwrap();
    world.fill([(changed.clone(), content(COUNT, 5000))]);
    let delete = world.client().delete_object().bucket(&world.bucket).key(&vanished);
    world.runtime.block_on(delete.send()).unwrap();
    let report = world.backup().unwrap();
    let (_, counts) = report.objects.as_ref().unwrap();
    assert_eq!((counts.count, counts.resumed + counts.read_count), (COUNT as u64 - 1, COUNT as u64 - 1));
    let repository = world.open();
    let info = repository.view().unwrap().snapshots.remove(0);
    let browser = icecore::browse::Browser::open(&repository).unwrap();
    let mut found = Vec::new();
    browser
        .cat(&info.clone().into(), icecore::browse::Side::Objects, changed.as_bytes(), None, &mut found)
        .unwrap();
    assert!(found == content(COUNT, 5000));
    let gone = browser.cat(
        &info.clone().into(),
        icecore::browse::Side::Objects,
        vanished.as_bytes(),
        None,
        &mut found,
    );
    assert!(gone.is_err());
    world.is_whole();
}

/// The rule "uncommitted" of the collection protocol: once a collection began, what an interrupted session
/// stored may be dropped.
#[test]
fn after_a_collection_began_nothing_of_an_interrupted_backup_is_taken_over() {
    let world = World::new();
    world.fill(objects(COUNT));
    interrupted(&world);
    world.open().put_record(&Name::Condemned(1).to_string(), &Condemned { packs: vec![] }).unwrap();
    assert_eq!(resumed_and_read(&world.backup().unwrap()), (0, COUNT as u64));
    world.is_whole();
}

#[test]
fn packs_that_are_gone_are_not_referred_to_whatever_was_logged() {
    let world = World::new();
    world.fill(objects(COUNT));
    interrupted(&world);
    fs::remove_dir_all(world.path("repository/index")).unwrap();
    assert_eq!(resumed_and_read(&world.backup().unwrap()), (0, COUNT as u64));
    world.is_whole();
}

#[test]
fn a_log_that_is_damaged_or_cut_costs_time_only() {
    let world = World::new();
    world.fill(objects(COUNT));
    interrupted(&world);
    let directory = world.path("cache").join(world.open().id().to_string()).join("logs");
    let log = fs::read_dir(directory).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&log).unwrap();
    let visible = bytes.windows(7).any(|window| window == b"00/0000");
    assert!(!visible, "keys stand in the log in clear");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, bytes).unwrap();
    let (resumed, read) = resumed_and_read(&world.backup().unwrap());
    assert!(resumed > 0 && resumed < READ + 100, "{resumed}");
    assert_eq!(read, COUNT as u64 - resumed);
    world.is_whole();
}

// A process that is killed outright.

const VARIABLES: [&str; 3] = ["ICECORE_RESUME_DIRECTORY", "ICECORE_RESUME_URL", "ICECORE_RESUME_BUCKET"];

fn tuning() -> Tuning {
    Tuning { data_pack: 64 << 10, segment_every: Duration::ZERO, ..Tuning::default() }
}

/// Not a test: the process that the next one kills. It stands still once [`READ`] objects were read.
#[test]
#[ignore = "run by a_killed_first_backup_is_gone_on_with_as_far_as_segments_were_written"]
fn back_up_until_killed() {
    let [Some(directory), Some(url), Some(bucket)] = VARIABLES.map(std::env::var_os) else { return };
    let runtime = common::runtime();
    let mut context = Context::system(runtime.handle().clone());
    context.progress = After::new(READ, || std::thread::sleep(Duration::from_secs(100)));
    let path = |name: &str| Path::new(&directory).join(name);
    let location = Location::Local(path("repository"));
    let access = Access { location, credentials: None, cache: path("cache"), upload: None, download: None };
    let repository = Repository::open(&context, &access, PASSPHRASE).unwrap();
    let mut options = options(s3(url.to_str().unwrap()), bucket.to_str().unwrap());
    options.tuning = tuning();
    let _ = backup::run(&repository, &options);
}

fn s3(url: &str) -> S3Access {
    let address = S3Address { endpoint: Some(url.into()), ..S3Address::default() };
    let keys =
        CredentialVars { id: "icecore-test".into(), secret: "icecore-test-secret".into(), token: None };
    S3Access { address, credentials: Some(keys), attempts: 1 }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_first_backup_is_gone_on_with_as_far_as_segments_were_written() {
    let world = World::new();
    world.fill(objects(COUNT));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "back_up_until_killed"]);
    command.env(VARIABLES[0], world.directory.path()).env(VARIABLES[1], &world.minio.url);
    command.env(VARIABLES[2], &world.bucket);
    let child = Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let segments = || fs::read_dir(world.path("repository/index")).map_or(0, |entries| entries.count());
    let begun = Instant::now();
    while segments() < 25 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} segments", segments());
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(child);
    let (resumed, read) = resumed_and_read(&world.backup().unwrap());
    assert!(resumed > 100, "{resumed} were taken over");
    assert_eq!(read, COUNT as u64 - resumed);
    world.is_whole();
}
