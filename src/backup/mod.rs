//! Backup: sources in, a snapshot out.
//!
//! etcd first, at one revision, and objects after it: whoever writes objects before the keys that
//! refer to them (Milvus does) finds every object of that revision in the snapshot.

mod checkpoint;
mod content;
mod etcd;
mod files;
mod forecast;
mod logs;
mod objects;
mod prove;
mod settings;
mod versions;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use crate::context::{Interrupted, Nanos};
use crate::etcd::{self as member, Etcd, Status};
use crate::fault::{Kind, on_this_machine};
use crate::format::{CapturePath, EtcdCapture, Gap, ObjectCapture, Snapshot, Stored};
use crate::id::SessionId;
use crate::repository::{self, Point, Repository, SnapshotInfo, View, WriteSession, check_name};
use crate::source::{self, Bucket, BucketOptions, Directory, DirectoryOptions, Early};
use crate::store::{self, Cutter, Finished, Reader, Tuning, Writer};
use crate::tree::{self, ReadWrite};

pub use objects::Counts;

use forecast::Forecast;
use objects::Objects;

/// What to back up, and how.
#[derive(Clone)]
pub struct Options {
    /// The line of snapshots.
    pub series: String,
    /// A name for the snapshot.
    pub name: Option<String>,
    /// Tags for it.
    pub tags: Vec<String>,
    /// etcd.
    pub etcd: Option<EtcdOptions>,
    /// A bucket.
    pub objects: Option<BucketOptions>,
    /// A directory, in place of a bucket.
    pub directory: Option<DirectoryOptions>,
    /// Begin a new line where the source is not the one that the series was made from.
    pub new_line: bool,
    /// Bytes that the whole repository should not exceed: said where it will, or does.
    pub max_size: Option<u64>,
    /// Compare with the member's own hash also where it is not the first backup.
    pub prove: bool,
    /// Speed.
    pub tuning: Tuning,
}

/// An etcd to back up.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Where it is.
    pub access: member::Access,
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// The path that is to be taken, instead of the one that is chosen.
    pub capture: Option<CapturePath>,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Report {
    /// The snapshot.
    pub id: SessionId,
    /// What the repository held then, as far as this command knows.
    pub view: Arc<View>,
    /// Its line.
    pub series: String,
    /// Its name.
    pub name: Option<String>,
    /// When the capture began.
    pub time: Nanos,
    /// The snapshot it was made against.
    pub parent: Option<SessionId>,
    /// What was captured of etcd.
    pub etcd: Option<EtcdCapture>,
    /// Revisions since the parent that were not captured.
    pub gaps: Vec<Gap>,
    /// What was captured of the bucket or directory, and what was done for it.
    pub objects: Option<(ObjectCapture, Counts)>,
    /// What was done for its versions, where they were captured.
    pub versions: Option<Counts>,
    /// What was stored.
    pub stored: Stored,
    /// Requests to the source: lists, gets, heads, settings.
    pub source_requests: (u64, u64, u64, u64),
    /// Seconds it took.
    pub seconds: f64,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What was captured is not what the source says.
    pub damage: Vec<String>,
    /// What is as it should be, and worth a line.
    pub notes: Vec<String>,
}

/// Why a backup failed. Nothing was committed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// A source.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The source is another one than before.
    #[error("{0}")]
    SourceChanged(String),
    /// Two listings of one bucket disagree about what is gone.
    #[error("{0}")]
    Listing(String),
    /// A file of this machine.
    #[error("cannot sort in {0}: {1}")]
    Spool(String, std::io::Error),
}

/// The result of a backup.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Repository(error) => error.kind(),
            Error::Source(error) => error.kind(),
            Error::SourceChanged(_) => Kind::SourceChanged,
            Error::Listing(_) => Kind::Failed,
            Error::Spool(_, error) => on_this_machine(&error.to_string()),
        }
    }
}

repository::through_repository!(Error: store::Error, tree::Error, crate::format::Malformed, Interrupted);

/// Sources that answered.
struct Sources {
    etcd: Option<(Etcd, Status)>,
    bucket: Option<Bucket>,
    directory: Option<Directory>,
    /// A watch of etcd from the parent on.
    early: Cell<Option<Early>>,
}

/// A running backup.
struct Run<'a> {
    repository: &'a Repository,
    options: &'a Options,
    writer: &'a Writer,
    nodes: ReadWrite<'a>,
    cutter: Cutter,
    forecast: &'a Forecast<'a>,
    warnings: Vec<String>,
    notes: Vec<String>,
}

impl Run<'_> {
    fn spool_error(&self, error: std::io::Error) -> Error {
        Error::Spool(self.repository.spool().to_string(), error)
    }
}

/// What the sources held.
struct Captured {
    etcd: Option<EtcdCapture>,
    objects: Option<Objects>,
    warnings: Vec<String>,
    notes: Vec<String>,
}

