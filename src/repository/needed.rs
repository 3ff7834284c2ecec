//! Which stored copies of chunks are needed: a bit for each place in each pack.

use std::collections::{HashMap, HashSet};

use super::{Reached, Repository, Result, for_each_chunk};
use crate::format::Snapshot;
use crate::id::{ChunkKind, PackId};
use crate::progress::Amount;
use crate::store::{self, Place, Reader};
use crate::tree::ReadWrite;

/// What is needed of one pack.
#[derive(Debug, Clone, Default)]
pub struct Used {
    bits: Vec<u64>,
    /// How many chunks.
    pub chunks: u64,
    /// Their bytes as they are stored.
    pub bytes: u64,
}

/// What a snapshot needs beside what others do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// How many chunks and nodes.
    pub chunks: u64,
    /// Their bytes as they are stored.
    pub bytes: u64,
}

/// One copy of each chunk that is needed.
#[derive(Debug, Default)]
pub struct Needed {
    packs: HashMap<PackId, Used>,
}

impl Needed {
    /// Notes that this copy is needed; false where that is known.
    fn insert(&mut self, place: &Place) -> bool {
        let used = self.packs.entry(place.pack).or_default();
        let (word, bit) = (place.position as usize / 64, 1u64 << (place.position % 64));
        if used.bits.len() <= word {
            used.bits.resize(word + 1, 0);
        }
        if used.bits[word] & bit != 0 {
            return false;
        }
        used.bits[word] |= bit;
        used.chunks += 1;
        used.bytes += u64::from(place.stored);
        true
    }

    /// Whether this copy is needed.
    pub fn contains(&self, pack: &PackId, position: u32) -> bool {
        let word = self.packs.get(pack).and_then(|used| used.bits.get(position as usize / 64));
        word.is_some_and(|word| word & 1 << (position % 64) != 0)
    }

    /// What is needed of a pack.
    pub fn of(&self, pack: &PackId) -> Used {
        self.packs.get(pack).cloned().unwrap_or_default()
    }

    /// Every pack of which something is needed.
    pub fn packs(&self) -> impl Iterator<Item = &PackId> {
        self.packs.keys()
    }

    /// Adds all that a snapshot refers to; gives what was not needed before. Of several copies one is chosen,
    /// not in a pack of `avoided` where that can be. A node that is needed already is not entered again.
    pub fn add(
        &mut self,
        repository: &Repository,
        reader: &Reader,
        avoided: &HashSet<PackId>,
        snapshot: &Snapshot,
    ) -> Result<Added> {
        let context = repository.context();
        let nodes = ReadWrite::new(reader, None);
        let mut added = Added::default();
        let mut enter = |reached: Reached| {
            context.cancel.check()?;
            let places = reader.places(&reached.id)?;
            let safe = places.iter().find(|place| !avoided.contains(&place.pack));
            let missing = || store::Error::Missing { kind: reached.kind, id: reached.id };
            let place = safe.or(places.first()).ok_or_else(missing)?;
            let fresh = self.insert(place);
            if fresh {
                added.chunks += 1;
                added.bytes += u64::from(place.stored);
            }
            if fresh && reached.kind == ChunkKind::Node {
                context.progress.advance(Amount { items: 1, bytes: 0 });
            }
            Ok(fresh)
        };
        for_each_chunk(&nodes, snapshot, &mut enter, &mut |_, error| Err(error))?;
        Ok(added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_counted_once() {
        let mut needed = Needed::default();
        let place = |position| Place { pack: PackId([1; 16]), position, offset: 0, stored: 10, plain: 10 };
        assert!(needed.insert(&place(3)) && needed.insert(&place(700)) && !needed.insert(&place(3)));
        let used = needed.of(&PackId([1; 16]));
        assert_eq!((used.chunks, used.bytes), (2, 20));
        assert!(needed.contains(&PackId([1; 16]), 700) && !needed.contains(&PackId([1; 16]), 699));
        assert!(!needed.contains(&PackId([2; 16]), 3));
    }
}
