//! Golden files: the bytes of format 1, one of each kind, as they were once written.
//!
//! What stands in `tests/golden/format-1/` is read for ever. `ICECORE_WRITE_GOLDEN=1` writes files
//! that are missing and never touches one that is there. As long as format 1 is not released, a
//! changed layout is made golden by `rm -r tests/golden/format-1` and a run with that variable.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use icecore::context::{Cancel, Context, FixedClock, Nanos, Random, Seeded};
use icecore::format::{
    Anchor, Attributes, CapturePath, Chunker, Claim, Closed, Condemned, Config, Content, EtcdCapture, Event,
    FORMAT, FileAttributes, FileKind, Footer, Gap, HashKv, Headers, Item, ItemState, KeySecrets, KeyState,
    Malformed, Mark, Name, ObjectAttributes, ObjectCapture, PackEntry, PackedChunk, Place, Record, Retention,
    Root, Segment, SegmentName, Session, SessionKind, Setting, Snapshot, Stored, Tombstone, TreeShape, Trees,
    Verdict, Xattr, history_key, open, open_chunk, read_clear, seal,
};
use icecore::id::{ChunkId, ChunkKind, PackId, RepositoryId, SessionId};
use icecore::repository::{Access, KeyCost, Repository};
use icecore::secret::{ChunkNamer, ContentSecret, SealSecret};
use icecore::storage::{Local, Location, Storage};
use icecore::store::{self, Index, PackReader, Tuning, Writer, WriterParts, footer_of};
use icecore::tree::{self, Builder, Cell, Node, Nodes, Payload, Shape, Value};

const REPOSITORY: RepositoryId = RepositoryId([3; 16]);
const PASSPHRASE: &str = "a golden passphrase";
const CREATED: Nanos = 1_767_225_600_000_000_000;

fn content_secret() -> ContentSecret {
    ContentSecret::from_bytes([1; 32])
}

fn seal_secret() -> SealSecret {
    SealSecret::from_bytes([2; 32])
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Seeded::new(length as u64).fill(&mut bytes);
    bytes
}

/// Numbers from -1 to 1, of which only the last bytes are noise.
fn floats(count: usize) -> Vec<u8> {
    let float = |word: &[u8]| i32::from_le_bytes(word.try_into().unwrap()) as f32 / i32::MAX as f32;
    noise(4 * count).chunks(4).flat_map(|word| float(word).to_le_bytes()).collect()
}

type Make = dyn Fn() -> Vec<u8> + Send + Sync;
type Judge = dyn Fn(&[u8]) + Send + Sync;

/// A golden file: how it is written today, and how it is judged.
struct Golden {
    name: &'static str,
    make: Box<Make>,
    read: Box<Judge>,
    /// A compressor may change its mind about bytes, and still read the old ones.
    exact: bool,
}

