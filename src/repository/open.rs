//! Making and opening a repository.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::keys::{self, KeyCost};
use super::state::spool_failed;
use super::{Error, Result};
use crate::context::Context;
use crate::fault::Kind;
use crate::format::{
    Chunker, Config, FORMAT, Malformed, Name, Record, Snapshot, TreeShape, Trees, open, seal,
};
use crate::id::{ChunkKind, PackId, RepositoryId, SessionId};
use crate::mutex::lock;
use crate::pool;
use crate::secret::{ChunkNamer, ContentSecret, SealKey, SealSecret};
use crate::sorter::Spool;
use crate::storage::{
    Cause, Counted, CredentialVars, Limited, Local, Location, Patience, Requests, Retried, S3, S3Access,
    Storage, arbitrates, connect,
};
use crate::store::{Cutter, PackCache};
use crate::tree::Shape;

/// Tree packs of remote repositories are kept on this machine up to this many bytes.
const PACK_CACHE: u64 = 2 << 30;

/// Where a repository is and how it is reached.
#[derive(Clone)]
pub struct Access {
    /// The medium.
    pub location: Location,
    /// For S3; `None` for the SDK's usual chain.
    pub credentials: Option<CredentialVars>,
    /// Where the index and other caches of this machine live.
    pub cache: PathBuf,
    /// Bytes a second to the medium.
    pub upload: Option<u64>,
    /// Bytes a second from the medium.
    pub download: Option<u64>,
}

/// An open repository.
#[derive(Clone)]
pub struct Repository {
    context: Context,
    storage: Arc<dyn Storage>,
    requests: Arc<Requests>,
    id: RepositoryId,
    config: Config,
    key_id: String,
    content: ContentSecret,
    seal: SealSecret,
    records: Arc<SealKey>,
    cache: PathBuf,
    pack_cache: Option<Arc<PackCache>>,
    seen: Arc<Mutex<Seen>>,
}

/// How a session ended: in a snapshot, or without.
pub(super) type Ended = Option<Arc<Snapshot>>;

/// Sessions that the last look at the repository found to have ended.
pub(super) type Seen = HashMap<SessionId, Ended>;

/// This machine's name.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn default_config(context: &Context, single_writer: bool) -> Config {
    let shape = |window| TreeShape { window, most: 16 * window, key_bytes: 1 << 20 };
    Config {
        created: context.clock.now(),
        chunker: Chunker { min: 256 << 10, average: 1 << 20, max: 4 << 20 },
        trees: Trees { anchor: shape(50), history: shape(50), objects: shape(16), content: shape(50) },
        single_writer,
    }
}

/// The medium behind its wrappers, and what counts its requests.
fn medium(context: &Context, access: &Access) -> Result<(Arc<dyn Storage>, Arc<Requests>)> {
    let requests = Arc::new(Requests::default());
    let storage: Arc<dyn Storage> = match &access.location {
        Location::Local(path) => wrap(context, access, Local::new(path), &requests),
        Location::S3 { address, bucket, prefix } => {
            let s3 =
                S3Access { address: address.clone(), credentials: access.credentials.clone(), attempts: 1 };
            let client = context.runtime.block_on(connect(&s3)).map_err(|e| Error::Client(e.to_string()))?;
            let name = access.location.to_string();
            wrap(context, access, S3::new(client, context.runtime.clone(), bucket, prefix, &name), &requests)
        }
    };
    Ok((storage, requests))
}

fn wrap<S: Storage + 'static>(
    context: &Context,
    access: &Access,
    storage: S,
    requests: &Arc<Requests>,
) -> Arc<dyn Storage> {
    let counted = Counted::new(storage, requests.clone());
    let limited = Limited::new(counted, access.upload, access.download, context.cancel.clone());
    let (random, cancel) = (context.random.clone(), context.cancel.clone());
    Arc::new(Retried::new(limited, Patience::default(), random, cancel))
}

