//! Properties of trees, on nodes kept in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use icecore::format::{Content, Root, TreeShape};
use icecore::id::{ChunkId, ChunkKind};
use icecore::secret::{ChunkNamer, ContentSecret};
use icecore::store;
use icecore::tree::{self, Builder, Edit, Node, Nodes, Shape};
use proptest::prelude::*;

/// Counts what is read and written.
struct Memory {
    namer: ChunkNamer,
    chunks: RwLock<HashMap<ChunkId, Bytes>>,
    reads: AtomicUsize,
    new: AtomicUsize,
    prefetched: RwLock<HashSet<ChunkId>>,
    /// Nodes read that were not prefetched.
    waited_for: AtomicUsize,
}

impl Memory {
    fn new() -> Memory {
        let namer = ContentSecret::from_bytes([1; 32]).namer();
        Memory {
            namer,
            chunks: RwLock::default(),
            reads: AtomicUsize::new(0),
            new: AtomicUsize::new(0),
            prefetched: RwLock::default(),
            waited_for: AtomicUsize::new(0),
        }
    }

    fn forget_counts(&self) {
        self.reads.store(0, Ordering::Relaxed);
        self.new.store(0, Ordering::Relaxed);
        self.prefetched.write().unwrap().clear();
        self.waited_for.store(0, Ordering::Relaxed);
    }
}

impl Nodes for Memory {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> store::Result<Bytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if kind == ChunkKind::Node && !self.prefetched.read().unwrap().contains(id) {
            self.waited_for.fetch_add(1, Ordering::Relaxed);
        }
        self.chunks.read().unwrap().get(id).cloned().ok_or(store::Error::Missing { kind, id: *id })
    }

    fn prefetch(&self, ids: &[ChunkId]) -> store::Result<usize> {
        self.prefetched.write().unwrap().extend(ids);
        Ok(ids.len())
    }

    fn put(&self, kind: ChunkKind, bytes: Vec<u8>) -> store::Result<ChunkId> {
        let id = self.namer.name(kind, &bytes);
        if self.chunks.write().unwrap().insert(id, bytes.into()).is_none() {
            self.new.fetch_add(1, Ordering::Relaxed);
        }
        Ok(id)
    }
}

fn shape(window: u32) -> Shape {
    let key = ContentSecret::from_bytes([1; 32]).boundary();
    Shape { sizes: TreeShape { window, most: 8 * window, key_bytes: 1 << 20 }, key }
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn build(nodes: &Memory, shape: Shape, map: &Map) -> Option<Root> {
    let mut builder = Builder::new(nodes, shape);
    for (key, value) in map {
        builder.push(key.clone(), value.clone(), value.len() as u64).unwrap();
    }
    builder.finish().unwrap()
}

fn edits(changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> impl Iterator<Item = tree::Result<Edit>> {
    changes.iter().map(|(key, value)| {
        let value = value.as_ref().map(|value| (value.clone(), value.len() as u64));
        Ok(Edit { key: key.clone(), value })
    })
}

fn change(map: &mut Map, changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
}

/// Sizes in entries of every node but the root, by level.
fn sizes(nodes: &Memory, root: &Root) -> Vec<usize> {
    let node = nodes.node(&root.node).unwrap();
    let mut sizes = Vec::new();
    let mut level = vec![node];
    while level[0].level > 0 {
        let mut below = Vec::new();
        for node in &level {
            for cell in &node.cells {
                let tree::Payload::Child { id, .. } = &cell.payload else { panic!("a child") };
                below.push(nodes.node(id).unwrap());
            }
        }
        sizes.extend(below.iter().map(|node| node.cells.len()));
        level = below;
    }
    sizes
}

/// One kind of change to a map, as a small model of what happens to buckets and key spaces.
#[derive(Debug, Clone)]
enum Step {
    Scatter(Vec<(u32, Option<u8>)>),
    Append(u8),
    Prepend(u8),
    Burst(u32, u16, bool),
    Wipe(u32, u32),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec((0..1_000_000u32, any::<Option<u8>>()), 1..30).prop_map(Step::Scatter),
        2 => any::<u8>().prop_map(Step::Append),
        2 => any::<u8>().prop_map(Step::Prepend),
        2 => (0..1_000_000u32, 0..400u16, any::<bool>()).prop_map(|(at, n, put)| Step::Burst(at, n, put)),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(from, to)| Step::Wipe(from, to)),
    ]
}

fn key(n: i64) -> Vec<u8> {
    format!("key/{:012}", n + 5_000_000_000).into_bytes()
}

