//! Bytes into chunks.

use std::cell::{Cell, RefCell};
use std::iter::repeat_n;

use bytes::Bytes;

use super::{Result, Run};
use crate::format::{Content, MAX_INLINE_VALUE};
use crate::id::{ChunkId, ChunkKind};
use crate::repository::{Reached, for_each_chunk_of};
use crate::store::{self, Pieces, Writer};
use crate::tree::{self, Nodes, Shape, write_content};

/// Chunks looked up together.
const BATCH: usize = 4;

/// Content being stored as it arrives.
pub(super) struct Storing<'a> {
    writer: &'a Writer,
    pieces: Pieces<'a>,
    batch: Vec<Bytes>,
    chunks: Vec<(ChunkId, u32)>,
}

impl<'a> Storing<'a> {
    pub fn new(writer: &'a Writer, pieces: Pieces<'a>) -> Storing<'a> {
        Storing { writer, pieces, batch: Vec::new(), chunks: Vec::new() }
    }

    /// More of the content.
    pub fn push(&mut self, more: &[u8]) -> store::Result<()> {
        let Storing { writer, pieces, batch, chunks } = self;
        pieces.push(more, |chunk| {
            batch.push(Bytes::copy_from_slice(chunk));
            if batch.len() < BATCH { Ok(()) } else { flush(writer, batch, chunks) }
        })
    }

    /// A stretch of zeros that stand nowhere.
    pub fn hole(&mut self, zeros: u64) -> store::Result<()> {
        let Storing { writer, pieces, batch, chunks } = self;
        let held = RefCell::new((batch, chunks));
        let emit = |chunk: &[u8]| {
            let (batch, chunks) = &mut *held.borrow_mut();
            batch.push(Bytes::copy_from_slice(chunk));
            if batch.len() < BATCH { Ok(()) } else { flush(writer, batch, chunks) }
        };
        let repeat = |length: usize, count: u64| {
            let (batch, chunks) = &mut *held.borrow_mut();
            flush(writer, batch, chunks)?;
            let written = writer.put(ChunkKind::Data, vec![0; length].into())?;
            chunks.extend(repeat_n((written.id, length as u32), count as usize));
            Ok(())
        };
        pieces.hole(zeros, emit, repeat)
    }

    /// The content is complete.
    pub fn finish(self, nodes: &dyn Nodes, shape: Shape) -> tree::Result<Content> {
        let Storing { writer, pieces, mut batch, mut chunks } = self;
        pieces.finish(|chunk| {
            batch.push(Bytes::copy_from_slice(chunk));
            Ok::<(), store::Error>(())
        })?;
        flush(writer, &mut batch, &mut chunks)?;
        write_content(nodes, shape, chunks)
    }
}

fn flush(writer: &Writer, batch: &mut Vec<Bytes>, chunks: &mut Vec<(ChunkId, u32)>) -> store::Result<()> {
    let lengths: Vec<u32> = batch.iter().map(|chunk| chunk.len() as u32).collect();
    let written = writer.put_all(ChunkKind::Data, std::mem::take(batch))?;
    chunks.extend(written.iter().map(|written| written.id).zip(lengths));
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
        let mut storing = Storing::new(self.writer, self.cutter.pieces());
        storing.push(&bytes)?;
        storing.finish(&self.nodes, self.content_shape())
    }
}
