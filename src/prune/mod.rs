//! Prune: finds and removes what no snapshot needs, beside backups and restores that run.
//!
//! The collector's side of the collection protocol (`docs/architecture.md`, "Collection"): the steps are
//! those of `collection::Step`. What goes and what is rewritten is a plan, a plain value: a dry run shows
//! it, a prune carries it out once.

mod copy;
mod delete;
mod judge;
mod plan;
mod wait;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::collection::Step;
use crate::context::Interrupted;
use crate::fault::Kind;
use crate::format::{Condemned, Malformed, Name};
use crate::id::SessionId;
use crate::repository::{self, Repository};
use crate::store;
use crate::tree;

pub use plan::{Plan, Reason, plan};

use plan::{Marked, mark_and_plan};

/// How to prune.
#[derive(Debug, Clone)]
pub struct Options {
    /// So much of what packs hold may stay though nobody needs it; packs with more are rewritten.
    pub max_unused: f64,
    /// How long to wait for a backup that shows no progress before it is closed; without it, prune stops
    /// there, and a later one goes on.
    pub patience: Option<Duration>,
}

impl Default for Options {
    fn default() -> Options {
        Options { max_unused: 0.05, patience: Some(Duration::from_secs(3600)) }
    }
}

/// Why a prune stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// A pack that snapshots need is not there.
    #[error("{0} is missing and snapshots need it; nothing is judged in a damaged repository")]
    PackMissing(String),
}

/// The result of pruning.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Repository(error) => error.kind(),
            Error::PackMissing(_) => Kind::Damage,
        }
    }
}

impl Error {
    /// Whether something was missed only since another prune has removed it meanwhile.
    fn is_of_the_past(&self, over: impl Fn() -> Result<bool>) -> Result<bool> {
        Ok(matches!(self.kind(), Kind::Damage | Kind::NotFound) && over()?)
    }
}

repository::through_repository!(Error: store::Error, tree::Error, crate::storage::Error, Malformed, Interrupted);

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The collections that were carried out and deleted something.
    pub collections: Vec<u64>,
    /// Packs that were deleted.
    pub packs: u64,
    /// Other files that were deleted.
    pub records: u64,
    /// Bytes of all that was deleted.
    pub deleted_bytes: u64,
    /// Bytes of packs and segments that were written in exchange.
    pub written_bytes: u64,
    /// Running backups that it did not wait for: a later prune goes on.
    pub waiting: Vec<String>,
    /// Bytes of the whole repository afterwards.
    pub repository_bytes: u64,
    /// Seconds it took.
    pub seconds: f64,
}

impl Report {
    /// With what a later prune did.
    pub fn add(&mut self, later: Report) {
        self.collections.extend(later.collections);
        self.packs += later.packs;
        self.records += later.records;
        self.deleted_bytes += later.deleted_bytes;
        self.written_bytes += later.written_bytes;
        self.waiting = later.waiting;
        self.repository_bytes = later.repository_bytes;
        self.seconds += later.seconds;
    }
}

/// No prune needs more collections than this; a plan that never comes to an end is a fault of ours.
const MOST_ROUNDS: usize = 1000;

/// A running prune.
struct Run<'a> {
    repository: &'a Repository,
    options: &'a Options,
    report: Report,
    /// Of the last plan.
    marked: Option<Marked>,
}

/// Prunes.
pub fn run(repository: &Repository, options: &Options) -> Result<Report> {
    let began = Instant::now();
    // A store that lets two create one name could take a claim for both a snapshot and closed.
    let patience = if repository.single_writer()? { None } else { options.patience };
    let options = &Options { patience, ..options.clone() };
    let mut run = Run { repository, options, report: Report::default(), marked: None };
    run.collect()?;
    run.report.repository_bytes = repository.bytes()?;
    run.report.seconds = began.elapsed().as_secs_f64();
    Ok(run.report)
}

impl Run<'_> {
    fn collect(&mut self) -> Result<()> {
        let (mut executed, mut rounds) = (0, 0);
        // The first plan is made once what others left is out of the way.
        let mut next: Option<Plan> = None;
        let mut step = Step::Look;
        loop {
            self.repository.context().cancel.check()?;
            step = match step {
                Step::Look => {
                    let numbers = self.repository.numbers()?;
                    let clear = numbers.open().is_none() && numbers.verdict <= executed;
                    if clear && next.as_ref().is_none_or(|last| last.partial) && rounds < MOST_ROUNDS {
                        rounds += 1;
                        let planned = match mark_and_plan(self.repository, self.options, &HashSet::new()) {
                            Err(error)
                                if error.is_of_the_past(|| Ok(self.repository.numbers()? != numbers))? =>
                            {
                                continue;
                            }
                            planned => planned?,
                        };
                        (next, self.marked) = (Some(planned.0), Some(planned.1));
                    } else if clear {
                        return Ok(());
                    }
                    let more = next.as_ref().is_some_and(|plan| !plan.is_empty());
                    Step::looked(numbers, executed, more)
                }
                Step::Condemn(number) => {
                    let packs = next.iter().flat_map(|plan| plan.packs.iter().map(|pack| pack.id)).collect();
                    self.condemn(number, packs)?;
                    Step::condemned()
                }
                Step::Wait(number) => match self.wait(number)? {
                    true => Step::waited(number),
                    false => return Ok(()),
                },
                Step::Judge(number) => match self.judge(number) {
                    Err(error)
                        if error
                            .is_of_the_past(|| Ok(self.repository.numbers()?.open() != Some(number)))? =>
                    {
                        Step::Look
                    }
                    judged => judged?,
                },
                Step::Confirm(number) => Step::confirmed(number, self.repository.numbers()?),
                Step::Execute(number) => {
                    self.execute(number)?;
                    executed = number;
                    Step::Look
                }
                Step::Done => return Ok(()),
            };
        }
    }

    /// Step 1. Puts the list. Another's list of this number is as good: any set of packs may be condemned.
    fn condemn(&self, number: u64, packs: Vec<crate::id::PackId>) -> Result<()> {
        let name = Name::Condemned(number).to_string();
        match self.repository.put_record(&name, &Condemned { packs }) {
            Err(repository::Error::Storage(error)) if error.is_exists() => Ok(()),
            done => Ok(done?),
        }
    }
}

/// For people: what stands in the way.
fn described(sid: &SessionId, session: &crate::format::Session) -> String {
    format!("{} on {} (process {})", sid.short(), session.host, session.pid)
}
