//! The repository's two secrets and what is derived from them.
//!
//! The *content* secret decides names and shapes: chunk ids, cut points, tree boundaries. The
//! *seal* secret encrypts. Two repositories that share the first share chunks; what one of them
//! seals the other cannot read. Derivation is BLAKE3's `derive_key`, sealing is AES-256-GCM.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::context::Random;
use crate::id::{ChunkId, ChunkKind, PackId, draw};

/// Bytes that a seal adds to what it seals.
pub const TAG_LEN: usize = 16;

/// Bytes of a nonce.
pub const NONCE: usize = NONCE_LEN;

/// A seal that does not open: other bytes, another key, another place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seal does not open")]
pub struct Broken;

/// Decides names and shapes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ContentSecret([u8; 32]);

/// Encrypts.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SealSecret([u8; 32]);

/// Keys that name chunks, ready for use.
#[derive(Clone)]
pub struct ChunkNamer {
    data: [u8; 32],
    node: [u8; 32],
}

/// A key that seals and opens.
pub struct SealKey(LessSafeKey);

impl ContentSecret {
    /// Draws a new secret.
    pub fn draw(random: &dyn Random) -> ContentSecret {
        ContentSecret(draw(random))
    }

    /// From stored bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> ContentSecret {
        ContentSecret(bytes)
    }

    /// To bytes that are stored under a seal.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The keys that name chunks.
    pub fn namer(&self) -> ChunkNamer {
        ChunkNamer {
            data: blake3::derive_key("icecore 1 chunk id data", &self.0),
            node: blake3::derive_key("icecore 1 chunk id node", &self.0),
        }
    }

    /// 256 words for the gear hash.
    pub fn gear(&self) -> [u64; 256] {
        let mut bytes = [0; 8 * 256];
        let mut hasher = blake3::Hasher::new_derive_key("icecore 1 gear table");
        hasher.update(&self.0).finalize_xof().fill(&mut bytes);
        let mut words = bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap_or_default()));
        std::array::from_fn(|_| words.next().unwrap_or_default())
    }

    /// The key of tree boundaries.
    pub fn boundary(&self) -> [u8; 32] {
        blake3::derive_key("icecore 1 tree boundary", &self.0)
    }
}

impl ChunkNamer {
    /// The name of a chunk with these plain bytes.
    pub fn name(&self, kind: ChunkKind, plain: &[u8]) -> ChunkId {
        let key = match kind {
            ChunkKind::Data => &self.data,
            ChunkKind::Node => &self.node,
        };
        ChunkId(*blake3::keyed_hash(key, plain).as_bytes())
    }
}

impl SealSecret {
    /// Draws a new secret.
    pub fn draw(random: &dyn Random) -> SealSecret {
        SealSecret(draw(random))
    }

    /// From stored bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> SealSecret {
        SealSecret(bytes)
    }

    /// To bytes that are stored under a seal.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The key of records.
    pub fn records(&self) -> SealKey {
        SealKey::new(&blake3::derive_key("icecore 1 records", &self.0))
    }

    /// The key of logs on this machine.
    pub fn logs(&self) -> SealKey {
        SealKey::new(&blake3::derive_key("icecore 1 logs on this machine", &self.0))
    }

    /// The key of one pack.
    pub fn pack(&self, id: PackId) -> SealKey {
        let mut hasher = blake3::Hasher::new_derive_key("icecore 1 pack");
        SealKey::new(hasher.update(&self.0).update(&id.0).finalize().as_bytes())
    }
}

impl SealKey {
    /// A key of 32 bytes.
    pub fn new(key: &[u8; 32]) -> SealKey {
        // Fails only for a wrong length, which the type rules out.
        let key = UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes");
        SealKey(LessSafeKey::new(key))
    }

    /// Seals `plain` in place and appends the tag. A nonce must never seal two plaintexts.
    pub fn seal(&self, nonce: [u8; NONCE], bound_to: &[u8], plain: &mut Vec<u8>) {
        let mut sealed = vec![0; plain.len() + TAG_LEN];
        self.seal_into(nonce, bound_to, plain, &mut sealed);
        *plain = sealed;
    }

    /// The same into `sealed`, which must be longer by [`TAG_LEN`].
    pub fn seal_into(&self, nonce: [u8; NONCE], bound_to: &[u8], plain: &[u8], sealed: &mut [u8]) {
        let (nonce, bound_to) = (Nonce::assume_unique_for_key(nonce), Aad::from(bound_to));
        let (coded, tag) = sealed.split_at_mut(plain.len());
        // Fails only above 64 GiB, far beyond any chunk, and where the lengths are not as said above.
        let sealed = self.0.seal_out_of_place_scatter(nonce, bound_to, plain, coded, &[], tag);
        sealed.expect("there is room for a chunk, which is under 64 GiB");
    }

    /// Opens `sealed` in place and gives the plain bytes.
    pub fn open<'a>(
        &self,
        nonce: [u8; NONCE],
        bound_to: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Broken> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place(nonce, Aad::from(bound_to), sealed).map_err(|_| Broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;

    #[test]
    fn content_and_nodes_never_share_a_name() {
        let namer = ContentSecret::draw(&Seeded::new(1)).namer();
        assert_ne!(namer.name(ChunkKind::Data, b"x"), namer.name(ChunkKind::Node, b"x"));
    }

    #[test]
    fn a_seal_opens_only_where_it_was_made_for() {
        let key = SealSecret::draw(&Seeded::new(2)).records();
        let mut bytes = b"plain".to_vec();
        key.seal([1; NONCE], b"here", &mut bytes);
        assert_eq!(bytes.len(), 5 + TAG_LEN);
        assert_eq!(key.open([1; NONCE], b"there", &mut bytes.clone()), Err(Broken));
        assert_eq!(key.open([2; NONCE], b"here", &mut bytes.clone()), Err(Broken));
        assert_eq!(key.open([1; NONCE], b"here", &mut bytes).map(|p| p.to_vec()), Ok(b"plain".to_vec()));
    }

    #[test]
    fn each_pack_has_a_key_of_its_own() {
        let secret = SealSecret::draw(&Seeded::new(3));
        let random = Seeded::new(4);
        let (one, other) = (PackId::draw(&random), PackId::draw(&random));
        let mut bytes = b"plain".to_vec();
        secret.pack(one).seal([0; NONCE], b"", &mut bytes);
        assert!(secret.pack(other).open([0; NONCE], b"", &mut bytes).is_err());
    }
}
