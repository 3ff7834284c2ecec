//! forget: snapshots that are no longer wanted, by name, by rules, or by a bound for the size.

use std::io::{BufWriter, Write};

use icecore::fault::Kind;
use icecore::forget::{self, Decision, Options, Period, Policy, Reason, Report};
use icecore::repository::{Point, Repository};
use serde_json::json;

use super::args::{Forget, Rules};
use super::failure::Failure;
use super::prune::{options, outcome, plan_json, print_plan, print_report, report_json};
use super::show::{local_time, number, parse_size, parse_span, say, size};
use super::{Outcome, Session};

impl Session {
    /// A rule: the flag, else what `[retention]` says.
    fn rule<T>(
        &self,
        flag: Option<T>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Failure> {
        let file = || self.settings.get("retention", key).map(|text| parse(&text).map_err(Failure::usage));
        flag.map(Ok).or_else(file).transpose()
    }

    /// The bound for the size of the repository.
    pub fn max_size(&self, flag: Option<u64>) -> Result<Option<u64>, Failure> {
        self.rule(flag, "max-size", parse_size)
    }

    /// The rules, and the size bound.
    fn rules(&self, rules: &Rules) -> Result<(Policy, Option<u64>), Failure> {
        let count = |flag: Option<u64>, key: &str| {
            let parse = |text: &str| text.parse().map_err(|_| format!("{key} = {text:?} is no count"));
            Ok::<u64, Failure>(self.rule(flag, key, parse)?.unwrap_or(0))
        };
        let tags = match rules.keep_tag.is_empty() {
            false => rules.keep_tag.clone(),
            true => self.settings.list("retention", "keep-tag"),
        };
        // No snapshot has it, so that all would be forgotten for it.
        if tags.iter().any(String::is_empty) {
            return Err(Failure::usage("--keep-tag is empty: which tag is to be kept?"));
        }
        let max_size = self.max_size(rules.max_size)?;
        let policy = Policy {
            within: self.rule(rules.keep_within, "keep-within", parse_span)?,
            last: count(rules.keep_last, "keep-last")?,
            periods: [
                (Period::Hour, count(rules.keep_hourly, "keep-hourly")?),
                (Period::Day, count(rules.keep_daily, "keep-daily")?),
                (Period::Week, count(rules.keep_weekly, "keep-weekly")?),
                (Period::Month, count(rules.keep_monthly, "keep-monthly")?),
                (Period::Year, count(rules.keep_yearly, "keep-yearly")?),
            ]
            .into(),
            tags,
            bounded: max_size.is_some(),
            at_least: count(rules.keep_at_least, "keep-at-least")?,
        };
        Ok((policy, max_size))
    }

    fn forget_options(&self, repository: &Repository, arguments: &Forget) -> Result<Options, Failure> {
        let view = repository.view()?;
        // All are found before any is forgotten: `latest latest~1` means what it says.
        let find = |text: &String| {
            // A record that cannot be read is named by its whole id.
            if let Some(damaged) = text.parse().ok().filter(|sid| view.is_damaged(sid)) {
                return Ok(damaged);
            }
            let point: Point = text.parse()?;
            Ok::<_, Failure>(view.find(&point, &self.settings.series)?.into_snapshot()?.id)
        };
        let named = arguments.points.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        // Who names snapshots means those only, whatever the file says.
        let (policy, max_size) = match named.is_empty() {
            true => self.rules(&arguments.rules)?,
            false => (Policy::default(), None),
        };
        if named.is_empty() && policy.is_empty() && max_size.is_none() {
            return Err(Failure::usage(
                "what is to be forgotten? name snapshots, or what is kept with --keep-… and --max-size",
            ));
        }
        Ok(Options {
            named,
            series: self.settings.series_given.then(|| self.settings.series.clone()),
            policy,
            max_size,
            prune: arguments.prune.then(|| options(&arguments.how)),
            dry_run: arguments.dry_run,
            zone: jiff::tz::TimeZone::system(),
        })
    }
}

fn has_rules(rules: &Rules) -> bool {
    let counts = [
        rules.keep_last,
        rules.keep_hourly,
        rules.keep_daily,
        rules.keep_weekly,
        rules.keep_monthly,
        rules.keep_yearly,
        rules.keep_at_least,
        rules.max_size,
    ];
    rules.keep_within.is_some() || !rules.keep_tag.is_empty() || counts.iter().any(Option::is_some)
}

pub fn forget(session: &Session, arguments: &Forget) -> Result<Outcome, Failure> {
    if !arguments.points.is_empty() && has_rules(&arguments.rules) {
        return Err(Failure::usage("name snapshots, or give rules for what is kept, but not both"));
    }
    let repository = session.open()?;
    let options = session.forget_options(&repository, arguments)?;
    let report = forget::run(&repository, &options)?;
    session.context.progress.end();
    let mut out = BufWriter::new(std::io::stdout().lock());
    match session.json {
        true => print_json(&mut out, &options, &report)?,
        false => print(session, &mut out, &options, &report)?,
    }
    out.flush()?;
    finish(session, &options, &report)
}

fn finish(session: &Session, options: &Options, report: &Report) -> Result<Outcome, Failure> {
    let waits = report.pruned.as_ref().map_or(Outcome::Done, |pruned| outcome(session, pruned));
    let (Some(over), Some(max)) = (report.over, options.max_size) else { return Ok(waits) };
    if report.running > 0 || waits != Outcome::Done {
        if !session.json {
            say(&format!(
                "warning: the repository is {} larger than {} while {} backups run; prune again when they have ended",
                size(over),
                size(max),
                report.running.max(1)
            ));
        }
        return Ok(Outcome::Warnings);
    }
    let kept = report.decisions.iter().filter(|decision| decision.keep).count();
    let why = format!(
        "the {} snapshots that stay need {}, {} more than {}; none of them may be dropped",
        number(kept as u64),
        size(max + over),
        size(over),
        size(max)
    );
    Err(Failure::new(Kind::SizeBound, why))
}

fn decided(decision: &Decision) -> &'static str {
    if decision.keep { "keep" } else { "forget" }
}

