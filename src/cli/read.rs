//! Commands that look into snapshots: snapshots, ls, cat, diff.

use std::io::{BufWriter, Write};

use icecore::browse::{self, Browser, DiffLine, DiffStat, Summary};
use icecore::format::{Attributes, FileAttributes, FileKind, Item, ItemState, KeyState};
use icecore::repository::{Certainty, Known, Moment, Point, Repository, SnapshotInfo, View};
use icecore::selection::Selection;
use serde_json::{Value, json};

use super::args::{Globs, Side};
use super::failure::Failure;
use super::show::{hex, key_json, key_text, local_time, number, say, size, utc};
use super::stats::{prefixes_json, print_prefixes};
use super::{Outcome, Session};

fn side_of(side: Side) -> browse::Side {
    match side {
        Side::Etcd => browse::Side::Etcd,
        Side::Objects => browse::Side::Objects,
    }
}

/// What the point means.
pub fn find(session: &Session, repository: &Repository, point: &str) -> Result<Moment, Failure> {
    find_in(session, &repository.view_of_snapshots()?, point)
}

/// What the point means in a view.
pub fn find_in(session: &Session, view: &View, point: &str) -> Result<Moment, Failure> {
    let point: Point = point.parse()?;
    let moment = view.find(&point, &session.settings.series)?;
    if let Some(known) = moment.known.filter(|known| !known.is_exact() && !session.quiet) {
        say(&known_line(&known));
    }
    Ok(moment)
}

/// How well the revision of a time is known.
fn known_line(known: &Known) -> String {
    let (last, time) = (known.last, local_time(known.time));
    let seen = format!("etcd is known to have been at revision {} at {}", last.revision, local_time(last.to));
    match known.next {
        Some(next) if next.revision < last.revision => {
            format!("{seen}, and at revision {} later: its clock was set back", next.revision)
        }
        Some(next) => format!(
            "{seen} and at {} at {}: at {time} it was between them; revision {} is taken",
            next.revision,
            local_time(next.from),
            last.revision
        ),
        None => format!("{seen}, the last time before {time}; later revisions were not seen"),
    }
}

pub fn snapshots(session: &Session, tag: Option<&str>) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let view = repository.view_of_snapshots()?;
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
    Ok(outcome(&view))
}

