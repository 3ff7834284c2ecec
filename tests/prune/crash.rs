//! Stopped after every step that changes the medium: what was committed stays whole, and the next run goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use icecore::fault::Kind;
use icecore::repository::{KeyCost, Repository};
use icecore::storage::{Cause, Faulty, Injected, Operation};
use icecore::{check, prune};

use crate::now;
use crate::world::{Made, World, begin, files, forget, noise, store, try_store};

/// A repository with waste, garbage and something forgotten; gives what must stay.
fn prepared() -> (World, Vec<Made>) {
    let world = World::new();
    let repository = world.init();
    let wasteful = store(&repository, &[&noise(1, 3000), &noise(2, 90_000)]);
    let kept =
        [store(&repository, &[&noise(1, 3000), &noise(3, 500)]), store(&repository, &[&noise(4, 700)])];
    let session = begin(&repository);
    let writer = session.writer(Default::default());
    writer.put(icecore::id::ChunkKind::Data, noise(5, 5000)).unwrap();
    writer.give_up().unwrap();
    drop(session);
    forget(&repository, &wasteful);
    (world, kept.to_vec())
}

/// Nothing works any more after so many changes; the last one may have happened unheard.
fn stopping(world: &World, changes: i64, unheard: bool) -> Repository {
    let left = AtomicI64::new(changes);
    let dead = || Cause::Refused(Kind::Failed, "the machine is off".into());
    let plan = move |operation, _: &str| match operation {
        Operation::Get | Operation::List => {
            (left.load(Ordering::SeqCst) < 0).then(|| Injected::Instead(dead()))
        }
        Operation::Put | Operation::Delete => match left.fetch_sub(1, Ordering::SeqCst) {
            1.. => None,
            0 if unheard => Some(Injected::After(dead())),
            _ => Some(Injected::Instead(dead())),
        },
    };
    world.open_on(7, Arc::new(Faulty::new(world.local(), plan)))
}

/// Lets `action` run into every stop; gives how many there were.
fn everywhere(action: impl Fn(&Repository) -> bool) -> i64 {
    let (prepared, kept) = prepared();
    for changes in 0.. {
        for unheard in [false, true] {
            let world = prepared.copy();
            let finished = action(&stopping(&world, changes, unheard));
            let told = format!("stopped after {changes} changes, unheard: {unheard}");
            let repository = world.open(1);
            kept.iter().for_each(|made| made.reads_back(&repository));
            world.is_whole(2);
            let next = store(&repository, &[&noise(1, 3000), &noise(9, 100)]);
            prune::run(&repository, &now()).unwrap_or_else(|error| panic!("{told}: {error}"));
            kept.iter().chain([&next]).for_each(|made| made.reads_back(&world.open(3)));
            world.is_whole(4);
            let path = world.repository_path();
            let left = ["sessions", "forgotten"].map(|folder| files(&path.join(folder)).len());
            assert_eq!(left, [0, 0], "{told}");
            let plan = prune::plan(&repository, &now(), &Default::default()).unwrap();
            assert!(plan.is_empty(), "{told}: {plan:?}");
            if finished && !unheard {
                return changes;
            }
        }
    }
    unreachable!("it ends")
}

#[test]
fn a_prune_may_stop_after_any_change() {
    let stops = everywhere(|repository| prune::run(repository, &now()).is_ok());
    assert!(stops >= 12, "only {stops}");
}

#[test]
fn a_backup_may_stop_after_any_change() {
    let stops = everywhere(|repository| {
        let latest = |all: &[icecore::repository::SnapshotInfo]| Ok(all.last().cloned());
        let Ok(session) = repository.begin_write(latest) else { return false };
        try_store(repository, session, &[&noise(1, 3000), &noise(6, 4000)]).is_ok()
    });
    assert!(stops >= 4, "only {stops}");
}

#[test]
fn a_forget_may_stop_after_any_change() {
    let (prepared, kept) = prepared();
    for unheard in [false, true] {
        let world = prepared.copy();
        let repository = stopping(&world, 0, unheard);
        let view = repository.view().unwrap();
        let info = view.snapshots.iter().find(|info| info.id == kept[1].sid).unwrap();
        assert!(icecore::forget::forget(&repository, info).is_err());
        let there = world.open(1).view().unwrap().snapshots.len();
        assert_eq!(there, if unheard { 1 } else { 2 });
        prune::run(&world.open(1), &now()).unwrap();
        kept[0].reads_back(&world.open(2));
        world.is_whole(3);
    }
}

#[test]
fn a_change_of_keys_may_stop_after_any_change() {
    const COST: KeyCost = KeyCost { memory: 64, passes: 1 };
    const PASSPHRASES: [&str; 3] = ["passphrase", "new", "second"];
    let (prepared, kept) = prepared();
    let second = prepared.open(1).add_key("second", COST).unwrap();
    // What is done, what opens the repository in any case, and afterwards.
    type Action<'a> = (&'a str, &'a dyn Fn(&Repository) -> bool, &'a [&'a str], [bool; 3]);
    let actions: [Action; 3] = [
        ("add", &|by| by.add_key("new", COST).is_ok(), &["passphrase"], [true, true, true]),
        (
            "passwd",
            &|by| by.change_passphrase("new", COST).is_ok(),
            &["passphrase", "new"],
            [false, true, true],
        ),
        ("remove", &|by| by.remove_key(&second).is_ok(), &["passphrase"], [true, false, false]),
    ];
    let mut stops = 0;
    for (what, action, one_of, after) in actions {
        for (changes, unheard) in (0..).flat_map(|changes| [(changes, true), (changes, false)]) {
            let world = prepared.copy();
            let opens = |passphrase: &&str| world.open_by(2, passphrase);
            let finished = action(&stopping(&world, changes, unheard));
            let told = format!("{what}, stopped after {changes} changes, unheard: {unheard}");
            let opened = one_of.iter().find_map(opens).unwrap_or_else(|| panic!("{told}: nothing opens it"));
            kept.iter().for_each(|made| made.reads_back(&opened));
            let report = check::run(&opened, check::Options { read_data: true }).unwrap();
            assert_eq!(report.damage, [], "{told}");
            // A key that is gone cannot be removed once more.
            let again = action(&opened) || what == "remove" && opens(&"second").is_none();
            assert!(again, "{told}: it cannot be gone on with");
            assert_eq!(PASSPHRASES.map(|passphrase| opens(&passphrase).is_some()), after, "{told}");
            stops += 1;
            if finished && !unheard {
                break;
            }
        }
    }
    assert!(stops >= 10, "only {stops}");
}
