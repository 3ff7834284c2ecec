//! The medium, and what listings show of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use icecore::collection::{Folder, Numbers, Validity};
use icecore::context::Random;
use icecore::format::SegmentName;
use icecore::id::{PackId, SessionId};

/// Chunks are bits; what a pack holds is part of its id.
pub type Chunks = u8;
pub const A: Chunks = 1;
pub const B: Chunks = 2;
pub const AB: Chunks = A | B;

/// The pack that `creator` puts in `round` with these chunks.
pub fn pack(creator: u8, round: (u64, u8), chunks: Chunks) -> PackId {
    let mut id = [0; 16];
    [id[0], id[1], id[2], id[3]] = [creator, round.0 as u8, round.1, chunks];
    PackId(id)
}

pub fn holds(pack: &PackId) -> Chunks {
    pack.0[3]
}

pub fn all_of<'a>(packs: impl IntoIterator<Item = &'a PackId>) -> Chunks {
    packs.into_iter().fold(0, |all, pack| all | holds(pack))
}

pub struct Named([u8; 2]);

impl Random for Named {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        bytes[..2].copy_from_slice(&self.0);
    }
}

pub fn sid(name: u8, attempt: u8, label: u64) -> SessionId {
    SessionId::draw(&Named([name, attempt]), label)
}

/// Where a listing of two pages is divided: names are as good as random.
pub fn second_page(sid: &SessionId) -> bool {
    sid.to_string().as_bytes()[1].is_multiple_of(2)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    /// Its chunks, and packs that only the record lists.
    Snapshot(Chunks, Vec<PackId>),
    Closed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Verdict {
    pub dead: Vec<PackId>,
    pub segments: Vec<SegmentName>,
    pub snapshots: Vec<SessionId>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Medium {
    pub packs: BTreeSet<PackId>,
    pub segments: BTreeMap<SegmentName, Vec<PackId>>,
    /// Whether it reads, and what it pins.
    pub sessions: BTreeMap<SessionId, (bool, Option<SessionId>)>,
    pub claims: BTreeMap<SessionId, Claim>,
    pub tombstones: BTreeSet<SessionId>,
    pub condemned: BTreeMap<u64, BTreeSet<PackId>>,
    pub verdicts: BTreeMap<u64, Verdict>,
}

/// Something to be created.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Put {
    Pack(PackId),
    Segment(SegmentName, Vec<PackId>),
    Session(SessionId, bool, Option<SessionId>),
    Claim(SessionId, Claim),
    Condemned(u64, BTreeSet<PackId>),
    Verdict(u64, Verdict),
}

impl Medium {
    pub fn put(&mut self, put: &Put) {
        match put.clone() {
            Put::Pack(pack) => drop(self.packs.insert(pack)),
            Put::Segment(name, packs) => drop(self.segments.entry(name).or_insert(packs)),
            Put::Session(sid, reads, pin) => drop(self.sessions.entry(sid).or_insert((reads, pin))),
            Put::Claim(sid, claim) => drop(self.claims.entry(sid).or_insert(claim)),
            Put::Condemned(number, packs) => drop(self.condemned.entry(number).or_insert(packs)),
            Put::Verdict(number, verdict) => drop(self.verdicts.entry(number).or_insert(verdict)),
        }
    }

    pub fn numbers(&self) -> Numbers {
        let last = |key: Option<&u64>| key.copied().unwrap_or(0);
        let (condemned, verdict) =
            (last(self.condemned.keys().next_back()), last(self.verdicts.keys().next_back()));
        Numbers { condemned, verdict }
    }

    pub fn collections(&self) -> Collections {
        let numbers = self.numbers();
        let verdict = self.verdicts.get(&numbers.verdict);
        let condemned = numbers.open().and_then(|open| self.condemned.get(&open));
        Collections { numbers, verdict: verdict.cloned(), condemned: condemned.cloned().unwrap_or_default() }
    }

    pub fn validity(&self) -> Validity {
        self.collections().validity()
    }

    /// Carries a verdict out, one folder after the other.
    pub fn delete(&mut self, validity: &Validity, dead: &[PackId], part: Part) {
        match part {
            Part::Sessions => {
                let claims = &self.claims;
                let stays = |sid: &SessionId, &mut (reads, _): &mut (bool, _)| {
                    !validity.dooms_session(sid, reads, claims.contains_key(sid))
                };
                self.sessions.retain(stays);
            }
            Part::Claims => {
                self.claims.retain(|sid, _| !validity.dooms_claim(sid));
                self.tombstones.retain(|sid| !validity.dooms_claim(sid));
            }
            Part::Segments => self.segments.retain(|name, _| !validity.dooms_segment(name)),
            Part::Packs => self.packs.retain(|pack| !dead.contains(pack)),
            Part::Collections => {
                self.condemned.retain(|number, _| !validity.dooms_collection(*number));
                self.verdicts.retain(|number, _| !validity.dooms_collection(*number));
            }
        }
    }
}

/// The order of deletions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    Sessions,
    Claims,
    Segments,
    Packs,
    Collections,
}

pub const PARTS: [Part; 5] = [Part::Sessions, Part::Claims, Part::Segments, Part::Packs, Part::Collections];

/// What a listing of `collections/` showed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Collections {
    pub numbers: Numbers,
    pub verdict: Option<Verdict>,
    pub condemned: BTreeSet<PackId>,
}

impl Collections {
    pub fn validity(&self) -> Validity {
        let Some(verdict) = &self.verdict else { return Validity::default() };
        Validity {
            verdict: self.numbers.verdict,
            segments: verdict.segments.iter().copied().collect(),
            snapshots: verdict.snapshots.iter().copied().collect(),
        }
    }

    pub fn condemned(&self) -> HashSet<PackId> {
        self.condemned.iter().copied().collect()
    }
}

/// What listings showed so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    pub claims: BTreeMap<SessionId, Claim>,
    pub tombstones: BTreeSet<SessionId>,
    pub sessions: BTreeMap<SessionId, (bool, Option<SessionId>)>,
    pub segments: BTreeMap<SegmentName, Vec<PackId>>,
    pub collections: Collections,
}

impl Seen {
    /// One page of a folder.
    pub fn take(&mut self, medium: &Medium, folder: Folder, page: impl Fn(&SessionId) -> bool) {
        fn part<V: Clone>(
            from: &BTreeMap<SessionId, V>,
            page: impl Fn(&SessionId) -> bool,
        ) -> impl Iterator<Item = (SessionId, V)> {
            from.iter().filter(move |(sid, _)| page(sid)).map(|(sid, value)| (*sid, value.clone()))
        }
        match folder {
            Folder::Snapshots => self.claims.extend(part(&medium.claims, page)),
            Folder::Forgotten => self.tombstones.extend(medium.tombstones.iter().filter(|sid| page(sid))),
            Folder::Sessions => self.sessions.extend(part(&medium.sessions, page)),
            Folder::Index => {
                let here = |name: &SegmentName| match name {
                    SegmentName::Session(sid, _) => page(sid),
                    // All on the second page.
                    SegmentName::Merged(..) => page(&sid_of_page(true)),
                };
                let named = medium.segments.iter().filter(|(name, _)| here(name));
                self.segments.extend(named.map(|(name, packs)| (*name, packs.clone())));
            }
            Folder::Collections => self.collections = medium.collections(),
        }
    }
}

/// Some id that is on the page.
pub fn sid_of_page(second: bool) -> SessionId {
    (0..=255).map(|name| sid(name, 0, 0)).find(|sid| second_page(sid) == second).unwrap()
}
