//! Packs: many sealed chunks in one file.
//!
//! ```text
//! "ICEPACK1" | sealed chunk | sealed chunk | … | sealed footer | u32 length of the footer | "ICEPACK1"
//! ```
//! A sealed chunk is AES-256-GCM of one byte (how it is compressed) and the payload, under the pack's
//! own key. Its nonce is the chunk's position in the pack (u32, little-endian) and the first 8 bytes
//! of its id; additional data are the pack id and the kind. The footer has position 2^32 − 1.

use serde::{Deserialize, Serialize};

use super::record::PackedChunk;
use super::{Malformed, decode, encode};
use crate::id::{ChunkId, ChunkKind, PackId};
use crate::secret::{NONCE, SealKey};

/// How a pack begins and ends.
pub const PACK_MAGIC: &[u8; 8] = b"ICEPACK1";

/// The position that only a footer has.
pub const FOOTER_POSITION: u32 = u32::MAX;

/// Bytes after the footer: its length and the magic.
pub const TRAILER_LEN: usize = 12;

/// What a pack holds, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// The kind of every chunk in it.
    pub kind: ChunkKind,
    /// The chunks in order of position.
    pub chunks: Vec<PackedChunk>,
}

fn nonce(position: u32, id: &[u8]) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    nonce[..4].copy_from_slice(&position.to_le_bytes());
    nonce[4..].copy_from_slice(id);
    nonce
}

fn bound_to(pack: PackId, kind: ChunkKind) -> [u8; 17] {
    let mut bound = [kind as u8; 17];
    bound[..16].copy_from_slice(&pack.0);
    bound
}

/// Seals an encoded chunk into `sealed`, which is longer by the tag.
pub fn seal_chunk(
    key: &SealKey,
    pack: PackId,
    kind: ChunkKind,
    position: u32,
    id: &ChunkId,
    encoded: &[u8],
    sealed: &mut [u8],
) {
    key.seal_into(nonce(position, &id.0[..8]), &bound_to(pack, kind), encoded, sealed);
}

/// Opens a sealed chunk in place, to the encoded bytes.
pub fn open_chunk<'a>(
    key: &SealKey,
    pack: PackId,
    kind: ChunkKind,
    position: u32,
    id: &ChunkId,
    sealed: &'a mut [u8],
) -> Result<&'a [u8], Malformed> {
    let opened = key.open(nonce(position, &id.0[..8]), &bound_to(pack, kind), sealed);
    opened.map(|plain| &*plain).map_err(|_| Malformed::Seal)
}

/// The sealed footer and the trailer.
pub fn seal_footer(key: &SealKey, pack: PackId, footer: &Footer) -> Vec<u8> {
    let mut sealed = encode(footer);
    key.seal(nonce(FOOTER_POSITION, &[0; 8]), &bound_to(pack, footer.kind), &mut sealed);
    let length = sealed.len() as u32;
    sealed.extend_from_slice(&length.to_le_bytes());
    sealed.extend_from_slice(PACK_MAGIC);
    sealed
}

/// The length of the sealed footer, from the last [`TRAILER_LEN`] bytes of a pack.
pub fn parse_trailer(trailer: &[u8]) -> Result<usize, Malformed> {
    let trailer: &[u8; TRAILER_LEN] = trailer.try_into().map_err(|_| Malformed::Length(trailer.len()))?;
    if &trailer[4..] != PACK_MAGIC {
        return Err(Malformed::Magic("pack"));
    }
    Ok(u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]) as usize)
}

/// Opens a sealed footer.
pub fn open_footer(key: &SealKey, pack: PackId, kind: ChunkKind, sealed: &[u8]) -> Result<Footer, Malformed> {
    let mut sealed = sealed.to_vec();
    let opened = key.open(nonce(FOOTER_POSITION, &[0; 8]), &bound_to(pack, kind), &mut sealed);
    let footer: Footer = decode(opened.map_err(|_| Malformed::Seal)?)?;
    if footer.kind == kind { Ok(footer) } else { Err(Malformed::Content) }
}
