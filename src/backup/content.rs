//! Bytes into chunks.

use std::cell::{Cell, RefCell};
use std::iter::repeat_n;

use super::{Result, Run};
use crate::format::{Content, MAX_INLINE_VALUE};
use crate::id::{ChunkId, ChunkKind};
use crate::repository::{Reached, for_each_chunk_of};
use crate::store::{self, Feeding, Pieces, Writer};
use crate::tree::{self, Nodes, Shape, write_content};

/// Content being stored as it arrives.
pub(super) struct Storing<'a, 'p> {
    writer: &'a Writer,
    pieces: &'p mut Pieces<'a>,
    chunks: Vec<(ChunkId, u32)>,
    _feeding: Feeding<'a>,
}

impl<'a, 'p> Storing<'a, 'p> {
    /// Cuts with `pieces`, in which nothing is held.
    pub fn new(writer: &'a Writer, pieces: &'p mut Pieces<'a>) -> Storing<'a, 'p> {
        pieces.clear();
        Storing { writer, pieces, chunks: Vec::new(), _feeding: writer.feeding() }
    }

    /// Room for more of the content; [`Storing::filled`] is to be told how much was put there.
    pub fn space(&mut self) -> &mut [u8] {
        self.pieces.space()
    }

    /// So many bytes of the room are the content's next ones.
    pub fn filled(&mut self, length: usize) -> store::Result<()> {
        let Storing { writer, pieces, chunks, .. } = self;
        pieces.filled(length, |chunk| put(writer, chunk, chunks))
    }

    /// More of the content.
    pub fn push(&mut self, more: &[u8]) -> store::Result<()> {
        let Storing { writer, pieces, chunks, .. } = self;
        pieces.push(more, |chunk| put(writer, chunk, chunks))
    }

    /// A stretch of zeros that stand nowhere.
    pub fn hole(&mut self, zeros: u64) -> store::Result<()> {
        let Storing { writer, pieces, chunks, .. } = self;
        let held = RefCell::new(chunks);
        let emit = |chunk: &[u8]| put(writer, chunk, &mut held.borrow_mut());
        let repeat = |length: usize, count: u64| {
            let written = writer.put(ChunkKind::Data, vec![0; length])?;
            held.borrow_mut().extend(repeat_n((written.id, length as u32), count as usize));
            Ok(())
        };
        pieces.hole(zeros, emit, repeat)
    }

    /// The content is complete.
    pub fn finish(self, nodes: &dyn Nodes, shape: Shape) -> tree::Result<Content> {
        let Storing { writer, pieces, mut chunks, _feeding } = self;
        pieces.finish(|chunk| put(writer, chunk, &mut chunks))?;
        write_content(nodes, shape, chunks)
    }
}

fn put(writer: &Writer, chunk: &[u8], chunks: &mut Vec<(ChunkId, u32)>) -> store::Result<()> {
    chunks.push((writer.put(ChunkKind::Data, chunk)?.id, chunk.len() as u32));
    Ok(())
}

impl Run<'_> {
    pub(super) fn content_shape(&self) -> Shape {
        self.repository.shape(self.repository.config().trees.content)
    }

    /// Whether this backup may refer to content that an earlier run stored, to the last chunk.
    pub(super) fn is_stored(&self, content: &Content) -> Result<bool> {
        let whole = Cell::new(true);
        let mut enter = |reached: Reached| {
            whole.set(whole.get() && self.writer.reusable(&reached.id)?);
            Ok(whole.get())
        };
        for_each_chunk_of(&self.nodes, content, &mut enter, &mut |_, _| {
            whole.set(false);
            Ok(())
        })?;
        Ok(whole.get())
    }

    /// Stores a key or a value.
    pub(super) fn store_bytes(&self, bytes: Vec<u8>) -> tree::Result<Content> {
        if bytes.len() <= MAX_INLINE_VALUE {
            return Ok(Content::Inline(bytes));
        }
        let mut pieces = self.cutter.pieces();
        let mut storing = Storing::new(self.writer, &mut pieces);
        storing.push(&bytes)?;
        storing.finish(&self.nodes, self.content_shape())
    }
}
