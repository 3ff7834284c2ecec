//! What trees hold: the values of their entries, in bincode.

use serde::{Deserialize, Serialize};

use super::{Malformed, decode, decode_beginning, encode, encode_to};
use crate::context::Nanos;
use crate::id::ChunkId;

/// A value up to this many bytes stays in its entry.
pub const MAX_INLINE_VALUE: usize = 512;

/// An object of more chunks than this has a tree for them.
pub const MAX_INLINE_CHUNKS: usize = 32;

/// Places within a revision from here on are not etcd's, which nobody told: they only keep events apart.
pub const UNKNOWN_SUB: i64 = 1 << 32;

/// A tree: its top node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The node.
    pub node: ChunkId,
    /// Its level; 0 is a leaf.
    pub level: u8,
    /// Entries in all leaves.
    pub count: u64,
    /// The sum of the entries' weights; what a weight is depends on the tree.
    pub weight: u64,
}

/// A run of bytes: an object's body, a value, a long key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// The bytes themselves.
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Chunks in order, with their plain lengths.
    Chunks(Vec<(ChunkId, u32)>),
    /// The root of a content tree; its weight is the length.
    Tree(Root),
}

impl Content {
    /// The chunk that it begins with. Of one that is a tree nodes would have to be read for that.
    pub fn first_chunk(&self) -> Option<ChunkId> {
        match self {
            Content::Chunks(chunks) => chunks.first().map(|(id, _)| *id),
            Content::Inline(_) | Content::Tree(_) => None,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Chunks(chunks) => chunks.iter().map(|&(_, length)| u64::from(length)).sum(),
            Content::Tree(root) => root.weight,
        }
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A key of etcd at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyState {
    /// The revision that made the key.
    pub create_revision: i64,
    /// The revision of this value.
    pub mod_revision: i64,
    /// The position within that revision; unknown when captured by ranges.
    pub sub: Option<i64>,
    /// How many times it was put since it was made.
    pub version: i64,
    /// Its lease, 0 for none.
    pub lease: i64,
    /// Its value.
    pub value: Content,
}

/// What happened to a key; revision and sub are the entry's tree key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It was put.
    Put {
        /// The key.
        key: Content,
        /// The revision that made it.
        create_revision: i64,
        /// Its version.
        version: i64,
        /// Its lease, 0 for none.
        lease: i64,
        /// Its value.
        value: Content,
    },
    /// It was deleted.
    Delete {
        /// The key.
        key: Content,
    },
}

impl Event {
    /// The key of an encoded event; the rest is not looked at.
    pub fn key_of(bytes: &[u8]) -> Result<Content, Malformed> {
        /// How both kinds begin.
        #[derive(Deserialize)]
        enum Beginning {
            Put { key: Content },
            Delete { key: Content },
        }
        let (Beginning::Put { key } | Beginning::Delete { key }, _) = decode_beginning(bytes)?;
        Ok(key)
    }
}

/// How much of an item is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemState {
    /// Its content is here.
    Present,
    /// It was listed, and vanished before it could be read.
    Gone,
    /// It was listed, and could not be read (a customer's key, a permission).
    Unreadable,
    /// It is a delete marker, among the versions of a bucket.
    Deleted,
}

/// An item of the objects tree: an object of a bucket, or a file of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// How much of it is here.
    pub state: ItemState,
    /// Bytes of its content.
    pub size: u64,
    /// Last modified: as the listing showed it, or the file's mtime.
    pub modified: Nanos,
    /// Its content.
    pub content: Content,
    /// What else belongs to it.
    pub attributes: Attributes,
}

impl Item {
    /// Bytes that are here.
    pub fn weight(&self) -> u64 {
        if self.state == ItemState::Present { self.size } else { 0 }
    }
}

/// What belongs to an item beside its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attributes {
    /// Of an object.
    Object(Box<ObjectAttributes>),
    /// Of a file.
    File(Box<FileAttributes>),
}

