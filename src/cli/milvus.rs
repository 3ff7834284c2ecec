//! icecore milvus: what a Milvus held, and whether it is all there.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use icecore::browse::{Browser, Changed, Listed, Milvus, Totals, milvus_diff};
use icecore::fault::Kind;
use icecore::guard;
use icecore::milvus::{Checked, Config, Lack, Lacking, Missing};
use icecore::repository::{self, Moment, Repository};
use serde_json::{Value, json};

use super::args;
use super::catalog::{collection_json, full_name, print_head, print_long, print_table, totals_json};
use super::failure::Failure;
use super::read::{find, outcome};
use super::show::{duration, local_time, number, size, utc};
use super::write::{restore_options, warn};
use super::{Outcome, Session};

/// Missing objects that are named for each snapshot; `--json` names all that are kept.
const NAMED: usize = 20;

pub fn run(session: &Session, config: Option<&Path>, command: &args::Milvus) -> Result<Outcome, Failure> {
    let root = session.milvus_config(config)?.and_then(|config| config.root);
    let repository = session.open()?;
    let look = Look { session, repository: &repository, browser: Browser::open(&repository)?, root };
    match command {
        args::Milvus::Ls { point, long } => look.ls(point, *long),
        args::Milvus::Check { points, .. } => look.check(points),
        args::Milvus::Diff { before, after } => look.diff(before, after),
        args::Milvus::Prove(arguments) => look.prove(arguments),
        args::Milvus::History { collection } => look.history(collection),
    }
}

fn no_milvus(place: &str) -> Failure {
    let why = "no key of etcd is <root>/meta/root-coord/credential/roles/…";
    Failure::new(Kind::PointNotFound, format!("{place} has no Milvus: {why}"))
}

/// Reads a `milvus.yaml`.
pub fn read_config(path: &Path) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
    let config = Config::parse(&text);
    match config.root {
        Some(_) => Ok(config),
        None => Err(Failure::usage(format!("{} has no rootPath below minio", path.display()))),
    }
}

/// What every command looks through.
struct Look<'a> {
    session: &'a Session,
    repository: &'a Repository,
    browser: Browser<'a>,
    root: Option<String>,
}

