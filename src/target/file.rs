//! A file of this machine as target: it appears whole or not at all.

use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use super::{Error, Result};

/// A file on its way to its name. Only its owner may read it.
pub struct WholeFile {
    temporary: NamedTempFile,
    path: PathBuf,
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl WholeFile {
    /// An error where `path` cannot become the name of a new file.
    pub fn check(path: &Path, overwrite: bool) -> Result<()> {
        let name = || path.display().to_string();
        match path.symlink_metadata() {
            Ok(there) if !overwrite || there.is_dir() => Err(Error::Exists(name())),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::File(name(), error)),
            _ => match directory(path).metadata() {
                Err(error) => Err(Error::File(name(), error)),
                Ok(_) => Ok(()),
            },
        }
    }

    /// Begins a file beside `path`.
    pub fn create(path: &Path) -> Result<WholeFile> {
        let failed = |e| Error::File(path.display().to_string(), e);
        let temporary = Builder::new().prefix(".icecore-").tempfile_in(directory(path)).map_err(failed)?;
        Ok(WholeFile { temporary, path: path.to_owned() })
    }

    /// To write to.
    pub fn file(&self) -> Result<File> {
        self.temporary.as_file().try_clone().map_err(|e| Error::File(self.path.display().to_string(), e))
    }

    /// Gives the file its name. Its content is durable already.
    pub fn persist(self, overwrite: bool) -> Result<()> {
        let name = self.path.display().to_string();
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Exists(name.clone()),
            _ => Error::File(name.clone(), e),
        };
        let persisted = match overwrite {
            true => self.temporary.persist(&self.path),
            false => self.temporary.persist_noclobber(&self.path),
        };
        persisted.map_err(|e| failed(e.error))?;
        File::open(directory(&self.path)).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_appears_whole_and_never_in_the_place_of_another_unasked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.db");
        let write = |text: &str, overwrite| {
            let new = WholeFile::create(&path)?;
            new.file()?.write_all(text.as_bytes()).unwrap();
            new.persist(overwrite)
        };
        WholeFile::check(&path, false).unwrap();
        drop(WholeFile::create(&path).unwrap());
        assert!(!path.exists(), "one that was given up leaves nothing");
        write("one", false).unwrap();
        assert!(matches!(WholeFile::check(&path, false), Err(Error::Exists(_))));
        assert!(matches!(write("two", false), Err(Error::Exists(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        WholeFile::check(&path, true).unwrap();
        write("two", true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(matches!(WholeFile::check(directory.path(), true), Err(Error::Exists(_))));
        assert!(matches!(WholeFile::check(&directory.path().join("no/x.db"), false), Err(Error::File(..))));
    }
}
