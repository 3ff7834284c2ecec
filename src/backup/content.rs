//! Bytes into chunks.

use std::cell::{Cell, RefCell};

use super::{Result, Run};
use crate::format::{Content, MAX_INLINE_VALUE};
use crate::id::ChunkKind;
use crate::repository::{Reached, for_each_chunk_of};
use crate::store::{Feeding, Pieces, Writer};
use crate::tree::{self, ContentBuilder};

/// Content being stored as it arrives.
pub(super) struct Storing<'a, 'p> {
    writer: &'a Writer,
    pieces: &'p mut Pieces<'a>,
    content: ContentBuilder<'a>,
    _feeding: Feeding<'a>,
}

impl<'a, 'p> Storing<'a, 'p> {
    /// Cuts with `pieces`, in which nothing is held.
    pub fn new(run: &'a Run, pieces: &'p mut Pieces<'a>) -> Storing<'a, 'p> {
        pieces.clear();
        let shape = run.repository.shape(run.repository.config().trees.content);
        let content = ContentBuilder::new(&run.nodes, shape);
        Storing { writer: run.writer, pieces, content, _feeding: run.writer.feeding() }
    }

    /// Room for more of the content; [`Storing::filled`] is to be told how much was put there.
    pub fn space(&mut self) -> &mut [u8] {
        self.pieces.space()
    }

    /// So many bytes of the room are the content's next ones.
    pub fn filled(&mut self, length: usize) -> tree::Result<()> {
        let Storing { writer, pieces, content, .. } = self;
        pieces.filled(length, |chunk| put(writer, chunk, content))
    }

    /// More of the content.
    pub fn push(&mut self, more: &[u8]) -> tree::Result<()> {
        let Storing { writer, pieces, content, .. } = self;
        pieces.push(more, |chunk| put(writer, chunk, content))
    }

    /// A stretch of zeros that stand nowhere.
    pub fn hole(&mut self, zeros: u64) -> tree::Result<()> {
        let Storing { writer, pieces, content, .. } = self;
        let content = RefCell::new(content);
        let emit = |chunk: &[u8]| put(writer, chunk, &mut content.borrow_mut());
        let repeat = |length: usize, count: u64| {
            let id = writer.put(ChunkKind::Data, vec![0; length])?.id;
            (0..count).try_for_each(|_| content.borrow_mut().push(id, length as u32))
        };
        pieces.hole(zeros, emit, repeat)
    }

    /// The content is complete.
    pub fn finish(self) -> tree::Result<Content> {
        let Storing { writer, pieces, mut content, _feeding } = self;
        pieces.finish(|chunk| put(writer, chunk, &mut content))?;
        content.finish()
    }
}

fn put(writer: &Writer, chunk: &[u8], content: &mut ContentBuilder) -> tree::Result<()> {
    content.push(writer.put(ChunkKind::Data, chunk)?.id, chunk.len() as u32)
}

impl Run<'_> {
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
        let mut storing = Storing::new(self, &mut pieces);
        storing.push(&bytes)?;
        storing.finish()
    }
}
