//! The writer's and the reader's side of the collection protocol, on a local directory. Collectors are
//! played by hand: their records are put as a prune on another machine would.

use std::path::Path;
use std::sync::Arc;

use icecore::context::{Context, Seeded};
use icecore::fault::Kind;
use icecore::format::{Claim, Closed, Condemned, Name, Session, SessionKind, Snapshot, Stored, Verdict};
use icecore::id::{ChunkId, ChunkKind, SessionId};
use icecore::repository::{Access, KeyCost, Repository, SnapshotInfo, WriteSession};
use icecore::storage::Location;
use icecore::store::{Finished, Tuning};
use tempfile::TempDir;

struct World {
    directory: TempDir,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn new() -> World {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        World { directory: tempfile::tempdir().unwrap(), runtime }
    }

    /// The repository as another machine sees it: a cache and randomness of its own.
    fn machine(&self, number: u64) -> (Context, Access) {
        let mut context = Context::system(self.runtime.handle().clone());
        context.random = Arc::new(Seeded::new(number));
        let path = |name: &str| self.directory.path().join(name);
        let location = Location::Local(path("repository"));
        let cache = path(&format!("cache-{number}"));
        (context, Access { location, credentials: None, cache, upload: None, download: None })
    }

    fn init(&self) -> Repository {
        let (context, access) = self.machine(1);
        Repository::init(&context, &access, "passphrase", KeyCost { memory: 64, passes: 1 }).unwrap()
    }

    fn open(&self, number: u64) -> Repository {
        let (context, access) = self.machine(number);
        Repository::open(&context, &access, "passphrase").unwrap()
    }

    fn repository_path(&self) -> std::path::PathBuf {
        self.directory.path().join("repository")
    }
}

fn latest(snapshots: &[SnapshotInfo]) -> icecore::repository::Result<Option<SnapshotInfo>> {
    Ok(snapshots.last().cloned())
}

fn begin(repository: &Repository) -> WriteSession<'_> {
    repository.begin_write(latest).unwrap()
}

fn snapshot(finished: Finished, time: i64) -> Snapshot {
    Snapshot {
        series: "default".into(),
        name: None,
        time,
        parent: None,
        line: 0,
        generation: 0,
        host: "host".into(),
        tool: "test".into(),
        tags: vec![],
        etcd: None,
        objects: None,
        stored: Stored::default(),
        segment: finished.segment,
    }
}

/// Stores one chunk in a session of its own; gives the session's id, the chunk, and whether it was new.
fn store(repository: &Repository, content: &[u8], time: i64) -> (SessionId, ChunkId, bool) {
    let session = begin(repository);
    let writer = session.writer(Tuning::default());
    let written = writer.put(ChunkKind::Data, content).unwrap();
    let sid = session.sid;
    session.commit(snapshot(writer.finish().unwrap(), time)).unwrap();
    (sid, written.id, written.new)
}

fn files(path: &Path) -> usize {
    std::fs::read_dir(path).map_or(0, |entries| entries.count())
}

fn closed() -> Claim {
    Claim::Closed(Closed { why: "patience was over".into(), time: 0 })
}

#[test]
fn a_committed_chunk_is_read_and_reused_by_another_machine() {
    let world = World::new();
    let (_, id, new) = store(&world.init(), b"content", 1);
    assert!(new);
    let other = world.open(2);
    let reader = other.reader(&other.view().unwrap()).unwrap();
    assert_eq!(reader.get(ChunkKind::Data, &id).unwrap(), "content");
    assert!(!store(&other, b"content", 2).2, "stored twice");
}

#[test]
fn a_session_that_a_collector_closed_commits_nothing() {
    let world = World::new();
    let repository = world.init();
    let session = begin(&repository);
    let finished = session.writer(Tuning::default()).finish().unwrap();
    repository.put_record(&Name::Claim(session.sid).to_string(), &closed()).unwrap();
    let error = session.commit(snapshot(finished, 1)).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains("patience was over"), "{error}");
    assert!(repository.view().unwrap().snapshots.is_empty());
}

