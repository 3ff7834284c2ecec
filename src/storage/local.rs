//! A directory as medium.
//!
//! A file is written under a temporary name, synced, and given its name by `link`, which refuses a
//! taken name and never shows half a file; then the directory is synced.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use bytes::Bytes;

use super::{Cause, Error, Listed, Result, Storage};
use crate::fault::Kind;
use crate::mutex::lock;

/// Holds files that are being written; never listed.
const TEMPORARY: &str = "tmp";
/// Nothing is being written for so long.
const LEFT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A directory.
pub struct Local {
    root: PathBuf,
    medium: Arc<str>,
    next: AtomicU64,
    /// Directories known to exist durably.
    made: Mutex<HashSet<PathBuf>>,
    /// Whether left-overs were looked for.
    swept: Once,
    /// How often the disk was waited for.
    #[cfg(test)]
    syncs: AtomicU64,
}

impl Local {
    /// The directory `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Local {
        let root = root.into();
        let medium = root.display().to_string().into();
        Local {
            root,
            medium,
            next: AtomicU64::new(0),
            made: Mutex::default(),
            swept: Once::new(),
            #[cfg(test)]
            syncs: AtomicU64::new(0),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn fail(&self, action: &'static str, name: &str, error: &io::Error) -> Error {
        Error { action, name: name.into(), medium: self.medium.clone(), cause: cause_of(error) }
    }

    /// Makes `directory` and its parents up to the root, each durable in its own parent. Whoever made it,
    /// its entry may not be durable yet: the first time it is seen its parent is synced.
    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        if lock(&self.made).contains(directory) {
            return Ok(());
        }
        let parent = directory.parent().map(|parent| match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        });
        let new = !directory.is_dir();
        if new {
            if let Some(parent) = parent {
                self.make_directory(parent)?;
            }
            match fs::DirBuilder::new().mode(0o700).create(directory) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        let inside = directory.starts_with(&self.root);
        if let Some(parent) = parent.filter(|_| new || inside) {
            match self.sync_directory(parent) {
                // Above the root, a parent that may not be opened is none of ours.
                Err(e) if e.kind() == ErrorKind::PermissionDenied && (!inside || directory == self.root) => {}
                synced => synced?,
            }
        }
        lock(&self.made).insert(directory.to_owned());
        Ok(())
    }

    fn write_temporary(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        let directory = self.root.join(TEMPORARY);
        self.make_directory(&directory)?;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{}-{number}", std::process::id()));
            // Temporary names need only be new; a left-over of a dead process is passed by.
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
                Ok(mut file) => {
                    let written = file.write_all(bytes).and_then(|()| self.sync(&file));
                    if let Err(error) = written {
                        let _ = fs::remove_file(&path);
                        return Err(error);
                    }
                    self.swept.call_once(|| sweep(&directory, &path));
                    return Ok(path);
                }
            }
        }
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let directory = path.parent().unwrap_or(&self.root);
        self.make_directory(directory)?;
        let temporary = self.write_temporary(bytes)?;
        let linked = link(&temporary, &path);
        // A temporary file that cannot be removed is garbage, not a failure.
        let _ = fs::remove_file(&temporary);
        linked?;
        self.sync_directory(directory)
    }

    /// Waits until the disk has it.
    fn sync(&self, file: &File) -> io::Result<()> {
        #[cfg(test)]
        self.syncs.fetch_add(1, Ordering::Relaxed);
        file.sync_all()
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.sync(&File::open(path)?)
    }

    fn walk(&self, folder: &str, show: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let fail = |e: io::Error| self.fail("list", folder, &e);
        let entries = match fs::read_dir(self.path(folder)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(fail)?,
        };
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let Some(part) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if folder.is_empty() && part == TEMPORARY {
                continue;
            }
            let name = format!("{folder}{part}");
            let metadata = match entry.metadata() {
                // Removed between the listing and the look: not there.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                metadata => metadata.map_err(fail)?,
            };
            if metadata.is_dir() {
                self.walk(&format!("{name}/"), show)?;
            } else if metadata.is_file() {
                show(Listed { name, size: metadata.len() })?;
            }
        }
        Ok(())
    }
}

