//! What a repository holds at one moment, as far as the collection protocol lets it be believed.
//!
//! Names are listed first and `collections/` after; what is valid is judged by the newest verdict
//! found then. `docs/architecture.md`, "Collection", has the rules.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::Arc;

use super::{Error, Moment, Point, Repository, Result};
use crate::format::{Claim, Condemned, Name, Segment, Snapshot, Verdict, segment_of};
use crate::id::{PackId, SessionId};
use crate::store::{self, Index, Reader, Wanted};

/// Judges names by the newest verdict.
#[derive(Debug, Clone, Default)]
pub struct Validity {
    /// The newest verdict's number; 0 where there is none.
    pub verdict: u64,
    segments: HashSet<String>,
    snapshots: HashSet<SessionId>,
}

impl Validity {
    /// By the verdict `number`.
    pub fn new(number: u64, verdict: Option<Verdict>) -> Validity {
        let verdict = verdict.unwrap_or(Verdict { dead: vec![], segments: vec![], snapshots: vec![] });
        Validity {
            verdict: number,
            segments: verdict.segments.into_iter().collect(),
            snapshots: verdict.snapshots.into_iter().collect(),
        }
    }

    /// Whether the verdict names this segment (its name below `index/`).
    pub fn names_segment(&self, name: &str) -> bool {
        self.segments.contains(name)
    }

    /// Every segment that the verdict names.
    pub fn named_segments(&self) -> impl Iterator<Item = &String> {
        self.segments.iter()
    }

    /// Whether a segment that is present may be believed.
    pub fn segment(&self, name: &str) -> bool {
        let young = segment_of(name).is_some_and(|(sid, _)| sid.label >= self.verdict);
        young || self.names_segment(name)
    }

    /// Whether a snapshot that is present, without tombstone, may be believed.
    pub fn snapshot(&self, sid: &SessionId) -> bool {
        sid.label >= self.verdict || self.snapshots.contains(sid)
    }
}

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
    /// The newest number of a condemned list or verdict.
    pub newest: u64,
    pub validity: Validity,
    /// Packs that a collection without verdict may delete.
    pub condemned: HashSet<PackId>,
}

/// What a repository holds.
pub struct View {
    /// The newest collection number.
    pub newest: u64,
    /// By which everything here was judged.
    pub validity: Validity,
    /// Packs that a running collection may delete.
    pub condemned: HashSet<PackId>,
    /// Valid snapshots, oldest first as far as clocks tell.
    pub snapshots: Vec<SnapshotInfo>,
    /// Snapshots with a tombstone. Their records still list packs, which others may share.
    pub forgotten: Vec<SnapshotInfo>,
    /// Valid segments, names below `index/`.
    pub segments: Vec<String>,
    /// Snapshot records that could not be read.
    pub damaged: Vec<Error>,
}

