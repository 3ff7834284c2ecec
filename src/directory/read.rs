//! Reading a file from its begin to the size it had, with its holes.

use std::io;

use rustix::fd::OwnedFd;
use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::{Errno, pread};

use super::{Dir, Status, xattrs_of};
use crate::format::Xattr;

/// A stretch of a file.
pub enum Piece<'a> {
    /// Bytes.
    Bytes(&'a [u8]),
    /// So many zeros that stand nowhere.
    Hole(u64),
}

/// A file being read.
pub struct FileReader {
    file: OwnedFd,
    at: u64,
    size: u64,
    /// Up to here there is no hole.
    solid: u64,
}

impl FileReader {
    /// Opens the file that `status` was seen of.
    pub fn open(dir: &Dir, name: &[u8], status: &Status) -> io::Result<FileReader> {
        let file = dir.open_file(name)?;
        let solid = if status.sparse { 0 } else { status.size };
        Ok(FileReader { file, at: 0, size: status.size, solid })
    }

    /// The next piece; `None` at the end, also where that comes early.
    pub fn next<'b>(&mut self, buffer: &'b mut [u8]) -> io::Result<Option<Piece<'b>>> {
        if self.at < self.size && self.at >= self.solid {
            let from = self.at;
            self.at = self.data_from(from)?;
            if self.at > from {
                return Ok(Some(Piece::Hole(self.at - from)));
            }
            self.solid = self.hole_from(from)?;
        }
        // Behind a hole at the end nothing is solid.
        let most = self.solid.min(self.size).saturating_sub(self.at).min(buffer.len() as u64) as usize;
        if most == 0 {
            return Ok(None);
        }
        let read = pread(&self.file, &mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok((read > 0).then(|| Piece::Bytes(&buffer[..read])))
    }

    fn data_from(&self, from: u64) -> io::Result<u64> {
        match seek(&self.file, SeekFrom::Data(from)) {
            Ok(at) => Ok(at.min(self.size)),
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => Ok(self.size),
            // A file system that knows no holes.
            Err(Errno::INVAL) => Ok(from),
            Err(error) => Err(error.into()),
        }
    }

    fn hole_from(&self, from: u64) -> io::Result<u64> {
        match seek(&self.file, SeekFrom::Hole(from)) {
            Ok(at) => Ok(at.clamp(from + 1, self.size)),
            Err(Errno::INVAL | Errno::NXIO) => Ok(self.size),
            Err(error) => Err(error.into()),
        }
    }

    /// What the file is by now.
    pub fn status(&self) -> io::Result<Status> {
        Ok(Status::of(&fstat(&self.file)?))
    }

    /// Its extended attributes, as far as they may be read.
    pub fn xattrs(&self) -> io::Result<Vec<Xattr>> {
        xattrs_of(&self.file)
    }

    /// The file itself.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_with_holes_is_read_as_it_is() {
        let tree = tempfile::tempdir().unwrap();
        let file = File::create(tree.path().join("f")).unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(b"in the middle", 5 << 20).unwrap();
        drop(file);
        let expected = std::fs::read(tree.path().join("f")).unwrap();
        let dir = Dir::open(tree.path()).unwrap();
        let status = dir.status(b"f").unwrap();
        let mut reader = FileReader::open(&dir, b"f", &status).unwrap();
        let (mut found, mut read, mut buffer) = (Vec::new(), 0, vec![0; 1 << 20]);
        while let Some(piece) = reader.next(&mut buffer).unwrap() {
            match piece {
                Piece::Hole(zeros) => found.resize(found.len() + zeros as usize, 0),
                Piece::Bytes(bytes) => {
                    read += bytes.len();
                    found.extend_from_slice(bytes);
                }
            }
        }
        assert_eq!(found, expected);
        assert!(!status.sparse || read < 1 << 20, "holes are not read");
    }
}
