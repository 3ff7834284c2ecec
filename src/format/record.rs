//! The records of a repository. Field order is the wire order; a new field is a new format version.

use serde::{Deserialize, Serialize};

use super::entry::Root;
use super::frame::Record;
use crate::context::Nanos;
use crate::id::{ChunkId, ChunkKind, PackId, SessionId};

macro_rules! record {
    ($type:ty, $kind:literal, $what:literal) => {
        impl Record for $type {
            const KIND: u8 = $kind;
            const WHAT: &'static str = $what;
        }
    };
}

record!(Config, 1, "repository configuration");
record!(KeySecrets, 2, "key");
record!(Segment, 3, "index segment");
record!(Session, 4, "session");
record!(Claim, 5, "snapshot");
record!(Tombstone, 6, "tombstone");
record!(Condemned, 7, "condemned list");
record!(Verdict, 8, "verdict");

/// `config`. Its clear part is the format version (u16, little-endian) and the repository id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// When it was made.
    pub created: Nanos,
    /// How content is cut.
    pub chunker: Chunker,
    /// How trees are cut.
    pub trees: Trees,
    /// The medium failed the contended create-if-absent probe: only one writer at a time.
    pub single_writer: bool,
}

/// Sizes of chunks in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunker {
    /// No chunk but an object's last is smaller; an object up to this size is one chunk.
    pub min: u32,
    /// The average aimed at.
    pub average: u32,
    /// No chunk is larger.
    pub max: u32,
}

/// How one kind of tree is cut: see `docs/format.md`, "Boundaries".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeShape {
    /// Entries on each side over which a boundary's hash is the strict minimum.
    pub window: u32,
    /// A stretch of more entries is cut without a minimum over full windows.
    pub most: u32,
    /// So is a stretch whose keys have more bytes together.
    pub key_bytes: u32,
}

/// The shapes of the four kinds of tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trees {
    /// etcd's state at a revision, by key.
    pub anchor: TreeShape,
    /// etcd's events, by revision.
    pub history: TreeShape,
    /// Objects, by key.
    pub objects: TreeShape,
    /// The chunks of one large object, in order.
    pub content: TreeShape,
}

/// The clear part of `keys/<id>`: how the passphrase becomes a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyParameters {
    /// Random.
    pub salt: [u8; 16],
    /// Argon2id memory in KiB.
    pub memory: u32,
    /// Argon2id passes.
    pub passes: u32,
    /// Argon2id lanes.
    pub lanes: u32,
}

/// The sealed part of `keys/<id>`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySecrets {
    /// The content secret.
    pub content: [u8; 32],
    /// The seal secret.
    pub seal: [u8; 32],
    /// When this key was added.
    pub created: Nanos,
    /// On which host.
    pub host: String,
}

/// One chunk in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackedChunk {
    /// Its name.
    pub id: ChunkId,
    /// Where its sealed bytes begin.
    pub offset: u32,
    /// How many they are.
    pub stored: u32,
    /// How many plain bytes it has.
    pub plain: u32,
}

/// One pack, as an index segment lists it. A chunk's position is its place in the list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackEntry {
    /// Its name.
    pub id: PackId,
    /// The kind of every chunk in it.
    pub kind: ChunkKind,
    /// Its whole size in bytes.
    pub size: u64,
    /// Its chunks in order of position.
    pub chunks: Vec<PackedChunk>,
}

/// `index/<sid>-<k>`, and inside a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Packs that are durable.
    pub packs: Vec<PackEntry>,
}

impl Segment {
    /// How many chunks it lists.
    pub fn chunks(&self) -> usize {
        self.packs.iter().map(|pack| pack.chunks.len()).sum()
    }
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionKind {
    /// A backup.
    Write,
    /// A restore.
    Read,
}

/// `sessions/<sid>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What it is for.
    pub kind: SessionKind,
    /// The snapshot it stands on or reads.
    pub pin: Option<SessionId>,
    /// The machine.
    pub host: String,
    /// The process on it.
    pub pid: u32,
    /// When it began.
    pub began: Nanos,
}

/// `snapshots/<sid>`: how a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// In a snapshot.
    Snapshot(Box<Snapshot>),
    /// Without one.
    Closed(Closed),
}

/// A session that ended without a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Why.
    pub why: String,
    /// When.
    pub time: Nanos,
}

/// A snapshot: what was captured, and the roots of its trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The line of snapshots it belongs to.
    pub series: String,
    /// A name given by the user.
    pub name: Option<String>,
    /// When the capture began.
    pub time: Nanos,
    /// The snapshot it was made against.
    pub parent: Option<SessionId>,
    /// How many times its series went on with another source before: its line of history.
    pub line: u32,
    /// How many snapshots it stands on, one made against the other.
    pub generation: u32,
    /// The machine that made it.
    pub host: String,
    /// The version that made it.
    pub tool: String,
    /// Given by the user.
    pub tags: Vec<String>,
    /// The etcd source.
    pub etcd: Option<EtcdCapture>,
    /// The bucket.
    pub objects: Option<ObjectCapture>,
    /// What making it stored, this record apart.
    pub stored: Stored,
    /// The packs of this session that no segment lists.
    pub segment: Segment,
}

