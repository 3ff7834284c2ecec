//! Any revision, as etcd said it while it was current: random histories with compactions, captured now and
//! then, read back at every revision.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::Server;
use etcd_client::{
    Client, CompactionOptions, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, WatchOptions,
};
use icecore::backup::{self, EtcdOptions};
use icecore::browse::{self, Browser, Keys, LogLine, Logged, Side};
use icecore::check;
use icecore::context::{Context, Random, Seeded};
use icecore::etcd::Access as Member;
use icecore::fault::Kind;
use icecore::forget::forget;
use icecore::format::CapturePath;
use icecore::repository::{Access, Certainty, KeyCost, Moment, Point, Repository, content_bytes};
use icecore::restore;
use icecore::selection::Selection;
use icecore::source::BucketOptions;
use icecore::storage::{Location, connect};
use icecore::store::Tuning;
use icecore::tree::ReadWrite;
use tokio::runtime::Runtime;

const VERSIONS: [&str; 3] = ["3.5.1", "3.6.4", "3.7.3"];

/// All fields of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    create: i64,
    modified: i64,
    version: i64,
    lease: i64,
    value: Vec<u8>,
}

type State = BTreeMap<Vec<u8>, Fields>;

struct World {
    runtime: Runtime,
    directory: tempfile::TempDir,
    server: Server,
    repository: Repository,
    random: Seeded,
    /// What etcd said of each revision while it was the newest.
    said: BTreeMap<i64, State>,
    /// Up to where it was compacted.
    compacted: i64,
    /// Stretches that must be covered, first and last revision, and whether the first was seen by ranges.
    covered: Vec<(i64, i64, bool)>,
}

fn place(runtime: &Runtime, directory: &tempfile::TempDir, seed: u64) -> (Context, Access) {
    let mut context = Context::system(runtime.handle().clone());
    context.random = Arc::new(Seeded::new(seed));
    let location = Location::Local(directory.path().join("repository"));
    let cache = directory.path().join("cache");
    (context, Access { location, credentials: None, cache, upload: None, download: None })
}

fn member(server: &Server) -> Member {
    Member { endpoints: vec![server.url.clone()], ..Member::default() }
}

impl World {
    fn start(version: &str, seed: u64) -> World {
        let (runtime, directory) = (common::runtime(), tempfile::tempdir().unwrap());
        let (context, access) = place(&runtime, &directory, seed);
        let cost = KeyCost { memory: 64, passes: 1 };
        let repository = Repository::init(&context, &access, "passphrase", cost).unwrap();
        World {
            server: Server::etcd(version),
            runtime,
            directory,
            repository,
            random: Seeded::new(seed),
            said: BTreeMap::new(),
            compacted: 0,
            covered: Vec::new(),
        }
    }

