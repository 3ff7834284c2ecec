//! The outside systems that are restored to.

mod bucket;
mod directory;
mod etcd;
mod file;
mod settings;

use std::io::ErrorKind;

use crate::context::Interrupted;
use crate::fault::Kind;
use crate::storage::{Cause, S3Error};

pub use bucket::{BucketTarget, Found, Put, Upload};
pub use directory::{DirectoryTarget, Dirs, NewFile, Unnamed, Wanted, is_leftover};
pub use etcd::{EtcdTarget, Operation};
pub use file::WholeFile;

/// Why a target could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to an S3 server failed.
    #[error("cannot {action} {what}: {cause}")]
    S3 {
        /// The request, as a verb.
        action: &'static str,
        /// The bucket or object.
        what: String,
        /// Why.
        cause: Cause,
    },
    /// A body that is sent as it is read was not sent whole; the client cannot try that again by itself.
    #[error(transparent)]
    Streamed(Box<Error>),
    /// No client for the S3 server.
    #[error(transparent)]
    Client(#[from] S3Error),
    /// A request to etcd failed.
    #[error(transparent)]
    Etcd(#[from] crate::etcd::Error),
    /// The directory that is restored to cannot be read or written.
    #[error("cannot {action} {path}: {cause}")]
    Directory {
        /// What was done, as a verb.
        action: &'static str,
        /// The file.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// A key changed between the look and the write.
    #[error("key {0:?} changed in the target while it was being restored; run it again")]
    Changed(String),
    /// What arrived in the target is not what was sent.
    #[error("{what} arrived with ETag {found:?} instead of {expected:?}")]
    Arrived {
        /// The object.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A file could not be written.
    #[error("cannot write {0}: {1}")]
    File(String, std::io::Error),
    /// A file is in the way.
    #[error("{0} is there already; nothing was written")]
    Exists(String),
    /// What is to be written could not be read.
    #[error("{0}")]
    Input(String),
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The result of work on a target.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Why the server refuses this one object or setting, where it would take others.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Error::S3 { cause: Cause::Refused(Kind::Failed, why), .. } => Some(why),
            Error::Streamed(error) => error.refusal(),
            _ => None,
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::S3 { cause, .. } => cause.kind(),
            Error::Streamed(error) => error.kind(),
            Error::Client(_) => Kind::Usage,
            Error::Etcd(error) => error.kind(),
            Error::Directory { cause, .. } => match cause.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Kind::NoSpace,
                ErrorKind::PermissionDenied => Kind::Denied,
                _ => Kind::Failed,
            },
            Error::Changed(_) => Kind::Busy,
            Error::Arrived { .. } => Kind::Failed,
            Error::File(_, error) if error.kind() == std::io::ErrorKind::StorageFull => Kind::NoSpace,
            Error::File(..) => Kind::Failed,
            Error::Exists(_) => Kind::TargetNotEmpty,
            Error::Input(_) => Kind::Damage,
            Error::Interrupted(_) => Kind::Interrupted,
        }
    }
}
