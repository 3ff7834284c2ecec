//! Packs being filled and packs being read.

use bytes::{Bytes, BytesMut};

use super::{Error, Result, chunk};
use crate::format::{
    Footer, Malformed, Name, PACK_MAGIC, PackEntry, PackedChunk, TRAILER_LEN, open_chunk, open_footer,
    parse_trailer, seal_chunk, seal_footer,
};
use crate::id::{ChunkId, ChunkKind, PackId};
use crate::secret::{ChunkNamer, SealKey, SealSecret, TAG_LEN};
use crate::storage::Storage;

/// A pack that is being filled. Its id is drawn when it is begun and its bytes are made once, so a
/// nonce is never used for two plaintexts.
pub struct PackBuilder {
    id: PackId,
    kind: ChunkKind,
    key: SealKey,
    /// The pack up to `end`; behind that is what stood here before, to be written over.
    bytes: BytesMut,
    end: usize,
    chunks: Vec<PackedChunk>,
}

impl PackBuilder {
    /// An empty pack, to be made in `bytes`, whatever they are.
    pub fn new(id: PackId, kind: ChunkKind, secret: &SealSecret, mut bytes: BytesMut) -> PackBuilder {
        let end = PACK_MAGIC.len();
        room(&mut bytes, 0, end).copy_from_slice(PACK_MAGIC);
        PackBuilder { id, kind, key: secret.pack(id), bytes, end, chunks: Vec::new() }
    }

    /// Seals an encoded chunk into the pack.
    pub fn append(&mut self, id: ChunkId, encoded: &[u8], plain: u32) {
        let (position, offset) = (self.chunks.len() as u32, self.end as u32);
        let stored = encoded.len() + TAG_LEN;
        let sealed = room(&mut self.bytes, self.end, stored);
        seal_chunk(&self.key, self.id, self.kind, position, &id, encoded, sealed);
        self.end += stored;
        self.chunks.push(PackedChunk { id, offset, stored: stored as u32, plain });
    }

    /// Bytes so far.
    pub(super) fn size(&self) -> usize {
        self.end
    }

    /// The whole file, and how the index lists it.
    pub fn finish(mut self) -> (PackEntry, Bytes) {
        let footer = Footer { kind: self.kind, chunks: self.chunks };
        self.bytes.truncate(self.end);
        self.bytes.extend_from_slice(&seal_footer(&self.key, self.id, &footer));
        let size = self.bytes.len() as u64;
        let entry = PackEntry { id: self.id, kind: self.kind, size, chunks: footer.chunks };
        (entry, self.bytes.freeze())
    }
}

/// So many bytes at `begin`. Only what was never there is set to zero before it is written.
fn room(bytes: &mut BytesMut, begin: usize, length: usize) -> &mut [u8] {
    let end = begin + length;
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    &mut bytes[begin..end]
}

/// Opens chunks of one pack.
pub struct PackReader {
    id: PackId,
    kind: ChunkKind,
    key: SealKey,
}

impl PackReader {
    /// For the pack `id`.
    pub fn new(id: PackId, kind: ChunkKind, secret: &SealSecret) -> PackReader {
        PackReader { id, kind, key: secret.pack(id) }
    }

    /// The plain bytes of the chunk at `position`, from its sealed bytes, which are opened where they are;
    /// everything is verified.
    pub fn open(
        &self,
        namer: &ChunkNamer,
        position: u32,
        chunk: &PackedChunk,
        sealed: &mut [u8],
    ) -> Result<Bytes> {
        let opened = self.unseal(position, chunk, sealed).and_then(|encoded| {
            let plain = chunk::decode(encoded, chunk.plain as usize)?;
            if namer.name(self.kind, &plain) == chunk.id { Ok(plain) } else { Err(Malformed::Content) }
        });
        opened.map_err(|what| damaged(self.kind, self.id, what))
    }

    /// Like [`PackReader::open`], to the bytes as they were encoded, which another pack may take as they are.
    pub fn open_encoded<'a>(
        &self,
        namer: &ChunkNamer,
        position: u32,
        chunk: &PackedChunk,
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        let opened = self.unseal(position, chunk, sealed).and_then(|encoded| {
            let name = chunk::show(encoded, chunk.plain as usize, |plain| namer.name(self.kind, plain))?;
            if name == chunk.id { Ok(encoded) } else { Err(Malformed::Content) }
        });
        opened.map_err(|what| damaged(self.kind, self.id, what))
    }

    fn unseal<'a>(
        &self,
        position: u32,
        chunk: &PackedChunk,
        sealed: &'a mut [u8],
    ) -> std::result::Result<&'a [u8], Malformed> {
        if sealed.len() != chunk.stored as usize {
            return Err(Malformed::Length(sealed.len()));
        }
        open_chunk(&self.key, self.id, self.kind, position, &chunk.id, sealed)
    }
}

/// Bytes that may be changed; copied only where somebody else has them, too.
pub fn unshared(bytes: Bytes) -> BytesMut {
    bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}

fn damaged(kind: ChunkKind, id: PackId, what: Malformed) -> Error {
    Error::Damaged { file: Name::Pack(kind, id).to_string(), what }
}

