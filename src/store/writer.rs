//! Takes content in: name, look up, compress, seal, pack, put.
//!
//! Naming and looking up happen on the caller's thread, so that it learns the id at once. New chunks
//! go through a bounded queue to encoder threads, which compress them and seal them into the open
//! pack of their kind, or the caller does that itself; full packs go to uploader threads. A chunk counts as stored
//! only when [`Writer::finish`] returned, or its segment is durable.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::own::Own;
use super::pack::PackBuilder;
use super::{Error, Index, PackCache, Result, chunk};
use crate::context::{Cancel, Random};
use crate::format::{Name, PackEntry, Segment, Stored};
use crate::id::{ChunkId, ChunkKind, PackId};
use crate::memory::Memory;
use crate::mutex::lock;
use crate::pool::cores;
use crate::progress::{Amount, Phase, Progress};
use crate::secret::{ChunkNamer, SealSecret};
use crate::storage::Storage;

/// Content from this size on is handed over to an encoder.
const HANDED_OVER_FROM: usize = 64 << 10;
/// What a pack may have beyond its size: the last chunk and the footer.
const BEYOND: usize = 5 << 20;

/// Sizes and counts that do not change what is stored, only how fast and in what files.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Threads that compress and seal.
    pub encoders: usize,
    /// Packs uploaded at once.
    pub uploaders: usize,
    /// Ids of its own chunks that a run holds in memory.
    pub ids: usize,
    /// A data pack is full from here.
    pub data_pack: usize,
    /// A tree pack is full from here.
    pub tree_pack: usize,
    /// A segment is written after this much time, so that an interrupted run is not lost.
    pub segment_every: Duration,
    /// And after this many chunks.
    pub segment_chunks: usize,
    /// A last segment of up to this many chunks travels inside the snapshot.
    pub inline_chunks: usize,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning::within(Memory::USUAL)
    }
}

impl Tuning {
    /// What fits into a budget.
    pub fn within(memory: Memory) -> Tuning {
        Tuning {
            encoders: cores(),
            uploaders: memory.uploads(),
            ids: memory.ids(),
            data_pack: 32 << 20,
            tree_pack: 8 << 20,
            segment_every: Duration::from_secs(60),
            segment_chunks: 100_000,
            inline_chunks: 128,
        }
    }
}

/// Stores a segment under its number.
pub type PutSegment = Box<dyn Fn(u32, &Segment) -> Result<()> + Send + Sync>;

/// What a writer stands on.
pub struct WriterParts {
    /// Where packs and segments go.
    pub storage: Arc<dyn Storage>,
    /// What is there already.
    pub index: Arc<Index>,
    /// Names chunks.
    pub namer: ChunkNamer,
    /// Seals packs.
    pub seal: SealSecret,
    /// For pack ids.
    pub random: Arc<dyn Random>,
    /// Where tree packs are kept on this machine.
    pub cache: Option<Arc<PackCache>>,
    /// A directory for this run alone; it need not exist and goes with the run.
    pub scratch: PathBuf,
    /// Seals a segment and puts it under the given number.
    pub put_segment: PutSegment,
    /// The wish to stop.
    pub cancel: Cancel,
    /// Told of packs that are stored while the run finishes.
    pub progress: Arc<dyn Progress>,
}

/// A chunk's name, and whether this call was the first to bring it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its name.
    pub id: ChunkId,
    /// Nothing stored it before.
    pub new: bool,
}

/// What is left to say in the snapshot once everything is durable.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// Packs that no segment lists.
    pub segment: Segment,
    /// How many segments were put.
    pub segments: u32,
    /// What was stored.
    pub stored: Stored,
}

struct Job {
    kind: ChunkKind,
    id: ChunkId,
    plain: Vec<u8>,
}

struct FullPack {
    entry: PackEntry,
    bytes: Bytes,
}

/// Durable packs that no segment lists yet.
struct Unlisted {
    segment: Segment,
    next: u32,
    since: Instant,
}

