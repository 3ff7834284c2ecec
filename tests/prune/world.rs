//! Repositories in a directory, with snapshots of a few chunks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use icecore::check;
use icecore::context::{Clock, Context, Seeded};
use icecore::format::{
    Attributes, Claim, Content, Item, ItemState, ObjectCapture, Place, Root, Segment, Snapshot, Stored,
};
use icecore::id::{ChunkId, ChunkKind, SessionId};
use icecore::repository::{self, Access, KeyCost, Repository, SnapshotInfo, WriteSession};
use icecore::storage::{Local, Location, Requests, S3Access, Storage};
use icecore::store::Tuning;
use icecore::tree::{self, Builder, ReadWrite};
use tempfile::TempDir;

use crate::common::{self, Server};

/// A directory with a repository and the caches of several machines.
pub struct World {
    directory: TempDir,
    runtime: tokio::runtime::Runtime,
    /// Where the repository is not in the directory.
    minio: Option<Server>,
}

impl World {
    pub fn new() -> World {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        World { directory: tempfile::tempdir().unwrap(), runtime, minio: None }
    }

    /// With the repository in a bucket.
    pub fn on(minio: Server) -> World {
        let (directory, runtime) = (tempfile::tempdir().unwrap(), common::runtime());
        minio.make_bucket(&runtime, "repository");
        World { directory, runtime, minio: Some(minio) }
    }

    /// Another world with the same repository, and nothing in its caches.
    pub fn copy(&self) -> World {
        let copy = World::new();
        for name in files(&self.repository_path()) {
            let (from, to) = (self.repository_path().join(&name), copy.repository_path().join(&name));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(from, to).unwrap();
        }
        copy
    }

    /// The repository as another machine sees it: with a cache and randomness of its own.
    fn machine(&self, number: u64) -> (Context, Access) {
        let mut context = Context::system(self.runtime.handle().clone());
        context.random = Arc::new(Seeded::new(fresh()));
        let (location, credentials) = match &self.minio {
            None => (Location::Local(self.repository_path()), None),
            Some(minio) => {
                let S3Access { address, credentials, .. } = minio.access();
                (Location::S3 { address, bucket: "repository".into(), prefix: String::new() }, credentials)
            }
        };
        let cache = self.cache_path(number);
        (context, Access { location, credentials, cache, upload: None, download: None })
    }

    pub fn init(&self) -> Repository {
        let (context, access) = self.machine(1);
        Repository::init(&context, &access, "passphrase", KeyCost { memory: 64, passes: 1 }).unwrap()
    }

    pub fn open(&self, number: u64) -> Repository {
        let (context, access) = self.machine(number);
        Repository::open(&context, &access, "passphrase").unwrap()
    }

    /// At another time than now.
    pub fn open_at(&self, number: u64, clock: Arc<dyn Clock>) -> Repository {
        let (context, access) = self.machine(number);
        Repository::open(&Context { clock, ..context }, &access, "passphrase").unwrap()
    }

    /// With a passphrase, if it opens it.
    pub fn open_by(&self, number: u64, passphrase: &str) -> Option<Repository> {
        let (context, access) = self.machine(number);
        Repository::open(&context, &access, passphrase).ok()
    }

    /// Behind a wrapper of the caller's.
    pub fn open_on(&self, number: u64, storage: Arc<dyn Storage>) -> Repository {
        let (context, access) = self.machine(number);
        Repository::open_on(&context, &access, storage, Arc::new(Requests::default()), "passphrase").unwrap()
    }

    pub fn local(&self) -> Local {
        Local::new(self.repository_path())
    }

    /// The program, on the first machine.
    pub fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.env("ICECORE_REPOSITORY", self.repository_path()).env("ICECORE_PASSPHRASE", "passphrase");
        command.env("ICECORE_CACHE_DIR", self.cache_path(1)).args(["--json", "--no-progress"]);
        command
    }

    pub fn cache_path(&self, number: u64) -> PathBuf {
        self.directory.path().join(format!("cache-{number}"))
    }

    pub fn repository_path(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    /// Everything that snapshots need is there and as it was written.
    pub fn is_whole(&self, machine: u64) {
        let report = check::run(&self.open(machine), check::Options { read_data: true }).unwrap();
        assert_eq!(report.damage, []);
    }
}

