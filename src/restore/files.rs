//! Restoring to a directory: only what differs, several files at once.
//!
//! First what is not in the snapshot goes, where that is allowed; then directories are made and files
//! written, from the top down; then hard links; then directories get their attributes, from the bottom up,
//! since each change in one would change its time again.
//!
//! A file gets its name when it is complete and durable, so that one that is there is whole, whatever
//! happens. To wait for the disk for each file would take most of the time: many are made durable at once.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ahead::{self, Take, queue};
use super::layout::{Steps, forwards};
use super::{Change, Counts, Error, Listed, Plan, Result, Run, text};
use crate::directory::{Dir, FileReader, Piece, Status, split};
use crate::format::{Attributes, Content, FileKind, Item, Malformed};
use crate::id::{ChunkId, ChunkKind};
use crate::mutex::{into_inner, lock};
use crate::progress::{Amount, Phase};
use crate::sorter::Sorter;
use crate::target::{DirectoryTarget, Dirs, Unnamed, Wanted};
use crate::tree::{self, Nodes};

/// Files get their names once they are durable, and so many are made so at once.
const BATCH: usize = 512;
/// Or so many bytes.
const BATCH_BYTES: u64 = 256 << 20;
/// Or files of so many directories: each is held open.
const BATCH_DIRS: usize = 64;
/// Bytes read at once to compare.
const BUFFER: usize = 1 << 20;

/// What workers share.
struct Work<'a, 'r> {
    run: &'a Run<'r>,
    target: &'a DirectoryTarget,
    bytes: AtomicU64,
    batch: Mutex<Batch>,
    /// Could not be made; with the reason.
    failed: Mutex<Listed>,
    /// How many of them would have been new, and how many would have replaced something.
    lost: [AtomicU64; 2],
    /// Have another owner than in the snapshot.
    owners: AtomicU64,
    /// Lack extended attributes.
    xattrs: Mutex<Listed>,
}

/// Files that are written and have no names yet.
#[derive(Default)]
struct Batch {
    files: Vec<(Vec<u8>, Unnamed)>,
    bytes: u64,
    dirs: usize,
    last: Vec<u8>,
}

impl Batch {
    fn push(&mut self, key: &[u8], file: Unnamed, size: u64) {
        let (above, _) = split(key);
        if self.files.is_empty() || self.last != above {
            self.dirs += 1;
            self.last = above.to_vec();
        }
        self.bytes += size;
        self.files.push((key.to_vec(), file));
    }

    fn is_full(&self) -> bool {
        self.files.len() >= BATCH || self.bytes >= BATCH_BYTES || self.dirs >= BATCH_DIRS
    }
}

/// A file to be made.
struct Job {
    key: Vec<u8>,
    item: Item,
    replaces: bool,
}

/// Why one file was not made: the target's word about this one, or the end of everything.
enum Stop {
    Here(io::Error),
    All(Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Here(error)
    }
}

impl<E: Into<Error>> From<E> for Stop
where
    Error: From<E>,
{
    fn from(error: E) -> Stop {
        Stop::All(error.into())
    }
}

impl Run<'_> {
    /// Compares, then restores.
    pub(super) fn restore_files(&mut self) -> Result<Option<Counts>> {
        let Some(path) = &self.options.directory else { return Ok(None) };
        let context = self.repository.context();
        self.check_named_objects()?;
        context.progress.begin(Phase { name: "comparing files", unit: "files" });
        let mut target = DirectoryTarget::open(path)?;
        let mut plan = Plan::default();
        let (steps, expected) = self.plan_files(&target, &mut plan)?;
        plan.check(self.options, "the directory", "files")?;
        context.progress.begin(Phase { name: "restoring files", unit: "files" });
        context.progress.expect(expected);
        context.progress.settled();
        let dirs = if self.options.dry_run { None } else { Some(target.make()?) };
        let work = Work {
            run: self,
            target: &target,
            bytes: AtomicU64::new(0),
            batch: Mutex::default(),
            failed: Mutex::default(),
            lost: Default::default(),
            owners: AtomicU64::new(0),
            xattrs: Mutex::default(),
        };
        let mut counts = work.all(steps, dirs)?;
        counts.identical = plan.counts.identical;
        counts.bytes = work.bytes.load(Ordering::Relaxed);
        let Work { failed, lost: [lost_new, lost_over], owners, xattrs, .. } = work;
        counts.written -= lost_new.into_inner();
        counts.overwritten -= lost_over.into_inner();
        self.warnings.extend(into_inner(failed).warning("files could not be restored"));
        self.warnings.extend(into_inner(xattrs).warning("files lack extended attributes that they had"));
        if owners.into_inner() > 0 {
            self.notes.push("owners were not set, since only root may do that".into());
        }
        self.look_at_chosen()?;
        Ok(Some(counts))
    }
}

