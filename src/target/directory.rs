//! A directory as target. Nothing outside of it is touched: every name is opened in its directory, and no
//! symbolic link is followed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat,
    chownat, fchmod, fchown, fstat, ftruncate, futimens, linkat, mkdirat, mknodat, openat, renameat,
    renameat_with, symlinkat, syncfs, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};

use super::{Error, Result};
use crate::context::{Nanos, Random};
use crate::directory::{Dir, Entry, Rules, Status, Walk, set_xattrs, split};
use crate::format::{Attributes, FileAttributes, FileKind, Item};

/// What a file's name begins with while it is written.
const UNFINISHED: &[u8] = b".icecore-unfinished-";
/// Holes are made of whole blocks of zeros.
const BLOCK: usize = 4096;
/// Set-uid and set-gid.
const SET_ID: u32 = 0o6000;

/// Whether a name is one of a file that an interrupted restore did not finish.
pub fn is_leftover(name: &[u8]) -> bool {
    let digits = name.strip_prefix(UNFINISHED);
    digits.is_some_and(|digits| digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit))
}

/// A directory, which need not be there yet.
pub struct DirectoryTarget {
    path: PathBuf,
    root: Option<Arc<Dir>>,
    /// Owners can be given.
    privileged: bool,
}

/// What is to stand under a name.
pub struct Wanted<'a> {
    item: &'a Item,
}

/// What could not be set.
#[derive(Debug, Default)]
pub struct Refused {
    /// Its owner and group.
    pub owner: bool,
    /// Names of extended attributes.
    pub xattrs: Vec<Vec<u8>>,
}

impl<'a> Wanted<'a> {
    /// An object or a file of a snapshot.
    pub fn new(item: &'a Item) -> Wanted<'a> {
        Wanted { item }
    }

    fn file(&self) -> Option<&'a FileAttributes> {
        match &self.item.attributes {
            Attributes::File(file) => Some(file),
            // Of an object a file keeps the bytes and when they were written.
            Attributes::Object(_) => None,
        }
    }

    /// What it is.
    pub fn kind(&self) -> &'a FileKind {
        self.file().map_or(&FileKind::Regular, |file| &file.kind)
    }

    fn times(&self) -> Timestamps {
        let seconds = self.item.modified.div_euclid(1_000_000_000);
        let nanos = self.item.modified.rem_euclid(1_000_000_000);
        Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos },
        }
    }

    /// The mode that a file gets of whoever owns it now.
    fn mode(file: &FileAttributes, refused: &Refused) -> Mode {
        // Another owner's rights are not lent to whoever restores.
        Mode::from_raw_mode(if refused.owner { file.mode & !SET_ID } else { file.mode } as _)
    }
}

/// Directories of the target as they are needed, one after another.
pub struct Dirs {
    root: Arc<Dir>,
    /// The last one.
    path: Vec<u8>,
    /// Some of those on the way to it, by how much of the path leads to them; itself last.
    held: Vec<(usize, Arc<Dir>)>,
}

/// Directories that are held open, for each thread.
const HELD: usize = 16;

impl Dirs {
    fn new(root: Arc<Dir>) -> Dirs {
        Dirs { root, path: Vec::new(), held: Vec::new() }
    }

    /// The directory with this path.
    pub fn get(&mut self, path: &[u8]) -> io::Result<Arc<Dir>> {
        let leads = |to: usize| {
            let same = path.len() >= to && path[..to] == self.path[..to];
            same && matches!(path.get(to), None | Some(b'/'))
        };
        let known = self.held.iter().take_while(|(to, _)| leads(*to)).count();
        self.held.truncate(known);
        self.path = path.to_vec();
        let (from, mut dir) = self.held.last().cloned().unwrap_or((0, self.root.clone()));
        let slashes = path.iter().enumerate().skip(from + 1).filter(|(_, byte)| **byte == b'/');
        let mut begin = from;
        for end in slashes.map(|(at, _)| at).chain([path.len()]).filter(|end| *end > from) {
            dir = Arc::new(dir.descend(&path[begin..end])?);
            self.held.push((end, dir.clone()));
            if self.held.len() > HELD {
                // The way back begins at the nearest, and every way at the first ones.
                self.held.remove(HELD / 2);
            }
            begin = end;
        }
        Ok(dir)
    }
}

