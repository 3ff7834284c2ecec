//! A wrapper that counts requests and bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{Listed, Result, Storage};

/// Counters shared by whoever reports them.
#[derive(Debug, Default)]
pub struct Requests {
    /// Whole files and ranges read.
    pub gets: AtomicU64,
    /// Files written, every attempt counted.
    pub puts: AtomicU64,
    /// Listings begun.
    pub lists: AtomicU64,
    /// Files removed.
    pub deletes: AtomicU64,
    /// Bytes read.
    pub read: AtomicU64,
    /// Bytes written.
    pub written: AtomicU64,
}

/// Counts what goes through to `inner`.
pub struct Counted<S> {
    inner: S,
    requests: Arc<Requests>,
}

impl<S: Storage> Counted<S> {
    /// Counts into `requests`.
    pub fn new(inner: S, requests: Arc<Requests>) -> Counted<S> {
        Counted { inner, requests }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl<S: Storage> Storage for Counted<S> {
    fn medium(&self) -> Arc<str> {
        self.inner.medium()
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        add(&self.requests.gets, 1);
        let bytes = self.inner.get(name)?;
        add(&self.requests.read, bytes.len() as u64);
        Ok(bytes)
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes> {
        add(&self.requests.gets, 1);
        let bytes = self.inner.get_range(name, offset, length)?;
        add(&self.requests.read, bytes.len() as u64);
        Ok(bytes)
    }

    fn put_once(&self, name: &str, bytes: Bytes) -> Result<()> {
        add(&self.requests.puts, 1);
        let length = bytes.len() as u64;
        self.inner.put_once(name, bytes)?;
        add(&self.requests.written, length);
        Ok(())
    }

    fn list(&self, folder: &str, show: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        add(&self.requests.lists, 1);
        self.inner.list(folder, show)
    }

    fn delete(&self, name: &str) -> Result<()> {
        add(&self.requests.deletes, 1);
        self.inner.delete(name)
    }
}