struct Shared {
    parts: WriterParts,
    tuning: Tuning,
    /// Chunks that this run stores.
    own: Mutex<Own>,
    open: [Mutex<Option<PackBuilder>>; 2],
    /// Memory of packs that are stored.
    spare: [Mutex<Vec<BytesMut>>; 2],
    unlisted: Mutex<Unlisted>,
    failure: Mutex<Option<Error>>,
    failed: AtomicBool,
    finishing: AtomicBool,
    /// Objects that are being read.
    feeding: AtomicUsize,
    new_chunks: AtomicU64,
    new_bytes: AtomicU64,
    written: AtomicU64,
}

/// While it is held an object is being read into the writer.
pub struct Feeding<'a>(&'a AtomicUsize);

impl Drop for Feeding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A run that stores content.
pub struct Writer {
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    packs: Option<Sender<FullPack>>,
    encoders: Vec<JoinHandle<()>>,
    uploaders: Vec<JoinHandle<()>>,
}

impl Writer {
    /// Starts the threads.
    pub fn start(parts: WriterParts, tuning: Tuning) -> Writer {
        let unlisted = Unlisted { segment: Segment::default(), next: 0, since: Instant::now() };
        let shared = Arc::new(Shared {
            own: Mutex::new(Own::new(parts.scratch.clone(), tuning.ids)),
            parts,
            tuning,
            open: Default::default(),
            spare: Default::default(),
            unlisted: Mutex::new(unlisted),
            failure: Mutex::default(),
            failed: AtomicBool::new(false),
            finishing: AtomicBool::new(false),
            feeding: AtomicUsize::new(0),
            new_chunks: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        let (jobs, jobs_in) = bounded(2 * tuning.encoders);
        // None waits beside those that are put: each is as large as a pack.
        let (packs, packs_in) = bounded(0);
        let encoders = (0..tuning.encoders).map(|_| {
            let (shared, jobs, packs) = (shared.clone(), jobs_in.clone(), packs.clone());
            std::thread::spawn(move || shared.encode_all(&jobs, &packs))
        });
        let encoders = encoders.collect();
        let uploaders = (0..tuning.uploaders).map(|_| {
            let (shared, packs) = (shared.clone(), packs_in.clone());
            std::thread::spawn(move || shared.upload(&packs))
        });
        let uploaders = uploaders.collect();
        Writer { shared, jobs: Some(jobs), packs: Some(packs), encoders, uploaders }
    }

    /// Stores one chunk unless it is there.
    pub fn put<'p>(&self, kind: ChunkKind, plain: impl Into<Cow<'p, [u8]>>) -> Result<Written> {
        let (shared, plain) = (&self.shared, plain.into());
        shared.check()?;
        let id = shared.parts.namer.name(kind, &plain);
        if !lock(&shared.own).insert(id)? {
            return Ok(Written { id, new: false });
        }
        if shared.parts.index.reusable(&id)? {
            // The index knows it; only chunks of this run need to be remembered.
            lock(&shared.own).take_back(&id);
            return Ok(Written { id, new: false });
        }
        shared.account(kind, plain.len());
        self.send(kind, id, plain)?;
        Ok(Written { id, new: true })
    }

    /// Stores a chunk as it is encoded already, unless this run has. Who gives it has opened and named it.
    pub fn put_encoded(&self, kind: ChunkKind, id: ChunkId, encoded: &[u8], plain: u32) -> Result<()> {
        let shared = &self.shared;
        shared.check()?;
        let Some(packs) = &self.packs else { return Err(shared.stopped()) };
        if lock(&shared.own).insert(id)? {
            shared.account(kind, plain as usize);
            shared.append(kind, id, encoded, plain, packs);
        }
        shared.check()
    }

    /// Whether what this run makes may refer to a chunk that an earlier run stored.
    pub fn reusable(&self, id: &ChunkId) -> Result<bool> {
        self.shared.parts.index.reusable(id)
    }

    /// Tells that somebody reads an object into this writer. As long as enough do, each encodes what it brings
    /// itself, while that is still in its core's cache.
    pub fn feeding(&self) -> Feeding<'_> {
        self.shared.feeding.fetch_add(1, Ordering::Relaxed);
        Feeding(&self.shared.feeding)
    }

