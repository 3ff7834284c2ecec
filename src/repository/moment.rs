//! Moments: a snapshot, and a revision of etcd that its history covers.

use std::cmp::Reverse;

use super::{Error, Result, SnapshotInfo};
use crate::context::Nanos;
use crate::format::{EtcdCapture, Mark, Root};
use crate::id::SessionId;

/// What a point means: what reading commands look at.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The snapshot that serves it: the nearest one at the revision or after it.
    pub info: SnapshotInfo,
    /// The revision of etcd; `None` where the snapshot has no etcd.
    pub revision: Option<i64>,
    /// Where the revision lies before the snapshot's: the last snapshot with objects of the same line at
    /// or before it.
    pub earlier: Option<SnapshotInfo>,
    /// Where a time was asked for: how well the revision is known.
    pub known: Option<Known>,
}

/// How well the revision that was current at a time is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The time.
    pub time: Nanos,
    /// The last revision that is known to have been current at or before it.
    pub last: Mark,
    /// The first revision that is known to have been current after it. The revision at the time lies
    /// between the two.
    pub next: Option<Mark>,
}

impl Known {
    /// Whether no other revision can have been current at the time.
    pub fn is_exact(&self) -> bool {
        self.next.is_some_and(|next| next.revision == self.last.revision)
    }
}

/// etcd at a revision that a capture's history covers.
#[derive(Debug, Clone, Copy)]
pub struct EtcdAt<'a> {
    /// The capture.
    pub capture: &'a EtcdCapture,
    /// From the anchor's revision to the capture's.
    pub revision: i64,
}

impl<'a> EtcdAt<'a> {
    /// At the revision of the capture itself.
    pub fn whole(capture: &'a EtcdCapture) -> EtcdAt<'a> {
        EtcdAt { capture, revision: capture.revision }
    }

    /// A state, and the history whose events up to the revision are to be folded into it, if any.
    pub fn base(self) -> (Option<&'a Root>, Option<&'a Root>) {
        let EtcdCapture { anchor, history, state, .. } = self.capture;
        match state {
            Some(state) if state.revision == self.revision => (state.root.as_ref(), None),
            _ if anchor.revision == self.revision => (anchor.root.as_ref(), None),
            _ => (anchor.root.as_ref(), history.as_ref()),
        }
    }
}

impl From<SnapshotInfo> for Moment {
    /// The snapshot as it is.
    fn from(info: SnapshotInfo) -> Moment {
        let revision = info.snapshot.etcd.as_ref().map(|etcd| etcd.revision);
        Moment { info, revision, earlier: None, known: None }
    }
}

impl Moment {
    /// etcd at this moment.
    pub fn etcd(&self) -> Option<EtcdAt<'_>> {
        let capture = self.info.snapshot.etcd.as_ref()?;
        Some(EtcdAt { capture, revision: self.revision? })
    }

    /// Whether it is a snapshot as it was taken, not a revision before that.
    pub fn is_whole(&self) -> bool {
        self.revision == self.info.snapshot.etcd.as_ref().map(|etcd| etcd.revision)
    }

    /// The snapshot, for what is done with whole snapshots only.
    pub fn into_snapshot(self) -> Result<SnapshotInfo> {
        if self.is_whole() {
            return Ok(self.info);
        }
        let (revision, id) = (self.revision.unwrap_or_default(), self.info.id);
        Err(Error::PointNotFound(format!(
            "revision {revision} is no snapshot by itself; the next one after it is {id}"
        )))
    }
}

/// Revisions from the first to the last, both covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stretch {
    /// The first.
    pub from: i64,
    /// The last.
    pub to: i64,
}

/// What one capture covers by itself: from its anchor on, without what is missing.
fn covered(etcd: &EtcdCapture) -> Vec<Stretch> {
    let mut gaps = etcd.gaps.clone();
    gaps.sort_by_key(|gap| gap.after);
    let (mut from, mut stretches) = (etcd.anchor.revision, Vec::new());
    for gap in &gaps {
        if gap.after >= from {
            stretches.push(Stretch { from, to: gap.after });
        }
        from = from.max(gap.until);
    }
    if from <= etcd.revision {
        stretches.push(Stretch { from, to: etcd.revision });
    }
    stretches
}

/// Whether the capture's history tells the state at `revision`.
fn covers(etcd: &EtcdCapture, revision: i64) -> bool {
    let missing = etcd.gaps.iter().any(|gap| gap.after < revision && revision < gap.until);
    (etcd.anchor.revision..=etcd.revision).contains(&revision) && !missing
}

/// The snapshots of a series that share one history. Revisions of different lines say nothing about each
/// other.
pub struct Line<'a> {
    /// Its number.
    pub number: u32,
    /// Those with etcd, in order of revision, time and id.
    pub snapshots: Vec<(&'a SnapshotInfo, &'a EtcdCapture)>,
}

/// The lines of `series`, the oldest first.
pub fn lines<'a>(snapshots: &'a [SnapshotInfo], series: &str) -> Vec<Line<'a>> {
    let of_series = snapshots.iter().filter(|info| info.snapshot.series == series);
    let mut own: Vec<_> = of_series.filter_map(|info| Some((info, info.snapshot.etcd.as_ref()?))).collect();
    own.sort_by_key(|(info, _)| newest_last(info));
    let lines = own.chunk_by(|(a, _), (b, _)| a.snapshot.line == b.snapshot.line);
    lines.map(|line| Line { number: line[0].0.snapshot.line, snapshots: line.to_vec() }).collect()
}

