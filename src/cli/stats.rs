//! stats: what the repository costs, and what a snapshot does.

use std::io::{BufWriter, Write};

use icecore::browse::{self, Browser, Held, Prefix, Volume};
use icecore::forget;
use icecore::repository::SnapshotInfo;
use serde_json::{Value, json};

use super::failure::Failure;
use super::read::{find_in, outcome};
use super::show::{key_json, key_text, local_time, number, size, utc};
use super::{Outcome, Session};

pub fn prefixes_json(prefixes: &[Prefix]) -> Vec<Value> {
    let one = |p: &Prefix| key_json(&p.prefix, json!({"count": p.count, "bytes": p.bytes}));
    prefixes.iter().map(one).collect()
}

pub fn print_prefixes(out: &mut dyn Write, prefixes: &[Prefix]) -> std::io::Result<()> {
    prefixes.iter().try_for_each(|prefix| {
        let (count, bytes) = (number(prefix.count), size(prefix.bytes));
        writeln!(out, "  {count:>10}  {bytes:>10}  {}", key_text(&prefix.prefix))
    })
}

fn volume_json(volume: &Volume) -> Value {
    json!({"chunks": volume.chunks, "bytes": volume.plain, "stored_bytes": volume.stored})
}

fn cost_json(info: &SnapshotInfo, alone: &Volume) -> Value {
    let stored = &info.snapshot.stored;
    json!({
        "id": info.id.to_string(), "series": info.snapshot.series, "name": info.snapshot.name,
        "time": utc(info.snapshot.time),
        "added": {
            "chunks": stored.new_chunks, "bytes": stored.new_bytes, "written_bytes": stored.written_bytes,
        },
        "alone": volume_json(alone),
    })
}

pub fn snapshots(session: &Session) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let view = repository.view()?;
    let snapshots = &view.snapshots;
    let alone = browse::alone(&repository, snapshots)?;
    let newest_first: Vec<&SnapshotInfo> = snapshots.iter().rev().collect();
    let curve = forget::curve(&repository, &view, &newest_first)?;
    let kept = curve.steps.iter().rev().map(|step| step.kept);
    session.context.progress.end();
    let mut out = BufWriter::new(std::io::stdout().lock());
    if !session.json {
        writeln!(out, "{:>10}  {:>10}  {:>10}  {:>10}  snapshot", "new", "written", "alone", "kept")?;
    }
    for ((info, alone), kept) in snapshots.iter().zip(&alone).zip(kept) {
        if session.json {
            let mut line = cost_json(info, alone);
            line["kept_bytes"] = json!(kept);
            writeln!(out, "{line}")?;
            continue;
        }
        let stored = &info.snapshot.stored;
        let (new, written, alone) = (size(stored.new_bytes), size(stored.written_bytes), size(alone.stored));
        let name = info.snapshot.name.as_deref().unwrap_or_default();
        let (id, time, series) = (info.id.short(), local_time(info.snapshot.time), &info.snapshot.series);
        let kept = size(kept);
        let line =
            format!("{new:>10}  {written:>10}  {alone:>10}  {kept:>10}  {id}  {time}  {series}  {name}");
        writeln!(out, "{}", line.trim_end())?;
    }
    out.flush()?;
    Ok(outcome(&view))
}

pub fn snapshot(session: &Session, point: &str) -> Result<Outcome, Failure> {
    let repository = session.open()?;
    let view = repository.view()?;
    let info = find_in(session, &view, point)?.into_snapshot()?;
    let all = browse::alone(&repository, &view.snapshots)?;
    let own = view.snapshots.iter().zip(all).find(|(other, _)| other.id == info.id);
    let alone = own.map(|(_, alone)| alone).unwrap_or_default();
    let held = browse::held(&Browser::over(&repository, &view)?, &info)?;
    session.context.progress.end();
    let mut out = std::io::stdout().lock();
    match session.json {
        true => writeln!(out, "{}", snapshot_json(&info, &alone, &held))?,
        false => print_snapshot(&mut out, &info, &alone, &held)?,
    }
    Ok(outcome(&view))
}

/// How many times as large `a` is as `b`.
fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 1.0 } else { a as f64 / b as f64 }
}

fn snapshot_json(info: &SnapshotInfo, alone: &Volume, held: &Held) -> Value {
    let mut report = cost_json(info, alone);
    let full = held.objects.1 + held.keys.1;
    if let Some(fields) = report.as_object_mut() {
        fields.insert("full_copy_bytes".into(), json!(full));
        fields.insert("holds".into(), volume_json(&held.all));
        fields.insert(
            "objects".into(),
            json!({
                "count": held.objects.0, "bytes": held.objects.1,
                "prefixes": prefixes_json(&held.object_prefixes),
            }),
        );
        fields.insert(
            "etcd".into(),
            json!({
                "keys": held.keys.0, "bytes": held.keys.1, "prefixes": prefixes_json(&held.key_prefixes),
            }),
        );
        fields.insert("ratio".into(), json!(ratio(full, held.all.stored)));
        fields.insert("compression".into(), json!(ratio(held.all.plain, held.all.stored)));
    }
    report
}

fn print_snapshot(
    out: &mut dyn Write,
    info: &SnapshotInfo,
    alone: &Volume,
    held: &Held,
) -> std::io::Result<()> {
    let (stored, all) = (&info.snapshot.stored, &held.all);
    let full = held.objects.1 + held.keys.1;
    let name = info.snapshot.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    writeln!(out, "snapshot {}{name}, {}", info.id, local_time(info.snapshot.time))?;
    writeln!(
        out,
        "added when made: {} of new content in {} chunks, {} written",
        size(stored.new_bytes),
        number(stored.new_chunks),
        size(stored.written_bytes)
    )?;
    writeln!(
        out,
        "it alone holds:  {} in {} chunks ({} before compression)",
        size(alone.stored),
        number(alone.chunks),
        size(alone.plain)
    )?;
    writeln!(
        out,
        "it refers to:    {} in {} chunks ({} before compression, {:.1} times as much)",
        size(all.stored),
        number(all.chunks),
        size(all.plain),
        ratio(all.plain, all.stored)
    )?;
    let times = ratio(full, all.stored);
    writeln!(out, "a full copy:     {}, {times:.1} times what it refers to", size(full))?;
    if info.snapshot.objects.is_some() {
        writeln!(out, "objects: {} ({}), most below", number(held.objects.0), size(held.objects.1))?;
        print_prefixes(out, &held.object_prefixes)?;
    }
    if info.snapshot.etcd.is_some() {
        writeln!(out, "etcd: {} keys ({}), most below", number(held.keys.0), size(held.keys.1))?;
        print_prefixes(out, &held.key_prefixes)?;
    }
    Ok(())
}

pub fn repository(session: &Session) -> Result<Outcome, Failure> {
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
        return Ok(outcome(&repository.view()?));
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
    Ok(outcome(&repository.view()?))
}
