//! Judging: what is needed is marked, copied out of packs that go, and listed in segments that stay.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};

use super::copy::{Copier, Group, read_back};
use super::plan::{Marked, full, waste};
use super::{Error, Result, Run};
use crate::collection::{self, Step, Survival};
use crate::fault::Kind;
use crate::format::{Name, PackEntry, PackedChunk, Segment, SegmentName, Session, Verdict};
use crate::id::{PackId, SessionId};
use crate::mutex::lock;
use crate::pool::Pool;
use crate::progress::{Amount, Phase};
use crate::repository::{self, Need, Needed, Repository, SnapshotInfo, View};
use crate::store::{Listing, Reader, Writer};

/// Segments that list fewer chunks are merged once there are many of about one size.
const SEGMENT_CHUNKS: u64 = 100_000;
const SEGMENT_TIER: usize = 4;

/// Full names of segment files that are worth merging.
pub(super) fn tiers(listings: &[Listing]) -> HashSet<String> {
    let mut tiers: HashMap<u32, Vec<&Listing>> = HashMap::new();
    for listing in listings.iter().filter(|l| l.name.starts_with("index/") && l.chunks < SEGMENT_CHUNKS / 2) {
        tiers.entry(listing.chunks.max(1).ilog2() / 2).or_default().push(listing);
    }
    let many = tiers.into_values().filter(|tier| tier.len() >= SEGMENT_TIER).flatten();
    many.map(|listing| listing.name.clone()).collect()
}

/// Writes segments that list what stays.
struct Merger<'a> {
    repository: &'a Repository,
    number: u64,
    open: Segment,
    /// Keyed hashes of listings that stand in a segment already.
    listed: HashSet<u64>,
    hasher: RandomState,
    names: Vec<SegmentName>,
    bytes: u64,
}

impl Merger<'_> {
    /// Adds a listing of a pack, once. Where two say something else of it both stay: which is true is not known.
    fn add(&mut self, pack: PackEntry) -> Result<()> {
        if self.listed.insert(self.hasher.hash_one(&pack)) {
            self.open.packs.push(pack);
        }
        if self.open.chunks() as u64 >= SEGMENT_CHUNKS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.open.packs.is_empty() {
            return Ok(());
        }
        let (name, bytes) = self.repository.put_merged(self.number, &std::mem::take(&mut self.open))?;
        self.names.push(name);
        self.bytes += bytes;
        Ok(())
    }
}

/// What is judged, and by what.
struct Judgement<'a, 'r> {
    repository: &'r Repository,
    number: u64,
    max_unused: f64,
    view: &'a View,
    needed: Needed,
    /// Packs that are there.
    there: HashMap<PackId, u64>,
    /// Condemned packs that a segment outside of this collection lists: they stay.
    spared: HashSet<PackId>,
    reader: &'a Reader,
    copies: &'a Pool<'a, Group, Error>,
    fates: HashMap<PackId, bool>,
}

