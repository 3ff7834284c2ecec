//! etcd's whole state as one file.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use aws_lc_rs::digest;

use super::super::{Error, Result};
use crate::context::Cancel;
use crate::etcd::{ANSWER, Etcd};

const DIGEST_LEN: u64 = 32;

/// A member's whole state in an unlinked file.
pub struct Spooled {
    /// The file.
    pub file: File,
    /// Bytes of bbolt in it.
    pub size: u64,
}

/// Streams the member's whole state into an unlinked file in `directory`, and verifies the SHA-256 that
/// ends it. `progress` is told of every piece.
pub fn snapshot(
    etcd: &Etcd,
    directory: &Path,
    cancel: &Cancel,
    mut progress: impl FnMut(u64),
) -> Result<Spooled> {
    let spool = |e| Error::Spool(directory.display().to_string(), e);
    std::fs::create_dir_all(directory).map_err(spool)?;
    check_room(etcd, directory)?;
    let mut file = tempfile::tempfile_in(directory).map_err(spool)?;
    let mut digest = TrailingDigest::new();
    let mut client = etcd.client();
    let size = etcd.runtime().block_on(async {
        let mut stream = client.snapshot().await.map_err(|e| etcd.fail("snapshot", &e))?;
        loop {
            cancel.check()?;
            let message = tokio::time::timeout(ANSWER, stream.message()).await;
            let message = message.map_err(|_| etcd.silent("snapshot"))?;
            let Some(message) = message.map_err(|e| etcd.fail("snapshot", &e))? else { break };
            file.write_all(message.blob()).map_err(spool)?;
            digest.update(message.blob());
            progress(message.blob().len() as u64);
        }
        Ok::<u64, Error>(digest.length)
    })?;
    digest.check().map_err(|why| Error::Torn(etcd.endpoint().to_owned(), why))?;
    Ok(Spooled { file, size: size - DIGEST_LEN })
}

fn check_room(etcd: &Etcd, directory: &Path) -> Result<()> {
    let needed = etcd.status()?.db_size;
    let directory_name = directory.display().to_string();
    let room = rustix::fs::statvfs(directory).map_err(|e| Error::Spool(directory_name.clone(), e.into()))?;
    let free = room.f_bavail * room.f_frsize;
    if free < needed {
        return Err(Error::NoRoom { directory: directory_name, free, needed });
    }
    Ok(())
}

/// SHA-256 of everything but the last 32 bytes, which should be it.
struct TrailingDigest {
    context: digest::Context,
    tail: Vec<u8>,
    length: u64,
}

impl TrailingDigest {
    fn new() -> TrailingDigest {
        TrailingDigest { context: digest::Context::new(&digest::SHA256), tail: Vec::new(), length: 0 }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        let surplus = self.tail.len().saturating_sub(DIGEST_LEN as usize);
        self.context.update(&self.tail[..surplus]);
        self.tail.drain(..surplus);
    }

    fn check(self) -> std::result::Result<(), String> {
        if self.length < DIGEST_LEN || self.length % 512 != DIGEST_LEN {
            return Err(format!("{} bytes arrived, which is no whole file with its checksum", self.length));
        }
        if self.context.finish().as_ref() == self.tail.as_slice() {
            Ok(())
        } else {
            Err("its SHA-256 does not fit".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digested(bytes: &[u8], pieces: usize) -> std::result::Result<(), String> {
        let mut digest = TrailingDigest::new();
        bytes.chunks(pieces).for_each(|piece| digest.update(piece));
        digest.check()
    }

    #[test]
    fn a_snapshot_is_believed_only_with_its_checksum() {
        let body = vec![7; 1024];
        let whole = [&body[..], digest::digest(&digest::SHA256, &body).as_ref()].concat();
        for pieces in [1, 31, 100, 5000] {
            assert_eq!(digested(&whole, pieces), Ok(()));
        }
        let mut flipped = whole.clone();
        flipped[100] ^= 1;
        assert!(digested(&flipped, 100).is_err());
        assert!(digested(&whole[..1024], 100).is_err());
        assert!(digested(&whole[..10], 100).is_err());
        assert!(digested(&[], 1).is_err());
    }
}
