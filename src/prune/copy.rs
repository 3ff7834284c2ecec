//! Copying what is needed out of packs that go, several stretches of packs at once, and reading it back.

use super::{Error, Result};
use crate::format::{Name, PackEntry, PackedChunk, Segment, SegmentName};
use crate::id::{ChunkKind, PackId};
use crate::pool::{self, Pool};
use crate::progress::{Amount, Phase};
use crate::repository::Repository;
use crate::store::{PackReader, Reader, Writer, unshared, verify_pack};

/// Needed chunks this near to each other are read with one request, up to so many bytes.
const GAP: u64 = 128 << 10;
const MOST: u64 = 4 << 20;
/// Stretches read at once.
const AT_ONCE: usize = 4;
/// Whole packs read back at once.
const BACK_AT_ONCE: usize = 2;

/// Chunks of one pack that are near each other.
pub(super) struct Group {
    pack: PackId,
    kind: ChunkKind,
    /// In order of their offsets, with their positions.
    chunks: Vec<(PackedChunk, u32)>,
}

fn end_of(chunk: &PackedChunk) -> u64 {
    u64::from(chunk.offset) + u64::from(chunk.stored)
}

impl Group {
    /// All that is wanted of a pack.
    pub fn all(pack: &PackEntry, wanted: Vec<(PackedChunk, u32)>) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (chunk, position) in wanted {
            let near = groups.last_mut().filter(|group| group.takes(&chunk));
            match near {
                Some(group) => group.chunks.push((chunk, position)),
                None => {
                    groups.push(Group { pack: pack.id, kind: pack.kind, chunks: vec![(chunk, position)] })
                }
            }
        }
        groups
    }

    /// The bytes of the pack that it lies in.
    fn range(&self) -> (u64, u64) {
        let ends = self.chunks.first().zip(self.chunks.last());
        ends.map_or((0, 0), |((first, _), (last, _))| (first.offset.into(), end_of(last)))
    }

    fn takes(&self, next: &PackedChunk) -> bool {
        let (begin, end) = self.range();
        // A pack whose chunks do not stand in order is none of ours; then each is read by itself.
        u64::from(next.offset).checked_sub(end).is_some_and(|gap| gap <= GAP) && end_of(next) - begin <= MOST
    }
}

/// Copies chunks.
pub(super) struct Copier<'a> {
    pub repository: &'a Repository,
    /// Reads from the medium.
    pub reader: &'a Reader,
    pub writer: &'a Writer,
}

impl Copier<'_> {
    /// Copies every group that `give` gives.
    pub fn run<T>(&self, give: impl FnOnce(&Pool<'_, Group, Error>) -> Result<T>) -> Result<T> {
        pool::run(AT_ONCE, AT_ONCE, || (), |_, group| self.copy(&group), give)
    }

    fn copy(&self, group: &Group) -> Result<()> {
        self.repository.context().cancel.check()?;
        let Group { pack, kind, chunks } = group;
        let (name, (begin, end)) = (Name::Pack(*kind, *pack).to_string(), group.range());
        let opener = PackReader::new(*pack, *kind, self.repository.seal_secret());
        let namer = self.repository.namer();
        let mut bytes = unshared(self.repository.storage().get_range(&name, begin, end - begin)?);
        for (chunk, position) in chunks {
            let at = (u64::from(chunk.offset) - begin) as usize;
            let sealed = bytes.get_mut(at..at + chunk.stored as usize).unwrap_or_default();
            // It is opened, unpacked and named, and packed as it was.
            match opener.open_encoded(&namer, *position, chunk, sealed) {
                Ok(encoded) => self.writer.put_encoded(*kind, chunk.id, encoded, chunk.plain)?,
                // Another copy may be whole.
                Err(_) => drop(self.writer.put(*kind, &self.reader.get(*kind, &chunk.id)?[..])?),
            }
        }
        Ok(())
    }
}

/// Everything that was copied is read again before anything is deleted.
pub(super) fn read_back(repository: &Repository, names: &[SegmentName], last: &Segment) -> Result<()> {
    let progress = &repository.context().progress;
    progress.begin(Phase { name: "reading back what was copied", unit: "packs" });
    let verify = |_: &mut (), pack: PackEntry| -> Result<()> {
        repository.context().cancel.check()?;
        verify_pack(repository.storage(), repository.seal_secret(), &repository.namer(), &pack)?;
        progress.advance(Amount { items: 1, bytes: pack.size });
        Ok(())
    };
    pool::run(
        BACK_AT_ONCE,
        1,
        || (),
        verify,
        |packs: &Pool<'_, PackEntry, Error>| {
            for name in names {
                let segment = repository.segment(&Name::Segment(*name).to_string())?;
                segment.packs.into_iter().try_for_each(|pack| packs.give(pack))?;
            }
            Ok(last.packs.iter().cloned().try_for_each(|pack| packs.give(pack))?)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChunkId;

    #[test]
    fn neighbours_are_read_together_up_to_a_bound() {
        let chunk = |offset: u64, stored: u32| PackedChunk {
            id: ChunkId([0; 32]),
            offset: offset as u32,
            stored,
            plain: 1,
        };
        let pack = PackEntry { id: PackId([1; 16]), kind: ChunkKind::Data, size: 0, chunks: vec![] };
        let wanted = [
            chunk(8, 100),
            chunk(108, 100),
            chunk(208 + GAP, 100),
            chunk(309 + 2 * GAP, 100),
            chunk(409 + 2 * GAP, MOST as u32),
        ];
        let groups = Group::all(&pack, wanted.into_iter().zip(0..).collect());
        assert_eq!(groups.iter().map(|group| group.chunks.len()).collect::<Vec<_>>(), [3, 1, 1]);
        assert_eq!(groups[0].range(), (8, 308 + GAP));
        let backwards = Group::all(&pack, vec![(chunk(500, 10), 0), (chunk(8, 10), 1)]);
        assert_eq!(backwards.len(), 2);
    }
}