impl Work<'_, '_> {
    /// Does the plan's steps, or only shows them: without directories nothing is touched.
    fn all(&self, steps: Steps, mut dirs: Option<Dirs>) -> Result<Counts> {
        let Steps { deletes, makes, links, dirs: attributes } = steps;
        let mut counts = Counts::default();
        self.delete(deletes, &mut dirs, &mut counts)?;
        match self.target.dirs().filter(|_| dirs.is_some()) {
            None => self.make(makes, &mut dirs, None, &mut counts)?,
            Some(_) => {
                // Each thread goes its own way through the directories.
                let own = || self.target.dirs();
                let write = |dirs: &mut Option<Dirs>, job| self.file(dirs.as_mut(), job);
                let reader = self.run.nodes.reader();
                let at_once = self.run.repository.context().memory.files();
                let made = ahead::run(reader, at_once, queue(reader), own, write, |take| {
                    self.make(makes, &mut dirs, Some(take), &mut counts)
                });
                // What is complete stays, also where the rest is not to come.
                let named = self.name(std::mem::take(&mut *lock(&self.batch)));
                made.and(named)?;
            }
        }
        self.link(links, &mut dirs, &mut counts)?;
        if let Some(mut dirs) = dirs {
            self.finish_dirs(attributes, &mut dirs)?;
            self.target.sync()?;
        }
        Ok(counts)
    }

    /// The records of a step in order.
    fn each(&self, records: Sorter, mut show: impl FnMut(Vec<u8>, Vec<u8>) -> Result<()>) -> Result<()> {
        let failed = |e| self.run.spool_failed(e);
        for record in records.finish().map_err(failed)? {
            self.run.repository.context().cancel.check()?;
            let (key, value) = record.map_err(failed)?;
            show(key, value)?;
        }
        Ok(())
    }

    fn show(&self, action: &'static str, key: &[u8]) {
        (self.run.show)(Change { side: "objects", action, key: key.to_vec() });
    }