/// Headers that belong to an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headers {
    /// Content-Type.
    pub content_type: Option<String>,
    /// Cache-Control.
    pub cache_control: Option<String>,
    /// Content-Disposition.
    pub content_disposition: Option<String>,
    /// Content-Encoding.
    pub content_encoding: Option<String>,
    /// Content-Language.
    pub content_language: Option<String>,
    /// Expires, as it was set.
    pub expires: Option<String>,
}

/// What belongs to an object of a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectAttributes {
    /// Without quotes.
    pub etag: String,
    /// The version read, where the bucket keeps versions.
    pub version: Option<String>,
    /// Its headers.
    pub headers: Headers,
    /// Where it is not the standard one.
    pub storage_class: Option<String>,
    /// User metadata, sorted by name.
    pub metadata: Vec<(String, String)>,
    /// Tags, sorted by name.
    pub tags: Vec<(String, String)>,
    /// A hash of the metadata and tags that the listing showed, where it shows them: a change of
    /// tags leaves ETag and time alone.
    pub shown: Option<[u8; 8]>,
    /// Part sizes as runs of (how many, bytes); empty for an object put at once.
    pub parts: Vec<(u32, u64)>,
    /// How the server encrypts it: `AES256`, `aws:kms`, or `aws:kms KEY`.
    pub encryption: Option<String>,
    /// Until when it is locked.
    pub retention: Option<Retention>,
    /// Whether a legal hold is on it.
    pub legal_hold: bool,
}

/// A lock on an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// `GOVERNANCE` or `COMPLIANCE`.
    pub mode: String,
    /// Until when.
    pub until: Nanos,
}

/// What belongs to a file of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAttributes {
    /// What it is.
    pub kind: FileKind,
    /// Permissions with set-id and sticky bits: the mode's lowest 12 bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The owner's name, where the machine knew it.
    pub user: Option<String>,
    /// The group's name, where the machine knew it.
    pub group: Option<String>,
    /// When the inode last changed.
    pub changed: Nanos,
    /// Its inode.
    pub inode: u64,
    /// Its content has holes.
    pub sparse: bool,
    /// Extended attributes, ACLs among them, sorted by name.
    pub xattrs: Vec<Xattr>,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// Bytes.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link to this path.
    Symlink(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Another name of the file with this tree key, which comes before it.
    HardLink(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device of this number.
    CharDevice(u64),
    /// A block device of this number.
    BlockDevice(u64),
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// Its name.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Its value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

macro_rules! entry {
    ($type:ty) => {
        impl $type {
            /// To the bytes of a tree entry.
            pub fn encode(&self) -> Vec<u8> {
                encode(self)
            }

            /// The same, behind what is there.
            pub fn encode_to(&self, bytes: &mut Vec<u8>) {
                encode_to(self, bytes)
            }

            /// From the bytes of a tree entry.
            pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
                decode(bytes)
            }
        }
    };
}

entry!(KeyState);
entry!(Event);
entry!(Item);

/// The tree key of a version: the object's key, when the version was made, and its place among the
/// versions of the same time, oldest first. Keys sort as the objects' do.
pub fn version_key(key: &[u8], modified: Nanos, place: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 12);
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 1]);
    // With the sign turned, so that times before 1970 sort before later ones.
    out.extend_from_slice(&((modified as u64) ^ (1 << 63)).to_be_bytes());
    out.extend_from_slice(&place.to_be_bytes());
    out
}

/// The object's key in what [`version_key`] gave.
pub fn parse_version_key(version: &[u8]) -> Result<Vec<u8>, Malformed> {
    let length = version.len().checked_sub(12).ok_or(Malformed::Length(version.len()))?;
    let mut key = Vec::with_capacity(length);
    let mut bytes = version[..length].iter();
    while let Some(&byte) = bytes.next() {
        key.push(byte);
        if byte == 0 && bytes.next() != Some(&0xff) {
            return Err(Malformed::Decode("a key of a version has a bare zero".into()));
        }
    }
    match version[length..length + 2] {
        [0, 1] => Ok(key),
        _ => Err(Malformed::Decode("a key of a version has no end".into())),
    }
}