impl Look<'_> {
    fn milvus(&self, moment: &Moment) -> Result<Vec<Milvus>, Failure> {
        let found = self.any_milvus(moment)?;
        if found.is_empty() { Err(no_milvus(&format!("snapshot {}", moment.info.id))) } else { Ok(found) }
    }

    /// The same where there may be none: snapshots of a series may be older than its Milvus.
    fn any_milvus(&self, moment: &Moment) -> Result<Vec<Milvus>, Failure> {
        Ok(self.browser.milvus(moment, self.root.as_deref())?)
    }

    fn find(&self, point: &str) -> Result<Moment, Failure> {
        find(self.session, self.repository, point)
    }

    /// Every snapshot of the series with etcd, oldest first. Those that cannot be read are told.
    fn series(&self) -> Result<(Vec<Moment>, Outcome), Failure> {
        let view = self.repository.view()?;
        let lines = repository::lines(&view.snapshots, &self.session.settings.series);
        let snapshots = lines.iter().flat_map(|line| &line.snapshots);
        Ok((snapshots.map(|(info, _)| Moment::from((*info).clone())).collect(), outcome(&view)))
    }

    fn ls(&self, point: &str, long: bool) -> Result<Outcome, Failure> {
        let found = self.milvus(&self.find(point)?)?;
        let mut out = BufWriter::new(std::io::stdout().lock());
        for milvus in &found {
            let collections = milvus.collections();
            if self.session.json {
                for listed in &collections {
                    writeln!(out, "{}", collection_json(milvus, listed, long))?;
                }
                continue;
            }
            print_head(&mut out, milvus)?;
            print_table(&mut out, milvus, &collections)?;
            if long {
                print_long(&mut out, milvus, &collections)?;
            }
        }
        out.flush()?;
        Ok(Outcome::Done)
    }

    fn check(&self, points: &[String]) -> Result<Outcome, Failure> {
        let all = points.is_empty();
        let (moments, ended) = match all {
            true => self.series()?,
            false => (points.iter().map(|point| self.find(point)).collect::<Result<_, _>>()?, Outcome::Done),
        };
        let mut out = std::io::stdout().lock();
        let (mut complete, mut any) = (true, false);
        for moment in &moments {
            for milvus in if all { self.any_milvus(moment)? } else { self.milvus(moment)? } {
                any = true;
                let Some(checked) = &milvus.checked else {
                    return Err(Failure::usage(format!(
                        "snapshot {} has no objects to check against",
                        moment.info.id
                    )));
                };
                complete &= checked.is_complete();
                match self.session.json {
                    true => writeln!(out, "{}", checked_json(moment, &milvus, checked))?,
                    false => print_checked(&mut out, moment, &milvus, checked)?,
                }
            }
        }
        if !any && ended == Outcome::Done {
            return Err(no_milvus(&format!("series {:?}", self.session.settings.series)));
        }
        Ok(if complete || ended == Outcome::Damage { ended } else { Outcome::Warnings })
    }

    fn diff(&self, before: &str, after: &str) -> Result<Outcome, Failure> {
        let (before, after) = (self.milvus(&self.find(before)?)?, self.milvus(&self.find(after)?)?);
        let mut out = BufWriter::new(std::io::stdout().lock());
        for change in milvus_diff(&before, &after) {
            match self.session.json {
                true => writeln!(out, "{}", change_json(&change))?,
                false => writeln!(out, "{}", change_line(&change))?,
            }
        }
        out.flush()?;
        Ok(Outcome::Done)
    }

    fn prove(&self, arguments: &args::Restore) -> Result<Outcome, Failure> {
        let options = restore_options(self.session, arguments)?;
        if !is_whole(arguments) {
            let why = "a proof restores everything to servers, as it was: no choice, no --map, --milvus-new-queue or --dry-run";
            return Err(Failure::usage(why));
        }
        let milvus = guard::Options { bucket_root: self.root.clone(), ..guard::Options::default() };
        let moment = self.find(&arguments.point)?;
        self.milvus(&moment)?;
        let proof = guard::prove(self.repository, &moment, &options, &milvus)?;
        self.session.context.progress.end();
        let mut out = std::io::stdout().lock();
        match self.session.json {
            true => writeln!(out, "{}", proof_json(&proof))?,
            false => print_proof(&mut out, &proof)?,
        }
        warn(self.session, &proof.restored.warnings);
        Ok(match (proof.holds(), proof.difference_count, proof.restored.warnings.is_empty()) {
            (true, _, true) => Outcome::Done,
            (_, 0, _) => Outcome::Warnings,
            _ => Outcome::Damage,
        })
    }

    /// A collection is one by its id, also where it was renamed; several of one name came one after another.
    fn history(&self, wanted: &str) -> Result<Outcome, Failure> {
        let mut last: BTreeMap<(String, i64), Listed> = BTreeMap::new();
        let mut out = BufWriter::new(std::io::stdout().lock());
        let mut any = false;
        let (moments, ended) = self.series()?;
        for moment in moments {
            let mut gone = std::mem::take(&mut last);
            for milvus in self.any_milvus(&moment)? {
                for listed in milvus.collections().into_iter().filter(Listed::is_there) {
                    let key = (milvus.instance.root.clone(), listed.id);
                    let before = gone.remove(&key);
                    if before.is_none() && !is_called(&listed, wanted) {
                        continue;
                    }
                    any = true;
                    let change = match &before {
                        None => "first seen",
                        Some(before) if is_same(before, &listed) => "",
                        Some(_) => "changed",
                    };
                    if !change.is_empty() || self.session.json {
                        self.history_line(&mut out, &moment, &listed, change)?;
                    }
                    last.insert(key, listed);
                }
            }
            for listed in gone.into_values() {
                self.history_line(&mut out, &moment, &listed, "gone")?;
            }
        }
        out.flush()?;
        if any {
            return Ok(ended);
        }
        let why =
            format!("no snapshot of series {:?} has a collection {wanted:?}", self.session.settings.series);
        Err(Failure::new(Kind::PointNotFound, why))
    }

    fn history_line(
        &self,
        out: &mut dyn Write,
        moment: &Moment,
        listed: &Listed,
        change: &str,
    ) -> std::io::Result<()> {
        let Listed { id, totals, .. } = listed;
        if self.session.json {
            let line = json!({
                "snapshot": moment.info.id.to_string(), "time": utc(moment.info.snapshot.time), "change": change, "id": id,
                "database": listed.database, "name": listed.collection.name,
                "totals": totals_json(totals),
            });
            return writeln!(out, "{line}");
        }
        writeln!(
            out,
            "{}  {}  {:<10}  {}  {} rows, {} deleted, {} segments, {}",
            moment.info.id.short(),
            local_time(moment.info.snapshot.time),
            change,
            full_name(listed),
            number(totals.rows),
            number(totals.deletes),
            number(totals.segments),
            size(totals.held.bytes)
        )
    }
}

