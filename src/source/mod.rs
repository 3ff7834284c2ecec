//! The outside systems that are backed up from.

mod bucket;
mod directory;
mod etcd;
mod listing;
mod milvus;
mod settings;
mod versions;

use crate::context::Interrupted;
use crate::etcd::Rights;
use crate::etcd_file::Fault;
use crate::fault::{Kind, on_this_machine};
use crate::storage::{Cause, S3Error};

pub use bucket::{Body, Bucket, BucketOptions, Fetched, Head, Reading, Requests};
pub use directory::{Directory, DirectoryOptions, Seen, shows};
pub use etcd::{Early, Spooled, Watched, ranges, snapshot, watch};
pub use listing::{Listed, Listing, Version};
pub use milvus::{FlushError, Flushed, MilvusAccess, Paused, flush, pause_collector};
pub use settings::Settings;
pub use versions::Versions;

/// Why a source could not be read.
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
    /// No client for the S3 server.
    #[error(transparent)]
    Client(#[from] S3Error),
    /// A directory that is backed up cannot be read.
    #[error("cannot read directory {0}: {1}")]
    Directory(String, std::io::Error),
    /// A request to etcd failed.
    #[error(transparent)]
    Etcd(#[from] crate::etcd::Error),
    /// The user may not read what is to be captured.
    #[error("cannot read {wanted} of etcd at {endpoint}: {rights}")]
    Rights {
        /// The member.
        endpoint: String,
        /// What is to be captured.
        wanted: String,
        /// What he may read.
        rights: Rights,
    },
    /// etcd is compacted faster than it can be read.
    #[error("etcd at {0} was compacted beyond the revision being read in each of {1} attempts")]
    Outrun(String, u32),
    /// The member lags, and its cluster cannot tell it more.
    #[error(
        "etcd at {endpoint} is at revision {revision}, was at {seen} in the last snapshot, and cannot catch up with its cluster"
    )]
    Behind {
        /// The member.
        endpoint: String,
        /// Its newest revision.
        revision: i64,
        /// What the last snapshot has.
        seen: i64,
    },
    /// What etcd sent is not whole.
    #[error("what etcd at {0} sent is damaged: {1}")]
    Torn(String, String),
    /// etcd's database file cannot be understood.
    #[error("etcd's snapshot: {0}")]
    EtcdFile(#[from] Fault),
    /// The cache directory, where snapshots and sorted runs are spooled.
    #[error("cannot spool to {0}: {1}")]
    Spool(String, std::io::Error),
    /// There is less room than the snapshot needs.
    #[error("{directory} has {free} bytes free and etcd's snapshot needs {needed}")]
    NoRoom {
        /// The spool directory.
        directory: String,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The result of reading a source.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::S3 { cause, .. } => cause.kind(),
            Error::Client(_) => Kind::Usage,
            Error::Etcd(error) => error.kind(),
            Error::Rights { .. } => Kind::Denied,
            Error::Directory(_, error) => match error.kind() {
                std::io::ErrorKind::NotFound => Kind::NotFound,
                std::io::ErrorKind::PermissionDenied => Kind::Denied,
                _ => Kind::Failed,
            },
            Error::Behind { .. } => Kind::Unreachable,
            Error::NoRoom { .. } => Kind::NoSpace,
            Error::Spool(_, error) => on_this_machine(&error.to_string()),
            Error::Outrun(..) | Error::Torn(..) | Error::EtcdFile(_) => Kind::Failed,
            Error::Interrupted(_) => Kind::Interrupted,
        }
    }
}