/// The tree key of an event: revision and sub, big-endian.
pub fn history_key(revision: i64, sub: i64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key[8..].copy_from_slice(&sub.to_be_bytes());
    key
}

/// The reverse of [`history_key`].
pub fn parse_history_key(key: &[u8]) -> Result<(i64, i64), Malformed> {
    let key: &[u8; 16] = key.try_into().map_err(|_| Malformed::Length(key.len()))?;
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&key[at..at + 8]);
        i64::from_be_bytes(bytes)
    };
    Ok((word(0), word(8)))
}

/// Sizes as runs of equal ones.
pub fn runs_of(sizes: &[u64]) -> Vec<(u32, u64)> {
    let runs = sizes.chunk_by(|a, b| a == b);
    runs.map(|run| (run.len() as u32, run[0])).collect()
}

/// The reverse of [`runs_of`].
pub fn sizes_of(runs: &[(u32, u64)]) -> Vec<u64> {
    runs.iter().flat_map(|&(count, size)| std::iter::repeat_n(size, count as usize)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_keys_sort_as_revisions_do() {
        let keys = [(1, 0), (1, 1), (2, 0), (256, 3), (1 << 40, 0)];
        let encoded: Vec<_> = keys.iter().map(|&(r, s)| history_key(r, s)).collect();
        assert!(encoded.is_sorted());
        for (key, bytes) in keys.iter().zip(&encoded) {
            assert_eq!(parse_history_key(bytes), Ok(*key));
        }
    }

    #[test]
    fn the_key_of_an_event_is_read_without_the_rest() {
        let key = Content::Inline(b"a key".to_vec());
        let chunks = Content::Chunks(vec![(ChunkId([7; 32]), 600)]);
        for key in [key, chunks] {
            let value = Content::Inline(vec![1; 300]);
            let put = Event::Put { key: key.clone(), create_revision: 1, version: 2, lease: 3, value };
            let delete = Event::Delete { key: key.clone() };
            assert_eq!(Event::key_of(&put.encode()), Ok(key.clone()));
            assert_eq!(Event::key_of(&delete.encode()), Ok(key));
        }
        assert!(Event::key_of(&[]).is_err() && Event::key_of(&[9, 0]).is_err());
    }

    #[test]
    fn part_sizes_survive_as_runs() {
        let sizes = [16, 16, 16, 5];
        assert_eq!(runs_of(&sizes), [(3, 16), (1, 5)]);
        assert_eq!(sizes_of(&runs_of(&sizes)), sizes);
        assert!(sizes_of(&runs_of(&[])).is_empty());
    }

    #[test]
    fn versions_sort_by_key_and_age() {
        let versions = [(&b"a"[..], -5, 0), (b"a", 1, 0), (b"a", 1, 1), (b"a", 1 << 60, 0), (b"a\0", 1, 0)];
        let keys: Vec<_> = versions.iter().map(|(key, time, at)| version_key(key, *time, *at)).collect();
        assert!(keys.is_sorted());
        assert!(keys[4] < version_key(b"a\0b", 0, 0) && keys[4] < version_key(b"ab", 0, 0));
        for ((key, ..), version) in versions.iter().zip(&keys) {
            assert_eq!(parse_version_key(version).as_deref(), Ok(*key));
        }
        assert!(parse_version_key(b"short").is_err());
    }

    #[test]
    fn an_entry_with_bytes_left_over_is_refused() {
        let mut bytes = Event::Delete { key: Content::Inline(b"k".to_vec()) }.encode();
        bytes.push(0);
        assert!(Event::decode(&bytes).is_err());
    }
}
