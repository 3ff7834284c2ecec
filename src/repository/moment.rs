//! Moments: a snapshot, and a revision of etcd that its history covers.

use super::{Error, Result, SnapshotInfo};
use crate::context::Nanos;
use crate::format::{EtcdCapture, Mark, ObjectCapture, Root};
use crate::id::SessionId;

/// What a point means: what reading commands look at.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The snapshot that serves it: the nearest one at the revision or after it.
    pub info: SnapshotInfo,
    /// The revision of etcd; `None` where the snapshot has no etcd.
    pub revision: Option<i64>,
    /// Where the revision lies before the snapshot's: the last snapshot of the same line at or before it.
    pub earlier: Option<SnapshotInfo>,
    /// Where a time was asked for: how well the revision is known.
    pub known: Option<Known>,
    /// Where the revision lies before the snapshot's: when it was current.
    pub when: Option<When>,
}

/// When a revision between two marks was current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// Not before.
    pub from: Nanos,
    /// It came about by then.
    pub to: Nanos,
    /// As if revisions came about evenly.
    pub likely: Nanos,
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

    /// The oldest revision from which its history leads to this one.
    pub fn oldest(self) -> i64 {
        super::keyspace::oldest(self.capture, self.revision)
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
        Moment { info, revision, earlier: None, known: None, when: None }
    }
}

impl Moment {
    /// etcd at this moment.
    pub fn etcd(&self) -> Option<EtcdAt<'_>> {
        let capture = self.info.snapshot.etcd.as_ref()?;
        Some(EtcdAt { capture, revision: self.revision? })
    }

    /// Captures that may know a lease of a key at this moment.
    pub fn leases(&self) -> impl Iterator<Item = &EtcdCapture> {
        let snapshots = [Some(&self.info), self.earlier.as_ref()].into_iter().flatten();
        snapshots.filter_map(|info| info.snapshot.etcd.as_ref())
    }

    /// The objects of the snapshot after the moment, and of the one before it where the moment lies between
    /// two of the same bucket or directory.
    pub fn objects(&self) -> Option<(&ObjectCapture, Option<&ObjectCapture>)> {
        let after = self.info.snapshot.objects.as_ref()?;
        let before = self.earlier.as_ref().and_then(|earlier| earlier.snapshot.objects.as_ref());
        Some((after, before.filter(|before| before.place == after.place)))
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
    // Revision 1 is that of an etcd which nothing was written to.
    let (mut from, mut stretches) = (etcd.anchor.revision.max(1), Vec::new());
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

/// The snapshots that share one history with `info`, those with etcd.
pub fn line_of<'a>(
    snapshots: &'a [SnapshotInfo],
    info: &SnapshotInfo,
) -> Vec<(&'a SnapshotInfo, &'a EtcdCapture)> {
    let of_line = |line: &Line| line.number == info.snapshot.line;
    let line = lines(snapshots, &info.snapshot.series).into_iter().find(of_line);
    line.map(|line| line.snapshots).unwrap_or_default()
}

/// The order that `latest` means: line of history, then revision, then generation, so that what was made
/// against a snapshot is later than it whatever the clock said, then time, then id.
pub(super) fn newest_last(info: &SnapshotInfo) -> (u32, i64, u32, Nanos, SessionId) {
    let revision = info.snapshot.etcd.as_ref().map_or(0, |etcd| etcd.revision);
    (info.snapshot.line, revision, info.snapshot.generation, info.snapshot.time, info.id)
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

    /// When its revisions were current, as far as its snapshots know.
    pub fn marks(&self) -> Marks {
        let mut marks: Vec<Mark> =
            self.snapshots.iter().flat_map(|(_, etcd)| etcd.marks.iter().copied()).collect();
        marks.sort_by_key(|mark| (mark.revision, mark.to));
        Marks(marks)
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
        if !moment.is_whole() {
            let before = self.snapshots.iter().rev().find(|(_, etcd)| etcd.revision <= revision);
            moment.earlier = before.map(|(info, _)| (*info).clone());
            moment.when = self.marks().when(revision);
        }
        moment
    }

    fn not_covered(&self, revision: i64) -> String {
        let stretches = self.stretches();
        let below = stretches.iter().rev().map(|s| s.to).find(|&to| to < revision);
        let above = stretches.iter().map(|s| s.from).find(|&from| from > revision);
        match (below, above) {
            (Some(below), Some(above)) => {
                format!("revision {revision} is in a gap between rev:{below} and rev:{above}")
            }
            (Some(last), None) => {
                format!("revision {revision} is after the last that is covered, rev:{last},")
            }
            (None, Some(first)) => {
                format!("revision {revision} is before the first that is covered, rev:{first},")
            }
            (None, None) => format!("revision {revision} is not covered"),
        }
    }
}

