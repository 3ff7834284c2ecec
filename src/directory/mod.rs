//! A directory tree by descriptors. Every name is looked up in its opened directory and no symbolic link is
//! followed, so that trees of any depth work and nobody who renames meanwhile leads us elsewhere.

mod attributes;
mod read;
mod walk;

use std::io;
use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::context::Nanos;
use crate::format::FileKind;

pub use attributes::{Owners, set_xattrs, xattrs_of};
pub use read::{FileReader, Piece};
pub use walk::{Entry, Rules, Step, Walk};

/// An opened directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// What is opened, and never followed.
const WITHIN: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

impl Dir {
    /// The root of a tree. The user named it, so links on the way to it are followed.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Dir(openat(CWD, path, flags, Mode::empty())?))
    }

    /// A directory in this one, to be listed.
    pub fn enter(&self, name: &[u8]) -> io::Result<Dir> {
        Ok(Dir(openat(&self.0, name, WITHIN | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?))
    }

    /// A directory below this one, where names can be looked up; `path` may be empty for this one.
    pub fn descend(&self, path: &[u8]) -> io::Result<Dir> {
        let flags = WITHIN | OFlags::PATH | OFlags::DIRECTORY;
        let mut at = openat(&self.0, c".", flags, Mode::empty())?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at = openat(&at, name, flags, Mode::empty())?;
        }
        Ok(Dir(at))
    }

    /// What stands under a name.
    pub fn status(&self, name: &[u8]) -> io::Result<Status> {
        Ok(Status::of(&statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// Opens a regular file to be read. Should it be something else by now, opening it does nothing.
    pub fn open_file(&self, name: &[u8]) -> io::Result<OwnedFd> {
        let flags = WITHIN | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        match openat(&self.0, name, flags | OFlags::NOATIME, Mode::empty()) {
            // Only a file's owner may leave the time of its last reading alone.
            Err(Errno::PERM) => Ok(openat(&self.0, name, flags, Mode::empty())?),
            opened => Ok(opened?),
        }
    }

    /// Where a symbolic link leads.
    pub fn link_target(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(readlinkat(&self.0, name, Vec::new())?.into_bytes())
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the file system says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// What it is.
    pub file_type: FileType,
    /// Permissions with set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// It takes fewer blocks than its bytes need.
    pub sparse: bool,
    /// Its mtime.
    pub modified: Nanos,
    /// Its ctime.
    pub changed: Nanos,
    /// The file system it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// Which device it stands for.
    pub special: u64,
}

impl Status {
    // The types of these fields are other ones on other machines.
    #[allow(clippy::unnecessary_cast)]
    pub(crate) fn of(stat: &rustix::fs::Stat) -> Status {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Status {
            file_type: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode as u32 & 0o7777,
            uid: stat.st_uid as u32,
            gid: stat.st_gid as u32,
            size: stat.st_size as u64,
            sparse: (stat.st_blocks as u64).saturating_mul(512) < stat.st_size as u64,
            modified: nanos(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: nanos(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            links: stat.st_nlink as u64,
            special: stat.st_rdev as u64,
        }
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type == FileType::RegularFile
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// The kind of an item, where `target` is where a symbolic link leads. Whiteouts and the like have none.
    pub fn kind(&self, target: Vec<u8>) -> Option<FileKind> {
        Some(match self.file_type {
            FileType::RegularFile => FileKind::Regular,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink(target),
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::CharacterDevice => FileKind::CharDevice(self.special),
            FileType::BlockDevice => FileKind::BlockDevice(self.special),
            FileType::Unknown => return None,
        })
    }

    /// Whether nothing was written to the same file between two looks.
    pub fn is_same(&self, other: &Status) -> bool {
        let of =
            |status: &Status| (status.size, status.modified, status.changed, status.inode, status.device);
        of(self) == of(other)
    }
}

/// The directory of a path, and the name in it.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_directory_and_a_name() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
    }

    #[test]
    fn no_symbolic_link_leads_out_of_a_tree() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("in/deep")).unwrap();
        std::os::unix::fs::symlink("/", tree.path().join("out")).unwrap();
        std::os::unix::fs::symlink("in", tree.path().join("also")).unwrap();
        let root = Dir::open(tree.path()).unwrap();
        assert!(root.descend(b"in/deep").is_ok() && root.descend(b"").is_ok());
        for path in [&b"out/etc"[..], b"out", b"also/deep", b"also"] {
            assert!(root.descend(path).is_err(), "{path:?}");
        }
        assert!(root.enter(b"also").is_err() && root.open_file(b"also").is_err());
        assert_eq!(root.link_target(b"also").unwrap(), b"in");
    }
}