impl Golden {
    fn new(
        name: &'static str,
        make: impl Fn() -> Vec<u8> + Send + Sync + 'static,
        read: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Golden {
        Golden { name, make: Box::new(make), read: Box::new(read), exact: true }
    }

    /// What is only written: a text that today's code must write the same.
    fn text(name: &'static str, make: fn() -> String) -> Golden {
        let read = move |bytes: &[u8]| assert_eq!(String::from_utf8_lossy(bytes), make());
        Golden::new(name, move || make().into_bytes(), read)
    }

    fn path(&self) -> PathBuf {
        directory().join(self.name)
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/format-{FORMAT}"))
}

/// The list. Files on disk and names here are the same.
static GOLDEN: LazyLock<Vec<Golden>> = LazyLock::new(|| {
    let golden: Vec<Golden> =
        [records(), entries(), nodes(), packs(), texts()].into_iter().flatten().collect();
    if std::env::var_os("ICECORE_WRITE_GOLDEN").is_some() {
        write_missing(&golden);
    }
    golden
});

fn write_missing(golden: &[Golden]) {
    fs::create_dir_all(directory()).unwrap();
    for file in golden.iter().filter(|file| !file.path().exists()) {
        fs::write(file.path(), (file.make)()).unwrap();
    }
    if !directory().join("repository").exists() {
        init_repository(&directory().join("repository"));
    }
}

// Records.

fn sid(number: u64, label: u64) -> SessionId {
    format!("{number:024x}-{label}").parse().unwrap()
}

fn chunk(number: u8) -> ChunkId {
    ChunkId([number; 32])
}

fn root(number: u8, level: u8, count: u64, weight: u64) -> Root {
    Root { node: chunk(number), level, count, weight }
}

/// The file of a record, whose name in a repository is `stored_as`.
fn record<T>(name: &'static str, stored_as: Name<'_>, clear: &[u8], value: T) -> Golden
where
    T: Record + Clone + PartialEq + Send + Sync + 'static,
{
    let (stored_as, clear, written) = (stored_as.to_string(), clear.to_vec(), value.clone());
    let key = || seal_secret().records();
    let (made_as, made_clear) = (stored_as.clone(), clear.clone());
    let make =
        move || seal(&written, &made_clear, &key(), REPOSITORY, &made_as, &Seeded::new(T::KIND.into()));
    let read = move |bytes: &[u8]| {
        let found: Result<T, Malformed> = open(bytes, &key(), REPOSITORY, &stored_as);
        assert!(found.is_ok_and(|found| found == value), "{name} is not the {} that was written", T::WHAT);
        assert_eq!(read_clear::<T>(bytes), Ok(&clear[..]));
    };
    Golden::new(name, make, read)
}

fn records() -> Vec<Golden> {
    let said = [&FORMAT.to_le_bytes()[..], &REPOSITORY.0].concat();
    let config_clear = [&said[..], &blake3::hash(&said).as_bytes()[..8]].concat();
    let (first, second) = (sid(0xa1, 0), sid(0xb2, 300));
    vec![
        record("config", Name::Config, &config_clear, config()),
        record("key", Name::Key("0011223344556677"), b"parameters", key_secrets()),
        record("segment", Name::Segment(SegmentName::Session(second, 2)), b"", segment()),
        record("segment-empty", Name::Segment(SegmentName::Session(first, 0)), b"", Segment::default()),
        record("session-write", Name::Session(second), b"", session(SessionKind::Write, Some(first))),
        record("session-read", Name::Session(first), b"", session(SessionKind::Read, None)),
        record("snapshot", Name::Claim(second), b"", Claim::Snapshot(Box::new(snapshot()))),
        record("snapshot-least", Name::Claim(first), b"", Claim::Snapshot(Box::new(least_snapshot()))),
        record("closed", Name::Claim(sid(0xc3, 1)), b"", Claim::Closed(closed())),
        record(
            "tombstone",
            Name::Forgotten(first),
            b"",
            Tombstone { time: CREATED + 1, host: "höst".into() },
        ),
        record(
            "condemned",
            Name::Condemned(4),
            b"",
            Condemned { packs: vec![PackId([7; 16]), PackId([8; 16])] },
        ),
        record("verdict", Name::Verdict(4), b"", verdict()),
    ]
}

fn config() -> Config {
    let shape = |window| TreeShape { window, most: 16 * window, key_bytes: 1 << 20 };
    Config {
        created: CREATED,
        chunker: Chunker { min: 256 << 10, average: 1 << 20, max: 4 << 20 },
        trees: Trees { anchor: shape(50), history: shape(51), objects: shape(16), content: shape(49) },
        single_writer: true,
    }
}

fn key_secrets() -> KeySecrets {
    KeySecrets { content: [1; 32], seal: [2; 32], created: CREATED, host: "host".into() }
}

fn segment() -> Segment {
    let chunks = |numbers: [u8; 2]| {
        let at = |n: u8| PackedChunk {
            id: chunk(n),
            offset: 8 + 70_000 * u32::from(n),
            stored: 70_000,
            plain: 1 << 20,
        };
        numbers.map(at).to_vec()
    };
    let pack = |id, kind, size, chunks| PackEntry { id: PackId([id; 16]), kind, size, chunks };
    let packs = vec![
        pack(10, ChunkKind::Data, 33 << 20, chunks([0, 1])),
        pack(11, ChunkKind::Node, 200, chunks([2, 3])),
    ];
    Segment { packs }
}

fn session(kind: SessionKind, pin: Option<SessionId>) -> Session {
    Session { kind, pin, host: "host".into(), pid: 70_000, began: CREATED - 1 }
}

fn closed() -> Closed {
    Closed { why: "a collection began meanwhile".into(), time: CREATED + 2 }
}

fn verdict() -> Verdict {
    let segments = vec![format!("{}-0", sid(0xa1, 0)), "m3-00ff".into()];
    Verdict { dead: vec![PackId([7; 16])], segments, snapshots: vec![sid(0xa1, 0), sid(0xb2, 300)] }
}

/// Nothing is left out.
fn snapshot() -> Snapshot {
    Snapshot {
        series: "milvus".into(),
        name: Some("before the upgrade".into()),
        time: CREATED,
        parent: Some(sid(0xa1, 0)),
        line: 2,
        generation: 300,
        host: "host".into(),
        tool: "0.1.0".into(),
        tags: vec!["weekly".into(), "käpt".into()],
        etcd: Some(etcd_capture()),
        objects: Some(ObjectCapture {
            place: Place::Bucket { name: "a-bucket".into(), prefix: "files/".into() },
            include: vec!["*.parquet".into()],
            exclude: vec!["tmp/**".into(), "ü".into()],
            root: Some(root(20, 3, 1_000_000, 5 << 40)),
            with_versions: true,
            versions: Some(root(24, 3, 1_000_003, 6 << 40)),
            settings: vec![Setting { name: "policy".into(), body: "{}".into() }],
            listed: CREATED + 5,
            gone: 2,
            unreadable: 1,
        }),
        stored: Stored { new_chunks: 3, new_bytes: 3 << 20, written_bytes: 1_000_000 },
        segment: segment(),
    }
}

fn etcd_capture() -> EtcdCapture {
    EtcdCapture {
        cluster_id: 0xcdf8_181e_3265_5bc3,
        member_id: 0x8e9e_05c5_2164_694d,
        server_version: "3.5.1".into(),
        prefix: b"by-dev/\0\xff".to_vec(),
        revision: 123_456_789_012,
        compact_revision: Some(250),
        keys: 251,
        events: 65_536,
        anchor: Anchor { revision: 251, root: Some(root(21, 2, 250, 9000)) },
        history: Some(root(22, 1, 1000, 70_000)),
        state: Some(Anchor { revision: 123_456_789_012, root: None }),
        system: Some(root(23, 0, 3, 100)),
        gaps: vec![Gap { after: 100, until: 251 }],
        hash_kv: Some(HashKv { hash: 0xdead_beef, revision: 300, compact_revision: -1 }),
        path: CapturePath::Watch,
        marks: vec![Mark { revision: 300, from: CREATED - 3, to: CREATED + 3 }],
    }
}

/// Everything that may be left out is.
fn least_snapshot() -> Snapshot {
    Snapshot {
        series: "default".into(),
        name: None,
        time: -1,
        parent: None,
        line: 0,
        generation: 0,
        host: String::new(),
        tool: String::new(),
        tags: Vec::new(),
        etcd: None,
        objects: None,
        stored: Stored::default(),
        segment: Segment::default(),
    }
}

// What trees hold.

/// The bytes of a tree entry.
fn entry<T>(
    name: &'static str,
    value: T,
    encode: fn(&T) -> Vec<u8>,
    decode: fn(&[u8]) -> Result<T, Malformed>,
) -> Golden
where
    T: Clone + PartialEq + std::fmt::Debug + Send + Sync + 'static,
{
    let written = value.clone();
    let read = move |bytes: &[u8]| assert_eq!(decode(bytes).as_ref(), Ok(&value), "{name}");
    Golden::new(name, move || encode(&written), read)
}

fn entries() -> Vec<Golden> {
    let item = |name, value| entry(name, value, Item::encode, Item::decode);
    let key = |name, value| entry(name, value, KeyState::encode, KeyState::decode);
    let event = |name, value| entry(name, value, Event::encode, Event::decode);
    let put = Event::Put {
        key: Content::Inline(b"by-dev/meta/\0".to_vec()),
        create_revision: 1 << 40,
        version: 3,
        lease: 0x7000_0000_0000_0001,
        value: Content::Chunks(vec![(chunk(30), 70_000), (chunk(31), 1)]),
    };
    vec![
        item("object-inline", small_object()),
        item("object-chunks", large_object()),
        item("object-gone", gone_object()),
        item("file-regular", file(FileKind::Regular)),
        item("file-directory", file(FileKind::Directory)),
        item("file-symlink", file(FileKind::Symlink(b"../a\xff".to_vec()))),
        item("file-hard-link", file(FileKind::HardLink(b"a/b".to_vec()))),
        item("file-fifo", file(FileKind::Fifo)),
        item("file-socket", file(FileKind::Socket)),
        item("file-char-device", file(FileKind::CharDevice(0x103))),
        item("file-block-device", file(FileKind::BlockDevice(0x800))),
        key("key-state", key_state(Some(-7), Content::Inline(b"value".to_vec()))),
        key("key-state-without-sub", key_state(None, Content::Tree(root(32, 1, 300, 1 << 30)))),
        event("event-put", put),
        event("event-delete", Event::Delete { key: Content::Inline(b"k".to_vec()) }),
    ]
}

fn key_state(sub: Option<i64>, value: Content) -> KeyState {
    KeyState { create_revision: 5, mod_revision: 70_000, sub, version: 251, lease: 0, value }
}

fn small_object() -> Item {
    let etag = "098f6bcd4621d373cade4e832627b4f6".into();
    Item {
        state: ItemState::Present,
        size: 4,
        modified: 1_767_225_600_123_000_000,
        content: Content::Inline(b"test".to_vec()),
        attributes: Attributes::Object(Box::new(ObjectAttributes { etag, ..ObjectAttributes::default() })),
    }
}

fn large_object() -> Item {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let attributes = ObjectAttributes {
        etag: "9b2cf535f27731c974343645a3985328-3".into(),
        version: Some("3HL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY".into()),
        headers: Headers {
            content_type: Some("application/x-parquet".into()),
            cache_control: Some("no-cache".into()),
            content_disposition: Some("inline".into()),
            content_encoding: Some("gzip".into()),
            content_language: Some("de".into()),
            expires: Some("Thu, 01 Jan 2026 00:00:00 GMT".into()),
        },
        storage_class: Some("STANDARD_IA".into()),
        metadata: vec![pair("a", "1"), pair("ü", "")],
        tags: vec![pair("team", "search")],
        shown: Some([1, 2, 3, 4, 5, 6, 7, 8]),
        parts: vec![(2, 16 << 20), (1, 8 << 20)],
        encryption: Some("aws:kms a-key".into()),
        retention: Some(Retention { mode: "GOVERNANCE".into(), until: CREATED + 1 }),
        legal_hold: true,
    };
    Item {
        state: ItemState::Present,
        size: 40 << 20,
        modified: -1,
        content: Content::Chunks(vec![(chunk(40), 4 << 20), (chunk(41), 36 << 20)]),
        attributes: Attributes::Object(Box::new(attributes)),
    }
}

fn gone_object() -> Item {
    let content = Content::Tree(root(42, 2, 5000, 5 << 30));
    Item { state: ItemState::Gone, size: 5 << 30, content, ..small_object() }
}

/// A file with everything that may belong to one.
fn file(kind: FileKind) -> Item {
    let xattr = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.into() };
    let attributes = FileAttributes {
        kind,
        mode: 0o4755,
        uid: 1000,
        gid: 70_000,
        user: Some("milvus".into()),
        group: None,
        changed: CREATED - 1,
        inode: 1 << 40,
        sparse: true,
        xattrs: vec![xattr("user.a", b"\0\xff"), xattr("user.b", b"")],
    };
    let attributes = Attributes::File(Box::new(attributes));
    Item { state: ItemState::Present, attributes, ..small_object() }
}

// Nodes of trees.

fn nodes() -> Vec<Golden> {
    let node = |name, value| entry(name, value, Node::encode, Node::decode);
    vec![node("node-leaf", leaf_node()), node("node-inner", inner_node())]
}

fn leaf_node() -> Node {
    let cell = |key: &str, value, weight| Cell { key: key.into(), payload: Payload::Leaf { value, weight } };
    let cells = vec![
        cell("", Value::Here(Vec::new()), 0),
        cell("by-dev/meta/a", Value::Here(noise(200)), 200),
        cell("by-dev/meta/ab", Value::Here(noise(64)), u64::MAX),
        cell("by-dev/other", Value::Chunk(chunk(50), 100_000), 1),
    ];
    Node { level: 0, cells }
}

/// Nothing in it compresses, so that its pack has the same bytes with any compressor.
fn noisy_node() -> Node {
    let cell = |key, length| Cell {
        key: noise(key),
        payload: Payload::Leaf { value: Value::Here(noise(length)), weight: length as u64 },
    };
    Node { level: 0, cells: vec![cell(30, 400), cell(31, 500)] }
}

fn inner_node() -> Node {
    let cell = |key: &str, n, regular, count, weight| Cell {
        key: key.into(),
        payload: Payload::Child { id: chunk(n), regular, count, weight },
    };
    Node {
        level: 2,
        cells: vec![
            cell("a", 51, true, 100, 0),
            cell("abc", 52, false, 1 << 33, 127),
            cell("b", 53, true, 1, 128),
        ],
    }
}

// Packs.

/// A pack of `plains`, written by the writer under the id that `seed` draws.
fn write_pack(seed: u64, kind: ChunkKind, plains: Vec<Vec<u8>>) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Local::new(directory.path().join("repository")));
    let index = Index::open(&directory.path().join("index"), &[], HashSet::new(), &Seeded::new(1), &|name| {
        panic!("no segment {name} is wanted")
    });
    let parts = WriterParts {
        storage: storage.clone(),
        index: Arc::new(index.unwrap()),
        namer: content_secret().namer(),
        seal: seal_secret(),
        random: Arc::new(Seeded::new(seed)),
        cache: None,
        scratch: std::env::temp_dir().join("icecore-golden-none"),
        put_segment: Box::new(|_, _| panic!("so few chunks travel inside the snapshot")),
        cancel: Cancel::default(),
        progress: Arc::new(icecore::progress::Silent),
    };
    // One encoder keeps the order.
    let writer = Writer::start(parts, Tuning { encoders: 1, ..Tuning::default() });
    for plain in plains {
        assert!(writer.put(kind, &plain).unwrap().new);
    }
    let packs = writer.finish().unwrap().segment.packs;
    assert_eq!(packs.iter().map(|pack| (pack.id, pack.kind)).collect::<Vec<_>>(), [(pack_id(seed), kind)]);
    storage.get(&Name::Pack(kind, pack_id(seed)).to_string()).unwrap().into()
}

