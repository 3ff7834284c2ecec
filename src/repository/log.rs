//! A log on this machine: records appended as they come, sealed in blocks. It may be lost at any time,
//! and may end in half a block.
//!
//! ```text
//! 0   4  length of the sealed part (ciphertext and tag), little-endian
//! 4   12 nonce, random
//! 16  …  sealed part: length and key, length and value of one record after another
//! ```
//! The seal is bound to the repository id and the log's name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::Repository;
use crate::context::Random;
use crate::id::draw;
use crate::secret::{NONCE, SealKey};

/// Records are sealed together up to this size, or for so long.
const BLOCK: usize = 16 << 10;
const EVERY: Duration = Duration::from_secs(1);
/// No block is larger than its last record makes it; a longer one is none of ours.
const LONGEST: u32 = 64 << 20;
const HEADER: usize = 4 + NONCE;

/// An open log. No other command has it at the same time.
pub struct Log {
    file: File,
    path: PathBuf,
    key: SealKey,
    bound_to: Vec<u8>,
    random: Arc<dyn Random>,
    open: Vec<u8>,
    sealed: Instant,
}

impl Repository {
    /// The log of this name; `None` where another command has it.
    pub fn log(&self, name: &str) -> io::Result<Option<Log>> {
        let directory = self.cache().join("logs");
        fs::create_dir_all(&directory)?;
        let path = directory.join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(&path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let bound_to = [&self.id().0[..], name.as_bytes()].concat();
        let (key, random) = (self.seal_secret().logs(), self.context().random.clone());
        Ok(Some(Log { file, path, key, bound_to, random, open: Vec::new(), sealed: Instant::now() }))
    }
}

/// A part of a block that begins with its length.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
    let part = rest.get(4..4 + length)?;
    *rest = &rest[4 + length..];
    Some(part)
}

impl Log {
    /// Shows every record, the oldest first. What follows the last whole block goes.
    pub fn read<E: From<io::Error>>(
        &mut self,
        mut show: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.file.rewind()?;
        let mut whole = 0;
        let mut blocks = BufReader::with_capacity(256 << 10, &self.file);
        while let Some((header, mut sealed)) = read_block(&mut blocks)? {
            let length = (HEADER + sealed.len()) as u64;
            let nonce = header.last_chunk().copied().unwrap_or_default();
            let Ok(plain) = self.key.open(nonce, &self.bound_to, &mut sealed) else { break };
            let mut rest = &*plain;
            while let (Some(key), Some(value)) = (take(&mut rest), take(&mut rest)) {
                show(key, value)?;
            }
            whole += length;
        }
        self.file.set_len(whole)?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }

    /// One more record; it is in the file a second later.
    pub fn append(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        for part in [key, value] {
            self.open.extend_from_slice(&(part.len() as u32).to_le_bytes());
            self.open.extend_from_slice(part);
        }
        if self.open.len() >= BLOCK || self.sealed.elapsed() >= EVERY { self.flush() } else { Ok(()) }
    }

    /// Writes what is not in the file yet.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        let mut body = std::mem::take(&mut self.open);
        let nonce = draw::<NONCE>(&*self.random);
        self.key.seal(nonce, &self.bound_to, &mut body);
        self.sealed = Instant::now();
        let block = [&(body.len() as u32).to_le_bytes()[..], &nonce, &body].concat();
        self.file.write_all(&block)
    }

    /// Removes the log. A file that cannot be removed costs time when it is read again.
    pub fn remove(mut self) {
        self.open.clear();
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Whoever reads it goes by what is there.
        let _ = self.flush();
    }
}

/// The header and the sealed part of the next block, if it is there to its end.
fn read_block(blocks: &mut impl Read) -> io::Result<Option<([u8; HEADER], Vec<u8>)>> {
    let mut header = [0; HEADER];
    let mut sealed = Vec::new();
    match blocks.read_exact(&mut header) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    }
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    if length > LONGEST {
        return Ok(None);
    }
    let there = blocks.take(length.into()).read_to_end(&mut sealed)?;
    Ok((there == length as usize).then_some((header, sealed)))
}
