//! Whether a process of this machine still lives: a file that it holds locked.
//!
//! The kernel gives the lock back when the process ends, however it does. Names of hosts and numbers of
//! processes would say less: containers share the ones and count the others anew. What cannot be told, of
//! another machine or from before the machine was started, is taken for alive.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Held as long as the process lives, or until it is dropped.
pub struct Lifeline {
    path: PathBuf,
    _locked: File,
}

/// Drawn by the kernel whenever it is started; `None` where it does not say.
fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

impl Lifeline {
    /// A new one at `path`.
    pub fn hold(path: &Path) -> io::Result<Lifeline> {
        path.parent().map(fs::create_dir_all).transpose()?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let held = flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from);
        // It says nothing before it is locked.
        let said = held.and_then(|()| file.write_all(boot().unwrap_or_default().as_bytes()));
        if let Err(error) = said {
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(Lifeline { path: path.to_owned(), _locked: file })
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether whoever held this one is known to have ended without letting go of it.
pub fn is_cut(path: &Path) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let mut said = String::new();
    if file.read_to_string(&mut said).is_err() || boot().is_none_or(|boot| boot != said) {
        return false;
    }
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_cut_only_where_its_process_has_ended_since_this_machine_was_started() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/lifeline");
        assert!(!is_cut(&path), "nothing is known of it");
        let held = Lifeline::hold(&path).unwrap();
        assert!(!is_cut(&path));
        assert!(Lifeline::hold(&path).is_err(), "it is another's");
        drop(held);
        assert!(!path.exists() && !is_cut(&path));
        // As a killed process leaves it.
        fs::write(&path, boot().unwrap()).unwrap();
        assert!(is_cut(&path));
        fs::write(&path, "another boot").unwrap();
        assert!(!is_cut(&path), "before the machine was started, or on another one");
        fs::write(&path, "").unwrap();
        assert!(!is_cut(&path), "not locked yet");
    }
}