fn pack_id(seed: u64) -> PackId {
    PackId::draw(&Seeded::new(seed))
}

/// The plain bytes of every chunk of a pack file, and how it is compressed.
fn read_pack(seed: u64, kind: ChunkKind, bytes: &[u8]) -> Vec<(Vec<u8>, u8)> {
    let id = pack_id(seed);
    let footer: Footer = footer_of(bytes, &seal_secret(), kind, id).unwrap();
    assert_eq!(footer.kind, kind);
    let reader = PackReader::new(id, kind, &seal_secret());
    let chunks = footer.chunks.iter().zip(0..).map(|(chunk, position)| {
        let mut sealed = bytes[chunk.offset as usize..][..chunk.stored as usize].to_vec();
        let plain = reader.open(&content_secret().namer(), position, chunk, &mut sealed.clone()).unwrap();
        let key = seal_secret().pack(id);
        let encoded = open_chunk(&key, id, kind, position, &chunk.id, &mut sealed).unwrap();
        (plain.to_vec(), encoded[0])
    });
    chunks.collect()
}

fn pack(name: &'static str, seed: u64, kind: ChunkKind, plains: Vec<Vec<u8>>, code: u8) -> Golden {
    let expected: Vec<_> = plains.iter().map(|plain| (plain.clone(), code)).collect();
    let make = move || write_pack(seed, kind, plains.clone());
    let read =
        move |bytes: &[u8]| assert!(read_pack(seed, kind, bytes) == expected, "{name} holds other chunks");
    Golden { exact: code == 0, ..Golden::new(name, make, read) }
}

