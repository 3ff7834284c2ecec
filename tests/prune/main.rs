//! Prune and forget on a local directory: what goes, what stays, what runs beside it, what a crash leaves,
//! and how large it gets.

mod beside;
mod bound;
#[path = "../common/mod.rs"]
mod common;
mod crash;
mod measure;
mod world;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use icecore::check;
use icecore::fault::Kind;
use icecore::format::{Attributes, Claim, Condemned, Content, Item, ItemState, Name, PackEntry, SegmentName};
use icecore::id::{ChunkKind, PackId};
use icecore::prune::{self, Options, Reason};
use icecore::repository::Repository;
use icecore::storage::{Cause, Faulty, Injected, Operation};
use icecore::store::Tuning;
use icecore::tree::{Builder, ReadWrite};
use world::{Made, World, begin, bytes_of, files, forget, noise, snapshot, store, store_with, try_store};

pub fn now() -> Options {
    Options { patience: Some(Duration::ZERO), ..Options::default() }
}

pub fn later() -> Options {
    Options { patience: None, ..Options::default() }
}

/// A prune finds damage, which it gives, and changes nothing.
fn stops(world: &World, repository: &Repository) -> prune::Error {
    let before = files(&world.repository_path());
    let error = prune::run(repository, &now()).unwrap_err();
    assert_eq!(error.kind(), Kind::Damage);
    assert_eq!(files(&world.repository_path()), before);
    error
}

