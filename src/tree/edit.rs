//! Applies sorted edits to a tree, level by level.
//!
//! On each level, work begins at a regular boundary more than a window before an edit and ends at
//! one more than a window after the last: what lies outside keeps its boundaries (see `split.rs`).
//! Nodes in between are cut anew. Reads and writes grow with edits × depth; memory with the number
//! of nodes that change.

use std::collections::{HashMap, VecDeque};
use std::iter::Peekable;
use std::sync::Arc;

use super::build::{Builder, leaf, store_node};
use super::cursor::Cursor;
use super::node::{Cell, Node, Payload};
use super::split::{Splitter, Stretch};
use super::{Error, Nodes, Result, Shape};
use crate::format::Root;
use crate::id::ChunkId;

/// What happens to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The key.
    pub key: Vec<u8>,
    /// Its new value and weight; `None` removes it.
    pub value: Option<(Vec<u8>, u64)>,
}

impl Edit {
    /// Bytes of memory that it takes.
    pub fn held(&self) -> usize {
        size_of::<Edit>() + self.key.len() + self.value.as_ref().map_or(0, |(value, _)| value.len())
    }
}

/// A change on one level: a cell put or, without payload, removed.
struct Change {
    key: Vec<u8>,
    payload: Option<Payload>,
}

/// The root after `edits`, which are sorted by key and name each key once.
pub fn apply(
    nodes: &dyn Nodes,
    shape: Shape,
    root: Option<Root>,
    edits: impl Iterator<Item = Result<Edit>>,
) -> Result<Option<Root>> {
    let Some(root) = root else { return build(nodes, shape, edits) };
    let mut lone = Lone::new();
    let leaves = edits.map(|edit| to_change(nodes, edit?));
    let mut changes = edit_level(nodes, shape, &root, 0, leaves, &mut lone)?;
    for level in 1..=root.level {
        if changes.is_empty() {
            return Ok(Some(root));
        }
        changes = edit_level(nodes, shape, &root, level, changes.into_iter().map(Ok), &mut lone)?;
    }
    if changes.is_empty() {
        return Ok(Some(root));
    }
    let top = grow(nodes, shape, &root, changes)?;
    Ok(top.map(|top| shrink(&lone, top)))
}

/// New nodes above the leaves that have a single entry. Only a level that shrank to one node has one
/// above it, so these are few.
type Lone = HashMap<ChunkId, Cell>;

fn build(nodes: &dyn Nodes, shape: Shape, edits: impl Iterator<Item = Result<Edit>>) -> Result<Option<Root>> {
    let mut builder = Builder::new(nodes, shape);
    for edit in edits {
        let Edit { key, value } = edit?;
        if let Some((value, weight)) = value {
            builder.push(key, value, weight)?;
        }
    }
    builder.finish()
}

fn to_change(nodes: &dyn Nodes, edit: Edit) -> Result<Change> {
    let Some((value, weight)) = edit.value else { return Ok(Change { key: edit.key, payload: None }) };
    let cell = leaf(nodes, edit.key, value, weight)?;
    Ok(Change { key: cell.key, payload: Some(cell.payload) })
}

/// The old root's level has been cut anew into the nodes that `changes` puts, and the old root itself
/// where no change names it: the levels above are built, or the root is found further down where the
/// tree shrank.
fn grow(nodes: &dyn Nodes, shape: Shape, root: &Root, changes: Vec<Change>) -> Result<Option<Root>> {
    let first = nodes.node(&root.node)?.cells.first().map(|cell| cell.key.clone());
    let old = Cell::of_root(root, first.unwrap_or_default());
    let mut tops: Vec<Cell> = Vec::new();
    if changes.iter().all(|change| change.key != old.key) {
        tops.push(old);
    }
    for Change { key, payload } in changes {
        tops.extend(payload.map(|payload| Cell { key, payload }));
    }
    tops.sort_by(|a, b| a.key.cmp(&b.key));
    let mut level = root.level;
    while tops.len() > 1 {
        level += 1;
        let mut above = Vec::new();
        let mut emit = |stretch| {
            above.push(store_node(nodes, level, stretch)?);
            Ok::<(), Error>(())
        };
        let mut splitter = Splitter::new(shape, level, true);
        for cell in tops {
            splitter.push(cell, &mut emit)?;
        }
        splitter.finish(&mut emit)?;
        tops = above;
    }
    let Some(Cell { payload: Payload::Child { id, count, weight, .. }, .. }) = tops.pop() else {
        return Ok(None);
    };
    Ok(Some(Root { node: id, level, count, weight }))
}

