//! Checking the records: every file that is not a pack.

use std::collections::HashMap;

use super::{Error, Result, Run, damage};
use crate::fault::Kind;
use crate::format::{Claim, Condemned, Config, PackEntry, Record, Segment, Session, Tombstone, Verdict};
use crate::id::PackId;
use crate::progress::Amount;
use crate::repository::{self, View};

/// What valid segments list.
#[derive(Default)]
pub(super) struct Segments {
    /// Pack → how it is listed.
    pub packs: HashMap<PackId, PackEntry>,
    /// Segments below `index/` that could be read.
    pub readable: Vec<String>,
    /// All could be read.
    pub whole: bool,
}

impl Run<'_> {
    /// Reads every record from the medium.
    pub(super) fn records(&mut self) -> Result<()> {
        self.read_one::<Config>("config", "config")?;
        for error in self.repository.damaged_keys()? {
            if let repository::Error::Damaged { file, what } = error {
                self.note(damage("key", file, what));
            }
        }
        self.read_folder::<Session>("session", "sessions/", |_| true)?;
        self.read_folder::<Claim>("snapshot", "snapshots/", |_| true)?;
        self.read_folder::<Tombstone>("tombstone", "forgotten/", |_| true)?;
        self.read_folder::<Condemned>("collection", "collections/", |name| name.ends_with(".condemned"))?;
        self.read_folder::<Verdict>("collection", "collections/", |name| name.ends_with(".verdict"))
    }

    fn read_folder<T: Record>(
        &mut self,
        kind: &'static str,
        folder: &str,
        ours: impl Fn(&str) -> bool,
    ) -> Result<()> {
        for name in self.repository.storage().names(folder)? {
            self.repository.context().cancel.check()?;
            if ours(&name) {
                self.read_one::<T>(kind, &format!("{folder}{name}"))?;
            }
        }
        Ok(())
    }

    /// Reads one record; `None` where it is damaged.
    fn read_one<T: Record>(&mut self, kind: &'static str, name: &str) -> Result<Option<T>> {
        self.repository.context().progress.advance(Amount { items: 1, bytes: 0 });
        match self.repository.record::<T>(name) {
            Ok(record) => Ok(Some(record)),
            Err(repository::Error::Damaged { file, what }) => {
                self.note(damage(kind, file, what));
                Ok(None)
            }
            // Removed since it was listed: a prune may run beside us.
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(Error::Repository(error)),
        }
    }

    /// Reads every valid segment.
    pub(super) fn segments(&mut self, view: &View) -> Result<Segments> {
        let mut segments = Segments { whole: true, ..Segments::default() };
        for info in view.snapshots.iter().chain(&view.forgotten) {
            let packs = info.snapshot.segment.packs.iter().map(|pack| (pack.id, pack.clone()));
            segments.packs.extend(packs);
        }
        for name in &view.segments {
            match self.read_one::<Segment>("segment", &format!("index/{name}"))? {
                Some(segment) => {
                    segments.packs.extend(segment.packs.into_iter().map(|pack| (pack.id, pack)));
                    segments.readable.push(name.clone());
                }
                None => segments.whole = false,
            }
        }
        Ok(segments)
    }
}
