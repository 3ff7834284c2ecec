//! Which stored copies of chunks are needed: a bit for each place in each pack.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::{Contents, Met, Reached, Repository, Result, for_each_chunk, prefetch_roots};
use crate::format::{PackEntry, PackedChunk, Snapshot};
use crate::id::{ChunkId, ChunkKind, PackId};
use crate::progress::Amount;
use crate::store::{self, Place, Reader};
use crate::tree::ReadWrite;

/// What is needed of one pack.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// How many chunks.
    pub chunks: u64,
    /// Their bytes as they are stored.
    pub bytes: u64,
}

/// Places in a pack.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    /// False where it was set before.
    fn set(&mut self, position: u32) -> bool {
        let (word, bit) = (position as usize / 64, 1u64 << (position % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    fn has(&self, position: u32) -> bool {
        self.0.get(position as usize / 64).is_some_and(|word| word & 1 << (position % 64) != 0)
    }
}

/// What a snapshot needs beside what others do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// How many chunks and nodes.
    pub chunks: u64,
    /// Their bytes as they are stored.
    pub bytes: u64,
}

impl Added {
    fn count(&mut self, place: Place) {
        self.chunks += 1;
        self.bytes += u64::from(place.stored);
    }
}

/// How a stored copy of a chunk is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// No snapshot refers to the chunk.
    None,
    /// It is the only copy that valid segments list.
    Only,
    /// One of several was chosen, this or another.
    Several,
}

#[derive(Debug, Default)]
struct OfPack {
    used: Used,
    chosen: Bits,
    /// Chosen or not: valid segments list other copies as well.
    several: Bits,
    /// Of the chunk that was noted at each place; zero where none was.
    tags: Vec<Tag>,
    /// Two chunks were noted at one place: one of them is not there.
    disputed: bool,
}

/// A keyed hash of a chunk's name, never zero.
type Tag = u32;

impl OfPack {
    fn note(&mut self, position: u32, tag: Tag) {
        let position = position as usize;
        if self.tags.len() <= position {
            self.tags.resize(position + 1, 0);
        }
        let noted = &mut self.tags[position];
        self.disputed |= *noted != 0 && *noted != tag;
        *noted = tag;
    }
}

/// One copy of each chunk that is needed, and where there are others.
#[derive(Debug, Default)]
pub struct Needed {
    packs: HashMap<PackId, OfPack>,
    met: Met,
    /// With a key that nobody knows.
    hasher: RandomState,
}

impl Needed {
    fn tag(&self, id: &ChunkId) -> Tag {
        self.hasher.hash_one(id) as Tag | 1
    }

    /// The pack of a copy that is needed now.
    fn pack_with(&mut self, id: &ChunkId, place: &Place) -> &mut OfPack {
        let tag = self.tag(id);
        let pack = self.packs.entry(place.pack).or_default();
        pack.note(place.position, tag);
        pack
    }

    /// Notes that this copy is needed; false where that is known.
    fn choose(&mut self, id: &ChunkId, place: &Place) -> bool {
        let pack = self.pack_with(id, place);
        let fresh = pack.chosen.set(place.position);
        if fresh {
            pack.used.chunks += 1;
            pack.used.bytes += u64::from(place.stored);
        }
        fresh
    }

    /// How this copy is needed, by the segments that were valid when it was noted.
    pub fn need(&self, pack: &PackId, position: u32) -> Need {
        let Some(pack) = self.packs.get(pack) else { return Need::None };
        match (pack.chosen.has(position), pack.several.has(position)) {
            (_, true) => Need::Several,
            (true, false) => Need::Only,
            (false, false) => Need::None,
        }
    }

    /// Whether a listing of a pack has all that is needed of it, under the same names. Who can add segments could
    /// list something else.
    pub fn is_whole(&self, listing: &PackEntry) -> bool {
        let Some(pack) = self.packs.get(&listing.id) else { return true };
        let agrees = |(&tag, chunk): (&Tag, &PackedChunk)| tag == 0 || tag == self.tag(&chunk.id);
        !pack.disputed
            && pack.tags.len() <= listing.chunks.len()
            && pack.tags.iter().zip(&listing.chunks).all(agrees)
    }

    /// What is needed of a pack.
    pub fn of(&self, pack: &PackId) -> Used {
        self.packs.get(pack).map(|pack| pack.used).unwrap_or_default()
    }

    /// Every pack of which something is needed.
    pub fn packs(&self) -> impl Iterator<Item = &PackId> {
        self.packs.iter().filter(|(_, pack)| pack.used.chunks > 0).map(|(id, _)| id)
    }

