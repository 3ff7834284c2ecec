//! Chunks of content, looked up in the order of their names: however large the index is, its entries are stepped
//! through once.

use super::{Repository, Result};
use crate::id::ChunkId;
use crate::sorter::Sorter;
use crate::store::{Place, Reader};

/// Chunks that are to be looked up.
pub struct Contents<'a> {
    repository: &'a Repository,
    ids: Sorter,
}

impl Contents<'_> {
    /// None yet.
    pub fn new(repository: &Repository) -> Contents<'_> {
        Contents { repository, ids: repository.spool().large_sorter() }
    }

    /// One more, in any order.
    pub fn add(&mut self, id: &ChunkId) -> Result<()> {
        self.ids.push(id.0, []).map_err(|error| self.repository.spool_failed(error))
    }

    /// Shows where each of them is, as often as it was added.
    pub fn look_up(
        self,
        reader: &Reader,
        mut show: impl FnMut(ChunkId, &[Place]) -> Result<()>,
    ) -> Result<()> {
        let Contents { repository, ids } = self;
        let failed = |error| repository.spool_failed(error);
        let sorted = ids.finish().map_err(failed)?;
        reader.look_up(|look_up| {
            for record in sorted {
                repository.context().cancel.check()?;
                let id = ChunkId(<[u8; 32]>::try_from(record.map_err(failed)?.0).unwrap_or_default());
                show(id, &look_up.places(&id)?)?;
            }
            Ok(())
        })
    }
}