fn packs() -> Vec<Golden> {
    vec![
        pack("pack-data", 100, ChunkKind::Data, vec![noise(300), noise(700)], 0),
        pack("pack-tree", 101, ChunkKind::Node, vec![noisy_node().encode()], 0),
        pack("pack-compressed", 102, ChunkKind::Data, vec![vec![7; 5000], b"icecore ".repeat(500)], 1),
        pack("pack-words", 103, ChunkKind::Data, vec![floats(10_000), floats(9_000)], 2),
    ]
}

// What the secrets decide.

fn texts() -> Vec<Golden> {
    vec![Golden::text("derived.txt", derived), Golden::text("names.txt", names)]
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

/// The root of a tree of 5,000 entries: it changes with any boundary, any node's bytes, any name.
fn tree_line(what: &str, sizes: TreeShape) -> String {
    let memory = Memory { namer: content_secret().namer(), chunks: RwLock::default() };
    let mut builder = Builder::new(&memory, Shape { sizes, key: content_secret().boundary() });
    for number in 0..5000u32 {
        let value = vec![number as u8; number as usize % 40];
        builder.push(format!("key/{number:08}").into_bytes(), value, number.into()).unwrap();
    }
    let root = builder.finish().unwrap().unwrap();
    let nodes = memory.chunks.read().unwrap().len();
    format!("{what}: {} level {} weight {} nodes {nodes}\n", root.node, root.level, root.weight)
}

fn content_line() -> String {
    let memory = Memory { namer: content_secret().namer(), chunks: RwLock::default() };
    let shape = Shape { sizes: config().trees.content, key: content_secret().boundary() };
    let id = |n: u32| ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes());
    let mut content = tree::ContentBuilder::new(&memory, shape);
    (1..5000).try_for_each(|n| content.push(id(n), n)).unwrap();
    let content = content.finish().unwrap();
    let Content::Tree(root) = content else { panic!("so many chunks stand in a tree") };
    format!("content of 4,999 chunks: {} level {} weight {}\n", root.node, root.level, root.weight)
}

