//! Capturing a directory: walk, compare with the parent's tree, read what changed.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::checkpoint::{Checkpoint, Earlier};
use super::content::Storing;
use super::objects::{Counts, Objects};
use super::{Error, Result, Run};
use crate::context::Nanos;
use crate::directory::{Entry, FileReader, Piece, Status};
use crate::format::{Content, FileKind, Item, ItemState, MAX_INLINE_VALUE, ObjectCapture, Place, Root};
use crate::mutex::{into_inner, lock};
use crate::pool::{self, Pool};
use crate::progress::{Amount, Phase};
use crate::selection::Selection;
use crate::sorter::Sorter;
use crate::source::{self, Directory, Seen, shows};
use crate::store::Pieces;
use crate::tree;

/// Files waiting for a reader; each may hold a directory open.
const QUEUE: usize = 128;
/// A file that changes while it is read is read again this often.
const TRIES: usize = 4;
/// Bytes of names of files that have several.
const MOST_LINKS: usize = 128 << 20;

/// A file to be read.
struct Job {
    entry: Entry,
    status: Status,
    /// Its item in the parent.
    before: Option<Vec<u8>>,
}

/// A file on its file system: device and inode.
type Inode = (u64, u64);

/// Names of files that have several, in the order they were met.
#[derive(Default)]
struct Links {
    names: HashMap<Inode, Vec<Vec<u8>>>,
    bytes: usize,
    left_out: u64,
}

impl Links {
    /// Enters a name; gives the first name of its file where this is a later one.
    fn first(&mut self, status: &Status, key: &[u8]) -> Option<Vec<u8>> {
        if status.links < 2 || status.is_dir() {
            return None;
        }
        if self.bytes > MOST_LINKS {
            self.left_out += 1;
            return None;
        }
        self.bytes += key.len() + 64;
        let names = self.names.entry((status.device, status.inode)).or_default();
        names.push(key.to_vec());
        names.first().filter(|_| names.len() > 1).cloned()
    }
}

/// What workers share.
struct Work<'a, 'r> {
    run: &'a Run<'r>,
    directory: &'a Directory,
    checkpoint: &'a Checkpoint,
    /// When the parent's listing began.
    listed: Nanos,
    edits: Mutex<Sorter>,
    warnings: Mutex<Vec<String>>,
    /// Files whose first name could not be read, or is another file by now.
    lost: Mutex<Vec<Inode>>,
    gone: AtomicU64,
    unreadable: AtomicU64,
    read_count: AtomicU64,
    read_bytes: AtomicU64,
    /// Read, and found to be the same.
    same: AtomicU64,
}

/// How one reading of a file ended.
enum Attempt {
    /// With this item; the file's status after that.
    Read(Box<Item>, Status),
    /// It is not to be had, for this reason.
    Failed(io::Error),
}

/// What an entry of a walk holds beside its key, about.
const ENTRY: usize = 256;
/// Each directory that waits is an open descriptor: with this weight there are 32 in a batch at the most.
const OPEN_DIR: usize = 4 << 10;

/// Weighs what a walk finds, in its order.
fn weigher() -> impl FnMut(&Seen) -> usize {
    let mut last = None;
    move |seen| match seen {
        Seen::Entry(entry) => {
            let dir = Arc::as_ptr(&entry.dir).addr();
            entry.key.len() + if last.replace(dir) == Some(dir) { ENTRY } else { OPEN_DIR }
        }
        Seen::Closed(key, _) => key.len() + ENTRY,
    }
}

