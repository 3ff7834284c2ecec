//! Commands that read: snapshots, ls, cat, diff, verify, check, stats.

use std::io::{BufWriter, Write};

use icecore::browse::{self, Browser, DiffLine, Summary};
use icecore::check::{self, Damage};
use icecore::format::{Attributes, FileKind, Item, ItemState, KeyState};
use icecore::repository::{Point, Repository, SnapshotInfo};
use serde_json::{Value, json};

use super::args::Side;
use super::failure::Failure;
use super::show::{hex, key_json, key_text, local_time, number, say, size, utc};
use super::{Outcome, Session};

fn side_of(side: Side) -> browse::Side {
    match side {
        Side::Etcd => browse::Side::Etcd,
        Side::Objects => browse::Side::Objects,
    }
}

fn find(session: &Session, repository: &Repository, point: &str) -> Result<SnapshotInfo, Failure> {
    let point: Point = point.parse()?;
    Ok(point.resolve(&repository.view()?.snapshots, &session.settings.series)?)
}

pub fn snapshots(session: &Session, tag: Option<&str>) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let view = repository.view()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    // Without --series all are listed.
    let series = session.settings.series_given.then_some(session.settings.series.as_str());
    let wanted = |info: &&SnapshotInfo| {
        series.is_none_or(|series| info.snapshot.series == series)
            && tag.is_none_or(|tag| info.snapshot.tags.iter().any(|t| t == tag))
    };
    let mut count = 0;
    for info in view.snapshots.iter().filter(wanted) {
        count += 1;
        match session.json {
            true => writeln!(out, "{}", snapshot_json(info))?,
            false => writeln!(out, "{}", snapshot_line(info))?,
        }
    }
    if !session.json && !session.quiet {
        writeln!(out, "{} snapshots", number(count))?;
    }
    out.flush()?;
    view.damaged.iter().for_each(|error| say(&format!("damage: {error}")));
    Ok(if view.damaged.is_empty() { Outcome::Done } else { Outcome::Damage })
}

fn snapshot_json(info: &SnapshotInfo) -> Value {
    let snapshot = &info.snapshot;
    let etcd = snapshot.etcd.as_ref().map(|etcd| json!({"revision": etcd.revision, "keys": etcd.keys}));
    let objects = snapshot.objects.as_ref().map(|objects| {
        let (count, bytes) = objects.root.map_or((0, 0), |root| (root.count, root.weight));
        json!({"count": count, "bytes": bytes})
    });
    json!({
        "id": info.id.to_string(), "series": snapshot.series, "name": snapshot.name, "time": utc(snapshot.time),
        "parent": snapshot.parent.map(|parent| parent.to_string()), "tags": snapshot.tags,
        "etcd": etcd, "objects": objects,
    })
}

fn snapshot_line(info: &SnapshotInfo) -> String {
    let snapshot = &info.snapshot;
    let mut line = format!("{}  {}  {}", info.id.short(), local_time(snapshot.time), snapshot.series);
    if let Some(etcd) = &snapshot.etcd {
        line += &format!("  etcd {} ({} keys)", etcd.revision, number(etcd.keys));
    }
    if let Some(objects) = &snapshot.objects {
        let (count, bytes) = objects.root.map_or((0, 0), |root| (root.count, root.weight));
        line += &format!("  {} objects ({})", number(count), size(bytes));
    }
    if let Some(name) = &snapshot.name {
        line += &format!("  {name}");
    }
    if !snapshot.tags.is_empty() {
        line += &format!("  [{}]", snapshot.tags.join(", "));
    }
    line
}

pub fn ls(session: &Session, point: &str, side: Side, prefix: &str, long: bool) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let info = find(session, &repository, point)?;
    let browser = Browser::open(&repository)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    match side {
        Side::Etcd => browser.keys(&info, prefix.as_bytes(), |key, state| {
            Ok(writeln!(out, "{}", key_line(session, key, state, long))?)
        })?,
        Side::Objects => browser.objects(&info, prefix.as_bytes(), |key, entry| {
            Ok(writeln!(out, "{}", object_line(session, key, entry, long))?)
        })?,
    }
    out.flush()?;
    Ok(Outcome::Done)
}

