//! Everything a snapshot refers to.

use std::collections::HashSet;

use super::Result;
use crate::format::{Content, Event, Item, KeyState, Root, Snapshot};
use crate::id::{ChunkId, ChunkKind};
use crate::tree::{self, Nodes, Payload, Value};

/// A chunk that a snapshot refers to, and where from.
#[derive(Debug, Clone, Copy)]
pub struct Reached<'a> {
    /// Node or content.
    pub kind: ChunkKind,
    /// Its name.
    pub id: ChunkId,
    /// The tree it was found in: `anchor`, `history`, `state`, `system`, `objects`, `versions`.
    pub tree: &'static str,
    /// The key of the entry that refers to it; a node's first key.
    pub key: &'a [u8],
}

/// Chunks of content that are remembered: most of a new node's entries are the old one's.
const MET: usize = 200_000;

/// What was reached before: every node, and the content that was met last.
#[derive(Debug, Default)]
pub struct Met {
    nodes: HashSet<ChunkId>,
    contents: HashSet<ChunkId>,
}

impl Met {
    /// False where it was met before. Content may be forgotten, and be taken for new again.
    pub fn add(&mut self, reached: &Reached) -> bool {
        if reached.kind == ChunkKind::Node {
            return self.nodes.insert(reached.id);
        }
        if self.contents.len() >= MET {
            self.contents.clear();
        }
        self.contents.insert(reached.id)
    }
}

/// Snapshots whose roots are fetched together.
const ROOTS: usize = 16;

/// Where an entry's content is, by the kind of its tree.
type Contents = fn(&[u8]) -> Result<Vec<Content>>;

fn state_contents(value: &[u8]) -> Result<Vec<Content>> {
    Ok(vec![KeyState::decode(value)?.value])
}

fn event_contents(value: &[u8]) -> Result<Vec<Content>> {
    Ok(match Event::decode(value)? {
        Event::Put { key, value, .. } => vec![key, value],
        Event::Delete { key } => vec![key],
    })
}

fn object_contents(value: &[u8]) -> Result<Vec<Content>> {
    Ok(vec![Item::decode(value)?.content])
}

fn no_contents(_: &[u8]) -> Result<Vec<Content>> {
    Ok(Vec::new())
}

/// Shows every chunk that `snapshot` refers to. `enter` is asked before a node's entries are looked at:
/// whoever has seen the node before says no. A node that cannot be read is shown to `broken`, and so is an entry
/// that stands in a chunk of its own: what they lead to is not shown.
pub fn for_each_chunk(
    nodes: &dyn Nodes,
    snapshot: &Snapshot,
    enter: &mut dyn FnMut(Reached) -> Result<bool>,
    broken: &mut dyn FnMut(Reached, super::Error) -> Result<()>,
) -> Result<()> {
    for (tree, root, contents) in trees(snapshot) {
        let mut walk = Walk { nodes, tree, contents, enter, broken };
        walk.node(root.node, root.level, &[])?;
    }
    Ok(())
}

/// Fetches the nodes on top of the trees of some snapshots together, as far as they are far away: each lies in a pack
/// of its own. For whoever goes through all of them and comes to the one at `at`.
pub fn prefetch_roots(nodes: &dyn Nodes, snapshots: &[&Snapshot], at: usize) -> Result<()> {
    if at.is_multiple_of(ROOTS) {
        let near = snapshots.iter().skip(at).take(ROOTS);
        let roots: Vec<ChunkId> = near.flat_map(|s| trees(s)).map(|(_, root, _)| root.node).collect();
        let mut rest = &roots[..];
        while !rest.is_empty() {
            rest = &rest[nodes.prefetch(rest)?.clamp(1, rest.len())..];
        }
    }
    Ok(())
}

