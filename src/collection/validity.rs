//! What is valid: names are judged by the newest verdict, in the order in which they must be listed.

use std::collections::HashSet;

use crate::format::{SegmentName, Verdict};
use crate::id::SessionId;

/// A folder that is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Folder {
    /// Claims.
    Snapshots,
    /// Tombstones.
    Forgotten,
    /// Sessions.
    Sessions,
    /// Segments.
    Index,
    /// Condemned lists and verdicts.
    Collections,
}

impl Folder {
    /// As it begins the names of what is in it.
    pub fn name(self) -> &'static str {
        match self {
            Folder::Snapshots => "snapshots/",
            Folder::Forgotten => "forgotten/",
            Folder::Sessions => "sessions/",
            Folder::Index => "index/",
            Folder::Collections => "collections/",
        }
    }
}

/// The order in which whoever reads or writes lists, those together that may be listed at once: first snapshots,
/// after them the segments that they need, and at last the verdict by which all are judged.
pub const LOOK: &[&[Folder]] =
    &[&[Folder::Snapshots, Folder::Forgotten], &[Folder::Index], &[Folder::Collections]];

/// The same for whoever only chooses among snapshots.
pub const CHOOSE: &[&[Folder]] = &[&[Folder::Snapshots, Folder::Forgotten], &[Folder::Collections]];

/// The order in which a collector lists before it judges: pins after the snapshots that they may pin.
pub const MARK: &[&[Folder]] = &[
    &[Folder::Snapshots],
    &[Folder::Forgotten],
    &[Folder::Sessions],
    &[Folder::Index],
    &[Folder::Collections],
];

/// The newest numbers below `collections/`; 0 where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Numbers {
    /// Of a condemned list.
    pub condemned: u64,
    /// Of a verdict.
    pub verdict: u64,
}

impl Numbers {
    /// From the names below `collections/`.
    pub fn read(names: &[String]) -> Numbers {
        let greatest = |ending: &str| {
            let numbers = names.iter().filter_map(|name| name.strip_suffix(ending)?.parse().ok());
            numbers.max().unwrap_or(0)
        };
        Numbers { condemned: greatest(".condemned"), verdict: greatest(".verdict") }
    }

    /// The newest collection.
    pub fn newest(self) -> u64 {
        self.condemned.max(self.verdict)
    }

    /// The collection that has a condemned list and no verdict yet.
    pub fn open(self) -> Option<u64> {
        (self.condemned > self.verdict).then_some(self.condemned)
    }
}

/// Judges names by the newest verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validity {
    /// The verdict's number; 0 where there is none.
    pub verdict: u64,
    /// The segments that it names.
    pub segments: HashSet<SegmentName>,
    /// The snapshots that it names.
    pub snapshots: HashSet<SessionId>,
}

impl Validity {
    /// By the verdict `number`.
    pub fn new(number: u64, verdict: &Verdict) -> Validity {
        Validity {
            verdict: number,
            segments: verdict.segments.iter().filter_map(|name| name.parse().ok()).collect(),
            snapshots: verdict.snapshots.iter().copied().collect(),
        }
    }

    /// Whether a segment that is present may be believed.
    pub fn segment(&self, name: &SegmentName) -> bool {
        match name {
            SegmentName::Session(sid, _) if sid.label >= self.verdict => true,
            name => self.segments.contains(name),
        }
    }

    /// Whether the segment inside a claim may be believed. A verdict names none: what they list stands in
    /// segments that it does name.
    pub fn inline(&self, sid: &SessionId) -> bool {
        sid.label >= self.verdict
    }

    /// Whether a snapshot that is present, without tombstone, may be believed.
    pub fn snapshot(&self, sid: &SessionId) -> bool {
        sid.label >= self.verdict || self.snapshots.contains(sid)
    }

    /// Whether carrying out the verdict deletes this segment.
    pub fn dooms_segment(&self, name: &SegmentName) -> bool {
        let old = match name {
            SegmentName::Session(sid, _) => sid.label < self.verdict,
            SegmentName::Merged(number, _) => *number <= self.verdict,
        };
        old && !self.segments.contains(name)
    }

    /// Whether it deletes this claim, and a tombstone of this name.
    pub fn dooms_claim(&self, sid: &SessionId) -> bool {
        !self.snapshot(sid)
    }

    /// Whether it deletes this session. One that reads goes only once it has ended: nobody waits for it, and
    /// its pin holds until then.
    pub fn dooms_session(&self, sid: &SessionId, reads: bool, ended: bool) -> bool {
        sid.label < self.verdict && (!reads || ended)
    }

    /// Whether it deletes this collection's records.
    pub fn dooms_collection(&self, number: u64) -> bool {
        number < self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;

    #[test]
    fn what_is_older_than_the_verdict_is_valid_only_if_named() {
        let random = Seeded::new(1);
        let [old, named, young] = [1, 1, 2].map(|label| SessionId::draw(&random, label));
        let verdict = Verdict {
            dead: vec![],
            segments: vec![format!("{named}-0"), "m2-0000000000000000".into()],
            snapshots: vec![named],
        };
        let validity = Validity::new(2, &verdict);
        assert_eq!([old, named, young].map(|sid| validity.snapshot(&sid)), [false, true, true]);
        assert_eq!([old, named, young].map(|sid| validity.inline(&sid)), [false, false, true]);
        let segments = [old, named, young].map(|sid| SegmentName::Session(sid, 0));
        assert_eq!(segments.map(|name| validity.segment(&name)), [false, true, true]);
        assert_eq!(segments.map(|name| validity.dooms_segment(&name)), [true, false, false]);
        let merged = [(2, 0), (2, 1), (3, 0)].map(|(n, random)| SegmentName::Merged(n, [random; 8]));
        assert_eq!(merged.map(|name| validity.segment(&name)), [true, false, false]);
        assert_eq!(merged.map(|name| validity.dooms_segment(&name)), [false, true, false]);
    }

    #[test]
    fn the_numbers_of_collections_are_read_from_their_names() {
        let names = ["2.verdict", "3.condemned", "1.condemned", "x.verdict", "9"].map(str::to_owned);
        let numbers = Numbers::read(&names);
        assert_eq!((numbers.newest(), numbers.open()), (3, Some(3)));
        assert_eq!(Numbers::read(&names[..1]).open(), None);
    }
}
