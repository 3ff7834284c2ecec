//! A wrapper that keeps bandwidth under a limit.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Cause, Error, Listed, Result, Storage};
use crate::context::Cancel;
use crate::mutex::lock;

/// Larger files are packs and segments of many chunks.
const SMALL: usize = 1 << 20;

/// Lets bytes pass at a rate: each caller waits until the bytes before its own have had their time.
struct Gate {
    per_second: Option<u64>,
    free_at: Mutex<Option<Instant>>,
    cancel: Cancel,
}

impl Gate {
    fn new(per_second: Option<u64>, cancel: Cancel) -> Gate {
        Gate { per_second: per_second.filter(|&rate| rate > 0), free_at: Mutex::new(None), cancel }
    }

    fn pass(&self, bytes: u64) {
        let Some(rate) = self.per_second else { return };
        let took = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let now = Instant::now();
        let until = {
            let mut free_at = lock(&self.free_at);
            let until = free_at.map_or(now, |at| at.max(now)) + took;
            *free_at = Some(until);
            until
        };
        // Whoever wants to stop does not want to wait.
        let _ = self.cancel.wait(until.saturating_duration_since(now));
    }
}

/// Keeps `inner` under a rate each way.
pub struct Limited<S> {
    inner: S,
    up: Gate,
    down: Gate,
}

impl<S: Storage> Limited<S> {
    /// Bytes a second, `None` for no limit. Nobody waits once `cancel` is set.
    pub fn new(inner: S, upload: Option<u64>, download: Option<u64>, cancel: Cancel) -> Limited<S> {
        Limited { inner, up: Gate::new(upload, cancel.clone()), down: Gate::new(download, cancel) }
    }
}

impl<S: Storage> Storage for Limited<S> {
    fn medium(&self) -> Arc<str> {
        self.inner.medium()
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        let bytes = self.inner.get(name)?;
        self.down.pass(bytes.len() as u64);
        Ok(bytes)
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes> {
        let bytes = self.inner.get_range(name, offset, length)?;
        self.down.pass(bytes.len() as u64);
        Ok(bytes)
    }

    fn put_once(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.up.pass(bytes.len() as u64);
        // A burst past the limit is not what stopping means; the records that end a session still pass.
        if self.up.cancel.is_set() && bytes.len() > SMALL && self.up.per_second.is_some() {
            let medium = self.inner.medium();
            return Err(Error { action: "write", name: name.into(), medium, cause: Cause::Interrupted });
        }
        self.inner.put_once(name, bytes)
    }

    fn list(&self, folder: &str, show: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.inner.list(folder, show)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Local;

    #[test]
    fn a_limit_is_kept_over_several_files() {
        let directory = tempfile::tempdir().unwrap();
        let limited = Limited::new(Local::new(directory.path()), Some(1 << 20), None, Cancel::default());
        let begun = Instant::now();
        for name in ["a", "b", "c", "d"] {
            limited.put(name, vec![0; 64 << 10].into()).unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(240), "{:?}", begun.elapsed());
    }
}