/// The changes a step means for this map. Deletes and rewrites prefer keys that are there.
fn changes_of(step: &Step, map: &Map, low: &mut i64, high: &mut i64) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let there = |n: u32| map.keys().nth(n as usize % map.len().max(1)).cloned();
    match step {
        Step::Scatter(changes) => {
            let one = |&(n, value): &(u32, Option<u8>)| match (value, there(n)) {
                (Some(v), Some(old)) if v % 3 == 0 => (old, Some(vec![v; 9])),
                (None, Some(old)) => (old, None),
                (value, _) => (key(n.into()), value.map(|v| vec![v; 5])),
            };
            changes.iter().map(one).collect()
        }
        Step::Append(count) => (0..*count)
            .map(|_| {
                *high += 1;
                (key(*high), Some(vec![1]))
            })
            .collect(),
        Step::Prepend(count) => (0..*count)
            .map(|_| {
                *low -= 1;
                (key(*low), Some(vec![2]))
            })
            .collect(),
        Step::Burst(at, count, put) => {
            (0..*count).map(|i| (key(i64::from(*at) + i64::from(i)), put.then(|| vec![3]))).collect()
        }
        Step::Wipe(from, to) => {
            let n = map.len().max(1);
            let (from, to) = (*from as usize % n, *to as usize % n);
            let keys = map.keys().skip(from.min(to)).take(from.abs_diff(to) + 1);
            keys.map(|key| (key.clone(), None)).collect()
        }
    }
}

