//! Points: how a user names a moment.

use std::str::FromStr;

use super::moment::{at_time, lines, newest_last};
use super::{Error, Moment, Result, SnapshotInfo};
use crate::context::Nanos;

/// A moment, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// `latest`, `latest~n`: the newest, or the nth before it.
    Latest(usize),
    /// `rev:n`: a revision of etcd in the newest line of history; `rev:n@snapshot`: in the line of that
    /// snapshot.
    Revision(i64, Option<Box<Point>>),
    /// `time:t`: the last revision that is known to have been current at or before this time; without etcd
    /// the last snapshot.
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
            let (revision, of) = match revision.split_once('@') {
                Some((revision, of)) => (revision, Some(of.parse()?)),
                None => (revision, None),
            };
            let revision = revision.parse().ok().filter(|&r| r > 0);
            let revision = revision.ok_or_else(|| bad("write rev: and a revision, as in rev:12345"))?;
            return match of {
                Some(Point::Revision(..) | Point::Time(_)) => Err(bad("after @ comes a snapshot")),
                of => Ok(Point::Revision(revision, of.map(Box::new))),
            };
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

impl Point {
    /// What is meant, of `series`.
    pub fn resolve(&self, snapshots: &[SnapshotInfo], series: &str) -> Result<Moment> {
        let mut own: Vec<&SnapshotInfo> =
            snapshots.iter().filter(|info| info.snapshot.series == series).collect();
        own.sort_by_key(|info| newest_last(info));
        let missing = |what: String| Error::PointNotFound(format!("{what} in series {series:?}"));
        let found = match self {
            Point::Latest(back) => {
                let place = own.len().checked_sub(back.saturating_add(1));
                place.map(|place| own[place]).ok_or_else(|| match own.len() {
                    0 => missing("there is no snapshot".into()),
                    n => missing(format!("there are only {n} snapshots")),
                })?
            }
            Point::Revision(revision, of) => return at_revision(snapshots, series, *revision, of.as_deref()),
            Point::Time(time) => return at_time(&own, *time).map_err(missing),
            Point::Word(word) => by_word(snapshots, &own, word, series)?,
        };
        Ok(found.clone().into())
    }
}

fn at_revision(
    snapshots: &[SnapshotInfo],
    series: &str,
    revision: i64,
    of: Option<&Point>,
) -> Result<Moment> {
    let of = of.map(|of| of.resolve(snapshots, series)).transpose()?;
    // A full id names a snapshot of any series.
    let series = of.as_ref().map_or(series, |of| &of.info.snapshot.series);
    let missing = |what: String| Error::PointNotFound(format!("{what} in series {series:?}"));
    let mut lines = lines(snapshots, series);
    let line = match &of {
        Some(of) => lines.into_iter().find(|line| line.number == of.info.snapshot.line),
        None => lines.pop(),
    };
    let line = line.ok_or_else(|| missing("no snapshot has etcd".into()))?;
    line.at_revision(revision).map_err(|what| match &of {
        Some(of) => missing(format!("{what} in the line of snapshot {}", of.info.id)),
        None => missing(what),
    })
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
                generation: 0,
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
        point.resolve(snapshots, "default").ok().map(|moment| moment.info.snapshot.time)
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
