//! Restore: a moment out, to a live etcd or a database file of it, and to a bucket or a directory.
//!
//! Objects first and etcd after them, so that no key appears before the objects it refers to. Each
//! side is planned before anything is written: a target that holds anything else is left alone. What
//! is identical already is skipped, so running it again continues an interrupted restore.

mod ahead;
mod database;
mod etcd;
mod files;
mod layout;
mod mapping;
mod milvus;
mod objects;
mod put;
mod settings;
mod versions;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use crate::context::Interrupted;
use crate::fault::{Kind, on_this_machine};
use crate::format::Malformed;
use crate::id::SessionId;
use crate::milvus::Woodpecker;
use crate::repository::{self, Moment, Repository, When, line_of};
use crate::selection::Selection;
use crate::source;
use crate::storage::S3Access;
use crate::store;
use crate::target;
use crate::tree::{self, ReadWrite};

pub use database::{BadHistory, FileOptions, FileReport, History};
pub use mapping::{BadMap, Map};

use mapping::{Scope, conflict};

/// Keys named in a warning; more are counted.
const NAMED: usize = 10;

/// Where to, and how.
#[derive(Clone, Default)]
pub struct Options {
    /// A live etcd.
    pub etcd: Option<crate::etcd::Access>,
    /// A database file for `etcdutl snapshot restore`.
    pub file: Option<FileOptions>,
    /// A bucket.
    pub bucket: Option<(S3Access, String)>,
    /// Goes before the key of every object in a bucket, whether that is restored now or beside etcd by another
    /// command.
    pub to_prefix: String,
    /// A directory, in place of a bucket.
    pub directory: Option<PathBuf>,
    /// Only keys that begin with this.
    pub etcd_prefix: Vec<u8>,
    /// These keys, too; only these where nothing else is chosen.
    pub etcd_keys: BTreeSet<Vec<u8>>,
    /// Only keys that these globs take.
    pub etcd_selection: Selection,
    /// Only objects whose keys begin with this.
    pub objects_prefix: String,
    /// These objects, too; only these where nothing else is chosen.
    pub object_keys: BTreeSet<Vec<u8>>,
    /// Only objects whose keys these globs take.
    pub objects_selection: Selection,
    /// New beginnings for keys.
    pub etcd_maps: Vec<Map>,
    /// New beginnings for objects' keys.
    pub objects_maps: Vec<Map>,
    /// Every version and delete marker of the objects.
    pub versions: bool,
    /// Lock objects as they were.
    pub object_locks: bool,
    /// The settings of the bucket, too.
    pub bucket_settings: bool,
    /// Delete what the target has and the snapshot has not.
    pub delete_extra: bool,
    /// Write over what differs.
    pub overwrite: bool,
    /// Restore what belonged to running servers of a Milvus, too.
    pub keep_sessions: bool,
    /// Where a Milvus goes on reading its message queue becomes the queue's begin.
    pub new_queue: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// Left out of objects.
static NOTHING: BTreeSet<Vec<u8>> = BTreeSet::new();

impl Options {
    fn objects_scope(&self) -> Scope<'_> {
        Scope {
            prefix: self.objects_prefix.as_bytes(),
            keys: &self.object_keys,
            selection: &self.objects_selection,
            maps: &self.objects_maps,
            left_out: &NOTHING,
        }
    }
}

/// What happens, or would happen, to one key or object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `etcd`, `objects` or `settings`.
    pub side: &'static str,
    /// `put`, `overwrite`, `delete` or `lock`.
    pub action: &'static str,
    /// The key in the target.
    pub key: Vec<u8>,
}

