//! How much memory a command may take: one budget, of which every buffer that grows with its work is a share.
//!
//! ```text
//! of 256 MiB
//! packs     37 MiB each: one is filled while two are put; with less than 192 MiB one is put at a time
//! bodies    1/8, what is read of objects and not yet cut
//! sorted    1/32 for each sorter, three of which may be full at once, and two of half the size
//! ids       1/8 of a kibibyte each, chunks that the run has stored itself
//! ```
//! Where content is read back:
//! ```text
//! blocks    1/8, small chunks with what lies around them, read lately or asked for early
//! early     3/16, large chunks that are asked for early
//! trees     1/4, tree packs that are fetched together, before content is
//! puts      20 MiB each: of one chunk what is sealed and what is plain, one that waits, one that is sent
//! files     8 MiB each: of one chunk what is sealed and what is plain
//! sorted    1/32 for each sorter, five of which may be full at once, or 1/8 for each of at most three
//! ```
//! The rest is for what does not grow: the program, the index's cache, one chunk for each thread and stage.

/// A budget in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(u64);

impl Memory {
    /// Where nothing is said.
    pub const USUAL: Memory = Memory(256 << 20);
    /// Below this the parts that do not shrink do not fit.
    pub const LEAST: Memory = Memory(128 << 20);

    /// So many bytes; nothing where they are too few.
    pub fn of(bytes: u64) -> Option<Memory> {
        (bytes >= Self::LEAST.0).then_some(Memory(bytes))
    }

    /// The bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    fn share(self, part: u64, of: u64) -> usize {
        usize::try_from(self.0 / of * part).unwrap_or(usize::MAX)
    }

    /// Packs put at once.
    pub fn uploads(self) -> usize {
        // More than a few only wait for one another.
        (self.share(1, 96 << 20)).clamp(1, 4)
    }

    /// Packs that are read whole, at once, each with a chunk that is being opened.
    pub fn packs(self) -> usize {
        self.share(1, 64 << 20).max(1)
    }

    /// Bytes of objects that are read and not yet cut.
    pub fn bodies(self) -> usize {
        self.share(1, 8)
    }

    /// Bytes of packs that are kept once they were read.
    pub fn blocks(self) -> usize {
        self.share(1, 8)
    }

    /// Bytes of large chunks that are on their way before they are wanted.
    pub fn early(self) -> usize {
        self.share(3, 16)
    }

    /// Objects that a restore puts at once.
    pub fn puts(self) -> usize {
        self.share(3, 64 << 20).clamp(2, 24)
    }

    /// Files that a restore writes at once: most of the time of small ones is waiting for the disk.
    pub fn files(self) -> usize {
        self.share(1, 32 << 20).clamp(2, 8)
    }

    /// Bytes of tree packs that are fetched at once.
    pub fn trees(self) -> usize {
        self.share(1, 4)
    }

    /// Bytes that one sorter holds before it spills.
    pub fn sorted(self) -> usize {
        self.share(1, 32)
    }

    /// Ids of chunks that a run holds before it spills.
    pub fn ids(self) -> usize {
        self.share(1, 1024)
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::USUAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_budget_is_used_and_too_small_a_one_refused() {
        assert_eq!(Memory::of(100 << 20), None);
        let (least, usual, large) = (Memory::LEAST, Memory::USUAL, Memory::of(1 << 30).unwrap());
        assert_eq!((least.uploads(), usual.uploads(), large.uploads()), (1, 2, 4));
        assert_eq!((usual.bodies(), usual.sorted(), usual.ids()), (32 << 20, 8 << 20, 256 << 10));
        assert_eq!((least.puts(), usual.puts(), large.puts()), (6, 12, 24));
        assert_eq!((least.files(), usual.files(), large.files()), (4, 8, 8));
        assert!(least.sorted() < usual.sorted() && usual.sorted() < large.sorted());
    }
}
