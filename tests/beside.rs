//! Backups of several series, restores, checks, forgets and prunes at once on one repository, each with a cache
//! of its own, in a directory and on MinIO; at the end everything is compared to the last byte.
//!
//! A few rounds; with `ICECORE_SOAK=1` many.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Server;
use icecore::context::{Context, Random, Seeded};
use icecore::fault::Kind;
use icecore::forget::{self, Policy};
use icecore::id::SessionId;
use icecore::repository::{Access, KeyCost, Point, Repository};
use icecore::source::DirectoryOptions;
use icecore::storage::Location;
use icecore::store::Tuning;
use icecore::{backup, check, prune, restore};
use jiff::tz::TimeZone;

const SERIES: [&str; 3] = ["a", "b", "c"];
const BUCKET: &str = "repository";

type Files = BTreeMap<String, Vec<u8>>;

fn files(path: &Path) -> Files {
    let read =
        |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    fs::read_dir(path).unwrap().map(|entry| read(entry.unwrap())).collect()
}

/// A repository that several machines use.
struct World {
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    minio: Option<Server>,
    writing: AtomicBool,
    /// What was in the source of each snapshot.
    made: Mutex<BTreeMap<SessionId, Files>>,
    restored: AtomicUsize,
    forgotten: AtomicUsize,
    collections: AtomicUsize,
    checks: AtomicUsize,
}