impl DirectoryTarget {
    /// Opens it, if it is there.
    pub fn open(path: &Path) -> Result<DirectoryTarget> {
        let root = match Dir::open(path) {
            Ok(root) => Some(Arc::new(root)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fail("open", path, error)),
        };
        let privileged = rustix::process::geteuid().is_root();
        Ok(DirectoryTarget { path: path.to_owned(), root, privileged })
    }

    /// An error of this target.
    pub fn fail(&self, action: &'static str, key: &[u8], error: io::Error) -> Error {
        fail(action, &self.path.join(String::from_utf8_lossy(key).into_owned()), error)
    }

    /// Makes it where it is not there.
    pub fn make(&mut self) -> Result<Dirs> {
        let root = match &self.root {
            Some(root) => root.clone(),
            None => {
                std::fs::create_dir_all(&self.path).map_err(|e| fail("make", &self.path, e))?;
                Arc::new(Dir::open(&self.path).map_err(|e| fail("open", &self.path, e))?)
            }
        };
        self.root = Some(root.clone());
        Ok(Dirs::new(root))
    }

    /// Its directories, if it is there.
    pub fn dirs(&self) -> Option<Dirs> {
        self.root.clone().map(Dirs::new)
    }

    /// Everything in it that is `wanted`, in order of key; nothing where it is not there.
    pub fn walk<'a>(&self, wanted: impl Fn(&[u8]) -> bool + 'a) -> Result<Option<Walk<'a>>> {
        if self.root.is_none() {
            return Ok(None);
        }
        let rules = Rules { wanted: Box::new(wanted), exclude_caches: false, one_file_system: false };
        let list = || Walk::new(Arc::new(Dir::open(&self.path)?), rules);
        Ok(Some(list().map_err(|e| fail("list", &self.path, e))?))
    }

    /// Whether what was found is what is wanted, as far as can be told without reading it.
    pub fn is_same(&self, entry: &Entry, found: &Status, wanted: &Wanted<'_>) -> io::Result<bool> {
        let kind = wanted.kind();
        let target = match kind {
            FileKind::Symlink(_) if found.file_type == FileType::Symlink => {
                entry.dir.link_target(entry.name())?
            }
            _ => Vec::new(),
        };
        let same_kind = found.kind(target).as_ref() == Some(kind);
        let same_size = !found.is_file() || found.size == wanted.item.size;
        if !same_kind || !same_size || !same_time(found.modified, wanted.item.modified) {
            return Ok(false);
        }
        let Some(file) = wanted.file() else { return Ok(true) };
        let same_owner = (found.uid, found.gid) == (file.uid, file.gid);
        let kept = if same_owner { !0 } else { !SET_ID };
        // All symbolic links have one mode.
        let same_mode = found.file_type == FileType::Symlink || found.mode & kept == file.mode & kept;
        let same_xattrs = file.xattrs.is_empty() || entry.dir.xattrs(entry.name())? == file.xattrs;
        Ok(same_mode && same_xattrs && (same_owner || !self.privileged))
    }

    /// Makes a directory: that only its owner may use where it gets a mode of its own later, or a usual one.
    pub fn make_dir(&self, dirs: &mut Dirs, key: &[u8], usual: bool) -> io::Result<()> {
        let (above, name) = split(key);
        let mode = if usual { Mode::from_raw_mode(0o777) } else { Mode::RWXU };
        Ok(mkdirat(&*dirs.get(above)?, name, mode)?)
    }

    /// Removes a file, or an empty directory. True where something else is still in it.
    pub fn remove(&self, dirs: &mut Dirs, key: &[u8]) -> io::Result<bool> {
        let (above, name) = split(key);
        let dir = dirs.get(above)?;
        let is_dir = match dir.status(name) {
            Ok(status) => status.is_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match unlinkat(&*dir, name, if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() }) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(true),
            done => Ok(done.map(|()| false)?),
        }
    }

    /// Begins a file. One that has a mode gets it last, any other one the usual one.
    pub fn create(&self, dir: Arc<Dir>, wanted: &Wanted<'_>, random: &dyn Random) -> io::Result<NewFile> {
        let name = unfinished(random);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = if wanted.file().is_some() { 0o600 } else { 0o666 };
        let file = openat(&*dir, &name[..], flags, Mode::from_raw_mode(mode))?;
        Ok(NewFile { temporary: Temporary { dir, name, placed: false }, file, at: 0 })
    }

    /// Makes what has no content: a symbolic link, a special file.
    pub fn create_other(
        &self,
        dir: Arc<Dir>,
        name: &[u8],
        wanted: &Wanted<'_>,
        replaces: bool,
        random: &dyn Random,
    ) -> io::Result<Refused> {
        let mut temporary = Temporary { dir: dir.clone(), name: unfinished(random), placed: false };
        let here = &temporary.name[..];
        let node = |file_type, device| mknodat(&*dir, here, file_type, Mode::RUSR | Mode::WUSR, device);
        match wanted.kind() {
            FileKind::Symlink(target) => symlinkat(&target[..], &*dir, here)?,
            FileKind::Fifo => node(FileType::Fifo, 0)?,
            FileKind::Socket => node(FileType::Socket, 0)?,
            FileKind::CharDevice(device) => node(FileType::CharacterDevice, *device)?,
            FileKind::BlockDevice(device) => node(FileType::BlockDevice, *device)?,
            FileKind::Regular | FileKind::Directory | FileKind::HardLink(_) => {
                return Err(io::Error::other("it has content"));
            }
        }
        let mut refused = Refused::default();
        if let Some(file) = wanted.file() {
            let (uid, gid) = (Uid::from_raw(file.uid), Gid::from_raw(file.gid));
            refused.owner = chownat(&*dir, here, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).is_err();
            refused.xattrs =
                if file.xattrs.is_empty() { Vec::new() } else { dir.set_xattrs(here, &file.xattrs)? };
            if !matches!(file.kind, FileKind::Symlink(_)) {
                let opened =
                    openat(&*dir, here, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                // By its descriptor: the name may lead elsewhere by now.
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened));
                chmodat(CWD, path, Wanted::mode(file, &refused), AtFlags::empty())?;
            }
        }
        utimensat(&*dir, here, &wanted.times(), AtFlags::SYMLINK_NOFOLLOW)?;
        temporary.place(name, replaces)?;
        Ok(refused)
    }

    /// Gives a file another name, as a hard link.
    pub fn link(
        &self,
        (first_dir, first): (&Dir, &[u8]),
        (dir, name): (Arc<Dir>, &[u8]),
        replaces: bool,
        random: &dyn Random,
    ) -> io::Result<()> {
        let mut temporary = Temporary { dir, name: unfinished(random), placed: false };
        linkat(first_dir, first, &*temporary.dir, &temporary.name[..], AtFlags::empty())?;
        Ok(temporary.place(name, replaces)?)
    }

    /// Gives an opened file or directory everything but its content, where that is not as it should be.
    pub fn set_attributes(&self, file: impl AsFd, wanted: &Wanted<'_>) -> io::Result<Refused> {
        let file = file.as_fd();
        let now = Status::of(&fstat(file)?);
        let mut refused = Refused::default();
        if let Some(attributes) = wanted.file() {
            if (now.uid, now.gid) != (attributes.uid, attributes.gid) {
                let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
                refused.owner = fchown(file, Some(uid), Some(gid)).is_err();
            }
            // An ACL changes the mode, and a mode of no rights forbids attributes: they come before it.
            refused.xattrs = set_xattrs(file, &attributes.xattrs)?;
            let mode = Wanted::mode(attributes, &refused);
            // Giving it to another owner has taken set-id bits away.
            if Status::of(&fstat(file)?).mode != mode.as_raw_mode() {
                fchmod(file, mode)?;
            }
        }
        if now.modified != wanted.item.modified {
            futimens(file, &wanted.times())?;
        }
        Ok(refused)
    }

    /// Gives a directory its attributes, once its contents are there.
    pub fn finish_dir(&self, dirs: &mut Dirs, key: &[u8], wanted: &Wanted<'_>) -> io::Result<Refused> {
        let dir = match key {
            b"." => dirs.get(b"")?.enter(b".")?,
            key => {
                let (above, name) = split(key);
                dirs.get(above)?.enter(name)?
            }
        };
        self.set_attributes(&dir, wanted)
    }

    /// Makes everything durable.
    pub fn sync(&self) -> Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        // A descriptor that can be synced: the one for names cannot.
        syncfs(&**root).map_err(|e| fail("sync", &self.path, e.into()))
    }
}

