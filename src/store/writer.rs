//! Takes content in: name, look up, compress, seal, pack, put.
//!
//! Naming and looking up happen on the caller's thread, so that it learns the id at once. New chunks
//! go through a bounded queue to encoder threads, which compress them and seal them into the open
//! pack of their kind; full packs go through another to uploader threads. A chunk counts as stored
//! only when [`Writer::finish`] returned, or its segment is durable.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::own::Own;
use super::pack::PackBuilder;
use super::{Error, Index, PackCache, Result, chunk};
use crate::context::{Cancel, Random};
use crate::format::{Name, PackEntry, Segment, Stored};
use crate::id::{ChunkId, ChunkKind, PackId};
use crate::progress::{Amount, Phase, Progress};
use crate::secret::{ChunkNamer, SealSecret};
use crate::storage::Storage;

/// Sizes and counts that do not change what is stored, only how fast and in what files.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Threads that compress and seal.
    pub encoders: usize,
    /// Packs uploaded at once.
    pub uploaders: usize,
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
        Tuning {
            encoders: std::thread::available_parallelism().map_or(2, |n| n.get()),
            uploaders: 2,
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
    plain: Bytes,
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
    unlisted: Mutex<Unlisted>,
    failure: Mutex<Option<Error>>,
    failed: AtomicBool,
    finishing: AtomicBool,
    new_chunks: AtomicU64,
    new_bytes: AtomicU64,
    written: AtomicU64,
}

/// A run that stores content.
pub struct Writer {
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    packs: Option<Sender<FullPack>>,
    encoders: Vec<JoinHandle<()>>,
    uploaders: Vec<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A thread that panicked has failed the run already; the data is still the data.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Writer {
    /// Starts the threads.
    pub fn start(parts: WriterParts, tuning: Tuning) -> Writer {
        let unlisted = Unlisted { segment: Segment::default(), next: 0, since: Instant::now() };
        let shared = Arc::new(Shared {
            own: Mutex::new(Own::new(parts.scratch.clone())),
            parts,
            tuning,
            open: Default::default(),
            unlisted: Mutex::new(unlisted),
            failure: Mutex::default(),
            failed: AtomicBool::new(false),
            finishing: AtomicBool::new(false),
            new_chunks: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        let (jobs, jobs_in) = bounded(2 * tuning.encoders);
        let (packs, packs_in) = bounded(1);
        let encoders = (0..tuning.encoders).map(|_| {
            let (shared, jobs, packs) = (shared.clone(), jobs_in.clone(), packs.clone());
            std::thread::spawn(move || shared.encode(&jobs, &packs))
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
    pub fn put(&self, kind: ChunkKind, plain: Bytes) -> Result<Written> {
        let mut written = self.put_all(kind, vec![plain])?;
        // One in, one out.
        Ok(written.remove(0))
    }

    /// Stores chunks that are not there yet; looked up together.
    pub fn put_all(&self, kind: ChunkKind, plains: Vec<Bytes>) -> Result<Vec<Written>> {
        self.shared.check()?;
        let ids: Vec<ChunkId> =
            plains.iter().map(|plain| self.shared.parts.namer.name(kind, plain)).collect();
        let fresh: Vec<bool> = {
            let mut own = lock(&self.shared.own);
            ids.iter().map(|id| own.insert(*id)).collect::<Result<_>>()?
        };
        let candidates: Vec<ChunkId> =
            ids.iter().zip(&fresh).filter(|(_, fresh)| **fresh).map(|(id, _)| *id).collect();
        let mut known = self.shared.parts.index.reusable(&candidates)?.into_iter();
        let mut written = Vec::with_capacity(ids.len());
        for ((id, fresh), plain) in ids.into_iter().zip(fresh).zip(plains) {
            let new = fresh && known.next() == Some(false);
            if new {
                self.shared.account(kind, plain.len());
                self.send(Job { kind, id, plain })?;
            } else if fresh {
                // The index knows it; only chunks of this run need to be remembered.
                lock(&self.shared.own).take_back(&id);
            }
            written.push(Written { id, new });
        }
        Ok(written)
    }

    /// Whether what this run makes may refer to a chunk that an earlier run stored.
    pub fn reusable(&self, id: &ChunkId) -> Result<bool> {
        Ok(self.shared.parts.index.reusable(&[*id])? == [true])
    }

    fn send(&self, job: Job) -> Result<()> {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(()) } else { Err(self.shared.stopped()) }
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
    fn encode(&self, jobs: &Receiver<Job>, packs: &Sender<FullPack>) {
        for job in jobs {
            if self.failed.load(Ordering::SeqCst) {
                continue;
            }
            let encoded = chunk::encode(&job.plain);
            self.append(job, encoded, packs);
        }
    }

    /// Seals a chunk into the open pack and hands it over once it is full. Others wait meanwhile: however
    /// many encoders there are, no more packs are open than kinds.
    fn append(&self, job: Job, encoded: Vec<u8>, packs: &Sender<FullPack>) {
        let target = match job.kind {
            ChunkKind::Data => self.tuning.data_pack,
            ChunkKind::Node => self.tuning.tree_pack,
        };
        let mut open = lock(&self.open[job.kind as usize]);
        let builder = open.get_or_insert_with(|| {
            PackBuilder::new(PackId::draw(&*self.parts.random), job.kind, &self.parts.seal, 0)
        });
        builder.append(job.id, encoded, job.plain.len() as u32);
        let full = if builder.len() >= target { open.take() } else { None };
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