impl World {
    fn new(minio: Option<Server>) -> World {
        let world = World {
            directory: tempfile::tempdir().unwrap(),
            runtime: common::runtime(),
            minio,
            writing: AtomicBool::new(true),
            made: Mutex::default(),
            restored: AtomicUsize::new(0),
            forgotten: AtomicUsize::new(0),
            collections: AtomicUsize::new(0),
            checks: AtomicUsize::new(0),
        };
        if let Some(minio) = &world.minio {
            minio.make_bucket(&world.runtime, BUCKET);
        }
        let (context, access) = world.machine("first");
        Repository::init(&context, &access, "a long sentence", KeyCost { memory: 64, passes: 1 }).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The repository as another machine sees it.
    fn machine(&self, name: &str) -> (Context, Access) {
        let context = Context::system(self.runtime.handle().clone());
        let (location, credentials) = match &self.minio {
            None => (Location::Local(self.path("repository")), None),
            Some(minio) => {
                let access = minio.access();
                let location =
                    Location::S3 { address: access.address, bucket: BUCKET.into(), prefix: "below".into() };
                (location, access.credentials)
            }
        };
        let cache = self.path(&format!("cache-{name}"));
        (context, Access { location, credentials, cache, upload: None, download: None })
    }

    fn open(&self, name: &str) -> Repository {
        let (context, access) = self.machine(name);
        Repository::open(&context, &access, "a long sentence").unwrap()
    }

    fn goes_on(&self) -> bool {
        std::thread::sleep(Duration::from_millis(20));
        self.writing.load(Ordering::SeqCst)
    }

    /// Changes its source and backs it up, again and again.
    fn writes(&self, series: &str, rounds: usize) {
        let (repository, source) = (self.open(series), self.path(&format!("source-{series}")));
        let random = Seeded::new(series.as_bytes()[0].into());
        let draw = |most: u64| {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            u64::from_le_bytes(bytes) % most
        };
        fs::create_dir_all(&source).unwrap();
        for _ in 0..rounds {
            for _ in 0..8 {
                // Of some contents there are several in all series, of some there is one.
                let content = common::bucket::content(draw(60) as usize, draw(5) as usize * 30_000);
                fs::write(source.join(format!("file-{}", draw(20))), content).unwrap();
            }
            let options = backup::Options {
                series: series.into(),
                name: None,
                tags: vec![],
                etcd: None,
                objects: None,
                directory: Some(DirectoryOptions { path: source.clone(), ..DirectoryOptions::default() }),
                new_line: false,
                max_size: None,
                prove: false,
                tuning: Tuning::default(),
            };
            let files = files(&source);
            let report = backup::run(&repository, &options).unwrap();
            assert_eq!(report.warnings, [""; 0]);
            self.made.lock().unwrap().insert(report.id, files);
        }
    }

    /// Restores the newest of each series, again and again.
    fn restores(&self, name: &str) {
        let repository = self.open(name);
        for round in 0.. {
            let (series, target) =
                (SERIES[round % SERIES.len()], self.path(&format!("target-{name}-{round}")));
            if !self.goes_on() {
                return;
            }
            let moment = match repository.view().unwrap().find(&Point::Latest(0), series) {
                Err(error) if error.kind() == Kind::PointNotFound => continue,
                moment => moment.unwrap(),
            };
            let options = restore::Options { directory: Some(target.clone()), ..restore::Options::default() };
            match restore::run(&repository, &moment, &options, &|_| {}) {
                Ok(_) => {}
                // Forgotten between the look and the pin.
                Err(error) if error.kind() == Kind::PointNotFound => continue,
                Err(error) => panic!("{error}"),
            }
            if let Some(expected) = self.made.lock().unwrap().get(&moment.info.id) {
                assert!(files(&target) == *expected, "{} came back otherwise", moment.info.id);
                self.restored.fetch_add(1, Ordering::SeqCst);
            }
            fs::remove_dir_all(target).unwrap();
        }
    }

    /// Keeps the last three of each series, again and again.
    fn forgets(&self, name: &str) {
        let repository = self.open(name);
        let options = last_three();
        while self.goes_on() {
            let report = forget::run(&repository, &options).unwrap();
            self.forgotten.fetch_add(report.forgotten().count(), Ordering::SeqCst);
        }
    }

    /// Asks for what would be dropped for a bound that there is room for.
    fn bounds(&self, name: &str) {
        let repository = self.open(name);
        let options = forget::Options { max_size: Some(1 << 40), dry_run: true, ..last_three() };
        while self.goes_on() {
            assert_eq!(forget::run(&repository, &options).unwrap().over, None);
        }
    }

    fn prunes(&self, name: &str) {
        let repository = self.open(name);
        let options = prune::Options { patience: None, max_unused: 0.0 };
        while self.goes_on() {
            let report = prune::run(&repository, &options).unwrap();
            self.collections.fetch_add(report.collections.len(), Ordering::SeqCst);
        }
    }

    fn checks(&self, name: &str) {
        let repository = self.open(name);
        while self.goes_on() {
            let report = check::run(&repository, check::Options { read_data: true }).unwrap();
            assert_eq!(report.damage, []);
            self.checks.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The last three of each series are there, restore to the last byte, and nothing is left over.
    fn ends_whole(&self) {
        self.forgets_once();
        let repository = self.open("last");
        let report = check::run(&repository, check::Options { read_data: true }).unwrap();
        assert_eq!(report.damage, []);
        let (made, view) = (self.made.lock().unwrap(), repository.view().unwrap());
        assert_eq!(view.snapshots.len(), 3 * SERIES.len());
        for series in SERIES {
            let kept = view.snapshots.iter().filter(|info| info.snapshot.series == series).count();
            assert_eq!(kept, 3, "of series {series}");
        }
        for info in &view.snapshots {
            let target = self.path(&format!("last-{}", info.id));
            let options = restore::Options { directory: Some(target.clone()), ..restore::Options::default() };
            restore::run(&repository, &info.clone().into(), &options, &|_| {}).unwrap();
            assert!(files(&target) == made[&info.id], "{} came back otherwise", info.id);
        }
        prune::run(&repository, &prune::Options { patience: Some(Duration::ZERO), max_unused: 0.0 }).unwrap();
        for folder in ["sessions/", "forgotten/"] {
            assert_eq!(repository.storage().names(folder).unwrap(), [""; 0]);
        }
    }

    fn forgets_once(&self) {
        self.writing.store(true, Ordering::SeqCst);
        std::thread::scope(|scope| {
            scope.spawn(|| self.forgets("last"));
            std::thread::sleep(Duration::from_millis(100));
            self.writing.store(false, Ordering::SeqCst);
        });
    }
}

fn last_three() -> forget::Options {
    forget::Options {
        named: vec![],
        series: None,
        policy: Policy { last: 3, ..Policy::default() },
        max_size: None,
        prune: Some(prune::Options { patience: None, ..prune::Options::default() }),
        dry_run: false,
        zone: TimeZone::UTC,
    }
}

fn beside_each_other(minio: Option<Server>) {
    let rounds = if std::env::var_os("ICECORE_SOAK").is_some() { 150 } else { 8 };
    let world = Arc::new(World::new(minio));
    std::thread::scope(|scope| {
        let writers = SERIES.map(|series| {
            let world = &world;
            scope.spawn(move || world.writes(series, rounds))
        });
        let others = [
            scope.spawn(|| world.restores("d")),
            scope.spawn(|| world.restores("e")),
            scope.spawn(|| world.forgets("f")),
            scope.spawn(|| world.prunes("g")),
            scope.spawn(|| world.prunes("h")),
            scope.spawn(|| world.checks("i")),
            scope.spawn(|| world.bounds("j")),
        ];
        let failed = writers.into_iter().filter_map(|writer| writer.join().err()).count();
        world.writing.store(false, Ordering::SeqCst);
        let failed = failed + others.into_iter().filter_map(|other| other.join().err()).count();
        assert_eq!(failed, 0);
    });
    let counts = [&world.restored, &world.forgotten, &world.collections, &world.checks];
    let [restored, forgotten, collections, checks] = counts.map(|count| count.load(Ordering::SeqCst));
    println!(
        "{} snapshots, {restored} restores, {forgotten} forgotten, {collections} collections, {checks} checks",
        world.made.lock().unwrap().len()
    );
    assert!(restored > 0 && forgotten > 0 && collections > 0 && checks > 0);
    world.ends_whole();
}

#[test]
fn commands_do_not_harm_each_other_in_a_directory() {
    beside_each_other(None);
}

#[test]
fn commands_do_not_harm_each_other_on_minio() {
    beside_each_other(Some(Server::minio()));
}
