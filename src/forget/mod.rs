//! Forget: snapshots that are no longer wanted. Each gets a tombstone; its content goes with a prune.
//!
//! What goes is named, or decided by a policy (`policy.rs`), or by a bound for the size of the whole
//! repository (`size.rs`).

mod policy;
mod size;

use std::collections::HashSet;

use jiff::tz::TimeZone;

use crate::fault::Kind;
use crate::format::{Name, Tombstone};
use crate::id::SessionId;
use crate::pool;
use crate::prune;
use crate::repository::{self, Repository, SnapshotInfo, View};

pub use policy::{Candidate, Period, Policy, Reason, decide};
pub use size::{Curve, Step, curve};

/// What is to be forgotten.
#[derive(Debug, Clone)]
pub struct Options {
    /// These, and no others; also such as have a damaged record.
    pub named: Vec<SessionId>,
    /// Rules are for this series; for each, without one.
    pub series: Option<String>,
    /// What is kept.
    pub policy: Policy,
    /// Bytes of the whole repository.
    pub max_size: Option<u64>,
    /// What then is needed by no snapshot is removed.
    pub prune: Option<prune::Options>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Of days and hours.
    pub zone: TimeZone,
}

/// What becomes of a snapshot, and why.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The snapshot.
    pub info: SnapshotInfo,
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// What was done, or would be.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Each snapshot, oldest first.
    pub decisions: Vec<Decision>,
    /// Snapshots whose records cannot be read, and that go since they were named.
    pub damaged: Vec<SessionId>,
    /// What a prune would do.
    pub plan: Option<prune::Plan>,
    /// What a prune did.
    pub pruned: Option<prune::Report>,
    /// Bytes beyond the bound that nothing may be dropped for.
    pub over: Option<u64>,
    /// Backups that run, while the repository is larger than it should be.
    pub running: usize,
    /// Bytes that were freed, or would be.
    pub freed_bytes: u64,
    /// Bytes of the whole repository afterwards; before, where nothing was pruned.
    pub repository_bytes: u64,
}

/// Why snapshots could not be forgotten.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// The prune after it.
    #[error(transparent)]
    Prune(#[from] prune::Error),
}

/// The result of forgetting.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Repository(error) => error.kind(),
            Error::Prune(error) => error.kind(),
        }
    }
}

/// Forgets one snapshot. A tombstone that is there already is as good.
pub fn forget(repository: &Repository, info: &SnapshotInfo) -> repository::Result<()> {
    put_tombstone(repository, info.id)
}

fn put_tombstone(repository: &Repository, sid: SessionId) -> repository::Result<()> {
    let name = Name::Forgotten(sid).to_string();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let tombstone = Tombstone { time: repository.context().clock.now(), host };
    match repository.put_record(&name, &tombstone) {
        Err(repository::Error::Storage(error)) if error.is_exists() => Ok(()),
        done => done,
    }
}

/// What was decided is decided again, so often, while collections remove what was being looked at.
const TRIES: usize = 8;

fn put_tombstones(repository: &Repository, sids: impl Iterator<Item = SessionId>) -> Result<()> {
    let put = |_: &mut (), sid| Ok(put_tombstone(repository, sid)?);
    let at_once = repository.storage().at_once();
    pool::run(
        at_once,
        at_once,
        || (),
        put,
        |tombstones| {
            for sid in sids {
                repository.context().cancel.check().map_err(repository::Error::from)?;
                tombstones.give(sid).map_err(repository::Error::from)?;
            }
            Ok(())
        },
    )
}

/// Decides, and unless it is a dry run forgets and prunes.
pub fn run(repository: &Repository, options: &Options) -> Result<Report> {
    let (mut report, bound) = decide_now(repository, options)?;
    if !options.dry_run {
        let gone = report.forgotten().map(|info| info.id);
        put_tombstones(repository, gone.chain(report.damaged.iter().copied()))?;
        if let Some(prune) = &options.prune {
            prune_to(repository, prune, bound, options.max_size, &mut report)?;
        }
    }
    if report.pruned.is_none() {
        report.repository_bytes = repository.bytes()?;
    }
    Ok(report)
}

fn decide_now(repository: &Repository, options: &Options) -> Result<(Report, Option<Bound>)> {
    for _ in 1..TRIES {
        let numbers = repository.numbers()?;
        match decide_once(repository, options) {
            Err(error) if matches!(error.kind(), Kind::Damage | Kind::NotFound) => {
                if repository.numbers()? == numbers {
                    return Err(error);
                }
            }
            decided => return decided,
        }
    }
    decide_once(repository, options)
}

/// Decides by what there is, and says what a prune would do.
fn decide_once(repository: &Repository, options: &Options) -> Result<(Report, Option<Bound>)> {
    let view = repository.view()?;
    let mut report = Report { decisions: decisions(repository, &view, options), ..Report::default() };
    report.damaged = options.named.iter().copied().filter(|sid| view.is_damaged(sid)).collect();
    let bound = match options.max_size {
        Some(max) => Some(bound(repository, &view, &mut report.decisions, max)?),
        None => None,
    };
    report.over = bound.as_ref().and_then(|bound| bound.over);
    if let Some(prune) = options.prune.as_ref().filter(|_| options.dry_run) {
        let gone: HashSet<SessionId> = report.forgotten().map(|info| info.id).collect();
        let plan = prune::plan(repository, prune, &gone)?;
        report.freed_bytes = plan.frees();
        report.plan = Some(plan);
    }
    Ok((report, bound))
}

