//! The ways to capture etcd, against real servers: what a snapshot holds is what the server had,
//! whichever way it came.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use common::Server;
use etcd_client::{
    Client, CompactionOptions, ConnectOptions, DeleteOptions, GetOptions, Permission, PutOptions, Txn, TxnOp,
};
use icecore::backup::{self, EtcdOptions, Options, Report};
use icecore::context::{Context, Random, Seeded};
use icecore::etcd::Access;
use icecore::fault::Kind;
use icecore::format::{CapturePath, EtcdCapture, Gap, parse_history_key};
use icecore::progress::{Amount, Phase, Progress};
use icecore::repository::{self, EtcdAt, KeyCost, Repository, content_bytes, outcome, state};
use icecore::storage::Location;
use icecore::store::Tuning;
use icecore::tree::{self, ReadWrite};
use tokio::runtime::Runtime;

/// Both supported generations.
const VERSIONS: [&str; 2] = ["3.5.1", "3.6.4"];

/// A key's fields: create revision, mod revision, version, lease, value.
type Fields = (i64, i64, i64, i64, Vec<u8>);

struct World {
    runtime: Runtime,
    server: Mutex<Server>,
    url: String,
    directory: tempfile::TempDir,
}

/// How a backup is made.
#[derive(Clone, Default)]
struct How {
    series: &'static str,
    prefix: &'static str,
    user: Option<&'static str>,
    capture: Option<CapturePath>,
}

impl World {
    fn new(version: &str) -> World {
        World::on(Server::etcd(version))
    }

    fn on(server: Server) -> World {
        let (runtime, url) = (common::runtime(), server.url.clone());
        let directory = tempfile::tempdir().unwrap();
        let world = World { runtime, server: Mutex::new(server), url, directory };
        let cost = KeyCost { memory: 64, passes: 1 };
        Repository::init(&world.context(), &world.access(), "passphrase", cost).unwrap();
        world
    }

    fn context(&self) -> Context {
        Context::system(self.runtime.handle().clone())
    }

    fn access(&self) -> repository::Access {
        let path = |name: &str| self.directory.path().join(name);
        let location = Location::Local(path("repository"));
        repository::Access { location, credentials: None, cache: path("cache"), upload: None, download: None }
    }

    fn open(&self) -> Repository {
        self.open_with(self.context())
    }

    fn open_with(&self, context: Context) -> Repository {
        Repository::open(&context, &self.access(), "passphrase").unwrap()
    }

    fn client(&self, user: Option<&str>) -> Client {
        let options = user.map(|user| ConnectOptions::new().with_user(user, user));
        self.runtime.block_on(Client::connect([&self.url], options)).unwrap()
    }

    fn etcd_access(&self, user: Option<&str>) -> Access {
        let user = user.map(|user| (user.to_owned(), user.to_owned()));
        Access { endpoints: vec![self.url.clone()], user, ..Access::default() }
    }

    fn backup(&self, how: &How) -> backup::Result<Report> {
        self.backup_with(&self.open(), how)
    }

    fn backup_with(&self, repository: &Repository, how: &How) -> backup::Result<Report> {
        let etcd = EtcdOptions {
            access: self.etcd_access(how.user),
            prefix: how.prefix.into(),
            capture: how.capture,
        };
        let options = Options {
            series: if how.series.is_empty() { "default" } else { how.series }.into(),
            name: None,
            tags: vec![],
            etcd: Some(etcd),
            objects: None,
            directory: None,
            new_line: false,
            max_size: None,
            prove: false,
            tuning: Tuning::default(),
        };
        backup::run(repository, &options)
    }

    /// What the snapshot says that etcd held.
    fn stored(&self, capture: &EtcdCapture) -> BTreeMap<Vec<u8>, Fields> {
        let repository = self.open();
        let reader = repository.reader(&repository.view().unwrap()).unwrap();
        let nodes = ReadWrite::new(&reader, None);
        let all = state(&nodes, EtcdAt::whole(capture), &[], &repository.spool()).unwrap();
        all.map(|entry| {
            let (key, state) = entry.unwrap();
            let value = content_bytes(&nodes, &state.value).unwrap();
            (key, (state.create_revision, state.mod_revision, state.version, state.lease, value))
        })
        .collect()
    }