    fn below(&self, most: u64) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        u64::from_le_bytes(bytes) % most
    }

    fn client(&self) -> Client {
        self.runtime.block_on(Client::connect([&self.server.url], None)).unwrap()
    }

    fn key(&self) -> String {
        format!("key/{:02}", self.below(30))
    }

    fn value(&self) -> Vec<u8> {
        // Some stay in the tree, some become chunks.
        let length = if self.below(8) == 0 { 700 } else { self.below(40) as usize };
        let mut value = vec![0; length];
        self.random.fill(&mut value);
        value
    }

    /// Writes down what etcd says now.
    fn listen(&mut self) -> i64 {
        let mut client = self.client();
        let answer = self.runtime.block_on(client.get("", Some(GetOptions::new().with_all_keys()))).unwrap();
        let state = answer.kvs().iter().map(|kv| {
            let fields = Fields {
                create: kv.create_revision(),
                modified: kv.mod_revision(),
                version: kv.version(),
                lease: kv.lease(),
                value: kv.value().to_vec(),
            };
            (kv.key().to_vec(), fields)
        });
        let revision = answer.header().unwrap().revision();
        self.said.insert(revision, state.collect());
        revision
    }

    /// Something random; every revision it makes is written down.
    fn step(&mut self, lease: i64) {
        let mut client = self.client();
        let key = self.key();
        match self.below(10) {
            0 => drop(self.runtime.block_on(client.delete(key, None)).unwrap()),
            1 => {
                let options = DeleteOptions::new().with_range(format!("key/{:02}", self.below(30)));
                self.runtime.block_on(client.delete(key, Some(options))).unwrap();
            }
            2 | 3 => {
                let mut operations = BTreeMap::new();
                for _ in 0..self.below(20) {
                    let key = self.key();
                    let operation = match self.below(4) {
                        0 => TxnOp::delete(key.clone(), None),
                        _ => TxnOp::put(key.clone(), self.value(), None),
                    };
                    operations.insert(key, operation);
                }
                let operations: Vec<TxnOp> = operations.into_values().collect();
                self.runtime.block_on(client.txn(Txn::new().and_then(operations))).unwrap();
            }
            4 => {
                let options = PutOptions::new().with_lease(lease);
                self.runtime.block_on(client.put(key, self.value(), Some(options))).unwrap();
            }
            _ => drop(self.runtime.block_on(client.put(key, self.value(), None)).unwrap()),
        }
        self.listen();
    }

    fn compact(&mut self) {
        let newest = *self.said.keys().next_back().unwrap();
        let to = newest - self.below(12) as i64;
        if to > self.compacted {
            let options = (self.below(2) == 0).then(|| CompactionOptions::new().with_physical());
            self.runtime.block_on(self.client().compact(to, options)).unwrap();
            self.compacted = to;
        }
    }

    fn options(&self) -> backup::Options {
        backup::Options {
            series: "default".into(),
            name: None,
            tags: vec![],
            etcd: Some(EtcdOptions { access: member(&self.server), prefix: vec![], capture: None }),
            objects: None,
            directory: None,
            new_line: false,
            max_size: None,
            prove: false,
            tuning: Tuning::default(),
        }
    }

    fn backup(&mut self) -> backup::Report {
        self.backup_by(None)
    }

    fn backup_by(&mut self, path: Option<CapturePath>) -> backup::Report {
        let mut options = self.options();
        options.etcd.as_mut().unwrap().capture = path;
        let report = backup::run(&self.repository, &options).unwrap();
        let (revision, ranges) = (report.etcd.as_ref().unwrap().revision, path == Some(CapturePath::Range));
        match self.covered.last_mut() {
            Some(last) if ranges && last.1 + 1 >= revision => last.1 = revision,
            Some(last) if !ranges && self.compacted <= last.1 => last.1 = revision,
            _ if ranges => self.covered.push((revision, revision, true)),
            _ => self.covered.push((self.compacted, revision, false)),
        }
        report
    }

    fn is_covered(&self, revision: i64) -> bool {
        self.covered.iter().any(|&(from, to, _)| (from..=to).contains(&revision))
    }

    /// The state that was the last one at `revision`: revisions that change nothing make none.
    fn said_at(&self, revision: i64) -> State {
        self.said.range(..=revision).next_back().map(|(_, state)| state.clone()).unwrap_or_default()
    }

    fn find(&self, point: &str) -> icecore::repository::Result<Moment> {
        let snapshots = self.repository.view().unwrap().snapshots;
        point.parse::<Point>().unwrap().resolve(&snapshots, "default")
    }

    fn read(&self, moment: &Moment) -> State {
        let browser = Browser::open(&self.repository).unwrap();
        let reader = self.repository.reader(&self.repository.view().unwrap()).unwrap();
        let nodes = ReadWrite::new(&reader, None);
        let mut state = State::new();
        let add = |key: &[u8], found: &icecore::format::KeyState| {
            let fields = Fields {
                create: found.create_revision,
                modified: found.mod_revision,
                version: found.version,
                lease: found.lease,
                value: content_bytes(&nodes, &found.value)?,
            };
            state.insert(key.to_vec(), fields);
            Ok(())
        };
        browser.keys(moment, &[], add).unwrap();
        state
    }

    /// A random history with snapshots and compactions, the last revision captured.
    fn live(&mut self, steps: u64) {
        let lease = self.runtime.block_on(self.client().lease_grant(3600, None)).unwrap().id();
        self.listen();
        for step in 0..steps {
            self.step(lease);
            if self.below(25) == 0 {
                self.compact();
            }
            if self.below(20) == 0 || step + 1 == steps {
                let path = if self.below(3) == 0 { CapturePath::Range } else { CapturePath::Snapshot };
                self.backup_by(Some(path));
            }
        }
    }

    fn last(&self) -> i64 {
        *self.said.keys().next_back().unwrap()
    }

    fn log(&self, keys: Keys) -> Vec<LogLine> {
        let browser = Browser::open(&self.repository).unwrap();
        let snapshots = self.repository.view().unwrap().snapshots;
        let mut lines = Vec::new();
        let mut show = |line| {
            lines.push(line);
            Ok(())
        };
        browse::log(&browser, &snapshots, "default", keys, &mut show).unwrap();
        lines
    }

    /// What a log of everything must show: (revision, key, change).
    fn expected_log(&self) -> Vec<(i64, Vec<u8>, Logged)> {
        let put = |fields: &Fields| Logged::Put { version: fields.version, size: fields.value.len() as u64 };
        let mut log = Vec::new();
        let mut known = State::new();
        for &(from, to, ranges) in &self.covered {
            // Of a gap only its ends are known.
            for revision in std::iter::once(from).chain(from + 1..=to) {
                let now = self.said_at(revision);
                for (key, fields) in &now {
                    if known.get(key).map(|old| old.modified) != Some(fields.modified) {
                        log.push((fields.modified, key.clone(), put(fields)));
                    }
                }
                for key in known.keys().filter(|key| !now.contains_key(*key)) {
                    let unsure = revision == from && !ranges;
                    let change = if unsure { Logged::DeletedBefore } else { Logged::Deleted };
                    log.push((revision, key.clone(), change));
                }
                known = now;
            }
        }
        log.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        log
    }
}

