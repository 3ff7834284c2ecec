//! Reading a tree: one key, or a range in order.

use std::sync::Arc;

use super::cursor::{child, leaf};
use super::node::{Cell, Node, Payload, Value};
use super::{Error, Nodes, Result};
use crate::format::{Malformed, Root};
use crate::id::ChunkKind;

/// An entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// A leaf cell's value, fetched where it stands in a chunk of its own.
pub(super) fn resolve(nodes: &dyn Nodes, payload: Payload) -> Result<Vec<u8>> {
    match payload {
        Payload::Leaf { value: Value::Here(value), .. } => Ok(value),
        Payload::Leaf { value: Value::Chunk(id, _), .. } => Ok(nodes.get(ChunkKind::Data, &id)?.to_vec()),
        Payload::Child { id, .. } => Err(Error::Node { id, what: Malformed::Content }),
    }
}

/// The value behind `key`. Reads one node a level.
pub fn get(nodes: &dyn Nodes, root: Option<&Root>, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some(root) = root else { return Ok(None) };
    let mut node = nodes.node(&root.node)?;
    while node.level > 0 {
        node = child(nodes, below(&node, node.find(key), root)?, node.level - 1)?;
    }
    match node.cells.get(node.find(key)) {
        Some(cell) if cell.key == key => resolve(nodes, cell.payload.clone()).map(Some),
        _ => Ok(None),
    }
}

/// A cell of a node on the way from the root, which itself may be empty where somebody made it up.
fn below<'n>(node: &'n Node, at: usize, root: &Root) -> Result<&'n Cell> {
    node.cells.get(at).ok_or(Error::Node { id: root.node, what: Malformed::Content })
}

/// The entries from `from` on, in order.
pub fn scan<'a>(nodes: &'a dyn Nodes, root: Option<&Root>, from: &[u8]) -> Result<Scan<'a>> {
    let mut scan = Scan { nodes, path: Vec::new(), leaf: Vec::new().into_iter() };
    let Some(root) = root else { return Ok(scan) };
    let mut node = nodes.node(&root.node)?;
    while node.level > 0 {
        let at = node.find(from);
        let next = child(nodes, below(&node, at, root)?, node.level - 1)?;
        scan.path.push((node, at + 1));
        node = next;
    }
    let at = node.cells.partition_point(|cell| cell.key.as_slice() < from);
    scan.path.push((node, at));
    Ok(scan)
}

/// A range being read; holds one node a level.
pub struct Scan<'a> {
    nodes: &'a dyn Nodes,
    /// Nodes from the root down, each with its next place.
    path: Vec<(Arc<Node>, usize)>,
    /// What is left of a leaf after the first one. Long scans pass many leaves, each once.
    leaf: std::vec::IntoIter<Cell>,
}

impl Scan<'_> {
    /// The next leaf cell.
    pub(super) fn next_cell(&mut self) -> Result<Option<Cell>> {
        loop {
            if let Some(cell) = self.leaf.next() {
                return Ok(Some(cell));
            }
            let Some((node, at)) = self.path.last_mut() else { return Ok(None) };
            let Some(cell) = node.cells.get(*at) else {
                self.path.pop();
                continue;
            };
            *at += 1;
            match node.level {
                0 => return Ok(Some(cell.clone())),
                1 => self.leaf = leaf(self.nodes, cell)?.cells.into_iter(),
                level => {
                    let below = child(self.nodes, cell, level - 1)?;
                    self.path.push((below, 0));
                }
            }
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        let Cell { key, payload } = match self.next_cell() {
            Ok(cell) => cell?,
            Err(error) => {
                // An error ends the scan: what comes after it is not known to be next.
                self.path.clear();
                return Some(Err(error));
            }
        };
        Some(resolve(self.nodes, payload).map(|value| Entry { key, value }))
    }
}