fn key_line(session: &Session, key: &[u8], state: &KeyState, long: bool) -> String {
    let length = state.value.len();
    if session.json {
        let lease = if state.lease == 0 { Value::Null } else { json!(hex(state.lease as u64)) };
        let fields = json!({
            "create_revision": state.create_revision, "mod_revision": state.mod_revision,
            "version": state.version, "lease": lease, "size": length,
        });
        return key_json(key, fields).to_string();
    }
    match long {
        true => format!(
            "{:>10}  {:>10}  {:>6}  {}",
            size(length),
            state.mod_revision,
            state.version,
            key_text(key)
        ),
        false => key_text(key),
    }
}

/// What `ls` calls it.
fn kind_of(item: &Item) -> &'static str {
    match (item.state, &item.attributes) {
        (ItemState::Gone, _) => "gone",
        (ItemState::Unreadable, _) => "unreadable",
        (ItemState::Deleted, _) => "deleted",
        (ItemState::Present, Attributes::Object(_)) => "object",
        (ItemState::Present, Attributes::File(file)) => match file.kind {
            FileKind::Regular => "file",
            FileKind::Directory => "directory",
            FileKind::Symlink(_) => "symlink",
            FileKind::HardLink(_) => "hardlink",
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice(_) | FileKind::BlockDevice(_) => {
                "special"
            }
        },
    }
}

fn object_line(session: &Session, key: &[u8], item: &Item, long: bool) -> String {
    let kind = kind_of(item);
    if session.json {
        let etag = match &item.attributes {
            Attributes::Object(attributes) => Some(&attributes.etag),
            Attributes::File(_) => None,
        };
        let fields = json!({"kind": kind, "size": item.size, "etag": etag, "modified": utc(item.modified)});
        return key_json(key, fields).to_string();
    }
    match long {
        true => {
            let note = if matches!(kind, "object" | "file") { String::new() } else { format!(" ({kind})") };
            format!("{:>10}  {}  {}{note}", size(item.size), local_time(item.modified), key_text(key))
        }
        false => key_text(key),
    }
}

pub fn cat(session: &Session, point: &str, side: Side, key: &str) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let info = find(session, &repository, point)?;
    let browser = Browser::open(&repository)?;
    let mut out = std::io::stdout().lock();
    browser.cat(&info, side_of(side), key.as_bytes(), &mut out)?;
    out.flush()?;
    Ok(Outcome::Done)
}

pub fn diff(
    session: &Session,
    before: &str,
    after: &str,
    side: Option<Side>,
    prefix: &str,
) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let (before, after) = (find(session, &repository, before)?, find(session, &repository, after)?);
    let sides = match side {
        Some(side) => vec![side_of(side)],
        None => {
            let both = |has: fn(&SnapshotInfo) -> bool| has(&before) && has(&after);
            let etcd = both(|info| info.snapshot.etcd.is_some()).then_some(browse::Side::Etcd);
            let objects = both(|info| info.snapshot.objects.is_some()).then_some(browse::Side::Objects);
            etcd.into_iter().chain(objects).collect()
        }
    };
    let browser = Browser::open(&repository)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for side in sides {
        browse::diff(&browser, (&before, &after), side, prefix.as_bytes(), &mut |line| {
            Ok(writeln!(out, "{}", diff_line(session, &line))?)
        })?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

fn diff_line(session: &Session, line: &DiffLine) -> String {
    let (change, mark) = match (&line.before, &line.after) {
        (None, _) => ("added", '+'),
        (_, None) => ("removed", '-'),
        _ => ("changed", '*'),
    };
    let side = match line.side {
        browse::Side::Etcd => "etcd",
        browse::Side::Objects => "objects",
    };
    if session.json {
        let summary = |summary: &Summary| {
            json!({
                "size": summary.size, "mod_revision": summary.mod_revision, "etag": summary.etag,
                "modified": summary.modified.map(utc),
            })
        };
        let (before, after) = (line.before.as_ref().map(summary), line.after.as_ref().map(summary));
        return key_json(&line.key, json!({"in": side, "change": change, "before": before, "after": after}))
            .to_string();
    }
    let bytes = |summary: &Option<Summary>| summary.as_ref().map(|s| size(s.size)).unwrap_or_default();
    let sizes = match (&line.before, &line.after) {
        (Some(_), Some(_)) => format!("{} → {}", bytes(&line.before), bytes(&line.after)),
        (before, after) => format!("{}{}", bytes(before), bytes(after)),
    };
    format!("{mark} {side} {}  {sizes}", key_text(&line.key))
}

pub fn verify(session: &Session, point: &str) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let info = find(session, &repository, point)?;
    let verified = check::verify(&repository, &info)?;
    session.context.progress.end();
    let mut out = std::io::stdout().lock();
    if session.json {
        let damage: Vec<Value> = verified.damage.iter().map(damage_json).collect();
        let report = json!({
            "id": info.id.to_string(), "chunks": verified.chunks, "bytes": verified.bytes, "damage": damage,
        });
        writeln!(out, "{report}")?;
    } else {
        for damage in &verified.damage {
            print_damage(&mut out, damage)?;
        }
        let whole = if verified.damage.is_empty() { "is whole" } else { "is DAMAGED" };
        writeln!(
            out,
            "snapshot {} {whole}: {} chunks, {} of content read",
            info.id,
            number(verified.chunks),
            size(verified.bytes)
        )?;
    }
    Ok(if verified.damage.is_empty() { Outcome::Done } else { Outcome::Damage })
}