fn fail(action: &'static str, path: &Path, cause: io::Error) -> Error {
    Error::Directory { action, path: path.display().to_string(), cause }
}

/// A file system may keep whole seconds only.
fn same_time(found: Nanos, wanted: Nanos) -> bool {
    const SECOND: Nanos = 1_000_000_000;
    found == wanted || (found % SECOND == 0 && found.div_euclid(SECOND) == wanted.div_euclid(SECOND))
}

fn unfinished(random: &dyn Random) -> Vec<u8> {
    let mut number = [0; 8];
    random.fill(&mut number);
    [UNFINISHED, format!("{:016x}", u64::from_le_bytes(number)).as_bytes()].concat()
}

/// A file under a name that it does not keep; removed unless it gets its own.
struct Temporary {
    dir: Arc<Dir>,
    name: Vec<u8>,
    placed: bool,
}

impl Temporary {
    /// Gives it its name. What stands there goes only where it may be replaced.
    fn place(&mut self, name: &[u8], replaces: bool) -> rustix::io::Result<()> {
        let (dir, here) = (&*self.dir, &self.name[..]);
        if replaces {
            match renameat(dir, here, dir, name) {
                // An empty directory stands there.
                Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                    unlinkat(dir, name, AtFlags::REMOVEDIR)?;
                    renameat(dir, here, dir, name)?;
                }
                done => done?,
            }
            // Two names of one file stay two when one is renamed to the other.
            self.placed = dir.status(here).is_err();
            return Ok(());
        }
        match renameat_with(dir, here, dir, name, RenameFlags::NOREPLACE) {
            // A file system that cannot do this can link.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                linkat(dir, here, dir, name, AtFlags::empty())
            }
            done => {
                self.placed = done.is_ok();
                done
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // What is left is found by its name the next time.
            let _ = unlinkat(&*self.dir, &self.name[..], AtFlags::empty());
        }
    }
}