#[test]
fn a_snapshot_that_came_after_a_verdict_is_void_and_told_so() {
    let world = World::new();
    let repository = world.init();
    let session = begin(&repository);
    let finished = session.writer(Tuning::default()).finish().unwrap();
    let verdict = Verdict { dead: vec![], segments: vec![], snapshots: vec![] };
    repository.put_record(&Name::Verdict(1).to_string(), &verdict).unwrap();
    assert_eq!(session.commit(snapshot(finished, 1)).unwrap_err().kind(), Kind::Busy);
    assert!(repository.view().unwrap().snapshots.is_empty());
}

#[test]
fn a_new_session_carries_the_newest_collection_as_its_label() {
    let world = World::new();
    let repository = world.init();
    repository.put_record(&Name::Condemned(7).to_string(), &Condemned { packs: vec![] }).unwrap();
    assert_eq!(begin(&repository).sid.label, 7);
}

#[test]
fn a_chunk_in_a_condemned_pack_is_stored_again_and_can_still_be_read() {
    let world = World::new();
    let repository = world.init();
    let (_, id, _) = store(&repository, b"content", 1);
    let packs = repository.packs().unwrap().into_iter().map(|(_, id, _)| id).collect();
    repository.put_record(&Name::Condemned(1).to_string(), &Condemned { packs }).unwrap();
    let reader = repository.reader(&repository.view().unwrap()).unwrap();
    assert_eq!(reader.get(ChunkKind::Data, &id).unwrap(), "content");
    assert!(store(&repository, b"content", 2).2, "a pack that may die was referred to");
}

#[test]
fn what_an_interrupted_run_stored_is_reused_by_the_next() {
    let world = World::new();
    let repository = world.init();
    let session = begin(&repository);
    let writer = session.writer(Tuning::default());
    writer.put(ChunkKind::Data, b"content").unwrap();
    writer.give_up().unwrap();
    session.give_up("interrupted").unwrap();
    assert!(repository.view().unwrap().snapshots.is_empty());
    assert!(!store(&world.open(2), b"content", 1).2, "stored twice");
}

#[test]
fn an_interrupt_while_finishing_ends_without_a_snapshot_and_the_next_run_reuses_what_was_stored() {
    let world = World::new();
    let repository = world.init();
    let session = begin(&repository);
    let writer = session.writer(Tuning::default());
    writer.put(ChunkKind::Data, b"content").unwrap();
    repository.context().cancel.cancel();
    let error = writer.finish().unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted, "{error}");
    drop(session);
    let other = world.open(2);
    assert!(other.view().unwrap().snapshots.is_empty());
    assert!(!store(&other, b"content", 1).2, "stored twice");
}

/// The rule "uncommitted": of a label below its own, a writer uses only segments of committed sessions.
#[test]
fn what_an_interrupted_run_stored_before_a_collection_is_not_reused() {
    let world = World::new();
    let repository = world.init();
    let session = begin(&repository);
    let writer = session.writer(Tuning::default());
    writer.put(ChunkKind::Data, b"content").unwrap();
    writer.give_up().unwrap();
    session.give_up("interrupted").unwrap();
    repository.put_record(&Name::Condemned(1).to_string(), &Condemned { packs: vec![] }).unwrap();
    assert!(store(&repository, b"content", 1).2, "referred to what a collection may drop");
}

#[test]
fn what_a_forgotten_snapshot_shares_with_others_can_still_be_read_and_reused() {
    let world = World::new();
    let repository = world.init();
    store(&repository, b"first", 1);
    let (forgotten, shared, _) = store(&repository, b"shared", 2);
    assert!(!store(&repository, b"shared", 3).2);
    let view = repository.view().unwrap();
    let info = view.snapshots.iter().find(|info| info.id == forgotten).unwrap();
    assert!(!info.snapshot.segment.packs.is_empty(), "a short segment travels inside the record");
    icecore::forget::forget(&repository, info).unwrap();
    for machine in [1, 2] {
        let repository = world.open(machine);
        let reader = repository.reader(&repository.view().unwrap()).unwrap();
        assert_eq!(reader.get(ChunkKind::Data, &shared).unwrap(), "shared", "machine {machine}");
    }
    assert!(!store(&repository, b"shared", 4).2, "stored twice");
    let report = icecore::check::run(&repository, Default::default()).unwrap();
    assert_eq!((report.damage.len(), report.unused_packs), (0, 0));
}

