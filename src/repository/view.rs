//! What a repository holds at one moment, as far as the collection protocol lets it be believed.
//!
//! Names are listed first and `collections/` after; what is valid is judged by the newest verdict
//! found then. `docs/architecture.md`, "Collection", has the rules.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::kept::Kept;
use super::open::Ended;
use super::{Error, Moment, Point, Repository, Result};
use crate::collection::{CHOOSE, Folder, LOOK, MARK, Numbers, Reuse, Validity};
use crate::context::Nanos;
use crate::format::{Claim, Condemned, Malformed, Name, Segment, SegmentName, Snapshot, Verdict};
use crate::id::{PackId, SessionId};
use crate::mutex::{into_inner, lock};
use crate::pool;
use crate::storage::Listed;
use crate::store::{self, Index, Reader, Wanted};

/// Looks again this often when what was listed is removed before it is read: collections go on meanwhile.
const TRIES: usize = 8;

/// A valid snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SessionId,
    /// Its record.
    pub snapshot: Arc<Snapshot>,
}

/// The newest collection.
pub(super) struct Collections {
    pub numbers: Numbers,
    pub validity: Validity,
    /// Packs that a collection without verdict may delete.
    pub condemned: HashSet<PackId>,
}

/// What a repository holds.
#[derive(Debug, Default)]
pub struct View {
    /// The newest collection.
    pub numbers: Numbers,
    /// By which everything here was judged.
    pub validity: Validity,
    /// Packs that a running collection may delete.
    pub condemned: HashSet<PackId>,
    /// Valid snapshots, oldest first as far as clocks tell.
    pub snapshots: Vec<SnapshotInfo>,
    /// Snapshots with a tombstone. Their records still list packs, which others may share.
    pub forgotten: Vec<SnapshotInfo>,
    /// Valid segments, and the sizes of their files.
    pub segments: Vec<(SegmentName, u64)>,
    /// Snapshot records that could not be read.
    pub damaged: Vec<Error>,
    /// Snapshots that the verdict names and the listing did not: their records are lost, unless a collection went
    /// on meanwhile.
    pub absent: Vec<SessionId>,
    /// Sessions that have a claim, whatever it says.
    pub ended: HashSet<SessionId>,
    /// Sessions, where they were listed.
    pub sessions: Vec<SessionId>,
}

impl View {
    /// The packs that snapshot records list themselves.
    pub fn inline(&self) -> impl Iterator<Item = &SnapshotInfo> {
        let all = self.snapshots.iter().chain(&self.forgotten);
        all.filter(|info| self.validity.inline(&info.id) && !info.snapshot.segment.packs.is_empty())
    }

    /// Adds a snapshot.
    pub(super) fn add(&mut self, info: SnapshotInfo) {
        self.snapshots.push(info);
        self.snapshots.sort_by_key(oldest_first);
    }

    /// Whether the record of this snapshot could not be read.
    pub fn is_damaged(&self, sid: &SessionId) -> bool {
        let name = Name::Claim(*sid).to_string();
        let mut files =
            self.damaged.iter().map(|error| matches!(error, Error::Damaged { file, .. } if *file == name));
        files.any(|same| same) || self.absent.contains(sid)
    }

    /// Why it cannot be told what is needed: records that cannot be read, or are not there.
    pub fn unsure(&self) -> Vec<Error> {
        self.damaged.iter().cloned().chain(self.absent.iter().map(missing)).collect()
    }

    /// What the point means, of `series`. Beside a record that cannot be read only an id or a name
    /// is sure: that record may be the newest.
    pub fn find(&self, point: &Point, series: &str) -> Result<Moment> {
        let found = point.resolve(&self.snapshots, series);
        match (self.damaged.first(), point, &found) {
            (None, ..) | (Some(_), Point::Word(_), Ok(_)) => found,
            (Some(damage), ..) => Err(Error::Unclear { damage: Box::new(damage.clone()) }),
        }
    }
}

fn missing(sid: &SessionId) -> Error {
    Error::Damaged { file: Name::Claim(*sid).to_string(), what: Malformed::Missing }
}

fn oldest_first(info: &SnapshotInfo) -> (Nanos, SessionId) {
    (info.snapshot.time, info.id)
}

/// What was listed in a folder, with sizes. Names that are not ours are left alone.
fn named<T: FromStr>(files: &HashMap<Folder, Vec<Listed>>, folder: Folder) -> impl Iterator<Item = (T, u64)> {
    let listed = files.get(&folder).into_iter().flatten();
    listed.filter_map(move |file| Some((file.name.strip_prefix(folder.name())?.parse().ok()?, file.size)))
}

fn ids(files: &HashMap<Folder, Vec<Listed>>, folder: Folder) -> Vec<SessionId> {
    named(files, folder).map(|(sid, _)| sid).collect()
}

