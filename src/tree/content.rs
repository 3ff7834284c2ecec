//! The chunks of one run of bytes: a short list in the entry itself, or a tree cut by chunk ids, so
//! that an insertion rewrites its neighbourhood and not everything after it.

use std::collections::VecDeque;

use super::{Builder, Nodes, Result, Shape, scan};
use crate::format::{Content, MAX_INLINE_CHUNKS};
use crate::id::ChunkId;
use crate::store::Early;

/// Plain bytes of chunks that are asked for before they are read, where that is worth while.
const AHEAD: u64 = 16 << 20;

/// Takes chunks in order, gives the content that is made of them. Memory is bounded, however many they are.
pub struct ContentBuilder<'a> {
    nodes: &'a dyn Nodes,
    shape: Shape,
    /// All of them, as long as they are few.
    few: Vec<(ChunkId, u32)>,
    tree: Option<Builder<'a>>,
}

impl<'a> ContentBuilder<'a> {
    /// No chunks.
    pub fn new(nodes: &'a dyn Nodes, shape: Shape) -> ContentBuilder<'a> {
        ContentBuilder { nodes, shape, few: Vec::new(), tree: None }
    }

    /// The next chunk, and its plain length.
    pub fn push(&mut self, id: ChunkId, length: u32) -> Result<()> {
        if let Some(tree) = &mut self.tree {
            return tree.push_chunk(id, length);
        }
        self.few.push((id, length));
        if self.few.len() > MAX_INLINE_CHUNKS {
            let tree = self.tree.insert(Builder::new(self.nodes, self.shape));
            self.few.drain(..).try_for_each(|(id, length)| tree.push_chunk(id, length))?;
        }
        Ok(())
    }

    /// The content.
    pub fn finish(self) -> Result<Content> {
        let root = self.tree.map(Builder::finish).transpose()?.flatten();
        Ok(root.map_or(Content::Chunks(self.few), Content::Tree))
    }
}

/// Shows the chunks of `content` in order; none for bytes that stand in the entry itself.
pub fn chunks_of<E: From<super::Error>>(
    nodes: &dyn Nodes,
    content: &Content,
    mut show: impl FnMut(ChunkId, u64) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    match content {
        Content::Inline(_) => Ok(()),
        Content::Chunks(chunks) => chunks.iter().try_for_each(|&(id, length)| show(id, length.into())),
        Content::Tree(root) => {
            let mut cells = scan::scan(nodes, Some(root), &[])?;
            while let Some(cell) = cells.next_cell()? {
                let (_, length) = cell.sums();
                // A leaf of a content tree has chunk ids as keys; others are damage that the chunk's
                // own look-up reports.
                let id = <[u8; 32]>::try_from(cell.key).unwrap_or_default();
                show(ChunkId(id), length)?;
            }
            Ok(())
        }
    }
}

/// Chunks of one content that come next.
struct Next<'a> {
    nodes: &'a dyn Nodes,
    chunks: VecDeque<(ChunkId, u64, Option<Early>)>,
    /// Their plain bytes.
    bytes: u64,
    /// How many of them have been asked for.
    asked: usize,
}

impl Next<'_> {
    fn push(&mut self, id: ChunkId, length: u64) -> Result<()> {
        self.chunks.push_back((id, length, None));
        self.bytes += length;
        self.ask()
    }

    /// Asks for as many as may be asked for now.
    fn ask(&mut self) -> Result<()> {
        while let Some((id, _, early)) = self.chunks.get_mut(self.asked) {
            match self.nodes.ask(id)? {
                Early::Full => break,
                answer => *early = Some(answer),
            }
            self.asked += 1;
        }
        Ok(())
    }

    fn show_first<E: From<super::Error>>(
        &mut self,
        show: &mut impl FnMut(ChunkId, u64) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let Some((id, length, until_read)) = self.chunks.pop_front() else { return Ok(()) };
        self.bytes -= length;
        self.asked = self.asked.saturating_sub(1);
        show(id, length)?;
        drop(until_read);
        Ok(self.ask()?)
    }
}

/// Shows the chunks of `content` in order to whoever reads each as it is shown: those that come next are on their way
/// meanwhile.
pub fn read_chunks<E: From<super::Error>>(
    nodes: &dyn Nodes,
    content: &Content,
    mut show: impl FnMut(ChunkId, u64) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut next = Next { nodes, chunks: VecDeque::new(), bytes: 0, asked: 0 };
    chunks_of(nodes, content, |id, length| {
        next.push(id, length)?;
        while next.bytes > AHEAD {
            next.show_first(&mut show)?;
        }
        Ok::<(), E>(())
    })?;
    while !next.chunks.is_empty() {
        next.show_first(&mut show)?;
    }
    Ok(())
}