    /// Where the events of the snapshot stand, and their keys; `None` for a deletion.
    fn events(&self, capture: &EtcdCapture) -> Vec<(i64, i64, Vec<u8>, bool)> {
        let repository = self.open();
        let reader = repository.reader(&repository.view().unwrap()).unwrap();
        let nodes = ReadWrite::new(&reader, None);
        let all = tree::scan(&nodes, capture.history.as_ref(), &[]).unwrap();
        all.map(|entry| {
            let entry = entry.unwrap();
            let (revision, sub) = parse_history_key(&entry.key).unwrap();
            let (key, state) = outcome(&nodes, &entry.key, &entry.value).unwrap();
            (revision, sub, key, state.is_some())
        })
        .collect()
    }

    /// What etcd holds.
    fn live(&self, client: &Client, prefix: &str) -> BTreeMap<Vec<u8>, Fields> {
        let options = match prefix {
            "" => GetOptions::new().with_all_keys(),
            _ => GetOptions::new().with_prefix(),
        };
        let mut kv = client.kv_client().max_decoding_message_size(1 << 30);
        let answer = self.runtime.block_on(kv.get(prefix, Some(options))).unwrap();
        let fields = |kv: &etcd_client::KeyValue| {
            (kv.create_revision(), kv.mod_revision(), kv.version(), kv.lease(), kv.value().to_vec())
        };
        answer.kvs().iter().map(|kv| (kv.key().to_vec(), fields(kv))).collect()
    }

    /// Asserts that the snapshot holds what etcd holds now, and counts it right.
    fn check(&self, client: &Client, report: &Report, prefix: &str) {
        let capture = report.etcd.as_ref().unwrap();
        let live = self.live(client, prefix);
        let stored = self.stored(capture);
        assert!(stored == live, "{:?}\n{:?}", stored.keys(), live.keys());
        assert_eq!(capture.keys, live.len() as u64);
    }

    /// A user of the name and password `user` who may read `prefix` only; then auth is on.
    fn limit(&self, user: &str, prefix: &str) {
        let mut client = self.client(None);
        self.runtime.block_on(async {
            client.role_add("root").await.unwrap();
            client.user_add("root", "root", None).await.unwrap();
            client.user_grant_role("root", "root").await.unwrap();
            client.role_add(user).await.unwrap();
            let read = Permission::read(prefix).with_prefix();
            client.role_grant_permission(user, read).await.unwrap();
            client.user_add(user, user, None).await.unwrap();
            client.user_grant_role(user, user).await.unwrap();
            client.auth_enable().await.unwrap();
        });
    }

    fn compact(&self, client: &mut Client, revision: i64) {
        let options = CompactionOptions::new().with_physical();
        self.runtime.block_on(client.compact(revision, Some(options))).unwrap();
    }

    fn put(&self, client: &mut Client, key: &str, value: impl Into<Vec<u8>>) -> i64 {
        let answer = self.runtime.block_on(client.put(key, value, None)).unwrap();
        answer.header().unwrap().revision()
    }
}

/// Changes of all kinds at random, to some sixty keys below `prefix`.
fn change(world: &World, client: &mut Client, random: &Seeded, prefix: &str, changes: usize) {
    let mut bytes = [0; 4];
    let mut draw = |below: u32| {
        random.fill(&mut bytes);
        u32::from_le_bytes(bytes) % below
    };
    let lease = world.runtime.block_on(client.lease_grant(3600, None)).unwrap().id();
    for n in 0..changes {
        let key = format!("{prefix}{:02}", draw(60));
        let done = match draw(10) {
            0..6 => {
                let value = vec![n as u8; draw(3) as usize * 700];
                let options = (draw(4) == 0).then(|| PutOptions::new().with_lease(lease));
                world.runtime.block_on(client.put(key, value, options)).map(drop)
            }
            6 => world.runtime.block_on(client.delete(key, None)).map(drop),
            7 => {
                let to = format!("{prefix}{:02}", draw(60));
                let options = DeleteOptions::new().with_range(to);
                world.runtime.block_on(client.delete(key, Some(options))).map(drop)
            }
            _ => {
                let first = draw(50);
                let operation = |n: u32| {
                    let key = format!("{prefix}{:02}", first + n);
                    if n % 3 == 2 { TxnOp::delete(key, None) } else { TxnOp::put(key, vec![n as u8], None) }
                };
                let operations: Vec<TxnOp> = (0..1 + draw(9)).map(operation).collect();
                world.runtime.block_on(client.txn(Txn::new().and_then(operations))).map(drop)
            }
        };
        done.unwrap();
    }
}

