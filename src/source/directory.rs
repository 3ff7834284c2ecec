//! A directory: its files, with everything that belongs to them.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Error, Result};
use crate::context::Nanos;
use crate::directory::{Dir, Entry, Owners, Rules, Status, Step, Walk};
use crate::format::{Attributes, Content, FileAttributes, FileKind, Item, ItemState, Xattr};
use crate::selection::Selection;

/// A directory and how it is read.
#[derive(Clone, Default)]
pub struct DirectoryOptions {
    /// Where it is.
    pub path: PathBuf,
    /// Only files that these globs take.
    pub selection: Selection,
    /// Leave out what caches hold, where a `CACHEDIR.TAG` says that they are some.
    pub exclude_caches: bool,
    /// Leave out what other file systems hold that are mounted in it.
    pub one_file_system: bool,
}

/// An open directory.
pub struct Directory {
    path: PathBuf,
    options: DirectoryOptions,
    root: Arc<Dir>,
    owners: Owners,
}

/// What a walk finds.
pub enum Seen {
    /// A file of any kind.
    Entry(Entry),
    /// This directory, which came before, cannot be listed, for this reason.
    Closed(Vec<u8>, io::Error),
}

impl Directory {
    /// Opens it.
    pub fn open(options: &DirectoryOptions) -> Result<Directory> {
        let fail = |error| Error::Directory(options.path.display().to_string(), error);
        // By its components, so that a slash at the end makes no other place of it.
        let path: PathBuf = std::path::absolute(&options.path).map_err(fail)?.components().collect();
        let root = Arc::new(Dir::open(&path).map_err(fail)?);
        Ok(Directory { path, options: options.clone(), root, owners: Owners::of_this_machine() })
    }

    /// Its absolute path; links in it are kept as they were given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path as bytes.
    pub fn place(&self) -> Vec<u8> {
        self.path.as_os_str().as_bytes().to_vec()
    }

    /// Everything that is taken, in order of key. Globs of `include` choose files; directories are taken with
    /// them, since files are restored into them.
    pub fn list(&self) -> Result<impl Iterator<Item = Seen>> {
        let Selection { include, .. } = &self.options.selection;
        let (selection, chosen) = (&self.options.selection, !include.is_empty());
        let rules = Rules {
            wanted: Box::new(|key| selection.may_hold(key)),
            exclude_caches: self.options.exclude_caches,
            one_file_system: self.options.one_file_system,
        };
        let fail = |error| Error::Directory(self.path.display().to_string(), error);
        // Opened again: a listing goes through a descriptor once.
        let root = Arc::new(Dir::open(&self.path).map_err(fail)?);
        let walk = Walk::new(root, rules).map_err(fail)?;
        Ok(walk.filter_map(move |step| match step {
            Step::Closed(key, error) => Some(Seen::Closed(key, error)),
            Step::Found(entry) => {
                let taken = !chosen
                    || entry.status.as_ref().is_ok_and(|status| status.is_dir())
                    || selection.takes(&entry.key);
                taken.then_some(Seen::Entry(entry))
            }
        }))
    }

    /// A file by its key.
    pub fn entry(&self, key: &[u8]) -> io::Result<Entry> {
        let (above, _) = crate::directory::split(key);
        Ok(Entry::at(Arc::new(self.root.descend(above)?), key.to_vec()))
    }

    /// What is not a regular file, as an item.
    pub fn other(&self, entry: &Entry, status: &Status, kind: Option<FileKind>) -> io::Result<Item> {
        let name = entry.name();
        let kind = match kind {
            Some(kind) => kind,
            None => {
                let is_link = status.file_type == rustix::fs::FileType::Symlink;
                let target = if is_link { entry.dir.link_target(name)? } else { Vec::new() };
                let unknown = || io::Error::other("it is of a kind that no snapshot can hold");
                status.kind(target).ok_or_else(unknown)?
            }
        };
        let xattrs = entry.dir.xattrs(name)?;
        Ok(self.item(status, kind, Content::Inline(Vec::new()), false, xattrs))
    }

