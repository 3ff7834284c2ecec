//! Sorted maps cut into nodes by content (prolly trees). The same entries give the same root,
//! whatever the order and history of the edits; trees that differ little share most nodes.
//!
//! The boundary rule is in `split.rs`, the byte layout in `node.rs`.

mod build;
mod content;
mod cursor;
mod diff;
mod edit;
mod node;
mod nodes;
mod scan;
mod split;

use crate::fault::Kind;
use crate::format::{Malformed, Root, TreeShape};
use crate::id::ChunkId;
use crate::store;

pub use build::Builder;
pub use content::{ContentBuilder, chunks_of, read_chunks};
pub use diff::{Change, diff};
pub use edit::{Edit, apply};
pub use node::{Cell, Node, Payload, Value};
pub use nodes::{Nodes, ReadWrite};
pub use scan::{Entry, Scan, get, last_leaf, scan};

/// Everything that decides where a kind of tree is cut.
#[derive(Clone, Copy)]
pub struct Shape {
    /// The numbers.
    pub sizes: TreeShape,
    /// The key of boundary hashes.
    pub key: [u8; 32],
}

/// Why a tree could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A node could not be had or stored.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A node is not one.
    #[error("tree node {id} is damaged: {what}")]
    Node {
        /// Its name.
        id: ChunkId,
        /// What is wrong with it.
        what: Malformed,
    },
    /// The caller's entries are not sorted.
    #[error("entries are not in order")]
    Unsorted,
    /// Whoever gave the entries failed.
    #[error("{0}")]
    Input(String),
}

/// The result of work on a tree.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Store(error) => error.kind(),
            Error::Node { what: Malformed::Newer { .. }, .. } => Kind::NewerFormat,
            Error::Node { .. } => Kind::Damage,
            Error::Unsorted | Error::Input(_) => Kind::Failed,
        }
    }
}

/// Entries in a tree.
pub fn count(root: Option<&Root>) -> u64 {
    root.map_or(0, |root| root.count)
}

/// The sum of the weights of a tree's entries.
pub fn weight(root: Option<&Root>) -> u64 {
    root.map_or(0, |root| root.weight)
}