/// What a backup stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Chunks of content not seen before, tree nodes apart.
    pub new_chunks: u64,
    /// Their plain bytes.
    pub new_bytes: u64,
    /// Bytes of the packs written.
    pub written_bytes: u64,
}

/// How etcd was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CapturePath {
    /// The whole file, by `Maintenance.Snapshot`.
    Snapshot,
    /// The tail, by `Watch`.
    Watch,
    /// Ranged reads at one revision.
    Range,
    /// A journal kept by the daemon.
    Journal,
}

/// etcd's state at one revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The revision.
    pub revision: i64,
    /// Keys → states; `None` when there was no key.
    pub root: Option<Root>,
}

/// Revisions that were compacted before they could be captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The last revision captured before.
    pub after: i64,
    /// The first revision captured again.
    pub until: i64,
}

/// What etcd's `HashKV` said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashKv {
    /// CRC-32C.
    pub hash: u32,
    /// The revision hashed.
    pub revision: i64,
    /// The compaction point that the hash depends on.
    pub compact_revision: i64,
}

/// A revision that was seen to be current between two moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The revision.
    pub revision: i64,
    /// It was current at or after this time.
    pub from: Nanos,
    /// And at or before this one.
    pub to: Nanos,
}

/// What was captured of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdCapture {
    /// The cluster.
    pub cluster_id: u64,
    /// The member that was asked.
    pub member_id: u64,
    /// Its version.
    pub server_version: String,
    /// Keys below this were captured; empty for all.
    #[serde(with = "serde_bytes")]
    pub prefix: Vec<u8>,
    /// The revision captured.
    pub revision: i64,
    /// The server's compaction point, 0 for none, where it is known.
    pub compact_revision: Option<i64>,
    /// Keys alive at `revision`.
    pub keys: u64,
    /// Events that this snapshot added.
    pub events: u64,
    /// Where the history begins.
    pub anchor: Anchor,
    /// (revision, sub) → event, for the revisions after the anchor's up to `revision`.
    pub history: Option<Root>,
    /// The state at `revision`, when this snapshot made it; its successors stand on it.
    pub state: Option<Anchor>,
    /// Leases and auth: bucket, 0, key → value, as etcd stores them.
    pub system: Option<Root>,
    /// Stretches that are missing since the parent.
    pub gaps: Vec<Gap>,
    /// What the server's own hash was, where it was asked.
    pub hash_kv: Option<HashKv>,
    /// How it was captured.
    pub path: CapturePath,
    /// When revisions were current.
    pub marks: Vec<Mark>,
}

/// Where items were captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In a bucket.
    Bucket {
        /// Its name.
        name: String,
        /// Only keys below this; empty for all.
        prefix: String,
    },
    /// Below a directory.
    Directory(#[serde(with = "serde_bytes")] Vec<u8>),
}

/// A setting of a bucket, as the server gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// `policy`, `lifecycle`, `tagging` …
    pub name: String,
    /// XML, or JSON for a policy.
    pub body: String,
}

/// What was captured of a bucket or a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectCapture {
    /// Where.
    pub place: Place,
    /// Only items that one of these globs fits; empty for all.
    pub include: Vec<String>,
    /// None that one of these globs fits.
    pub exclude: Vec<String>,
    /// Keys → items; `None` when there was none. Its weight is the bytes of all items.
    pub root: Option<Root>,
    /// Every version and delete marker was captured too.
    pub with_versions: bool,
    /// Version keys → items, the current versions among them.
    pub versions: Option<Root>,
    /// The bucket's settings, by name.
    pub settings: Vec<Setting>,
    /// When the listing began.
    pub listed: Nanos,
    /// Items that were listed and vanished before they could be read.
    pub gone: u64,
    /// Items that could not be read.
    pub unreadable: u64,
}

/// `forgotten/<sid>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// When.
    pub time: Nanos,
    /// By which machine.
    pub host: String,
}

/// `collections/<n>.condemned`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condemned {
    /// Packs that may die in this collection: no new snapshot may begin to use them.
    pub packs: Vec<PackId>,
}

/// `collections/<n>.verdict`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Packs that are to be deleted.
    pub dead: Vec<PackId>,
    /// Names below `index/` that stay valid, of those older than this verdict.
    pub segments: Vec<String>,
    /// Snapshots that stay valid, of those older than this verdict.
    pub snapshots: Vec<SessionId>,
}
