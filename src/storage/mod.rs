//! Where a repository's files live: a small trait, its media, and wrappers around it.
//!
//! Names are relative, with `/` between their parts. Files are write-once: [`Storage::put`] creates
//! and never overwrites, and is durable when it returns. A listing shows everything that was put
//! before it began.

mod client;
mod count;
mod fault;
mod limit;
mod local;
mod location;
mod probe;
mod retry;
mod s3;

use std::sync::Arc;

use bytes::Bytes;

pub use client::{
    ATTEMPTS, CredentialVars, S3Access, S3Address, S3Error, classify, connect, decode_key, impatient,
    patience, received, untimed,
};
pub use count::{Counted, Requests};
pub use fault::{Faulty, Injected, Operation};
pub use limit::Limited;
pub use local::Local;
pub use location::{BadLocation, Location};
pub use probe::{PROBE_FOLDER, arbitrates};
pub use retry::{Patience, Retried};
pub use s3::S3;

use crate::fault::Kind;

/// A file as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The full name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Why a request to the medium failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Nothing there under this name.
    #[error("no such file")]
    NotFound,
    /// A put found the name taken.
    #[error("the name is taken")]
    Exists,
    /// A put may or may not have happened.
    #[error("no clear answer: {0}")]
    Uncertain(String),
    /// The medium asked for patience, or did not answer; trying again may help.
    #[error("{0}")]
    Transient(String),
    /// The medium refused for good, for a reason of this kind.
    #[error("{1}")]
    Refused(Kind, String),
    /// The user asked to stop while a request was waiting for its next try.
    #[error("interrupted")]
    Interrupted,
}

/// A failed request: what was being done, to which file, and why it failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {action} {name} in {medium}: {cause}")]
pub struct Error {
    /// The request, as a verb.
    pub action: &'static str,
    /// The file's name.
    pub name: String,
    /// The medium, as the user named it, without credentials.
    pub medium: Arc<str>,
    /// Why.
    pub cause: Cause,
}

impl Cause {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Cause::NotFound => Kind::NotFound,
            Cause::Exists => Kind::Exists,
            Cause::Uncertain(_) | Cause::Transient(_) => Kind::Unreachable,
            Cause::Refused(kind, _) => *kind,
            Cause::Interrupted => Kind::Interrupted,
        }
    }
}

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        self.cause.kind()
    }

    /// Whether the file is not there.
    pub fn is_not_found(&self) -> bool {
        self.cause == Cause::NotFound
    }

    /// Whether the name is taken.
    pub fn is_exists(&self) -> bool {
        self.cause == Cause::Exists
    }
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// A medium for a repository. All calls block; none may be made from a thread of the runtime.
pub trait Storage: Send + Sync {
    /// The medium as the user named it, without credentials.
    fn medium(&self) -> Arc<str>;

    /// Whether it is a server, so that each request is answered late.
    fn is_remote(&self) -> bool;

    /// Requests that it pays to make at once.
    fn at_once(&self) -> usize {
        if self.is_remote() { 32 } else { 8 }
    }

    /// The whole file.
    fn get(&self, name: &str) -> Result<Bytes>;

    /// `length` bytes from `offset`; fewer where the file ends before.
    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes>;

    /// Creates the file with these bytes, durably, in one attempt. [`Cause::Exists`] when the name
    /// is taken, [`Cause::Uncertain`] when it may have happened.
    fn put_once(&self, name: &str, bytes: Bytes) -> Result<()>;

    /// Like [`Storage::put_once`]; a wrapper may try again until the answer is clear. Then a name
    /// that is taken by the same bytes counts as put.
    fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.put_once(name, bytes)
    }

    /// Shows every file whose name begins with `folder`, which is empty or ends in `/`.
    fn list(&self, folder: &str, show: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()>;

    /// Removes the file; a name that is not there counts as removed.
    fn delete(&self, name: &str) -> Result<()>;

    /// All files under `folder`, sorted by name. For folders that hold few.
    fn list_all(&self, folder: &str) -> Result<Vec<Listed>> {
        let mut all = Vec::new();
        self.list(folder, &mut |listed| {
            all.push(listed);
            Ok(())
        })?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Like [`Storage::list_all`], names within the folder only.
    fn names(&self, folder: &str) -> Result<Vec<String>> {
        let all = self.list_all(folder)?;
        Ok(all.into_iter().filter_map(|l| l.name.strip_prefix(folder).map(str::to_owned)).collect())
    }
}
