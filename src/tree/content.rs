//! The chunks of one run of bytes: a short list in the entry itself, or a tree cut by chunk ids, so
//! that an insertion rewrites its neighbourhood and not everything after it.

use super::{Builder, Nodes, Result, Shape, scan};
use crate::format::{Content, MAX_INLINE_CHUNKS};
use crate::id::ChunkId;

/// The content made of these chunks, in order.
pub fn write_content(nodes: &dyn Nodes, shape: Shape, chunks: Vec<(ChunkId, u32)>) -> Result<Content> {
    if chunks.len() <= MAX_INLINE_CHUNKS {
        return Ok(Content::Chunks(chunks));
    }
    let mut builder = Builder::new(nodes, shape);
    for (id, length) in chunks {
        builder.push_chunk(id, length)?;
    }
    let root = builder.finish()?;
    Ok(root.map_or_else(|| Content::Chunks(Vec::new()), Content::Tree))
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
