//! Capturing a bucket: list, compare with the parent's tree, read what changed.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

use super::checkpoint::{Checkpoint, Earlier};
use super::content::Storing;
use super::forecast::Waiting;
use super::logs::Logs;
use super::{Error, Result, Run};
use crate::format::{
    Attributes, Content, Item, ItemState, MAX_INLINE_VALUE, ObjectAttributes, ObjectCapture, Place, Root,
};
use crate::mutex::{into_inner, lock};
use crate::pool::cores;
use crate::progress::{Amount, Phase};
use crate::selection::Selection;
use crate::sorter::{Sorter, last_of_each};
use crate::source::{self, Body, Bucket, Fetched, Head, Listed, Reading};
use crate::storage::Cause;
use crate::tree::{self, Edit};

/// Objects being fetched, or fetched and waiting for a worker.
const FETCHES: usize = 32;
/// Objects waiting for a fetch.
const QUEUE: usize = 64;
/// An object that changes while it is read is read again this often.
const TRIES: usize = 4;
/// A listing from which more than a fifth is missing is made twice.
const SUSPICIOUS: u64 = 5;

/// What was done for a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects in the snapshot.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Not in the parent.
    pub added: u64,
    /// Other than in the parent.
    pub changed: u64,
    /// In the parent only.
    pub removed: u64,
    /// As in the parent.
    pub unchanged: u64,
    /// Taken over from a backup that was interrupted.
    pub resumed: u64,
    /// Objects read.
    pub read_count: u64,
    /// Bytes read.
    pub read_bytes: u64,
}

/// A bucket that was captured.
pub(super) struct Objects {
    pub capture: ObjectCapture,
    pub counts: Counts,
    /// What was done for its versions.
    pub versions: Option<Counts>,
    /// To be dropped once the snapshot is there.
    pub checkpoint: Checkpoint,
}

/// What workers share.
pub(super) struct Work<'a, 'r> {
    pub run: &'a Run<'r>,
    pub bucket: &'a Bucket,
    reading: Arc<Reading>,
    checkpoint: Option<&'a Checkpoint>,
    edits: Mutex<Sorter>,
    /// What was read, once more, where versions are captured too: the current ones among them.
    read: Option<Mutex<Sorter>>,
    /// What was captured of logs, where these are captured a segment at a time.
    pub logs: Option<Logs>,
    failure: Mutex<Option<Error>>,
    failed: AtomicBool,
    pub gone: AtomicU64,
    read_bytes: AtomicU64,
    unreadable: Mutex<Vec<String>>,
}

/// An object that is to be read, and the key of its entry.
pub(super) struct Wish {
    pub entry: Vec<u8>,
    pub listed: Listed,
}

/// What was fetched, and its place among the fetches, which it keeps until a worker takes it.
type Arrival = (Wish, source::Result<Fetched>, OwnedSemaphorePermit);

/// What a bucket's work came to.
pub(super) struct Worked {
    pub root: Option<Root>,
    pub counts: Counts,
    pub gone: u64,
    /// Why objects could not be read.
    pub unreadable: Vec<String>,
    /// Folders of logs that changed whenever they were captured.
    pub restless: Vec<String>,
    /// See [`Work`].
    pub read: Option<Sorter>,
}

/// Unreadable objects named in the warnings; more are counted.
const NAMED: usize = 20;