/// A root that stays as it is, and gets neighbours on its level, is a node like the others.
#[test]
fn a_tree_that_outgrows_its_root_keeps_it() {
    let (nodes, shape) = (Memory::new(), shape(3));
    for (start, more) in (1..150).flat_map(|start| [4, 12, 40, 120].map(|more| (start, more))) {
        let before: Map = (0..start).map(|n| (key(n), vec![0])).collect();
        let root = build(&nodes, shape, &before);
        for keys in [start..start + more, -more..0] {
            let changes = keys.map(|n| (key(n), Some(vec![1]))).collect();
            let mut after = before.clone();
            change(&mut after, &changes);
            let grown = tree::apply(&nodes, shape, root, edits(&changes)).unwrap();
            assert_eq!(grown, build(&nodes, shape, &after), "{more} more than {start}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The same entries give the same root, whatever the order and history of the edits; and every
    /// node but a lone root has at least a window of entries.
    #[test]
    fn edits_in_any_order_give_the_tree_that_building_gives(
        window in 2..5u32,
        start in 0..3000usize,
        steps in proptest::collection::vec(any_step(), 1..12),
    ) {
        let (nodes, shape) = (Memory::new(), shape(window));
        let mut map: Map = (0..start).map(|n| (key(n as i64 * 331 % 1_000_000), vec![0; n % 7])).collect();
        let mut root = build(&nodes, shape, &map);
        let (mut low, mut high) = (0, 1_000_000);
        for step in &steps {
            let changes = changes_of(step, &map, &mut low, &mut high);
            change(&mut map, &changes);
            root = tree::apply(&nodes, shape, root, edits(&changes)).unwrap();
            prop_assert_eq!(root, build(&nodes, shape, &map), "after {:?}", step);
            prop_assert_eq!(tree::count(root.as_ref()), map.len() as u64);
            prop_assert_eq!(tree::weight(root.as_ref()), map.values().map(|v| v.len() as u64).sum::<u64>());
            if let Some(root) = &root {
                prop_assert!(sizes(&nodes, root).iter().all(|&n| n >= window as usize && n <= 10 * window as usize));
            }
        }
        let entries: Map = tree::scan(&nodes, root.as_ref(), &[]).unwrap()
            .map(|entry| entry.map(|e| (e.key, e.value)).unwrap()).collect();
        prop_assert_eq!(entries, map);
    }

    /// The difference of two trees is the difference of the maps.
    #[test]
    fn a_diff_shows_exactly_what_differs(start in 0..2000usize, step in any_step()) {
        let (nodes, shape) = (Memory::new(), shape(3));
        let before: Map = (0..start).map(|n| (key(n as i64 * 331 % 1_000_000), vec![0; n % 7])).collect();
        let mut after = before.clone();
        change(&mut after, &changes_of(&step, &before, &mut 0, &mut 1_000_000));
        let (a, b) = (build(&nodes, shape, &before), build(&nodes, shape, &after));
        let mut shown = Vec::new();
        tree::diff(&nodes, a.as_ref(), b.as_ref(), |change| { shown.push(change); Ok::<(), tree::Error>(()) }).unwrap();
        let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let expected: Vec<_> = keys.into_iter()
            .filter(|key| before.get(*key) != after.get(*key))
            .map(|key| tree::Change { key: key.clone(), before: before.get(key).cloned(), after: after.get(key).cloned() })
            .collect();
        prop_assert_eq!(shown, expected);
    }
}

fn large(nodes: &Memory, shape: Shape, count: i64) -> (Map, Option<Root>) {
    let map: Map = (0..count).map(|n| (key(n), vec![7; 20])).collect();
    let root = build(nodes, shape, &map);
    (map, root)
}

#[test]
fn one_changed_value_rewrites_one_leaf_and_its_ancestors() {
    let (nodes, shape) = (Memory::new(), shape(16));
    let (_, root) = large(&nodes, shape, 50_000);
    let depth = usize::from(root.unwrap().level) + 1;
    for at in [0, 1, 777, 25_000, 49_999] {
        nodes.forget_counts();
        let changes = BTreeMap::from([(key(at), Some(vec![9; 20]))]);
        tree::apply(&nodes, shape, root, edits(&changes)).unwrap();
        assert_eq!(nodes.new.load(Ordering::Relaxed), depth, "change at {at}");
    }
}

#[test]
fn isolated_edits_cost_their_depth() {
    let (nodes, shape) = (Memory::new(), shape(16));
    let (_, root) = large(&nodes, shape, 100_000);
    let depth = usize::from(root.unwrap().level) + 1;
    nodes.forget_counts();
    let changes: BTreeMap<_, _> = (0..50i64).map(|n| (key(n * 2000 + 3), None)).collect();
    tree::apply(&nodes, shape, root, edits(&changes)).unwrap();
    assert!(
        nodes.new.load(Ordering::Relaxed) <= 50 * depth * 3 / 2,
        "{} writes at depth {depth}",
        nodes.new.load(Ordering::Relaxed)
    );
    assert!(
        nodes.reads.load(Ordering::Relaxed) <= 50 * depth * 10,
        "{} reads at depth {depth}",
        nodes.reads.load(Ordering::Relaxed)
    );
}

#[test]
fn a_diff_of_two_large_trees_reads_only_near_the_changes() {
    let (nodes, shape) = (Memory::new(), shape(16));
    let (_, root) = large(&nodes, shape, 100_000);
    let changes = BTreeMap::from([(key(5), None), (key(50_000), Some(vec![1]))]);
    let after = tree::apply(&nodes, shape, root, edits(&changes)).unwrap();
    nodes.forget_counts();
    let mut shown = 0;
    tree::diff(&nodes, root.as_ref(), after.as_ref(), |_| {
        shown += 1;
        Ok::<(), tree::Error>(())
    })
    .unwrap();
    assert_eq!(shown, 2);
    assert!(nodes.reads.load(Ordering::Relaxed) < 60, "{} reads", nodes.reads.load(Ordering::Relaxed));
}

#[test]
fn a_long_scan_waits_for_its_first_leaf_only_and_a_short_one_prefetches_little() {
    let (nodes, shape) = (Memory::new(), shape(16));
    let (map, root) = large(&nodes, shape, 30_000);
    nodes.forget_counts();
    let scanned = tree::scan(&nodes, root.as_ref(), b"").unwrap().map(|entry| entry.unwrap().key);
    assert!(scanned.eq(map.keys().cloned()));
    let level = usize::from(root.as_ref().unwrap().level);
    assert_eq!(nodes.waited_for.load(Ordering::Relaxed), level + 1);

    for (first, taken) in (0..30_000).step_by(977).flat_map(|first| [(first, 1), (first, 40), (first, 1200)])
    {
        nodes.forget_counts();
        tree::scan(&nodes, root.as_ref(), &key(first)).unwrap().take(taken).for_each(drop);
        let (read, prefetched) =
            (nodes.reads.load(Ordering::Relaxed), nodes.prefetched.read().unwrap().len());
        assert!(prefetched <= 2 * read + level, "{prefetched} prefetched, {read} read, {taken} from {first}");
    }
}

#[test]
fn one_key_is_looked_up_in_one_node_a_level() {
    let (nodes, shape) = (Memory::new(), shape(16));
    let (map, root) = large(&nodes, shape, 30_000);
    nodes.forget_counts();
    assert_eq!(tree::get(&nodes, root.as_ref(), &key(12_345)).unwrap(), map.get(&key(12_345)).cloned());
    assert_eq!(nodes.reads.load(Ordering::Relaxed), usize::from(root.unwrap().level) + 1);
    assert_eq!(tree::get(&nodes, root.as_ref(), b"absent").unwrap(), None);
    assert_eq!(tree::get(&nodes, root.as_ref(), b"zzz").unwrap(), None);
    assert_eq!(tree::get(&nodes, None, b"absent").unwrap(), None);
}

/// Whoever chooses keys does not know the boundary key: chosen keys spread like any others, and long
/// ones cannot make a node grow without bound.
#[test]
fn hostile_keys_make_no_degenerate_nodes() {
    let nodes = Memory::new();
    let sizes_small = TreeShape { window: 4, most: 64, key_bytes: 4096 };
    let shape = Shape { sizes: sizes_small, key: shape(4).key };
    let prefix = "x".repeat(1000);
    let map: Map = (0..3000).map(|n| (format!("{prefix}{n:08}").into_bytes(), vec![1])).collect();
    let root = build(&nodes, shape, &map);
    for node in nodes.chunks.read().unwrap().values() {
        let node = Node::decode(node).unwrap();
        let bytes: usize = node.cells.iter().map(|cell| cell.key.len()).sum();
        assert!(bytes <= 4096 + 2 * 4 * 1008, "{bytes} bytes of keys in {} entries", node.cells.len());
    }
    let changes = BTreeMap::from([(format!("{prefix}{:08}", 1500).into_bytes(), None)]);
    let edited = tree::apply(&nodes, shape, root, edits(&changes)).unwrap();
    let mut left = map.clone();
    change(&mut left, &changes);
    assert_eq!(edited, build(&nodes, shape, &left));
}

#[test]
fn entries_out_of_order_are_refused() {
    let (nodes, shape) = (Memory::new(), shape(4));
    let mut builder = Builder::new(&nodes, shape);
    builder.push(b"b".to_vec(), vec![], 0).unwrap();
    assert!(matches!(builder.push(b"a".to_vec(), vec![], 0), Err(tree::Error::Unsorted)));
    let (_, root) = large(&nodes, shape, 100);
    let backwards = [key(5), key(4)].map(|key| Ok(Edit { key, value: None }));
    assert!(matches!(tree::apply(&nodes, shape, root, backwards.into_iter()), Err(tree::Error::Unsorted)));
}

#[test]
fn a_long_value_stands_in_a_chunk_of_its_own() {
    let (nodes, shape) = (Memory::new(), shape(4));
    let map = Map::from([(b"long".to_vec(), vec![5; 100_000]), (b"short".to_vec(), vec![6])]);
    let root = build(&nodes, shape, &map);
    assert!(nodes.get(ChunkKind::Node, &root.unwrap().node).unwrap().len() < 200);
    assert_eq!(tree::get(&nodes, root.as_ref(), b"long").unwrap(), Some(vec![5; 100_000]));
}

fn content(nodes: &Memory, ids: &[u32]) -> Content {
    let chunk = |&n: &u32| (ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes()), n);
    let mut content = tree::ContentBuilder::new(nodes, shape(8));
    ids.iter().map(chunk).try_for_each(|(id, length)| content.push(id, length)).unwrap();
    content.finish().unwrap()
}

#[test]
fn an_insertion_into_a_large_object_rewrites_its_neighbourhood() {
    let nodes = Memory::new();
    let ids: Vec<u32> = (1..20_000).collect();
    let before = content(&nodes, &ids);
    let mut longer = ids.clone();
    longer.insert(3000, 77_777);
    nodes.forget_counts();
    let after = content(&nodes, &longer);
    assert!(nodes.new.load(Ordering::Relaxed) <= 10, "{} new nodes", nodes.new.load(Ordering::Relaxed));
    assert_eq!(after.len(), before.len() + 77_777);
    let mut read = Vec::new();
    tree::chunks_of(&nodes, &after, |_, length| {
        read.push(length as u32);
        Ok::<(), tree::Error>(())
    })
    .unwrap();
    assert_eq!(read, longer);
}

#[test]
fn an_object_of_one_chunk_repeated_makes_no_degenerate_tree() {
    let nodes = Memory::new();
    let repeated = content(&nodes, &vec![5; 50_000]);
    assert_eq!(repeated.len(), 250_000);
    assert!(nodes.new.load(Ordering::Relaxed) < 100, "{} nodes", nodes.new.load(Ordering::Relaxed));
}
