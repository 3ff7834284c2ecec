//! What one core does in a second, of each step that content goes through. Not tests of speed: figures to
//! compare the whole with (`docs/performance.md`).

use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::path::Path;
use std::sync::RwLock;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use icecore::context::{Random, Seeded};
use icecore::format::{Chunker, PackEntry, PackedChunk, Root, Segment, TreeShape};
use icecore::id::{ChunkId, ChunkKind, PackId};
use icecore::secret::{ChunkNamer, ContentSecret, SealSecret, TAG_LEN};
use icecore::store::{self, Cutter, Index, PackBuilder, PackReader, Wanted, encode};
use icecore::tree::{self, Builder, Edit, Node, Nodes, Shape};

const SIZES: Chunker = Chunker { min: 256 << 10, average: 1 << 20, max: 4 << 20 };
const SHAPE: TreeShape = TreeShape { window: 16, most: 256, key_bytes: 1 << 20 };
const ENTRIES: u64 = 100_000;

fn content_secret() -> ContentSecret {
    ContentSecret::from_bytes([7; 32])
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Seeded::new(7).fill(&mut bytes);
    bytes
}

fn floats(count: usize) -> Vec<u8> {
    let float = |word: &[u8]| i32::from_le_bytes(word.try_into().unwrap()) as f32 / i32::MAX as f32;
    noise(4 * count).chunks(4).flat_map(|word| float(word).to_le_bytes()).collect()
}

fn json(length: usize) -> Vec<u8> {
    let line = |n: usize| {
        format!("{{\"id\":{},\"segment\":\"s{}\",\"rows\":{}}},", n * n * 7919, n % 100, n * 31 % 4096)
    };
    let mut text: Vec<u8> = (0..length / 20).flat_map(|n| line(n).into_bytes()).collect();
    text.truncate(length);
    text
}

fn content(c: &mut Criterion) {
    let (noise, namer) = (noise(16 << 20), content_secret().namer());
    let mut group = c.benchmark_group("content");
    group.throughput(Throughput::Bytes(noise.len() as u64));
    let cutter = Cutter::new(&content_secret(), SIZES);
    group.bench_function("cut 16 MiB", |b| {
        b.iter(|| {
            let (mut pieces, mut count) = (cutter.pieces(), 0);
            let mut emit = |_: &[u8]| {
                count += 1;
                Ok::<(), ()>(())
            };
            noise.chunks(1 << 20).for_each(|more| pieces.push(more, &mut emit).unwrap());
            pieces.finish(&mut emit).unwrap();
            count
        })
    });
    for (what, length) in [("1 MiB", 1 << 20), ("4 KiB", 4 << 10)] {
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(format!("name {what}"), |b| {
            b.iter(|| namer.name(ChunkKind::Data, &noise[..length]))
        });
    }
    let key = SealSecret::from_bytes([1; 32]).pack(PackId([1; 16]));
    let (bytes, mut sealed) = (&noise[..1 << 20], vec![0; (1 << 20) + TAG_LEN]);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("seal 1 MiB", |b| b.iter(|| key.seal_into([0; 12], b"", bytes, &mut sealed)));
    group.finish();
}

/// Compress, seal and append; open, decompress and name.
fn packs(c: &mut Criterion) {
    let (secret, namer) = (SealSecret::from_bytes([1; 32]), content_secret().namer());
    let mut group = c.benchmark_group("pack");
    let plains = [
        ("noise, 1 MiB", noise(1 << 20)),
        ("floats, 1 MiB", floats(1 << 18)),
        ("JSON, 1 MiB", json(1 << 20)),
        ("JSON, 4 KiB", json(4 << 10)),
    ];
    for (what, plain) in plains {
        let id = namer.name(ChunkKind::Data, &plain);
        let pack =
            || PackBuilder::new(PackId([2; 16]), ChunkKind::Data, &secret, BytesMut::with_capacity(2 << 20));
        let add = |builder: &mut PackBuilder| {
            encode(&plain, |encoded| builder.append(id, encoded, plain.len() as u32))
        };
        group.throughput(Throughput::Bytes(plain.len() as u64));
        group.bench_function(format!("encode {what}"), |b| {
            b.iter_batched_ref(pack, &add, BatchSize::LargeInput)
        });
        let mut builder = pack();
        add(&mut builder);
        let (entry, bytes) = builder.finish();
        let (chunk, reader) = (&entry.chunks[0], PackReader::new(entry.id, entry.kind, &secret));
        let sealed = || bytes[chunk.offset as usize..][..chunk.stored as usize].to_vec();
        group.bench_function(format!("decode {what}"), |b| {
            b.iter_batched_ref(
                sealed,
                |sealed| reader.open(&namer, 0, chunk, sealed).unwrap(),
                BatchSize::LargeInput,
            )
        });
    }
    group.finish();
}

/// Nodes in memory.
struct Memory {
    namer: ChunkNamer,
    chunks: RwLock<HashMap<ChunkId, Bytes>>,
}