impl Run<'_> {
    /// Captures a bucket against the parent's capture; its versions, too, where they are wanted.
    pub(super) fn objects(&mut self, bucket: &Bucket, parent: Option<&ObjectCapture>) -> Result<Objects> {
        let prefix = self.options.objects.as_ref().map(|o| o.prefix.clone()).unwrap_or_default();
        let selection = self.options.objects.as_ref().map(|o| o.selection.clone()).unwrap_or_default();
        let Selection { include, exclude, .. } = selection;
        let place = Place::Bucket { name: bucket.name().into(), prefix: prefix.clone() };
        let parent = self.check_place(&place, parent)?;
        let before = parent.and_then(|parent| parent.root);
        let place = Place::Bucket { name: bucket.name().into(), prefix: prefix.clone() };
        let (checkpoint, earlier) = self.checkpoint(&place)?;
        let listed = self.repository.context().clock.now();
        self.repository.context().progress.begin(Phase { name: "reading objects", unit: "objects" });
        let settings = self.ask_settings(bucket);
        let mut work = Work::new(self, bucket);
        work.checkpoint = Some(&checkpoint);
        let versions = self.options.objects.as_ref().is_some_and(|options| options.versions);
        work.logs = Some(Logs::new(self));
        work.read = versions.then(|| Mutex::new(self.repository.spool().sorter()));
        let worked = work.run(before, |work, wanted| work.compare(before.as_ref(), earlier, wanted))?;
        let mut capture = ObjectCapture {
            place,
            include,
            exclude,
            root: worked.root,
            with_versions: false,
            versions: None,
            settings: Vec::new(),
            listed,
            gone: worked.gone,
            unreadable: worked.unreadable.len() as u64,
        };
        self.settle_settings(settings, &mut capture);
        self.warn_about(worked.unreadable, "objects");
        self.warn_about_logs(&worked.restless);
        self.warn_about_nothing(&capture, &prefix);
        let versions = self.versions(bucket, parent, &mut capture, worked.read)?;
        Ok(Objects { capture, counts: worked.counts, versions, checkpoint })
    }

    /// The parent's capture, if it is of the same place.
    pub(super) fn check_place<'p>(
        &self,
        place: &Place,
        parent: Option<&'p ObjectCapture>,
    ) -> Result<Option<&'p ObjectCapture>> {
        let Some(parent) = parent else { return Ok(None) };
        if parent.place == *place {
            return Ok(Some(parent));
        }
        if self.options.new_line {
            return Ok(None);
        }
        let (was, is) = (text_of(&parent.place), text_of(place));
        Err(Error::SourceChanged(format!(
            "series {:?} was made from {was}, and this is {is}",
            self.options.series
        )))
    }

    pub(super) fn warn_about(&mut self, unreadable: Vec<String>, what: &str) {
        self.warn_each(unreadable, &format!("{what} could not be read"));
    }

    fn warn_about_nothing(&mut self, capture: &ObjectCapture, prefix: &str) {
        let chosen = !capture.include.is_empty() || !capture.exclude.is_empty();
        if capture.root.is_none() && chosen {
            self.warnings.push("no object was selected by --include and --exclude".into());
        } else if capture.root.is_none() && !prefix.is_empty() {
            self.warnings.push(format!("no object's key begins with {prefix:?}"));
        }
    }

    /// A warning for each, up to a bound.
    pub(super) fn warn_each(&mut self, warnings: Vec<String>, more: &str) {
        let left = warnings.len().saturating_sub(NAMED);
        self.warnings.extend(warnings.into_iter().take(NAMED));
        if left > 0 {
            self.warnings.push(format!("{left} more {more}"));
        }
    }

    /// Applies edits: key → the item, or nothing where it goes. Of several of one key the last counts.
    pub(super) fn apply_objects(&self, before: Option<Root>, edits: Sorter) -> Result<Option<Root>> {
        let spool = |e| self.spool_error(e);
        let shape = self.repository.shape(self.repository.config().trees.objects);
        let edits = last_of_each(edits.finish().map_err(spool)?).map(|record| {
            let (key, value) = record.map_err(|e| tree::Error::Input(e.to_string()))?;
            if value.is_empty() {
                return Ok(Edit { key, value: None });
            }
            let weight = Item::decode(&value).map_err(|e| tree::Error::Input(e.to_string()))?.weight();
            Ok(Edit { key, value: Some((value, weight)) })
        });
        Ok(tree::apply(&self.nodes, shape, before, edits)?)
    }
}

impl<'a, 'r> Work<'a, 'r> {
    pub fn new(run: &'a Run<'r>, bucket: &'a Bucket) -> Work<'a, 'r> {
        Work {
            run,
            bucket,
            reading: Arc::new(bucket.reading(run.repository.context().memory.bodies())),
            checkpoint: None,
            edits: Mutex::new(run.repository.spool().sorter()),
            read: None,
            logs: None,
            failure: Mutex::default(),
            failed: AtomicBool::new(false),
            gone: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            unreadable: Mutex::default(),
        }
    }