/// Reads a pack back to the last byte: it is what `entry` says.
pub fn verify_pack(
    storage: &dyn Storage,
    secret: &SealSecret,
    namer: &ChunkNamer,
    entry: &PackEntry,
) -> Result<()> {
    let name = Name::Pack(entry.kind, entry.id).to_string();
    let mut bytes = unshared(storage.get(&name)?);
    let footer = footer_of(&bytes, secret, entry.kind, entry.id);
    let footer = footer.map_err(|what| damaged(entry.kind, entry.id, what))?;
    if bytes.len() as u64 != entry.size || footer.chunks != entry.chunks {
        return Err(damaged(entry.kind, entry.id, Malformed::Content));
    }
    drop(footer);
    let reader = PackReader::new(entry.id, entry.kind, secret);
    for (chunk, position) in entry.chunks.iter().zip(0u32..) {
        let range = chunk.offset as usize..chunk.offset as usize + chunk.stored as usize;
        let length = Malformed::Length(bytes.len());
        let sealed = bytes.get_mut(range).ok_or_else(|| damaged(entry.kind, entry.id, length))?;
        reader.open_encoded(namer, position, chunk, sealed)?;
    }
    Ok(())
}

/// The footer in the bytes of a whole pack.
pub fn footer_of(
    pack: &[u8],
    secret: &SealSecret,
    kind: ChunkKind,
    id: PackId,
) -> std::result::Result<Footer, Malformed> {
    let short = Malformed::Length(pack.len());
    let (rest, trailer) = pack.split_last_chunk::<TRAILER_LEN>().ok_or(short.clone())?;
    let footer_at = rest.len().checked_sub(parse_trailer(trailer)?).ok_or(short)?;
    open_footer(&secret.pack(id), id, kind, &rest[footer_at..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;
    use crate::secret::ContentSecret;
    use crate::storage::Local;

    fn sample() -> (SealSecret, ChunkNamer, PackEntry, Bytes) {
        let random = Seeded::new(1);
        let secret = SealSecret::draw(&random);
        let namer = ContentSecret::draw(&random).namer();
        let mut builder = PackBuilder::new(PackId::draw(&random), ChunkKind::Data, &secret, BytesMut::new());
        for plain in [&b"first"[..], &[0; 5000], b""] {
            let id = namer.name(ChunkKind::Data, plain);
            chunk::encode(plain, |encoded| builder.append(id, encoded, plain.len() as u32));
        }
        let (entry, bytes) = builder.finish();
        (secret, namer, entry, bytes)
    }

    fn sealed(bytes: &[u8], chunk: &PackedChunk) -> Vec<u8> {
        bytes[chunk.offset as usize..][..chunk.stored as usize].to_vec()
    }

    #[test]
    fn chunks_come_back_and_the_footer_lists_them() {
        let (secret, namer, entry, bytes) = sample();
        let reader = PackReader::new(entry.id, entry.kind, &secret);
        let plain = reader.open(&namer, 1, &entry.chunks[1], &mut sealed(&bytes, &entry.chunks[1])).unwrap();
        assert_eq!(plain, vec![0; 5000]);
        let footer = footer_of(&bytes, &secret, entry.kind, entry.id).unwrap();
        assert_eq!(footer.chunks, entry.chunks);
    }

    #[test]
    fn a_pack_that_is_not_what_was_written_does_not_verify() {
        let (secret, namer, entry, bytes) = sample();
        let name = Name::Pack(entry.kind, entry.id).to_string();
        for at in [None, Some(10), Some(bytes.len() / 2), Some(bytes.len() - 1)] {
            let directory = tempfile::tempdir().unwrap();
            let storage = Local::new(directory.path());
            let mut stored = bytes.to_vec();
            at.into_iter().for_each(|at| stored[at] ^= 1);
            storage.put(&name, stored.into()).unwrap();
            assert_eq!(verify_pack(&storage, &secret, &namer, &entry).is_ok(), at.is_none(), "{at:?}");
        }
    }

    #[test]
    fn a_chunk_opens_only_at_its_own_position_and_in_its_own_pack() {
        let (secret, namer, entry, bytes) = sample();
        let chunk = &entry.chunks[0];
        let reader = PackReader::new(entry.id, entry.kind, &secret);
        assert!(reader.open(&namer, 1, chunk, &mut sealed(&bytes, chunk)).is_err());
        let node = PackReader::new(entry.id, ChunkKind::Node, &secret);
        assert!(node.open(&namer, 0, chunk, &mut sealed(&bytes, chunk)).is_err());
        let other = PackReader::new(PackId([9; 16]), entry.kind, &secret);
        assert!(other.open(&namer, 0, chunk, &mut sealed(&bytes, chunk)).is_err());
    }

    #[test]
    fn every_flipped_bit_in_a_chunk_is_found() {
        let (secret, namer, entry, bytes) = sample();
        let reader = PackReader::new(entry.id, entry.kind, &secret);
        let chunk = &entry.chunks[0];
        for at in 0..chunk.stored as usize {
            let mut bad = sealed(&bytes, chunk);
            bad[at] ^= 1;
            assert!(reader.open(&namer, 0, chunk, &mut bad).is_err(), "{at}");
        }
    }
}