fn derived() -> String {
    let gear = content_secret().gear();
    let all: Vec<u8> = gear.iter().flat_map(|word| word.to_le_bytes()).collect();
    let name = |kind| content_secret().namer().name(kind, b"plain bytes");
    let mut text = format!(
        "gear table: {:016x} {:016x} {:016x} …, BLAKE3 of all: {}\n",
        gear[0],
        gear[1],
        gear[2],
        blake3::hash(&all)
    );
    text += &format!("boundary key: {}\n", HEXLOWER.encode(&content_secret().boundary()));
    text += &format!("data chunk: {}\nnode chunk: {}\n", name(ChunkKind::Data), name(ChunkKind::Node));
    text += &tree_line("tree with window 16", config().trees.objects);
    text += &tree_line("tree with most 8", TreeShape { window: 2, most: 8, key_bytes: 1 << 20 });
    text += &tree_line("tree with key bytes 1024", TreeShape { window: 50, most: 800, key_bytes: 1024 });
    text += &content_line();
    text + &format!("history key of 258.3: {}\n", HEXLOWER.encode(&history_key(258, 3)))
}

fn names() -> String {
    let (pack, sid) = (PackId([0xab; 16]), sid(0xa1, 12));
    let names = [
        Name::Config,
        Name::Key("0011223344556677"),
        Name::Pack(ChunkKind::Data, pack),
        Name::Pack(ChunkKind::Node, pack),
        Name::Segment(SegmentName::Session(sid, 3)),
        Name::Session(sid),
        Name::Claim(sid),
        Name::Forgotten(sid),
        Name::Condemned(4),
        Name::Verdict(4),
    ];
    names.map(|name| format!("{name}\n")).concat()
}