    /// Has read what `compare` wants, and applies what came of it to the tree before.
    pub fn run(
        self,
        before: Option<Root>,
        compare: impl FnOnce(&Self, mpsc::Sender<Wish>) -> Result<Counts>,
    ) -> Result<Worked> {
        let mut counts = self.all(|wanted| compare(&self, wanted))?;
        let restless = self.settle(&mut counts)?;
        let Work { run, edits, gone, read_bytes, unreadable, read, .. } = self;
        let edits = into_inner(edits);
        let root = run.apply_objects(before, edits)?;
        (counts.count, counts.bytes) = (tree::count(root.as_ref()), tree::weight(root.as_ref()));
        counts.read_bytes = read_bytes.into_inner();
        Ok(Worked {
            root,
            counts,
            gone: gone.into_inner(),
            unreadable: into_inner(unreadable),
            restless,
            read: read.map(into_inner),
        })
    }

    fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.failed.store(true, Ordering::SeqCst);
    }

    pub fn check(&self) -> Result<()> {
        self.run.repository.context().cancel.check()?;
        // The failure itself is told once everybody has stopped.
        match self.failed.load(Ordering::SeqCst) {
            true => Err(crate::context::Interrupted.into()),
            false => Ok(()),
        }
    }

    /// Has everything read that `compare` wants.
    pub fn all(&self, compare: impl FnOnce(mpsc::Sender<Wish>) -> Result<Counts>) -> Result<Counts> {
        let runtime = &self.run.repository.context().runtime;
        let (wanted, wishes) = mpsc::channel::<Wish>(QUEUE);
        // Bounded by the places.
        let (arrived, arrivals) = unbounded::<Arrival>();
        let fetching = runtime.spawn(fetch_all(self.reading.clone(), wishes, arrived));
        let workers = cores() + 1;
        let counts = std::thread::scope(|scope| {
            for _ in 0..workers {
                let arrivals = arrivals.clone();
                scope.spawn(move || self.work(&arrivals));
            }
            drop(arrivals);
            compare(wanted).map_err(|error| self.fail(error))
        });
        // Whoever panicked left its object out.
        if let Err(broken) = runtime.block_on(fetching).flatten() {
            std::panic::resume_unwind(broken.into_panic());
        }
        // The first failure is the cause; that others stopped is only its consequence.
        match (lock(&self.failure).take(), counts) {
            (Some(error), _) => Err(error),
            (None, counts) => counts.map_err(|()| crate::context::Interrupted.into()),
        }
    }

    /// The objects that are to be backed up, and whose keys begin so.
    pub fn list(&self, beginning: &str) -> Result<impl Iterator<Item = source::Result<Listed>>> {
        let takes = |listed: &Listed| self.takes(&listed.key);
        Ok(self.bucket.list_below(beginning)?.filter(move |listed| listed.as_ref().map_or(true, takes)))
    }

    /// Whether the key was chosen.
    pub fn takes(&self, key: &str) -> bool {
        let options = self.run.options.objects.as_ref();
        options.is_none_or(|options| options.selection.takes(key.as_bytes()))
    }

    /// Merges the listing with the parent's tree; what is new or changed goes to `wanted`.
    fn compare(
        &self,
        before: Option<&Root>,
        mut earlier: Earlier,
        wanted: mpsc::Sender<Wish>,
    ) -> Result<Counts> {
        let progress = &self.run.repository.context().progress;
        let send = |wish| wanted.blocking_send(wish).map_err(|_| crate::context::Interrupted.into());
        let mut waiting = Waiting::new(self.run.forecast);
        let mut counts = Counts::default();
        let mut old = tree::scan(&self.run.nodes, before, &[])?.peekable();
        let mut expected = Amount::default();
        for listed in self.list("")? {
            let listed = listed?;
            self.check()?;
            while let Some(entry) =
                old.next_if(|e| e.as_ref().map_or(true, |e| e.key.as_slice() < listed.key.as_bytes()))
            {
                self.removed(entry?.key, &mut counts)?;
            }
            let same_key = old.next_if(|e| e.as_ref().is_ok_and(|e| e.key == listed.key.as_bytes()));
            expected.items += 1;
            expected.bytes += listed.size;
            progress.expect(expected);
            match same_key.transpose()? {
                Some(entry) if listed.shows(&Item::decode(&entry.value)?) => {
                    counts.unchanged += 1;
                    self.note_log(&entry.key, &entry.value, false)?;
                    progress.advance(Amount { items: 1, bytes: listed.size });
                    continue;
                }
                Some(_) => counts.changed += 1,
                None => counts.added += 1,
            }
            if let Some(item) =
                self.run.resume(&mut earlier, listed.key.as_bytes(), |item| listed.shows(item))?
            {
                counts.resumed += 1;
                progress.advance(Amount { items: 1, bytes: listed.size });
                self.edit(listed.key.into_bytes(), item.encode())?;
                continue;
            }
            counts.read_count += 1;
            let (entry, size) = (listed.key.clone().into_bytes(), listed.size);
            waiting.push(Wish { entry, listed }, size, send)?;
        }
        waiting.release(send)?;
        progress.settled();
        for entry in old {
            self.removed(entry?.key, &mut counts)?;
        }
        self.confirm(before, &counts, || self.list(""))?;
        Ok(counts)
    }

    pub fn removed(&self, key: Vec<u8>, counts: &mut Counts) -> Result<()> {
        counts.removed += 1;
        self.edit(key, Vec::new())
    }

    pub fn edit(&self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        let spool = |e| self.run.spool_error(e);
        if let Some(read) = self.read.as_ref().filter(|_| !value.is_empty()) {
            lock(read).push(key.clone(), value.clone()).map_err(spool)?;
        }
        if !value.is_empty() {
            self.note_log(&key, &value, true)?;
        }
        lock(&self.edits).push(key, value).map_err(spool)
    }

    /// Servers have listed wrongly: a large part that is missing is believed only where a second listing
    /// does not find it either. What others put and delete meanwhile is no contradiction.
    pub fn confirm<I: Iterator<Item = source::Result<T>>, T>(
        &self,
        before: Option<&Root>,
        counts: &Counts,
        again: impl FnOnce() -> Result<I>,
    ) -> Result<()> {
        if counts.removed < 100 || counts.removed * SUSPICIOUS < tree::count(before) {
            return Ok(());
        }
        let first = counts.added + counts.changed + counts.unchanged;
        let mut second = 0;
        for listed in again()? {
            listed?;
            self.run.repository.context().cancel.check()?;
            second += 1;
        }
        if second <= first + counts.removed / 10 {
            return Ok(());
        }
        Err(Error::Listing(format!(
            "{} of {} objects are missing from a first listing of bucket {}, which showed {first}, and a second showed \
             {second}: the server's listings cannot be trusted now. Nothing was committed; try again",
            counts.removed,
            tree::count(before),
            self.bucket.name()
        )))
    }

    /// A worker: cuts, hashes and stores what arrives.
    fn work(&self, arrivals: &Receiver<Arrival>) {
        for (wish, fetched, place) in arrivals {
            drop(place);
            // After a failure arrivals are only taken, so that nobody waits for ever.
            if self.failed.load(Ordering::SeqCst) {
                continue;
            }
            if let Err(error) = self.one(wish, fetched) {
                self.fail(error);
            }
        }
    }

    fn one(&self, wish: Wish, mut fetched: source::Result<Fetched>) -> Result<()> {
        let Wish { entry, mut listed } = wish;
        let runtime = &self.run.repository.context().runtime;
        let progress = &self.run.repository.context().progress;
        for tries in 1.. {
            let stored = match fetched? {
                Fetched::Gone => {
                    self.gone.fetch_add(1, Ordering::Relaxed);
                    Ok(absent(&listed, ItemState::Gone))
                }
                Fetched::Unreadable(why) => {
                    lock(&self.unreadable).push(format!("object {:?} cannot be read: {why}", listed.key));
                    Ok(absent(&listed, ItemState::Unreadable))
                }
                Fetched::Object(head, body) => self.store(&listed, *head, body),
            };
            match stored {
                // It changed or broke in the middle: from the beginning, as it is now.
                Err(Error::Source(error)) if tries < TRIES && may_pass(&error) => {
                    match runtime.block_on(self.bucket.look(&listed.key, listed.version.as_ref()))? {
                        Some(now) => listed = now,
                        None => {
                            fetched = Ok(Fetched::Gone);
                            continue;
                        }
                    }
                    fetched = runtime.block_on(self.reading.fetch_again(&mut listed));
                }
                // The others are worth having without it; the next backup reads it again.
                Err(Error::Source(source::Error::S3 { cause: Cause::Exists, .. })) => {
                    fetched = Ok(Fetched::changing());
                }
                Err(error) => return Err(error),
                Ok(item) => {
                    progress.advance(Amount { items: 1, bytes: item.weight() });
                    let value = item.encode();
                    if let Some(checkpoint) = self.checkpoint.filter(|_| item.state == ItemState::Present) {
                        checkpoint.keep(&entry, &value);
                    }
                    return self.edit(entry, value);
                }
            }
        }
        Ok(())
    }

    fn store(&self, listed: &Listed, head: Head, mut body: Body) -> Result<Item> {
        let mut pieces = self.run.cutter.pieces();
        let mut storing = Storing::new(self.run, &mut pieces);
        let mut inline = Vec::new();
        let small = head.size <= MAX_INLINE_VALUE as u64;
        while let Some(piece) = body.next_piece()? {
            self.check()?;
            self.read_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            match small {
                true => inline.extend_from_slice(&piece),
                false => storing.push(&piece)?,
            }
        }
        drop(body);
        let content = match small {
            true => Content::Inline(inline),
            false => storing.finish()?,
        };
        let version = version_of(listed).or(head.attributes.version);
        let attributes = ObjectAttributes { shown: listed.shown, version, ..head.attributes };
        Ok(Item {
            state: ItemState::Present,
            size: head.size,
            modified: listed.modified,
            content,
            attributes: Attributes::Object(Box::new(attributes)),
        })
    }
}