/// Does something whenever a page of keys or a piece of the stream has arrived.
struct OnAdvance<F>(F);

impl<F: Fn(Amount) + Send + Sync> Progress for OnAdvance<F> {
    fn begin(&self, _: Phase) {}
    fn expect(&self, _: Amount) {}
    fn settled(&self) {}
    fn advance(&self, more: Amount) {
        (self.0)(more);
    }
    fn note(&self, _: &str) {}
    fn end(&self) {}
}

#[test]
fn a_user_of_one_prefix_captures_what_he_may_read_and_is_told_what_that_is() {
    for version in VERSIONS {
        let world = World::new(version);
        world.limit("reader", "a/");
        let mut root = world.client(Some("root"));
        let random = Seeded::new(1);
        change(&world, &mut root, &random, "a/", 100);
        change(&world, &mut root, &random, "b/", 20);
        let capture = Some(CapturePath::Range);
        let how = |prefix: &'static str| How { prefix, user: Some("reader"), capture, ..How::default() };
        for prefix in ["", "b/", "a"] {
            let refused = world.backup(&How { capture: None, ..how(prefix) }).unwrap_err();
            assert_eq!(refused.kind(), Kind::Denied, "{version} {prefix:?}: {refused}");
            let text = refused.to_string();
            assert!(text.contains("user \"reader\" may read \"a/\" only"), "{version} {prefix:?}: {text}");
        }
        let mut last: Option<EtcdCapture> = None;
        for round in 0..4 {
            let report = world.backup(&how("a/")).unwrap();
            let capture = report.etcd.clone().unwrap();
            assert_eq!((capture.path, report.warnings.len()), (CapturePath::Range, 0), "{version}");
            world.check(&root, &report, "a/");
            let gaps = last.map(|last| Gap { after: last.revision, until: capture.revision });
            assert_eq!(report.gaps, gaps.into_iter().collect::<Vec<Gap>>(), "{version}, round {round}");
            last = Some(capture);
            change(&world, &mut root, &random, "a/", 40);
        }
        // The role root goes on with the whole file.
        let capture = Some(CapturePath::Snapshot);
        let report = world.backup(&How { user: Some("root"), capture, ..how("a/") }).unwrap();
        assert_eq!(report.etcd.as_ref().unwrap().path, CapturePath::Snapshot);
        assert!(report.gaps.is_empty());
        world.check(&root, &report, "a/");
        let again = world.backup(&how("a/")).unwrap();
        assert_eq!((again.etcd.as_ref().unwrap().events, again.gaps.len()), (0, 0));
    }
}

#[test]
fn a_user_of_nothing_is_told_so() {
    let world = World::new("3.6.4");
    world.limit("reader", "a/");
    let mut root = world.client(Some("root"));
    world.runtime.block_on(root.user_add("guest", "guest", None)).unwrap();
    let refused = world.backup(&How { prefix: "a/", user: Some("guest"), ..How::default() }).unwrap_err();
    assert!(refused.to_string().ends_with("user \"guest\" may read nothing"), "{refused}");
}

#[test]
fn ranges_find_the_same_state_as_the_whole_file() {
    for version in VERSIONS {
        let world = World::new(version);
        let mut client = world.client(None);
        let random = Seeded::new(2);
        let by = |capture| How {
            series: if capture == CapturePath::Range { "ranges" } else { "file" },
            capture: Some(capture),
            ..How::default()
        };
        for round in 0..5 {
            change(&world, &mut client, &random, "", 60);
            let file = world.backup(&by(CapturePath::Snapshot)).unwrap();
            let ranges = world.backup(&by(CapturePath::Range)).unwrap();
            world.check(&client, &file, "");
            world.check(&client, &ranges, "");
            let (file, ranges) = (file.etcd.unwrap(), ranges.etcd.unwrap());
            assert_eq!(file.revision, ranges.revision, "{version}, round {round}");
            // Each event has a place of its own, and a put stands at its revision.
            let events = world.events(&ranges);
            assert!(events.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)), "{version}: {events:?}");
            let state = world.stored(&ranges);
            for (revision, _, key, _) in
                events.iter().filter(|event| event.3 && event.0 > ranges.revision - 9)
            {
                assert!(state.get(key).is_none_or(|fields| fields.1 >= *revision), "{version}");
            }
        }
    }
}