    /// An item of all that is known of a file.
    pub fn item(
        &self,
        status: &Status,
        kind: FileKind,
        content: Content,
        sparse: bool,
        xattrs: Vec<Xattr>,
    ) -> Item {
        let attributes = FileAttributes {
            kind,
            mode: status.mode,
            uid: status.uid,
            gid: status.gid,
            user: self.owners.user(status.uid),
            group: self.owners.group(status.gid),
            changed: status.changed,
            inode: status.inode,
            sparse,
            xattrs,
        };
        Item {
            state: ItemState::Present,
            size: content.len(),
            modified: status.modified,
            content,
            attributes: Attributes::File(Box::new(attributes)),
        }
    }

    /// A file without its content: gone, or unreadable.
    pub fn absent(&self, status: Option<&Status>, state: ItemState) -> Item {
        // Of what vanished before anybody looked at it nothing is known.
        let nothing = Status {
            file_type: rustix::fs::FileType::RegularFile,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            sparse: false,
            modified: 0,
            changed: 0,
            device: 0,
            inode: 0,
            links: 0,
            special: 0,
        };
        let status = status.unwrap_or(&nothing);
        let kind = status.kind(Vec::new()).unwrap_or(FileKind::Regular);
        let item = self.item(status, kind, Content::Inline(Vec::new()), false, Vec::new());
        Item { state, ..item }
    }
}

/// How much later than its last change a file must have been listed, so that another change would have
/// given it another time: the kernel's clock for files goes in steps of some milliseconds.
const STEP: Nanos = 20_000_000;
/// The same where a file system keeps whole seconds, or pairs of them.
const COARSE_STEP: Nanos = 2_000_000_000;

/// Whether a file is as a snapshot recorded it, as far as its status tells. `listed` is when the listing of
/// that snapshot began; `first` is the first name of the file, where this is another one.
pub fn shows(status: &Status, before: &Item, first: Option<&[u8]>, listed: Nanos) -> bool {
    let Attributes::File(attributes) = &before.attributes else { return false };
    let kind = match (&attributes.kind, first) {
        (FileKind::HardLink(there), Some(first)) => there == first,
        (FileKind::HardLink(_), None) | (_, Some(_)) => false,
        // Where a link leads does not change without its ctime.
        (FileKind::Symlink(_), None) => status.kind(Vec::new()) == Some(FileKind::Symlink(Vec::new())),
        (kind, None) => status.kind(Vec::new()).as_ref() == Some(kind),
    };
    let size = !(status.is_file() && first.is_none()) || status.size == before.size;
    let step = if status.changed % 1_000_000_000 == 0 { COARSE_STEP } else { STEP };
    before.state == ItemState::Present
        && kind
        && size
        && status.modified == before.modified
        && (status.changed, status.inode) == (attributes.changed, attributes.inode)
        && (status.mode, status.uid, status.gid) == (attributes.mode, attributes.uid, attributes.gid)
        // Changed while it was listed: perhaps again after that, in the same step of the clock.
        && !(status.is_file() && status.changed.saturating_add(step) >= listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_as_it_was_listed_is_not_believed_to_be_the_same() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("f"), b"x").unwrap();
        let options = DirectoryOptions { path: tree.path().to_owned(), ..DirectoryOptions::default() };
        let directory = Directory::open(&options).unwrap();
        let status = directory.entry(b"f").unwrap().status.unwrap();
        let content = Content::Inline(b"x".to_vec());
        let item = directory.item(&status, FileKind::Regular, content, false, Vec::new());
        assert!(shows(&status, &item, None, status.changed + COARSE_STEP + 1));
        assert!(!shows(&status, &item, None, status.changed));
        assert!(!shows(&status, &item, None, status.changed + STEP));
        let later = status.changed + COARSE_STEP + 1;
        assert!(!shows(&status, &item, Some(b"e"), later), "it is another name now");
        assert!(!shows(&Status { size: 2, ..status }, &item, None, later));
        assert!(!shows(&Status { inode: 2, ..status }, &item, None, later));
        assert!(!shows(&status, &Item { state: ItemState::Unreadable, ..item }, None, later));
    }
}