    /// What became of one file. A word about it alone is kept for the end; the first error that would meet
    /// every other file, too, ends the restore.
    fn judge<T>(
        &self,
        key: &[u8],
        action: &'static str,
        done: std::result::Result<T, Stop>,
    ) -> Result<Option<T>> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(Stop::All(error)) => Err(error),
            Err(Stop::Here(error)) if is_fatal(&error) => Err(self.target.fail(action, key, error).into()),
            Err(Stop::Here(error)) => {
                lock(&self.failed).add(|| format!("{} ({error})", text(key)));
                Ok(None)
            }
        }
    }

    /// The same for a file that was counted as made.
    fn judge_made(
        &self,
        key: &[u8],
        action: &'static str,
        replaces: bool,
        made: std::result::Result<(), Stop>,
    ) -> Result<()> {
        if self.judge(key, action, made)?.is_none() {
            self.lost[usize::from(replaces)].fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn delete(&self, deletes: Sorter, dirs: &mut Option<Dirs>, counts: &mut Counts) -> Result<()> {
        self.each(deletes, |key, leftover| {
            let key = forwards(key);
            let leftover = leftover == [1];
            if !leftover && !self.run.options.delete_extra {
                counts.extra += 1;
                return Ok(());
            }
            let removed = dirs.as_mut().map(|dirs| self.target.remove(dirs, &key).map_err(Stop::from));
            let kept = match removed {
                Some(removed) => self.judge(&key, "remove", removed)?.unwrap_or(true),
                None => false,
            };
            if leftover {
                return Ok(());
            }
            *(if kept { &mut counts.extra } else { &mut counts.deleted }) += 1;
            self.show("delete", &key);
            Ok(())
        })
    }

    /// Makes directories, and gives files to `take`.
    fn make(
        &self,
        makes: Sorter,
        dirs: &mut Option<Dirs>,
        mut take: Option<&mut Take<'_, Job>>,
        counts: &mut Counts,
    ) -> Result<()> {
        self.each(makes, |key, record| {
            let (replaces, item) = record.split_first().ok_or(Malformed::Length(0))?;
            let replaces = *replaces == 1;
            let item = if item.is_empty() { None } else { Some(Item::decode(item)?) };
            let (action, counter) = match replaces {
                true => ("overwrite", &mut counts.overwritten),
                false => ("put", &mut counts.written),
            };
            // Directories that only lead to others are none of the snapshot's items.
            if item.is_some() || replaces {
                *counter += 1;
                self.show(action, &key);
            }
            match (item, &mut take) {
                (Some(item), Some(take)) if *Wanted::new(&item).kind() != FileKind::Directory => {
                    // What stands there may be the same, and then nothing is read.
                    let beginning = item.content.first_chunk().filter(|_| !replaces);
                    take(Job { key, item, replaces }, beginning)
                }
                (item, Some(_)) => {
                    let Some(dirs) = dirs else { return Ok(()) };
                    let made = self.make_dir(dirs, &key, item.is_none(), replaces);
                    match item.is_some() || replaces {
                        true => self.judge_made(&key, "make", replaces, made),
                        false => self.judge(&key, "make", made).map(|_| ()),
                    }
                }
                (_, None) => Ok(()),
            }
        })
    }

    fn make_dir(
        &self,
        dirs: &mut Dirs,
        key: &[u8],
        usual: bool,
        replaces: bool,
    ) -> std::result::Result<(), Stop> {
        if replaces {
            self.target.remove(dirs, key)?;
        }
        Ok(self.target.make_dir(dirs, key, usual)?)
    }

    /// A worker: makes one file.
    fn file(&self, dirs: Option<&mut Dirs>, job: Job) -> Result<()> {
        let Some(dirs) = dirs else { return Ok(()) };
        let context = self.run.repository.context();
        context.cancel.check()?;
        let Job { key, item, replaces } = job;
        let written = self.write(dirs, &key, &item, replaces);
        self.judge_made(&key, "write", replaces, written)?;
        context.progress.advance(Amount { items: 1, bytes: item.size });
        Ok(())
    }

    fn write(
        &self,
        dirs: &mut Dirs,
        key: &[u8],
        item: &Item,
        replaces: bool,
    ) -> std::result::Result<(), Stop> {
        let random = &*self.run.repository.context().random;
        let (above, name) = split(key);
        let dir = dirs.get(above)?;
        let wanted = Wanted::new(item);
        let refused = match wanted.kind() {
            FileKind::Regular => {
                if let Some(same) = self.same_content(&dir, name, item, replaces)? {
                    self.target.set_attributes(same.file(), &wanted)?
                } else {
                    let mut file = self.target.create(dir, &wanted, random)?;
                    let sparse = matches!(&item.attributes, Attributes::File(file) if file.sparse);
                    self.feed(item, |chunk| match chunk {
                        Piece::Hole(zeros) if sparse => {
                            file.skip(zeros);
                            Ok(())
                        }
                        Piece::Hole(zeros) => file.write(&vec![0; zeros as usize]),
                        Piece::Bytes(bytes) if sparse => file.write_sparse(bytes),
                        Piece::Bytes(bytes) => file.write(bytes),
                    })?;
                    self.bytes.fetch_add(item.size, Ordering::Relaxed);
                    let (refused, unnamed) = file.finish(self.target, name, &wanted, replaces)?;
                    self.give_name(key, unnamed, item.size)?;
                    refused
                }
            }
            _ => self.target.create_other(dir, name, &wanted, replaces, random)?,
        };
        self.note(key, refused.owner, &refused.xattrs);
        Ok(())
    }

    /// Has a file named with the next batch.
    fn give_name(&self, key: &[u8], file: Unnamed, size: u64) -> Result<()> {
        let mut batch = lock(&self.batch);
        batch.push(key, file, size);
        if !batch.is_full() {
            return Ok(());
        }
        let full = std::mem::take(&mut *batch);
        drop(batch);
        self.name(full)
    }

    /// Makes files durable and gives them their names.
    fn name(&self, batch: Batch) -> Result<()> {
        if batch.files.is_empty() {
            return Ok(());
        }
        self.target.sync()?;
        for (key, file) in batch.files {
            let replaces = file.replaces;
            self.judge_made(&key, "name", replaces, file.place().map_err(Stop::from))?;
        }
        Ok(())
    }

    fn note(&self, key: &[u8], owner: bool, xattrs: &[Vec<u8>]) {
        self.owners.fetch_add(owner.into(), Ordering::Relaxed);
        if !xattrs.is_empty() {
            let names: Vec<_> = xattrs.iter().map(|name| String::from_utf8_lossy(name)).collect();
            lock(&self.xattrs).add(|| format!("{} ({})", text(key), names.join(" ")));
        }
    }

    /// The content of an item in order. Runs of one chunk of zeros, which holes are made of, come as holes.
    fn feed(
        &self,
        item: &Item,
        mut give: impl FnMut(Piece<'_>) -> io::Result<()>,
    ) -> std::result::Result<(), Stop> {
        if let Content::Inline(bytes) = &item.content {
            return Ok(give(Piece::Bytes(bytes))?);
        }
        let nodes = &self.run.nodes;
        let mut zeros: Option<ChunkId> = None;
        tree::read_chunks(nodes, &item.content, |id, length| {
            self.run.repository.context().cancel.check()?;
            if zeros == Some(id) {
                return Ok(give(Piece::Hole(length))?);
            }
            let chunk = nodes.get(ChunkKind::Data, &id)?;
            if chunk.len() as u64 != length {
                return Err(Stop::All(Malformed::Length(chunk.len()).into()));
            }
            if chunk.iter().all(|byte| *byte == 0) {
                zeros = Some(id);
                return Ok(give(Piece::Hole(length))?);
            }
            Ok(give(Piece::Bytes(&chunk))?)
        })
    }

    /// The file that stands there, where its content is the item's already.
    fn same_content(
        &self,
        dir: &Dir,
        name: &[u8],
        item: &Item,
        replaces: bool,
    ) -> std::result::Result<Option<FileReader>, Stop> {
        if !replaces {
            return Ok(None);
        }
        let status = match dir.status(name) {
            // What has other names, perhaps elsewhere, is not changed under them.
            Ok(status) if status.is_file() && status.size == item.size && status.links == 1 => status,
            _ => return Ok(None),
        };
        let Ok(mut file) = FileReader::open(dir, name, &Status { sparse: false, ..status }) else {
            return Ok(None);
        };
        if let Content::Inline(bytes) = &item.content {
            let same = take(&mut file, bytes.len())? == *bytes;
            return Ok(same.then_some(file));
        }
        let namer = self.run.repository.namer();
        let mut same = true;
        tree::chunks_of(&self.run.nodes, &item.content, |id, length| {
            self.run.repository.context().cancel.check()?;
            same = same && namer.name(ChunkKind::Data, &take(&mut file, length as usize)?) == id;
            Ok::<(), Stop>(())
        })?;
        Ok(same.then_some(file))
    }

    fn link(&self, links: Sorter, dirs: &mut Option<Dirs>, counts: &mut Counts) -> Result<()> {
        self.each(links, |key, record| {
            let [replaces, same, first @ ..] = &record[..] else {
                return Err(Malformed::Length(record.len()).into());
            };
            let (replaces, same) = (*replaces == 1, *same == 1);
            let (action, counter) = match replaces {
                true => ("overwrite", &mut counts.overwritten),
                false => ("put", &mut counts.written),
            };
            if !same {
                *counter += 1;
                self.show(action, &key);
            }
            let Some(dirs) = dirs else { return Ok(()) };
            let linked = self.link_one(dirs, &key, first, replaces);
            match same {
                true => self.judge(&key, "link", linked).map(|_| ()),
                false => self.judge_made(&key, "link", replaces, linked),
            }
        })
    }

    fn link_one(
        &self,
        dirs: &mut Dirs,
        key: &[u8],
        first: &[u8],
        replaces: bool,
    ) -> std::result::Result<(), Stop> {
        let random = &*self.run.repository.context().random;
        let (first_above, first_name) = split(first);
        let (above, name) = split(key);
        let first_dir = dirs.get(first_above)?;
        let dir = dirs.get(above)?;
        let of = |status: &Status| (status.device, status.inode);
        let wanted = first_dir.status(first_name)?;
        // Its first name may have got another file since the plan was made.
        if dir.status(name).is_ok_and(|there| of(&there) == of(&wanted)) {
            return Ok(());
        }
        Ok(self.target.link((&first_dir, first_name), (dir, name), replaces, random)?)
    }

    fn finish_dirs(&self, attributes: Sorter, dirs: &mut Dirs) -> Result<()> {
        self.each(attributes, |key, value| {
            let key = forwards(key);
            let item = Item::decode(&value)?;
            let done = self.target.finish_dir(dirs, &key, &Wanted::new(&item));
            if let Some(refused) = self.judge(&key, "set attributes of", done.map_err(Stop::from))? {
                self.note(&key, refused.owner, &refused.xattrs);
            }
            Ok(())
        })
    }
}

/// The next bytes of a file; fewer where it ends early.
fn take(file: &mut FileReader, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        let end = length.min(at + BUFFER);
        match file.next(&mut bytes[at..end])? {
            Some(Piece::Bytes(more)) => at += more.len(),
            Some(Piece::Hole(_)) | None => break,
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}

/// Whether no other file could be written either.
fn is_fatal(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    use rustix::io::Errno;
    let fatal = [Errno::IO, Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(|errno| errno.raw_os_error());
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
        || error.raw_os_error().is_some_and(|errno| fatal.contains(&errno))
}
