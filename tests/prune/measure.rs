//! Not tests: figures for docs/performance.md.

use std::time::Instant;

use icecore::forget::{self, Policy};
use icecore::prune::{self, Options};

use crate::bound::options;
use crate::now;
use crate::world::{World, bytes_of, files, noise, store};

/// The most memory that this process has had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn tell(world: &World, what: &str, since: Instant) {
    let path = world.repository_path();
    let (count, bytes) = (files(&path).len(), bytes_of(&path) as f64 / f64::from(1 << 20));
    println!(
        "{what}: {:.1} s; {count} files, {bytes:.1} MiB; peak {} MiB",
        since.elapsed().as_secs_f64(),
        peak()
    );
}

#[test]
#[ignore = "takes a minute; prints figures"]
fn a_thousand_snapshots_with_a_prune_after_each_twenty() {
    let world = World::new();
    let repository = world.init();
    // 200 objects of 4 KB, of which four change each time.
    let mut contents: Vec<Vec<u8>> = (0..200u32).map(|n| noise(n as u8, 4000)).collect();
    let rules = Policy { last: 300, ..Policy::default() };
    let (began, mut spent) = (Instant::now(), [0.0, 0.0]);
    for round in 0..1000usize {
        for n in 0..4 {
            let place = (round * 4 + n) % contents.len();
            contents[place] = [&round.to_le_bytes()[..], &noise(n as u8, 4000)].concat();
        }
        let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        let before = Instant::now();
        store(&repository, &contents);
        spent[0] += before.elapsed().as_secs_f64();
        if round % 20 == 19 {
            let before = Instant::now();
            forget::run(&repository, &options(rules.clone(), None)).unwrap();
            spent[1] += before.elapsed().as_secs_f64();
        }
        if round % 250 == 249 {
            tell(&world, &format!("{} snapshots", round + 1), began);
        }
    }
    println!("a backup {:.0} ms, a forget and prune {:.2} s on average", spent[0], spent[1] / 50.0);
    let before = Instant::now();
    let view = repository.view().unwrap();
    let newest_first: Vec<_> = view.snapshots.iter().rev().collect();
    forget::curve(&repository, &view, &newest_first).unwrap();
    tell(&world, &format!("the size curve of {} snapshots", view.snapshots.len()), before);
    world.is_whole(2);
}

#[test]
#[ignore = "takes a minute; prints figures"]
fn a_million_chunks_of_which_half_are_forgotten() {
    let world = World::new();
    let repository = world.init();
    let content = |half: usize, n: usize| format!("{half} {n} and some more bytes").into_bytes();
    let began = Instant::now();
    let both: Vec<_> = (0..2)
        .map(|half| {
            let contents: Vec<Vec<u8>> = (0..500_000).map(|n| content(half, n)).collect();
            store(&repository, &contents.iter().map(Vec::as_slice).collect::<Vec<_>>())
        })
        .collect();
    tell(&world, "two snapshots of 500,000 chunks each", began);
    crate::world::forget(&repository, &both[0]);
    let began = Instant::now();
    let report = prune::run(&repository, &Options { max_unused: 0.0, ..now() }).unwrap();
    tell(&world, &format!("prune, {} packs deleted", report.packs), began);
}