/// The trees of a snapshot: what messages call them, and where contents are in them.
fn trees(snapshot: &Snapshot) -> impl Iterator<Item = (&'static str, Root, Contents)> {
    let mut trees: Vec<(&'static str, Option<Root>, Contents)> = Vec::new();
    if let Some(etcd) = &snapshot.etcd {
        trees.push(("anchor", etcd.anchor.root, state_contents));
        trees.push(("history", etcd.history, event_contents));
        trees.push(("state", etcd.state.and_then(|state| state.root), state_contents));
        trees.push(("system", etcd.system, no_contents));
    }
    if let Some(objects) = &snapshot.objects {
        trees.push(("objects", objects.root, object_contents));
        trees.push(("versions", objects.versions, object_contents));
    }
    trees.into_iter().filter_map(|(tree, root, contents)| Some((tree, root?, contents)))
}

/// Shows every chunk of one entry's content, nodes of its own tree among them, as [`for_each_chunk`] does.
pub fn for_each_chunk_of(
    nodes: &dyn Nodes,
    content: &Content,
    enter: &mut dyn FnMut(Reached) -> Result<bool>,
    broken: &mut dyn FnMut(Reached, super::Error) -> Result<()>,
) -> Result<()> {
    Walk { nodes, tree: "objects", contents: no_contents, enter, broken }.content(content, &[])
}

struct Walk<'a> {
    nodes: &'a dyn Nodes,
    tree: &'static str,
    contents: Contents,
    enter: &'a mut dyn FnMut(Reached) -> Result<bool>,
    broken: &'a mut dyn FnMut(Reached, super::Error) -> Result<()>,
}

impl Walk<'_> {
    /// A node and everything below it; depth is bounded by the level, which only sinks.
    fn node(&mut self, id: ChunkId, level: u8, key: &[u8]) -> Result<()> {
        let reached = Reached { kind: ChunkKind::Node, id, tree: self.tree, key };
        if !(self.enter)(reached)? {
            return Ok(());
        }
        let node = match self.nodes.node(&id) {
            Ok(node) if node.level == level => node,
            Ok(_) => {
                let what = crate::format::Malformed::Content;
                return (self.broken)(reached, tree::Error::Node { id, what }.into());
            }
            Err(error) if error.kind() == crate::fault::Kind::Damage => {
                return (self.broken)(reached, error.into());
            }
            Err(error) => return Err(error.into()),
        };
        for cell in &node.cells {
            match &cell.payload {
                Payload::Child { id, .. } if level > 0 => self.node(*id, level - 1, &cell.key)?,
                Payload::Leaf { value, .. } if level == 0 => self.leaf(value, &cell.key)?,
                _ => {
                    let what = crate::format::Malformed::Content;
                    return (self.broken)(reached, tree::Error::Node { id, what }.into());
                }
            }
        }
        Ok(())
    }

    fn leaf(&mut self, value: &Value, key: &[u8]) -> Result<()> {
        let value = match value {
            Value::Here(value) => value.clone(),
            Value::Chunk(id, _) => {
                let reached = self.data(*id, key)?;
                match self.nodes.get(ChunkKind::Data, id) {
                    Ok(value) => value.to_vec(),
                    Err(error) if error.kind() == crate::fault::Kind::Damage => {
                        return (self.broken)(reached, error.into());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        (self.contents)(&value)?.iter().try_for_each(|content| self.content(content, key))
    }

    fn content(&mut self, content: &Content, key: &[u8]) -> Result<()> {
        match content {
            Content::Inline(_) => Ok(()),
            Content::Chunks(chunks) => chunks.iter().try_for_each(|(id, _)| self.data(*id, key).map(drop)),
            Content::Tree(root) => self.content_node(root.node, root.level, key),
        }
    }

    /// A node of a large object's content tree; its leaves' keys are chunk ids.
    fn content_node(&mut self, id: ChunkId, level: u8, key: &[u8]) -> Result<()> {
        let reached = Reached { kind: ChunkKind::Node, id, tree: self.tree, key };
        if !(self.enter)(reached)? {
            return Ok(());
        }
        let node = match self.nodes.node(&id) {
            Ok(node) => node,
            Err(error) if error.kind() == crate::fault::Kind::Damage => {
                return (self.broken)(reached, error.into());
            }
            Err(error) => return Err(error.into()),
        };
        for cell in &node.cells {
            match &cell.payload {
                Payload::Child { id, .. } if level > 0 => self.content_node(*id, level - 1, key)?,
                Payload::Leaf { .. } => {
                    let id = <[u8; 32]>::try_from(cell.key.as_slice()).unwrap_or_default();
                    self.data(ChunkId(id), key)?;
                }
                Payload::Child { .. } => {
                    let what = crate::format::Malformed::Content;
                    return (self.broken)(reached, tree::Error::Node { id, what }.into());
                }
            }
        }
        Ok(())
    }

    fn data<'k>(&mut self, id: ChunkId, key: &'k [u8]) -> Result<Reached<'k>> {
        let reached = Reached { kind: ChunkKind::Data, id, tree: self.tree, key };
        (self.enter)(reached).map(|_| reached)
    }
}