/// Whether the arguments ask for a restore of everything as it was.
fn is_whole(arguments: &args::Restore) -> bool {
    let args::Restore {
        etcd_prefix,
        objects_prefix,
        etcd_key,
        object,
        include,
        exclude,
        map,
        dry_run,
        milvus_new_queue,
        to_etcd_file,
        to_dir,
        ..
    } = arguments;
    let lists = include.is_empty() && exclude.is_empty() && map.is_empty();
    let keys = etcd_key.is_empty() && object.is_empty();
    let servers = to_etcd_file.is_none() && to_dir.is_none();
    etcd_prefix.is_none()
        && objects_prefix.is_none()
        && keys
        && lists
        && servers
        && !dry_run
        && !milvus_new_queue
}

fn is_called(listed: &Listed, wanted: &str) -> bool {
    listed.collection.name == wanted || full_name(listed) == wanted || listed.id.to_string() == wanted
}

fn is_same(a: &Listed, b: &Listed) -> bool {
    (&a.database, &a.collection, a.totals) == (&b.database, &b.collection, b.totals)
}

/// What is wrong with an object, in words.
fn lack_text(lack: Lack) -> String {
    match lack {
        Lack::Missing => "is not there".into(),
        Lack::Unread => "could not be read".into(),
        Lack::Size { recorded, found } => format!("has {found} bytes; Milvus recorded {recorded}"),
    }
}

fn missing_json(milvus: &Milvus, missing: &Missing) -> Value {
    json!({
        "key": missing.key, "collection": milvus.name_of(missing.collection), "collection_id": missing.collection,
        "segment": missing.segment, "what": lack_text(missing.lack),
    })
}

fn checked_json(moment: &Moment, milvus: &Milvus, checked: &Checked) -> Value {
    let bytes: u64 = checked.held.values().map(|held| held.bytes).sum();
    let missing: Vec<Value> = checked.missing.iter().map(|missing| missing_json(milvus, missing)).collect();
    json!({
        "id": moment.info.id.to_string(), "revision": moment.revision, "root": milvus.instance.root, "bucket_root": checked.bucket_root,
        "complete": checked.is_complete(), "objects": objects_of(checked), "bytes": bytes,
        "missing_count": checked.missing_count, "missing": missing, "unchecked_segments": checked.unchecked.len(),
        "unchecked": checked.unchecked.iter().map(|(segment, why)| json!({ "segment": segment, "why": why })).collect::<Vec<_>>(),
    })
}

fn proof_json(proof: &guard::Proof) -> Value {
    json!({
        "id": proof.restored.id.to_string(), "revision": proof.restored.revision, "holds": proof.holds(),
        "collections": proof.collections, "rows": proof.rows, "objects": proof.objects,
        "other_etags": proof.other_etags, "differences": proof.differences, "difference_count": proof.difference_count,
        "milvus": proof.milvus.iter().map(found_json).collect::<Vec<_>>(), "seconds": proof.restored.seconds,
        "warnings": proof.restored.warnings,
    })
}

fn print_proof(out: &mut dyn Write, proof: &guard::Proof) -> std::io::Result<()> {
    for found in &proof.milvus {
        writeln!(out, "milvus:  {}", found_text(found))?;
    }
    writeln!(
        out,
        "read back: {} collections with {} rows, {} objects",
        number(proof.collections),
        number(proof.rows),
        number(proof.objects)
    )?;
    if proof.other_etags > 0 {
        writeln!(out, "{} objects have another ETag there", number(proof.other_etags))?;
    }
    for difference in &proof.differences {
        writeln!(out, "differs: {difference}")?;
    }
    let verdict = match (proof.holds(), proof.difference_count) {
        (true, _) => "proven: it is there as the snapshot has it",
        (false, 0) => {
            "NOT PROVEN: what is there is as the snapshot has it, which lacks objects or could not all be checked"
        }
        (false, _) => "NOT PROVEN: what is there is other than the snapshot",
    };
    writeln!(out, "{verdict} ({} in {})", proof.restored.id, duration(proof.restored.seconds))
}

/// Objects of live segments that are there.
fn objects_of(checked: &Checked) -> u64 {
    checked.held.values().map(|held| held.objects).sum()
}