/// What was done on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not there before.
    pub written: u64,
    /// Other than in the snapshot.
    pub overwritten: u64,
    /// Identical already.
    pub identical: u64,
    /// In the target only, and deleted.
    pub deleted: u64,
    /// In the target only, and left there.
    pub extra: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Of what was to be written: refused by the target.
    pub refused: u64,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Report {
    /// The snapshot.
    pub id: SessionId,
    /// The revision of etcd, where the snapshot has etcd.
    pub revision: Option<i64>,
    /// Objects that no snapshot shows to have been so at the revision: the nearest known were taken.
    pub nearest: u64,
    /// Objects of which the versions tell what was current at the revision's likely time.
    pub by_version: u64,
    /// When the revision was current, where it lies between two snapshots.
    pub when: Option<When>,
    /// Keys.
    pub etcd: Option<Counts>,
    /// The database file.
    pub file: Option<FileReport>,
    /// Objects.
    pub objects: Option<Counts>,
    /// Names of the bucket's settings that were set.
    pub settings: Vec<String>,
    /// Seconds it took.
    pub seconds: f64,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What was done as it should be and may surprise, or cannot be otherwise.
    pub notes: Vec<String>,
}

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// The target.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// The target, where it is read as a source is.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The target's settings could not be compared.
    #[error("cannot compare the bucket's settings: {0}")]
    Settings(String),
    /// The target holds something else.
    #[error(
        "{target} is not empty: {differs} {unit} differ from the snapshot and {extra} are not in it; nothing was written (for example {example:?})"
    )]
    NotEmpty {
        /// `etcd`, `the bucket` or `the directory`.
        target: &'static str,
        /// `keys`, `objects` or `files`.
        unit: &'static str,
        /// How many differ.
        differs: u64,
        /// How many are not in the snapshot.
        extra: u64,
        /// One of them.
        example: String,
    },
    /// A Milvus works on the target.
    #[error(
        "a Milvus runs on the target: {servers} servers keep keys below {sessions}; nothing was written. Stop it, \
         and wait a minute for its sessions to end"
    )]
    Running {
        /// Where their sessions are.
        sessions: String,
        /// How many.
        servers: u64,
    },
    /// A file of this machine.
    #[error("cannot sort in {0}: {1}")]
    Spool(String, std::io::Error),
}

/// The result of a restore.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Repository(error) => error.kind(),
            Error::Target(error) => error.kind(),
            Error::Source(error) => error.kind(),
            Error::Settings(_) => Kind::Failed,
            Error::NotEmpty { .. } => Kind::TargetNotEmpty,
            Error::Running { .. } => Kind::Busy,
            Error::Spool(_, error) => on_this_machine(&error.to_string()),
        }
    }
}

repository::through_repository!(Error: store::Error, tree::Error, Malformed, Interrupted);

/// A running restore.
struct Run<'a> {
    repository: &'a Repository,
    options: &'a Options,
    moment: &'a Moment,
    nodes: ReadWrite<'a>,
    /// Shown every change.
    show: &'a (dyn Fn(Change) + Sync),
    warnings: Vec<String>,
    notes: Vec<String>,
    /// Keys that are not restored.
    left_out: BTreeSet<Vec<u8>>,
    /// Logs of which later segments are not restored.
    logs: Option<Woodpecker>,
    /// Beginnings of keys whose values may change.
    rewritten: Vec<Vec<u8>>,
    /// Settings that were set.
    settings: Vec<String>,
    /// Objects that are only the nearest known.
    nearest: u64,
    /// Objects that are the version of the likely time.
    by_version: u64,
}

impl<'a> Run<'a> {
    fn new(
        repository: &'a Repository,
        moment: &'a Moment,
        options: &'a Options,
        nodes: ReadWrite<'a>,
        show: &'a (dyn Fn(Change) + Sync),
    ) -> Run<'a> {
        let (warnings, notes, left_out, rewritten, settings) = Default::default();
        let (nearest, by_version) = (0, 0);
        Run {
            repository,
            options,
            moment,
            nodes,
            show,
            warnings,
            notes,
            left_out,
            logs: None,
            rewritten,
            settings,
            nearest,
            by_version,
        }
    }
}

/// What a plan found in the target.
#[derive(Default)]
struct Plan {
    counts: Counts,
    example: Option<String>,
}

impl Plan {
    fn note(&mut self, key: &[u8]) {
        self.example.get_or_insert_with(|| String::from_utf8_lossy(key).into_owned());
    }

    /// An error where the target holds what the user has not allowed to touch or to keep.
    fn check(&self, options: &Options, target: &'static str, unit: &'static str) -> Result<()> {
        let Counts { overwritten: differs, extra, .. } = self.counts;
        let extra_allowed = extra == 0 || options.delete_extra || options.overwrite;
        if (differs == 0 || options.overwrite) && extra_allowed {
            return Ok(());
        }
        let example = self.example.clone().unwrap_or_default();
        Err(Error::NotEmpty { target, unit, differs, extra, example })
    }
}

/// Keys or problems that are counted, and the first of them named.
#[derive(Default)]
struct Listed {
    count: u64,
    named: Vec<String>,
}