impl Run<'_> {
    /// Captures a directory against the parent's capture.
    pub(super) fn files(&mut self, directory: &Directory, parent: Option<&ObjectCapture>) -> Result<Objects> {
        let place = Place::Directory(directory.place());
        let parent = self.check_place(&place, parent)?;
        let before = parent.and_then(|parent| parent.root);
        let (checkpoint, earlier) = self.checkpoint(&place)?;
        let context = self.repository.context();
        let listed = context.clock.now();
        self.foresee_files(directory, before.as_ref(), parent.map_or(0, |parent| parent.listed))?;
        context.progress.begin(Phase { name: "reading files", unit: "files" });
        let work = Work {
            run: self,
            directory,
            checkpoint: &checkpoint,
            listed: parent.map_or(0, |parent| parent.listed),
            edits: Mutex::new(self.repository.spool().sorter()),
            warnings: Mutex::default(),
            lost: Mutex::default(),
            gone: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            read_count: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            same: AtomicU64::new(0),
        };
        let mut counts = work.all(before.as_ref(), earlier)?;
        let (gone, unreadable) = (work.gone.into_inner(), work.unreadable.into_inner());
        (counts.read_count, counts.read_bytes) = (work.read_count.into_inner(), work.read_bytes.into_inner());
        let edits = into_inner(work.edits);
        let warnings = into_inner(work.warnings);
        let root = self.apply_objects(before, edits)?;
        (counts.count, counts.bytes) = (tree::count(root.as_ref()), tree::weight(root.as_ref()));
        self.warn_each(warnings, "files could not be read as they should");
        if counts.count <= 1 && tree::count(before.as_ref()) > 1 {
            let path = directory.path().display();
            self.warnings.push(format!("nothing was found in {path}, and the last snapshot has files"));
        }
        let selection = self.options.directory.as_ref().map(|options| options.selection.clone());
        let Selection { include, exclude, .. } = selection.unwrap_or_default();
        let capture = ObjectCapture {
            place,
            include,
            exclude,
            root,
            with_versions: false,
            versions: None,
            settings: Vec::new(),
            listed,
            gone,
            unreadable,
        };
        Ok(Objects { capture, counts, versions: None, checkpoint })
    }
}

impl Work<'_, '_> {
    /// Walks, compares, and has everything read that changed.
    fn all(&self, before: Option<&Root>, earlier: Earlier) -> Result<Counts> {
        let threads = pool::cores() + 1;
        let mut links = Links::default();
        let read = |pieces: &mut _, job: Job| self.file(job, pieces);
        let pieces = || self.run.cutter.pieces();
        let counts =
            pool::run(threads, QUEUE, pieces, read, |jobs| self.compare(before, earlier, jobs, &mut links));
        let mut counts = counts?;
        self.read_lost(&links)?;
        let same = self.same.load(Ordering::Relaxed);
        (counts.changed, counts.unchanged) = (counts.changed - same, counts.unchanged + same);
        if links.left_out > 0 {
            let left_out = links.left_out;
            lock(&self.warnings).push(format!(
                "there are more hard links than can be kept in memory: {left_out} were stored as files of their own"
            ));
        }
        Ok(counts)
    }