/// A regular file being written.
pub struct NewFile {
    temporary: Temporary,
    file: OwnedFd,
    at: u64,
}

impl NewFile {
    /// More of its content.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = pwrite(&self.file, bytes, self.at)?;
            self.at += written as u64;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// More of its content, where whole blocks of zeros become holes.
    pub fn write_sparse(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let zeros = self.blocks(bytes, true);
            self.skip(zeros as u64);
            let data = self.blocks(&bytes[zeros..], false);
            self.write(&bytes[zeros..zeros + data])?;
            bytes = &bytes[zeros + data..];
        }
        Ok(())
    }

    /// How many bytes at the begin of `bytes` are whole blocks of zeros, or are none; blocks as the file has
    /// them, the first and the last one of `bytes` perhaps in part.
    fn blocks(&self, bytes: &[u8], zeros: bool) -> usize {
        let mut at = 0;
        let aligned = (self.at % BLOCK as u64) as usize;
        while at < bytes.len() {
            let end = bytes.len().min(at + BLOCK - (aligned + at) % BLOCK);
            if bytes[at..end].iter().all(|byte| *byte == 0) != zeros {
                break;
            }
            at = end;
        }
        at
    }

    /// A hole of so many bytes.
    pub fn skip(&mut self, zeros: u64) {
        self.at += zeros;
    }

    /// Gives it its attributes. It is to get its name once it is durable.
    pub fn finish(
        self,
        target: &DirectoryTarget,
        name: &[u8],
        wanted: &Wanted<'_>,
        replaces: bool,
    ) -> io::Result<(Refused, Unnamed)> {
        if wanted.file().is_some_and(|file| file.sparse) {
            ftruncate(&self.file, self.at)?;
        }
        let refused = target.set_attributes(&self.file, wanted)?;
        Ok((refused, Unnamed { temporary: self.temporary, name: name.to_vec(), replaces }))
    }
}