fn plain(lines: &[LogLine]) -> Vec<(i64, Vec<u8>, Logged)> {
    assert!(lines.is_sorted_by_key(|line| line.revision));
    let mut plain: Vec<_> = lines.iter().map(|line| (line.revision, line.key.clone(), line.change)).collect();
    plain.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    plain
}

#[test]
fn every_revision_that_is_covered_is_as_etcd_said_while_it_was_current() {
    for (version, seed) in VERSIONS.into_iter().zip(1..) {
        let mut world = World::start(version, seed);
        world.live(220);
        let mut gaps = 0;
        for revision in 1..=world.last() {
            let found = world.find(&format!("rev:{revision}"));
            if !world.is_covered(revision) {
                gaps += 1;
                assert_eq!(found.unwrap_err().kind(), Kind::PointNotFound, "{version}: {revision}");
                continue;
            }
            let moment = found.unwrap();
            assert!(world.read(&moment) == world.said_at(revision), "{version}, seed {seed}: {revision}");
        }
        println!("etcd {version}, seed {seed}: {} revisions, {gaps} not covered", world.last());
        // What was forgotten may be lost; what is still found is as it was.
        let snapshots = world.repository.view().unwrap().snapshots;
        for info in snapshots.iter().filter(|_| world.below(2) == 0) {
            forget(&world.repository, info).unwrap();
        }
        for revision in 1..=world.last() {
            if let Ok(moment) = world.find(&format!("rev:{revision}")) {
                assert!(world.is_covered(revision), "{version}, seed {seed}: {revision} was made up");
                assert!(world.read(&moment) == world.said_at(revision), "{version}, seed {seed}: {revision}");
            }
        }
    }
}

#[test]
fn a_log_shows_every_event_once_whatever_etcd_has_compacted() {
    for seed in 11..14 {
        let mut world = World::start("3.6.4", seed);
        world.live(200);
        let expected = world.expected_log();
        assert!(plain(&world.log(Keys::Below(b""))) == expected, "seed {seed}");
        for number in 0..30 {
            let key = format!("key/{number:02}").into_bytes();
            let own: Vec<_> = expected.iter().filter(|(_, of, _)| *of == key).cloned().collect();
            assert_eq!(plain(&world.log(Keys::One(&key))), own, "seed {seed}: {number}");
        }
    }
}