/// Backs up.
pub fn run(repository: &Repository, options: &Options) -> Result<Report> {
    make(repository, options, None)
}

/// Backs up once more, because the last snapshot is not as it should be; its name is free for this one.
pub fn run_instead(repository: &Repository, options: &Options, last: SessionId) -> Result<Report> {
    make(repository, options, Some(last))
}

fn make(repository: &Repository, options: &Options, instead: Option<SessionId>) -> Result<Report> {
    let begun = Instant::now();
    let time = repository.context().clock.now();
    check_options(options)?;
    let sources = connect(repository, options)?;
    let forecast = Forecast::new(repository, options.max_size)?;
    let mut session = repository.begin_write(|snapshots| {
        let parent = choose_parent(snapshots, options, instead)?;
        sources.begin_watch(options, parent.as_ref());
        Ok(parent)
    })?;
    let (id, parent) = (session.sid, session.parent.clone());
    check_sides(parent.as_ref(), options)?;
    let reader = session.reader();
    let writer = session.writer(options.tuning);
    let captured = capture(options, &sources, parent.as_ref(), &forecast, &reader, &writer);
    let mut captured = match captured {
        Ok(captured) => captured,
        Err(error) => return Err(give_up(session, writer, error)),
    };
    captured.warnings.extend(session.view.damaged.iter().map(without));
    let Finished { segment, mut stored, .. } = session.finish(writer)?;
    let proving = prove::Proving { repository, options, view: &session.view, parent: parent.as_ref() };
    let damage = proving.prove(&sources, &mut captured, &segment)?;
    let (objects, versions, checkpoint) = match captured.objects {
        Some(Objects { capture, counts, versions, checkpoint }) => {
            (Some((capture, counts)), versions, Some(checkpoint))
        }
        None => (None, None, None),
    };
    let snapshot = Snapshot {
        series: options.series.clone(),
        name: options.name.clone(),
        time,
        parent: parent.as_ref().map(|parent| parent.id),
        generation: parent.as_ref().map_or(0, |parent| parent.snapshot.generation.saturating_add(1)),
        line: parent.as_ref().map_or(0, |parent| parent.snapshot.line + u32::from(options.new_line)),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        tool: concat!("icecore ", env!("CARGO_PKG_VERSION")).into(),
        tags: options.tags.clone(),
        etcd: captured.etcd.clone(),
        objects: objects.as_ref().map(|(capture, _)| capture.clone()),
        stored,
        segment,
    };
    let view = session.commit(snapshot)?;
    if let Some(checkpoint) = checkpoint {
        checkpoint.done();
    }
    captured.warnings.extend(forecast.outcome());
    stored.written_bytes = repository.requests().written.load(std::sync::atomic::Ordering::Relaxed);
    Ok(Report {
        id,
        view: view.into(),
        series: options.series.clone(),
        name: options.name.clone(),
        time,
        gaps: new_gaps(captured.etcd.as_ref(), parent.as_ref()),
        parent: parent.map(|parent| parent.id),
        etcd: captured.etcd,
        objects,
        versions,
        stored,
        source_requests: source_requests(&sources),
        seconds: begun.elapsed().as_secs_f64(),
        warnings: captured.warnings,
        damage,
        notes: captured.notes,
    })
}

/// Says of a snapshot's record that it could not be read.
fn without(damage: &repository::Error) -> String {
    format!("{damage}; this backup was made without it (`icecore check` says more)")
}

/// Requests to the bucket: lists, gets, heads, settings.
fn source_requests(sources: &Sources) -> (u64, u64, u64, u64) {
    let Some(requests) = sources.bucket.as_ref().map(|bucket| bucket.requests()) else { return (0, 0, 0, 0) };
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    (count(&requests.lists), count(&requests.gets), count(&requests.heads), count(&requests.settings))
}

/// A capture's gaps without those that its parent had.
fn new_gaps(etcd: Option<&EtcdCapture>, parent: Option<&SnapshotInfo>) -> Vec<Gap> {
    let old = parent.and_then(|parent| parent.snapshot.etcd.as_ref());
    let gaps = etcd.map_or(&[][..], |etcd| &etcd.gaps).iter();
    gaps.filter(|gap| !old.is_some_and(|old| old.gaps.contains(gap))).copied().collect()
}

fn check_options(options: &Options) -> Result<()> {
    let usage = |what: &str| Err(repository::Error::Usage(what.into()).into());
    let objects = options.objects.is_some() || options.directory.is_some();
    if options.etcd.is_none() && !objects {
        return usage("nothing to back up: name a source with --etcd, --s3 and --bucket, or --dir");
    }
    if options.objects.is_some() && options.directory.is_some() {
        return usage("a snapshot holds a bucket or a directory: use two series for both");
    }
    check_name("series", &options.series)?;
    if let Some(name) = &options.name {
        check_name("name of a snapshot", name)?;
        if name.starts_with("latest") {
            return usage("a name may not begin with \"latest\"");
        }
    }
    Ok(())
}

