//! Commands that write: init, backup, restore.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use icecore::backup::{self, EtcdOptions};
use icecore::format::CapturePath;
use icecore::guard;
use icecore::repository::{Repository, When};
use icecore::restore::{self, Change, FileOptions, FileReport, Map};
use icecore::selection::Selection;
use icecore::store::Tuning;
use serde_json::{Value, json};

use super::args::{Backup, Restore};
use super::failure::Failure;
use super::read::find;
use super::show::{duration, hash_json, hex, key_json, key_text, local_time, number, say, size, utc};
use super::{Outcome, Session};

pub fn init(session: &Session) -> Result<Outcome, Failure> {
    let repository = session.init()?;
    let mut out = std::io::stdout().lock();
    let medium = repository.storage().medium();
    let single = repository.config().single_writer;
    if session.json {
        let report =
            json!({"id": repository.id().to_string(), "repository": &*medium, "single_writer": single});
        writeln!(out, "{report}")?;
    } else {
        writeln!(out, "made repository {} in {medium}", repository.id())?;
        writeln!(out, "Keep the passphrase: without it nothing can be restored.")?;
    }
    if single {
        say(
            "warning: this store cannot arbitrate between writers (it accepted several creations of one name at once); \
             only one backup at a time will be allowed",
        );
        return Ok(Outcome::Warnings);
    }
    Ok(Outcome::Done)
}

pub fn backup(session: &Session, arguments: &Backup) -> Result<Outcome, Failure> {
    let selection = session.selection(&arguments.include, &arguments.exclude)?;
    let capture = session.etcd_capture(arguments.etcd_capture)?;
    let etcd = session.etcd_source(&arguments.sources)?;
    let config = arguments.milvus_config.as_deref();
    let mut objects = session.bucket_source(&arguments.sources, selection.clone(), config)?;
    match &mut objects {
        Some(bucket) => bucket.versions |= arguments.versions,
        None if arguments.versions => {
            return Err(Failure::usage("--versions is of a bucket, and none was named"));
        }
        None => {}
    }
    let options = backup::Options {
        series: session.settings.series.clone(),
        name: arguments.name.clone(),
        tags: arguments.tag.clone(),
        etcd: etcd.map(|etcd| EtcdOptions { capture, ..etcd }),
        objects,
        directory: session.directory_source(&arguments.sources, selection)?,
        new_line: arguments.new_line,
        max_size: session.max_size(arguments.max_size)?,
        prove: arguments.prove,
        tuning: Tuning::within(session.context.memory),
    };
    if options.etcd.is_none() && options.prove {
        return Err(Failure::usage("--prove is for etcd, and none was named"));
    }
    let objects = options.objects.is_some() || options.directory.is_some();
    if options.etcd.is_none() && !objects {
        return Err(Failure::usage(
            "nothing to back up: name a source with --etcd, --s3 and --bucket, or --dir",
        ));
    }
    if !objects && (!arguments.include.is_empty() || !arguments.exclude.is_empty()) {
        return Err(Failure::usage(
            "--include and --exclude select objects and files, and no bucket or directory was named",
        ));
    }
    let milvus = session.milvus(arguments)?;
    let repository = session.open()?;
    let guarded = guard::backup(&repository, &options, &milvus)?;
    let report = &guarded.backup;
    session.context.progress.end();
    let mut out = std::io::stdout().lock();
    let printed = match session.json {
        true => writeln!(out, "{}", backup_json(&repository, &guarded)),
        false => print_backup(&mut out, &guarded),
    };
    Failure::of_report(&format!("snapshot {} is there", report.id), printed)?;
    note(session, &report.notes);
    warn(session, &report.warnings);
    if !report.damage.is_empty() {
        report.damage.iter().filter(|_| !session.json).for_each(|damage| say(&format!("damage: {damage}")));
        return Ok(Outcome::Damage);
    }
    match (report.warnings.is_empty(), arguments.strict) {
        (true, _) => Ok(Outcome::Done),
        (false, false) => Ok(Outcome::Warnings),
        (false, true) => {
            let why =
                format!("{} warnings, and --strict was given; the snapshot is there", report.warnings.len());
            Err(Failure::new(icecore::fault::Kind::Failed, why))
        }
    }
}