#[test]
fn a_difference_of_two_revisions_is_what_differs_between_their_states() {
    let mut world = World::start("3.6.4", 21);
    world.live(150);
    let browser = Browser::open(&world.repository).unwrap();
    for _ in 0..60 {
        let [a, b] = [(); 2].map(|()| 1 + world.below(world.last() as u64) as i64);
        let (Ok(before), Ok(after)) = (world.find(&format!("rev:{a}")), world.find(&format!("rev:{b}")))
        else {
            continue;
        };
        let mut found = BTreeMap::new();
        browse::diff(&browser, (&before, &after), Side::Etcd, b"", &mut |line| {
            let revision = |side: &Option<browse::Summary>| side.as_ref().and_then(|side| side.mod_revision);
            found.insert(line.key, (revision(&line.before), revision(&line.after)));
            Ok(())
        })
        .unwrap();
        let (x, y) = (world.said_at(a), world.said_at(b));
        let keys = x.keys().chain(y.keys()).cloned();
        let revision = |state: &State, key: &[u8]| state.get(key).map(|fields| fields.modified);
        let expected = keys.map(|key| (key.clone(), (revision(&x, &key), revision(&y, &key))));
        let expected: BTreeMap<_, _> = expected.filter(|(_, (x, y))| x != y).collect();
        assert_eq!(found, expected, "rev:{a} rev:{b}");
    }
}

/// Two clocks' times are all that is known of when a revision came: the test knows them too.
#[test]
fn a_time_leads_to_the_last_snapshot_that_was_done_by_then() {
    let mut world = World::start("3.6.4", 31);
    let mut done = Vec::new();
    for _ in 0..4 {
        world.step(0);
        let report = world.backup();
        let now = world.repository.context().clock.now();
        done.push((now, report.etcd.unwrap().revision));
    }
    for (now, revision) in done {
        let time = jiff::Timestamp::from_nanosecond(now.into()).unwrap();
        let moment = world.find(&format!("time:{time}")).unwrap();
        assert_eq!(moment.revision, Some(revision));
    }
}

/// Backups of one series at once all commit; what they know goes together.
#[test]
fn backups_at_once_make_one_history() {
    let mut world = World::start("3.6.4", 41);
    for _ in 0..4 {
        for _ in 0..15 {
            world.step(0);
        }
        let (repository, options) = (&world.repository, world.options());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| backup::run(repository, &options).unwrap());
            }
        });
    }
    assert_eq!(world.repository.view().unwrap().snapshots.len(), 12);
    world.covered = vec![(0, world.last(), false)];
    for revision in 1..=world.last() {
        let moment = world.find(&format!("rev:{revision}")).unwrap();
        assert!(world.read(&moment) == world.said_at(revision), "{revision}");
    }
    assert!(plain(&world.log(Keys::Below(b""))) == world.expected_log());
}

/// Keys that etcd deletes itself because their lease ran out are events as any other.
#[test]
fn a_key_whose_lease_expired_is_there_before_and_gone_after() {
    let mut world = World::start("3.6.4", 51);
    let mut client = world.client();
    let lease = world.runtime.block_on(client.lease_grant(1, None)).unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    world.runtime.block_on(client.put("leased", "here", Some(options))).unwrap();
    let put = world.listen();
    world.backup();
    while world.said_at(i64::MAX).contains_key(&b"leased"[..]) {
        std::thread::sleep(std::time::Duration::from_millis(200));
        world.listen();
    }
    world.backup();
    let gone = world.last();
    assert_eq!(gone, put + 1);
    assert!(world.read(&world.find(&format!("rev:{put}")).unwrap()) == world.said_at(put));
    assert!(world.read(&world.find(&format!("rev:{gone}")).unwrap()).is_empty());
    let log: Vec<_> =
        world.log(Keys::One(b"leased")).iter().map(|line| (line.revision, line.change)).collect();
    assert_eq!(log, [(put, Logged::Put { version: 1, size: 4 }), (gone, Logged::Deleted)]);
}

