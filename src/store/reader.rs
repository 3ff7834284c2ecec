//! Gives content out: find, fetch, open, verify.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use bytes::Bytes;

use super::blocks::Blocks;
use super::index::Cursor;
use super::{Early, Error, Index, Listing, PackCache, PackReader, Place, Result, unshared};
use crate::fault::Kind;
use crate::format::{Malformed, Name, PackedChunk, Segment};
use crate::id::{ChunkId, ChunkKind, PackId};
use crate::memory::Memory;
use crate::mutex::lock;
use crate::pool;
use crate::secret::{ChunkNamer, SealSecret};
use crate::storage::{self, Storage};

/// The index is made anew this often in vain before what is missing is believed to be.
const RELOADS: u32 = 3;
/// And so often for one chunk, however fast collections follow each other.
const TRIES: usize = 32;

/// Makes an index of what is there now.
pub type Reload = Box<dyn Fn() -> Result<Arc<Index>> + Send + Sync>;

/// Reads chunks of a repository.
pub struct Reader {
    storage: Arc<dyn Storage>,
    index: RwLock<Arc<Index>>,
    reload: Option<Reload>,
    in_vain: AtomicU32,
    namer: ChunkNamer,
    seal: SealSecret,
    cache: Option<Arc<PackCache>>,
    blocks: Blocks,
    memory: Memory,
    /// Held by who fetches a tree pack: whoever else comes for it waits once, and looks whether it is here.
    fetching: [Mutex<()>; 64],
    /// Of packs that no segment lists yet.
    unlisted: HashMap<ChunkId, Place>,
}

/// Where many chunks are.
pub struct LookUp<'a> {
    cursor: Cursor<'a>,
    unlisted: &'a HashMap<ChunkId, Place>,
}

impl LookUp<'_> {
    /// Where a chunk is.
    pub fn places(&mut self, id: &ChunkId) -> Result<Vec<Place>> {
        let mut places = self.cursor.find(id)?;
        places.extend(self.unlisted.get(id));
        Ok(places)
    }
}

impl Reader {
    /// Reads what `index` knows from `storage`; tree packs through `cache`.
    pub fn new(
        storage: Arc<dyn Storage>,
        index: Arc<Index>,
        namer: ChunkNamer,
        seal: SealSecret,
        cache: Option<Arc<PackCache>>,
        memory: Memory,
    ) -> Reader {
        let blocks = Blocks::new(storage.clone(), memory.blocks(), memory.early());
        let (index, in_vain) = (RwLock::new(index), AtomicU32::new(0));
        let fetching = std::array::from_fn(|_| Mutex::default());
        let unlisted = HashMap::new();
        Reader {
            storage,
            index,
            reload: None,
            in_vain,
            namer,
            seal,
            cache,
            blocks,
            memory,
            fetching,
            unlisted,
        }
    }

    /// Reads what `segment` lists, too: durable packs of a snapshot that is not there yet.
    pub fn also(mut self, segment: &Segment) -> Reader {
        for pack in &segment.packs {
            let pack_size = u32::try_from(pack.size).unwrap_or(u32::MAX);
            for (chunk, position) in pack.chunks.iter().zip(0..) {
                let &PackedChunk { id, offset, stored, plain } = chunk;
                self.unlisted.insert(id, Place { pack: pack.id, pack_size, position, offset, stored, plain });
            }
        }
        self
    }

    /// With a way to look again when a chunk is not where the index says: a prune on another machine may
    /// have moved it.
    pub fn reloading(self, reload: Reload) -> Reader {
        Reader { reload: Some(reload), ..self }
    }

