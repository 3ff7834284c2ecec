//! Builds a tree from sorted entries. Memory is bounded by depth, not by size.

use super::node::{Cell, Node, Payload, Value};
use super::split::{Splitter, Stretch};
use super::{Error, Nodes, Result, Shape};
use crate::format::Root;
use crate::id::{ChunkId, ChunkKind};

/// A longer value moves into a chunk of its own, so that nodes stay small.
const MAX_VALUE: usize = 4096;

/// A level that is being built.
struct Level {
    splitter: Splitter,
    nodes: u64,
    last: Option<Root>,
}

/// Takes entries in order, gives the root.
pub struct Builder<'a> {
    nodes: &'a dyn Nodes,
    shape: Shape,
    levels: Vec<Level>,
    last_key: Option<Vec<u8>>,
}

/// Stores a node's entries and gives the cell that refers to it from above.
pub(super) fn store_node(nodes: &dyn Nodes, level: u8, stretch: Stretch) -> Result<Cell> {
    let node = Node { level, cells: stretch.cells };
    let (count, weight) = node.sums();
    let id = nodes.put(ChunkKind::Node, node.encode())?;
    let key = node.cells.into_iter().next().map(|cell| cell.key).unwrap_or_default();
    Ok(Cell { key, payload: Payload::Child { id, regular: stretch.regular, count, weight } })
}

/// A leaf's value; a long one goes into a chunk.
pub(super) fn leaf(nodes: &dyn Nodes, key: Vec<u8>, value: Vec<u8>, weight: u64) -> Result<Cell> {
    let value = match value.len() {
        0..=MAX_VALUE => Value::Here(value),
        length => Value::Chunk(nodes.put(ChunkKind::Data, value)?, length as u64),
    };
    Ok(Cell { key, payload: Payload::Leaf { value, weight } })
}

impl<'a> Builder<'a> {
    /// An empty tree.
    pub fn new(nodes: &'a dyn Nodes, shape: Shape) -> Builder<'a> {
        Builder { nodes, shape, levels: Vec::new(), last_key: None }
    }

    /// The next entry; keys must grow.
    pub fn push(&mut self, key: Vec<u8>, value: Vec<u8>, weight: u64) -> Result<()> {
        if self.last_key.as_ref().is_some_and(|last| *last >= key) {
            return Err(Error::Unsorted);
        }
        self.last_key.get_or_insert_default().clone_from(&key);
        let cell = leaf(self.nodes, key, value, weight)?;
        self.push_cell(0, cell)
    }

    /// The next element of a sequence: chunks of a large object, in order, cut by their ids.
    pub(super) fn push_chunk(&mut self, id: ChunkId, length: u32) -> Result<()> {
        let payload = Payload::Leaf { value: Value::Here(Vec::new()), weight: length.into() };
        self.push_cell(0, Cell { key: id.0.to_vec(), payload })
    }

    /// An entry of `level`, which is at most one above those there are.
    pub(super) fn push_cell(&mut self, level: usize, cell: Cell) -> Result<()> {
        if self.levels.len() == level {
            let splitter = Splitter::new(self.shape, level as u8, true);
            self.levels.push(Level { splitter, nodes: 0, last: None });
        }
        let mut complete = Vec::new();
        let mut keep = |stretch| {
            complete.push(stretch);
            Ok::<(), Error>(())
        };
        self.levels[level].splitter.push(cell, &mut keep)?;
        complete.into_iter().try_for_each(|stretch| self.complete(level, stretch))
    }

    /// Stores a node of `level` and refers to it from the level above.
    fn complete(&mut self, level: usize, stretch: Stretch) -> Result<()> {
        let cell = store_node(self.nodes, level as u8, stretch)?;
        if let Payload::Child { id, count, weight, .. } = cell.payload {
            self.levels[level].last = Some(Root { node: id, level: level as u8, count, weight });
        }
        self.levels[level].nodes += 1;
        self.push_cell(level + 1, cell)
    }

    /// The root; `None` where there was no entry.
    pub fn finish(mut self) -> Result<Option<Root>> {
        let mut level = 0;
        while level < self.levels.len() {
            let mut complete = Vec::new();
            let mut keep = |stretch| {
                complete.push(stretch);
                Ok::<(), Error>(())
            };
            let open = Splitter::new(self.shape, level as u8, true);
            std::mem::replace(&mut self.levels[level].splitter, open).finish(&mut keep)?;
            complete.into_iter().try_for_each(|stretch| self.complete(level, stretch))?;
            // A level of one node has nothing to divide: the node is the root.
            if self.levels[level].nodes == 1 {
                return Ok(self.levels[level].last);
            }
            level += 1;
        }
        Ok(None)
    }
}