    /// Has a chunk encoded: by an encoder, or here where they have enough to do, where as many bring content as
    /// there are encoders, and where it is small, since to hand it over costs nearly as much.
    fn send(&self, kind: ChunkKind, id: ChunkId, plain: Cow<'_, [u8]>) -> Result<()> {
        let (Some(jobs), Some(packs)) = (&self.jobs, &self.packs) else { return Err(self.shared.stopped()) };
        let many = self.shared.feeding.load(Ordering::Relaxed) >= self.shared.tuning.encoders;
        if jobs.is_full() || (kind == ChunkKind::Data && (many || plain.len() < HANDED_OVER_FROM)) {
            self.shared.encode(kind, id, &plain, packs);
            return self.shared.check();
        }
        let job = Job { kind, id, plain: plain.into_owned() };
        jobs.send(job).map_err(|_| self.shared.stopped())
    }

    /// Plain bytes of content not seen before, so far.
    pub fn new_bytes(&self) -> u64 {
        self.shared.new_bytes.load(Ordering::Relaxed)
    }

    /// Makes everything durable. After a failure or an interrupt, what is durable is listed in a segment
    /// for the next run to reuse.
    pub fn finish(mut self) -> Result<Finished> {
        self.drain();
        let shared = &self.shared;
        let mut unlisted = lock(&shared.unlisted);
        let healthy = shared.check().and_then(|()| Ok(shared.parts.cancel.check()?));
        if let Err(error) = healthy {
            // The first error is the one to tell.
            let _ = shared.write_segment(&mut unlisted);
            return Err(error);
        }
        if unlisted.segment.chunks() > shared.tuning.inline_chunks {
            shared.write_segment(&mut unlisted)?;
        }
        let stored = Stored {
            new_chunks: shared.new_chunks.load(Ordering::Relaxed),
            new_bytes: shared.new_bytes.load(Ordering::Relaxed),
            written_bytes: shared.written.load(Ordering::Relaxed),
        };
        let segment = std::mem::take(&mut unlisted.segment);
        Ok(Finished { segment, segments: unlisted.next, stored })
    }

    /// Makes durable what was stored so far and lists it in a segment, for the next run to reuse.
    pub fn give_up(mut self) -> Result<()> {
        self.drain();
        self.shared.write_segment(&mut lock(&self.shared.unlisted))
    }

    /// Sees everything on its way to the end of it.
    fn drain(&mut self) {
        self.shared.parts.progress.begin(Phase { name: "storing the rest", unit: "packs" });
        self.shared.finishing.store(true, Ordering::SeqCst);
        self.join_encoders();
        let open = self.shared.open.iter().filter_map(|open| lock(open).take());
        for builder in open {
            let (entry, bytes) = builder.finish();
            if let Some(packs) = &self.packs {
                // Fails only when every uploader is gone, which joining them tells.
                let _ = packs.send(FullPack { entry, bytes });
            }
        }
        self.join_uploaders();
    }

    fn join_encoders(&mut self) {
        self.jobs = None;
        for thread in self.encoders.drain(..) {
            self.shared.joined(thread);
        }
    }

    fn join_uploaders(&mut self) {
        self.packs = None;
        for thread in self.uploaders.drain(..) {
            self.shared.joined(thread);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without `finish` nothing more needs to be stored.
        if self.jobs.is_some() {
            self.shared.failed.store(true, Ordering::SeqCst);
        }
        self.join_encoders();
        self.join_uploaders();
    }
}

impl Shared {
    fn account(&self, kind: ChunkKind, length: usize) {
        if kind == ChunkKind::Data {
            self.new_chunks.fetch_add(1, Ordering::Relaxed);
            self.new_bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
    }

    fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::SeqCst) { Err(self.stopped()) } else { Ok(()) }
    }