/// A cluster that went back, as one restored from a backup does, is refused, and goes on as a new line.
#[test]
fn a_cluster_that_went_back_is_refused_and_both_lines_stay_readable() {
    let mut world = World::start("3.6.4", 61);
    world.live(60);
    let (old, last) = (world.said.clone(), world.last());
    let covered = world.covered.clone();
    world.server = Server::etcd("3.6.4");
    let mut options = world.options();
    let refused = backup::run(&world.repository, &options).unwrap_err();
    assert_eq!(refused.kind(), Kind::SourceChanged, "{refused}");
    (world.said, world.compacted) = (BTreeMap::new(), 0);
    for _ in 0..10 {
        world.step(0);
    }
    options.new_line = true;
    backup::run(&world.repository, &options).unwrap();
    for revision in 1..=world.last() {
        let moment = world.find(&format!("rev:{revision}")).unwrap();
        assert!(world.read(&moment) == world.said_at(revision), "{revision}");
    }
    assert_eq!(world.find(&format!("rev:{last}")).unwrap_err().kind(), Kind::PointNotFound);
    (world.said, world.covered) = (old, covered);
    for revision in (1..=last).filter(|&revision| world.is_covered(revision)) {
        let moment = world.find(&format!("rev:{revision}@latest~1")).unwrap();
        assert!(world.read(&moment) == world.said_at(revision), "{revision} of the old line");
    }
}

/// A cluster that was made anew under its name has the id it had, as has one that was restored from a backup.
#[test]
fn a_cluster_with_another_past_is_refused_however_far_it_has_grown() {
    let mut world = World::start("3.6.4", 62);
    world.listen();
    for _ in 0..20 {
        world.step(0);
    }
    // That a key is gone is no proof of anything.
    world.runtime.block_on(world.client().put("short-lived", "", None)).unwrap();
    world.runtime.block_on(world.client().delete("short-lived", None)).unwrap();
    world.listen();
    world.backup();
    let seen = world.last();
    world.server.wipe();
    (world.said, world.compacted) = (BTreeMap::new(), 0);
    while world.listen() <= seen {
        world.step(0);
    }
    for capture in [None, Some(CapturePath::Watch), Some(CapturePath::Snapshot), Some(CapturePath::Range)] {
        let mut options = world.options();
        options.etcd.as_mut().unwrap().capture = capture;
        let refused = backup::run(&world.repository, &options).unwrap_err();
        assert_eq!(refused.kind(), Kind::SourceChanged, "{capture:?}: {refused}");
        assert!(refused.to_string().contains("restored from a backup"), "{refused}");
    }
    backup::run(&world.repository, &backup::Options { new_line: true, ..world.options() }).unwrap();
    let revision = world.last();
    assert!(world.read(&world.find("latest").unwrap()) == world.said_at(revision));
}

#[test]
fn a_live_etcd_goes_back_to_a_revision_by_the_differences_alone_in_an_order_that_can_be_watched() {
    let mut world = World::start("3.6.4", 71);
    world.live(120);
    let target = Server::etcd("3.6.4");
    let options = |delete_extra, dry_run| restore::Options {
        etcd: Some(member(&target)),
        overwrite: true,
        delete_extra,
        dry_run,
        ..restore::Options::default()
    };
    let changes = |moment: &Moment, options: &restore::Options| {
        let changes = std::sync::Mutex::new(Vec::new());
        let show = |change: restore::Change| changes.lock().unwrap().push((change.action, change.key));
        restore::run(&world.repository, moment, options, &show).unwrap();
        changes.into_inner().unwrap()
    };
    let mut client = world.runtime.block_on(Client::connect([&target.url], None)).unwrap();
    let covered: Vec<i64> = (1..=world.last()).filter(|&revision| world.is_covered(revision)).collect();
    for _ in 0..12 {
        let revision = covered[world.below(covered.len() as u64) as usize];
        let (moment, wanted) = (world.find(&format!("rev:{revision}")).unwrap(), world.said_at(revision));
        let before = world.runtime.block_on(client.get("", Some(GetOptions::new().with_all_keys()))).unwrap();
        let first = before.header().unwrap().revision() + 1;
        let planned = changes(&moment, &options(true, true));
        if planned.is_empty() {
            continue;
        }
        interrupt(&world, &moment, &options(true, false), planned.len() / 2);
        let rest = changes(&moment, &options(true, false));
        assert!(planned.ends_with(&rest), "what an interrupted restore did is not done again");
        assert_eq!(changes(&moment, &options(true, false)), [], "nothing is left to do");
        let after = world.runtime.block_on(client.get("", Some(GetOptions::new().with_all_keys()))).unwrap();
        let found = after.kvs().iter().map(|kv| (kv.key().to_vec(), (kv.value().to_vec(), kv.lease())));
        let expected = wanted.iter().map(|(key, f)| (key.clone(), (f.value.clone(), f.lease)));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), expected.collect(), "{revision}");
        // What a watcher saw: exactly the changes, puts as the source made them, then the deletions.
        let seen = watched(&world.runtime, &mut client, first, planned.len());
        let puts: Vec<&Vec<u8>> = seen.iter().filter(|(put, _)| *put).map(|(_, key)| key).collect();
        assert!(seen.is_sorted_by_key(|(put, _)| !put), "puts come before deletions");
        assert!(puts.is_sorted_by_key(|key| wanted[*key].modified), "{revision}");
        let untouched = before.kvs().iter().filter(|kv| {
            wanted.get(kv.key()).is_some_and(|f| f.value == kv.value() && f.lease == kv.lease())
        });
        for kv in untouched {
            assert!(seen.iter().all(|(_, key)| key != kv.key()), "{revision}: {:?} was the same", kv.key());
        }
    }
}