/// The root is the lowest node that is alone on its level.
fn shrink(lone: &Lone, mut root: Root) -> Root {
    while let Some(Cell { payload: Payload::Child { id, count, weight, .. }, .. }) = lone.get(&root.node) {
        root = Root { node: *id, level: root.level - 1, count: *count, weight: *weight };
    }
    root
}

/// Applies changes to the cells in the nodes of `level`; gives the changes of the level above.
fn edit_level(
    nodes: &dyn Nodes,
    shape: Shape,
    root: &Root,
    level: u8,
    changes: impl Iterator<Item = Result<Change>>,
    lone: &mut Lone,
) -> Result<Vec<Change>> {
    let cursor = Cursor::new(nodes, root, level)?;
    let window = shape.sizes.window as usize;
    let mut editor = Editor {
        nodes,
        shape,
        level,
        window,
        cursor,
        floor: None,
        outcome: Outcome { above: Vec::new(), lone },
    };
    let mut changes = Sorted { changes, last: None }.peekable();
    while let Some(first) = changes.peek() {
        let key = match first {
            Ok(change) => change.key.clone(),
            Err(_) => return Err(changes.next().and_then(Result::err).unwrap_or(Error::Unsorted)),
        };
        editor.region(&key, &mut changes)?;
    }
    Ok(editor.outcome.above)
}

/// Passes changes on while they are in order.
struct Sorted<I> {
    changes: I,
    last: Option<Vec<u8>>,
}

impl<I: Iterator<Item = Result<Change>>> Iterator for Sorted<I> {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Result<Change>> {
        let change = self.changes.next()?;
        if let Ok(change) = &change {
            if self.last.as_ref().is_some_and(|last| *last >= change.key) {
                return Some(Err(Error::Unsorted));
            }
            self.last = Some(change.key.clone());
        }
        Some(change)
    }
}

struct Editor<'a> {
    nodes: &'a dyn Nodes,
    shape: Shape,
    level: u8,
    window: usize,
    cursor: Cursor<'a>,
    /// The first key behind the last region; what comes before it is done.
    floor: Option<Vec<u8>>,
    /// What changes on the level above, and which new nodes have a single entry.
    outcome: Outcome<'a>,
}

struct Outcome<'a> {
    above: Vec<Change>,
    lone: &'a mut Lone,
}

/// The old nodes of a region that no new node has passed yet, and what changes above.
struct Replaced<'a, 'b> {
    old: VecDeque<(Cell, Arc<Node>)>,
    outcome: &'b mut Outcome<'a>,
}

impl Replaced<'_, '_> {
    /// Old nodes that begin before `key` are gone.
    fn pass(&mut self, key: Option<&[u8]>) {
        while let Some((cell, _)) = self.old.front()
            && key.is_none_or(|key| cell.key.as_slice() < key)
        {
            let gone = self.old.pop_front().map(|(cell, _)| cell.key).unwrap_or_default();
            self.outcome.above.push(Change { key: gone, payload: None });
        }
    }

    /// A new node: kept as it was, or stored.
    fn replace(&mut self, nodes: &dyn Nodes, level: u8, stretch: Stretch) -> Result<()> {
        let key = stretch.cells.first().map(|cell| cell.key.clone()).unwrap_or_default();
        self.pass(Some(&key));
        let same_place = self.old.pop_front_if(|(cell, _)| cell.key == key);
        if let Some((Cell { payload: Payload::Child { regular, .. }, .. }, node)) = &same_place
            && *regular == stretch.regular
            && node.cells == stretch.cells
        {
            return Ok(());
        }
        let alone = if let [cell] = &stretch.cells[..] { Some(cell.clone()) } else { None };
        let cell = store_node(nodes, level, stretch)?;
        if let (1.., Some(alone), Payload::Child { id, .. }) = (level, alone, &cell.payload) {
            self.outcome.lone.insert(*id, alone);
        }
        self.outcome.above.push(Change { key: cell.key, payload: Some(cell.payload) });
        Ok(())
    }
}