/// The order that `latest` means: line of history, then revision, then time, then id.
pub(super) fn newest_last(info: &SnapshotInfo) -> (u32, i64, Nanos, SessionId) {
    let revision = info.snapshot.etcd.as_ref().map_or(0, |etcd| etcd.revision);
    (info.snapshot.line, revision, info.snapshot.time, info.id)
}

impl<'a> Line<'a> {
    /// What all its snapshots together cover, in order.
    pub fn stretches(&self) -> Vec<Stretch> {
        let mut all: Vec<Stretch> = self.snapshots.iter().flat_map(|(_, etcd)| covered(etcd)).collect();
        all.sort();
        let mut merged: Vec<Stretch> = Vec::new();
        for stretch in all {
            match merged.last_mut() {
                Some(last) if stretch.from <= last.to.saturating_add(1) => last.to = last.to.max(stretch.to),
                _ => merged.push(stretch),
            }
        }
        merged
    }

    /// The marks of all its snapshots, in order of revision.
    pub fn marks(&self) -> Vec<Mark> {
        let mut marks: Vec<Mark> =
            self.snapshots.iter().flat_map(|(_, etcd)| etcd.marks.iter().copied()).collect();
        marks.sort_by_key(|mark| (mark.revision, mark.to));
        marks
    }

    /// The moment of a revision. Of several snapshots at this very revision the newest serves it, else the
    /// first that covers it: its objects are the nearest.
    pub fn at_revision(&self, revision: i64) -> std::result::Result<Moment, String> {
        let exact = self.snapshots.iter().rev().find(|(_, etcd)| etcd.revision == revision);
        let first = || self.snapshots.iter().find(|(_, etcd)| covers(etcd, revision));
        let Some((info, _)) = exact.or_else(first) else { return Err(self.not_covered(revision)) };
        Ok(self.within(info, revision))
    }

    /// The moment of a revision that the history of `info` covers.
    fn within(&self, info: &SnapshotInfo, revision: i64) -> Moment {
        let mut moment = Moment { revision: Some(revision), ..Moment::from(info.clone()) };
        if let Some(objects) = info.snapshot.objects.as_ref().filter(|_| !moment.is_whole()) {
            let same_place = |other: &SnapshotInfo| {
                other.snapshot.objects.as_ref().is_some_and(|other| other.place == objects.place)
            };
            let mut before = self.snapshots.iter().rev();
            let before = before.find(|(other, etcd)| etcd.revision <= revision && same_place(other));
            moment.earlier = before.map(|(info, _)| (*info).clone());
        }
        moment
    }

    fn not_covered(&self, revision: i64) -> String {
        let stretches = self.stretches();
        let below = stretches.iter().rev().map(|s| s.to).find(|&to| to < revision);
        let above = stretches.iter().map(|s| s.from).find(|&from| from > revision);
        let near = match (below, above) {
            (Some(below), Some(above)) => format!("the nearest are rev:{below} and rev:{above}"),
            (Some(last), None) => format!("the last is rev:{last}"),
            (None, Some(first)) => format!("the first is rev:{first}"),
            (None, None) => "none is".into(),
        };
        format!("revision {revision} is not covered ({near})")
    }
}

/// What a snapshot says of a time: its own revision or, by a mark, one before it. Without etcd it says when
/// it began.
fn marks_of(info: &SnapshotInfo) -> Vec<Mark> {
    match &info.snapshot.etcd {
        Some(etcd) => etcd.marks.iter().copied().filter(|mark| covers(etcd, mark.revision)).collect(),
        None => vec![Mark { revision: 0, from: info.snapshot.time, to: info.snapshot.time }],
    }
}

/// The moment of a time: the last revision that is known to have been current at or before it.
pub(super) fn at_time(own: &[&SnapshotInfo], time: Nanos) -> std::result::Result<Moment, String> {
    let marks: Vec<(&SnapshotInfo, Mark)> =
        own.iter().flat_map(|&info| marks_of(info).into_iter().map(move |mark| (info, mark))).collect();
    let last = marks
        .iter()
        .filter(|(_, mark)| mark.to <= time)
        .max_by_key(|(info, mark)| (info.snapshot.line, mark.revision, mark.to, info.id));
    let Some(&(info, last)) = last else {
        let first = marks.iter().min_by_key(|(_, mark)| mark.to);
        let first = first
            .map_or("there is none".into(), |(_, mark)| format!("the first is of time:{}", text(mark.to)));
        return Err(format!("nothing is known of {} or before ({first})", text(time)));
    };
    let Some(etcd) = &info.snapshot.etcd else { return Ok(info.clone().into()) };
    let of_line =
        |other: &&&SnapshotInfo| other.snapshot.line == info.snapshot.line && other.snapshot.etcd.is_some();
    let snapshots = own.iter().filter(of_line).filter_map(|info| Some((*info, info.snapshot.etcd.as_ref()?)));
    let mut line = Line { number: info.snapshot.line, snapshots: snapshots.collect() };
    line.snapshots.sort_by_key(|(info, _)| newest_last(info));
    // While etcd stood still, objects may have changed: the snapshot that was there serves it.
    let mut moment = match last.revision == etcd.revision {
        true => Moment::from(info.clone()),
        false => line.at_revision(last.revision)?,
    };
    let later = line.marks().into_iter().filter(|mark| mark.from > time);
    let next = later.min_by_key(|mark| (mark.revision, Reverse(mark.to)));
    moment.known = Some(Known { time, last, next });
    Ok(moment)
}

fn text(nanos: Nanos) -> String {
    jiff::Timestamp::from_nanosecond(nanos.into()).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
