//! What an interrupted backup has read, so that the next one of the same place need not read it again.
//!
//! Every object that was read is logged on this machine with its entry. The next backup of the series and
//! place takes an entry over where the listing still shows that very object, and where every chunk of it is
//! one that a new snapshot may refer to. So a log says nothing that is not judged anew; losing it costs
//! time. It goes once there is a snapshot.

use std::io;
use std::iter::Peekable;
use std::sync::Mutex;

use super::{Result, Run};
use crate::format::{Item, Place};
use crate::id::ChunkKind;
use crate::mutex::{into_inner, lock};
use crate::repository::Log;
use crate::sorter::Sorted;

/// The log of one series and place; `None` where there can be none.
pub(super) struct Checkpoint(Mutex<Option<Log>>);

/// What was logged by earlier runs, in order of key.
pub(super) struct Earlier(Peekable<Sorted>);

impl Run<'_> {
    /// Opens the checkpoint for `place`, with what it holds. Where this machine cannot keep one the backup
    /// goes on without.
    pub(super) fn checkpoint(&self, place: &Place) -> Result<(Checkpoint, Earlier)> {
        let mut sorter = self.repository.spool().sorter();
        let what = format!("{}\0{place:?}", self.options.series);
        let name = self.repository.namer().name(ChunkKind::Data, what.as_bytes()).to_string();
        let mut log = self.repository.log(&name).ok().flatten();
        let mut read = |log: &mut Log| log.read(|key, item| sorter.push(key, item));
        if let Some(error) = log.as_mut().and_then(|log| read(log).err()) {
            return Err(self.spool_error(error));
        }
        let sorted = sorter.finish().map_err(|e| self.spool_error(e))?;
        Ok((Checkpoint(Mutex::new(log)), Earlier(sorted.peekable())))
    }

    /// The entry that an earlier run made of the object `key`, where it can be taken over. Keys must grow.
    pub(super) fn resume(
        &self,
        earlier: &mut Earlier,
        key: &[u8],
        same: impl Fn(&Item) -> bool,
    ) -> Result<Option<Item>> {
        let Some(entry) = earlier.take(key).map_err(|e| self.spool_error(e))? else { return Ok(None) };
        // Sealed by an icecore, though maybe by another version.
        let Some(item) = Item::decode(&entry).ok().filter(same) else { return Ok(None) };
        Ok(self.is_stored(&item.content)?.then_some(item))
    }
}

impl Earlier {
    /// The last entry that was logged for `key`.
    fn take(&mut self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut found = None;
        while let Some(record) = self.0.next_if(|r| r.as_ref().map_or(true, |r| r.0.as_slice() <= key)) {
            let (logged, item) = record?;
            if logged == key {
                found = Some(item);
            }
        }
        Ok(found)
    }
}

impl Checkpoint {
    /// Notes an object that was read.
    pub fn keep(&self, key: &[u8], item: &[u8]) {
        let mut log = lock(&self.0);
        // A log that cannot be written is none; whatever else needs the disk says so.
        if log.as_mut().is_some_and(|log| log.append(key, item).is_err()) {
            *log = None;
        }
    }

    /// There is a snapshot: nothing needs to be taken over any more.
    pub fn done(self) {
        let log = into_inner(self.0);
        if let Some(log) = log {
            log.remove();
        }
    }
}