/// What a backup found, for its report.
pub fn found_json(found: &guard::Found) -> Value {
    let checked = &found.checked;
    json!({
        "root": found.root, "version": found.version, "bucket_root": checked.bucket_root,
        "complete": checked.is_complete(), "objects": objects_of(checked), "missing_count": checked.missing_count,
        "unchecked_segments": checked.unchecked.len(), "growing_segments": found.growing,
    })
}

/// The same in words.
pub fn found_text(found: &guard::Found) -> String {
    let version = found.version.as_deref().unwrap_or("not running");
    let (missing, unchecked) = (found.checked.missing_count, found.checked.unchecked.len() as u64);
    let here = number(objects_of(&found.checked));
    let complete = match (missing, unchecked) {
        (0, _) if found.checked.lacks_of_log.is_some() => {
            "INCOMPLETE, its write-ahead log is not whole".into()
        }
        (0, 0) => format!("all {here} objects that it needs are here"),
        (0, segments) => {
            format!("{here} objects that it needs are here; {} segments were NOT CHECKED", number(segments))
        }
        (missing, _) => format!("INCOMPLETE, {} objects are missing", number(missing)),
    };
    let growing = match found.growing {
        0 => String::new(),
        n => format!("; {} segments not flushed, whose last rows are not", number(n)),
    };
    format!("{:?} ({version}): {complete}{growing}", found.root)
}

fn print_checked(
    out: &mut dyn Write,
    moment: &Moment,
    milvus: &Milvus,
    checked: &Checked,
) -> std::io::Result<()> {
    let objects = objects_of(checked);
    let segments = milvus.instance.catalog.segments.values().filter(|s| s.state.is_live()).count();
    let id = moment.info.id.short();
    let at = moment.revision.unwrap_or_default();
    let root = &milvus.instance.root;
    if checked.missing_count == 0 {
        let verdict = match (checked.is_complete(), checked.lacks_of_log) {
            (true, _) => "complete",
            (false, Some(_)) => "INCOMPLETE",
            (false, None) => "NOT ALL CHECKED",
        };
        writeln!(
            out,
            "{id}  rev:{at}  {root}: {verdict}: {} objects of {} segments are there",
            number(objects),
            number(segments as u64)
        )?;
    } else {
        writeln!(
            out,
            "{id}  rev:{at}  {root}: INCOMPLETE: {} objects are not as Milvus needs them",
            number(checked.missing_count)
        )?;
        for missing in checked.missing.iter().take(NAMED) {
            let (name, segment) = (milvus.name_of(missing.collection), missing.segment);
            writeln!(out, "  {name}, segment {segment}: {} {}", missing.key, lack_text(missing.lack))?;
        }
    }
    if let Some(lacking) = checked.lacks_of_log {
        let what = match lacking {
            Lacking::Keys => "keys of its write-ahead log, below woodpecker/ in etcd,",
            Lacking::Objects => "objects of its write-ahead log",
        };
        writeln!(out, "  the {what} are not in the snapshot")?;
    }
    for (segment, why) in checked.unchecked.iter().take(NAMED) {
        writeln!(out, "  segment {segment} was NOT CHECKED: {why}")?;
    }
    match checked.unchecked.len().saturating_sub(NAMED) {
        0 => Ok(()),
        more => writeln!(out, "  {} more segments were NOT CHECKED", number(more as u64)),
    }
}

fn change_json(change: &Changed) -> Value {
    let sides = |totals: &Option<Totals>| match (totals, change.kind) {
        (Some(totals), "collection") => totals_json(totals),
        (totals, _) => json!(totals.is_some()),
    };
    json!({
        "root": change.root, "kind": change.kind, "name": change.name, "change": change_word(change).0,
        "what": change.what, "before": sides(&change.before), "after": sides(&change.after),
    })
}

fn change_word(change: &Changed) -> (&'static str, char) {
    match (&change.before, &change.after) {
        (None, _) => ("added", '+'),
        (_, None) => ("removed", '-'),
        _ => ("changed", '*'),
    }
}

fn change_line(change: &Changed) -> String {
    let mut line = format!("{} {} {}", change_word(change).1, change.kind, change.name);
    if change.kind == "collection" {
        let rows = |totals: &Totals| number(totals.rows.saturating_sub(totals.deletes));
        match (&change.before, &change.after) {
            (Some(before), Some(after)) if rows(before) != rows(after) => {
                line += &format!("  {} → {} rows", rows(before), rows(after));
            }
            (_, Some(totals)) | (Some(totals), _) => line += &format!("  {} rows", rows(totals)),
            _ => {}
        }
    }
    if !change.what.is_empty() {
        line += &format!("  ({})", change.what.join(", "));
    }
    line
}