impl Report {
    /// What goes.
    pub fn forgotten(&self) -> impl Iterator<Item = &SnapshotInfo> {
        self.decisions.iter().filter(|decision| !decision.keep).map(|decision| &decision.info)
    }
}

fn candidate(info: &SnapshotInfo) -> Candidate {
    let snapshot = &info.snapshot;
    let revision = snapshot.etcd.as_ref().map_or(0, |etcd| etcd.revision);
    Candidate {
        id: info.id,
        series: snapshot.series.clone(),
        order: (snapshot.line, revision, snapshot.generation),
        time: snapshot.time,
        tags: snapshot.tags.clone(),
    }
}

/// By names or by rules.
fn decisions(repository: &Repository, view: &View, options: &Options) -> Vec<Decision> {
    let candidates: Vec<Candidate> = view.snapshots.iter().map(candidate).collect();
    let policy = if options.named.is_empty() { options.policy.clone() } else { Policy::default() };
    let kept = decide(&policy, &candidates, repository.context().clock.now(), &options.zone);
    let one = |(info, mut reasons): (&SnapshotInfo, Vec<Reason>)| {
        let other = options.series.as_ref().is_some_and(|series| *series != info.snapshot.series);
        let keep = match (options.named.contains(&info.id), other) {
            (true, _) => {
                reasons = vec![Reason::Named];
                false
            }
            (false, true) => {
                reasons = vec![Reason::OtherSeries];
                true
            }
            (false, false) => !reasons.is_empty(),
        };
        if reasons.is_empty() {
            reasons.push(Reason::NotKept);
        }
        Decision { info: info.clone(), keep, reasons }
    };
    view.snapshots.iter().zip(kept).map(one).collect()
}

/// How a size bound is held.
struct Bound {
    curve: Curve,
    /// So many of the curve's first snapshots may not be dropped.
    protected: usize,
    /// So many are kept.
    kept: usize,
    over: Option<u64>,
}

/// Drops the oldest of what is left until it fits.
fn bound(repository: &Repository, view: &View, decisions: &mut [Decision], max: u64) -> Result<Bound> {
    let protects = |decision: &&Decision| decision.reasons.iter().any(Reason::protects);
    let kept: Vec<&Decision> = decisions.iter().rev().filter(|decision| decision.keep).collect();
    let first = kept.iter().filter(|decision| protects(decision));
    let then = kept.iter().filter(|decision| !protects(decision));
    let order: Vec<&SnapshotInfo> = first.chain(then).map(|decision| &decision.info).collect();
    let protected = kept.iter().filter(|decision| protects(decision)).count();
    let curve = size::curve(repository, view, &order)?;
    let fit = curve.fit(max);
    let kept = fit.max(protected);
    let over = (fit < protected).then(|| curve.steps[protected - 1].kept - max);
    let mut bound = Bound { curve, protected, kept: usize::MAX, over };
    bound.cut(kept, decisions);
    Ok(bound)
}

impl Bound {
    /// Keeps the first `kept` only.
    fn cut(&mut self, kept: usize, decisions: &mut [Decision]) {
        let dropped = &self.curve.steps[kept..self.kept.min(self.curve.steps.len())];
        let dropped: HashSet<SessionId> = dropped.iter().map(|step| step.id).collect();
        for decision in decisions.iter_mut().filter(|decision| dropped.contains(&decision.info.id)) {
            (decision.keep, decision.reasons) = (false, vec![Reason::Size]);
        }
        self.kept = kept;
    }
}

/// Prunes, and where a bound is not met yet, prunes to the last byte of waste and then drops more. The curve
/// counts the least that snapshots need, so that none is dropped that would have fit.
fn prune_to(
    repository: &Repository,
    options: &prune::Options,
    bound: Option<Bound>,
    max: Option<u64>,
    report: &mut Report,
) -> Result<()> {
    let mut total = prune::run(repository, options)?;
    if let (Some(mut bound), Some(max)) = (bound, max) {
        let tight = prune::Options { max_unused: 0.0, ..options.clone() };
        if total.repository_bytes > max && bound.over.is_none() {
            total.add(prune::run(repository, &tight)?);
        }
        report.running = open_sessions(repository)?;
        // What a running backup has stored is no reason to drop snapshots.
        while total.repository_bytes > max && total.waiting.is_empty() && report.running == 0 {
            let excess = total.repository_bytes - max;
            let drop = bound.curve.excess(bound.kept, excess).min(bound.kept - bound.protected);
            if drop == 0 {
                break;
            }
            let before: HashSet<SessionId> = report.forgotten().map(|info| info.id).collect();
            bound.cut(bound.kept - drop, &mut report.decisions);
            let more = report.forgotten().map(|info| info.id).filter(|sid| !before.contains(sid));
            put_tombstones(repository, more)?;
            total.add(prune::run(repository, &tight)?);
            report.running = open_sessions(repository)?;
        }
        report.over = (total.repository_bytes > max).then(|| total.repository_bytes - max);
    }
    report.freed_bytes = total.deleted_bytes.saturating_sub(total.written_bytes);
    report.repository_bytes = total.repository_bytes;
    report.pruned = Some(total);
    Ok(())
}

/// Sessions that have not ended.
fn open_sessions(repository: &Repository) -> Result<usize> {
    let names = |folder| repository.storage().names(folder).map_err(repository::Error::from);
    let (sessions, ended) = (names("sessions/")?, names("snapshots/")?);
    let ended: HashSet<&String> = ended.iter().collect();
    Ok(sessions.iter().filter(|name| !ended.contains(name)).count())
}