    /// Notes a chunk; tells its place, and whether that was not needed before.
    fn note(
        &mut self,
        places: &[Place],
        avoided: &HashSet<PackId>,
        kind: ChunkKind,
        id: ChunkId,
    ) -> Result<(Place, bool)> {
        let safe = places.iter().find(|place| !avoided.contains(&place.pack));
        let place = *safe.or(places.first()).ok_or(store::Error::Missing { kind, id })?;
        let fresh = self.choose(&id, &place);
        for place in places.iter().filter(|_| places.len() > 1) {
            self.pack_with(&id, place).several.set(place.position);
        }
        Ok((place, fresh))
    }

    /// Adds all that snapshots refer to; gives what was not needed before. Of several copies one is chosen, not
    /// in a pack of `avoided` where that can be. A node that is needed already is not entered again. Chunks of
    /// content are looked up in the order of their names.
    pub fn add<'s>(
        &mut self,
        repository: &Repository,
        reader: &Reader,
        avoided: &HashSet<PackId>,
        snapshots: impl IntoIterator<Item = &'s Snapshot>,
    ) -> Result<Added> {
        let context = repository.context();
        let nodes = ReadWrite::new(reader, None);
        let (mut added, mut contents) = (Added::default(), Contents::new(repository));
        let snapshots: Vec<&Snapshot> = snapshots.into_iter().collect();
        for (at, snapshot) in snapshots.iter().enumerate() {
            prefetch_roots(&nodes, &snapshots, at)?;
            let mut enter = |reached: Reached| {
                context.cancel.check()?;
                let new = self.met.add(&reached);
                match reached.kind {
                    ChunkKind::Node if new => {
                        let places = reader.places(&reached.id)?;
                        added.count(self.note(&places, avoided, reached.kind, reached.id)?.0);
                        context.progress.advance(Amount { items: 1, bytes: 0 });
                    }
                    ChunkKind::Data if new => contents.add(&reached.id)?,
                    _ => {}
                }
                Ok(new)
            };
            for_each_chunk(&nodes, snapshot, &mut enter, &mut |_, error| Err(error))?;
        }
        contents.look_up(reader, |id, places| {
            let (place, fresh) = self.note(places, avoided, ChunkKind::Data, id)?;
            if fresh {
                added.count(place);
            }
            Ok(())
        })?;
        Ok(added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_counted_once() {
        let mut needed = Needed::default();
        let (pack, other) = (PackId([1; 16]), PackId([2; 16]));
        let place = |position| Place { pack, pack_size: 10, position, offset: 0, stored: 10, plain: 10 };
        let id = ChunkId([3; 32]);
        assert!(needed.choose(&id, &place(3)) && needed.choose(&id, &place(700)));
        assert!(!needed.choose(&id, &place(3)));
        let used = needed.of(&pack);
        assert_eq!((used.chunks, used.bytes), (2, 20));
        needed.packs.entry(pack).or_default().several.set(700);
        needed.packs.entry(other).or_default().several.set(5);
        let needs = [(pack, 3), (pack, 699), (pack, 700), (other, 5), (other, 3)];
        let needs = needs.map(|(pack, position)| needed.need(&pack, position));
        assert_eq!(needs, [Need::Only, Need::None, Need::Several, Need::Several, Need::None]);
        assert_eq!(needed.packs().collect::<Vec<_>>(), [&pack]);
    }

    #[test]
    fn a_listing_is_whole_if_it_has_all_that_is_noted_and_nobody_says_otherwise() {
        let mut needed = Needed::default();
        let pack = PackId([1; 16]);
        let place = |position| Place { pack, pack_size: 10, position, offset: 0, stored: 10, plain: 10 };
        let packed = |n| PackedChunk { id: ChunkId([n; 32]), offset: 0, stored: 10, plain: 10 };
        let listing = |ids: &[u8]| PackEntry {
            id: pack,
            kind: ChunkKind::Data,
            size: 40,
            chunks: ids.iter().copied().map(packed).collect(),
        };
        needed.choose(&ChunkId([1; 32]), &place(0));
        needed.choose(&ChunkId([3; 32]), &place(2));
        needed.choose(&ChunkId([3; 32]), &place(2));
        let whole = |needed: &Needed, ids: &[u8]| needed.is_whole(&listing(ids));
        assert!(whole(&needed, &[1, 2, 3]) && whole(&needed, &[1, 9, 3, 9]));
        assert!(!whole(&needed, &[]) && !whole(&needed, &[1, 2]) && !whole(&needed, &[2, 2, 3]));
        needed.choose(&ChunkId([3; 32]), &place(0));
        assert!(!whole(&needed, &[1, 2, 3]) && !whole(&needed, &[3, 2, 3]));
    }
}
