//! prune: removes what no snapshot needs.

use std::collections::HashSet;
use std::io::Write;

use icecore::prune::{self, Options, Plan, Reason, Report};
use serde_json::{Value, json};

use super::args::{Prune, PruneHow};
use super::failure::Failure;
use super::show::{duration, number, say, size};
use super::{Outcome, Session};

/// What is removed, and the word for it in JSON.
const REASONS: [(Reason, &str, &str); 5] = [
    (Reason::Unused, "unused", "packs that no snapshot needs"),
    (Reason::Unlisted, "unlisted", "packs that an interrupted command left"),
    (Reason::Missing, "missing", "packs that are listed, not there, and not needed"),
    (Reason::Waste, "wasteful", "packs to rewrite, since much in them is not needed"),
    (Reason::Small, "small", "small packs to make one"),
];

pub fn options(how: &PruneHow) -> Options {
    let default = Options::default();
    Options {
        max_unused: how.max_unused.unwrap_or(default.max_unused),
        patience: if how.no_wait { None } else { how.patience.or(default.patience) },
    }
}

pub fn prune(session: &Session, arguments: &Prune) -> Result<Outcome, Failure> {
    let options = options(&arguments.how);
    let repository = session.open()?;
    let mut out = std::io::stdout().lock();
    if arguments.dry_run {
        let plan = prune::plan(&repository, &options, &HashSet::new())?;
        session.context.progress.end();
        match session.json {
            true => writeln!(out, "{}", plan_json(&plan))?,
            false => print_plan(&mut out, &plan)?,
        }
        return Ok(Outcome::Done);
    }
    let report = prune::run(&repository, &options)?;
    session.context.progress.end();
    match session.json {
        true => writeln!(out, "{}", report_json(&report))?,
        false => print_report(&mut out, &report)?,
    }
    Ok(outcome(session, &report))
}

/// Says whom the prune did not wait for.
pub fn outcome(session: &Session, report: &Report) -> Outcome {
    for backup in report.waiting.iter().filter(|_| !session.json) {
        say(&format!("warning: backup {backup} is running; what it may need stays until a later prune"));
    }
    if report.waiting.is_empty() { Outcome::Done } else { Outcome::Warnings }
}

pub fn plan_json(plan: &Plan) -> Value {
    let packs = REASONS.map(|(reason, word, _)| {
        let (count, bytes) = plan.of(reason);
        (word.to_owned(), json!({"count": count, "bytes": bytes}))
    });
    json!({
        "dry_run": true, "packs": packs.into_iter().collect::<serde_json::Map<_, _>>(),
        "records": plan.records, "segments": plan.segments, "copied_bytes": plan.copies(),
        "freed_bytes": plan.frees(), "pack_bytes": plan.pack_bytes, "open_collection": plan.open,
    })
}

pub fn print_plan(out: &mut dyn Write, plan: &Plan) -> std::io::Result<()> {
    if let Some(open) = plan.open {
        writeln!(out, "collection {open} was begun and is finished first")?;
    }
    for (reason, _, what) in REASONS {
        let (count, bytes) = plan.of(reason);
        if count > 0 {
            writeln!(out, "{:>8}  {:>10}  {what}", number(count), size(bytes))?;
        }
    }
    if plan.records > 0 {
        writeln!(
            out,
            "{:>8}  {:>10}  records of ended sessions and forgotten snapshots",
            number(plan.records),
            ""
        )?;
    }
    if plan.segments > 0 {
        writeln!(out, "{:>8}  {:>10}  lists of packs to make fewer", number(plan.segments), "")?;
    }
    if plan.is_empty() {
        return writeln!(out, "nothing to do: {} stay as they are", size(plan.pack_bytes));
    }
    writeln!(
        out,
        "nothing was changed; this would copy {} and free {} of {}",
        size(plan.copies()),
        size(plan.frees()),
        size(plan.pack_bytes)
    )
}

/// Bytes that are there no more, those apart that were written in exchange.
pub fn freed(report: &Report) -> u64 {
    report.deleted_bytes.saturating_sub(report.written_bytes)
}

pub fn report_json(report: &Report) -> Value {
    json!({
        "dry_run": false, "collections": report.collections, "deleted_packs": report.packs,
        "deleted_records": report.records, "written_bytes": report.written_bytes,
        "freed_bytes": freed(report), "repository_bytes": report.repository_bytes,
        "waiting_for": report.waiting, "seconds": report.seconds,
    })
}

pub fn print_report(out: &mut dyn Write, report: &Report) -> std::io::Result<()> {
    if report.collections.is_empty() && report.waiting.is_empty() {
        return writeln!(out, "nothing to do: {} stay as they are", size(report.repository_bytes));
    }
    writeln!(
        out,
        "deleted {} packs and {} records, wrote {}, freed {} in {}",
        number(report.packs),
        number(report.records),
        size(report.written_bytes),
        size(freed(report)),
        duration(report.seconds)
    )?;
    writeln!(out, "the repository has {}", size(report.repository_bytes))
}