fn damage_json(damage: &Damage) -> Value {
    json!({"kind": damage.kind, "file": damage.file, "what": damage.what, "snapshots": damage.snapshots})
}

fn print_damage(out: &mut dyn Write, damage: &Damage) -> std::io::Result<()> {
    writeln!(out, "damage: {} {}: {}", damage.kind, damage.file, damage.what)?;
    if damage.snapshots.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = damage.snapshots.iter().map(|id| id.get(..8).unwrap_or(id)).collect();
    writeln!(out, "        snapshots concerned: {}", ids.join(", "))
}

pub fn check(session: &Session, read_data: bool) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let report = check::run(&repository, check::Options { read_data })?;
    session.context.progress.end();
    let mut out = std::io::stdout().lock();
    for damage in &report.damage {
        match session.json {
            true => writeln!(out, "{}", damage_json(damage))?,
            false => print_damage(&mut out, damage)?,
        }
    }
    if !session.json && !session.quiet {
        let read = match read_data {
            true => format!("{} chunks read ({})", number(report.chunks_read), size(report.bytes_read)),
            false => "sizes, records and trees looked at (--read-data reads every byte)".into(),
        };
        writeln!(out, "{} snapshots, {} packs: {read}", number(report.snapshots), number(report.packs))?;
        if report.unused_packs > 0 {
            writeln!(
                out,
                "{} packs are not used by any snapshot (left by interrupted runs, or of forgotten snapshots)",
                report.unused_packs
            )?;
        }
        match report.damage.len() {
            0 => writeln!(out, "no damage found")?,
            n => writeln!(out, "{n} DAMAGED")?,
        }
    }
    Ok(if report.damage.is_empty() { Outcome::Done } else { Outcome::Damage })
}

pub fn stats(session: &Session) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let stats = browse::stats(&repository)?;
    let mut out = std::io::stdout().lock();
    if session.json {
        let files: Vec<Value> = stats
            .files
            .iter()
            .map(|(name, count, bytes)| json!({"name": name, "count": count, "bytes": bytes}))
            .collect();
        let report = json!({
            "snapshots": stats.snapshots, "repository_bytes": stats.bytes, "files": files,
            "full_copies_bytes": stats.full_copies, "content_bytes": stats.content,
        });
        writeln!(out, "{report}")?;
        return Ok(Outcome::Done);
    }
    writeln!(out, "{:>12}  {:>8}  what", "bytes", "files")?;
    for (name, count, bytes) in &stats.files {
        writeln!(out, "{:>12}  {:>8}  {name}", size(*bytes), number(*count))?;
    }
    let total: u64 = stats.files.iter().map(|(_, count, _)| count).sum();
    writeln!(out, "{:>12}  {:>8}  all", size(stats.bytes), number(total))?;
    writeln!(
        out,
        "{} snapshots; their objects as full copies: {}",
        stats.snapshots,
        size(stats.full_copies)
    )?;
    if stats.bytes > 0 && stats.full_copies > 0 {
        writeln!(out, "that is {:.1} times the repository", stats.full_copies as f64 / stats.bytes as f64)?;
    }
    Ok(Outcome::Done)
}