/// Restores until `count` changes have been begun.
fn interrupt(world: &World, moment: &Moment, options: &restore::Options, count: usize) {
    let (context, access) = place(&world.runtime, &world.directory, world.below(1 << 40));
    let repository = Repository::open(&context, &access, "passphrase").unwrap();
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let show = |_| {
        if seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 >= count {
            context.cancel.cancel();
        }
    };
    if let Err(error) = restore::run(&repository, moment, options, &show) {
        assert_eq!(error.kind(), Kind::Interrupted, "{error}");
    }
}

/// (put, key) of the first `count` events from `first` on.
fn watched(runtime: &Runtime, client: &mut Client, first: i64, count: usize) -> Vec<(bool, Vec<u8>)> {
    let mut seen = Vec::new();
    runtime.block_on(async {
        let options = WatchOptions::new().with_all_keys().with_start_revision(first);
        let mut stream = client.watch("", Some(options)).await.unwrap();
        while seen.len() < count {
            let answer = stream.message().await.unwrap().unwrap();
            seen.extend(answer.events().iter().map(|event| {
                let put = event.event_type() == etcd_client::EventType::Put;
                (put, event.kv().unwrap().key().to_vec())
            }));
        }
    });
    seen
}

/// Objects, by key.
type Bodies = BTreeMap<&'static str, &'static str>;

/// Puts what is here and deletes what is empty.
fn change_objects(world: &World, minio: &Server, objects: &[(&str, &str)]) {
    world.runtime.block_on(async {
        let client = connect(&minio.access()).await.unwrap();
        for (key, body) in objects {
            if body.is_empty() {
                client.delete_object().bucket("data").key(*key).send().await.unwrap();
                continue;
            }
            let body = body.as_bytes().to_vec().into();
            client.put_object().bucket("data").key(*key).body(body).send().await.unwrap();
        }
    });
}

fn bodies_in(world: &World, minio: &Server, bucket: &str) -> BTreeMap<String, String> {
    world.runtime.block_on(async {
        let client = connect(&minio.access()).await.unwrap();
        let mut bodies = BTreeMap::new();
        for object in client.list_objects_v2().bucket(bucket).send().await.unwrap().contents() {
            let key = object.key().unwrap().to_owned();
            let got = client.get_object().bucket(bucket).key(&key).send().await.unwrap();
            let body = got.body.collect().await.unwrap().into_bytes().to_vec();
            bodies.insert(key, String::from_utf8(body).unwrap());
        }
        bodies
    })
}