impl Editor<'_> {
    /// Moves the cursor to where work for a change at `key` must begin.
    fn seek_begin(&mut self, key: &[u8]) -> Result<()> {
        self.cursor.seek(key)?;
        let mut before = self.cursor.node()?.cells.partition_point(|cell| cell.key.as_slice() < key);
        loop {
            let at_floor = self.floor.as_deref() == Some(&self.cursor.cell().key[..]);
            if at_floor || (self.cursor.is_regular() && before > self.window) || !self.cursor.previous()? {
                return Ok(());
            }
            before += self.cursor.node()?.cells.len();
        }
    }

    /// Cuts the nodes around one change, and those of all changes within reach, anew.
    fn region<I>(&mut self, key: &[u8], changes: &mut Peekable<I>) -> Result<()>
    where
        I: Iterator<Item = Result<Change>>,
    {
        self.seek_begin(key)?;
        let (nodes, level) = (self.nodes, self.level);
        let mut splitter = Splitter::new(self.shape, level, self.cursor.is_regular());
        let Editor { cursor, outcome, window, floor, .. } = self;
        let mut replaced = Replaced { old: VecDeque::new(), outcome };
        // Old entries since the last change.
        let mut after = 0;
        loop {
            let node = cursor.node()?;
            replaced.old.push_back((cursor.cell().clone(), node.clone()));
            let more = cursor.next()?;
            let end = more.then(|| cursor.cell().key.clone());
            let mut emit = |stretch| replaced.replace(nodes, level, stretch);
            merge(&node, end.as_deref(), changes, &mut after, |cell| splitter.push(cell, &mut emit))?;
            if !more {
                *floor = None;
                break;
            }
            if after > *window && cursor.is_regular() && may_stop(cursor, *window, changes)? {
                *floor = end;
                break;
            }
        }
        splitter.finish(&mut |stretch| replaced.replace(nodes, level, stretch))?;
        replaced.pass(None);
        Ok(())
    }
}

/// Whether work may end before the cursor's node: the next change is far behind its begin.
fn may_stop<I>(cursor: &mut Cursor, window: usize, changes: &mut Peekable<I>) -> Result<bool>
where
    I: Iterator<Item = Result<Change>>,
{
    match changes.peek() {
        Some(Ok(change)) => is_far(cursor, window, &change.key),
        // An error ends the work; nothing more is to be read for it.
        Some(Err(_)) | None => Ok(true),
    }
}

/// Whether `key` lies more than a window behind the begin of the cursor's node.
fn is_far(cursor: &mut Cursor, window: usize, key: &[u8]) -> Result<bool> {
    let begin = cursor.cell().key.clone();
    let mut between = 0;
    let far = loop {
        let node = cursor.node()?;
        let before = node.cells.partition_point(|cell| cell.key.as_slice() < key);
        between += before;
        if between > window {
            break true;
        }
        if before < node.cells.len() || !cursor.next()? {
            break false;
        }
    };
    cursor.seek(&begin)?;
    Ok(far)
}

/// Gives the entries of `node` with the changes before `end` applied. `after` counts the old entries
/// since the last change.
fn merge<I>(
    node: &Node,
    end: Option<&[u8]>,
    changes: &mut Peekable<I>,
    after: &mut usize,
    mut give: impl FnMut(Cell) -> Result<()>,
) -> Result<()>
where
    I: Iterator<Item = Result<Change>>,
{
    let mut next_before = |key: Option<&[u8]>, or_at: bool| {
        changes.next_if(|change| match (change, key) {
            (Ok(change), Some(key)) => change.key.as_slice() < key || (or_at && change.key == key),
            _ => true,
        })
    };
    for cell in &node.cells {
        let mut kept = Some(cell.clone());
        while let Some(change) = next_before(Some(&cell.key), true) {
            let Change { key, payload } = change?;
            *after = 0;
            let here = key == cell.key;
            if let Some(payload) = payload {
                give(Cell { key, payload })?;
            }
            if here {
                kept = None;
            }
        }
        if let Some(cell) = kept {
            *after += 1;
            give(cell)?;
        }
    }
    while let Some(change) = next_before(end, false) {
        let Change { key, payload } = change?;
        *after = 0;
        if let Some(payload) = payload {
            give(Cell { key, payload })?;
        }
    }
    Ok(())
}