/// Marks in order of revision.
pub struct Marks(Vec<Mark>);

impl Marks {
    /// Those of revisions of a stretch.
    pub fn within(&self, stretch: Stretch) -> &[Mark] {
        let below = |revision: i64| self.0.partition_point(|mark| mark.revision < revision);
        let end = self.0.partition_point(|mark| mark.revision <= stretch.to);
        &self.0[below(stretch.from).min(end)..end]
    }

    /// The times between which a revision came about.
    pub fn span(&self, revision: i64) -> (Option<Nanos>, Option<Nanos>) {
        let place = self.0.partition_point(|mark| mark.revision < revision);
        let before = place.checked_sub(1).map(|before| self.0[before].from);
        (before, self.0.get(place).map(|mark| mark.to))
    }

    /// When a revision was current, where marks before and after it tell.
    fn when(&self, revision: i64) -> Option<When> {
        let place = self.0.partition_point(|mark| mark.revision < revision);
        let (before, after) = (self.0.get(place.checked_sub(1)?)?, self.0.get(place)?);
        // A clock that was set back may have made the later mark's time the earlier one.
        let (from, to) = (before.from.min(after.to), after.to.max(before.from));
        let share = (revision - before.revision) as f64 / (after.revision - before.revision) as f64;
        let likely = from + ((to - from) as f64 * share) as Nanos;
        Some(When { from, to, likely })
    }

