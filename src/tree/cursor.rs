//! A place among the cells of one level, and the way to it from the root.

use std::sync::Arc;

use super::node::{Cell, Node, Payload};
use super::{Error, Nodes, Result};
use crate::format::{Malformed, Root};

/// The node that `cell` refers to; its level must be `level`.
pub(super) fn child(nodes: &dyn Nodes, cell: &Cell, level: u8) -> Result<Arc<Node>> {
    let Payload::Child { id, .. } = &cell.payload else { return Err(Error::Unsorted) };
    let node = nodes.node(id)?;
    if is_of(&node, level) { Ok(node) } else { Err(Error::Node { id: *id, what: Malformed::Content }) }
}

/// The leaf that `cell` refers to, to be read once: it is the caller's own.
pub(super) fn leaf(nodes: &dyn Nodes, cell: &Cell) -> Result<Node> {
    let Payload::Child { id, .. } = &cell.payload else { return Err(Error::Unsorted) };
    let node = nodes.node_once(id)?;
    if is_of(&node, 0) { Ok(node) } else { Err(Error::Node { id: *id, what: Malformed::Content }) }
}

fn is_of(node: &Node, level: u8) -> bool {
    node.level == level && !node.cells.is_empty()
}

/// Stands on a cell of the level above `level`: a reference to a node of `level`.
pub(super) struct Cursor<'a> {
    nodes: &'a dyn Nodes,
    /// From a made-up node above the root down to the one that holds the cell.
    path: Vec<(Arc<Node>, usize)>,
    level: u8,
}

impl<'a> Cursor<'a> {
    /// On the first node of `level`, which is at most the root's.
    pub fn new(nodes: &'a dyn Nodes, root: &Root, level: u8) -> Result<Cursor<'a>> {
        let top = nodes.node(&root.node)?;
        let first_key = top.cells.first().map(|cell| cell.key.clone()).unwrap_or_default();
        let above = Node { level: root.level + 1, cells: vec![Cell::of_root(root, first_key)] };
        let mut cursor = Cursor { nodes, path: vec![(Arc::new(above), 0)], level };
        cursor.descend(|_| 0)?;
        Ok(cursor)
    }

    fn descend(&mut self, place: impl Fn(&Node) -> usize) -> Result<()> {
        while let Some((node, at)) = self.path.last()
            && node.level > self.level + 1
        {
            let below = child(self.nodes, &node.cells[*at], node.level - 1)?;
            let at = place(&below);
            self.path.push((below, at));
        }
        Ok(())
    }

    /// To the last node whose first key is at most `key`, or the first.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.path.truncate(1);
        self.descend(|node| node.find(key))
    }

    /// The reference to the node.
    pub fn cell(&self) -> &Cell {
        let (node, at) = &self.path[self.path.len() - 1];
        &node.cells[*at]
    }

    /// The node.
    pub fn node(&self) -> Result<Arc<Node>> {
        child(self.nodes, self.cell(), self.level)
    }

    /// Whether the node begins at a regular boundary, or is the first.
    pub fn is_regular(&self) -> bool {
        matches!(self.cell().payload, Payload::Child { regular: true, .. })
    }

    /// To the next node; false at the end, where it stays.
    pub fn next(&mut self) -> Result<bool> {
        let Some(depth) = self.path.iter().rposition(|(node, at)| at + 1 < node.cells.len()) else {
            return Ok(false);
        };
        self.path.truncate(depth + 1);
        self.path[depth].1 += 1;
        self.descend(|_| 0)?;
        Ok(true)
    }

    /// To the node before; false at the begin, where it stays.
    pub fn previous(&mut self) -> Result<bool> {
        let Some(depth) = self.path.iter().rposition(|(_, at)| *at > 0) else { return Ok(false) };
        self.path.truncate(depth + 1);
        self.path[depth].1 -= 1;
        self.descend(|node| node.cells.len().saturating_sub(1))?;
        Ok(true)
    }
}
