//! Rules and the size bound on real repositories.

use icecore::context::{Random, Seeded};
use icecore::forget::{self, Options, Policy, Reason};
use icecore::prune;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::now;
use crate::world::{Made, World, begin, bytes_of, forget as forget_one, noise, store};

pub fn options(policy: Policy, max_size: Option<u64>) -> Options {
    Options {
        named: vec![],
        series: None,
        policy,
        max_size,
        prune: Some(now()),
        dry_run: false,
        zone: TimeZone::UTC,
    }
}

/// Snapshots of random sizes that share some of their contents.
fn history(random: &Seeded) -> (World, Vec<Made>) {
    let world = World::new();
    let repository = world.init();
    let draw = |most: u64| {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        u64::from_le_bytes(bytes) % most
    };
    let made = (0..4 + draw(5)).map(|_| {
        let contents: Vec<Vec<u8>> = (0..1 + draw(4))
            // The same seed and length are the same content.
            .map(|_| noise(draw(12) as u8, 500 + 3000 * draw(9) as usize))
            .collect();
        let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        store(&repository, &contents)
    });
    let made = made.collect();
    (world, made)
}

#[test]
fn the_repository_is_at_most_as_large_as_the_bound_and_as_many_of_the_newest_as_fit_are_kept() {
    // Some histories; with ICECORE_SOAK=1 many.
    let rounds = if std::env::var_os("ICECORE_SOAK").is_some() { 20 } else { 1 };
    let mut dropped = 0;
    for (seed, percent) in
        (0..rounds).flat_map(|n| [35, 50, 60, 70, 80, 90, 97].map(|percent| (77 + n, percent)))
    {
        let (world, made) = history(&Seeded::new(100 * seed + percent));
        let copy = world.copy();
        prune::run(&copy.open(1), &prune::Options { max_unused: 0.0, ..now() }).unwrap();
        let max = bytes_of(&copy.repository_path()) * percent / 100;
        let report = forget::run(&world.open(1), &options(Policy::default(), Some(max))).unwrap();
        let real = bytes_of(&world.repository_path());
        assert_eq!(real, report.repository_bytes);
        let left = world.open(2).view().unwrap().snapshots.len();
        let told = format!("seed {seed}, {percent}%: {left} of {} stay, {real} of {max} bytes", made.len());
        println!("{told}");
        match report.over {
            None => assert!(real <= max, "{told}"),
            Some(over) => assert_eq!((left, real - max), (1, over), "{told}"),
        }
        dropped += made.len() - left;
        made[made.len() - left..].iter().for_each(|made| made.reads_back(&world.open(3)));
        world.is_whole(4);
        if left < made.len() {
            // With one more it does not fit.
            assert!(bytes_with(&made, left + 1) > max, "{told}: one more fits");
        }
    }
    assert!(dropped > 8, "only {dropped} were dropped");
}

/// Bytes of a repository that holds the last `count` of these contents and nothing else, pruned.
fn bytes_with(made: &[Made], count: usize) -> u64 {
    let world = World::new();
    let repository = world.init();
    let again: Vec<Made> = made
        .iter()
        .map(|made| store(&repository, &made.contents.iter().map(Vec::as_slice).collect::<Vec<_>>()))
        .collect();
    again[..again.len() - count].iter().for_each(|made| forget_one(&repository, made));
    prune::run(&repository, &prune::Options { max_unused: 0.0, ..now() }).unwrap();
    bytes_of(&world.repository_path())
}

