//! verify and check: is it all there, and as it was written?

use std::io::Write;

use icecore::check::{self, Against, Compared, Damage, Difference, Member, Since, Verified};
use icecore::proof::Verdict;
use icecore::repository::{Moment, Repository};
use icecore::selection::Selection;
use serde_json::{Value, json};

use super::args::{Sources, Verify};
use super::failure::Failure;
use super::read::find;
use super::show::{hash_json, hex, key_json, key_text, number, size};
use super::{Outcome, Session};

/// Differences of each kind that are named; `--json` names all.
const NAMED: usize = 20;

pub fn verify(session: &Session, arguments: &Verify) -> Result<Outcome, Failure> {
    if !arguments.against_source && arguments.sources != Sources::default() {
        return Err(Failure::usage("a source was given: compare with it by --against-source"));
    }
    let sources = arguments.against_source.then(|| sources(session, &arguments.sources)).transpose()?;
    let repository = session.open()?;
    let moment = find(session, &repository, &arguments.point)?;
    if let Some(sources) = sources {
        return verify_against(session, &repository, &moment, &sources);
    }
    let verified = check::verify(&repository, &moment)?;
    session.context.progress.end();
    let mut out = std::io::stdout().lock();
    let printed = match session.json {
        true => writeln!(out, "{}", verified_json(&moment, &verified)),
        false => print_verified(&mut out, &moment, &verified, ""),
    };
    Failure::of_report("everything was read", printed)?;
    Ok(if verified.damage.is_empty() { Outcome::Done } else { Outcome::Damage })
}

fn sources(session: &Session, sources: &Sources) -> Result<check::Sources, Failure> {
    let etcd = session.etcd_source(sources)?.map(|etcd| (etcd.access, etcd.prefix));
    // The snapshot says what was selected.
    let bucket = session.bucket_source(sources, Selection::default(), None)?;
    let directory = session.directory_source(sources, Selection::default())?;
    if etcd.is_none() && bucket.is_none() && directory.is_none() {
        return Err(Failure::usage(
            "nothing to compare with: name a source with --etcd, --s3 and --bucket, or --dir",
        ));
    }
    Ok(check::Sources { etcd, bucket, directory })
}

fn verify_against(
    session: &Session,
    repository: &Repository,
    moment: &Moment,
    sources: &check::Sources,
) -> Result<Outcome, Failure> {
    let mut named: Vec<Difference> = Vec::new();
    let against = check::verify_against(repository, moment, sources, &mut |difference| {
        let like = |other: &&Difference| (other.side, other.since) == (difference.side, difference.since);
        if session.json {
            // Whoever reads no more is told by the last line.
            let _ = writeln!(std::io::stdout(), "{}", difference_json(&difference));
        } else if named.iter().filter(like).count() < NAMED {
            named.push(difference);
        }
    })?;
    session.context.progress.end();
    let mut out = std::io::stdout().lock();
    let printed = match session.json {
        true => writeln!(out, "{}", against_json(moment, &against)),
        false => print_against(&mut out, moment, &against, &named),
    };
    Failure::of_report("everything was compared", printed)?;
    let sides = [&against.etcd, &against.objects];
    let unproved = against.members.iter().any(|member| unproved(member).is_some());
    let moved = sides.into_iter().flatten().any(|side| !side.differ.is_empty());
    Ok(match (against.verified.damage.is_empty(), moved) {
        (false, _) => Outcome::Damage,
        (true, moved) if moved || unproved => Outcome::Warnings,
        (true, _) => Outcome::Done,
    })
}

/// Why a member proves nothing.
fn unproved(member: &Member) -> Option<&str> {
    match &member.verdict {
        Verdict::Unproved(why) => Some(why),
        _ => None,
    }
}

fn member_json(member: &Member) -> Value {
    let hash = match &member.verdict {
        Verdict::Proved(hash) => Some(*hash),
        Verdict::Refuted(refuted) => Some(refuted.theirs),
        Verdict::Unproved(_) => None,
    };
    json!({
        "endpoint": member.endpoint, "member_id": member.id.map(hex), "hash_kv": hash_json(hash),
        "proved": matches!(member.verdict, Verdict::Proved(_)), "why_not": unproved(member),
    })
}

