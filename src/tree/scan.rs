//! Reading a tree: one key, or a range in order.

use std::sync::Arc;

use super::cursor::{child, leaf};
use super::node::{Cell, Node, Payload, Value};
use super::{Error, Nodes, Result};
use crate::fault::Kind;
use crate::format::{Malformed, Root};
use crate::id::{ChunkId, ChunkKind};

/// Leaves are fetched ahead as a scan goes on: so many, then twice as many each time, up to the most.
const AHEAD_FIRST: usize = 2;
const AHEAD_MOST: usize = 128;
/// Nodes above leaves, of which each leads to many.
const AHEAD_ABOVE: usize = 2;
/// To so many at least, or nearly.
const LEAVES_EACH: usize = 8;

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

/// The last entries: those of one leaf. Reads one node a level.
pub fn last_leaf(nodes: &dyn Nodes, root: Option<&Root>) -> Result<Vec<Entry>> {
    let Some(root) = root else { return Ok(Vec::new()) };
    let mut node = nodes.node(&root.node)?;
    while node.level > 0 {
        let at = node.cells.len().saturating_sub(1);
        node = child(nodes, below(&node, at, root)?, node.level - 1)?;
    }
    let entry = |cell: &Cell| {
        let value = resolve(nodes, cell.payload.clone())?;
        Ok(Entry { key: cell.key.clone(), value })
    };
    node.cells.iter().map(entry).collect()
}

/// A cell of a node on the way from the root, which itself may be empty where somebody made it up.
fn below<'n>(node: &'n Node, at: usize, root: &Root) -> Result<&'n Cell> {
    node.cells.get(at).ok_or(Error::Node { id: root.node, what: Malformed::Content })
}

/// The entries from `from` on, in order.
pub fn scan<'a>(nodes: &'a dyn Nodes, root: Option<&Root>, from: &[u8]) -> Result<Scan<'a>> {
    let mut scan = Scan {
        nodes,
        path: Vec::new(),
        ahead: Ahead { leaves: AHEAD_FIRST, passed: 0 },
        leaf: Vec::new().into_iter(),
    };
    let Some(root) = root else { return Ok(scan) };
    let mut node = nodes.node(&root.node)?;
    while node.level > 0 {
        let at = node.find(from);
        let next = child(nodes, below(&node, at, root)?, node.level - 1)?;
        scan.path.push(Step::new(node, at + 1));
        node = next;
    }
    let at = node.cells.partition_point(|cell| cell.key.as_slice() < from);
    scan.path.push(Step::new(node, at));
    Ok(scan)
}

/// Fetches together what lies below these cells of a node of `level`, as far as it is far away: no more than `most`
/// leaves. So many cells it got to, of which there is one at least.
fn prefetch(nodes: &dyn Nodes, level: u8, cells: &[Cell], most: usize) -> Result<usize> {
    if level == 1 {
        return Ok(nodes.prefetch(&children(cells, most))?.max(1));
    }
    let above = children(cells, AHEAD_ABOVE.max(most / LEAVES_EACH));
    let got_to = nodes.prefetch(&above)?.max(1);
    if level == 2 && most > AHEAD_FIRST {
        // In a long scan their leaves come together, too: those of one lie in few packs.
        let mut leaves = Vec::new();
        for id in above.iter().take(got_to) {
            match nodes.node(id) {
                // Told to whoever gets to it.
                Err(error) if !matches!(error.kind(), Kind::Unreachable | Kind::Interrupted) => {}
                node => leaves.extend(children(&node?.cells, most)),
            }
        }
        leaves.truncate(most.saturating_sub(got_to));
        nodes.prefetch(&leaves)?;
    }
    Ok(got_to)
}

fn children(cells: &[Cell], most: usize) -> Vec<ChunkId> {
    let below = cells.iter().take(most).filter_map(|cell| match cell.payload {
        Payload::Child { id, .. } => Some(id),
        Payload::Leaf { .. } => None,
    });
    below.collect()
}

/// A node on the way down.
struct Step {
    node: Arc<Node>,
    /// The cell that is next.
    next: usize,
    /// What lies below the cells before this one was fetched.
    fetched: usize,
}

impl Step {
    fn new(node: Arc<Node>, next: usize) -> Step {
        Step { node, next, fetched: next }
    }

    /// The next cell, after what lies below it and some that follow was fetched.
    fn advance(&mut self, nodes: &dyn Nodes, ahead: &mut Ahead) -> Result<Option<&Cell>> {
        let Some(rest) = self.node.cells.get(self.next..).filter(|rest| !rest.is_empty()) else {
            return Ok(None);
        };
        if self.next == self.fetched && self.node.level > 0 {
            self.fetched += match self.node.level {
                1 => prefetch(nodes, 1, rest, ahead.leaves)?,
                level => prefetch(nodes, level, rest, ahead.leaves.min(ahead.passed))?,
            };
            if self.node.level == 1 {
                ahead.leaves = AHEAD_MOST.min(2 * ahead.leaves);
            }
        }
        self.next += 1;
        Ok(self.node.cells.get(self.next - 1))
    }
}

/// How far a scan looks ahead.
struct Ahead {
    /// Leaves to be fetched the next time.
    leaves: usize,
    /// Leaves that it has passed: of more than one node no more are fetched.
    passed: usize,
}

/// A range being read; holds one node a level.
pub struct Scan<'a> {
    nodes: &'a dyn Nodes,
    /// From the root down.
    path: Vec<Step>,
    ahead: Ahead,
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
            let Some(step) = self.path.last_mut() else { return Ok(None) };
            let level = step.node.level;
            let Some(cell) = step.advance(self.nodes, &mut self.ahead)? else {
                self.path.pop();
                continue;
            };
            match level {
                0 => return Ok(Some(cell.clone())),
                1 => {
                    self.leaf = leaf(self.nodes, cell)?.cells.into_iter();
                    self.ahead.passed += 1;
                }
                level => {
                    let below = child(self.nodes, cell, level - 1)?;
                    self.path.push(Step::new(below, 0));
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