    fn index(&self) -> Arc<Index> {
        self.index.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The plain bytes of a chunk, verified. Where one copy is damaged, another is taken. What is missing is
    /// looked for anew: collections move what is needed, as often as they run.
    pub fn get(&self, kind: ChunkKind, id: &ChunkId) -> Result<Bytes> {
        let mut index = self.index();
        for tries in 0.. {
            let failure = match self.get_by(&index, kind, id) {
                Err(error) if is_missing(&error) && tries < TRIES => error,
                found => {
                    if tries > 0 && found.is_ok() {
                        self.in_vain.store(0, Ordering::Relaxed);
                    }
                    return found;
                }
            };
            match self.newer(&index)? {
                Some(newer) => index = newer,
                None => return Err(failure),
            }
        }
        Err(Error::Missing { kind, id: *id })
    }

    /// An index that is newer than one by which something was missing. Who else has met that may have made it.
    fn newer(&self, than: &Arc<Index>) -> Result<Option<Arc<Index>>> {
        let Some(reload) = &self.reload else { return Ok(None) };
        let mut now = self.index.write().unwrap_or_else(|e| e.into_inner());
        if Arc::ptr_eq(&now, than) {
            if self.in_vain.fetch_add(1, Ordering::Relaxed) >= RELOADS {
                return Ok(None);
            }
            *now = reload()?;
        }
        Ok(Some(now.clone()))
    }

    fn get_by(&self, index: &Index, kind: ChunkKind, id: &ChunkId) -> Result<Bytes> {
        let (mut gone, mut damaged) = (None, None);
        for place in self.places_by(index, id)? {
            match self.read(kind, id, &place) {
                Err(Error::Storage(error)) if error.is_not_found() => {
                    let file = Name::Pack(kind, place.pack).to_string();
                    gone = Some(Error::Damaged { file, what: Malformed::Missing });
                }
                Err(Error::Storage(error)) => return Err(error.into()),
                Err(error) => damaged = Some(error),
                plain => return plain,
            }
        }
        // A copy that is gone may have been moved, so that is told first.
        Err(gone.or(damaged).unwrap_or(Error::Missing { kind, id: *id }))
    }

    /// Reads everything from the medium: what this machine keeps says nothing about what is there.
    pub fn from_the_medium(mut self) -> Reader {
        self.cache = None;
        self
    }

    /// The plain bytes of the copy at this place, verified.
    pub fn read_at(&self, kind: ChunkKind, id: &ChunkId, place: &Place) -> Result<Bytes> {
        self.read(kind, id, place)
    }

    /// Fetches the tree packs of these nodes, of a repository of which they are kept on this machine: side by side,
    /// and no more of them than can be. So many nodes it got to. Of a server that is gone it is told at once; what
    /// else fails is told to whoever reads it.
    pub fn prefetch(&self, nodes: &[ChunkId]) -> Result<usize> {
        let Some(cache) = &self.cache else { return Ok(nodes.len()) };
        let index = self.index();
        let mut absent: Vec<PackId> = Vec::new();
        let (mut got_to, mut bytes) = (0, 0);
        for id in nodes {
            let place = self.places_by(&index, id)?.first().copied();
            if let Some(place) = place.filter(|p| !absent.contains(&p.pack) && !cache.has(p.pack)) {
                bytes += place.pack_size as usize;
                let full = absent.len() == self.storage.at_once() || bytes > self.memory.trees();
                if full && !absent.is_empty() {
                    break;
                }
                absent.push(place.pack);
            }
            got_to += 1;
        }
        let fetched = pool::each(&absent, |&pack| {
            let _alone = self.fetching(pack);
            if cache.has(pack) {
                return Ok(());
            }
            let whole = self.storage.get(&Name::Pack(ChunkKind::Node, pack).to_string())?;
            cache.keep(pack, &whole);
            Ok(())
        });
        let is_gone = |error: &storage::Error| matches!(error.kind(), Kind::Unreachable | Kind::Interrupted);
        match fetched.into_iter().filter_map(storage::Result::err).find(is_gone) {
            Some(error) => Err(error.into()),
            None => Ok(got_to),
        }
    }

    /// Whether the repository is far away, so that it pays to ask early for what is wanted.
    pub fn is_remote(&self) -> bool {
        self.storage.is_remote()
    }

    /// Has a chunk of contents fetched that is wanted soon.
    pub fn ask(&self, id: &ChunkId) -> Result<Early> {
        if !self.is_remote() {
            return Ok(Early::Needless);
        }
        let places = self.places(id)?;
        let Some(place) = places.first() else { return Ok(Early::Needless) };
        Ok(self.blocks.ask(place))
    }

    /// Every valid segment with its packs.
    pub fn listings(&self) -> Result<Vec<Listing>> {
        self.index().listings()
    }

    /// Where a chunk is.
    pub fn places(&self, id: &ChunkId) -> Result<Vec<Place>> {
        self.places_by(&self.index(), id)
    }

    /// Lets `look` look many chunks up, which is fast in the order of their names.
    pub fn look_up<T>(&self, look: impl FnOnce(&mut LookUp) -> T) -> T {
        let index = self.index();
        look(&mut LookUp { cursor: index.cursor(), unlisted: &self.unlisted })
    }

    fn places_by(&self, index: &Index, id: &ChunkId) -> Result<Vec<Place>> {
        let mut places = index.find(id)?;
        places.extend(self.unlisted.get(id));
        Ok(places)
    }

    /// Waits for whoever fetches a pack. Nothing then: where that one failed, the others do not wait for each other.
    fn fetching(&self, pack: PackId) -> Option<MutexGuard<'_, ()>> {
        let [first, ..] = pack.0;
        let one = &self.fetching[usize::from(first) % self.fetching.len()];
        match one.try_lock() {
            Ok(alone) => Some(alone),
            Err(_) => {
                drop(lock(one));
                None
            }
        }
    }

    fn read(&self, kind: ChunkKind, id: &ChunkId, place: &Place) -> Result<Bytes> {
        let open = |sealed: Bytes| {
            let &Place { offset, stored, plain, position, pack, .. } = place;
            let chunk = PackedChunk { id: *id, offset, stored, plain };
            PackReader::new(pack, kind, &self.seal).open(&self.namer, position, &chunk, &mut unshared(sealed))
        };
        if let (ChunkKind::Node, Some(cache)) = (kind, &self.cache) {
            let here = || {
                let sealed = cache.read(place.pack, place.offset.into(), place.stored as usize)?;
                open(sealed).ok()
            };
            if let Some(plain) = here() {
                return Ok(plain);
            }
            let _alone = self.fetching(place.pack);
            if let Some(plain) = here() {
                return Ok(plain);
            }
            let whole = self.storage.get(&Name::Pack(kind, place.pack).to_string())?;
            cache.keep(place.pack, &whole);
            let range = place.offset as usize..place.offset as usize + place.stored as usize;
            let sealed = whole.get(range).ok_or_else(|| Error::Damaged {
                file: Name::Pack(kind, place.pack).to_string(),
                what: Malformed::Length(whole.len()),
            })?;
            return open(Bytes::copy_from_slice(sealed));
        }
        let sealed = self.blocks.read(kind, place)?;
        if sealed.len() < place.stored as usize {
            let what = Malformed::Length(place.offset as usize + sealed.len());
            return Err(Error::Damaged { file: Name::Pack(kind, place.pack).to_string(), what });
        }
        open(sealed)
    }
}

/// Whether a collection may have moved it.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Missing { .. } | Error::Damaged { what: Malformed::Missing, .. })
}
