//! The chunks that a run has stored itself: the newest in memory, the others in a table on disk, so that
//! a run of any length needs bounded memory.

use std::collections::HashSet;
use std::path::PathBuf;

use rocksdb::{DB, Options, WriteBatch};

use super::index::ALIVE;
use super::table::blocks;
use super::{Error, Result};
use crate::id::ChunkId;
use crate::lifeline::Lifeline;

const BLOCK_CACHE: usize = 16 << 20;
/// Ids written at once.
const BATCH: usize = 20_000;

/// A set of chunk ids.
pub(super) struct Own {
    recent: HashSet<ChunkId>,
    most: usize,
    directory: PathBuf,
    table: Option<DB>,
    lifeline: Option<Lifeline>,
}

impl Own {
    /// An empty set that holds `most` ids in memory; `directory` need not exist and is removed with the set.
    pub fn new(directory: PathBuf, most: usize) -> Own {
        Own { recent: HashSet::new(), most, directory, table: None, lifeline: None }
    }

    fn fail(&self, what: impl ToString) -> Error {
        Error::Cache { directory: self.directory.display().to_string(), what: what.to_string() }
    }

    /// Adds an id; true where it was not there.
    pub fn insert(&mut self, id: ChunkId) -> Result<bool> {
        if self.recent.contains(&id) {
            return Ok(false);
        }
        if let Some(table) = &self.table
            && table.get_pinned(id.0).map_err(|e| self.fail(e))?.is_some()
        {
            return Ok(false);
        }
        self.recent.insert(id);
        if self.recent.len() > self.most {
            self.spill()?;
        }
        Ok(true)
    }

    /// Takes back an id that was just added.
    pub fn take_back(&mut self, id: &ChunkId) {
        self.recent.remove(id);
    }

    fn spill(&mut self) -> Result<()> {
        if self.table.is_none() {
            let mut options = Options::default();
            options.create_if_missing(true);
            // What another run has stored says nothing of this one.
            options.set_error_if_exists(true);
            options.set_block_based_table_factory(&blocks(BLOCK_CACHE));
            options.set_write_buffer_size(16 << 20);
            self.lifeline = Lifeline::hold(&self.directory.with_extension(ALIVE)).ok();
            std::fs::create_dir_all(&self.directory).map_err(|e| self.fail(e))?;
            self.table = Some(DB::open(&options, &self.directory).map_err(|e| self.fail(e))?);
        }
        if let Some(table) = &self.table {
            let mut batch = WriteBatch::default();
            for id in &self.recent {
                batch.put(id.0, []);
                if batch.len() >= BATCH {
                    table.write(std::mem::take(&mut batch)).map_err(|e| self.fail(e))?;
                }
            }
            table.write(batch).map_err(|e| self.fail(e))?;
        }
        self.recent.clear();
        Ok(())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.table = None;
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once_however_many_there_are() {
        let directory = tempfile::tempdir().unwrap();
        let mut own = Own::new(directory.path().join("own"), 10);
        let id = |n: u8| ChunkId([n; 32]);
        for n in 0..100 {
            assert!(own.insert(id(n)).unwrap(), "{n}");
        }
        assert!(own.recent.len() <= 10);
        assert!((0..100).all(|n| !own.insert(id(n)).unwrap()));
    }

    /// As a machine that went down leaves it: nothing was removed.
    #[test]
    fn what_another_run_left_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let id = |n: u8| ChunkId([n; 32]);
        let mut left = Own::new(directory.path().join("own"), 1);
        (0..4).for_each(|n| assert!(left.insert(id(n)).unwrap()));
        left.table = None;
        std::mem::forget(left);
        let mut own = Own::new(directory.path().join("own"), 1);
        assert!(own.insert(id(0)).unwrap());
        let error = own.insert(id(1)).unwrap_err();
        assert!(error.to_string().contains("exists"), "{error}");
    }
}