/// Before anything is written: a source that is down costs no session.
fn connect(repository: &Repository, options: &Options) -> Result<Sources> {
    let runtime = &repository.context().runtime;
    let etcd = options
        .etcd
        .as_ref()
        .map(|etcd| Etcd::connect(runtime, &etcd.access))
        .transpose()
        .map_err(source::Error::from)?;
    let bucket = options.objects.as_ref().map(|bucket| Bucket::open(runtime, bucket)).transpose()?;
    if let Some(bucket) = &bucket {
        bucket.check()?;
    }
    let directory = options.directory.as_ref().map(Directory::open).transpose()?;
    Ok(Sources { etcd, bucket, directory, early: Cell::default() })
}

impl Sources {
    /// Begins to watch etcd while the session is made.
    fn begin_watch(&self, options: &Options, parent: Option<&SnapshotInfo>) {
        let parent = parent.filter(|_| !options.new_line).and_then(|parent| parent.snapshot.etcd.as_ref());
        if let (Some(etcd), Some(wanted), Some(parent)) = (&self.etcd, &options.etcd, parent) {
            self.early.set(etcd::begin_watch(etcd, wanted, parent));
        }
    }
}

fn choose_parent(
    snapshots: &[SnapshotInfo],
    options: &Options,
    instead: Option<SessionId>,
) -> repository::Result<Option<SnapshotInfo>> {
    let taken = |info: &&SnapshotInfo| {
        let same = info.snapshot.series == options.series && info.snapshot.name == options.name;
        same && Some(info.id) != instead
    };
    if let Some(info) = snapshots.iter().find(taken).filter(|_| options.name.is_some()) {
        let name = options.name.as_deref().unwrap_or_default();
        return Err(repository::Error::Usage(format!("the name {name:?} is taken by snapshot {}", info.id)));
    }
    match Point::Latest(0).resolve(snapshots, &options.series) {
        Ok(moment) => Ok(Some(moment.info)),
        Err(repository::Error::PointNotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A side that the series had so far may not be left out by accident: the next whole backup would find
/// nothing to compare with.
fn check_sides(parent: Option<&SnapshotInfo>, options: &Options) -> Result<()> {
    let Some(SnapshotInfo { snapshot, .. }) = parent.filter(|_| !options.new_line) else { return Ok(()) };
    let missing = match () {
        () if snapshot.etcd.is_some() && options.etcd.is_none() => "etcd",
        () if snapshot.objects.is_some() && options.objects.is_none() && options.directory.is_none() => {
            "objects"
        }
        () => return Ok(()),
    };
    Err(Error::SourceChanged(format!(
        "snapshots of series {:?} have {missing}, and this backup names none",
        options.series
    )))
}

/// What was stored so far stays for the next run.
fn give_up(session: WriteSession, writer: Writer, error: Error) -> Error {
    // The first error is the one to tell.
    let _ = writer.give_up();
    let _ = session.give_up(&error.to_string());
    error
}

fn capture(
    options: &Options,
    sources: &Sources,
    parent: Option<&SnapshotInfo>,
    forecast: &Forecast,
    reader: &Reader,
    writer: &Writer,
) -> Result<Captured> {
    let repository = forecast.repository();
    let nodes = ReadWrite::new(reader, Some(writer));
    let mut run = Run {
        repository,
        options,
        writer,
        nodes,
        cutter: repository.cutter(),
        forecast,
        warnings: Vec::new(),
        notes: Vec::new(),
    };
    let parent_etcd = parent.and_then(|parent| parent.snapshot.etcd.as_ref());
    if let (Some((_, status)), None) = (&sources.etcd, parent_etcd) {
        forecast.add(status.db_size);
    }
    if sources.bucket.is_none() && sources.directory.is_none() {
        forecast.settle();
    }
    let etcd = match (&sources.etcd, &options.etcd) {
        (Some((etcd, status)), Some(wanted)) => {
            Some(run.etcd(etcd, status, wanted, parent_etcd, sources.early.take())?)
        }
        _ => None,
    };
    let parent_objects = parent.and_then(|parent| parent.snapshot.objects.as_ref());
    let objects = match (&sources.bucket, &sources.directory) {
        (Some(bucket), _) => Some(run.objects(bucket, parent_objects)?),
        (None, Some(directory)) => Some(run.files(directory, parent_objects)?),
        (None, None) => None,
    };
    repository.context().cancel.check()?;
    Ok(Captured { etcd, objects, warnings: run.warnings, notes: run.notes })
}
