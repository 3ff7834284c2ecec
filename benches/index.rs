//! The index of this machine at size: inserts, look-ups, what a second command waits for, and memory.
//!
//! ```text
//! cargo bench --bench index -- 10000000     # chunks; a hundred thousand in each segment
//! ```
//! The table is made below TMPDIR and goes afterwards. Each part is a process of its own, so that the memory is its
//! own. Names of chunks are drawn, as hashes are; so are those that are looked for. The files stay in the kernel's
//! cache as far as that has room.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, ExitCode};
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
    let one = |number: u64| Wanted { name: number.to_string(), reusable: true, segment: None };
    let wanted: Vec<Wanted> = (0..chunks / SEGMENT).map(one).collect();
    let load = |name: &str| -> store::Result<Segment> { Ok(segment(name.parse().unwrap())) };
    Index::open(home, &wanted, HashSet::new(), &SystemRandom, &load).unwrap()
}

/// The most memory that this process has had.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    format!("{} MiB resident at the most", kib / 1024)
}

fn rate(count: u64, began: Instant) -> String {
    let seconds = began.elapsed().as_secs_f64();
    format!("{seconds:.2} s, {:.0} thousand a second", count as f64 / seconds / 1e3)
}

fn insert(home: &Path, chunks: u64) {
    let began = Instant::now();
    (0..chunks / SEGMENT).for_each(|number| drop(std::hint::black_box(segment(number))));
    println!("drawing {chunks} names: {}", rate(chunks, began));
    let began = Instant::now();
    drop(open(home, chunks));
    println!("inserting them: {}; {}", rate(chunks, began), memory());
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
    let middle = opened[opened.len() / 2];
    println!(
        "a command opens the index in {middle:.1} ms ({:.1} to {:.1}); {}",
        opened[0],
        opened[8],
        memory()
    );
    let index = open(home, chunks);
    for (what, beyond) in [("that is there", 0), ("that is not", chunks)] {
        let began = Instant::now();
        for n in 0..LOOK_UPS {
            let found = index.find(&name(beyond + mixed(n) % chunks)).unwrap();
            assert_eq!(found.len(), usize::from(beyond == 0));
        }
        println!("looking for one {what}: {}; {}", rate(LOOK_UPS, began), memory());
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [part, home, chunks] = &arguments[..] {
        let (home, chunks) = (Path::new(home), chunks.parse().unwrap());
        match part.as_str() {
            "insert" => insert(home, chunks),
            _ => look_up(home, chunks),
        }
        return ExitCode::SUCCESS;
    }
    let chunks = arguments.first().map_or("10000000", String::as_str);
    let home = tempfile::tempdir().unwrap();
    for part in ["insert", "look-up"] {
        let mut itself = Command::new(std::env::current_exe().unwrap());
        if !itself.arg(part).arg(home.path()).arg(chunks).status().unwrap().success() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