    /// The first revision that is known to have been current after `time`.
    fn after(&self, time: Nanos) -> Option<Mark> {
        self.0.iter().copied().find(|mark| mark.from > time)
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
    moment.known = Some(Known { time, last, next: line.marks().after(time) });
    Ok(moment)
}

fn text(nanos: Nanos) -> String {
    jiff::Timestamp::from_nanosecond(nanos.into()).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;
    use crate::format::{Anchor, CapturePath, Gap, ObjectCapture, Place, Segment, Snapshot, Stored};
    use crate::repository::Point;

    /// A snapshot of line 0 at time `revision`, whose history begins at `anchor`.
    fn snapshot(anchor: i64, revision: i64, gaps: &[(i64, i64)]) -> SnapshotInfo {
        let etcd = EtcdCapture {
            cluster_id: 1,
            member_id: 1,
            server_version: String::new(),
            prefix: vec![],
            revision,
            compact_revision: Some(0),
            keys: 0,
            events: 0,
            anchor: Anchor { revision: anchor, root: None },
            history: None,
            state: None,
            system: None,
            gaps: gaps.iter().map(|&(after, until)| Gap { after, until }).collect(),
            hash_kv: None,
            path: CapturePath::Snapshot,
            marks: vec![Mark { revision, from: revision - 1, to: revision + 1 }],
        };
        let random = Seeded::new(revision as u64);
        let snapshot = Snapshot {
            series: "default".into(),
            name: Some(format!("at-{revision}")),
            time: revision - 2,
            parent: None,
            line: 0,
            generation: 0,
            host: String::new(),
            tool: String::new(),
            tags: vec![],
            etcd: Some(etcd),
            objects: None,
            stored: Stored::default(),
            segment: Segment::default(),
        };
        SnapshotInfo { id: SessionId::draw(&random, 0), snapshot: snapshot.into() }
    }

    fn of_line(mut info: SnapshotInfo, line: u32) -> SnapshotInfo {
        std::sync::Arc::make_mut(&mut info.snapshot).line = line;
        info
    }

    fn with_objects(mut info: SnapshotInfo, bucket: &str) -> SnapshotInfo {
        let objects = ObjectCapture {
            place: Place::Bucket { name: bucket.into(), prefix: String::new() },
            include: vec![],
            exclude: vec![],
            root: None,
            with_versions: false,
            versions: None,
            settings: vec![],
            listed: info.snapshot.time + 2,
            gone: 0,
            unreadable: 0,
        };
        std::sync::Arc::make_mut(&mut info.snapshot).objects = Some(objects);
        info
    }

    fn find(snapshots: &[SnapshotInfo], point: &str) -> Result<Moment> {
        point.parse::<Point>().unwrap().resolve(snapshots, "default")
    }

    /// The revision of the snapshot that serves `point`, and the revision itself.
    fn served(snapshots: &[SnapshotInfo], point: &str) -> std::result::Result<(i64, i64), String> {
        let moment = find(snapshots, point).map_err(|error| error.to_string())?;
        let at = moment.etcd().unwrap();
        Ok((at.capture.revision, at.revision))
    }

    fn said(snapshots: &[SnapshotInfo], point: &str) -> String {
        served(snapshots, point).unwrap_err()
    }

    #[test]
    fn a_revision_is_served_by_the_nearest_snapshot_after_it_that_covers_it() {
        let all = [snapshot(0, 100, &[]), snapshot(0, 200, &[]), snapshot(200, 300, &[])];
        for (revision, by) in [(1, 100), (100, 100), (101, 200), (200, 200), (201, 300), (300, 300)] {
            assert_eq!(served(&all, &format!("rev:{revision}")), Ok((by, revision)));
        }
        // Without the snapshot at 200 its history is lost, but the next one's anchor is its state.
        let fewer = [all[0].clone(), all[2].clone()];
        assert_eq!(served(&fewer, "rev:200"), Ok((300, 200)));
        assert_eq!(
            said(&fewer, "rev:150"),
            "revision 150 is in a gap between rev:100 and rev:200 in series \"default\""
        );
    }

    #[test]
    fn a_revision_that_nothing_covers_names_the_nearest_that_are() {
        let all = [
            snapshot(50, 100, &[]),
            snapshot(50, 200, &[(100, 150), (160, 170)]),
            snapshot(250, 300, &[(200, 250)]),
        ];
        let stretches: Vec<_> =
            lines(&all, "default")[0].stretches().iter().map(|s| (s.from, s.to)).collect();
        assert_eq!(stretches, [(50, 100), (150, 160), (170, 200), (250, 300)]);
        for (revision, near) in [
            (49, "before the first that is covered, rev:50,"),
            (101, "in a gap between rev:100 and rev:150"),
            (149, "in a gap between rev:100 and rev:150"),
            (169, "in a gap between rev:160 and rev:170"),
            (249, "in a gap between rev:200 and rev:250"),
            (301, "after the last that is covered, rev:300,"),
        ] {
            assert_eq!(
                said(&all, &format!("rev:{revision}")),
                format!("revision {revision} is {near} in series \"default\"")
            );
        }
        for revision in [50, 100, 150, 160, 170, 200, 250, 300] {
            assert_eq!(served(&all, &format!("rev:{revision}")).map(|(_, r)| r), Ok(revision));
        }
        assert!(said(&[], "rev:1").contains("no snapshot has etcd"));
    }

    #[test]
    fn a_revision_is_looked_for_in_the_newest_line_or_in_that_of_a_snapshot() {
        let all =
            [snapshot(0, 500, &[]), of_line(snapshot(0, 80, &[]), 1), of_line(snapshot(80, 90, &[]), 1)];
        assert_eq!(served(&all, "rev:60"), Ok((80, 60)));
        assert_eq!(served(&all, "rev:60@at-500"), Ok((500, 60)));
        assert_eq!(served(&all, "rev:85@at-80"), Ok((90, 85)));
        assert_eq!(served(&all, "rev:60@latest~2"), Ok((500, 60)));
        assert!(said(&all, "rev:400").contains("after the last that is covered, rev:90"));
        for bad in ["rev:60@", "rev:60@rev:5", "rev:60@time:1970-01-01T00:00:00Z", "rev:@latest"] {
            assert!(bad.parse::<Point>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_means_the_last_revision_that_is_known_to_have_been_current_by_then() {
        let time = |nanos: i64| format!("time:1970-01-01T00:00:00.{nanos:09}Z");
        let all = [snapshot(0, 100, &[]), snapshot(0, 200, &[]), of_line(snapshot(0, 250, &[]), 1)];
        // A mark says: at some moment between revision - 1 and revision + 1.
        assert!(said(&all, &time(100)).contains("the first is of time:1970-01-01T00:00:00.000000101Z"));
        for (at, revision) in
            [(101, 100), (150, 100), (200, 100), (201, 200), (250, 200), (251, 250), (900, 250)]
        {
            assert_eq!(served(&all, &time(at)).map(|(_, r)| r), Ok(revision), "{at}");
        }
        let known = |at| find(&all, &time(at)).unwrap().known.unwrap();
        assert_eq!(known(150).next.map(|mark| mark.revision), Some(200));
        assert!(!known(150).is_exact() && known(900).next.is_none());
    }

    #[test]
    fn while_etcd_stood_still_a_time_means_the_snapshot_that_was_there() {
        let mut all = [snapshot(0, 100, &[]), snapshot(0, 100, &[]), snapshot(0, 100, &[])];
        for (info, hour) in all.iter_mut().zip(1..) {
            info.id = SessionId::draw(&Seeded::new(hour as u64), 0);
            let snapshot = std::sync::Arc::make_mut(&mut info.snapshot);
            snapshot.time = 1000 * hour;
            snapshot.etcd.as_mut().unwrap().marks =
                vec![Mark { revision: 100, from: 1000 * hour, to: 1000 * hour }];
        }
        let moment = find(&all, "time:1970-01-01T00:00:00.0000025Z").unwrap();
        assert_eq!(moment.info.id, all[1].id);
        assert!(moment.known.unwrap().is_exact());
        assert_eq!(find(&all, "rev:100").unwrap().info.id, all[2].id);
    }

    #[test]
    fn after_the_clock_was_set_back_the_greatest_revision_seen_by_then_counts() {
        let mut all = [snapshot(0, 100, &[]), snapshot(0, 200, &[])];
        let etcd = std::sync::Arc::make_mut(&mut all[1].snapshot).etcd.as_mut().unwrap();
        etcd.marks = vec![Mark { revision: 200, from: 50, to: 52 }];
        assert_eq!(served(&all, "time:1970-01-01T00:00:00.000000060Z"), Ok((200, 200)));
        assert_eq!(served(&all, "time:1970-01-01T00:00:00.000000101Z"), Ok((200, 200)));
    }

    #[test]
    fn between_two_snapshots_the_earlier_one_of_the_same_bucket_stands_by() {
        let all = |between: &str| {
            [
                with_objects(snapshot(0, 100, &[]), "data"),
                with_objects(snapshot(0, 150, &[]), between),
                with_objects(snapshot(0, 200, &[]), "data"),
            ]
        };
        let listed = |all: &[SnapshotInfo], point: &str| {
            let moment = find(all, point).unwrap();
            let (after, before) = moment.objects().unwrap();
            (after.listed, before.map(|before| before.listed))
        };
        assert_eq!(listed(&all("data"), "rev:180"), (200, Some(150)));
        assert_eq!(listed(&all("data"), "rev:120"), (150, Some(100)));
        assert_eq!(listed(&all("other"), "rev:180"), (200, None));
        for (point, after) in [("rev:200", 200), ("rev:50", 100), ("latest", 200)] {
            assert_eq!(listed(&all("data"), point), (after, None), "{point}");
        }
    }

    #[test]
    fn what_is_done_with_a_whole_snapshot_is_not_done_with_a_revision_before_it() {
        let all = [snapshot(0, 100, &[]), snapshot(0, 200, &[])];
        assert_eq!(find(&all, "rev:200").unwrap().into_snapshot().unwrap().id, all[1].id);
        let refused = find(&all, "rev:150").unwrap().into_snapshot();
        assert!(refused.unwrap_err().to_string().contains("revision 150 is no snapshot by itself"));
    }

    #[test]
    fn a_revision_came_about_between_the_marks_around_it() {
        let all = [snapshot(0, 100, &[]), snapshot(0, 200, &[])];
        let marks = lines(&all, "default")[0].marks();
        let spans = [50, 100, 101, 200, 201].map(|revision| marks.span(revision));
        let expected =
            [(None, 101), (None, 101), (Some(99), 201), (Some(99), 201)].map(|(a, b)| (a, Some(b)));
        assert_eq!(spans[..4], expected);
        assert_eq!(spans[4], (Some(199), None));
        assert_eq!(marks.when(125), Some(When { from: 99, to: 201, likely: 124 }));
        assert_eq!((marks.when(100), marks.when(201)), (None, None));
        assert_eq!(marks.within(Stretch { from: 101, to: 300 }).len(), 1);
        assert_eq!(marks.within(Stretch { from: 300, to: 200 }).len(), 0);
    }
}