pub fn warn(session: &Session, warnings: &[String]) {
    if !session.json {
        warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    }
}

fn note(session: &Session, notes: &[String]) {
    if !session.json && !session.quiet {
        notes.iter().for_each(|note| say(&format!("note: {note}")));
    }
}

fn path_name(path: CapturePath) -> &'static str {
    match path {
        CapturePath::Snapshot => "snapshot",
        CapturePath::Watch => "watch",
        CapturePath::Range => "range",
        CapturePath::Journal => "journal",
    }
}

fn path_text(path: CapturePath) -> &'static str {
    match path {
        CapturePath::Snapshot => "whole file",
        CapturePath::Watch => "by watch",
        CapturePath::Range => "by ranges",
        CapturePath::Journal => "from the journal",
    }
}

fn backup_json(repository: &Repository, guarded: &guard::Report) -> Value {
    let guard::Report { backup: report, milvus, flushed, attempts } = guarded;
    let flushed = flushed.map(|f| json!({"databases": f.databases, "collections": f.collections}));
    let etcd = report.etcd.as_ref().map(|etcd| {
        let gaps: Vec<Value> = report.gaps.iter().map(|gap| json!({"after": gap.after, "until": gap.until})).collect();
        json!({
            "cluster_id": hex(etcd.cluster_id), "revision": etcd.revision, "compact_revision": etcd.compact_revision,
            "keys": etcd.keys, "events": etcd.events, "path": path_name(etcd.path), "hash_kv": hash_json(etcd.hash_kv),
            "gaps": gaps,
        })
    });
    let versions = |counts: &backup::Counts| {
        json!({
            "count": counts.count, "bytes": counts.bytes, "added": counts.added, "changed": counts.changed,
            "removed": counts.removed, "unchanged": counts.unchanged, "read_count": counts.read_count,
            "read_bytes": counts.read_bytes,
        })
    };
    let objects = report.objects.as_ref().map(|(capture, counts)| {
        json!({
            "count": counts.count, "bytes": counts.bytes, "added": counts.added, "changed": counts.changed,
            "removed": counts.removed, "unchanged": counts.unchanged, "resumed": counts.resumed, "read_count": counts.read_count,
            "read_bytes": counts.read_bytes, "gone": capture.gone,
            "versions": report.versions.as_ref().map(versions),
        })
    });
    let (lists, gets, heads, settings) = report.source_requests;
    let requests = repository.requests();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    json!({
        "id": report.id.to_string(), "series": report.series, "name": report.name, "time": utc(report.time),
        "parent": report.parent.map(|parent| parent.to_string()), "etcd": etcd, "objects": objects,
        "stored": {
            "new_chunks": report.stored.new_chunks, "new_bytes": report.stored.new_bytes,
            "written_bytes": report.stored.written_bytes,
        },
        "requests": {
            "source_list": lists, "source_get": gets, "source_head": heads,
            "source_settings": settings,
            "repository_put": count(&requests.puts), "repository_get": count(&requests.gets),
            "repository_list": count(&requests.lists),
        },
        "milvus": milvus.iter().map(super::milvus::found_json).collect::<Vec<_>>(), "flushed": flushed, "attempts": attempts,
        "seconds": report.seconds, "warnings": report.warnings, "damage": report.damage, "notes": report.notes,
    })
}

