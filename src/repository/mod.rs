//! A repository: what the verbs speak with.

mod contents;
mod kept;
mod keys;
mod keyspace;
mod link;
mod log;
mod moment;
mod needed;
mod objects;
mod open;
mod point;
mod reach;
mod session;
mod state;
mod versions;
mod view;

use crate::context::Interrupted;
use crate::fault::{Kind, on_this_machine};
use crate::format::Malformed;
use crate::id::SessionId;
use crate::{storage, store, tree};

pub use contents::Contents;
pub use keys::{KeyCost, KeyInfo, generate_passphrase};
pub use keyspace::{Alive, Kept, Keyspace, Living, checksum};
pub use link::{first_name, unlinked};
pub use log::Log;
pub use moment::{EtcdAt, Known, Line, Marks, Moment, Stretch, When, line_of, lines};
pub use needed::{Added, Need, Needed, Used};
pub use objects::{Certainty, ObjectAt, object, objects};
pub use open::{Access, Repository};
pub use point::{BadPoint, Point, check_name};
pub use reach::{Met, Reached, for_each_chunk, for_each_chunk_of, prefetch_roots};
pub use session::{ReadSession, WriteSession};
pub use state::{content_bytes, dated, events, for_each_event, key_of, keys_at, outcome, state, undated};
pub use versions::{VersionsOf, versions};
pub use view::{SnapshotInfo, View};

/// Why a repository could not be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The medium failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// Content could not be stored or read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A tree could not be read or written.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// No client for the medium.
    #[error("cannot use the repository's server: {0}")]
    Client(String),
    /// Nothing there.
    #[error("there is no repository in {0}")]
    NoRepository(String),
    /// One is there already.
    #[error("there is a repository in {0} already; nothing was changed")]
    AlreadyThere(String),
    /// The passphrase opens no key.
    #[error("the passphrase opens none of the {keys} keys of the repository in {medium}")]
    WrongPassphrase {
        /// Where.
        medium: String,
        /// How many were tried.
        keys: usize,
    },
    /// A record is not what was written.
    #[error("{file} is damaged: {what}")]
    Damaged {
        /// The file's name in the repository.
        file: String,
        /// What is wrong with it.
        what: Malformed,
    },
    /// Records that are damaged may be what is meant.
    #[error("{damage}; which snapshot is meant cannot be told without it: name one by its id")]
    Unclear {
        /// A damaged record.
        damage: Box<Error>,
    },
    /// A tree entry is not what was written.
    #[error("an entry of a tree is damaged: {0}")]
    Entry(#[from] Malformed),
    /// No such snapshot.
    #[error("{0}")]
    PointNotFound(String),
    /// Several fit.
    #[error("{text:?} could be any of {}", candidates.join(", "))]
    Ambiguous {
        /// What was written.
        text: String,
        /// What fits.
        candidates: Vec<String>,
    },
    /// The user's word cannot be used.
    #[error("{0}")]
    Usage(String),
    /// Somebody else's session stands in the way.
    #[error("{0}")]
    Busy(String),
    /// Our session was ended by a collector, or its snapshot came too late.
    #[error("session {sid} was closed by another command ({why}); nothing was committed")]
    Fenced {
        /// Our session.
        sid: SessionId,
        /// What was found in the place of our snapshot.
        why: String,
    },
    /// A file of this machine.
    #[error("cannot use {0}: {1}")]
    File(String, String),
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The result of work on a repository.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Storage(error) => error.kind(),
            Error::Store(error) => error.kind(),
            Error::Tree(error) => error.kind(),
            Error::Client(_) | Error::Usage(_) => Kind::Usage,
            Error::NoRepository(_) => Kind::NoRepository,
            Error::AlreadyThere(_) => Kind::RepositoryExists,
            Error::WrongPassphrase { .. } => Kind::WrongPassphrase,
            Error::Damaged { what: Malformed::Newer { .. }, .. } => Kind::NewerFormat,
            Error::Unclear { damage } => damage.kind(),
            Error::Damaged { .. } | Error::Entry(_) => Kind::Damage,
            Error::PointNotFound(_) => Kind::PointNotFound,
            Error::Ambiguous { .. } => Kind::Ambiguous,
            Error::Busy(_) | Error::Fenced { .. } => Kind::Busy,
            Error::File(_, what) => on_this_machine(what),
            Error::Interrupted(_) => Kind::Interrupted,
        }
    }
}

/// Lets a verb's error take the errors of rooms below the repository, by way of [`Error`].
macro_rules! through_repository {
    ($verb:ty: $($error:ty),*) => {$(
        impl From<$error> for $verb {
            fn from(error: $error) -> $verb {
                <$verb>::Repository(error.into())
            }
        }
    )*};
}

pub(crate) use through_repository;