impl Repository {
    /// The state of collections. Listed after whatever is to be judged by it.
    pub(super) fn collections(&self) -> Result<Collections> {
        self.looking_again(|| {
            let numbers = Numbers::read(&self.storage().names(Folder::Collections.name())?);
            let validity = match numbers.verdict {
                0 => Validity::default(),
                n => Validity::new(n, &self.record::<Verdict>(&Name::Verdict(n).to_string())?),
            };
            let condemned = match numbers.open() {
                Some(open) => self.record::<Condemned>(&Name::Condemned(open).to_string())?.packs,
                None => Vec::new(),
            };
            Ok(Collections { numbers, validity, condemned: condemned.into_iter().collect() })
        })
    }

    /// Does `look` again while files vanish between being listed and being read.
    fn looking_again<T>(&self, look: impl Fn() -> Result<T>) -> Result<T> {
        for _ in 1..TRIES {
            match look() {
                Err(error) if error.kind() == crate::fault::Kind::NotFound => {}
                seen => return seen,
            }
        }
        look()
    }

    /// The newest collection, and whether it has its verdict.
    pub fn numbers(&self) -> Result<Numbers> {
        Ok(Numbers::read(&self.storage().names(Folder::Collections.name())?))
    }

    /// How a session ended.
    pub fn claim(&self, sid: SessionId) -> Result<Claim> {
        self.record(&Name::Claim(sid).to_string())
    }

    /// Everything valid now.
    pub fn view(&self) -> Result<View> {
        self.view_in(LOOK)
    }

    /// The snapshots that are valid now, without segments.
    pub fn view_of_snapshots(&self) -> Result<View> {
        self.view_in(CHOOSE)
    }

    /// Everything valid now, listed as a collector does before it judges.
    pub fn view_to_judge(&self) -> Result<View> {
        self.view_in(MARK)
    }