impl Run<'_> {
    /// Steps 3 to 5. Marks, copies, lists, and puts the verdict.
    pub(super) fn judge(&mut self, number: u64) -> Result<Step> {
        let repository = self.repository;
        let view = repository.view_to_judge()?;
        if let Some(step) = Step::marked(number, view.numbers) {
            return Ok(step);
        }
        if let Some(damaged) = view.unsure().pop() {
            return Err(damaged.into());
        }
        let pinned = self.pinned(&view)?;
        let index = Arc::new(repository.index(&view, None)?);
        let needed = self.mark(&view, &pinned, &repository.reader_over(index.clone()))?;
        let there: HashMap<PackId, u64> =
            repository.packs()?.into_iter().map(|(_, id, size)| (id, size)).collect();
        if let Some(missing) = needed.packs().find(|id| !there.contains_key(id)) {
            return Err(Error::PackMissing(format!("pack {missing}")));
        }
        let written: Arc<Mutex<Vec<SegmentName>>> = Arc::default();
        let writer = repository.rewriter(number, index.clone(), written.clone());
        let reader = repository.reader_over(index.clone()).from_the_medium();
        let listings = index.listings()?;
        let (spared, max_unused) = (spared(number, &view, &listings), self.options.max_unused);
        let (view, reader) = (&view, &reader);
        repository.context().progress.begin(Phase { name: "copying what is needed", unit: "packs" });
        let copier = Copier { repository, reader, writer: &writer };
        let decided = copier.run(|copies| {
            let fates = HashMap::new();
            let judgement = Judgement {
                repository,
                number,
                max_unused,
                view,
                needed,
                there,
                spared,
                reader,
                copies,
                fates,
            };
            judgement.decide(&listings)
        })?;
        let (verdict, bytes) = self.settle(number, view, &pinned, decided, (writer, &written))?;
        self.report.written_bytes += bytes;
        match repository.put_record(&Name::Verdict(number).to_string(), &verdict) {
            Err(repository::Error::Storage(error)) if error.is_exists() => {}
            done => done?,
        }
        Ok(Step::judged(number))
    }

    /// Everything is copied: it is read back and listed. Gives the verdict, and the bytes that were written.
    fn settle(
        &self,
        number: u64,
        view: &View,
        pinned: &HashSet<SessionId>,
        decided: Decided,
        (writer, written): (Writer, &Mutex<Vec<SegmentName>>),
    ) -> Result<(Verdict, u64)> {
        let Decided { mut merger, mut segments, dead } = decided;
        let finished = writer.finish()?;
        let names = std::mem::take(&mut *lock(written));
        read_back(self.repository, &names, &finished.segment)?;
        finished.segment.packs.into_iter().try_for_each(|pack| merger.add(pack))?;
        merger.flush()?;
        segments.extend(names.into_iter().chain(merger.names));
        let all =
            view.snapshots.iter().map(|info| (info, false)).chain(view.forgotten.iter().map(|i| (i, true)));
        let kept = all.filter(|(SnapshotInfo { id, .. }, gone)| {
            collection::kept(number, id, *gone, pinned.contains(id))
        });
        let snapshots = kept.map(|(info, _)| info.id).collect();
        let segments = segments.iter().map(SegmentName::to_string).collect();
        Ok((Verdict { dead, segments, snapshots }, finished.stored.written_bytes + merger.bytes))
    }

    /// What sessions without a claim pin.
    fn pinned(&self, view: &View) -> Result<HashSet<SessionId>> {
        let mut sessions = Vec::new();
        for sid in view.sessions.iter().filter(|sid| !view.ended.contains(sid)) {
            match self.repository.record::<Session>(&Name::Session(*sid).to_string()) {
                Ok(session) => sessions.push((*sid, session.pin)),
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(collection::pins(sessions, |sid| view.ended.contains(sid)))
    }

    /// Everything that is needed. What the plan has marked is not marked again, unless it is out of date.
    fn mark(&mut self, view: &View, pinned: &HashSet<SessionId>, reader: &Reader) -> Result<Needed> {
        let progress = &self.repository.context().progress;
        progress.begin(Phase { name: "marking what is needed", unit: "nodes" });
        let pins = view.forgotten.iter().filter(|info| pinned.contains(&info.id));
        let all: Vec<&SnapshotInfo> = view.snapshots.iter().chain(pins).collect();
        let known = self.marked.take().filter(|marked| marked.holds(view, &all));
        let Marked { snapshots, mut needed, .. } = known.unwrap_or_default();
        let new = all.into_iter().filter(|info| !snapshots.contains(&info.id));
        needed.add(self.repository, reader, &view.condemned, new.map(|info| &*info.snapshot))?;
        Ok(needed)
    }
}

/// What becomes of packs and of the segments that list them.
struct Decided<'a> {
    merger: Merger<'a>,
    /// Segments that stay as they are.
    segments: Vec<SegmentName>,
    dead: Vec<PackId>,
}

/// Where a listing stands.
enum Origin {
    File(SegmentName),
    /// Inside this snapshot's record.
    Record(SessionId),
}

fn origin(name: &str) -> Option<Origin> {
    match (name.strip_prefix("index/"), name.strip_prefix("snapshots/")) {
        (Some(segment), _) => segment.parse().ok().map(Origin::File),
        (_, Some(sid)) => sid.parse().ok().map(Origin::Record),
        _ => None,
    }
}

/// Whether the verdict says where what this lists is found.
fn is_covered(number: u64, name: &str) -> bool {
    match origin(name) {
        Some(Origin::File(segment)) => collection::covered(number, &segment),
        Some(Origin::Record(sid)) => sid.label < number,
        None => false,
    }
}

fn spared(number: u64, view: &View, listings: &[Listing]) -> HashSet<PackId> {
    let others = listings.iter().filter(|listing| !is_covered(number, &listing.name));
    others.flat_map(|listing| &listing.packs).filter(|id| view.condemned.contains(id)).copied().collect()
}

