//! Which revisions of etcd are covered, and where the gaps are.

use crate::context::Nanos;
use crate::format::{CapturePath, EtcdCapture};
use crate::id::SessionId;
use crate::repository::{Line, SnapshotInfo, Stretch, lines};

/// Revisions that follow each other, of one line of history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revisions {
    /// The line.
    pub line: u32,
    /// The first.
    pub from: i64,
    /// The last.
    pub to: i64,
    /// What is known of them.
    pub known: Knowledge,
}

/// What is known of revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Knowledge {
    /// Every one is covered.
    Covered {
        /// From when on times lead to them.
        from_time: Option<Nanos>,
        /// The last time that one of them is known to have been current.
        to_time: Option<Nanos>,
        /// The snapshot that has the last one.
        snapshot: SessionId,
    },
    /// None is covered.
    Gap(Reason),
}

/// Why revisions are not covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// etcd was compacted before they were captured.
    Compacted,
    /// They lie between two captures by ranged reads, which see only their own revision.
    Unseen,
    /// The snapshots that covered them were forgotten.
    Forgotten,
}

/// What is covered of the revisions of `series`, line by line, gaps between.
pub fn revisions(snapshots: &[SnapshotInfo], series: &str) -> Vec<Revisions> {
    lines(snapshots, series).iter().flat_map(of_line).collect()
}

fn of_line(line: &Line) -> Vec<Revisions> {
    let (marks, stretches) = (line.marks(), line.stretches());
    let mut all = Vec::new();
    for (place, &stretch) in stretches.iter().enumerate() {
        if let Some(before) = place.checked_sub(1).map(|before| stretches[before]) {
            let (from, to) = (before.to + 1, stretch.from - 1);
            all.push(Revisions { line: line.number, from, to, known: Knowledge::Gap(why(line, from, to)) });
        }
        let Some(snapshot) = last_of(line, stretch) else { continue };
        let times: Vec<Nanos> = marks.within(stretch).iter().map(|mark| mark.to).collect();
        let (from_time, to_time) = (times.first().copied(), times.last().copied());
        let known = Knowledge::Covered { from_time, to_time, snapshot };
        all.push(Revisions { line: line.number, from: stretch.from, to: stretch.to, known });
    }
    all
}

/// The first snapshot that covers the end of a stretch.
fn last_of(line: &Line, stretch: Stretch) -> Option<SessionId> {
    line.at_revision(stretch.to).ok().map(|moment| moment.info.id)
}

fn why(line: &Line, from: i64, to: i64) -> Reason {
    let has = |etcd: &EtcdCapture| etcd.gaps.iter().any(|gap| gap.after < to && gap.until > from);
    // The first that has it made it, the others inherited it.
    match line.snapshots.iter().find(|(_, etcd)| has(etcd)).map(|(_, etcd)| etcd.path) {
        Some(CapturePath::Range) => Reason::Unseen,
        Some(_) => Reason::Compacted,
        None => Reason::Forgotten,
    }
}