    fn view_in(&self, order: &[&[Folder]]) -> Result<View> {
        let mut files: HashMap<Folder, Vec<Listed>> = HashMap::new();
        let mut collections = None;
        for &together in order {
            if together == [Folder::Collections] {
                collections = Some(self.collections()?);
                continue;
            }
            let listed = pool::each(together, |folder| self.storage().list_all(folder.name()));
            for (folder, listed) in together.iter().zip(listed) {
                files.insert(*folder, listed?);
            }
        }
        let Collections { numbers, validity, condemned } =
            collections.map_or_else(|| self.collections(), Ok)?;
        let mut claims = ids(&files, Folder::Snapshots);
        let sessions = ids(&files, Folder::Sessions);
        let ended: HashSet<SessionId> = claims.iter().copied().collect();
        let forgotten: HashSet<SessionId> = ids(&files, Folder::Forgotten).into_iter().collect();
        claims.retain(|sid| validity.snapshot(sid));
        let (mut all, mut damaged, mut vanished) = (Vec::new(), Vec::new(), Vec::new());
        for (id, claim) in self.claims(&claims)? {
            match claim {
                Ok(Some(snapshot)) => all.push(SnapshotInfo { id, snapshot }),
                Ok(None) => {}
                // Nobody wants it any more, whatever it was.
                Err(Error::Damaged { .. }) if forgotten.contains(&id) => {}
                Err(Error::Storage(error)) if error.is_not_found() => vanished.push(id),
                Err(error @ Error::Damaged { .. }) => damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        // What is valid is deleted only once there is a newer verdict.
        if !vanished.is_empty() && self.numbers()?.verdict == validity.verdict {
            damaged.extend(vanished.iter().filter(|sid| !forgotten.contains(sid)).map(missing));
        }
        let absent = validity.snapshots.iter().filter(|sid| !ended.contains(sid) && !forgotten.contains(sid));
        let absent = absent.copied().collect();
        all.sort_by_key(oldest_first);
        let (forgotten, snapshots) = all.into_iter().partition(|info| forgotten.contains(&info.id));
        let segments = named::<SegmentName>(&files, Folder::Index);
        let segments = segments.filter(|(name, _)| validity.segment(name)).collect();
        Ok(View {
            numbers,
            validity,
            condemned,
            snapshots,
            forgotten,
            segments,
            damaged,
            absent,
            ended,
            sessions,
        })
    }

    /// How these sessions ended. Claims are write-once: what the last look has read is not read again, and this
    /// machine keeps them, sealed as they are.
    fn claims(&self, sids: &[SessionId]) -> Result<Vec<(SessionId, Result<Ended>)>> {
        let seen = std::mem::take(&mut *self.seen());
        let mut kept = None;
        let (mut all, mut new) = (Vec::with_capacity(sids.len()), Vec::new());
        for &sid in sids {
            let known = seen.get(&sid).cloned().or_else(|| {
                let kept: &Kept = kept.get_or_insert_with(|| Kept::read(self.cache()));
                let name = Name::Claim(sid).to_string();
                self.open_record(&name, kept.get(&sid)?).ok().map(ended)
            });
            match known {
                Some(ended) => all.push((sid, Ok(ended))),
                None => new.push(sid),
            }
        }
        let fetched = Mutex::default();
        let new = self.fetch(&new, &fetched);
        if let Some(kept) = kept {
            kept.keep(&into_inner(fetched), sids);
        }
        match new {
            Ok(new) => all.extend(new),
            Err(error) => {
                *self.seen() = seen;
                return Err(error);
            }
        }
        let read = all.iter().filter_map(|(sid, ended)| Some((*sid, ended.as_ref().ok()?.clone())));
        *self.seen() = read.collect();
        Ok(all)
    }

    /// Claims from the medium, several at once. Their bytes go to `fetched`, also where one of them fails.
    fn fetch(
        &self,
        sids: &[SessionId],
        fetched: &Mutex<Vec<(SessionId, Bytes)>>,
    ) -> Result<Vec<(SessionId, Result<Ended>)>> {
        let one = |&sid: &SessionId| {
            self.context().cancel.check()?;
            let name = Name::Claim(sid).to_string();
            let bytes = match self.storage().get(&name) {
                Err(error) if error.is_not_found() => return Ok((sid, Err(error.into()))),
                bytes => bytes?,
            };
            let claim = self.open_record(&name, &bytes).map(ended);
            if claim.is_ok() {
                lock(fetched).push((sid, bytes));
            }
            Ok((sid, claim))
        };
        pool::try_several(self.storage().at_once(), sids, one)
    }

    /// The index for what `view` holds; by `reuse` it knows what a new snapshot may refer to.
    pub fn index(&self, view: &View, reuse: Option<&Reuse>) -> Result<Index> {
        self.index_in(&self.cache().join("index"), view, reuse)
    }

    fn index_in(&self, home: &std::path::Path, view: &View, reuse: Option<&Reuse>) -> Result<Index> {
        let mut wanted = Vec::new();
        for info in view.inline() {
            let name = Name::Claim(info.id).to_string();
            let reusable = reuse.is_some_and(|reuse| reuse.inline(&info.id));
            wanted.push(Wanted { name, size: 0, reusable, segment: Some(&info.snapshot.segment) });
        }
        for (segment, size) in &view.segments {
            let name = Name::Segment(*segment).to_string();
            let reusable = reuse.is_some_and(|reuse| reuse.segment(segment));
            wanted.push(Wanted { name, size: *size, reusable, segment: None });
        }
        let load = |name: &str| self.segment(name);
        Ok(Index::open(home, &wanted, view.condemned.clone(), &*self.context().random, &load)?)
    }

    /// A segment by its full name, in the store's words.
    pub fn segment(&self, name: &str) -> store::Result<Segment> {
        let bytes = self.storage().get(name)?;
        let opened = crate::format::open(&bytes, &self.records_key(), self.id(), name);
        opened.map_err(|what| store::Error::Damaged { file: name.into(), what })
    }

    /// Reads everything that is valid now.
    pub fn reader(&self, view: &View) -> Result<Reader> {
        let index = match self.index(view, None) {
            // Removed since `view` was taken: what it held stands elsewhere.
            Err(error) if error.kind() == crate::fault::Kind::NotFound => self.index_now(),
            index => index,
        }?;
        Ok(self.reloading(Arc::new(index)))
    }

    /// The index for what is valid now.
    fn index_now(&self) -> Result<Index> {
        self.looking_again(|| self.index(&self.view()?, None))
    }

    /// Reads by `index`, and by a new one where a collection has moved what it knows.
    pub(super) fn reloading(&self, index: Arc<Index>) -> Reader {
        let again = self.clone();
        let reload = move || {
            again.index_now().map(Arc::new).map_err(|error| match error {
                Error::Store(error) => error,
                Error::Storage(error) => error.into(),
                other => store::Error::Cache {
                    directory: again.cache().display().to_string(),
                    what: other.to_string(),
                },
            })
        };
        self.reader_over(index).reloading(Box::new(reload))
    }

    /// Reads by the segments below `index/` that are `readable`, with an index that only this command has:
    /// for a repository some of whose segments are damaged.
    pub fn reader_for_now(&self, view: &View, readable: &[(SegmentName, u64)]) -> Result<Reader> {
        let home = self.cache().join(format!("for-now-{}", std::process::id()));
        let view = View {
            numbers: view.numbers,
            validity: view.validity.clone(),
            snapshots: view.snapshots.clone(),
            forgotten: view.forgotten.clone(),
            segments: readable.to_vec(),
            ..View::default()
        };
        let index = self.index_in(&home, &view, None);
        // Files that are open stay readable without their names.
        let _ = fs::remove_dir_all(&home);
        Ok(self.reader_over(Arc::new(index?)))
    }

    /// Reads what `index` knows.
    pub fn reader_over(&self, index: Arc<Index>) -> Reader {
        let seal = self.seal_secret().clone();
        Reader::new(
            self.shared_storage(),
            index,
            self.namer(),
            seal,
            self.pack_cache(),
            self.context().memory,
        )
    }
}

fn ended(claim: Claim) -> Ended {
    match claim {
        Claim::Snapshot(snapshot) => Some(Arc::from(snapshot)),
        Claim::Closed(_) => None,
    }
}