impl<'r> Judgement<'_, 'r> {
    /// Has what is needed copied out of packs that go, and lists what stays.
    fn decide(mut self, listings: &[Listing]) -> Result<Decided<'r>> {
        let (repository, number) = (self.repository, self.number);
        let mut merger = Merger {
            repository,
            number,
            open: Segment::default(),
            listed: HashSet::new(),
            hasher: RandomState::new(),
            names: Vec::new(),
            bytes: 0,
        };
        let merged = tiers(listings);
        let mut segments = Vec::new();
        for listing in listings.iter().filter(|listing| is_covered(number, &listing.name)) {
            let touched = listing.packs.iter().any(|id| self.view.condemned.contains(id));
            let stays = !touched && !merged.contains(&listing.name);
            if let (true, Some(Origin::File(name))) = (stays, origin(&listing.name)) {
                segments.push(name);
                continue;
            }
            for pack in self.load(&listing.name)?.packs {
                let whole = self.needed.is_whole(&pack);
                // What cannot be judged by its listing stays, and so do all its listings.
                let lives =
                    if whole { self.lives(&pack)? } else { *self.fates.entry(pack.id).or_insert(true) };
                if lives {
                    merger.add(pack)?;
                }
            }
        }
        let lives = |id: &PackId| self.spared.contains(id) || self.fates.get(id).copied().unwrap_or(false);
        let mut dead: Vec<PackId> = self.view.condemned.iter().copied().filter(|id| !lives(id)).collect();
        dead.sort();
        Ok(Decided { merger, segments, dead })
    }

    fn load(&self, name: &str) -> Result<Segment> {
        match origin(name) {
            Some(Origin::Record(sid)) => {
                let own = self.view.inline().find(|info| info.id == sid);
                Ok(own.map(|info| info.snapshot.segment.clone()).unwrap_or_default())
            }
            _ => Ok(self.repository.segment(name)?),
        }
    }

    /// Whether a listed pack stays. Where it goes, what is needed of it is copied.
    fn lives(&mut self, pack: &PackEntry) -> Result<bool> {
        if let Some(&lives) = self.fates.get(&pack.id) {
            return Ok(lives);
        }
        let may_go = self.view.condemned.contains(&pack.id) && !self.spared.contains(&pack.id);
        let lives = !may_go || !self.clear(pack)?;
        self.fates.insert(pack.id, lives);
        Ok(lives)
    }

    /// Copies out what is needed, unless that is not worth it.
    fn clear(&self, pack: &PackEntry) -> Result<bool> {
        let used = self.needed.of(&pack.id);
        let Some(&size) = self.there.get(&pack.id) else { return Ok(true) };
        let wasteful = waste(size, &used) as f64 > self.max_unused * size as f64;
        if used.chunks > 0 && !wasteful && size >= full(pack.kind) {
            return Ok(false);
        }
        let mut wanted = Vec::new();
        for (chunk, position) in pack.chunks.iter().zip(0u32..) {
            self.repository.context().cancel.check()?;
            let need = self.needed.need(&pack.id, position);
            if self.must_be_copied(pack, chunk, need)? {
                wanted.push((*chunk, position));
            }
        }
        Group::all(pack, wanted).into_iter().try_for_each(|group| self.copies.give(group))?;
        self.repository.context().progress.advance(Amount { items: 1, bytes: used.bytes });
        Ok(true)
    }

    /// Whether the chunk is needed, and no copy that stays could be read.
    fn must_be_copied(&self, pack: &PackEntry, chunk: &PackedChunk, need: Need) -> Result<bool> {
        match need {
            Need::None => return Ok(false),
            Need::Only => return Ok(true),
            Need::Several => {}
        }
        let places = self.reader.places(&chunk.id)?;
        let packs: Vec<PackId> = places.iter().map(|place| place.pack).collect();
        if !matches!(collection::survival(&packs, &self.view.condemned), Survival::Safe(_)) {
            return Ok(true);
        }
        // What a segment says is believed only once it is read: who can add segments could name copies that
        // are none.
        let stay = places.iter().filter(|place| !self.view.condemned.contains(&place.pack));
        for place in stay {
            match self.reader.read_at(pack.kind, &chunk.id, place) {
                Ok(_) => return Ok(false),
                Err(error) if matches!(error.kind(), Kind::Damage | Kind::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_merged_when_there_are_many_of_a_size() {
        let listing = |n: u64, chunks| Listing { name: format!("index/{n}"), chunks, packs: vec![] };
        assert!(tiers(&[1, 2, 3].map(|n| listing(n, 10))).is_empty());
        assert_eq!(tiers(&[1, 2, 3, 4].map(|n| listing(n, 10 + n % 3))).len(), 4);
        assert!(tiers(&[1, 2, 3, 4].map(|n| listing(n, SEGMENT_CHUNKS))).is_empty());
    }
}
