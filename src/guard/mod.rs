//! Guard: what a Milvus needs is seen to be there, in a snapshot and after a restore.

mod prove;

use std::time::Duration;

use crate::backup;
use crate::browse::{self, Browser, Milvus};
use crate::fault::Kind;
use crate::forget;
use crate::format::EtcdCapture;
use crate::milvus::{Checked, Lack, Lacking, Missing, SegmentState};
use crate::progress::Phase;
use crate::repository::{self, Moment, Repository};
use crate::restore;
use crate::source::{self, FlushError, Flushed, MilvusAccess};

pub use prove::{Proof, prove};

/// How often a snapshot that lacks something is taken again.
const ATTEMPTS: u32 = 4;
/// What is waited before it is, each time longer.
const PAUSE: Duration = Duration::from_secs(1);

/// How a Milvus is treated by a backup.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Look whether every object that it needs is there.
    pub check: bool,
    /// The root path in the bucket, where the user knows it.
    pub bucket_root: Option<String>,
    /// The management port on which the garbage collector is paused meanwhile.
    pub management: Option<String>,
    /// Where every collection is flushed before.
    pub flush: Option<MilvusAccess>,
}

/// Why it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// The backup.
    #[error(transparent)]
    Backup(#[from] backup::Error),
    /// The restore.
    #[error(transparent)]
    Restore(#[from] restore::Error),
    /// What was restored could not be read back.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The snapshot could not be looked into.
    #[error(transparent)]
    Browse(#[from] browse::Error),
}

/// The result of guarding.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Repository(error) => error.kind(),
            Error::Backup(error) => error.kind(),
            Error::Restore(error) => error.kind(),
            Error::Source(error) => error.kind(),
            Error::Browse(error) => error.kind(),
        }
    }
}

/// A Milvus in a snapshot that was just taken.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its root path in etcd.
    pub root: String,
    /// Its version, where a server ran.
    pub version: Option<String>,
    /// What was found of what it needs.
    pub checked: Checked,
    /// Segments that take rows still, or are being flushed: what is not flushed is not in the snapshot.
    pub growing: u64,
}

/// A backup, and every Milvus in it.
pub struct Report {
    /// The backup; its warnings also say what a Milvus lacks.
    pub backup: backup::Report,
    /// Every Milvus.
    pub milvus: Vec<Found>,
    /// What was flushed before, where that was wanted and done.
    pub flushed: Option<Flushed>,
    /// How often it was taken.
    pub attempts: u32,
}

/// Backs up until the snapshot has every object that a Milvus in it needs, a few times at most. A snapshot
/// that lacks something is replaced by the next one.
///
/// Milvus writes objects before the keys that refer to them, so that nothing should be missing; but its
/// garbage collector may take objects between the reading of etcd and of the bucket.
pub fn backup(repository: &Repository, options: &backup::Options, milvus: &Options) -> Result<Report> {
    let mut warnings = Vec::new();
    let runtime = &repository.context().runtime;
    let _paused = milvus.management.as_ref().and_then(|url| {
        let note = |why| warnings.push(format!("the garbage collector of Milvus was not paused: {why}"));
        source::pause_collector(runtime, url).map_err(note).ok()
    });
    let flushed = flush(repository, milvus, &mut warnings)?;
    let mut report = backup::run(repository, options)?;
    let mut last = Vec::new();
    let mut attempts = 1;
    loop {
        // Whatever comes of looking: the snapshot is there.
        let found = match look(repository, &report, milvus) {
            Err(error) if error.kind() != Kind::Interrupted => {
                warnings.push(format!("whether a Milvus is complete could not be told: {error}"));
                Vec::new()
            }
            found => found?,
        };
        let missing = missing(&found);
        // What is missing twice at two revisions is not on its way.
        if missing.is_empty() || missing == last || attempts == ATTEMPTS {
            report.warnings.extend(warnings.into_iter().chain(lacking(&found)));
            let milvus = found.iter().map(Found::from).collect();
            return Ok(Report { backup: report, milvus, flushed, attempts });
        }
        last = missing;
        wait(repository, PAUSE * attempts)?;
        // What was proved is proved of the one that stays.
        let proof = |etcd: &EtcdCapture| etcd.hash_kv.is_some();
        let proved = report.etcd.as_ref().is_some_and(proof) || !report.damage.is_empty();
        let again = backup::Options { prove: options.prove || proved, ..options.clone() };
        let mut next = match backup::run_instead(repository, &again, report.id) {
            Err(error) if error.kind() != Kind::Interrupted => {
                report.warnings.extend(warnings.into_iter().chain(lacking(&found)));
                report.warnings.push(format!("it could not be taken again: {error}"));
                let milvus = found.iter().map(Found::from).collect();
                return Ok(Report { backup: report, milvus, flushed, attempts });
            }
            next => next?,
        };
        let forgotten = snapshot(&report).map(|old| forget::forget(repository, &old.info));
        if let Err(error) = forgotten.and_then(|done| Ok(done?)) {
            warnings
                .push(format!("snapshot {}, which this one replaces, is still there: {error}", report.id));
        }
        if next.damage.is_empty() {
            next.damage = report.damage;
        }
        next.gaps.splice(0..0, report.gaps);
        (report, attempts) = (next, attempts + 1);
    }
}