    /// Merges the walk with the parent's tree; files that are new or changed go to `jobs`.
    fn compare(
        &self,
        before: Option<&Root>,
        earlier: Earlier,
        jobs: &Pool<'_, Job, Error>,
        links: &mut Links,
    ) -> Result<Counts> {
        std::thread::scope(|scope| {
            let cancel = &self.run.repository.context().cancel;
            // The walk waits for the file system, the comparison for the parent's tree.
            let walk = |give: &mut pool::Give<'_, Seen>| {
                for seen in self.directory.list()? {
                    cancel.check()?;
                    if !give(seen) {
                        break;
                    }
                }
                Ok(())
            };
            self.merge(pool::ahead(scope, weigher(), walk), before, earlier, jobs, links)
        })
    }

    fn merge(
        &self,
        walk: impl Iterator<Item = source::Result<Seen>>,
        before: Option<&Root>,
        mut earlier: Earlier,
        jobs: &Pool<'_, Job, Error>,
        links: &mut Links,
    ) -> Result<Counts> {
        let context = self.run.repository.context();
        let mut counts = Counts::default();
        let mut old = tree::scan(&self.run.nodes, before, &[])?.peekable();
        let mut expected = Amount::default();
        for seen in walk {
            context.cancel.check()?;
            let entry = match seen? {
                Seen::Entry(entry) => entry,
                Seen::Closed(key, why) => {
                    self.closed(key, &why)?;
                    continue;
                }
            };
            while let Some(gone) =
                old.next_if(|e| e.as_ref().map_or(true, |e| e.key.as_slice() < &entry.key[..]))
            {
                counts.removed += 1;
                self.edit(gone?.key, Vec::new())?;
            }
            let same_key = old.next_if(|e| e.as_ref().is_ok_and(|e| e.key == entry.key)).transpose()?;
            let status = entry.status.as_ref().ok().copied();
            let first = status.as_ref().and_then(|status| links.first(status, &entry.key));
            let size = status.filter(|status| status.is_file() && first.is_none()).map_or(0, |s| s.size);
            (expected.items, expected.bytes) = (expected.items + 1, expected.bytes + size);
            context.progress.expect(expected);
            let before = same_key.map(|found| found.value);
            match (&before, &status) {
                (Some(item), Some(status))
                    if shows(status, &Item::decode(item)?, first.as_deref(), self.listed) =>
                {
                    counts.unchanged += 1;
                    context.progress.advance(Amount { items: 1, bytes: size });
                    continue;
                }
                (Some(_), _) => counts.changed += 1,
                (None, _) => counts.added += 1,
            }
            match status {
                Some(status) if status.is_file() && first.is_none() => {
                    let same = |item: &Item| shows(&status, item, None, Nanos::MAX);
                    if let Some(item) = self.run.resume(&mut earlier, &entry.key, same)? {
                        counts.resumed += 1;
                        self.keep(entry.key, &item, before.as_deref())?;
                        continue;
                    }
                    jobs.give(Job { entry, status, before })?;
                }
                _ => self.other(entry, first.map(FileKind::HardLink), before)?,
            }
        }
        context.progress.settled();
        for gone in old {
            counts.removed += 1;
            self.edit(gone?.key, Vec::new())?;
        }
        Ok(counts)
    }

    fn edit(&self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        let spool = |e| Error::Spool(self.run.repository.spool().to_string(), e);
        lock(&self.edits).push(key, value).map_err(spool)
    }

    /// Keeps an item, unless the parent has the same.
    fn keep(&self, key: Vec<u8>, item: &Item, before: Option<&[u8]>) -> Result<()> {
        self.keep_encoded(key, item.encode(), item.weight(), before)
    }

    fn keep_encoded(&self, key: Vec<u8>, value: Vec<u8>, weight: u64, before: Option<&[u8]>) -> Result<()> {
        self.run.repository.context().progress.advance(Amount { items: 1, bytes: weight });
        if before == Some(&value[..]) {
            self.same.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.edit(key, value)
    }

    /// Keeps that something is there and could not be had.
    fn keep_absent(&self, key: Vec<u8>, status: Option<&Status>, why: &io::Error) -> Result<()> {
        if is_fatal(why) {
            let what = self.directory.path().join(String::from_utf8_lossy(&key).into_owned());
            let error = io::Error::from_raw_os_error(why.raw_os_error().unwrap_or_default());
            return Err(source::Error::Directory(what.display().to_string(), error).into());
        }
        let state = match vanished(why) {
            true => ItemState::Gone,
            false => ItemState::Unreadable,
        };
        if state == ItemState::Gone {
            self.gone.fetch_add(1, Ordering::Relaxed);
        } else {
            self.unreadable.fetch_add(1, Ordering::Relaxed);
            self.warn(&key, &format!("cannot be read: {why}"));
        }
        if let Some(status) = status.filter(|status| status.links > 1 && !status.is_dir()) {
            lock(&self.lost).push((status.device, status.inode));
        }
        self.keep(key, &self.directory.absent(status, state), None)
    }

    fn warn(&self, key: &[u8], what: &str) {
        lock(&self.warnings).push(format!("file {:?} {what}", String::from_utf8_lossy(key)));
    }

    /// A directory that was kept already, and turned out to be closed.
    fn closed(&self, key: Vec<u8>, why: &io::Error) -> Result<()> {
        let status = self.directory.entry(&key).and_then(|entry| entry.status).ok();
        self.keep_absent(key, status.as_ref(), why)
    }

    /// Takes what is not read: directories, links, special files.
    fn other(&self, entry: Entry, kind: Option<FileKind>, before: Option<Vec<u8>>) -> Result<()> {
        let status = match &entry.status {
            Ok(status) => *status,
            Err(error) => return self.keep_absent(entry.key, None, error),
        };
        match self.directory.other(&entry, &status, kind) {
            Ok(item) => self.keep(entry.key, &item, before.as_deref()),
            Err(error) => self.keep_absent(entry.key, Some(&status), &error),
        }
    }

    /// A worker: reads one file, again while it changes.
    fn file<'c>(&'c self, job: Job, pieces: &mut Pieces<'c>) -> Result<()> {
        let Job { mut entry, mut status, before } = job;
        let seen = status;
        self.read_count.fetch_add(1, Ordering::Relaxed);
        for tries in 1.. {
            let before_reading = self.run.repository.context().clock.now();
            let (item, now) = match self.read(&entry, &status, pieces)? {
                Attempt::Read(item, now) => (item, now),
                Attempt::Failed(error) => return self.keep_absent(entry.key, Some(&seen), &error),
            };
            let quiet = status.is_same(&now) && item.size == status.size;
            if quiet || tries == TRIES {
                if !quiet {
                    self.warn(
                        &entry.key,
                        "changed each time it was read: what is kept may be no state it had",
                    );
                }
                if seen.links > 1 && (seen.device, seen.inode) != (status.device, status.inode) {
                    lock(&self.lost).push((seen.device, seen.inode));
                }
                let value = item.encode();
                // Where it might have changed meanwhile without another time it is read again, also by the next run.
                if quiet && shows(&status, &item, None, before_reading) {
                    self.checkpoint.keep(&entry.key, &value);
                }
                return self.keep_encoded(entry.key, value, item.weight(), before.as_deref());
            }
            // By its name: another file may stand there now.
            entry = Entry::at(entry.dir.clone(), entry.key);
            match &entry.status {
                Ok(now) if now.is_file() => status = *now,
                _ => {
                    if seen.links > 1 {
                        lock(&self.lost).push((seen.device, seen.inode));
                    }
                    return self.other(entry, None, before);
                }
            }
        }
        Ok(())
    }

    fn read<'c>(&'c self, entry: &Entry, status: &Status, pieces: &mut Pieces<'c>) -> Result<Attempt> {
        let opened = FileReader::open(&entry.dir, entry.name(), status);
        let mut reader = match opened {
            Ok(reader) => reader,
            Err(error) => return Ok(Attempt::Failed(error)),
        };
        let mut storing = Storing::new(self.run, pieces);
        let small = status.size <= MAX_INLINE_VALUE as u64;
        let (mut inline, mut sparse) = (Vec::new(), false);
        loop {
            self.run.repository.context().cancel.check()?;
            let length = match reader.next(storing.space()) {
                Err(error) => return Ok(Attempt::Failed(error)),
                Ok(None) => break,
                Ok(Some(Piece::Hole(zeros))) => {
                    sparse = true;
                    match small {
                        true => inline.resize(inline.len() + zeros as usize, 0),
                        false => storing.hole(zeros)?,
                    }
                    continue;
                }
                Ok(Some(Piece::Bytes(bytes))) => bytes.len(),
            };
            self.read_bytes.fetch_add(length as u64, Ordering::Relaxed);
            match small {
                true => inline.extend_from_slice(&storing.space()[..length]),
                false => storing.filled(length)?,
            }
        }
        let content = match small {
            true => Content::Inline(inline),
            false => storing.finish()?,
        };
        Ok(match reader.xattrs().and_then(|xattrs| Ok((xattrs, reader.status()?))) {
            Ok((xattrs, now)) => {
                let item = self.directory.item(status, FileKind::Regular, content, sparse, xattrs);
                Attempt::Read(Box::new(item), now)
            }
            Err(error) => Attempt::Failed(error),
        })
    }

    /// Files whose first name was no good are read by another of their names, and the rest lead to that.
    fn read_lost(&self, links: &Links) -> Result<()> {
        let lost = std::mem::take(&mut *lock(&self.lost));
        let mut pieces = self.run.cutter.pieces();
        for names in lost.iter().filter_map(|inode| links.names.get(inode)) {
            let mut first: Option<&Vec<u8>> = None;
            for name in &names[1..] {
                let entry = match self.directory.entry(name) {
                    Ok(entry) => entry,
                    Err(error) => {
                        self.keep_absent(name.clone(), None, &error)?;
                        continue;
                    }
                };
                let Some(status) = entry.status.as_ref().ok().copied() else {
                    self.other(entry, None, None)?;
                    continue;
                };
                match first {
                    Some(first) => self.other(entry, Some(FileKind::HardLink(first.clone())), None)?,
                    None if status.is_file() => {
                        self.file(Job { entry, status, before: None }, &mut pieces)?;
                        // Where it is no good either the next one is tried.
                        first = std::mem::take(&mut *lock(&self.lost)).is_empty().then_some(name);
                    }
                    None => self.other(entry, None, None)?,
                }
            }
        }
        Ok(())
    }
}

fn vanished(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Whether no other file could be read either.
fn is_fatal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let fatal = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(|errno| errno.raw_os_error());
    error.raw_os_error().is_some_and(|errno| fatal.contains(&errno))
}