fn print_json(out: &mut dyn Write, options: &Options, report: &Report) -> std::io::Result<()> {
    for decision in listed(options, report) {
        let reasons: Vec<String> = decision.reasons.iter().map(Reason::text).collect();
        let id = decision.info.id.to_string();
        writeln!(out, "{}", json!({"id": id, "decision": decided(decision), "reasons": reasons}))?;
    }
    for id in &report.damaged {
        writeln!(
            out,
            "{}",
            json!({"id": id.to_string(), "decision": "forget", "reasons": ["named", "damaged"]})
        )?;
    }
    let prune = report.pruned.as_ref().map(report_json).or(report.plan.as_ref().map(plan_json));
    let last = json!({
        "freed_bytes": report.freed_bytes, "repository_bytes": report.repository_bytes,
        "over_bytes": report.over, "dry_run": options.dry_run, "prune": prune,
    });
    writeln!(out, "{last}")
}

/// Who names snapshots asks about those; who gives rules, about all that they are for.
fn listed<'a>(options: &'a Options, report: &'a Report) -> impl Iterator<Item = &'a Decision> {
    report.decisions.iter().filter(move |decision| {
        let named = options.named.is_empty() || !decision.keep;
        named && decision.reasons != [Reason::OtherSeries]
    })
}

fn print(session: &Session, out: &mut dyn Write, options: &Options, report: &Report) -> std::io::Result<()> {
    for decision in listed(options, report) {
        let snapshot = &decision.info.snapshot;
        let reasons: Vec<String> = decision.reasons.iter().map(Reason::text).collect();
        let (id, time) = (decision.info.id.short(), local_time(snapshot.time));
        let name = snapshot.name.as_ref().map(|name| format!("  {name}")).unwrap_or_default();
        let (word, why) = (decided(decision), reasons.join(", "));
        writeln!(out, "{word:<6}  {id}  {time}  {}{name}  ({why})", snapshot.series)?;
    }
    for id in &report.damaged {
        writeln!(out, "forget  {}  (named; its record is damaged)", id.short())?;
    }
    let gone = report.forgotten().count() as u64;
    let kept = report.decisions.len() as u64 - gone;
    let gone = gone + report.damaged.len() as u64;
    let done = if options.dry_run { "nothing was changed; this would forget" } else { "forgot" };
    writeln!(out, "{done} {} snapshots; {} stay", number(gone), number(kept))?;
    match (&report.plan, &report.pruned) {
        (Some(plan), _) => print_plan(out, plan),
        (_, Some(pruned)) => print_report(out, pruned),
        (None, None) if !session.quiet && gone > 0 && !options.dry_run => {
            writeln!(out, "What only they held stays until a prune.")
        }
        (None, None) => Ok(()),
    }
}
