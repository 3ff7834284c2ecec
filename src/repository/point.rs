//! Points: how a user names a snapshot.

use std::str::FromStr;

use super::{Error, Result, SnapshotInfo};
use crate::context::Nanos;

/// A snapshot, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// `latest`, `latest~n`: the newest, or the nth before it.
    Latest(usize),
    /// `rev:n`: the snapshot taken at this etcd revision.
    Revision(i64),
    /// `time:t`: the last snapshot at or before this time.
    Time(Nanos),
    /// An id, a name, or the unique beginning of an id.
    Word(String),
}

/// A point that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no point: {1}")]
pub struct BadPoint(String, &'static str);

impl FromStr for Point {
    type Err = BadPoint;

    fn from_str(text: &str) -> std::result::Result<Point, BadPoint> {
        let bad = |why| BadPoint(text.into(), why);
        if let Some(revision) = text.strip_prefix("rev:") {
            let revision = revision.parse().ok().filter(|&r| r > 0);
            return revision
                .map(Point::Revision)
                .ok_or_else(|| bad("write rev: and a revision, as in rev:12345"));
        }
        if let Some(time) = text.strip_prefix("time:") {
            let time: std::result::Result<jiff::Timestamp, _> = time.parse();
            let nanos = time.ok().map(|t| t.as_nanosecond() as Nanos);
            return nanos.map(Point::Time).ok_or_else(|| bad("write a time as in time:2026-11-22T10:00:00Z"));
        }
        match text.strip_prefix("latest") {
            Some("") => return Ok(Point::Latest(0)),
            Some(rest) if rest.starts_with('~') => {
                let back = rest[1..].parse().map_err(|_| bad("write latest~n, as in latest~2"));
                return back.map(Point::Latest);
            }
            _ => {}
        }
        match text.is_empty() {
            true => Err(bad("it is empty")),
            false => Ok(Point::Word(text.into())),
        }
    }
}

/// Whether `name` may name a snapshot or a series.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=64).contains(&name.len()) && name.chars().all(fits) {
        return Ok(());
    }
    Err(Error::Usage(format!("{name:?} is no {what}: 1 to 64 of A-Z a-z 0-9 . _ - are allowed")))
}

/// The order that `latest` means: line of history, then revision, then time, then id. Revisions of
/// different lines say nothing about each other.
fn newest_last(info: &SnapshotInfo) -> (u32, i64, Nanos, crate::id::SessionId) {
    let revision = info.snapshot.etcd.as_ref().map_or(0, |etcd| etcd.revision);
    (info.snapshot.line, revision, info.snapshot.time, info.id)
}

impl Point {
    /// The snapshot of `series` that is meant.
    pub fn resolve(&self, snapshots: &[SnapshotInfo], series: &str) -> Result<SnapshotInfo> {
        let mut own: Vec<&SnapshotInfo> =
            snapshots.iter().filter(|info| info.snapshot.series == series).collect();
        own.sort_by_key(|info| newest_last(info));
        let missing = |what: String| Error::PointNotFound(format!("{what} in series {series:?}"));
        let found = match self {
            Point::Latest(back) => {
                let place = own.len().checked_sub(back + 1);
                place.map(|place| own[place]).ok_or_else(|| match own.len() {
                    0 => missing("there is no snapshot".into()),
                    n => missing(format!("there are only {n} snapshots")),
                })?
            }
            Point::Revision(revision) => at_revision(&own, *revision).map_err(missing)?,
            Point::Time(time) => {
                let before = own.iter().filter(|info| info.snapshot.time <= *time);
                let last = before.max_by_key(|info| (info.snapshot.time, info.id));
                last.ok_or_else(|| missing("there is no snapshot at or before that time".into()))?
            }
            Point::Word(word) => by_word(snapshots, &own, word, series)?,
        };
        Ok(found.clone())
    }
}

fn at_revision<'a>(own: &[&'a SnapshotInfo], revision: i64) -> std::result::Result<&'a SnapshotInfo, String> {
    let of = |info: &SnapshotInfo| info.snapshot.etcd.as_ref().map(|etcd| etcd.revision);
    if let Some(found) = own.iter().rev().find(|info| of(info) == Some(revision)) {
        return Ok(found);
    }
    let revisions: Vec<i64> = own.iter().filter_map(|info| of(info)).collect();
    let below = revisions.iter().filter(|&&r| r < revision).max();
    let above = revisions.iter().filter(|&&r| r > revision).min();
    let near: Vec<String> = below.into_iter().chain(above).map(|r| format!("rev:{r}")).collect();
    let near = if near.is_empty() {
        "none has etcd".into()
    } else {
        format!("the nearest are {}", near.join(" and "))
    };
    Err(format!("no snapshot was taken at revision {revision} ({near})"))
}