#[test]
fn leases_of_keys_come_with_ranges() {
    for version in VERSIONS {
        let world = World::new(version);
        let mut client = world.client(None);
        let lease = |id: i64| {
            let options = etcd_client::LeaseGrantOptions::new().with_id(id);
            let mut client = client.clone();
            world.runtime.block_on(client.lease_grant(500 + id, Some(options))).unwrap();
        };
        [7, 8, 9].into_iter().for_each(lease);
        for (key, id) in [("a", 7), ("b", 8), ("c", 7)] {
            let options = PutOptions::new().with_lease(id);
            world.runtime.block_on(client.put(key, "value", Some(options))).unwrap();
        }
        let file = How { series: "file", capture: Some(CapturePath::Snapshot), ..How::default() };
        let ranges = How { series: "ranges", capture: Some(CapturePath::Range), ..How::default() };
        let (file, ranges) =
            (world.backup(&file).unwrap().etcd.unwrap(), world.backup(&ranges).unwrap().etcd.unwrap());
        let repository = world.open();
        let reader = repository.reader(&repository.view().unwrap()).unwrap();
        let nodes = ReadWrite::new(&reader, None);
        for id in [7i64, 8, 9] {
            let key = [b"lease\0", &id.to_be_bytes()[..]].concat();
            let find = |capture: &EtcdCapture| tree::get(&nodes, capture.system.as_ref(), &key).unwrap();
            let expected = if id == 9 { None } else { find(&file) };
            assert_eq!(find(&ranges), expected, "{version}: lease {id}");
        }
    }
}

#[test]
fn large_values_are_read_in_pages_of_few() {
    let world = World::new("3.6.4");
    let mut client = world.client(None);
    // A first page of a hundred would have 60 MB.
    for n in 0..100 {
        world.put(&mut client, &format!("large/{n:03}"), vec![n as u8; 600_000]);
    }
    for n in 0..3000 {
        world.put(&mut client, &format!("small/{n:04}"), "x");
    }
    for n in 0..20 {
        world.put(&mut client, &format!("small/{n:04}/large"), vec![n as u8; 1_400_000]);
    }
    let report = world.backup(&How { capture: Some(CapturePath::Range), ..How::default() }).unwrap();
    let stored = world.stored(report.etcd.as_ref().unwrap());
    assert_eq!((stored.len(), report.etcd.unwrap().keys), (3120, 3120));
    for (key, fields) in &stored {
        let (length, byte) = match String::from_utf8_lossy(key).as_ref() {
            key if key.starts_with("large/") => (600_000, key[6..].parse().unwrap()),
            key if key.ends_with("/large") => (1_400_000, key[6..10].parse().unwrap()),
            _ => (1, b'x'),
        };
        assert!(fields.4 == vec![byte; length], "{}", String::from_utf8_lossy(key));
    }
}

#[test]
fn a_compaction_in_the_middle_of_ranges_begins_them_again_and_gives_up_after_a_while() {
    for (version, most, succeeds) in [("3.5.1", 2, true), ("3.6.4", 2, true), ("3.6.4", 100, false)] {
        let world = World::new(version);
        let mut client = world.client(None);
        // Too many pages to be waiting when the first is looked at.
        for n in 0..500 {
            world.put(&mut client, &format!("{n:03}"), vec![n as u8; 40_000]);
        }
        let times = Arc::new(AtomicU32::new(0));
        let (counted, runtime) = (times.clone(), world.runtime.handle().clone());
        let compacting = client.clone();
        let mut context = world.context();
        context.progress = Arc::new(OnAdvance(move |amount: Amount| {
            if amount.items != 100 || counted.fetch_add(1, Ordering::SeqCst) >= most {
                return;
            }
            let mut client = compacting.clone();
            runtime.block_on(async {
                let put = client.put("new", "value", None).await.unwrap();
                client.compact(put.header().unwrap().revision(), None).await.unwrap();
            });
        }));
        let report = world.backup_with(
            &world.open_with(context),
            &How { capture: Some(CapturePath::Range), ..How::default() },
        );
        if succeeds {
            let report = report.unwrap();
            world.check(&client, &report, "");
            assert_eq!(times.load(Ordering::SeqCst), 3, "{version}");
        } else {
            let error = report.unwrap_err().to_string();
            assert!(
                error.contains("was compacted beyond the revision being read in each of 5 attempts"),
                "{error}"
            );
        }
    }
}

