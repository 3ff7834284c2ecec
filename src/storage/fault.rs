//! A wrapper that makes requests fail on purpose, for tests of what happens then.

use std::sync::Arc;

use bytes::Bytes;

use super::{Cause, Error, Listed, Result, Storage};

/// The requests that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// [`Storage::get`] and [`Storage::get_range`].
    Get,
    /// [`Storage::put_once`].
    Put,
    /// [`Storage::list`].
    List,
    /// [`Storage::delete`].
    Delete,
}

/// What happens to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Injected {
    /// Nothing is done, and this is the answer.
    Instead(Cause),
    /// It is done, and this is the answer all the same: a lost one.
    After(Cause),
}

/// Decides what happens to a request.
type Plan = dyn Fn(Operation, &str) -> Option<Injected> + Send + Sync;

/// Lets `plan` decide the fate of each request to `inner`.
pub struct Faulty<S> {
    inner: S,
    plan: Box<Plan>,
}

impl<S: Storage> Faulty<S> {
    /// Asks `plan` before every request.
    pub fn new(
        inner: S,
        plan: impl Fn(Operation, &str) -> Option<Injected> + Send + Sync + 'static,
    ) -> Faulty<S> {
        Faulty { inner, plan: Box::new(plan) }
    }

    fn run<T>(&self, operation: Operation, name: &str, request: impl FnOnce() -> Result<T>) -> Result<T> {
        let fail = |cause| Error { action: "reach", name: name.into(), medium: self.inner.medium(), cause };
        match (self.plan)(operation, name) {
            None => request(),
            Some(Injected::Instead(cause)) => Err(fail(cause)),
            Some(Injected::After(cause)) => {
                request()?;
                Err(fail(cause))
            }
        }
    }
}

impl<S: Storage> Storage for Faulty<S> {
    fn medium(&self) -> Arc<str> {
        self.inner.medium()
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.run(Operation::Get, name, || self.inner.get(name))
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes> {
        self.run(Operation::Get, name, || self.inner.get_range(name, offset, length))
    }

    fn put_once(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.run(Operation::Put, name, || self.inner.put_once(name, bytes))
    }

    fn list(&self, folder: &str, show: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.run(Operation::List, folder, || self.inner.list(folder, show))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.run(Operation::Delete, name, || self.inner.delete(name))
    }
}