// A repository as `init` makes it: how a passphrase becomes the secrets, and the clear parts.

fn access(location: &Path, cache: &Path) -> Access {
    Access {
        location: Location::Local(location.into()),
        credentials: None,
        cache: cache.into(),
        upload: None,
        download: None,
    }
}

fn with_context<T>(work: impl FnOnce(&Context) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut context = Context::system(runtime.handle().clone());
    (context.clock, context.random) = (Arc::new(FixedClock(CREATED)), Arc::new(Seeded::new(200)));
    work(&context)
}

fn init_repository(location: &Path) {
    let cache = tempfile::tempdir().unwrap();
    let cost = KeyCost { memory: 1024, passes: 2 };
    with_context(|context| {
        Repository::init(context, &access(location, cache.path()), PASSPHRASE, cost).unwrap();
    });
    // What writing needed and reading does not.
    for folder in ["tmp", "probe"] {
        fs::remove_dir_all(location.join(folder)).unwrap();
    }
}

#[test]
fn a_repository_of_this_format_opens_with_its_passphrase() {
    LazyLock::force(&GOLDEN);
    let cache = tempfile::tempdir().unwrap();
    let access = access(&directory().join("repository"), cache.path());
    with_context(|context| {
        let repository = Repository::open(context, &access, PASSPHRASE).unwrap();
        assert_eq!(repository.config().created, CREATED);
        let keys = repository.keys(PASSPHRASE).unwrap();
        assert_eq!(
            keys.iter().map(|key| (key.current, key.created)).collect::<Vec<_>>(),
            [(true, Some(CREATED))]
        );
        assert!(Repository::open(context, &access, "another").is_err());
    });
}

