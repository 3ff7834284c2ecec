//! The index of this machine at size: inserts, look-ups, what a second command waits for, and memory.
//!
//! ```text
//! cargo bench --bench index -- 10000000 100000000     # chunks; a hundred thousand in each segment
//! ```
//! It prints a table, a row for each number of chunks.
//!
//! The table is made below TMPDIR and goes afterwards. Each part is a process of its own, so that the memory is its
//! own. Names of chunks are drawn, as hashes are; so are those that are looked for. The files stay in the kernel's
//! cache as far as that has room.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use icecore::context::SystemRandom;
use icecore::format::{PackEntry, PackedChunk, Segment};
use icecore::id::{ChunkId, ChunkKind, PackId};
use icecore::store::{self, Index, Wanted};

/// Chunks of a segment, and of a pack in it.
const SEGMENT: u64 = 100_000;
const PACK: u64 = 1000;
const LOOK_UPS: u64 = 500_000;

/// A number that looks drawn (SplitMix64).
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The name of chunk `n`.
fn name(n: u64) -> ChunkId {
    let mut id = [0; 32];
    id.chunks_exact_mut(8)
        .zip(1..)
        .for_each(|(word, part)| word.copy_from_slice(&mixed(4 * n + part).to_le_bytes()));
    ChunkId(id)
}

fn pack(number: u64) -> PackEntry {
    let chunk = |n: u64| PackedChunk { id: name(number * PACK + n), offset: 0, stored: 100, plain: 90 };
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    PackEntry { id: PackId(id), kind: ChunkKind::Data, size: 0, chunks: (0..PACK).map(chunk).collect() }
}

fn segment(number: u64) -> Segment {
    Segment { packs: (number * SEGMENT / PACK..(number + 1) * SEGMENT / PACK).map(pack).collect() }
}

fn open(home: &Path, chunks: u64) -> Index {
    let one = |number: u64| Wanted { name: number.to_string(), size: 0, reusable: true, segment: None };
    let wanted: Vec<Wanted> = (0..chunks / SEGMENT).map(one).collect();
    let load = |name: &str| -> store::Result<Segment> { Ok(segment(name.parse().unwrap())) };
    Index::open(home, &wanted, HashSet::new(), &SystemRandom, &load).unwrap()
}

/// The most memory that this process has had, in MiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn thousands(count: u64, began: Instant) -> String {
    format!("{:.0} thousand/s", count as f64 / began.elapsed().as_secs_f64() / 1e3)
}

fn cell(text: String) {
    print!(" {text} |");
}

const COLUMNS: [&str; 7] = [
    "chunks",
    "inserted in",
    "at",
    "a command opens it in, ms",
    "look-ups of what is there",
    "of what is not",
    "resident, inserting and looking up, MiB",
];

fn insert(home: &Path, chunks: u64) {
    let began = Instant::now();
    drop(open(home, chunks));
    cell(format!("{:.1} s", began.elapsed().as_secs_f64()));
    cell(thousands(chunks, began));
}

/// What another command does once they are there.
fn look_up(home: &Path, chunks: u64) {
    let mut opened: Vec<f64> = Vec::new();
    for _ in 0..9 {
        let began = Instant::now();
        drop(open(home, chunks));
        opened.push(began.elapsed().as_secs_f64() * 1e3);
    }
    opened.sort_by(f64::total_cmp);
    cell(format!("{:.1} ({:.1}–{:.1})", opened[opened.len() / 2], opened[0], opened[8]));
    let index = open(home, chunks);
    for beyond in [0, chunks] {
        let began = Instant::now();
        for n in 0..LOOK_UPS {
            let found = index.find(&name(beyond + mixed(n) % chunks)).unwrap();
            assert_eq!(found.len(), usize::from(beyond == 0));
        }
        cell(thousands(LOOK_UPS, began));
    }
}

/// Prints cells of a table in `home`, of so many chunks.
type Part = fn(&Path, u64);

const PARTS: [(&str, Part); 2] = [("insert", insert), ("look-up", look_up)];

/// One part in a process of its own: the row's cells, and the most memory that it had.
fn apart(part: &str, home: &Path, chunks: &str) -> (String, u64) {
    let mut itself = Command::new(std::env::current_exe().unwrap());
    let output = itself.arg(part).arg(home).arg(chunks).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{part} of {chunks} chunks failed");
    let said = String::from_utf8(output.stdout).unwrap();
    let (cells, memory) = said.rsplit_once('\n').unwrap();
    (cells.to_owned(), memory.parse().unwrap())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [part, home, chunks] = &arguments[..]
        && PARTS.iter().any(|(name, _)| name == part)
    {
        let (home, chunks) = (Path::new(home), chunks.parse().unwrap());
        PARTS.iter().filter(|(name, _)| name == part).for_each(|(_, run)| run(home, chunks));
        print!("\n{}", memory());
        return;
    }
    println!("| {} |\n|{}", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()));
    let usual = ["10000000".to_owned()];
    for chunks in if arguments.is_empty() { &usual[..] } else { &arguments[..] } {
        let home = tempfile::tempdir().unwrap();
        let [(inserted, most), (looked_up, then)] = PARTS.map(|(part, _)| apart(part, home.path(), chunks));
        println!("| {chunks} |{inserted}{looked_up} {most}, {then} |");
    }
}