/// Removes what killed processes left there long before `new` was written, by the file system's own clock.
fn sweep(directory: &Path, new: &Path) {
    let written = |metadata: io::Result<fs::Metadata>| metadata.and_then(|metadata| metadata.modified());
    let (Ok(now), Ok(entries)) = (written(fs::metadata(new)), fs::read_dir(directory)) else { return };
    for entry in entries.flatten() {
        let age = written(entry.metadata()).ok().and_then(|then| now.duration_since(then).ok());
        if age.is_some_and(|age| age > LEFT) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Gives `from` the name `to` unless it is taken. On NFS an answer can be lost after success: two
/// links to our own file mean that the name is ours.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) => {
            let ours = fs::metadata(from).is_ok_and(|m| m.nlink() == 2);
            let same = fs::metadata(from).and_then(|a| Ok(a.ino() == fs::metadata(to)?.ino()));
            if ours && same.unwrap_or(false) { Ok(()) } else { Err(error) }
        }
        done => done,
    }
}

fn cause_of(error: &io::Error) -> Cause {
    match error.kind() {
        ErrorKind::NotFound => Cause::NotFound,
        ErrorKind::AlreadyExists => Cause::Exists,
        ErrorKind::PermissionDenied => Cause::Refused(Kind::Denied, error.to_string()),
        ErrorKind::ReadOnlyFilesystem => Cause::Refused(Kind::Denied, error.to_string()),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Cause::Refused(Kind::NoSpace, error.to_string()),
        _ => Cause::Refused(Kind::Failed, error.to_string()),
    }
}

impl Storage for Local {
    fn medium(&self) -> Arc<str> {
        self.medium.clone()
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        let read = || {
            let mut file = File::open(self.path(name))?;
            let mut bytes = Vec::with_capacity(file.metadata()?.len() as usize + 1);
            file.read_to_end(&mut bytes)?;
            Ok(bytes.into())
        };
        read().map_err(|e| self.fail("read", name, &e))
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes> {
        let read = || {
            let file = File::open(self.path(name))?;
            let there = file.metadata()?.len().saturating_sub(offset).min(length);
            let mut bytes = vec![0; there as usize];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes.into())
        };
        read().map_err(|e| self.fail("read", name, &e))
    }

    fn put_once(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.create(name, &bytes).map_err(|e| self.fail("write", name, &e))
    }

    fn list(&self, folder: &str, show: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.walk(folder, show)
    }

    fn delete(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.fail("delete", name, &e)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_file_left_by_a_crash_is_not_listed_and_not_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let local = Local::new(directory.path());
        fs::create_dir(directory.path().join("tmp")).unwrap();
        fs::write(directory.path().join(format!("tmp/{}-0", std::process::id())), b"half").unwrap();
        local.put("packs/a", Bytes::from_static(b"whole")).unwrap();
        assert_eq!(local.names("").unwrap(), ["packs/a"]);
    }

    #[test]
    fn what_was_left_half_written_goes_once_nobody_can_be_writing_it() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("tmp/1-0"), directory.path().join("tmp/1-1"));
        fs::create_dir(directory.path().join("tmp")).unwrap();
        for (path, age) in [(&old, LEFT + Duration::from_secs(60)), (&new, LEFT - Duration::from_secs(60))] {
            fs::write(path, b"half").unwrap();
            let then = std::time::SystemTime::now() - age;
            File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
        }
        Local::new(directory.path()).put("packs/a", Bytes::from_static(b"whole")).unwrap();
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn every_put_waits_for_its_content_and_for_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let local = Local::new(directory.path().join("repository"));
        let syncs = || local.syncs.load(Ordering::Relaxed);
        local.put("packs/a", Bytes::from_static(b"first")).unwrap();
        // The directory of packs and that of temporary files are new as well.
        assert_eq!(syncs(), 2 + 3);
        for number in 1..=10 {
            local.put(&format!("packs/{number}"), Bytes::from_static(b"more")).unwrap();
            assert_eq!(syncs(), 2 + 3 + 2 * number);
        }
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let full = io::Error::from(ErrorKind::StorageFull);
        assert!(matches!(cause_of(&full), Cause::Refused(Kind::NoSpace, _)));
    }
}
