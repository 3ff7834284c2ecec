//! Content in, content out: cutting, naming, compression, sealing, packs, and the index that finds
//! chunks again.

mod blocks;
mod cache;
mod chunk;
mod cutter;
mod fetchers;
mod import;
mod index;
mod large;
mod own;
mod pack;
mod reader;
mod table;
mod writer;

use crate::context::Interrupted;
use crate::fault::{Kind, on_this_machine};
use crate::format::Malformed;
use crate::id::{ChunkId, ChunkKind};
use crate::storage;

pub use cache::PackCache;
pub use chunk::encode;
pub use cutter::{Cutter, Pieces};
pub use index::{Index, Listing, Load, Place, READ_AT_ONCE, Wanted};
pub use large::Early;
pub use pack::{PackBuilder, PackReader, footer_of, unshared, verify_pack};
pub use reader::{LookUp, Reader, Reload};
pub use writer::{Feeding, Finished, PutSegment, Tuning, Writer, WriterParts, Written};

/// Why content could not be stored or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The medium failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// No valid index segment lists this chunk.
    #[error("chunk {id} ({kind:?}) is in no pack of the repository")]
    Missing {
        /// The kind it was looked for as.
        kind: ChunkKind,
        /// Its name.
        id: ChunkId,
    },
    /// A file of the repository is not what was written.
    #[error("{file} is damaged: {what}")]
    Damaged {
        /// The file's name in the repository.
        file: String,
        /// What is wrong with it.
        what: Malformed,
    },
    /// The index cache on this machine failed.
    #[error("the index cache in {directory} cannot be used: {what}")]
    Cache {
        /// Where it is.
        directory: String,
        /// What failed.
        what: String,
    },
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The result of storing or reading.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Storage(error) => error.kind(),
            Error::Damaged { what: Malformed::Newer { .. }, .. } => Kind::NewerFormat,
            Error::Missing { .. } | Error::Damaged { .. } => Kind::Damage,
            Error::Cache { what, .. } => on_this_machine(what),
            Error::Interrupted(_) => Kind::Interrupted,
        }
    }
}