#[test]
fn a_forgotten_snapshot_is_gone_and_is_no_parent() {
    let world = World::new();
    let repository = world.init();
    store(&repository, b"content", 1);
    let info = repository.view().unwrap().snapshots.remove(0);
    icecore::forget::forget(&repository, &info).unwrap();
    icecore::forget::forget(&repository, &info).unwrap();
    assert!(world.open(2).view().unwrap().snapshots.is_empty());
    assert!(begin(&repository).parent.is_none());
    assert!(repository.begin_read(info.id).is_err(), "a forgotten snapshot cannot be pinned");
}

#[test]
fn a_session_pins_its_parent_and_every_session_ends_in_a_claim() {
    let world = World::new();
    let repository = world.init();
    let (first, ..) = store(&repository, b"content", 1);
    let session = begin(&repository);
    let record: Session = repository.record(&Name::Session(session.sid).to_string()).unwrap();
    assert_eq!((record.kind, record.pin), (SessionKind::Write, Some(first)));
    drop(session);
    drop(repository.begin_read(first).unwrap());
    let path = world.repository_path();
    assert_eq!(files(&path.join("sessions")), 3);
    assert_eq!(files(&path.join("snapshots")), 3);
}

#[test]
fn two_backups_at_once_both_commit() {
    let world = World::new();
    world.init();
    let repositories: Vec<Repository> = (2..6).map(|number| world.open(number)).collect();
    std::thread::scope(|scope| {
        for (repository, n) in repositories.iter().zip(0u8..) {
            scope.spawn(move || store(repository, &[n / 2; 1000], n.into()));
        }
    });
    let repository = world.open(9);
    let view = repository.view().unwrap();
    assert_eq!(view.snapshots.len(), 4);
    let report = icecore::check::run(&repository, icecore::check::Options { read_data: true }).unwrap();
    assert_eq!(report.damage, []);
}

#[test]
fn a_wrong_passphrase_is_told_from_a_damaged_key_and_a_missing_repository() {
    let world = World::new();
    let (context, access) = world.machine(1);
    let kind = |passphrase: &str| Repository::open(&context, &access, passphrase).err().unwrap().kind();
    assert_eq!(kind("passphrase"), Kind::NoRepository);
    world.init();
    assert_eq!(kind("wrong"), Kind::WrongPassphrase);
    let key =
        std::fs::read_dir(world.repository_path().join("keys")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&key).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&key, bytes).unwrap();
    assert_eq!(kind("passphrase"), Kind::Damage);
}

#[test]
fn keys_are_added_changed_and_removed_and_the_one_in_use_stays() {
    let world = World::new();
    let repository = world.init();
    let cost = KeyCost { memory: 64, passes: 1 };
    let second = repository.add_key("second", cost).unwrap();
    let (context, access) = world.machine(2);
    let by_second = Repository::open(&context, &access, "second").unwrap();
    assert!(by_second.remove_key(&second).is_err(), "the key in use was removed");
    by_second.change_passphrase("third", cost).unwrap();
    assert!(Repository::open(&context, &access, "second").is_err());
    Repository::open(&context, &access, "third").unwrap();
    let first = repository.keys("passphrase").unwrap().into_iter().find(|key| key.current).unwrap();
    Repository::open(&context, &access, "third").unwrap().remove_key(&first.id).unwrap();
    assert!(Repository::open(&context, &access, "passphrase").is_err());
}

#[test]
fn a_second_init_changes_nothing() {
    let world = World::new();
    let id = world.init().id();
    let (context, access) = world.machine(3);
    let again = Repository::init(&context, &access, "other", KeyCost { memory: 64, passes: 1 });
    assert_eq!(again.err().unwrap().kind(), Kind::RepositoryExists);
    assert_eq!(world.open(4).id(), id);
    assert_eq!(files(&world.repository_path().join("keys")), 1);
}