#[test]
fn every_golden_file_reads_as_what_was_written() {
    for file in GOLDEN.iter() {
        let bytes = fs::read(file.path());
        (file.read)(&bytes.unwrap_or_else(|error| panic!("{}: {error}", file.path().display())));
    }
}

#[test]
fn the_same_bytes_are_written_today() {
    for file in GOLDEN.iter().filter(|file| file.exact) {
        let there = fs::read(file.path()).unwrap_or_default();
        assert!((file.make)() == there, "{}: other bytes are written today", file.name);
    }
}

/// Every file below `folder` of the golden directory.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(files(&path));
        } else {
            names.insert(path.strip_prefix(directory()).unwrap().to_str().unwrap().to_owned());
        }
    }
    names
}

#[test]
fn every_golden_file_is_listed_and_every_listed_one_is_there() {
    let listed: BTreeSet<String> = GOLDEN.iter().map(|file| file.name.to_owned()).collect();
    assert_eq!(listed.len(), GOLDEN.len(), "a name is listed twice");
    let (repository, there) =
        files(&directory()).into_iter().partition(|name| name.starts_with("repository/"));
    let there: BTreeSet<String> = there;
    assert_eq!(there, listed);
    // A key's name is drawn when it is made.
    let repository: BTreeSet<String> = repository;
    let key = repository.iter().filter(|name| name.starts_with("repository/keys/")).count();
    assert!(repository.contains("repository/config") && key == 1 && repository.len() == 2, "{repository:?}");
}

#[test]
fn every_kind_of_record_has_a_golden_file() {
    let kinds: BTreeSet<u8> = records().iter().map(|file| (file.make)()[4]).collect();
    let known = [
        Config::KIND,
        KeySecrets::KIND,
        Segment::KIND,
        Session::KIND,
        Claim::KIND,
        Tombstone::KIND,
        Condemned::KIND,
        Verdict::KIND,
    ];
    assert_eq!(kinds, BTreeSet::from(known));
}