impl Listed {
    fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(what());
        }
    }

    /// As a warning, if there are any.
    fn warning(self, what: &str) -> Option<String> {
        (self.count > 0).then(|| format!("{} {what}: {}", self.count, self.named.join(", ")))
    }
}

/// A key in a warning.
fn text(key: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(key))
}

/// The error for a key that the user named and the snapshot has not.
fn not_there(what: &str, key: &[u8]) -> Error {
    let key = String::from_utf8_lossy(key).into_owned();
    repository::Error::PointNotFound(format!("the snapshot has no {what} {key:?}; nothing was written"))
        .into()
}

/// What can be told from the options and the snapshot's record alone.
fn check_options(moment: &Moment, options: &Options) -> Result<()> {
    let snapshot = &moment.info.snapshot;
    let usage = |what: String| Err(repository::Error::Usage(what).into());
    let nowhere = options.bucket.is_none() && options.directory.is_none();
    if nowhere && options.etcd.is_none() && options.file.is_none() {
        return usage(
            "nowhere to restore to: name a target with --to-etcd or --to-etcd-file, --to-s3 and --to-bucket, or \
             --to-dir"
                .into(),
        );
    }
    if options.file.is_some() && snapshot.etcd.is_none() {
        return usage("this snapshot has no etcd to restore with --to-etcd-file".into());
    }
    if options.etcd.is_some() && snapshot.etcd.is_none() {
        return usage("this snapshot has no etcd to restore with --to-etcd".into());
    }
    if options.bucket.is_some() && snapshot.objects.is_none() {
        return usage("this snapshot has no objects to restore with --to-s3".into());
    }
    if options.directory.is_some() && snapshot.objects.is_none() {
        return usage("this snapshot has no objects to restore with --to-dir".into());
    }
    if options.bucket.is_none() && (options.versions || options.object_locks || options.bucket_settings) {
        let words = "--versions, --object-locks and --bucket-settings";
        return usage(format!("{words} are of a bucket: name it with --to-s3 and --to-bucket"));
    }
    if options.bucket.is_none() && options.etcd.is_none() && !options.to_prefix.is_empty() {
        return usage("--to-prefix is of a bucket: name it with --to-s3 and --to-bucket".into());
    }
    if options.versions {
        moment.with_versions()?;
    }
    if let Some(map) = conflict(&options.etcd_maps).or(conflict(&options.objects_maps)) {
        let from = String::from_utf8_lossy(&map.from);
        return usage(format!("two maps give {from:?} different new beginnings"));
    }
    Ok(())
}

/// Restores. `show` is told every change as it is made, or would be made.
pub fn run(
    repository: &Repository,
    moment: &Moment,
    options: &Options,
    show: &(dyn Fn(Change) + Sync),
) -> Result<Report> {
    let begun = Instant::now();
    check_options(moment, options)?;
    // A dry run writes nothing, not even a pin.
    let pinned =
        [Some(&moment.info), moment.earlier.as_ref()].into_iter().flatten().filter(|_| !options.dry_run);
    let sessions =
        pinned.map(|info| repository.begin_read(info.id)).collect::<repository::Result<Vec<_>>>()?;
    let now;
    let view = match sessions.last() {
        Some(session) => &session.view,
        None => {
            now = repository.view()?;
            &now
        }
    };
    let reader = repository.reader(view)?;
    let nodes = ReadWrite::new(&reader, None);
    let mut run = Run::new(repository, moment, options, nodes, show);
    let line = line_of(&view.snapshots, &moment.info);
    run.look_at_milvus()?;
    run.look_at_logs()?;
    // All targets answer before any is written to.
    let _more_sessions = run.plan_file(&line)?;
    let etcd = run.plan_etcd()?;
    let objects = match options.directory {
        Some(_) => run.restore_files()?,
        None => run.restore_objects()?,
    };
    let etcd = etcd.map(|target| run.restore_etcd(target)).transpose()?;
    let file = run.restore_file(&line)?;
    Ok(Report {
        id: moment.info.id,
        revision: moment.revision,
        nearest: run.nearest,
        by_version: run.by_version,
        when: moment.when,
        etcd,
        file,
        objects,
        settings: run.settings,
        seconds: begun.elapsed().as_secs_f64(),
        warnings: run.warnings,
        notes: run.notes,
    })
}