fn word(since: Since) -> &'static str {
    match since {
        Since::Added => "added",
        Since::Removed => "removed",
        Since::Changed => "changed",
    }
}

fn difference_json(difference: &Difference) -> Value {
    key_json(&difference.key, json!({"in": difference.side, "change": word(difference.since)}))
}

fn verified_json(moment: &Moment, verified: &Verified) -> Value {
    let damage: Vec<Value> = verified.damage.iter().map(damage_json).collect();
    json!({
        "id": moment.info.id.to_string(), "chunks": verified.chunks, "bytes": verified.bytes, "damage": damage,
    })
}

fn against_json(moment: &Moment, against: &Against) -> Value {
    let side = |compared: &Compared| {
        json!({
            "revision": compared.revision, "same": compared.same, "added": compared.count(Since::Added),
            "removed": compared.count(Since::Removed), "changed": compared.count(Since::Changed),
        })
    };
    let (etcd, objects) = (against.etcd.as_ref().map(side), against.objects.as_ref().map(side));
    let mut report = verified_json(moment, &against.verified);
    if let Some(fields) = report.as_object_mut() {
        let members: Vec<Value> = against.members.iter().map(member_json).collect();
        let source = json!({"etcd": etcd, "members": members, "objects": objects, "etags": against.etags});
        fields.insert("source".into(), source);
    }
    report
}

fn print_against(
    out: &mut dyn Write,
    moment: &Moment,
    against: &Against,
    named: &[Difference],
) -> std::io::Result<()> {
    for difference in named {
        let mark = match difference.since {
            Since::Added => '+',
            Since::Removed => '-',
            Since::Changed => '*',
        };
        writeln!(out, "{mark} {} {}", difference.side, key_text(&difference.key))?;
    }
    let etags = match against.etags {
        0 => String::new(),
        n => format!(", {} ETags made again", number(n)),
    };
    print_verified(out, moment, &against.verified, &etags)?;
    for (side, compared) in [("etcd:   ", &against.etcd), ("objects:", &against.objects)] {
        let Some(compared) = compared else { continue };
        let at = compared.revision.map(|revision| format!(" at revision {revision}")).unwrap_or_default();
        let count = |since| number(compared.count(since));
        let (added, removed, changed) = (count(Since::Added), count(Since::Removed), count(Since::Changed));
        let same = number(compared.same);
        match compared.differ.is_empty() {
            true => writeln!(out, "{side} {same} the same in the source{at}")?,
            false => writeln!(
                out,
                "{side} {same} the same in the source{at}; since the snapshot {added} added, \
                 {removed} removed, {changed} changed"
            )?,
        }
    }
    for member in &against.members {
        match &member.verdict {
            Verdict::Proved(hash) => {
                let (hash, revision) = (hash.hash, hash.revision);
                writeln!(
                    out,
                    "proved:  {} has the same HashKV at revision {revision} ({hash})",
                    member.endpoint
                )?;
            }
            Verdict::Unproved(why) => writeln!(out, "not proved by {}: {why}", member.endpoint)?,
            // Told with the damage.
            Verdict::Refuted(_) => {}
        }
    }
    Ok(())
}

fn print_verified(
    out: &mut dyn Write,
    moment: &Moment,
    verified: &Verified,
    more: &str,
) -> std::io::Result<()> {
    for damage in &verified.damage {
        print_damage(out, damage)?;
    }
    let whole = if verified.damage.is_empty() { "is whole" } else { "is DAMAGED" };
    let (chunks, bytes) = (number(verified.chunks), size(verified.bytes));
    writeln!(out, "snapshot {} {whole}: {chunks} chunks, {bytes} of content read{more}", moment.info.id)
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
    Failure::of_report("the check is done", print_check(session, &report, read_data))?;
    Ok(if report.damage.is_empty() { Outcome::Done } else { Outcome::Damage })
}

fn print_check(session: &Session, report: &check::Report, read_data: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for damage in &report.damage {
        match session.json {
            true => writeln!(out, "{}", damage_json(damage))?,
            false => print_damage(&mut out, damage)?,
        }
    }
    if session.json || session.quiet {
        return Ok(());
    }
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
        0 => writeln!(out, "no damage found"),
        n => writeln!(out, "{n} DAMAGED"),
    }
}