/// How a command ends that shows all snapshots: those that cannot be read are told.
pub fn outcome(view: &View) -> Outcome {
    view.damaged.iter().for_each(|error| say(&format!("damage: {error}")));
    if view.damaged.is_empty() { Outcome::Done } else { Outcome::Damage }
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

pub fn ls(
    session: &Session,
    point: &str,
    side: Side,
    prefix: &[u8],
    long: bool,
    globs: Globs,
) -> Result<Outcome, Failure> {
    let selection = Selection::new(globs.include, globs.exclude)?;
    let repository = session.open()?;
    let view = repository.view()?;
    let moment = find_in(session, &view, point)?;
    let browser = Browser::over(&repository, &view)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut nearest = 0;
    match side {
        Side::Etcd => browser.keys(&moment, prefix, |key, state| match selection.takes(key) {
            true => Ok(writeln!(out, "{}", key_line(session, key, state, long))?),
            false => Ok(()),
        })?,
        Side::Objects => browser.objects(&moment, prefix, |key, item, certainty| {
            if !selection.takes(key) {
                return Ok(());
            }
            nearest += u64::from(certainty != Certainty::Exact);
            Ok(writeln!(out, "{}", object_line(session, key, item, certainty, long))?)
        })?,
    }
    out.flush()?;
    if nearest > 0 && !session.json && !session.quiet {
        say(&format!("{} objects are the nearest known: ls -l says which", number(nearest)));
    }
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
pub fn kind_of(item: &Item) -> &'static str {
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

fn object_line(session: &Session, key: &[u8], item: &Item, certainty: Certainty, long: bool) -> String {
    let kind = kind_of(item);
    let known_from = match certainty {
        Certainty::Exact => None,
        Certainty::Version => Some("version"),
        Certainty::Before => Some("before"),
        Certainty::After => Some("after"),
    };
    if session.json {
        let mut fields =
            json!({"kind": kind, "size": item.size, "etag": null, "modified": utc(item.modified)});
        match &item.attributes {
            Attributes::Object(attributes) => fields["etag"] = json!(attributes.etag),
            Attributes::File(file) => {
                fields["mode"] = json!(format!("{:04o}", file.mode));
                (fields["uid"], fields["gid"]) = (json!(file.uid), json!(file.gid));
                (fields["user"], fields["group"]) = (json!(file.user), json!(file.group));
                if let FileKind::Symlink(target) | FileKind::HardLink(target) = &file.kind {
                    fields["target"] = json!(String::from_utf8_lossy(target));
                }
            }
        }
        if let Some(known_from) = known_from {
            fields["nearest"] = json!(known_from);
        }
        return key_json(key, fields).to_string();
    }
    if !long {
        return key_text(key);
    }
    let rights = match &item.attributes {
        Attributes::Object(_) => String::new(),
        Attributes::File(file) => rights(file),
    };
    let note = match &item.attributes {
        Attributes::File(file) if item.state == ItemState::Present => match &file.kind {
            FileKind::Symlink(target) => format!(" -> {}", key_text(target)),
            FileKind::HardLink(first) => format!(" (hard link to {})", key_text(first)),
            _ => String::new(),
        },
        _ if kind == "object" => String::new(),
        _ => format!(" ({kind})"),
    };
    let nearest = match known_from {
        Some("version") => " (the version of the likely time)".into(),
        Some(from) => format!(" (as of the snapshot {from})"),
        None => String::new(),
    };
    format!("{rights}{:>10}  {}  {}{note}", size(item.size), local_time(item.modified), key_text(key))
        + &nearest
}

/// Kind, mode and owner, as `ls` shows them.
fn rights(file: &FileAttributes) -> String {
    let kind = match file.kind {
        FileKind::Regular | FileKind::HardLink(_) => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink(_) => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice(_) => 'c',
        FileKind::BlockDevice(_) => 'b',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = file.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (file.mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    let name = |name: &Option<String>, id: u32| name.clone().unwrap_or_else(|| id.to_string());
    format!("{text}  {:<8} {:<8} ", name(&file.user, file.uid), name(&file.group, file.gid))
}

pub fn cat(
    session: &Session,
    point: &str,
    side: Side,
    key: &[u8],
    version: Option<&str>,
) -> Result<Outcome, Failure> {
    if version.is_some() && side == Side::Etcd {
        return Err(Failure::usage("--version is of an object; rev:N is etcd at a revision"));
    }
    let repository = session.open()?;
    let view = repository.view()?;
    let moment = find_in(session, &view, point)?;
    let browser = Browser::over(&repository, &view)?;
    let mut out = std::io::stdout().lock();
    browser.cat(&moment, side_of(side), key, version, &mut out)?;
    out.flush()?;
    Ok(Outcome::Done)
}

pub fn diff(
    session: &Session,
    (before, after): (&str, &str),
    side: Option<Side>,
    prefix: &[u8],
    stat: bool,
) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let view = repository.view()?;
    let (before, after) = (find_in(session, &view, before)?, find_in(session, &view, after)?);
    let sides = match side {
        Some(side) => vec![side_of(side)],
        None => {
            let both = |has: fn(&Moment) -> bool| has(&before) && has(&after);
            let etcd = both(|moment| moment.info.snapshot.etcd.is_some()).then_some(browse::Side::Etcd);
            let objects =
                both(|moment| moment.info.snapshot.objects.is_some()).then_some(browse::Side::Objects);
            etcd.into_iter().chain(objects).collect()
        }
    };
    let browser = Browser::over(&repository, &view)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for side in sides {
        let mut summary = DiffStat::new(side);
        browse::diff(&browser, (&before, &after), side, prefix, &mut |line| {
            match stat {
                true => summary.add(&line),
                false => writeln!(out, "{}", diff_line(session, &line))?,
            }
            Ok(())
        })?;
        if stat {
            print_stat(session, &mut out, summary)?;
        }
    }
    out.flush()?;
    Ok(Outcome::Done)
}

fn side_name(side: browse::Side) -> &'static str {
    match side {
        browse::Side::Etcd => "etcd",
        browse::Side::Objects => "objects",
    }
}

fn print_stat(session: &Session, out: &mut dyn Write, stat: DiffStat) -> std::io::Result<()> {
    let (side, added, removed, changed) = (side_name(stat.side), stat.added, stat.removed, stat.changed);
    let prefixes = stat.into_prefixes();
    if session.json {
        let report = json!({
            "in": side,
            "added": {"count": added.0, "bytes": added.1}, "removed": {"count": removed.0, "bytes": removed.1},
            "changed": {"count": changed.0, "before_bytes": changed.1, "after_bytes": changed.2},
            "prefixes": prefixes_json(&prefixes),
        });
        return writeln!(out, "{report}");
    }
    writeln!(
        out,
        "{:<8} {} added ({}), {} removed ({}), {} changed ({} → {})",
        format!("{side}:"),
        number(added.0),
        size(added.1),
        number(removed.0),
        size(removed.1),
        number(changed.0),
        size(changed.1),
        size(changed.2)
    )?;
    print_prefixes(out, &prefixes)
}

fn diff_line(session: &Session, line: &DiffLine) -> String {
    let (change, mark) = match (&line.before, &line.after) {
        (None, _) => ("added", '+'),
        (_, None) => ("removed", '-'),
        _ => ("changed", '*'),
    };
    let side = side_name(line.side);
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
