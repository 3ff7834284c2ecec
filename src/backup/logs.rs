//! Segments of a write-ahead log, each captured as it was at one moment.
//!
//! Woodpecker merges a segment's blocks into larger ones, writes a footer that names these, and deletes the
//! blocks. A listing from before and a footer from after make a segment that nobody can read. So each folder of
//! which something was read is listed once more: where all that was captured is still there and the same, it was
//! so at the first listing, too; but a footer may have been read that is newer than the listing, so that after
//! one there must be nothing else either. Else what is different is captured again.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::objects::{Counts, Wish, Work};
use super::{Error, Result, Run};
use crate::format::{Item, ItemState};
use crate::milvus::{is_log_footer, log_folder};
use crate::mutex::lock;
use crate::sorter::{Sorter, last_of_each, paired};
use crate::source::Listed;

/// A folder that changes whenever it is captured is captured again this often.
const ROUNDS: usize = 5;
/// Folders that are listed once more.
const MOST_FOLDERS: usize = 100_000;
/// Objects of one folder that are captured again. Woodpecker begins a new segment after 1000 blocks.
const MOST_OBJECTS: usize = 10_000;

/// What was captured of logs.
pub(super) struct Logs(Mutex<Captured>);

struct Captured {
    /// Every object, encoded, by its key.
    objects: Sorter,
    /// Folders of which something was read, and whether their footer was.
    read: BTreeMap<String, bool>,
    /// Whether there were more.
    more: bool,
}

impl Captured {
    fn new(run: &Run) -> Captured {
        Captured { objects: run.repository.spool().small_sorter(), read: BTreeMap::new(), more: false }
    }

    fn note_read(&mut self, folder: &str, footer: bool) {
        let full = self.read.len() == MOST_FOLDERS;
        match self.read.get_mut(folder) {
            Some(with_footer) => *with_footer |= footer,
            None if full => self.more = true,
            None => drop(self.read.insert(folder.into(), footer)),
        }
    }
}

/// A key, and the encoded item.
type Record = (Vec<u8>, Vec<u8>);

/// How a folder is other than it was captured.
#[derive(Default)]
struct Differences {
    /// Whether anything captured is another now, or not there.
    moved: bool,
    /// What is another, or was not captured.
    wanted: Vec<Listed>,
    removed: Vec<Vec<u8>>,
    /// Of those captured: vanished before they were read.
    gone: u64,
}

impl Logs {
    pub fn new(run: &Run) -> Logs {
        Logs(Mutex::new(Captured::new(run)))
    }

    /// Notes an object as it is captured.
    pub fn note(&self, run: &Run, key: &[u8], value: &[u8], read: bool) -> Result<()> {
        let Some(folder) = log_folder(key) else { return Ok(()) };
        let mut captured = lock(&self.0);
        if read {
            captured.note_read(folder, is_log_footer(key));
        }
        captured.objects.push(key, value).map_err(|e| run.spool_error(e))
    }
}

impl Run<'_> {
    pub(super) fn warn_about_logs(&mut self, restless: &[String]) {
        if let Some(example) = restless.first() {
            self.warnings.push(format!(
                "{} segments of the write-ahead log changed whenever they were read, for example {example:?}: Milvus may \
                 not be able to read what it wrote there last",
                restless.len()
            ));
        }
    }
}

impl Work<'_, '_> {
    /// Captures folders again that changed since they were listed, and returns those that never rest.
    pub(super) fn settle(&self, counts: &mut Counts) -> Result<Vec<String>> {
        let Some(logs) = &self.logs else { return Ok(Vec::new()) };
        let mut restless = Vec::new();
        for round in 0..=ROUNDS {
            let captured = std::mem::replace(&mut *lock(&logs.0), Captured::new(self.run));
            if captured.read.is_empty() {
                break;
            }
            if captured.more {
                restless.push(format!("(more than {MOST_FOLDERS} folders)"));
            }
            let last = round == ROUNDS;
            let again = self.all(|wanted| self.again(captured, (!last).then_some(wanted), &mut restless))?;
            counts.read_count += again.read_count;
        }
        Ok(restless)
    }

    /// Has read what changed in folders; without `wanted` these are only told.
    fn again(
        &self,
        captured: Captured,
        wanted: Option<mpsc::Sender<Wish>>,
        restless: &mut Vec<String>,
    ) -> Result<Counts> {
        let mut counts = Counts::default();
        let objects = captured.objects.finish().map_err(|e| self.run.spool_error(e))?;
        let mut objects = last_of_each(objects).peekable();
        while let Some(next) = objects.peek() {
            let of = |next: &io::Result<Record>| {
                next.as_ref().ok().and_then(|(key, _)| log_folder(key)).unwrap_or_default().to_owned()
            };
            let folder = of(next);
            let group = std::iter::from_fn(|| objects.next_if(|next| next.is_err() || of(next) == folder));
            let mut group = group.map(|record| record.map_err(|e| self.run.spool_error(e)));
            let Some(&with_footer) = captured.read.get(&folder) else {
                group.try_for_each(|record| record.map(drop))?;
                continue;
            };
            let differences = self.differences(&folder, with_footer, group)?;
            if !differences.moved {
                continue;
            }
            let few = differences.wanted.len().max(differences.removed.len()) < MOST_OBJECTS;
            let Some(wanted) = wanted.as_ref().filter(|_| few) else {
                restless.push(folder);
                continue;
            };
            self.gone.fetch_sub(differences.gone, Ordering::Relaxed);
            for key in differences.removed {
                self.edit(key, Vec::new())?;
            }
            for listed in differences.wanted {
                counts.read_count += 1;
                let wish = Wish { entry: listed.key.clone().into_bytes(), listed };
                wanted.blocking_send(wish).map_err(|_| crate::context::Interrupted)?;
            }
        }
        Ok(counts)
    }

    /// Compares a folder as it was captured with what is there now. What is the same is noted for the next time.
    fn differences(
        &self,
        folder: &str,
        with_footer: bool,
        captured: impl Iterator<Item = Result<Record>>,
    ) -> Result<Differences> {
        let mut found = Differences::default();
        let now = self.list(folder)?.map(|listed| {
            let listed = listed?;
            Ok::<_, Error>((listed.key.clone().into_bytes(), listed))
        });
        for pair in paired(captured, now) {
            self.check()?;
            let (key, value, listed) = pair?;
            let item = value.as_ref().map(|value| Item::decode(value)).transpose()?;
            let was = item.as_ref().map(|item| item.state);
            let same = |listed: &Listed| {
                item.as_ref().is_some_and(|item| listed.shows(item)) || was == Some(ItemState::Unreadable)
            };
            found.moved |= match was {
                Some(_) => !listed.as_ref().is_some_and(same),
                None => with_footer,
            };
            found.gone += u64::from(was == Some(ItemState::Gone));
            match (listed, value) {
                (Some(listed), Some(value)) if same(&listed) => self.note_log(&key, &value, false)?,
                (Some(listed), _) if found.wanted.len() < MOST_OBJECTS => found.wanted.push(listed),
                (Some(_), _) => {}
                (None, _) if found.removed.len() < MOST_OBJECTS => found.removed.push(key),
                (None, _) => {}
            }
        }
        Ok(found)
    }

    /// Notes an object of a log as it is captured, or was before.
    pub(super) fn note_log(&self, key: &[u8], value: &[u8], read: bool) -> Result<()> {
        self.logs.as_ref().map_or(Ok(()), |logs| logs.note(self.run, key, value, read))
    }
}