/// A backup by the whole file, and one by watch where there is something to go on from, each in a series
/// of its own.
fn both(world: &World, prefix: &'static str, user: Option<&'static str>) -> (EtcdCapture, EtcdCapture) {
    let by = |series, capture| {
        let report = world.backup(&How { series, prefix, user, capture: Some(capture) }).unwrap();
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
        report.etcd.unwrap()
    };
    (by("file", CapturePath::Snapshot), by("watch", CapturePath::Watch))
}

/// What a capture holds, without how it came.
fn roots(capture: &EtcdCapture) -> impl PartialEq + std::fmt::Debug + use<> {
    let EtcdCapture { revision, keys, events, anchor, history, state, system, .. } = capture.clone();
    (revision, keys, events, anchor, history, state, system)
}

#[test]
fn the_history_is_the_same_by_watch_and_by_file() {
    for version in VERSIONS {
        let world = World::new(version);
        let mut client = world.client(None);
        let random = Seeded::new(3);
        change(&world, &mut client, &random, "", 400);
        for round in 0..8 {
            let (file, watch) = both(&world, "", None);
            assert_eq!(roots(&file), roots(&watch), "{version}, round {round}");
            let path = if round == 0 { CapturePath::Snapshot } else { CapturePath::Watch };
            assert_eq!(watch.path, path, "{version}, round {round}");
            change(&world, &mut client, &random, "", [1, 200, 5, 60, 0, 9, 30][round % 7]);
        }
    }
}

#[test]
fn below_a_prefix_a_watch_finds_the_events_of_the_file_in_their_order() {
    let world = World::new("3.6.4");
    let mut client = world.client(None);
    let random = Seeded::new(4);
    change(&world, &mut client, &random, "a/", 200);
    for round in 0..5 {
        let (file, watch) = both(&world, "a/", None);
        let what = |capture: &EtcdCapture| {
            let events = world.events(capture).into_iter();
            events.map(|(revision, _, key, put)| (revision, key, put)).collect::<Vec<_>>()
        };
        assert_eq!(what(&file), what(&watch), "round {round}");
        assert_eq!(world.stored(&file), world.stored(&watch), "round {round}");
        assert_eq!((file.keys, file.revision), (watch.keys, watch.revision), "round {round}");
        change(&world, &mut client, &random, "a/", 20);
        // Revisions in which nothing below the prefix happens.
        change(&world, &mut client, &random, "b/", 20);
    }
}

#[test]
fn a_user_of_one_prefix_watches_it_where_the_server_says_how_far_it_is() {
    for (version, then) in [("3.5.1", CapturePath::Range), ("3.6.4", CapturePath::Watch)] {
        let world = World::new(version);
        world.limit("reader", "a/");
        let mut root = world.client(Some("root"));
        let random = Seeded::new(5);
        for path in [CapturePath::Range, then, then] {
            change(&world, &mut root, &random, "a/", 50);
            change(&world, &mut root, &random, "b/", 5);
            let how = How { prefix: "a/", user: Some("reader"), ..How::default() };
            let report = world.backup(&how).unwrap();
            assert_eq!((report.etcd.as_ref().unwrap().path, report.warnings.len()), (path, 0), "{version}");
            world.check(&root, &report, "a/");
        }
    }
}

#[test]
fn what_was_compacted_between_two_snapshots_is_a_gap_and_all_is_read() {
    for version in VERSIONS {
        let world = World::new(version);
        let mut client = world.client(None);
        let random = Seeded::new(6);
        change(&world, &mut client, &random, "", 100);
        let first = world.backup(&How::default()).unwrap().etcd.unwrap();
        change(&world, &mut client, &random, "", 50);
        let until = world.put(&mut client, "last", "value");
        world.compact(&mut client, until);
        for (capture, gap) in [(Some(CapturePath::Watch), true), (None, false)] {
            world.put(&mut client, "more", "value");
            let report = world.backup(&How { capture, ..How::default() }).unwrap();
            world.check(&client, &report, "");
            let gaps = gap.then_some(Gap { after: first.revision, until });
            assert_eq!(report.gaps, gaps.into_iter().collect::<Vec<Gap>>(), "{version}");
            assert_eq!(report.warnings.len(), usize::from(gap), "{version}: {:?}", report.warnings);
            let path = if gap { CapturePath::Snapshot } else { CapturePath::Watch };
            assert_eq!(report.etcd.unwrap().path, path, "{version}");
        }
    }
}