#[test]
fn what_only_a_forgotten_snapshot_held_goes_and_the_rest_reads_back() {
    let world = World::new();
    let repository = world.init();
    let first = store(&repository, &[b"shared", b"only the first has this"]);
    let second = store(&repository, &[b"shared", b"only the second has this"]);
    forget(&repository, &first);
    let report = prune::run(&repository, &now()).unwrap();
    assert_eq!(report.collections, [1]);
    for machine in [1, 2] {
        let repository = world.open(machine);
        let view = repository.view().unwrap();
        assert_eq!(view.snapshots.iter().map(|info| info.id).collect::<Vec<_>>(), [second.sid]);
        second.reads_back(&repository);
        let reader = repository.reader(&view).unwrap();
        assert_eq!(reader.get(ChunkKind::Data, &first.chunks[1]).unwrap_err().kind(), Kind::Damage);
        world.is_whole(machine);
    }
    let path = world.repository_path();
    assert_eq!(["sessions", "forgotten"].map(|folder| files(&path.join(folder)).len()), [0, 0]);
    assert_eq!(
        ["snapshots", "index", "collections"].map(|folder| files(&path.join(folder)).len()),
        [1, 1, 2]
    );
    assert_eq!(report.repository_bytes, bytes_of(&path));
    let again = prune::run(&repository, &now()).unwrap();
    assert!(again.collections.is_empty(), "a prune that has nothing to do does nothing");
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_a_prune_does() {
    let world = World::new();
    let repository = world.init();
    let first = store(&repository, &[&[1; 5000]]);
    store(&repository, &[&[2; 5000]]);
    forget(&repository, &first);
    let before = files(&world.repository_path());
    let plan = prune::plan(&repository, &now(), &Default::default()).unwrap();
    assert_eq!(files(&world.repository_path()), before);
    assert_eq!((plan.of(Reason::Unused).0, plan.of(Reason::Waste).0), (2, 0), "{plan:?}");
    let packs = |path: &std::path::Path| bytes_of(&path.join("packs"));
    let there = packs(&world.repository_path());
    prune::run(&repository, &now()).unwrap();
    assert_eq!(there - packs(&world.repository_path()), plan.frees());
}

#[test]
fn a_pack_with_much_waste_is_rewritten_and_one_with_little_stays() {
    let world = World::new();
    let repository = world.init();
    let (kept, large) = (noise(1, 100_000), noise(2, 900_000));
    let wasteful = store(&repository, &[&kept, &large]);
    let little = noise(3, 3_000_000);
    let dense = store(&repository, &[&kept, &little, &noise(4, 1000)]);
    let last = store(&repository, &[&kept, &little]);
    forget(&repository, &wasteful);
    forget(&repository, &dense);
    let plan = prune::plan(&repository, &Options { max_unused: 0.05, ..now() }, &Default::default()).unwrap();
    assert_eq!(plan.of(Reason::Waste).0, 1, "{plan:?}");
    prune::run(&repository, &now()).unwrap();
    last.reads_back(&repository);
    world.is_whole(7);
    let bytes = bytes_of(&world.repository_path().join("packs/data"));
    assert!((3_100_000..3_110_000).contains(&bytes), "{bytes}");
}

#[test]
fn what_interrupted_commands_left_goes() {
    let world = World::new();
    let repository = world.init();
    let kept = store(&repository, &[b"kept"]);
    let session = begin(&repository);
    let writer = session.writer(Default::default());
    writer.put(ChunkKind::Data, b"stored and never in a snapshot").unwrap();
    writer.give_up().unwrap();
    session.give_up("interrupted").unwrap();
    // A pack without a segment, and one that was never there.
    let orphan = Name::Pack(ChunkKind::Data, icecore::id::PackId([9; 16])).to_string();
    repository.storage().put(&orphan, bytes::Bytes::from_static(b"half a run")).unwrap();
    prune::run(&repository, &now()).unwrap();
    assert_eq!(files(&world.repository_path().join("packs")).len(), 2);
    kept.reads_back(&world.open(2));
    world.is_whole(3);
}

#[test]
fn a_running_backup_is_waited_for_and_its_snapshot_is_whole() {
    let world = World::new();
    let repository = world.init();
    let first = store(&repository, &[b"first"]);
    let session = begin(&repository);
    forget(&repository, &first);
    let report = prune::run(&repository, &later()).unwrap();
    assert_eq!((report.collections.len(), report.waiting.len()), (0, 1));
    // It may refer to its parent's chunks: nothing has been deleted.
    let second = store_with(&repository, session, &[b"first", b"second"]);
    assert!(!second.new[0], "its parent's chunk was stored again");
    let report = prune::run(&world.open(2), &later()).unwrap();
    assert_eq!(report.collections, [1], "the open collection is finished");
    second.reads_back(&world.open(3));
    world.is_whole(4);
}

#[test]
fn a_backup_that_begins_while_a_collection_is_open_stores_what_may_die_again() {
    let world = World::new();
    let repository = world.init();
    let first = store(&repository, &[b"content"]);
    forget(&repository, &first);
    let running = begin(&repository);
    prune::run(&repository, &later()).unwrap();
    let second = store(&world.open(2), &[b"content"]);
    assert_eq!((second.sid.label, second.new[0]), (1, true));
    drop(running);
    prune::run(&repository, &later()).unwrap();
    second.reads_back(&repository);
    world.is_whole(5);
}

#[test]
fn a_backup_that_patience_is_over_with_fails_and_says_so() {
    let world = World::new();
    let repository = world.init();
    let first = store(&repository, &[b"first"]);
    let session = begin(&repository);
    forget(&repository, &first);
    assert_eq!(prune::run(&repository, &now()).unwrap().collections, [1]);
    let error = try_store(&repository, session, &[b"second"]).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    assert!(repository.view().unwrap().snapshots.is_empty());
}

#[test]
fn a_pinned_snapshot_that_was_forgotten_stays_readable_until_its_reader_ends() {
    let world = World::new();
    let repository = world.init();
    let first = store(&repository, &[b"read while it is forgotten"]);
    let reading = world.open(2);
    let session = reading.begin_read(first.sid).unwrap();
    forget(&repository, &first);
    for _ in 0..3 {
        prune::run(&repository, &now()).unwrap();
        store(&repository, &[b"more"]);
    }
    first.reads_back(&reading);
    assert!(!repository.view().unwrap().snapshots.iter().any(|info| info.id == first.sid));
    drop(session);
    prune::run(&repository, &now()).unwrap();
    let reader = repository.reader(&repository.view().unwrap()).unwrap();
    assert!(reader.get(ChunkKind::Data, &first.chunks[0]).is_err(), "it stays though nobody needs it");
}

#[test]
fn a_dead_process_of_this_machine_is_not_waited_for_and_one_of_another_is() {
    let world = World::new();
    let repository = world.init();
    let first = store(&repository, &[b"first"]);
    let session = begin(&repository);
    forget(&repository, &first);
    assert_eq!(prune::run(&repository, &later()).unwrap().waiting.len(), 1, "it lives");
    // What a killed process leaves: a lifeline that nobody holds.
    let lifeline = repository.cache().join(Name::Session(session.sid).to_string());
    let said = std::fs::read(&lifeline).unwrap();
    std::fs::remove_file(&lifeline).unwrap();
    std::fs::write(&lifeline, said).unwrap();
    assert_eq!(prune::run(&world.open(2), &later()).unwrap().waiting.len(), 1, "another cannot know");
    assert_eq!(prune::run(&repository, &later()).unwrap().collections, [1]);
    assert!(!lifeline.exists(), "it goes with its session");
    std::mem::forget(session);
}

#[test]
fn many_small_snapshots_end_in_few_files() {
    let world = World::new();
    let repository = world.init();
    let mut made: Vec<Made> = Vec::new();
    for n in 0..60u8 {
        made.push(store(&repository, &[&[n; 100], &noise(n, 3000)]));
        if n % 5 == 4 {
            prune::run(&repository, &now()).unwrap();
        }
    }
    let path = world.repository_path();
    let count = |folder: &str| files(&path.join(folder)).len();
    assert!(
        count("packs") <= 30 && count("index") <= 12,
        "{} packs, {} segments",
        count("packs"),
        count("index")
    );
    assert_eq!(count("snapshots"), 60);
    made.iter().for_each(|made| made.reads_back(&world.open(2)));
    world.is_whole(3);
}

#[test]
fn a_foreign_condemned_list_of_everything_costs_nothing_but_time() {
    let world = World::new();
    let repository = world.init();
    let made = [store(&repository, &[b"a", b"b"]), store(&repository, &[b"b", b"c"])];
    let packs: Vec<_> = repository.packs().unwrap().into_iter().map(|(_, id, _)| id).collect();
    let before: BTreeSet<_> = packs.iter().copied().collect();
    repository.put_record(&Name::Condemned(1).to_string(), &Condemned { packs }).unwrap();
    prune::run(&repository, &now()).unwrap();
    let after: BTreeSet<_> = repository.packs().unwrap().into_iter().map(|(_, id, _)| id).collect();
    assert!(before.is_disjoint(&after), "small packs that are condemned are rewritten");
    made.iter().for_each(|made| made.reads_back(&world.open(2)));
    world.is_whole(3);
}

#[test]
fn a_prune_reads_a_record_once_and_walks_a_tree_once() {
    let world = World::new();
    let repository = world.init();
    let first = store(&repository, &[&noise(1, 5000)]);
    store(&repository, &[&noise(1, 5000), &noise(2, 5000)]);
    forget(&repository, &first);
    let read: Arc<Mutex<Vec<String>>> = Arc::default();
    let reads = read.clone();
    let note = move |operation, name: &str| {
        if operation == Operation::Get {
            reads.lock().unwrap().push(name.to_owned());
        }
        None
    };
    let repository = world.open_on(2, Arc::new(Faulty::new(world.local(), note)));
    assert_eq!(prune::run(&repository, &now()).unwrap().collections, [1]);
    let mut read = read.lock().unwrap().clone();
    read.retain(|name| name.starts_with("snapshots/") || name.starts_with("packs/tree/"));
    let names: BTreeSet<_> = read.iter().collect();
    assert_eq!((read.len(), names.len()), (3, 3), "{read:?}");
}

#[test]
fn a_segment_that_lists_something_else_in_a_pack_than_is_needed_of_it_costs_nothing() {
    let less: fn(&mut PackEntry) = |pack| pack.chunks.clear();
    let first: fn(&mut PackEntry) = |pack| pack.chunks[0].id = pack.chunks.last().unwrap().id;
    let last: fn(&mut PackEntry) = |pack| pack.chunks.last_mut().unwrap().id = pack.chunks[0].id;
    let elsewhere: fn(&mut PackEntry) = |pack| pack.chunks.iter_mut().for_each(|chunk| chunk.offset += 1);
    let longer: fn(&mut PackEntry) = |pack| pack.chunks.iter_mut().for_each(|chunk| chunk.plain += 1);
    let lies = [less, first, last, elsewhere, longer];
    // The packs may go; or they stay, and the segment is written anew for one that nobody has.
    for (lie, condemned) in lies.into_iter().flat_map(|lie| [(lie, true), (lie, false)]) {
        let world = World::new();
        let repository = world.init();
        let made = store(&repository, &[b"a", b"b"]);
        let Claim::Snapshot(snapshot) = repository.claim(made.sid).unwrap() else { panic!("no snapshot") };
        // Its name comes before that of the snapshot which lists the truth.
        let session = begin(&repository);
        let mut segment = snapshot.segment.clone();
        segment.packs.iter_mut().for_each(lie);
        let nowhere = PackId([9; 16]);
        segment.packs.push(PackEntry { id: nowhere, chunks: vec![], ..segment.packs[0].clone() });
        let name = Name::Segment(SegmentName::Session(session.sid, 0)).to_string();
        repository.put_record(&name, &segment).unwrap();
        session.give_up("it is a thief's").unwrap();
        let packs = match condemned {
            true => snapshot.segment.packs.iter().map(|pack| pack.id).collect(),
            false => vec![nowhere],
        };
        repository.put_record(&Name::Condemned(1).to_string(), &Condemned { packs }).unwrap();
        prune::run(&repository, &now()).unwrap();
        made.reads_back(&world.open(2));
        // Nothing more is made of it.
        prune::run(&world.open(3), &now()).unwrap();
        made.reads_back(&world.open(4));
    }
}

/// A long list of chunks stands in a chunk of its own; where that cannot be read, nobody knows what it leads to.
#[test]
fn a_damaged_entry_stops_a_prune_and_a_check_names_it() {
    let world = World::new();
    let repository = world.init();
    let first = store(&repository, &[b"content"]);
    let session = begin(&repository);
    let (writer, reader) = (session.writer(Tuning::default()), session.reader());
    let nodes = ReadWrite::new(&reader, Some(&writer));
    let mut builder = Builder::new(&nodes, repository.shape(repository.config().trees.objects));
    let item = Item {
        state: ItemState::Present,
        size: 7 * 1000,
        modified: 0,
        content: Content::Chunks(vec![(first.chunks[0], 7); 1000]),
        attributes: Attributes::Object(Box::default()),
    };
    builder.push(b"object".to_vec(), item.encode(), item.size).unwrap();
    let root = builder.finish().unwrap();
    let segment = writer.finish().unwrap().segment;
    let entry = segment.packs.iter().find(|pack| pack.kind == ChunkKind::Data).unwrap().clone();
    session.commit(snapshot(root, None, segment, 1000)).unwrap();
    forget(&repository, &first);
    let path = world.repository_path().join(Name::Pack(entry.kind, entry.id).to_string());
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[entry.chunks[0].offset as usize + 20] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    stops(&world, &world.open(2));
    let found = check::run(&world.open(3), check::Options { read_data: false }).unwrap().damage;
    let named = found.iter().map(|damage| (damage.kind, &damage.file[..], damage.snapshots.len()));
    assert_eq!(named.collect::<Vec<_>>(), [("chunk", &entry.chunks[0].id.to_string()[..], 1)]);
    std::fs::write(&path, whole).unwrap();
    prune::run(&world.open(2), &now()).unwrap();
    world.is_whole(4);
}

/// A store that has lost a file, or shows another state of itself, has not deleted a snapshot.
#[test]
fn a_record_that_is_listed_and_not_there_stops_a_prune() {
    let world = World::new();
    let repository = world.init();
    let (first, second) = (store(&repository, &[b"first"]), store(&repository, &[b"second"]));
    forget(&repository, &second);
    let lost = Name::Claim(first.sid).to_string();
    let plan = move |operation, name: &str| {
        let hits = operation == Operation::Get && name == lost;
        hits.then_some(Injected::Instead(Cause::NotFound))
    };
    let failing = world.open_on(2, Arc::new(Faulty::new(world.local(), plan)));
    let error = stops(&world, &failing);
    assert!(error.to_string().contains(&first.sid.to_string()), "{error}");
    prune::run(&repository, &now()).unwrap();
    first.reads_back(&repository);
}

#[test]
fn a_snapshot_that_the_verdict_names_and_that_is_lost_stops_a_prune_until_it_is_forgotten() {
    let world = World::new();
    let repository = world.init();
    let (lost, kept) = (store(&repository, &[b"lost"]), store(&repository, &[b"kept"]));
    prune::run(&repository, &now()).unwrap();
    std::fs::remove_file(world.repository_path().join(Name::Claim(lost.sid).to_string())).unwrap();
    stops(&world, &world.open(2));
    let found = check::run(&world.open(4), check::Options { read_data: false }).unwrap().damage;
    let files: Vec<&str> = found.iter().map(|damage| &*damage.file).collect();
    assert_eq!(files, [Name::Claim(lost.sid).to_string()]);
    let told = world.program().args(["forget", &lost.sid.to_string(), "--prune"]).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    kept.reads_back(&world.open(3));
    world.is_whole(3);
}

#[test]
fn a_restore_that_ends_while_a_verdict_is_carried_out_has_ended() {
    let world = World::new();
    let repository = world.init();
    let (first, kept) = (store(&repository, &[b"first"]), store(&repository, &[b"kept"]));
    let reading = world.open(2);
    std::mem::forget(reading.begin_read(first.sid).unwrap());
    let names = files(&world.repository_path());
    let mut sessions = names.iter().filter_map(|name| name.strip_prefix("sessions/"));
    let open = sessions.find(|sid| !names.contains(&format!("snapshots/{sid}"))).unwrap();
    let (sid, other) = (open.parse().unwrap(), reading.clone());
    forget(&repository, &first);
    let closing = move |operation, name: &str| {
        if operation == Operation::Delete && name.starts_with("sessions/") {
            other.close(sid, "it has ended").unwrap();
        }
        None
    };
    let pruning = world.open_on(3, Arc::new(Faulty::new(world.local(), closing)));
    prune::run(&pruning, &now()).unwrap();
    let names = files(&world.repository_path());
    let (session, claim) = (Name::Session(sid).to_string(), Name::Claim(sid).to_string());
    assert!(!names.contains(&session) || names.contains(&claim), "it looks open: {names:?}");
    prune::run(&repository, &now()).unwrap();
    let names = files(&world.repository_path());
    assert!(!names.contains(&session) && !names.contains(&claim), "{names:?}");
    kept.reads_back(&repository);
}

#[test]
fn a_damaged_record_stops_a_prune() {
    let world = World::new();
    let repository = world.init();
    let first = store(&repository, &[b"first"]);
    let second = store(&repository, &[b"second"]);
    forget(&repository, &second);
    let path = world.repository_path().join(Name::Claim(first.sid).to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    stops(&world, &world.open(2));
}

#[test]
fn a_snapshot_whose_record_is_damaged_can_be_forgotten_by_its_id() {
    let world = World::new();
    let repository = world.init();
    let (damaged, kept) = (store(&repository, &[b"damaged"]), store(&repository, &[b"kept"]));
    let path = world.repository_path().join(Name::Claim(damaged.sid).to_string());
    std::fs::write(&path, b"damaged").unwrap();
    let options = icecore::forget::Options {
        named: vec![damaged.sid],
        series: None,
        policy: Default::default(),
        max_size: None,
        prune: Some(now()),
        dry_run: false,
        zone: jiff::tz::TimeZone::UTC,
    };
    let repository = world.open(2);
    let report = icecore::forget::run(&repository, &options).unwrap();
    assert_eq!((report.damaged, report.decisions.len()), (vec![damaged.sid], 1));
    assert!(!path.exists());
    kept.reads_back(&repository);
    world.is_whole(3);
}

#[test]
fn a_missing_pack_that_is_needed_stops_a_prune_and_one_that_is_not_is_listed_no_more() {
    let world = World::new();
    let repository = world.init();
    let first = store(&repository, &[b"first"]);
    let second = store(&repository, &[b"second"]);
    let pack =
        repository.reader(&repository.view().unwrap()).unwrap().places(&first.chunks[0]).unwrap()[0].pack;
    let name = Name::Pack(ChunkKind::Data, pack).to_string();
    repository.storage().delete(&name).unwrap();
    assert_eq!(prune::run(&repository, &now()).unwrap_err().kind(), Kind::Damage);
    forget(&repository, &first);
    prune::run(&repository, &now()).unwrap();
    assert!(store(&repository, &[b"first"]).new[0], "a pack that is not there was referred to");
    second.reads_back(&repository);
    world.is_whole(4);
}