fn by_word<'a>(
    all: &'a [SnapshotInfo],
    own: &[&'a SnapshotInfo],
    word: &str,
    series: &str,
) -> Result<&'a SnapshotInfo> {
    let ids: Vec<(String, &SnapshotInfo)> = all.iter().map(|info| (info.id.to_string(), info)).collect();
    if let Some((_, info)) = ids.iter().find(|(id, _)| id == word) {
        return Ok(info);
    }
    if let Some(info) = own.iter().find(|info| info.snapshot.name.as_deref() == Some(word)) {
        return Ok(info);
    }
    let fits: Vec<_> = ids.iter().filter(|(id, _)| id.starts_with(word)).collect();
    match fits[..] {
        [(_, info)] => Ok(info),
        [] => Err(Error::PointNotFound(format!(
            "no snapshot has the id, the name or the beginning of an id {word:?} in series {series:?}"
        ))),
        _ => Err(Error::Ambiguous {
            text: word.into(),
            candidates: fits.iter().map(|(id, _)| id.clone()).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;
    use crate::format::{Segment, Snapshot, Stored};
    use crate::id::SessionId;

    fn snapshots(times: &[Nanos]) -> Vec<SnapshotInfo> {
        let random = Seeded::new(1);
        let one = |&time: &Nanos| SnapshotInfo {
            id: SessionId::draw(&random, 0),
            snapshot: Snapshot {
                series: "default".into(),
                name: (time == 20).then(|| "twenty".into()),
                time,
                parent: None,
                line: 0,
                host: String::new(),
                tool: String::new(),
                tags: vec![],
                etcd: None,
                objects: None,
                stored: Stored::default(),
                segment: Segment::default(),
            }
            .into(),
        };
        times.iter().map(one).collect()
    }

    fn time_of(point: &str, snapshots: &[SnapshotInfo]) -> Option<Nanos> {
        let point: Point = point.parse().unwrap();
        point.resolve(snapshots, "default").ok().map(|info| info.snapshot.time)
    }

    #[test]
    fn every_kind_of_point_finds_its_snapshot() {
        let all = snapshots(&[10, 20, 30]);
        assert_eq!(time_of("latest", &all), Some(30));
        assert_eq!(time_of("latest~2", &all), Some(10));
        assert_eq!(time_of("latest~3", &all), None);
        assert_eq!(time_of("twenty", &all), Some(20));
        assert_eq!(time_of("time:1970-01-01T00:00:00.000000025Z", &all), Some(20));
        assert_eq!(time_of("time:1970-01-01T00:00:00.000000005Z", &all), None);
        let id = all[0].id.to_string();
        assert_eq!(time_of(&id, &all), Some(10));
        assert_eq!(time_of(&id[..6], &all), Some(10));
        assert_eq!(time_of("nothing", &all), None);
        assert_eq!(time_of("latest", &[]), None);
    }

    #[test]
    fn a_new_line_of_history_is_later_than_an_old_one() {
        let mut all = snapshots(&[10, 20, 30]);
        std::sync::Arc::make_mut(&mut all[0].snapshot).line = 1;
        assert_eq!(time_of("latest", &all), Some(10));
        assert_eq!(time_of("latest~1", &all), Some(30));
    }

    #[test]
    fn an_ambiguous_beginning_lists_what_it_could_be() {
        let all = snapshots(&(0..40).collect::<Vec<_>>());
        let first = all[0].id.to_string()[..1].to_owned();
        let point = Point::Word(first.clone());
        let fits = all.iter().filter(|info| info.id.to_string().starts_with(&first)).count();
        match point.resolve(&all, "default") {
            Err(Error::Ambiguous { candidates, .. }) => assert_eq!(candidates.len(), fits),
            other => assert_eq!(fits, 1, "{other:?}"),
        }
    }

    #[test]
    fn what_is_no_point_is_said() {
        for text in ["", "rev:", "rev:x", "rev:-1", "time:yesterday", "latest~", "latest~x"] {
            assert!(text.parse::<Point>().is_err(), "{text}");
        }
    }
}
