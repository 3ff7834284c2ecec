//! Not tests: figures for docs/performance.md. `benches/collection.sh` runs them, and takes the tables that they print.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use icecore::backup;
use icecore::check;
use icecore::context::FixedClock;
use icecore::forget::{self, Period, Policy};
use icecore::format::{Attributes, Content, Item, ItemState};
use icecore::id::{ChunkId, ChunkKind, SessionId};
use icecore::prune;
use icecore::repository::{KeyCost, Repository};
use icecore::source::DirectoryOptions;
use icecore::store::Tuning;
use icecore::tree::{Builder, ReadWrite};

use crate::bound::options;
use crate::common::Server;
use crate::now;
use crate::world::{World, begin, bytes_of, files, noise, snapshot, store};

/// A number that whoever measures may set.
fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// The most memory that this process has had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The head of a table; not on the line that names the test.
fn table(columns: &[&str]) {
    println!("\n| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()));
}

fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

fn since(began: Instant) -> String {
    format!("{:.2} s", began.elapsed().as_secs_f64())
}

fn size(world: &World) -> String {
    let path = world.repository_path();
    format!("{} files, {}", files(&path).len(), mib(bytes_of(&path)))
}

/// Requests since the last time this was asked.
fn requests(repository: &Repository, last: &mut [u64; 4]) -> String {
    let counts = repository.requests();
    let now = [&counts.lists, &counts.gets, &counts.puts, &counts.deletes];
    let now = now.map(|count: &AtomicU64| count.load(Ordering::Relaxed));
    let [lists, gets, puts, deletes] = [0, 1, 2, 3].map(|n| now[n] - last[n]);
    *last = now;
    format!("{lists} listings, {gets} gets, {puts} puts, {deletes} deletes")
}

fn a_thousand_snapshots(world: &World, medium: &str) {
    let repository = world.init();
    // 200 objects of 4 KB, of which four change each time.
    let mut contents: Vec<Vec<u8>> = (0..200u32).map(|n| noise(n as u8, 4000)).collect();
    let (began, count) = (Instant::now(), setting("SNAPSHOTS", 1000) as usize);
    for round in 0..count {
        for n in 0..4 {
            let place = (round * 4 + n) % contents.len();
            contents[place] = [&round.to_le_bytes()[..], &noise(n as u8, 4000)].concat();
        }
        store(&repository, &contents.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }
    let each = began.elapsed().as_secs_f64() * 1e3 / count as f64;
    table(&[medium, "", "requests"]);
    row(&["a snapshot of 200 objects, four of them new".into(), format!("{each:.1} ms"), "".into()]);
    let mut last = [0; 4];
    requests(&repository, &mut last);
    let began = Instant::now();
    let view = repository.view().unwrap();
    let newest_first: Vec<_> = view.snapshots.iter().rev().collect();
    forget::curve(&repository, &view, &newest_first).unwrap();
    row(&[format!("the size curve of {count}"), since(began), requests(&repository, &mut last)]);
    for keep in [count * 9 / 10, count / 2, 10] {
        let began = Instant::now();
        let report =
            forget::run(&repository, &options(Policy { last: keep as u64, ..Policy::default() }, None))
                .unwrap();
        let (forgotten, all) = (report.forgotten().count(), report.decisions.len());
        let stay = mib(report.repository_bytes);
        let what = format!("forget {forgotten} of {all} and prune, of which {stay} stay");
        row(&[what, since(began), requests(&repository, &mut last)]);
    }
    row(&["resident at the most".into(), format!("{} MiB", peak()), "".into()]);
    world.is_whole(2);
}

#[test]
#[ignore = "prints figures"]
fn a_thousand_snapshots_in_a_directory() {
    a_thousand_snapshots(&World::new(), "in a directory");
}

#[test]
#[ignore = "prints figures"]
fn a_thousand_snapshots_on_minio() {
    a_thousand_snapshots(&World::on(Server::minio()), "on MinIO");
}

/// What the shortest command takes on a thousand snapshots, and asks for: with a key that costs nothing to open, on
/// what is in the cache and on nothing, and with a key of a passphrase as it is made usually.
#[test]
#[ignore = "prints figures"]
fn the_start_of_a_command_on_a_thousand_snapshots() {
    let (world, count) = (World::new(), setting("SNAPSHOTS", 1000));
    let repository = world.init();
    for round in 0..count {
        store(&repository, &[&round.to_le_bytes(), &noise(1, 100)]);
    }
    drop(repository);
    table(&["`icecore snapshots`, with", "median of 30", "least", "requests"]);
    started(&world, "a generated passphrase", || ());
    let empty = || std::fs::remove_dir_all(world.cache_path(1)).unwrap();
    started(&world, "the same, and nothing in the cache", empty);
    let cost = KeyCost::of("passphrase");
    world.open(1).change_passphrase("passphrase", cost).unwrap();
    started(&world, "one that somebody chose", || ());
}

/// A line of how long the command takes, each time after `before`.
fn started(world: &World, key: &str, before: impl Fn()) {
    before();
    let (repository, mut last) = (world.open(1), [0; 4]);
    repository.view_of_snapshots().unwrap();
    let requests = requests(&repository, &mut last);
    drop(repository);
    let mut seconds: Vec<f64> = Vec::new();
    for _ in 0..30 {
        before();
        let (mut command, began) = (world.program(), Instant::now());
        let output = command.arg("snapshots").output().unwrap();
        seconds.push(began.elapsed().as_secs_f64());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let least = seconds.iter().copied().fold(f64::INFINITY, f64::min) * 1e3;
    row(&[key.into(), format!("{:.1} ms", median(&seconds)), format!("{least:.1} ms"), requests]);
}

/// Chunks of an object.
const EACH: u64 = 8;

/// Chunk `n`: some 100 bytes that do not compress.
fn small(n: u64) -> Bytes {
    let mut bytes = vec![0; 100];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// A snapshot of objects of eight chunks, every `step`th of those that `chunks` chunks make. Only the first stores
/// their content, on all cores; the others stand on it.
fn of_chunks(repository: &Repository, chunks: u64, step: usize) -> SessionId {
    let session = begin(repository);
    let (writer, reader) = (session.writer(Tuning::default()), session.reader());
    let nodes = ReadWrite::new(&reader, Some(&writer));
    let objects = || (0..chunks / EACH).step_by(step);
    let contents = |object: u64| (object * EACH..(object + 1) * EACH).map(small);
    let root = std::thread::scope(|scope| {
        let writer = &writer;
        for half in (0..2).filter(|_| session.parent.is_none()) {
            scope.spawn(move || {
                for content in objects().skip(half).step_by(2).flat_map(contents) {
                    writer.put(ChunkKind::Data, &content[..]).unwrap();
                }
            });
        }
        let namer = repository.namer();
        let mut builder = Builder::new(&nodes, repository.shape(repository.config().trees.objects));
        for object in objects() {
            let name = |content: Bytes| (namer.name(ChunkKind::Data, &content), 100);
            let content: Vec<(ChunkId, u32)> = contents(object).map(name).collect();
            let item = Item {
                state: ItemState::Present,
                size: 100 * EACH,
                modified: 0,
                content: Content::Chunks(content),
                attributes: Attributes::Object(Box::default()),
            };
            builder.push(format!("object-{object:012}").into_bytes(), item.encode(), item.size).unwrap();
        }
        builder.finish().unwrap()
    });
    let segment = writer.finish().unwrap().segment;
    let sid = session.sid;
    let parent = session.parent.as_ref().map(|parent| parent.id);
    session.commit(snapshot(root, parent, segment, step as i64)).unwrap();
    sid
}

/// Runs the program: a row of how long it took and how much memory it had.
fn timed(world: &World, what: &str, arguments: &[&str]) {
    let program = world.program();
    let mut command = Command::new("/usr/bin/time");
    command.args(["-f", "%e %U %S %M"]).arg(program.get_program());
    command.args(program.get_args()).args(arguments);
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let last = said.lines().last().unwrap();
    let said: Vec<f64> = last.split(' ').map(|number| number.parse().unwrap()).collect();
    let [wall, user, system, kib] = said[..] else { panic!("{last}") };
    row(&[
        what.into(),
        format!("{wall:.2} s"),
        format!("{:.2} s", user + system),
        format!("{:.0} MiB", kib / 1024.0),
    ]);
}

/// A million; ten with `CHUNKS=10000000`.
#[test]
#[ignore = "prints figures"]
fn millions_of_chunks_of_which_every_second_object_is_forgotten() {
    let chunks = setting("CHUNKS", 1_000_000);
    let world = World::new();
    let repository = world.init();
    let began = Instant::now();
    let all = of_chunks(&repository, chunks, 1);
    println!("a snapshot of {chunks} chunks: {}; {}", since(began), size(&world));
    of_chunks(&repository, chunks, 2);
    drop(repository);
    let what = format!("{chunks} chunks of 100 bytes, in a directory");
    table(&[&what, "wall", "CPU", "peak resident"]);
    timed(&world, "`stats --snapshots`", &["stats", "--snapshots"]);
    timed(&world, "the plan, all is needed (`prune --dry-run`)", &["prune", "--dry-run"]);
    let forget = ["forget", &all.to_string(), "--prune", "--max-unused", "0%"];
    timed(&world, "forget and prune: half of the chunks are copied and read back", &forget);
    timed(&world, "`prune` once more: nothing to do", &["prune"]);
    timed(&world, "`check` of the rest", &["check"]);
}

/// The same on MinIO, in this process, which counts requests.
#[test]
#[ignore = "prints figures"]
fn requests_for_millions_of_chunks_on_minio() {
    let chunks = setting("CHUNKS", 1_000_000);
    let world = World::on(Server::minio());
    let repository = world.init();
    let all = of_chunks(&repository, chunks, 1);
    of_chunks(&repository, chunks, 2);
    let mut last = [0; 4];
    requests(&repository, &mut last);
    table(&[&format!("{chunks} chunks of 100 bytes, on MinIO"), "wall", "requests"]);
    let mut told = |what: &str, began: Instant| {
        row(&[what.into(), since(began), requests(&repository, &mut last)]);
    };
    let tight = prune::Options { max_unused: 0.0, ..now() };
    let began = Instant::now();
    prune::plan(&repository, &tight, &HashSet::new()).unwrap();
    told("the plan", began);
    let mut forgotten = options(Policy::default(), None);
    (forgotten.named, forgotten.prune) = (vec![all], Some(tight));
    let began = Instant::now();
    forget::run(&repository, &forgotten).unwrap();
    told("forget and prune", began);
    let began = Instant::now();
    assert!(check::run(&repository, check::Options::default()).unwrap().damage.is_empty());
    told("check", began);
}

/// Every five minutes a backup of a directory of 200 files, of which two change; once a day forget and prune.
/// The time is a value: `DAYS` of it, a month else.
#[test]
#[ignore = "prints figures"]
fn a_backup_every_five_minutes() {
    const MINUTE: i64 = 60_000_000_000;
    let (world, days) = (World::new(), setting("DAYS", 30) as i64);
    world.init();
    let source = world.repository_path().with_file_name("source");
    std::fs::create_dir(&source).unwrap();
    let write = |n: i64, round: i64| {
        let content = [&round.to_le_bytes()[..], &noise((n % 251) as u8, 4000)].concat();
        std::fs::write(source.join(format!("file-{}", n % 200)), content).unwrap();
    };
    (0..200).for_each(|n| write(n, 0));
    let rules = Policy {
        within: Some(jiff::Span::new().days(3)),
        periods: [(Period::Day, 30)].into(),
        ..Policy::default()
    };
    // After the files were really written: what is younger than a listing is read again.
    let begin = jiff::Timestamp::from_second(1_830_297_600).unwrap().as_nanosecond() as i64;
    let at = |now: i64| world.open_at(1, Arc::new(FixedClock(begin + now)));
    let mut spent: Vec<f64> = Vec::new();
    table(&[
        "day",
        "snapshots",
        "repository",
        "a backup, median of the last 200",
        "forget and prune",
        "resident at the most",
    ]);
    for round in 0..days * 288 {
        write(2 * round, round);
        write(2 * round + 1, round);
        let began = Instant::now();
        let report = backup::run(&at(round * 5 * MINUTE), &directory(&source)).unwrap();
        spent.push(began.elapsed().as_secs_f64());
        assert!(round == 0 || report.objects.unwrap().1.read_count == 2);
        if round % 288 != 287 {
            continue;
        }
        let (repository, began) = (at(round * 5 * MINUTE + MINUTE), Instant::now());
        let kept = forget::run(&repository, &options(rules.clone(), None)).unwrap();
        let (day, pruned) = (round / 288 + 1, began.elapsed().as_secs_f64());
        if [1, 3, 10].contains(&day) || day % 30 == 0 || day == days {
            let kept = kept.decisions.iter().filter(|decision| decision.keep).count();
            let last = &spent[spent.len().saturating_sub(200)..];
            let (backup, pruned) = (format!("{:.1} ms", median(last)), format!("{pruned:.2} s"));
            row(&[
                day.to_string(),
                kept.to_string(),
                size(&world),
                backup,
                pruned,
                format!("{} MiB", peak()),
            ]);
        }
    }
    world.is_whole(2);
}

fn directory(path: &Path) -> backup::Options {
    let directory = DirectoryOptions { path: path.to_owned(), ..DirectoryOptions::default() };
    backup::Options {
        series: "default".into(),
        name: None,
        tags: vec![],
        etcd: None,
        objects: None,
        directory: Some(directory),
        new_line: false,
        max_size: None,
        prove: false,
        tuning: Tuning::default(),
    }
}

/// In milliseconds.
fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2] * 1e3
}