/// Servers before 3.5.18 forget a deletion in the very revision that is compacted, and say nothing of it.
#[test]
fn a_deletion_in_the_first_revision_after_a_snapshot_is_not_missed_where_that_was_compacted() {
    for version in VERSIONS {
        let world = World::new(version);
        let mut client = world.client(None);
        world.put(&mut client, "deleted", "value");
        let first = world.backup(&How::default()).unwrap().etcd.unwrap();
        let together = [TxnOp::delete("deleted", None), TxnOp::put("put", "value", None)];
        world.runtime.block_on(client.txn(Txn::new().and_then(together))).unwrap();
        world.compact(&mut client, first.revision + 1);
        world.put(&mut client, "last", "value");
        let report = world.backup(&How { capture: Some(CapturePath::Watch), ..How::default() }).unwrap();
        world.check(&client, &report, "");
    }
}

/// A backup by watch during which something happens at the event of this number.
fn disturbed(world: &World, number: u32, act: impl Fn() + Send + Sync + 'static) -> Report {
    let seen = AtomicU32::new(0);
    let mut context = world.context();
    context.progress = Arc::new(OnAdvance(move |_| {
        if seen.fetch_add(1, Ordering::SeqCst) == number {
            act();
        }
    }));
    let how = How { series: "watch", capture: Some(CapturePath::Watch), ..How::default() };
    world.backup_with(&world.open_with(context), &how).unwrap()
}

#[test]
fn a_watch_goes_on_after_its_member_was_killed_and_came_back() {
    for version in VERSIONS {
        let world = Arc::new(World::new(version));
        let mut client = world.client(None);
        let random = Seeded::new(7);
        change(&world, &mut client, &random, "", 20);
        both(&world, "", None);
        change(&world, &mut client, &random, "", 300);
        let restarted = world.clone();
        let report = disturbed(&world, 100, move || restarted.server.lock().unwrap().restart());
        let watch = report.etcd.unwrap();
        let how = How { series: "file", capture: Some(CapturePath::Snapshot), ..How::default() };
        let file = world.backup(&how).unwrap().etcd.unwrap();
        assert_eq!(watch.path, CapturePath::Watch, "{version}");
        assert_eq!(roots(&file), roots(&watch), "{version}");
    }
}

#[test]
fn a_compaction_in_the_middle_of_a_watch_loses_nothing() {
    for version in VERSIONS {
        let world = Arc::new(World::new(version));
        let mut client = world.client(None);
        let random = Seeded::new(8);
        change(&world, &mut client, &random, "", 20);
        both(&world, "", None);
        // Too much to be on its way at once.
        for n in 0..60 {
            world.put(&mut client, &format!("large/{n}"), vec![n; 1_000_000]);
        }
        let until = world.put(&mut client, "last", "value");
        let compacting = world.clone();
        let report = disturbed(&world, 1, move || compacting.compact(&mut compacting.client(None), until));
        world.check(&client, &report, "");
        let capture = report.etcd.as_ref().unwrap();
        match capture.path {
            CapturePath::Watch => assert!(report.gaps.is_empty()),
            path => assert_eq!((path, report.gaps.len()), (CapturePath::Snapshot, 1), "{version}"),
        }
    }
}