impl Repository {
    /// Makes a repository.
    pub fn init(context: &Context, access: &Access, passphrase: &str, cost: KeyCost) -> Result<Repository> {
        let (storage, requests) = medium(context, access)?;
        let there = storage.get(&Name::Config.to_string());
        match there {
            Ok(_) => return Err(Error::AlreadyThere(storage.medium().to_string())),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
        let single_writer = !arbitrates(&*storage, &*context.random)?;
        let config = default_config(context, single_writer);
        let id = RepositoryId::draw(&*context.random);
        let content = ContentSecret::draw(&*context.random);
        let seal_secret = SealSecret::draw(&*context.random);
        // The key first: a config without a key would be a repository that nobody can open.
        let key_id = keys::store(context, &*storage, id, (&content, &seal_secret), passphrase, cost)?;
        let name = Name::Config.to_string();
        let clear = config_clear(id);
        let bytes = seal(&config, &clear, &seal_secret.records(), id, &name, &*context.random);
        if let Err(error) = storage.put(&name, bytes.into()) {
            // Without a clear answer it may be there, and then only this key opens it.
            if matches!(error.cause, Cause::Exists | Cause::Refused(..)) {
                let _ = storage.delete(&Name::Key(&key_id).to_string());
            }
            let taken = error.is_exists();
            let medium = storage.medium().to_string();
            return Err(if taken { Error::AlreadyThere(medium) } else { error.into() });
        }
        let opened = keys::Opened { id: key_id, content, seal: seal_secret };
        Ok(Repository::assemble(context, access, storage, requests, id, config, opened))
    }

    /// Opens a repository; a wrong passphrase is told at once.
    pub fn open(context: &Context, access: &Access, passphrase: &str) -> Result<Repository> {
        let (storage, requests) = medium(context, access)?;
        Repository::open_on(context, access, storage, requests, passphrase)
    }

    /// Opens the repository on a medium that is there already, behind wrappers of the caller's.
    pub fn open_on(
        context: &Context,
        access: &Access,
        storage: Arc<dyn Storage>,
        requests: Arc<Requests>,
        passphrase: &str,
    ) -> Result<Repository> {
        let name = Name::Config.to_string();
        let (bytes, key_ids) = pool::both(|| storage.get(&name), || keys::ids(&*storage));
        let bytes = match bytes {
            Err(e) if e.is_not_found() => return Err(Error::NoRepository(storage.medium().to_string())),
            bytes => bytes?,
        };
        let damaged = |what| Error::Damaged { file: name.clone(), what };
        let id = parse_clear(&bytes).map_err(damaged)?;
        let opened = match keys::open_any(&*storage, &key_ids?, id, passphrase) {
            // The first key is there before the config is, but its listing began before that was there. And a key may
            // have made room for another one since.
            Err(error) if matches!(error.kind(), Kind::Damage | Kind::NotFound) => {
                keys::open_any(&*storage, &keys::ids(&*storage)?, id, passphrase)
            }
            opened => opened,
        }?;
        let config = open(&bytes, &opened.seal.records(), id, &name).map_err(|what| match what {
            // The clear part, which is sound, says that this version can read it.
            Malformed::Newer { .. } => Malformed::Content,
            what => what,
        });
        let config: Config = config.map_err(damaged)?;
        check_config(&config).map_err(damaged)?;
        Ok(Repository::assemble(context, access, storage, requests, id, config, opened))
    }

    fn assemble(
        context: &Context,
        access: &Access,
        storage: Arc<dyn Storage>,
        requests: Arc<Requests>,
        id: RepositoryId,
        config: Config,
        opened: keys::Opened,
    ) -> Repository {
        let cache = access.cache.join(id.to_string());
        let pack_cache =
            storage.is_remote().then(|| Arc::new(PackCache::new(&cache.join("trees"), PACK_CACHE)));
        let records = Arc::new(opened.seal.records());
        let keys::Opened { id: key_id, content, seal } = opened;
        let context = context.clone();
        Repository {
            context,
            storage,
            requests,
            id,
            config,
            key_id,
            content,
            seal,
            records,
            cache,
            pack_cache,
            seen: Arc::default(),
        }
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Whether only one backup may run at a time: the medium does not arbitrate between writers. Tried
    /// when the repository is made, and once from every machine.
    pub fn single_writer(&self) -> Result<bool> {
        const ANSWERS: [&[u8]; 2] = [b"no", b"yes"];
        if self.config.single_writer {
            return Ok(true);
        }
        let kept = self.cache.join("arbitrates");
        // Anything else was cut off.
        let answer = std::fs::read(&kept).ok();
        if let Some(arbitrates) = ANSWERS.iter().position(|known| answer.as_deref() == Some(*known)) {
            return Ok(arbitrates == 0);
        }
        let arbitrates = match arbitrates(&*self.storage, &*self.context.random) {
            // Keys that may only add backups cannot try.
            Err(error) if error.kind() == crate::fault::Kind::Denied => return Ok(false),
            answer => answer?,
        };
        // Failing to remember costs another try.
        let _ = std::fs::create_dir_all(&self.cache);
        let _ = std::fs::write(kept, ANSWERS[usize::from(arbitrates)]);
        Ok(!arbitrates)
    }

    /// What the command got from outside.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The medium.
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub(super) fn shared_storage(&self) -> Arc<dyn Storage> {
        self.storage.clone()
    }

    /// Requests made to the medium so far.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// The repository's id.
    pub fn id(&self) -> RepositoryId {
        self.id
    }

    /// Parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    pub(super) fn secrets(&self) -> (&ContentSecret, &SealSecret) {
        (&self.content, &self.seal)
    }

    /// The secret that seals packs.
    pub fn seal_secret(&self) -> &SealSecret {
        &self.seal
    }

    /// Names chunks.
    pub fn namer(&self) -> ChunkNamer {
        self.content.namer()
    }

    /// Cuts content.
    pub fn cutter(&self) -> Cutter {
        Cutter::new(&self.content, self.config.chunker)
    }

    /// How a tree with these sizes is cut here.
    pub fn shape(&self, sizes: TreeShape) -> Shape {
        Shape { sizes, key: self.content.boundary() }
    }

    /// Where this machine keeps what belongs to the repository.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where large intermediate files go.
    pub fn spool(&self) -> Spool {
        Spool::new(self.cache.join("spool"), self.context.memory.sorted())
    }

    /// What a failure there is told as.
    pub fn spool_failed(&self, error: std::io::Error) -> Error {
        spool_failed(&self.spool(), error)
    }

    pub(super) fn pack_cache(&self) -> Option<Arc<PackCache>> {
        self.pack_cache.clone()
    }

    /// Reads and opens a record.
    pub fn record<T: Record>(&self, name: &str) -> Result<T> {
        let bytes = self.storage.get(name)?;
        self.open_record(name, &bytes)
    }

    /// Opens a record's bytes.
    pub(super) fn open_record<T: Record>(&self, name: &str, bytes: &[u8]) -> Result<T> {
        open(bytes, &self.records, self.id, name).map_err(|what| Error::Damaged { file: name.into(), what })
    }

    /// The bytes of a record.
    pub(super) fn seal_record<T: Record>(&self, name: &str, record: &T) -> Vec<u8> {
        seal(record, &[], &self.records, self.id, name, &*self.context.random)
    }

    /// Creates the record's file.
    pub fn put_record<T: Record>(&self, name: &str, record: &T) -> Result<()> {
        Ok(self.storage.put(name, self.seal_record(name, record).into())?)
    }

    /// Opens a key of the records for a thread of its own.
    pub(super) fn records_key(&self) -> SealKey {
        self.seal.records()
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        self.storage.list("", &mut |listed| {
            bytes += listed.size;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// The name and size of every pack.
    pub fn packs(&self) -> Result<Vec<(ChunkKind, PackId, u64)>> {
        let listed = pool::each(&[ChunkKind::Data, ChunkKind::Node], |&kind| {
            let mut packs = Vec::new();
            self.storage.list(&format!("packs/{}/", kind.folder()), &mut |listed| {
                let id = listed.name.rsplit('/').next().and_then(|id| id.parse().ok());
                // Names that are not ours are left alone.
                packs.extend(id.map(|id| (kind, id, listed.size)));
                Ok(())
            })?;
            Ok(packs)
        });
        Ok(listed.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }
}

/// Where the clear part of `config` begins.
const CLEAR_AT: usize = 12;

/// The clear part of `config`: format version, repository id, and eight bytes of their hash. Everything
/// else is bound to the id, so that a flipped bit in it would look like a wrong passphrase.
fn config_clear(id: RepositoryId) -> Vec<u8> {
    let said = [&FORMAT.to_le_bytes()[..], &id.0].concat();
    [&said[..], &blake3::hash(&said).as_bytes()[..8]].concat()
}

/// The repository's id from the bytes of `config`.
fn parse_clear(config: &[u8]) -> std::result::Result<RepositoryId, Malformed> {
    let clear: Option<&[u8; 26]> = config.get(CLEAR_AT..).and_then(|rest| rest.first_chunk());
    let (said, hash) = clear.ok_or(Malformed::Length(config.len()))?.split_at(18);
    if blake3::hash(said).as_bytes()[..8] != *hash {
        return Err(Malformed::Content);
    }
    let found = u16::from_le_bytes([said[0], said[1]]);
    if found > FORMAT {
        return Err(Malformed::Newer { found, known: FORMAT });
    }
    said[2..].try_into().map(RepositoryId).map_err(|_| Malformed::Length(config.len()))
}

/// Parameters that later arithmetic relies on.
fn check_config(config: &Config) -> std::result::Result<(), Malformed> {
    let Chunker { min, average, max } = config.chunker;
    let even = [min, average, max].iter().all(|size| size % 2 == 0);
    let chunker = even && 64 <= min && min <= average && average <= max && max <= 64 << 20;
    let Trees { anchor, history, objects, content } = config.trees;
    let shape =
        |s: &TreeShape| s.window >= 2 && s.most >= 4 * s.window && s.most <= 100_000 && s.key_bytes >= 1024;
    let sound = chunker && [anchor, history, objects, content].iter().all(shape);
    if sound { Ok(()) } else { Err(Malformed::Decode("its parameters are out of bounds".into())) }
}