impl View {
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

/// Every name of `sids` in a folder; names that are not ours are left alone.
fn ids(repository: &Repository, folder: &str) -> Result<Vec<SessionId>> {
    let names = repository.storage().names(folder)?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

impl Repository {
    /// The state of collections. Listed after whatever is to be judged by it.
    pub(super) fn collections(&self) -> Result<Collections> {
        let names = self.storage().names("collections/")?;
        let number = |ending: &str| {
            let numbers = names.iter().filter_map(|name| name.strip_suffix(ending)?.parse::<u64>().ok());
            numbers.max().unwrap_or(0)
        };
        let (condemned, verdict) = (number(".condemned"), number(".verdict"));
        let judged = match verdict {
            0 => None,
            n => Some(self.record::<Verdict>(&Name::Verdict(n).to_string())?),
        };
        let packs = match condemned > verdict {
            true => self.record::<Condemned>(&Name::Condemned(condemned).to_string())?.packs,
            false => Vec::new(),
        };
        let validity = Validity::new(verdict, judged);
        Ok(Collections { newest: condemned.max(verdict), validity, condemned: packs.into_iter().collect() })
    }

    /// How a session ended. Records are write-once, so this machine keeps them, sealed as they are.
    pub(super) fn claim(&self, sid: SessionId) -> Result<Claim> {
        let name = Name::Claim(sid).to_string();
        let kept = self.cache().join(&name);
        if let Ok(bytes) = fs::read(&kept)
            && let Ok(claim) = self.open_record(&name, &bytes)
        {
            return Ok(claim);
        }
        let bytes = self.storage().get(&name)?;
        let claim = self.open_record(&name, &bytes)?;
        keep(&kept, &bytes);
        Ok(claim)
    }

    /// Everything valid now.
    pub fn view(&self) -> Result<View> {
        let mut claims = ids(self, "snapshots/")?;
        let forgotten: HashSet<SessionId> = ids(self, "forgotten/")?.into_iter().collect();
        let segments = self.storage().names("index/")?;
        let Collections { newest, validity, condemned } = self.collections()?;
        claims.retain(|sid| validity.snapshot(sid));
        let (mut snapshots, mut gone, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
        for (id, claim) in self.claims(&claims) {
            match claim {
                Ok(Claim::Snapshot(snapshot)) => {
                    let into = if forgotten.contains(&id) { &mut gone } else { &mut snapshots };
                    into.push(SnapshotInfo { id, snapshot: snapshot.into() });
                }
                Ok(Claim::Closed(_)) => {}
                // Deleted since it was listed, by a collection that we have not seen.
                Err(Error::Storage(error)) if error.is_not_found() => {}
                Err(error @ Error::Damaged { .. }) => damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        snapshots.sort_by_key(|info| (info.snapshot.time, info.id));
        let segments = segments.into_iter().filter(|name| validity.segment(name)).collect();
        Ok(View { newest, validity, condemned, snapshots, forgotten: gone, segments, damaged })
    }

    /// Claims, fetched several at once.
    fn claims(&self, sids: &[SessionId]) -> Vec<(SessionId, Result<Claim>)> {
        const AT_ONCE: usize = 8;
        let each = sids.len().div_ceil(AT_ONCE).max(1);
        std::thread::scope(|scope| {
            let fetch =
                |part: &[SessionId]| part.iter().map(|&sid| (sid, self.claim(sid))).collect::<Vec<_>>();
            let threads: Vec<_> = sids.chunks(each).map(|part| scope.spawn(move || fetch(part))).collect();
            let joined = threads.into_iter().flat_map(|thread| match thread.join() {
                Ok(claims) => claims,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.collect()
        })
    }

    /// The index for what `view` holds; `reusable` says which segments (by full name) new snapshots may
    /// refer to.
    pub fn index(&self, view: &View, reusable: impl Fn(&str) -> bool) -> Result<Index> {
        self.index_in(&self.cache().join("index"), view, reusable)
    }

    fn index_in(
        &self,
        home: &std::path::Path,
        view: &View,
        reusable: impl Fn(&str) -> bool,
    ) -> Result<Index> {
        let mut wanted = Vec::new();
        let mut inline: HashMap<String, &Segment> = HashMap::new();
        for info in view.snapshots.iter().chain(&view.forgotten) {
            if !info.snapshot.segment.packs.is_empty() {
                let name = Name::Claim(info.id).to_string();
                inline.insert(name.clone(), &info.snapshot.segment);
                // As a segment file of the same session would be.
                let reusable = reusable(&Name::Segment(info.id, 0).to_string());
                wanted.push(Wanted { name, reusable });
            }
        }
        for name in &view.segments {
            let name = format!("index/{name}");
            let reusable = reusable(&name);
            wanted.push(Wanted { name, reusable });
        }
        let load = |name: &str| match inline.get(name) {
            Some(segment) => Ok((*segment).clone()),
            None => self.segment(name),
        };
        Ok(Index::open(home, &wanted, view.condemned.clone(), &*self.context().random, &load)?)
    }

    /// A segment by its full name, in the store's words.
    fn segment(&self, name: &str) -> store::Result<Segment> {
        let bytes = self.storage().get(name)?;
        let opened = crate::format::open(&bytes, &self.records_key(), self.id(), name);
        opened.map_err(|what| store::Error::Damaged { file: name.into(), what })
    }

    /// Reads everything that is valid now.
    pub fn reader(&self, view: &View) -> Result<Reader> {
        let index = Arc::new(self.index(view, |_| false)?);
        let again = self.clone();
        let reload = move || {
            let index = again.view().and_then(|view| again.index(&view, |_| false));
            index.map(Arc::new).map_err(|error| match error {
                Error::Store(error) => error,
                Error::Storage(error) => error.into(),
                other => store::Error::Cache {
                    directory: again.cache().display().to_string(),
                    what: other.to_string(),
                },
            })
        };
        Ok(self.reader_over(index).reloading(Box::new(reload)))
    }

    /// Reads by the segments below `index/` that are `readable`, with an index that only this command has:
    /// for a repository some of whose segments are damaged.
    pub fn reader_for_now(&self, view: &View, readable: &[String]) -> Result<Reader> {
        let home = self.cache().join(format!("for-now-{}", std::process::id()));
        let view = View {
            newest: view.newest,
            validity: view.validity.clone(),
            condemned: HashSet::new(),
            snapshots: view.snapshots.clone(),
            forgotten: view.forgotten.clone(),
            segments: readable.to_vec(),
            damaged: Vec::new(),
        };
        let index = self.index_in(&home, &view, |_| false);
        // Files that are open stay readable without their names.
        let _ = fs::remove_dir_all(&home);
        Ok(self.reader_over(Arc::new(index?)))
    }

    /// Reads what `index` knows.
    pub(super) fn reader_over(&self, index: Arc<Index>) -> Reader {
        let seal = self.seal_secret().clone();
        Reader::new(self.shared_storage(), index, self.namer(), seal, self.pack_cache())
    }
}

/// Keeps bytes on this machine; a failure costs a request next time.
fn keep(path: &std::path::Path, bytes: &[u8]) {
    let temporary = path.with_extension(format!("{}", std::process::id()));
    let written =
        path.parent().map(fs::create_dir_all).transpose().and_then(|_| fs::write(&temporary, bytes));
    if written.and_then(|()| fs::rename(&temporary, path)).is_err() {
        let _ = fs::remove_file(&temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;

    /// The rules "voidsnap", "voidseg" and "mergednamed" of the collection protocol.
    #[test]
    fn what_is_older_than_the_verdict_is_valid_only_if_named() {
        let random = Seeded::new(1);
        let [old, named, young] = [1, 1, 2].map(|label| SessionId::draw(&random, label));
        let verdict = Verdict {
            dead: vec![],
            segments: vec![format!("{named}-0"), "m2-00".into()],
            snapshots: vec![named],
        };
        let validity = Validity::new(2, Some(verdict));
        assert_eq!([old, named, young].map(|sid| validity.snapshot(&sid)), [false, true, true]);
        let segments = [format!("{old}-0"), format!("{named}-0"), format!("{young}-0")];
        assert_eq!(segments.map(|name| validity.segment(&name)), [false, true, true]);
        assert!(validity.segment("m2-00"));
        assert!(!validity.segment("m3-11"), "a collector's segment is valid only if named");
    }
}