/// Fetches what is wished, and gives it on as it arrives. An error where a fetch panicked.
async fn fetch_all(
    reading: Arc<Reading>,
    mut wishes: mpsc::Receiver<Wish>,
    arrived: Sender<Arrival>,
) -> std::result::Result<(), JoinError> {
    let places = Arc::new(Semaphore::new(FETCHES));
    let mut fetches = JoinSet::new();
    while let Some(mut wish) = wishes.recv().await {
        // Fails only for a closed semaphore; this one is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let (reading, arrived) = (reading.clone(), arrived.clone());
        fetches.spawn(async move {
            let fetched = reading.fetch(&mut wish.listed).await;
            // Fails only where nobody waits for it any more.
            let _ = arrived.send((wish, fetched, place));
        });
        while let Some(fetched) = fetches.try_join_next() {
            fetched?;
        }
    }
    while let Some(fetched) = fetches.join_next().await {
        fetched?;
    }
    Ok(())
}

fn text_of(place: &Place) -> String {
    match place {
        Place::Bucket { name, prefix } => format!("bucket {name:?}, prefix {prefix:?}"),
        Place::Directory(path) => format!("directory {:?}", String::from_utf8_lossy(path)),
    }
}

/// Whether reading the object again may help.
fn may_pass(error: &source::Error) -> bool {
    let source::Error::S3 { cause, .. } = error else { return false };
    matches!(cause, Cause::Exists | Cause::NotFound | Cause::Transient(_) | Cause::Uncertain(_))
}

/// The listed version, as items name it.
pub(super) fn version_of(listed: &Listed) -> Option<String> {
    listed.version.as_ref().map(|version| version.id.clone()).filter(|id| id != "null")
}

/// An object without content.
pub(super) fn absent(listed: &Listed, state: ItemState) -> Item {
    let attributes = ObjectAttributes {
        etag: listed.etag.clone(),
        version: version_of(listed),
        shown: listed.shown,
        ..ObjectAttributes::default()
    };
    Item {
        state,
        size: listed.size,
        modified: listed.modified,
        content: Content::Inline(Vec::new()),
        attributes: Attributes::Object(Box::new(attributes)),
    }
}
