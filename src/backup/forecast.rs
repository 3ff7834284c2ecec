//! What a backup may add to a repository whose size is bounded. It is said before anything of it is stored, as
//! far as it can be foreseen: a first etcd by the size of its file, objects and files by their listing. What is
//! known already, or compresses, counts less in the end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Result, Run};
use crate::context::Nanos;
use crate::format::{Item, Root};
use crate::progress::size;
use crate::repository::Repository;
use crate::source::{Directory, Seen, shows};
use crate::tree;

/// Work that waits at the most; what comes after it is summed up while it is done.
const MOST_WAITING: usize = 100_000;

/// What is to be read, summed up.
pub(super) struct Forecast<'a> {
    repository: &'a Repository,
    /// Bytes of the whole repository: the most, and what is there.
    bound: Option<(u64, u64)>,
    /// Written before, by this process.
    written: u64,
    added: AtomicU64,
    said: AtomicBool,
}

fn written(repository: &Repository) -> u64 {
    repository.requests().written.load(Ordering::Relaxed)
}

impl<'a> Forecast<'a> {
    /// Looks how large the repository is, where that is bounded. One that is too large already is said to be.
    pub fn new(repository: &'a Repository, max: Option<u64>) -> Result<Forecast<'a>> {
        let bound = max.map(|max| Ok::<_, super::Error>((max, repository.bytes()?))).transpose()?;
        let (added, said) = (AtomicU64::new(0), AtomicBool::new(false));
        let forecast = Forecast { repository, bound, written: written(repository), added, said };
        forecast.settle();
        Ok(forecast)
    }

    /// Of which repository.
    pub fn repository(&self) -> &'a Repository {
        self.repository
    }

    /// Whether there is a bound, and nothing was said yet.
    pub fn is_open(&self) -> bool {
        self.bound.is_some() && !self.said.load(Ordering::Relaxed)
    }

    /// So many bytes will be read that may be new.
    pub fn add(&self, bytes: u64) {
        self.added.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says, once, that what was summed up does not fit.
    pub fn settle(&self) {
        let Some((max, there)) = self.bound else { return };
        let added = self.added.load(Ordering::Relaxed);
        let over = (there + added).saturating_sub(max);
        if over == 0 || self.said.swap(true, Ordering::Relaxed) {
            return;
        }
        let what = match added {
            0 => format!("the repository has {}", size(there)),
            _ => {
                format!("this backup may add up to {} to the {} of the repository", size(added), size(there))
            }
        };
        self.repository.context().progress.note(&format!("warning: {what}, {}", too_much(over, max)));
    }

    /// A warning where the repository is too large now.
    pub fn outcome(&self) -> Option<String> {
        let (max, there) = self.bound?;
        let now = there + written(self.repository) - self.written;
        let over = now.checked_sub(max).filter(|over| *over > 0)?;
        Some(format!("the repository has {} now, {}", size(now), too_much(over, max)))
    }
}

fn too_much(over: u64, max: u64) -> String {
    format!("{} more than its bound of {}: `icecore forget --prune` makes room", size(over), size(max))
}

/// Work that waits until it is known what all of it comes to.
pub(super) struct Waiting<'a, T> {
    forecast: &'a Forecast<'a>,
    held: Vec<T>,
    over: bool,
}

impl<'a, T> Waiting<'a, T> {
    /// Nothing waits where there is nothing to foresee.
    pub fn new(forecast: &'a Forecast<'a>) -> Waiting<'a, T> {
        Waiting { forecast, held: Vec::new(), over: !forecast.is_open() }
    }

    /// Holds work that will read so many bytes, or gives it on.
    pub fn push(&mut self, work: T, bytes: u64, mut give: impl FnMut(T) -> Result<()>) -> Result<()> {
        self.forecast.add(bytes);
        if !self.over && self.held.len() < MOST_WAITING {
            self.held.push(work);
            return Ok(());
        }
        self.release(&mut give)?;
        give(work)
    }

    /// Gives on what waited.
    pub fn release(&mut self, give: impl FnMut(T) -> Result<()>) -> Result<()> {
        self.over = true;
        self.forecast.settle();
        std::mem::take(&mut self.held).into_iter().try_for_each(give)
    }
}

impl Run<'_> {
    /// Sums up the files that a walk shows to be new or changed. They are walked by themselves: work that
    /// waits would hold their directories open.
    pub(super) fn foresee_files(
        &self,
        directory: &Directory,
        before: Option<&Root>,
        listed: Nanos,
    ) -> Result<()> {
        if !self.forecast.is_open() {
            return Ok(());
        }
        let mut old = tree::scan(&self.nodes, before, &[])?.peekable();
        for seen in directory.list()? {
            self.repository.context().cancel.check()?;
            let Seen::Entry(entry) = seen else { continue };
            let Ok(status) = entry.status.as_ref() else { continue };
            let mut known = None;
            while let Some(there) = old.next_if(|e| e.as_ref().map_or(true, |e| e.key <= entry.key)) {
                known = Some(there?).filter(|there| there.key == entry.key);
            }
            let item = known.map(|known| Item::decode(&known.value)).transpose()?;
            if status.is_file() && !item.is_some_and(|item| shows(status, &item, None, listed)) {
                self.forecast.add(status.size);
            }
        }
        self.forecast.settle();
        Ok(())
    }
}