#[test]
fn a_revision_that_etcd_still_has_is_verified_at_that_revision() {
    let mut world = World::start("3.6.4", 91);
    for _ in 0..40 {
        world.step(0);
    }
    world.backup();
    let between = world.last() - 10;
    let moment = world.find(&format!("rev:{between}")).unwrap();
    let sources =
        check::Sources { etcd: Some((member(&world.server), vec![])), bucket: None, directory: None };
    let mut differ = 0;
    let found = check::verify_against(&world.repository, &moment, &sources, &mut |_| differ += 1).unwrap();
    assert_eq!((found.verified.damage, differ), (vec![], 0));
    let compared = found.etcd.unwrap();
    assert_eq!((compared.revision, compared.same), (Some(between), world.said_at(between).len() as u64));
}

#[test]
fn between_two_snapshots_objects_are_those_of_the_later_but_for_what_it_dropped_or_changed() {
    let mut world = World::start("3.6.4", 81);
    let minio = Server::minio();
    for bucket in ["data", "target"] {
        minio.make_bucket(&world.runtime, bucket);
    }
    let objects = BucketOptions {
        access: minio.access(),
        bucket: "data".into(),
        prefix: String::new(),
        selection: Selection::default(),
        versions: false,
    };
    let options = backup::Options { objects: Some(objects), ..world.options() };
    world.step(0);
    change_objects(
        &world,
        &minio,
        &[("a/changed", "old"), ("a/dropped", "was"), ("a/same", "same"), ("b", "b")],
    );
    let first = backup::run(&world.repository, &options).unwrap().etcd.unwrap().revision;
    world.step(0);
    let between = world.listen();
    assert!(between > first);
    world.step(0);
    change_objects(&world, &minio, &[("a/changed", "new"), ("a/dropped", ""), ("a/added", "more")]);
    let last = backup::run(&world.repository, &options).unwrap().etcd.unwrap().revision;
    assert!(last > between);

    let moment = world.find(&format!("rev:{between}")).unwrap();
    let browser = Browser::open(&world.repository).unwrap();
    let mut listed = Vec::new();
    let add = |key: &[u8], _: &icecore::format::Item, certainty| {
        listed.push((String::from_utf8(key.to_vec()).unwrap(), certainty));
        Ok(())
    };
    browser.objects(&moment, b"a/", add).unwrap();
    let expected = [
        ("a/added", Certainty::After),
        ("a/changed", Certainty::Before),
        ("a/dropped", Certainty::Before),
        ("a/same", Certainty::Exact),
    ];
    assert_eq!(listed, expected.map(|(key, certainty)| (key.to_owned(), certainty)));
    let cat = |key: &str| {
        let mut body = Vec::new();
        browser.cat(&moment, Side::Objects, key.as_bytes(), None, &mut body).unwrap();
        String::from_utf8(body).unwrap()
    };
    assert_eq!(
        (cat("a/changed"), cat("a/dropped"), cat("a/added")),
        ("old".into(), "was".into(), "more".into())
    );
    let mut differ = Vec::new();
    let after = world.find(&format!("rev:{last}")).unwrap();
    browse::diff(&browser, (&moment, &after), Side::Objects, b"", &mut |line| {
        differ.push(String::from_utf8(line.key).unwrap());
        Ok(())
    })
    .unwrap();
    assert_eq!(differ, ["a/changed", "a/dropped"]);
    assert!(check::verify(&world.repository, &moment).unwrap().damage.is_empty());

    let bucket = Some((minio.access(), "target".into()));
    let options = restore::Options { bucket, ..restore::Options::default() };
    let report = restore::run(&world.repository, &moment, &options, &|_| ()).unwrap();
    assert_eq!((report.revision, report.nearest), (Some(between), 3));
    let expected: Bodies =
        [("a/added", "more"), ("a/changed", "old"), ("a/dropped", "was"), ("a/same", "same"), ("b", "b")]
            .into();
    let expected = expected.into_iter().map(|(key, body)| (key.to_owned(), body.to_owned())).collect();
    assert_eq!(bodies_in(&world, &minio, "target"), expected);
    let at_a_snapshot = world.find(&format!("rev:{first}")).unwrap();
    let options = restore::Options { overwrite: true, delete_extra: true, ..options };
    let report = restore::run(&world.repository, &at_a_snapshot, &options, &|_| ()).unwrap();
    assert_eq!(report.nearest, 0);
}