#[test]
fn what_is_protected_stays_and_it_is_said_by_how_much_it_does_not_fit() {
    let world = World::new();
    let repository = world.init();
    let made: Vec<Made> = (0..5).map(|n| store(&repository, &[&noise(n, 20_000)])).collect();
    let policy = Policy { at_least: 3, ..Policy::default() };
    let dry = Options { dry_run: true, ..options(policy.clone(), Some(30_000)) };
    let report = forget::run(&repository, &dry).unwrap();
    assert_eq!(report.forgotten().count(), 2);
    assert!(report.over.is_some_and(|over| over > 30_000), "{:?}", report.over);
    assert_eq!(repository.view().unwrap().snapshots.len(), 5, "a dry run changes nothing");
    let report = forget::run(&repository, &options(policy, Some(30_000))).unwrap();
    assert_eq!(report.over, Some(bytes_of(&world.repository_path()) - 30_000));
    let left: Vec<_> = repository.view().unwrap().snapshots.iter().map(|info| info.id).collect();
    assert_eq!(left, made[2..].iter().map(|made| made.sid).collect::<Vec<_>>());
    world.is_whole(2);
}

#[test]
fn rules_keep_the_newest_and_a_prune_frees_what_the_dry_run_said() {
    let world = World::new();
    let repository = world.init();
    let made: Vec<Made> = (0..4).map(|n| store(&repository, &[&noise(n, 9000)])).collect();
    let policy = Policy { last: 2, ..Policy::default() };
    let dry = forget::run(&repository, &Options { dry_run: true, ..options(policy.clone(), None) }).unwrap();
    let reasons: Vec<&[Reason]> = dry.decisions.iter().map(|decision| decision.reasons.as_slice()).collect();
    let not: &[Reason] = &[Reason::NotKept];
    assert_eq!(reasons, [not, not, &[Reason::Last], &[Reason::Newest, Reason::Last]]);
    let plan = dry.plan.unwrap();
    let before = bytes_of(&world.repository_path().join("packs"));
    forget::run(&repository, &options(policy, None)).unwrap();
    assert_eq!(before - bytes_of(&world.repository_path().join("packs")), plan.frees());
    made[2..].iter().for_each(|made| made.reads_back(&world.open(2)));
    world.is_whole(3);
}

/// The program's exit code, its last line on stdout and what it said.
fn program(world: &World, arguments: &[&str]) -> (Option<i32>, Value, Value) {
    let output = world.program().args(arguments).output().unwrap();
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        serde_json::from_str(text.lines().last().unwrap_or("null")).unwrap_or(Value::Null)
    };
    (output.status.code(), last(&output.stdout), last(&output.stderr))
}

#[test]
fn a_bound_that_cannot_be_met_ends_with_5_and_one_that_waits_for_a_backup_with_3() {
    let world = World::new();
    let repository = world.init();
    (0..5).for_each(|n| drop(store(&repository, &[&noise(n, 20_000)])));
    let (code, said, _) = program(&world, &["forget", "--max-size", "90000", "--prune"]);
    assert_eq!((code, &said["over_bytes"]), (Some(0), &Value::Null), "{said}");
    let now = bytes_of(&world.repository_path());
    assert!(now <= 90_000 && said["repository_bytes"] == now, "{now} {said}");
    assert_eq!(repository.view().unwrap().snapshots.len(), 4, "as many as fit");

    // What may not be dropped does not fit: said before anything is done, and after it.
    let arguments = ["forget", "--max-size", "50000", "--keep-at-least", "3", "--prune"];
    for more in [&["--dry-run"][..], &[]] {
        let (code, said, error) = program(&world, &[&arguments, more].concat());
        assert_eq!((code, &error["error"]["code"]), (Some(5), &"size_bound".into()), "{said} {error}");
        assert!(said["over_bytes"].as_u64().is_some_and(|over| over > 10_000), "{said}");
    }
    assert_eq!(repository.view().unwrap().snapshots.len(), 3);

    // A backup that runs may hold more than it will in the end.
    let session = begin(&repository);
    let arguments = ["forget", "--max-size", "100", "--prune", "--no-wait"];
    assert_eq!(program(&world, &arguments).0, Some(3));
    drop(session);
    assert_eq!(program(&world, &arguments).0, Some(5), "the newest stays");
    assert_eq!(repository.view().unwrap().snapshots.len(), 1);
    world.is_whole(2);
}