/// A file that is complete, and has not got its name yet.
pub struct Unnamed {
    temporary: Temporary,
    name: Vec<u8>,
    /// It takes the place of something.
    pub replaces: bool,
}

impl Unnamed {
    /// Gives it its name.
    pub fn place(mut self) -> io::Result<()> {
        Ok(self.temporary.place(&self.name, self.replaces)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::SystemRandom;
    use std::os::unix::fs::MetadataExt;

    fn target() -> (tempfile::TempDir, DirectoryTarget, Dirs) {
        let directory = tempfile::tempdir().unwrap();
        let mut target = DirectoryTarget::open(directory.path()).unwrap();
        let dirs = target.make().unwrap();
        (directory, target, dirs)
    }

    fn create(target: &DirectoryTarget, dirs: &mut Dirs) -> NewFile {
        let item = Item {
            state: crate::format::ItemState::Present,
            size: 0,
            modified: 0,
            content: crate::format::Content::Inline(Vec::new()),
            attributes: Attributes::Object(Box::default()),
        };
        target.create(dirs.get(b"").unwrap(), &Wanted::new(&item), &SystemRandom).unwrap()
    }

    #[test]
    fn zeros_become_holes_whatever_pieces_they_come_in() {
        let (directory, target, mut dirs) = target();
        let mut content = vec![0; 1 << 20];
        content[300_000..300_010].fill(7);
        content[1_048_575] = 1;
        for piece in [1000, 4096, 5000, 1 << 20] {
            let mut file = create(&target, &mut dirs);
            for part in content.chunks(piece) {
                file.write_sparse(part).unwrap();
            }
            file.temporary.place(b"f", true).unwrap();
            let path = directory.path().join("f");
            assert!(std::fs::read(&path).unwrap() == content, "{piece}");
            assert!(path.metadata().unwrap().blocks() * 512 < 100_000, "{piece}");
        }
    }

    #[test]
    fn directories_are_found_whichever_way_one_goes_through_them() {
        let (directory, _, mut dirs) = target();
        let deep = vec!["d"; 3 * HELD].join("/");
        std::fs::create_dir_all(directory.path().join(&deep)).unwrap();
        std::fs::create_dir_all(directory.path().join("d/dd/x")).unwrap();
        let inode = |dir: &Dir| Status::of(&fstat(dir).unwrap()).inode;
        let lengths = (0..=deep.len()).filter(|length| length % 2 == 1).rev();
        let down = lengths.clone().rev().map(|length| deep[..length].to_owned());
        let up = lengths.map(|length| deep[..length].to_owned());
        let across = ["", "d/dd/x", "d/d", "d/dd", "d", "d/dd/x", ""].map(str::to_owned);
        for path in down.chain(up).chain(across) {
            let expected = directory.path().join(&path).metadata().unwrap().ino();
            assert_eq!(inode(&dirs.get(path.as_bytes()).unwrap()), expected, "{path}");
            assert!(dirs.held.len() <= HELD);
        }
        assert!(dirs.get(b"d/nothing").is_err());
        assert!(dirs.get(b"d/nothing").is_err(), "what was not found is not remembered");
        assert!(dirs.get(b"d/d").is_ok());
    }

    #[test]
    fn what_appears_meanwhile_is_not_written_over_and_nothing_is_left_behind() {
        let (directory, target, mut dirs) = target();
        std::fs::write(directory.path().join("f"), "theirs").unwrap();
        let mut file = create(&target, &mut dirs);
        let leftover = file.temporary.name.clone();
        assert!(is_leftover(&leftover) && !is_leftover(b".icecore-unfinished-") && !is_leftover(b"f"));
        file.write(b"ours").unwrap();
        assert!(file.temporary.place(b"f", false).is_err());
        drop(file);
        assert_eq!(std::fs::read(directory.path().join("f")).unwrap(), b"theirs");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn whole_seconds_are_enough_where_a_file_system_keeps_no_more() {
        assert!(same_time(5, 5) && same_time(3_000_000_000, 3_500_000_000));
        assert!(!same_time(3_500_000_000, 3_000_000_000) && !same_time(-1_000_000_000, 1));
    }
}