fn print_backup(out: &mut dyn Write, guarded: &guard::Report) -> std::io::Result<()> {
    let guard::Report { backup: report, milvus, flushed, .. } = guarded;
    if let Some(flushed) = flushed {
        let (collections, databases) = (number(flushed.collections), number(flushed.databases));
        writeln!(out, "flushed: {collections} collections of {databases} databases")?;
    }
    if let Some(etcd) = &report.etcd {
        writeln!(
            out,
            "etcd:    revision {}, {} keys, {} new events, {}",
            etcd.revision,
            number(etcd.keys),
            number(etcd.events),
            path_text(etcd.path)
        )?;
        if let Some(hash) = etcd.hash_kv {
            let (hash, member) = (hash.hash, hex(etcd.member_id));
            writeln!(out, "         proved: member {member} has the same HashKV ({hash})")?;
        }
    }
    let captured = report.objects.as_ref().map(|(_, counts)| ("objects: ", counts));
    for (what, counts) in captured.into_iter().chain(report.versions.as_ref().map(|c| ("versions: ", c))) {
        writeln!(
            out,
            "{what}{} ({}): {} added, {} changed, {} removed, {} unchanged; read {}",
            number(counts.count),
            size(counts.bytes),
            number(counts.added),
            number(counts.changed),
            number(counts.removed),
            number(counts.unchanged),
            size(counts.read_bytes)
        )?;
        if counts.resumed > 0 {
            writeln!(out, "         {} were taken over from an interrupted backup", number(counts.resumed))?;
        }
    }
    for found in milvus {
        writeln!(out, "milvus:  {}", super::milvus::found_text(found))?;
    }
    let stored = &report.stored;
    writeln!(
        out,
        "stored:  {} of new content, {} written to the repository",
        size(stored.new_bytes),
        size(stored.written_bytes)
    )?;
    let name = report.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    writeln!(out, "snapshot {}{name} in {}", report.id, duration(report.seconds))
}

/// `etcd:FROM=TO` and `objects:FROM=TO`.
fn maps(texts: &[String]) -> Result<(Vec<Map>, Vec<Map>), Failure> {
    let (mut etcd, mut objects) = (Vec::new(), Vec::new());
    for text in texts {
        match text.split_once(':') {
            Some(("etcd", map)) => etcd.push(map.parse()?),
            Some(("objects", map)) => objects.push(map.parse()?),
            _ => {
                return Err(Failure::usage(format!(
                    "{text:?} is no map: write etcd:FROM=TO or objects:FROM=TO"
                )));
            }
        }
    }
    Ok((etcd, objects))
}

/// Globs for keys and for objects. One that does not say which is for keys only where no objects are
/// restored.
fn globs(texts: &[String], only_etcd: bool) -> (Vec<String>, Vec<String>) {
    let (mut etcd, mut objects) = (Vec::new(), Vec::new());
    for text in texts {
        match text.split_once(':') {
            Some(("etcd", glob)) => etcd.push(glob.to_owned()),
            Some(("objects", glob)) => objects.push(glob.to_owned()),
            _ if only_etcd => etcd.push(text.clone()),
            _ => objects.push(text.clone()),
        }
    }
    (etcd, objects)
}

fn as_bytes(text: &OsString) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn file_target(arguments: &Restore) -> Result<Option<FileOptions>, Failure> {
    let Some(path) = arguments.to_etcd_file.clone() else { return Ok(None) };
    let history = arguments.history.as_ref().map(|text| text.parse()).transpose()?.unwrap_or_default();
    Ok(Some(FileOptions { path, history, auth: !arguments.no_auth }))
}

/// What the arguments ask of a restore.
pub fn restore_options(session: &Session, arguments: &Restore) -> Result<restore::Options, Failure> {
    let (etcd_maps, objects_maps) = maps(&arguments.map)?;
    let (etcd, bucket) = (session.etcd_target(arguments)?, session.bucket_target(arguments)?);
    let to_etcd = etcd.is_some() || arguments.to_etcd_file.is_some();
    let only_etcd = to_etcd && bucket.is_none() && arguments.to_dir.is_none();
    let (etcd_include, objects_include) = globs(&arguments.include, only_etcd);
    let (etcd_exclude, objects_exclude) = globs(&arguments.exclude, only_etcd);
    Ok(restore::Options {
        etcd,
        file: file_target(arguments)?,
        bucket,
        to_prefix: arguments.to_prefix.clone().unwrap_or_default(),
        directory: arguments.to_dir.clone(),
        etcd_prefix: arguments.etcd_prefix.as_ref().map(as_bytes).unwrap_or_default(),
        etcd_keys: arguments.etcd_key.iter().map(as_bytes).collect(),
        etcd_selection: Selection::new(etcd_include, etcd_exclude)?,
        objects_prefix: arguments.objects_prefix.clone().unwrap_or_default(),
        object_keys: arguments.object.iter().map(as_bytes).collect(),
        objects_selection: Selection::new(objects_include, objects_exclude)?,
        etcd_maps,
        objects_maps,
        versions: arguments.versions,
        object_locks: arguments.object_locks,
        bucket_settings: arguments.bucket_settings,
        delete_extra: arguments.delete_extra,
        overwrite: arguments.overwrite,
        keep_sessions: arguments.keep_sessions,
        new_queue: arguments.milvus_new_queue,
        dry_run: arguments.dry_run,
    })
}

