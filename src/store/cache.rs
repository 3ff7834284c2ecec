//! Tree packs kept on this machine, bounded, so that a merge over a large tree does not fetch every
//! leaf again. What is kept is sealed as it is in the repository and verified at every read.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use crate::id::PackId;
use crate::mutex::lock;

/// Files in a directory, one a pack. Failures are misses: the repository has the truth.
pub struct PackCache {
    directory: PathBuf,
    most: u64,
    bytes: AtomicU64,
    /// Files made so far.
    made: AtomicU64,
    /// One thread evicts.
    evicting: Mutex<()>,
}

impl PackCache {
    /// At most about `most` bytes in `directory`.
    pub fn new(directory: &Path, most: u64) -> PackCache {
        let _ = fs::create_dir_all(directory);
        let (bytes, made, evicting) = Default::default();
        let cache = PackCache { directory: directory.to_owned(), most, bytes, made, evicting };
        cache.bytes.store(cache.files().iter().map(|file| file.1).sum(), Ordering::Relaxed);
        cache
    }

    fn path(&self, pack: PackId) -> PathBuf {
        self.directory.join(pack.to_string())
    }

    fn files(&self) -> Vec<(SystemTime, u64, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let files = entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            Some((metadata.modified().ok()?, metadata.len(), entry.path()))
        });
        files.collect()
    }

    /// Whether a pack is here.
    pub fn has(&self, pack: PackId) -> bool {
        self.path(pack).exists()
    }

    /// A range of a pack, if it is here.
    pub fn read(&self, pack: PackId, offset: u64, length: usize) -> Option<Bytes> {
        let file = File::open(self.path(pack)).ok()?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes.into())
    }

    /// Keeps a pack. Not synced: a torn file fails its seal and is fetched again.
    pub fn keep(&self, pack: PackId, bytes: &[u8]) {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!("{pack}.{}-{number}", std::process::id()));
        let written = File::create(&temporary).and_then(|mut file| file.write_all(bytes));
        if written.and_then(|()| fs::rename(&temporary, self.path(pack))).is_err() {
            let _ = fs::remove_file(&temporary);
            return;
        }
        let now = self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
        if now > self.most {
            let _alone = lock(&self.evicting);
            if self.bytes.load(Ordering::Relaxed) > self.most {
                self.evict();
            }
        }
    }

    /// Drops the oldest until three quarters of the bound are left.
    fn evict(&self) {
        let mut files = self.files();
        files.sort();
        let mut left: u64 = files.iter().map(|file| file.1).sum();
        for (_, size, path) in files {
            if left <= self.most / 4 * 3 {
                break;
            }
            if fs::remove_file(path).is_ok() {
                left -= size;
            }
        }
        self.bytes.store(left, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_kept_by_dropping_the_oldest() {
        let directory = tempfile::tempdir().unwrap();
        let cache = PackCache::new(directory.path(), 4000);
        for number in 0..10 {
            cache.keep(PackId([number; 16]), &[number; 1000]);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(cache.files().iter().map(|f| f.1).sum::<u64>() <= 4000);
        assert_eq!(cache.read(PackId([9; 16]), 1, 2).unwrap(), [9, 9][..]);
        assert_eq!(cache.read(PackId([0; 16]), 0, 1), None);
    }
}