/// Flushes before anything is read. What cannot be flushed is said, and the backup is made all the same.
fn flush(repository: &Repository, milvus: &Options, warnings: &mut Vec<String>) -> Result<Option<Flushed>> {
    let Some(access) = &milvus.flush else { return Ok(None) };
    let context = repository.context();
    context.progress.begin(Phase { name: "flushing Milvus", unit: "collections" });
    match source::flush(&context.runtime, access, &context.cancel) {
        Ok(flushed) => Ok(Some(flushed)),
        Err(FlushError::Interrupted(interrupted)) => Err(repository::Error::from(interrupted).into()),
        Err(error) => {
            warnings.push(format!("rows that Milvus had not flushed are not in this snapshot: {error}"));
            Ok(None)
        }
    }
}

/// What is missing, as far as it is named.
fn missing(found: &[Milvus]) -> Vec<Missing> {
    let checked = found.iter().filter_map(|milvus| milvus.checked.as_ref());
    checked.flat_map(|checked| checked.missing.clone()).collect()
}

fn wait(repository: &Repository, time: Duration) -> Result<()> {
    Ok(repository.context().cancel.wait(time).map_err(repository::Error::from)?)
}

/// The snapshot that was taken.
fn snapshot(report: &backup::Report) -> Result<Moment> {
    let found = report.view.snapshots.iter().find(|info| info.id == report.id);
    let gone = || repository::Error::PointNotFound(format!("snapshot {} is not there", report.id));
    Ok(Moment::from(found.cloned().ok_or_else(gone)?))
}

/// Every Milvus in a snapshot that was taken just now.
fn look(repository: &Repository, report: &backup::Report, milvus: &Options) -> Result<Vec<Milvus>> {
    let moment = snapshot(report)?;
    if !milvus.check || moment.etcd().is_none() || moment.info.snapshot.objects.is_none() {
        return Ok(Vec::new());
    }
    Ok(Browser::over(repository, &report.view)?.milvus(&moment, milvus.bucket_root.as_deref())?)
}

/// What is missing, for people.
fn lacking(found: &[Milvus]) -> Vec<String> {
    let say = |milvus: &Milvus| {
        let checked = milvus.checked.as_ref()?;
        let first = checked.missing.first()?;
        let what = match first.lack {
            Lack::Missing => "is not there".to_owned(),
            Lack::Unread => "could not be read".to_owned(),
            Lack::Size { recorded, found } => format!("has {found} bytes and not {recorded}"),
        };
        Some(format!(
            "Milvus at {:?} needs {} objects that are not in this snapshot as they should be: {} {what} (collection {}, \
             segment {}); `icecore milvus check` names all",
            milvus.instance.root,
            checked.missing_count,
            first.key,
            milvus.name_of(first.collection),
            first.segment
        ))
    };
    let log = |milvus: &Milvus| {
        let root = &milvus.instance.root;
        Some(match milvus.checked.as_ref()?.lacks_of_log? {
            Lacking::Keys => format!(
                "Milvus at {root:?} keeps a write-ahead log in the bucket whose keys, below woodpecker/ in etcd, are not \
                 in this snapshot: restored without them it has lost what it had not flushed. Back up the whole etcd, \
                 without --etcd-prefix"
            ),
            Lacking::Objects => format!(
                "Milvus at {root:?} keeps a write-ahead log that is not in the bucket (woodpecker.storage.type): what it \
                 had not flushed is not in this snapshot"
            ),
        })
    };
    found.iter().filter_map(say).chain(found.iter().filter_map(log)).collect()
}

impl From<&Milvus> for Found {
    fn from(milvus: &Milvus) -> Found {
        let Milvus { instance, checked } = milvus;
        let live = instance.catalog.segments.values().filter(|segment| segment.state.is_live());
        Found {
            root: instance.root.clone(),
            version: instance.version.clone(),
            checked: checked.clone().unwrap_or_default(),
            growing: live.filter(|segment| segment.state != SegmentState::Flushed).count() as u64,
        }
    }
}