pub fn restore(session: &Session, arguments: &Restore) -> Result<Outcome, Failure> {
    let options = restore_options(session, arguments)?;
    let repository = session.open()?;
    let moment = find(session, &repository, &arguments.point)?;
    let listed = AtomicU64::new(0);
    let show = |change: Change| {
        if options.dry_run {
            // The lines themselves show how far it is. Whoever cannot have them is told with the report.
            session.context.progress.end();
            let _ = list(&mut std::io::stdout().lock(), &change, session.json.then_some(&listed));
        }
    };
    let report = restore::run(&repository, &moment, &options, &show)?;
    session.context.progress.end();
    let mut out = std::io::stdout().lock();
    let printed = match session.json {
        true if options.dry_run => close_list(&mut out, listed.into_inner(), &restore_json(&report, true)),
        true => writeln!(out, "{}", restore_json(&report, false)),
        false => print_restore(&mut out, &report, moment.is_whole(), options.dry_run),
    };
    let done = if options.dry_run { "nothing was changed" } else { "everything was restored" };
    Failure::of_report(done, printed)?;
    note(session, &report.notes);
    warn(session, &report.warnings);
    Ok(if report.warnings.is_empty() { Outcome::Done } else { Outcome::Warnings })
}

/// Prints a change as it is found: there may be more of them than memory has room for. As JSON they are the
/// field `changes` of the report, which is begun with the first.
fn list(out: &mut dyn Write, change: &Change, json: Option<&AtomicU64>) -> std::io::Result<()> {
    let Change { side, action, key } = change;
    let Some(listed) = json else { return writeln!(out, "{action} {side} {}", key_text(key)) };
    let before = if listed.fetch_add(1, Ordering::Relaxed) == 0 { r#"{"changes":["# } else { "," };
    write!(out, "{before}{}", key_json(key, json!({"in": side, "change": action})))
}

/// Prints the rest of the report.
fn close_list(out: &mut dyn Write, listed: u64, report: &Value) -> std::io::Result<()> {
    let report = report.to_string();
    let before = if listed == 0 { r#"{"changes":["# } else { "" };
    writeln!(out, "{before}],{}", report.strip_prefix('{').unwrap_or(&report))
}

fn restore_json(report: &restore::Report, dry_run: bool) -> Value {
    let side = |counts: &restore::Counts| {
        json!({
            "written": counts.written, "overwritten": counts.overwritten, "identical": counts.identical,
            "deleted": counts.deleted, "extra": counts.extra, "bytes": counts.bytes,
            "refused": counts.refused,
        })
    };
    let when = |when: When| json!({"from": utc(when.from), "to": utc(when.to), "likely": utc(when.likely)});
    json!({
        "id": report.id.to_string(), "revision": report.revision, "nearest": report.nearest,
        "by_version": report.by_version, "when": report.when.map(when),
        "etcd": report.etcd.as_ref().map(side), "etcd_file": report.file.as_ref().map(file_json),
        "objects": report.objects.as_ref().map(side), "dry_run": dry_run, "seconds": report.seconds,
        "warnings": report.warnings, "notes": report.notes, "settings": report.settings,
    })
}

fn file_json(file: &FileReport) -> Value {
    json!({
        "path": file.path.to_string_lossy(), "revision": file.revision, "compact_revision": file.compact_revision,
        "keys": file.keys, "records": file.records, "bytes": file.bytes, "hash_kv": hash_json(file.hash_kv),
    })
}

fn print_file(out: &mut dyn Write, file: &FileReport) -> std::io::Result<()> {
    let (name, keys) = (file.path.display(), number(file.keys));
    let since = match file.compact_revision {
        0 => "from the first revision on".into(),
        since => format!("compacted at revision {since}"),
    };
    let Some(hash) = file.hash_kv else {
        return writeln!(out, "etcd:    {keys} keys would be written to {name}, {since}");
    };
    let (records, bytes) = (number(file.records), size(file.bytes));
    writeln!(out, "etcd:    {keys} keys written to {name} ({bytes}): {records} records, {since}")?;
    let (hash, revision) = (hash.hash, hash.revision);
    writeln!(out, "         an etcd made from it has HashKV {hash} at revision {revision}")
}

fn print_restore(
    out: &mut dyn Write,
    report: &restore::Report,
    whole: bool,
    dry_run: bool,
) -> std::io::Result<()> {
    let would = if dry_run { "would be " } else { "" };
    let mut side = |name: &str, counts: &restore::Counts| {
        writeln!(
            out,
            "{name} {} {would}written ({}), {} {would}overwritten, {} {would}deleted, {} identical already, {} extra left",
            number(counts.written),
            size(counts.bytes),
            number(counts.overwritten),
            number(counts.deleted),
            number(counts.identical),
            number(counts.extra)
        )
    };
    if let Some(counts) = &report.objects {
        side("objects:", counts)?;
    }
    if let Some(counts) = &report.etcd {
        side("etcd:   ", counts)?;
    }
    if let Some(file) = &report.file {
        print_file(out, file)?;
    }
    let done = if dry_run { "nothing was changed; this would restore" } else { "restored" };
    if report.nearest > 0 {
        let nearest = number(report.nearest);
        writeln!(
            out,
            "{nearest} objects are the nearest known: no snapshot was taken at the revision itself"
        )?;
    }
    if let Some(when) = report.when.filter(|_| report.by_version > 0) {
        let (from, to, likely) = (local_time(when.from), local_time(when.to), local_time(when.likely));
        writeln!(
            out,
            "{} objects changed while the revision may have been current ({from} to {to}): their versions of \
             {likely} were taken",
            number(report.by_version)
        )?;
    }
    let revision = report.revision.filter(|_| !whole);
    let revision = revision.map(|revision| format!("revision {revision} of ")).unwrap_or_default();
    writeln!(out, "{done} {revision}snapshot {} in {}", report.id, duration(report.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_runs_changes_and_its_report_are_one_object() {
        let report = json!({"dry_run": true, "warnings": []});
        let change = |action, key: &[u8]| Change { side: "etcd", action, key: key.into() };
        for changes in
            [vec![], vec![change("put", b"a")], vec![change("put", b"a"), change("delete", b"\xff")]]
        {
            let (mut out, listed) = (Vec::new(), AtomicU64::new(0));
            changes.iter().for_each(|change| list(&mut out, change, Some(&listed)).unwrap());
            close_list(&mut out, listed.into_inner(), &report).unwrap();
            let printed: Value = serde_json::from_slice(&out).unwrap();
            let expected = [
                json!({"in": "etcd", "change": "put", "key": "a"}),
                json!({"in": "etcd", "change": "delete", "key_base64": "/w=="}),
            ];
            assert_eq!(printed["changes"], json!(expected[..changes.len()]));
            assert_eq!(printed["dry_run"], true);
        }
    }

    #[test]
    fn a_glob_that_does_not_say_which_side_is_for_objects_unless_only_etcd_is_restored() {
        let texts = ["etcd:a/*", "objects:etcd:b", "*.log"].map(str::to_owned);
        let list = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect::<Vec<_>>();
        assert_eq!(globs(&texts, false), (list(&["a/*"]), list(&["etcd:b", "*.log"])));
        assert_eq!(globs(&texts, true), (list(&["a/*", "*.log"]), list(&["etcd:b"])));
    }
}
