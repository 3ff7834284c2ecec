//! Where nodes are kept.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lru::LruCache;

use super::{Error, Node, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::mutex::lock;
use crate::store::{self, Early, Reader, Writer};

/// Nodes kept decoded, some 100 entries each.
const DECODED: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Gives and takes the chunks that trees are made of.
pub trait Nodes: Sync {
    /// The plain bytes of a chunk.
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> store::Result<Bytes>;

    /// Stores a chunk.
    fn put(&self, kind: ChunkKind, bytes: Vec<u8>) -> store::Result<ChunkId>;

    /// Fetches together what is far away of nodes that are wanted next; so many of them it got to.
    fn prefetch(&self, ids: &[ChunkId]) -> store::Result<usize> {
        Ok(ids.len())
    }

    /// Has a chunk of contents fetched that is wanted soon, where that is worth while.
    fn ask(&self, _id: &ChunkId) -> store::Result<Early> {
        Ok(Early::Needless)
    }

    /// A node, decoded.
    fn node(&self, id: &ChunkId) -> Result<Arc<Node>> {
        Ok(Arc::new(self.node_once(id)?))
    }

    /// A node that is not soon wanted again.
    fn node_once(&self, id: &ChunkId) -> Result<Node> {
        let bytes = self.get(ChunkKind::Node, id)?;
        Node::decode(&bytes).map_err(|what| Error::Node { id: *id, what })
    }
}

/// A repository's chunks; writing only where there is a writer.
pub struct ReadWrite<'a> {
    reader: &'a Reader,
    writer: Option<&'a Writer>,
    decoded: Mutex<LruCache<ChunkId, Arc<Node>>>,
}

impl<'a> ReadWrite<'a> {
    /// Reads from `reader`, writes to `writer`.
    pub fn new(reader: &'a Reader, writer: Option<&'a Writer>) -> ReadWrite<'a> {
        ReadWrite { reader, writer, decoded: Mutex::new(LruCache::new(DECODED)) }
    }

    /// Where it reads from.
    pub fn reader(&self) -> &'a Reader {
        self.reader
    }
}

impl Nodes for ReadWrite<'_> {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> store::Result<Bytes> {
        self.reader.get(kind, id)
    }

    fn put(&self, kind: ChunkKind, bytes: Vec<u8>) -> store::Result<ChunkId> {
        // Reading verbs never build trees.
        let writer = self.writer.ok_or(store::Error::Interrupted(crate::context::Interrupted))?;
        Ok(writer.put(kind, bytes)?.id)
    }

    fn prefetch(&self, ids: &[ChunkId]) -> store::Result<usize> {
        self.reader.prefetch(ids)
    }

    fn ask(&self, id: &ChunkId) -> store::Result<Early> {
        self.reader.ask(id)
    }

    fn node(&self, id: &ChunkId) -> Result<Arc<Node>> {
        if let Some(node) = lock(&self.decoded).get(id) {
            return Ok(node.clone());
        }
        let node = Arc::new(self.node_once(id)?);
        lock(&self.decoded).put(*id, node.clone());
        Ok(node)
    }
}
