//! Checking the records: every file that is not a pack.

use std::collections::{BTreeSet, HashMap};

use super::{Error, Result, Run, damage};
use crate::fault::Kind;
use crate::format::{
    Claim, Condemned, Config, Malformed, Name, PackEntry, Record, Segment, SegmentName, Session, Tombstone,
    Verdict,
};
use crate::id::{PackId, SessionId};
use crate::progress::Amount;
use crate::repository::{self, View};

/// What valid segments list.
#[derive(Default)]
pub(super) struct Segments {
    /// Pack → how it is listed.
    pub packs: HashMap<PackId, PackEntry>,
    /// Segments below `index/` that could be read.
    pub readable: Vec<SegmentName>,
    /// All could be read.
    pub whole: bool,
}

/// What records say that there must be.
#[derive(Default)]
pub(super) struct Named {
    /// Pinned snapshots and parents.
    snapshots: BTreeSet<SessionId>,
    /// Labels of sessions.
    labels: BTreeSet<u64>,
}

/// The label of a session of this name.
fn label(sid: &str) -> Option<u64> {
    sid.parse::<SessionId>().ok().map(|sid| sid.label)
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
        self.read_folder::<Session>("session", "sessions/", "", |run, sid, session| {
            run.named.labels.extend(label(sid));
            run.named.snapshots.extend(session.pin);
        })?;
        self.read_folder::<Claim>("snapshot", "snapshots/", "", |run, sid, claim| {
            run.named.labels.extend(label(sid));
            if let Claim::Snapshot(snapshot) = claim {
                run.named.snapshots.extend(snapshot.parent);
            }
        })?;
        self.read_folder::<Tombstone>("tombstone", "forgotten/", "", |_, _, _| {})?;
        self.read_folder::<Condemned>("collection", "collections/", ".condemned", |_, _, _| {})?;
        self.read_folder::<Verdict>("collection", "collections/", ".verdict", |_, _, _| {})
    }

    /// What other records speak of, and no collection can have removed.
    pub(super) fn missing_records(&mut self, view: &View) -> Result<()> {
        let named = std::mem::take(&mut self.named);
        let snapshots = named.snapshots.into_iter().filter(|sid| view.validity.snapshot(sid));
        for sid in snapshots.chain(view.absent.iter().copied()) {
            self.must_be_there("snapshot", &Name::Claim(sid).to_string())?;
        }
        for segment in view.validity.segments.iter().filter(|name| !view.segments.contains(name)) {
            self.must_be_there("segment", &Name::Segment(*segment).to_string())?;
        }
        // A collection begins only once the one before has its verdict.
        let newest = view.numbers.newest();
        if newest > view.validity.verdict + 1 {
            self.must_be_there("collection", &Name::Verdict(newest - 1).to_string())?;
        }
        // A label says which collection was the newest; the newest stays until there is a newer one.
        if let Some(label) = named.labels.last().filter(|&&label| label > newest) {
            let file = format!("collections/{label}.*");
            self.note(damage("collection", file, format!("{}; a session names it", Malformed::Missing)));
        }
        Ok(())
    }

    fn must_be_there(&mut self, kind: &'static str, name: &str) -> Result<()> {
        match self.repository.storage().get(name) {
            Err(error) if error.is_not_found() => {
                self.note(damage(kind, name, format!("{}; another record names it", Malformed::Missing)));
                Ok(())
            }
            found => Ok(found.map(|_| ())?),
        }
    }

    fn read_folder<T: Record>(
        &mut self,
        kind: &'static str,
        folder: &str,
        ending: &str,
        mut show: impl FnMut(&mut Self, &str, T),
    ) -> Result<()> {
        for name in self.repository.storage().names(folder)? {
            self.repository.context().cancel.check()?;
            if !name.ends_with(ending) {
                continue;
            }
            if let Some(record) = self.read_one::<T>(kind, &format!("{folder}{name}"))? {
                show(self, &name, record);
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
        for info in view.inline() {
            let packs = info.snapshot.segment.packs.iter().map(|pack| (pack.id, pack.clone()));
            segments.packs.extend(packs);
        }
        for name in &view.segments {
            match self.read_one::<Segment>("segment", &Name::Segment(*name).to_string())? {
                Some(segment) => {
                    segments.packs.extend(segment.packs.into_iter().map(|pack| (pack.id, pack)));
                    segments.readable.push(*name);
                }
                None => segments.whole = false,
            }
        }
        Ok(segments)
    }
}
