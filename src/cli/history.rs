//! revisions and log: what is covered, and what happened to keys.

use std::io::{BufWriter, Write};

use icecore::browse::{self, Browser, Keys, Knowledge, LogLine, Logged, Reason, Revisions};
use icecore::context::Nanos;
use icecore::repository::SnapshotInfo;
use serde_json::{Value, json};

use super::failure::Failure;
use super::read::outcome;
use super::show::{key_json, key_text, local_time, say, size, utc};
use super::{Outcome, Session};

/// Without --series all are shown.
fn series_of<'a>(session: &'a Session, snapshots: &'a [SnapshotInfo]) -> Vec<&'a str> {
    if session.settings.series_given {
        return vec![&session.settings.series];
    }
    let mut series: Vec<&str> = snapshots.iter().map(|info| info.snapshot.series.as_str()).collect();
    series.sort_unstable();
    series.dedup();
    series
}

pub fn revisions(session: &Session) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let view = repository.view()?;
    let snapshots = &view.snapshots;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for series in series_of(session, snapshots) {
        for revisions in browse::revisions(snapshots, series) {
            match session.json {
                true => writeln!(out, "{}", revisions_json(series, &revisions))?,
                false => writeln!(out, "{}", revisions_line(series, &revisions))?,
            }
        }
    }
    out.flush()?;
    Ok(outcome(&view))
}

fn reason_word(reason: Reason) -> &'static str {
    match reason {
        Reason::Compacted => "compacted",
        Reason::Unseen => "unseen",
        Reason::Forgotten => "forgotten",
    }
}

fn revisions_json(series: &str, revisions: &Revisions) -> Value {
    let &Revisions { line, from, to, ref known } = revisions;
    match known {
        Knowledge::Covered { from_time, to_time, snapshot } => json!({
            "series": series, "line": line, "from": from, "to": to, "from_time": from_time.map(utc),
            "to_time": to_time.map(utc), "snapshot": snapshot.to_string(),
        }),
        Knowledge::Gap(reason) => {
            json!({"series": series, "line": line, "gap": {"from": from, "to": to, "reason": reason_word(*reason)}})
        }
    }
}

fn range_text(from: i64, to: i64) -> String {
    if from == to { format!("revision {from}") } else { format!("revisions {from} to {to}") }
}

/// The series, with its line of history where that is not the first.
fn line_name(series: &str, line: u32) -> String {
    if line == 0 { series.to_owned() } else { format!("{series} (line {line})") }
}

fn revisions_line(series: &str, revisions: &Revisions) -> String {
    let &Revisions { line, from, to, ref known } = revisions;
    let name = line_name(series, line);
    match known {
        Knowledge::Covered { from_time, to_time, snapshot } => {
            let time = |time: &Option<Nanos>| time.map_or("?".into(), local_time);
            let (from_time, to_time) = (time(from_time), time(to_time));
            format!("{name}  rev:{from} to rev:{to}  {from_time} to {to_time}  {}", snapshot.short())
        }
        Knowledge::Gap(reason) => {
            let why = match reason {
                Reason::Compacted => "compacted before they were captured",
                Reason::Unseen => "between two captures by ranges",
                Reason::Forgotten => "of forgotten snapshots",
            };
            format!("{name}  gap: {}, {why}", range_text(from, to))
        }
    }
}

pub fn log(session: &Session, key: &[u8], prefix: bool, long: bool) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let view = repository.view()?;
    let snapshots = &view.snapshots;
    let browser = Browser::over(&repository, &view)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut show = |keys| write_log(session, &browser, snapshots, keys, long, &mut out);
    let mut shown = if prefix { false } else { show(Keys::One(key))? };
    // What never was a key may be the beginning of some.
    if !shown {
        shown = show(Keys::Below(key))?;
    }
    out.flush()?;
    if !session.json && !session.quiet {
        tell_gaps(&browse::revisions(snapshots, &session.settings.series), !shown);
    }
    Ok(outcome(&view))
}

/// False where nothing is known of such keys.
fn write_log(
    session: &Session,
    browser: &Browser,
    snapshots: &[SnapshotInfo],
    keys: Keys,
    long: bool,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let series = &session.settings.series;
    let mut last = None;
    browse::log(browser, snapshots, series, keys, &mut |line| {
        let other_line = last.replace(line.line).is_some_and(|last| last != line.line);
        if session.json {
            return Ok(writeln!(out, "{}", log_json(&line))?);
        }
        if other_line {
            writeln!(out, "{}:", line_name(series, line.line))?;
        }
        Ok(writeln!(out, "{}", log_line(&line, long))?)
    })?;
    Ok(last.is_some())
}

/// What the log cannot show.
fn tell_gaps(revisions: &[Revisions], nothing: bool) {
    if nothing {
        say("no snapshot tells of such a key");
    }
    let gaps = revisions.iter().filter(|revisions| matches!(revisions.known, Knowledge::Gap(_)));
    match gaps.clone().count() {
        0 => {}
        1 => gaps.for_each(|gap| {
            say(&format!("not covered: {}; only how it ended is known", range_text(gap.from, gap.to)));
        }),
        n => say(&format!(
            "not covered: {n} gaps, which `icecore revisions` lists; only how they ended is known"
        )),
    }
}

fn log_json(line: &LogLine) -> Value {
    let (change, version, bytes) = match line.change {
        Logged::Put { version, size } => ("put", version, size),
        Logged::Deleted | Logged::DeletedBefore => ("delete", 0, 0),
    };
    let mut fields = json!({
        "line": line.line, "revision": line.revision, "change": change, "version": version, "size": bytes,
        "from_time": line.span.0.map(utc), "to_time": line.span.1.map(utc),
    });
    if let (Some(fields), Logged::DeletedBefore) = (fields.as_object_mut(), line.change) {
        fields.insert("or_before".into(), json!(true));
    }
    key_json(&line.key, fields)
}

fn log_line(line: &LogLine, long: bool) -> String {
    let (change, version, bytes) = match line.change {
        Logged::Put { version, size: bytes } => ("put", version.to_string(), size(bytes)),
        Logged::Deleted | Logged::DeletedBefore => ("delete", String::new(), String::new()),
    };
    let note = if line.change == Logged::DeletedBefore { "  (or before, in a gap)" } else { "" };
    let (revision, key) = (line.revision, key_text(&line.key));
    if !long {
        return format!("{revision:>10}  {change:<6}  {key}{note}");
    }
    let time = |time: Option<Nanos>| time.map_or("?".into(), local_time);
    let (after, before) = (time(line.span.0), time(line.span.1));
    format!("{revision:>10}  {change:<6}  {version:>6}  {bytes:>10}  {after} to {before}  {key}{note}")
}
