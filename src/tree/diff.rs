//! The difference of two trees, skipping what they share. Reads grow with changes × depth.

use std::sync::Arc;

use super::cursor::child;
use super::node::{Cell, Node};
use super::scan::resolve;
use super::{Nodes, Result};
use crate::format::Root;

/// A key whose value differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Vec<u8>,
    /// Its value in the first tree.
    pub before: Option<Vec<u8>>,
    /// Its value in the second.
    pub after: Option<Vec<u8>>,
}

/// Stands on a cell of any level; what is below it has not been read.
struct Side<'a> {
    nodes: &'a dyn Nodes,
    path: Vec<(Arc<Node>, usize)>,
}

impl<'a> Side<'a> {
    fn new(nodes: &'a dyn Nodes, root: Option<&Root>) -> Result<Side<'a>> {
        let mut path = Vec::new();
        if let Some(root) = root {
            let first = nodes.node(&root.node)?.cells.first().map(|cell| cell.key.clone());
            let above =
                Node { level: root.level + 1, cells: vec![Cell::of_root(root, first.unwrap_or_default())] };
            path.push((Arc::new(above), 0));
        }
        Ok(Side { nodes, path })
    }

    /// The cell, and the level of the node that holds it.
    fn cell(&self) -> Option<(&Cell, u8)> {
        let (node, at) = self.path.last()?;
        Some((&node.cells[*at], node.level))
    }

    /// Over the cell and everything below it.
    fn skip(&mut self) {
        while let Some((node, at)) = self.path.last_mut() {
            *at += 1;
            if *at < node.cells.len() {
                return;
            }
            self.path.pop();
        }
    }

    fn descend(&mut self) -> Result<()> {
        if let Some((cell, level)) = self.cell() {
            let below = child(self.nodes, cell, level - 1)?;
            self.path.push((below, 0));
        }
        Ok(())
    }

    /// The value of the leaf cell, which is stepped over.
    fn take(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let Some((cell, _)) = self.cell() else { return Ok(None) };
        let taken = (cell.key.clone(), resolve(self.nodes, cell.payload.clone())?);
        self.skip();
        Ok(Some(taken))
    }
}

/// Shows every key whose value differs between `before` and `after`, in order.
pub fn diff<E: From<super::Error>>(
    nodes: &dyn Nodes,
    before: Option<&Root>,
    after: Option<&Root>,
    mut show: impl FnMut(Change) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let (mut a, mut b) = (Side::new(nodes, before)?, Side::new(nodes, after)?);
    loop {
        let (take_a, take_b) = match (a.cell(), b.cell()) {
            (None, None) => return Ok(()),
            (Some((x, level_x)), Some((y, level_y))) => {
                if level_x == level_y && x.key == y.key && same(x, y) {
                    a.skip();
                    b.skip();
                    continue;
                }
                if level_x.max(level_y) > 0 {
                    // The higher one first, so that equal subtrees meet on one level.
                    if level_x >= level_y {
                        a.descend()?
                    } else {
                        b.descend()?
                    }
                    continue;
                }
                (x.key <= y.key, y.key <= x.key)
            }
            (Some((_, 1..)), None) => {
                a.descend()?;
                continue;
            }
            (None, Some((_, 1..))) => {
                b.descend()?;
                continue;
            }
            (x, y) => (x.is_some(), y.is_some()),
        };
        let before = if take_a { a.take()? } else { None };
        let after = if take_b { b.take()? } else { None };
        let key = before.as_ref().or(after.as_ref()).map(|(key, _)| key.clone()).unwrap_or_default();
        show(Change { key, before: before.map(|(_, value)| value), after: after.map(|(_, value)| value) })?;
    }
}

/// Whether two cells of one key and level say the same; whether a boundary is regular is about
/// shape, not content.
fn same(x: &Cell, y: &Cell) -> bool {
    use super::node::Payload::{Child, Leaf};
    match (&x.payload, &y.payload) {
        (Child { id: a, .. }, Child { id: b, .. }) => a == b,
        (Leaf { value: a, .. }, Leaf { value: b, .. }) => a == b,
        _ => false,
    }
}
