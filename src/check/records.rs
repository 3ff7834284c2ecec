//! Checking the records: every file that is not a pack.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Error, Result, Run, damage};
use crate::fault::Kind;
use crate::format::{
    Claim, Condemned, Config, Malformed, Name, PackEntry, Record, Segment, SegmentName, Session, Tombstone,
    Verdict,
};
use crate::id::{PackId, SessionId};
use crate::pool;
use crate::progress::Amount;
use crate::repository::{self, Repository, View};
use crate::store::READ_AT_ONCE;

/// What valid segments list.
#[derive(Default)]
pub(super) struct Segments {
    /// Pack → how it is listed.
    pub packs: HashMap<PackId, PackEntry>,
    /// Segments below `index/` that could be read.
    pub readable: Vec<(SegmentName, u64)>,
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

impl Named {
    /// What the record of a session, or of how it ended, says.
    fn of(sid: &str, snapshot: Option<SessionId>) -> Named {
        let label = sid.parse::<SessionId>().ok().map(|sid| sid.label);
        Named { snapshots: snapshot.into_iter().collect(), labels: label.into_iter().collect() }
    }

    fn extend(&mut self, more: Named) {
        self.snapshots.extend(more.snapshots);
        self.labels.extend(more.labels);
    }
}

/// Reads a record, by its folder and its name there.
type Read = fn(&Repository, &str, &str) -> repository::Result<Named>;

/// Records of one kind: what damage calls them, their folder, how their names end, how one is read.
const RECORDS: [(&str, &str, &str, Read); 6] = [
    ("key", "keys/", "", |repository, _, id| repository.check_key(id).map(|()| Named::default())),
    ("session", "sessions/", "", |repository, folder, sid| {
        let session: Session = repository.record(&format!("{folder}{sid}"))?;
        Ok(Named::of(sid, session.pin))
    }),
    ("snapshot", "snapshots/", "", |repository, folder, sid| {
        Ok(match repository.record(&format!("{folder}{sid}"))? {
            Claim::Snapshot(snapshot) => Named::of(sid, snapshot.parent),
            Claim::Closed(_) => Named::of(sid, None),
        })
    }),
    ("tombstone", "forgotten/", "", names_none::<Tombstone>),
    ("collection", "collections/", ".condemned", names_none::<Condemned>),
    ("collection", "collections/", ".verdict", names_none::<Verdict>),
];

fn names_none<T: Record>(repository: &Repository, folder: &str, name: &str) -> repository::Result<Named> {
    repository.record::<T>(&format!("{folder}{name}")).map(|_| Named::default())
}

/// Whether an error is about one record alone: it is damaged, seems to be of a newer format, or went since it was listed.
fn is_of_record(error: &repository::Error) -> bool {
    matches!(error, repository::Error::Damaged { .. }) || error.kind() == Kind::NotFound
}

/// Records that are read before any of them is looked at.
const PART: usize = 256;

impl Run<'_> {
    /// Reads every record from the medium.
    pub(super) fn records(&mut self) -> Result<()> {
        let repository = self.repository;
        let config = repository.record::<Config>("config").map(|_| Named::default());
        self.note_record("config", config)?;
        let listed = pool::each(&RECORDS, |(_, folder, ending, _)| {
            let mut names = repository.storage().names(folder)?;
            names.retain(|name| name.ends_with(ending));
            Ok::<_, Error>(names)
        });
        for ((kind, folder, _, read), names) in RECORDS.iter().zip(listed) {
            for part in names?.chunks(PART) {
                let read = |name: &String| {
                    repository.context().cancel.check().map_err(repository::Error::from)?;
                    match read(repository, folder, name) {
                        Err(error) if !is_of_record(&error) => Err(error),
                        read => Ok(read),
                    }
                };
                for named in pool::try_several(repository.storage().at_once(), part, read)? {
                    self.note_record(kind, named)?;
                }
            }
        }
        Ok(())
    }

    /// Notes what a record names, or that it is damaged.
    fn note_record(&mut self, kind: &'static str, read: repository::Result<Named>) -> Result<()> {
        let named = self.sound(kind, read)?;
        self.named.extend(named.unwrap_or_default());
        Ok(())
    }

    /// A record that was read; `None` where it is damaged.
    fn sound<T>(&mut self, kind: &'static str, read: repository::Result<T>) -> Result<Option<T>> {
        self.repository.context().progress.advance(Amount { items: 1, bytes: 0 });
        match read {
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

    /// What other records speak of, and no collection can have removed.
    pub(super) fn missing_records(&mut self, view: &View) -> Result<()> {
        let named = std::mem::take(&mut self.named);
        let snapshots = named.snapshots.into_iter().filter(|sid| view.validity.snapshot(sid));
        let lost = snapshots.filter(|sid| !view.ended.contains(sid)).chain(view.absent.iter().copied());
        for sid in lost {
            self.must_be_there("snapshot", &Name::Claim(sid).to_string())?;
        }
        let listed: HashSet<&SegmentName> = view.segments.iter().map(|(name, _)| name).collect();
        for segment in view.validity.segments.iter().filter(|name| !listed.contains(name)) {
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

    /// Reads every valid segment.
    pub(super) fn segments(&mut self, view: &View) -> Result<Segments> {
        let mut segments = Segments { whole: true, ..Segments::default() };
        for info in view.inline() {
            let packs = info.snapshot.segment.packs.iter().map(|pack| (pack.id, pack.clone()));
            segments.packs.extend(packs);
        }
        let repository = self.repository;
        for part in pool::parts(&view.segments, READ_AT_ONCE, |(_, size)| *size) {
            let name = |(name, _): &(SegmentName, u64)| Name::Segment(*name).to_string();
            let read = pool::each(part, |segment| repository.record::<Segment>(&name(segment)));
            for (segment, read) in part.iter().zip(read) {
                match self.sound("segment", read)? {
                    Some(record) => {
                        segments.packs.extend(record.packs.into_iter().map(|pack| (pack.id, pack)));
                        segments.readable.push(*segment);
                    }
                    None => segments.whole = false,
                }
            }
        }
        Ok(segments)
    }
}