#[test]
fn a_member_that_lags_catches_up_first_and_a_new_leader_does_not_matter() {
    let mut members = Server::etcd_cluster("3.6.4");
    let runtime = common::runtime();
    let status = |url: &str| {
        let mut client = runtime.block_on(Client::connect([url], None)).unwrap();
        let status = runtime.block_on(client.status()).unwrap();
        (status.header().unwrap().member_id(), status.leader())
    };
    let follows = |member: &Server| {
        let (id, leader) = status(&member.url);
        id != leader
    };
    let follower = members.iter().position(follows).unwrap();
    let world = World::on(members.remove(follower));
    let other = members.iter().position(follows).unwrap();
    let (leader, next) = (members[1 - other].url.clone(), status(&members[other].url).0);
    let mut client = world.runtime.block_on(Client::connect([&leader], None)).unwrap();
    let random = Seeded::new(9);
    change(&world, &mut client, &random, "", 50);
    both(&world, "", None);
    world.server.lock().unwrap().pause(true);
    change(&world, &mut client, &random, "", 300);
    let last = world.put(&mut client, "last", "value");
    world.server.lock().unwrap().pause(false);
    let report = {
        let (runtime, client) = (world.runtime.handle().clone(), client.clone());
        disturbed(&world, 10, move || {
            let mut client = client.clone();
            runtime.block_on(client.move_leader(next)).unwrap();
        })
    };
    let watch = report.etcd.unwrap();
    assert_eq!((watch.path, watch.revision), (CapturePath::Watch, last));
    let how = How { series: "file", capture: Some(CapturePath::Snapshot), ..How::default() };
    let file = world.backup(&how).unwrap().etcd.unwrap();
    assert_eq!(roots(&file), roots(&watch));
}

#[test]
fn two_backups_of_one_series_at_once_both_hold_everything() {
    let world = World::new("3.6.4");
    let mut client = world.client(None);
    let random = Seeded::new(10);
    change(&world, &mut client, &random, "", 100);
    world.backup(&How::default()).unwrap();
    change(&world, &mut client, &random, "", 100);
    let by = |capture| world.backup(&How { capture: Some(capture), ..How::default() }).unwrap();
    let reports = std::thread::scope(|scope| {
        let both =
            [CapturePath::Watch, CapturePath::Snapshot].map(|capture| scope.spawn(move || by(capture)));
        both.map(|run| run.join().unwrap())
    });
    for report in &reports {
        world.check(&client, report, "");
    }
    change(&world, &mut client, &random, "", 10);
    let report = world.backup(&How::default()).unwrap();
    world.check(&client, &report, "");
    assert!(report.gaps.is_empty());
}

#[test]
fn large_values_large_transactions_and_tombstones_come_whole() {
    for version in VERSIONS {
        let options = ["--max-txn-ops=10000", "--max-request-bytes=4000000"];
        let world = World::on(Server::etcd_with(version, &options));
        let mut client = world.client(None);
        both(&world, "", None);
        for n in 0..8 {
            world.put(&mut client, "large", vec![n; 1_500_000]);
        }
        let puts = (0..10_000).map(|n| TxnOp::put(format!("many/{n:05}"), vec![7; 200], None));
        let puts: Vec<TxnOp> = puts.collect();
        world.runtime.block_on(client.txn(Txn::new().and_then(puts))).unwrap();
        let (file, watch) = both(&world, "", None);
        assert_eq!(watch.path, CapturePath::Watch, "{version}");
        assert_eq!(roots(&file), roots(&watch), "{version}");
        assert_eq!((watch.keys, watch.events), (10_001, 10_008), "{version}");
        // Nothing but tombstones is left.
        let options = DeleteOptions::new().with_all_keys();
        world.runtime.block_on(client.delete("", Some(options))).unwrap();
        let (file, watch) = both(&world, "", None);
        assert_eq!(roots(&file), roots(&watch), "{version}");
        assert_eq!((watch.keys, watch.events), (0, 10_001), "{version}");
        let ranges = How { series: "ranges", capture: Some(CapturePath::Range), ..How::default() };
        assert_eq!(world.backup(&ranges).unwrap().etcd.unwrap().keys, 0, "{version}");
    }
}