    /// Why the run stopped.
    fn stopped(&self) -> Error {
        lock(&self.failure).clone().unwrap_or(Error::Interrupted(crate::context::Interrupted))
    }

    fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.failed.store(true, Ordering::SeqCst);
    }

    fn joined(&self, thread: JoinHandle<()>) {
        if let Err(panic) = thread.join() {
            self.failed.store(true, Ordering::SeqCst);
            if !std::thread::panicking() {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// An encoder's work. After a failure it goes on taking jobs, so that nobody waits for ever.
    fn encode_all(&self, jobs: &Receiver<Job>, packs: &Sender<FullPack>) {
        for Job { kind, id, plain } in jobs {
            if !self.failed.load(Ordering::SeqCst) {
                self.encode(kind, id, &plain, packs);
            }
        }
    }

    fn encode(&self, kind: ChunkKind, id: ChunkId, plain: &[u8], packs: &Sender<FullPack>) {
        chunk::encode(plain, |encoded| self.append(kind, id, encoded, plain.len() as u32, packs));
    }

    /// Seals a chunk into the open pack and hands it over once it is full. Others wait meanwhile: however
    /// many encode, no more packs are open than kinds.
    fn append(&self, kind: ChunkKind, id: ChunkId, encoded: &[u8], plain: u32, packs: &Sender<FullPack>) {
        let target = match kind {
            ChunkKind::Data => self.tuning.data_pack,
            ChunkKind::Node => self.tuning.tree_pack,
        };
        let mut open = lock(&self.open[kind as usize]);
        let builder = open.get_or_insert_with(|| {
            let bytes = lock(&self.spare[kind as usize]).pop();
            let bytes = bytes.unwrap_or_else(|| BytesMut::with_capacity(target + BEYOND));
            PackBuilder::new(PackId::draw(&*self.parts.random), kind, &self.parts.seal, bytes)
        });
        builder.append(id, encoded, plain);
        let full = if builder.size() >= target { open.take() } else { None };
        if let Some((entry, bytes)) = full.map(PackBuilder::finish)
            && packs.send(FullPack { entry, bytes }).is_err()
        {
            self.failed.store(true, Ordering::SeqCst);
        }
    }

    /// An uploader's work.
    fn upload(&self, packs: &Receiver<FullPack>) {
        for FullPack { entry, bytes } in packs {
            if self.failed.load(Ordering::SeqCst) {
                continue;
            }
            if let Err(error) = self.put_pack(entry, bytes) {
                self.fail(error);
            }
        }
    }

    fn put_pack(&self, entry: PackEntry, bytes: Bytes) -> Result<()> {
        let name = Name::Pack(entry.kind, entry.id).to_string();
        self.parts.storage.put(&name, bytes.clone())?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.finishing.load(Ordering::SeqCst) {
            self.parts.progress.advance(Amount { items: 1, bytes: bytes.len() as u64 });
        }
        if let (ChunkKind::Node, Some(cache)) = (entry.kind, &self.parts.cache) {
            cache.keep(entry.id, &bytes);
        }
        // The next pack is made in the same memory, unless somebody still holds it.
        if let Ok(spare) = bytes.try_into_mut() {
            lock(&self.spare[entry.kind as usize]).push(spare);
        }
        let mut unlisted = lock(&self.unlisted);
        unlisted.segment.packs.push(entry);
        let due = unlisted.since.elapsed() >= self.tuning.segment_every;
        if due || unlisted.segment.chunks() >= self.tuning.segment_chunks {
            self.write_segment(&mut unlisted)?;
        }
        Ok(())
    }

    /// Lists the durable packs, if there are any.
    fn write_segment(&self, unlisted: &mut Unlisted) -> Result<()> {
        if unlisted.segment.packs.is_empty() {
            return Ok(());
        }
        (self.parts.put_segment)(unlisted.next, &unlisted.segment)?;
        *unlisted = Unlisted { segment: Segment::default(), next: unlisted.next + 1, since: Instant::now() };
        Ok(())
    }
}