/// Another number each time.
fn fresh() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Bytes that do not compress.
pub fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Names of all files below.
pub fn files(path: &Path) -> BTreeSet<String> {
    let names = Local::new(path).list_all("").unwrap_or_default();
    names.into_iter().map(|listed| listed.name).collect()
}

pub fn bytes_of(path: &Path) -> u64 {
    Local::new(path).list_all("").unwrap_or_default().iter().map(|listed| listed.size).sum()
}

/// A snapshot that was made.
#[derive(Debug, Clone)]
pub struct Made {
    pub sid: SessionId,
    pub contents: Vec<Vec<u8>>,
    pub chunks: Vec<ChunkId>,
    /// Whether each had to be stored.
    pub new: Vec<bool>,
}

impl Made {
    /// Every content is as it was, and the tree that refers to them too.
    pub fn reads_back(&self, repository: &Repository) {
        let reader = repository.reader(&repository.view().unwrap()).unwrap();
        for (id, content) in self.chunks.iter().zip(&self.contents) {
            assert_eq!(reader.get(ChunkKind::Data, id).unwrap(), *content, "{}", self.sid);
        }
        let claim = repository.claim(self.sid).unwrap();
        let Claim::Snapshot(snapshot) = claim else { panic!("{} is no snapshot", self.sid) };
        let nodes = ReadWrite::new(&reader, None);
        let root = snapshot.objects.as_ref().unwrap().root;
        let entries = tree::scan(&nodes, root.as_ref(), b"").unwrap();
        let entries = entries.collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(entries.len(), self.contents.len());
    }
}

fn latest(snapshots: &[SnapshotInfo]) -> repository::Result<Option<SnapshotInfo>> {
    Ok(snapshots.last().cloned())
}

pub fn begin(repository: &Repository) -> WriteSession<'_> {
    repository.begin_write(latest).unwrap()
}

pub fn store(repository: &Repository, contents: &[&[u8]]) -> Made {
    store_with(repository, begin(repository), contents)
}

pub fn store_with(repository: &Repository, session: WriteSession, contents: &[&[u8]]) -> Made {
    try_store(repository, session, contents).unwrap()
}

/// A snapshot of one object for each content.
pub fn try_store(
    repository: &Repository,
    session: WriteSession,
    contents: &[&[u8]],
) -> Result<Made, repository::Error> {
    let (writer, reader) = (session.writer(Tuning::default()), session.reader());
    let (mut chunks, mut new) = (Vec::new(), Vec::new());
    let nodes = ReadWrite::new(&reader, Some(&writer));
    let shape = repository.shape(repository.config().trees.objects);
    let mut builder = Builder::new(&nodes, shape);
    for (content, n) in contents.iter().zip(0u32..) {
        let written = writer.put(ChunkKind::Data, *content)?;
        chunks.push(written.id);
        new.push(written.new);
        let item = Item {
            state: ItemState::Present,
            size: content.len() as u64,
            modified: 0,
            content: Content::Chunks(vec![(written.id, content.len() as u32)]),
            attributes: Attributes::Object(Box::default()),
        };
        builder.push(format!("object-{n:06}").into_bytes(), item.encode(), item.size)?;
    }
    let root = builder.finish()?;
    let segment = writer.finish()?.segment;
    let sid = session.sid;
    let parent = session.parent.as_ref().map(|parent| parent.id);
    session.commit(snapshot(root, parent, segment, fresh() as i64))?;
    Ok(Made { sid, contents: contents.iter().map(|content| content.to_vec()).collect(), chunks, new })
}

pub fn snapshot(root: Option<Root>, parent: Option<SessionId>, segment: Segment, time: i64) -> Snapshot {
    let objects = ObjectCapture {
        place: Place::Bucket { name: "bucket".into(), prefix: String::new() },
        include: vec![],
        exclude: vec![],
        root,
        with_versions: false,
        versions: None,
        settings: vec![],
        listed: time,
        gone: 0,
        unreadable: 0,
    };
    Snapshot {
        series: "default".into(),
        name: None,
        time,
        parent,
        line: 0,
        generation: 0,
        host: "host".into(),
        tool: "test".into(),
        tags: vec![],
        etcd: None,
        objects: Some(objects),
        stored: Stored::default(),
        segment,
    }
}

pub fn forget(repository: &Repository, made: &Made) {
    let view = repository.view().unwrap();
    let info = view.snapshots.iter().find(|info| info.id == made.sid).unwrap();
    icecore::forget::forget(repository, info).unwrap();
}
