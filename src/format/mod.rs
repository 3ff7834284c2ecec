//! Bytes ↔ types, without I/O. `docs/format.md` shows every layout byte by byte.

mod entry;
mod frame;
mod names;
mod pack;
mod record;

pub use entry::{
    Attributes, Content, Event, FileAttributes, FileKind, Headers, Item, ItemState, KeyState,
    MAX_INLINE_CHUNKS, MAX_INLINE_VALUE, ObjectAttributes, Retention, Root, UNKNOWN_SUB, Xattr, history_key,
    parse_history_key, parse_version_key, runs_of, sizes_of, version_key,
};
pub use frame::{FRAME_VERSION, Record, open, read_clear, seal};
pub use names::{Name, NotASegment, SegmentName};
pub use pack::{
    FOOTER_POSITION, Footer, PACK_MAGIC, TRAILER_LEN, open_chunk, open_footer, parse_trailer, seal_chunk,
    seal_footer,
};
pub use record::{
    Anchor, CapturePath, Chunker, Claim, Closed, Condemned, Config, EtcdCapture, Gap, HashKv, KeyParameters,
    KeySecrets, Mark, ObjectCapture, PackEntry, PackedChunk, Place, Segment, Session, SessionKind, Setting,
    Snapshot, Stored, Tombstone, TreeShape, Trees, Verdict,
};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The newest format that this version reads and writes.
pub const FORMAT: u16 = 1;

/// No record, entry or footer is larger than this.
const LIMIT: usize = 64 << 20;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not there although it should be.
    #[error("it is missing")]
    Missing,
    /// Not of the expected kind at all.
    #[error("it does not begin as a {0} does")]
    Magic(&'static str),
    /// Written by a newer version.
    #[error("it has format {found}, and this version reads up to {known}")]
    Newer {
        /// What the file says.
        found: u16,
        /// What this version knows.
        known: u16,
    },
    /// Shorter or longer than it says.
    #[error("it is {0} bytes long, which does not fit what it says")]
    Length(usize),
    /// The seal does not open: damaged, or another file under this name.
    #[error("its seal does not open")]
    Seal,
    /// Sealed by us, but not readable.
    #[error("it cannot be decoded: {0}")]
    Decode(String),
    /// A chunk whose content does not have the name it is stored under.
    #[error("its content does not fit its name")]
    Content,
}

fn configuration() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// Most of what is encoded fits: nothing grows field by field, for which many threads would wait for one another.
const ROOM: usize = 256;

/// bincode 2, standard configuration (little-endian, variable-length integers).
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ROOM);
    encode_to(value, &mut bytes);
    bytes
}

/// The same, behind what is there.
pub(crate) fn encode_to<T: Serialize>(value: &T, bytes: &mut Vec<u8>) {
    let encoded = bincode::serde::encode_into_std_write(value, bytes, configuration());
    // Fails only for types that the format does not use (unsized sequences).
    encoded.expect("format types can be encoded");
}

/// The reverse of [`encode`]; every byte must be used.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    let (value, used) = decode_beginning(bytes)?;
    if used == bytes.len() { Ok(value) } else { Err(Malformed::Length(bytes.len())) }
}

/// What `bytes` begin with, and how many of them that is.
pub(crate) fn decode_beginning<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), Malformed> {
    let decoded = bincode::serde::decode_from_slice(bytes, configuration());
    decoded.map_err(|e| Malformed::Decode(e.to_string()))
}