impl Nodes for Memory {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> store::Result<Bytes> {
        self.chunks.read().unwrap().get(id).cloned().ok_or(store::Error::Missing { kind, id: *id })
    }

    fn put(&self, kind: ChunkKind, bytes: Vec<u8>) -> store::Result<ChunkId> {
        let id = self.namer.name(kind, &bytes);
        self.chunks.write().unwrap().insert(id, bytes.into());
        Ok(id)
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("files/insert_log/{:06}/{number:012}", number / 1000).into_bytes()
}

fn build(memory: &Memory, shape: Shape) -> Root {
    let mut builder = Builder::new(memory, shape);
    for number in 0..ENTRIES {
        builder.push(key(number), vec![number as u8; 120], 1).unwrap();
    }
    builder.finish().unwrap().unwrap()
}

fn trees(c: &mut Criterion) {
    let memory = Memory { namer: content_secret().namer(), chunks: RwLock::default() };
    let shape = Shape { sizes: SHAPE, key: content_secret().boundary() };
    let root = build(&memory, shape);
    let mut group = c.benchmark_group("tree");
    group.sample_size(20);
    group.throughput(Throughput::Elements(ENTRIES));
    group.bench_function("build 100,000", |b| b.iter(|| build(&memory, shape)));
    group.bench_function("scan 100,000", |b| {
        b.iter(|| tree::scan(&memory, Some(&root), b"").unwrap().count())
    });
    let edits =
        || (0..ENTRIES).step_by(100).map(|n| Ok(Edit { key: key(n), value: Some((vec![1; 120], 1)) }));
    group.throughput(Throughput::Elements(ENTRIES / 100));
    group.bench_function("apply 1,000 to 100,000", |b| {
        b.iter(|| tree::apply(&memory, shape, Some(root), edits()).unwrap())
    });
    let other = tree::apply(&memory, shape, Some(root), edits()).unwrap();
    group.bench_function("diff with 1,000 changes", |b| {
        b.iter(|| {
            let mut changes = 0;
            tree::diff(&memory, Some(&root), other.as_ref(), |_| {
                changes += 1;
                Ok::<(), tree::Error>(())
            })
            .unwrap();
            changes
        })
    });
    let bytes = memory.get(ChunkKind::Node, &root.node).unwrap();
    let node = Node::decode(&bytes).unwrap();
    group.throughput(Throughput::Elements(node.cells.len() as u64));
    group.bench_function("encode a node", |b| b.iter(|| node.encode()));
    group.bench_function("decode a node", |b| b.iter(|| Node::decode(&bytes).unwrap()));
    group.finish();
}

fn chunk_id(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// So many chunks stand in one segment, and so many in one pack.
const LISTED: u64 = 100_000;
const PACKED: u64 = 1000;

/// A segment by its name, made when it is asked for, so that a large index needs no memory here.
fn segment(name: &str) -> store::Result<Segment> {
    let number: u64 = name.trim_start_matches("index/").parse().unwrap();
    let pack = |first: u64| PackEntry {
        id: PackId(blake3::hash(&first.to_be_bytes()).as_bytes()[..16].try_into().unwrap()),
        kind: ChunkKind::Data,
        size: 32 << 20,
        chunks: (first..first + PACKED)
            .map(|n| PackedChunk { id: chunk_id(n), offset: n as u32, stored: 1, plain: 1 })
            .collect(),
    };
    let packs = (number * LISTED..(number + 1) * LISTED).step_by(PACKED as usize).map(pack);
    Ok(Segment { packs: packs.collect() })
}

fn open(home: &Path, chunks: u64) -> Index {
    let wanted: Vec<Wanted> = (0..chunks / LISTED)
        .map(|number| Wanted { name: format!("index/{number}"), size: 0, reusable: true, segment: None })
        .collect();
    Index::open(home, &wanted, HashSet::new(), &Seeded::new(1), &segment).unwrap()
}

/// `ICECORE_CHUNKS=10000000 cargo bench -- index` for a larger one.
fn index(c: &mut Criterion) {
    let chunks = std::env::var("ICECORE_CHUNKS").map_or(1_000_000, |chunks| chunks.parse().unwrap());
    let mut group = c.benchmark_group(format!("index of {chunks}"));
    group.sample_size(10);
    let home = tempfile::tempdir().unwrap();
    let begun = std::time::Instant::now();
    drop(open(home.path(), chunks));
    println!("made from segments at {:.0} chunks a second", chunks as f64 / begun.elapsed().as_secs_f64());
    group.bench_function("open again", |b| b.iter_with_large_drop(|| open(home.path(), chunks)));
    let index = open(home.path(), chunks);
    let mut number = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("look up what is there", |b| {
        b.iter(|| {
            number = (number + 7919) % chunks;
            assert!(black_box(index.reusable(&chunk_id(number)).unwrap()))
        })
    });
    group.bench_function("look up what is not there", |b| {
        b.iter(|| {
            number += 1;
            assert!(!black_box(index.reusable(&chunk_id(chunks + number)).unwrap()))
        })
    });
    group.finish();
}

criterion_group!(benches, content, packs, trees, index);
criterion_main!(benches);