#[test]
fn a_key_that_goes_and_comes_in_one_revision_is_captured_as_it_was() {
    for version in VERSIONS {
        let world = World::new(version);
        let mut client = world.client(None);
        let ranges = How { series: "ranges", capture: Some(CapturePath::Range), ..How::default() };
        for key in ["a", "y", "z"] {
            world.put(&mut client, key, "old");
        }
        both(&world, "", None);
        world.backup(&ranges).unwrap();
        let put = |key: &str| TxnOp::put(key, "new", None);
        let alone = |operation| TxnOp::txn(Txn::new().and_then([operation]));
        // etcd refuses the two in simple transactions: a deletion without an end, and nested ones, pass.
        let from_y = TxnOp::delete("y", Some(DeleteOptions::new().with_from_key()));
        let goes_and_comes = [from_y, put("y")];
        let comes_and_goes = ["a", "b"].map(|key| [alone(put(key)), alone(TxnOp::delete(key, None))]);
        let mut revisions = Vec::new();
        for operations in [goes_and_comes].into_iter().chain(comes_and_goes) {
            let answer = world.runtime.block_on(client.txn(Txn::new().and_then(operations))).unwrap();
            revisions.push(answer.header().unwrap().revision());
        }
        let (file, watch) = both(&world, "", None);
        assert_eq!((watch.path, roots(&file)), (CapturePath::Watch, roots(&watch)), "{version}");
        let event = |n: usize, sub, key: &str, put| (revisions[n], sub, key.as_bytes().to_vec(), put);
        let expected = [
            event(0, 0, "y", false),
            event(0, 1, "z", false),
            event(0, 2, "y", true),
            event(1, 0, "a", true),
            event(1, 1, "a", false),
            event(2, 0, "b", true),
            event(2, 1, "b", false),
        ];
        let events = world.events(&watch);
        assert!(events.ends_with(&expected), "{version}: {events:?}");
        let live = world.live(&client, "");
        assert_eq!(live.keys().collect::<Vec<_>>(), [b"y"], "{version}");
        assert_eq!((world.stored(&watch), watch.keys), (live.clone(), 1), "{version}");
        // Ranges see what is left of it.
        let report = world.backup(&ranges).unwrap();
        world.check(&client, &report, "");
        let prefix = world.backup(&How { series: "prefix", prefix: "y", ..How::default() }).unwrap();
        world.check(&client, &prefix, "y");
    }
}

#[test]
fn the_compaction_point_is_told_where_it_is_known() {
    for version in VERSIONS {
        let world = World::new(version);
        let mut client = world.client(None);
        let told = |series, capture| {
            let how = How { series, capture: Some(capture), ..How::default() };
            world.backup(&how).unwrap().etcd.unwrap().compact_revision
        };
        world.put(&mut client, "key", "value");
        // Ranges that go on from nothing do not know it.
        assert_eq!(told("ranges", CapturePath::Range), None, "{version}");
        assert_eq!(told("file", CapturePath::Snapshot), Some(0), "{version}");
        world.put(&mut client, "key", "value");
        assert_eq!(told("file", CapturePath::Watch), Some(0), "{version}");
        assert_eq!(told("file", CapturePath::Range), Some(0), "{version}");
        let revision = world.put(&mut client, "key", "value");
        assert_eq!(told("file", CapturePath::Watch), Some(0), "{version}");
        world.compact(&mut client, revision);
        world.put(&mut client, "key", "value");
        assert_eq!(told("file", CapturePath::Watch), None, "{version}");
        assert_eq!(told("file", CapturePath::Range), None, "{version}");
        assert_eq!(told("file", CapturePath::Snapshot), Some(revision), "{version}");
        world.put(&mut client, "key", "value");
        assert_eq!(told("file", CapturePath::Watch), Some(revision), "{version}");
    }
}

#[test]
fn users_and_roles_that_changed_are_read_with_the_whole_file() {
    for version in VERSIONS {
        let world = World::new(version);
        let mut client = world.client(None);
        change(&world, &mut client, &Seeded::new(11), "", 30);
        both(&world, "", None);
        change(&world, &mut client, &Seeded::new(12), "", 30);
        let (file, watch) = both(&world, "", None);
        assert_eq!((watch.path, roots(&file)), (CapturePath::Watch, roots(&watch)), "{version}");
        world.limit("reader", "a/");
        let mut root = world.client(Some("root"));
        for path in [CapturePath::Snapshot, CapturePath::Watch] {
            change(&world, &mut root, &Seeded::new(13), "", 30);
            let (file, watch) = both(&world, "", Some("root"));
            assert_eq!((watch.path, roots(&file)), (path, roots(&watch)), "{version}");
        }
        world.runtime.block_on(root.user_change_password("reader", "another")).unwrap();
        world.put(&mut root, "more", "value");
        let (_, watch) = both(&world, "", Some("root"));
        assert_eq!(watch.path, CapturePath::Snapshot, "{version}");
    }
}
