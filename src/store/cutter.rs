//! Cuts content into chunks by content: FastCDC (Xia et al., 2020) with a gear table of the
//! repository's own, so that cut points tell nothing to who does not know the content secret.

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

use crate::format::Chunker;
use crate::secret::ContentSecret;

/// Finds cut points.
pub struct Cutter {
    gear: [u64; 256],
    /// The table shifted by one, for the two-bytes-a-step loop.
    gear_shifted: [u64; 256],
    strict: u64,
    loose: u64,
    sizes: Chunker,
}

impl Cutter {
    /// A cutter for `sizes`, which must be even.
    pub fn new(secret: &ContentSecret, sizes: Chunker) -> Cutter {
        let gear = secret.gear();
        let (strict, loose) = select_masks(sizes.average as usize, Normalization::Level1);
        Cutter { gear, gear_shifted: gear.map(|word| word << 1), strict, loose, sizes }
    }

    /// The length of the first chunk of `content`, which reaches to the end of the object or at
    /// least over the largest chunk.
    fn first(&self, content: &[u8]) -> usize {
        let (_, length) = cut_gear(
            content,
            self.sizes.min as usize,
            self.sizes.average as usize,
            self.sizes.max as usize,
            self.strict,
            self.loose,
            self.strict << 1,
            self.loose << 1,
            &self.gear,
            &self.gear_shifted,
        );
        length
    }

    /// Cuts objects, one after another.
    pub fn pieces(&self) -> Pieces<'_> {
        let patience = self.patience();
        Pieces { cutter: self, buffer: Vec::new(), begin: 0, end: 0, patience }
    }

    /// With so many bytes there is most likely a cut.
    fn patience(&self) -> usize {
        self.sizes.max.min(2 * self.sizes.average) as usize
    }
}

/// Bytes that are best read at once.
const READ: usize = 1 << 20;

/// An object being cut as it arrives, and then the next one. Holds back at most the largest chunk and one
/// arrival.
pub struct Pieces<'a> {
    cutter: &'a Cutter,
    /// What has arrived and is not cut yet stands from `begin` to `end`.
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    /// The next look for a cut comes with so many bytes.
    patience: usize,
}

impl Pieces<'_> {
    /// Room for more of the object; [`Pieces::filled`] is to be told how much was put there.
    pub fn space(&mut self) -> &mut [u8] {
        self.make_room(READ);
        &mut self.buffer[self.end..]
    }

    /// So many bytes of the room are the object's next ones; `emit` is given every chunk that is complete.
    pub fn filled<E>(
        &mut self,
        length: usize,
        mut emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.end = self.buffer.len().min(self.end + length);
        self.cut(&mut emit)
    }

    /// More of the object.
    pub fn push<E>(&mut self, more: &[u8], mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.make_room(more.len());
        self.buffer[self.end..self.end + more.len()].copy_from_slice(more);
        self.filled(more.len(), &mut emit)
    }

    /// A hole: so many zeros. Long ones are not cut byte by byte: as long as only zeros follow, every chunk is
    /// the same. `repeat` is given its length and how many there are.
    pub fn hole<E>(
        &mut self,
        mut zeros: u64,
        mut emit: impl FnMut(&[u8]) -> Result<(), E>,
        mut repeat: impl FnMut(usize, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let max = self.cutter.sizes.max as usize;
        while zeros > 0 {
            if self.held().iter().any(|byte| *byte != 0) {
                let more = zeros.min(max as u64) as usize;
                self.push_zeros(more);
                self.cut(&mut emit)?;
                zeros -= more as u64;
                continue;
            }
            let all = self.held().len() as u64 + zeros;
            let mut left = all;
            self.end = self.begin;
            if all >= max as u64 {
                self.push_zeros(max);
                let length = self.cutter.first(self.held());
                let count = (all - max as u64) / length as u64 + 1;
                repeat(length, count)?;
                left = all - count * length as u64;
                self.end = self.begin;
            }
            // Less than the largest chunk.
            self.push_zeros(left as usize);
            zeros = 0;
        }
        Ok(())
    }

    /// The object is complete; the next one may follow.
    pub fn finish<E>(&mut self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while self.begin < self.end {
            let length = self.cutter.first(self.held());
            emit(&self.buffer[self.begin..self.begin + length])?;
            self.begin += length;
        }
        self.clear();
        Ok(())
    }

    /// Drops what was not cut.
    pub fn clear(&mut self) {
        (self.begin, self.end, self.patience) = (0, 0, self.cutter.patience());
    }

    fn held(&self) -> &[u8] {
        &self.buffer[self.begin..self.end]
    }

    fn push_zeros(&mut self, count: usize) {
        self.make_room(count);
        self.buffer[self.end..self.end + count].fill(0);
        self.end += count;
    }

    /// Room for so many bytes behind those that are held.
    fn make_room(&mut self, more: usize) {
        if self.buffer.len() - self.end >= more {
            return;
        }
        self.buffer.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        let (needed, most) = (self.end + more, self.cutter.sizes.max as usize + READ);
        if self.buffer.len() < needed {
            // Twice as much, so that little is moved; small objects need no large buffer.
            self.buffer.resize(needed.max((2 * needed).min(most)), 0);
        }
    }

    /// Cuts what can be cut. A cut before the end of what is there is one whatever follows.
    fn cut<E>(&mut self, emit: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while self.held().len() >= self.patience {
            let (length, held) = (self.cutter.first(self.held()), self.held().len());
            if length == held && held < self.cutter.sizes.max as usize {
                self.patience = self.cutter.sizes.max as usize;
                break;
            }
            emit(&self.buffer[self.begin..self.begin + length])?;
            self.begin += length;
            self.patience = self.cutter.patience();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::context::{Random, Seeded};

    const SIZES: Chunker = Chunker { min: 256 << 10, average: 1 << 20, max: 4 << 20 };

    fn content(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Seeded::new(7).fill(&mut bytes);
        bytes
    }

    fn lengths(cutter: &Cutter, content: &[u8], arrival: usize) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut emit = |chunk: &[u8]| -> Result<(), Infallible> {
            lengths.push(chunk.len());
            Ok(())
        };
        let mut pieces = cutter.pieces();
        for more in content.chunks(arrival) {
            pieces.push(more, &mut emit).unwrap();
        }
        pieces.finish(&mut emit).unwrap();
        lengths
    }

    /// Golden: an upgrade that moves cut points would store everything again.
    #[test]
    fn cut_points_stay_where_format_1_put_them() {
        let cutter = Cutter::new(&ContentSecret::from_bytes([7; 32]), SIZES);
        let expected = include_str!("../../tests/golden/cut-points.txt");
        let found = lengths(&cutter, &content(32 << 20), 1 << 20);
        assert_eq!(found.iter().map(|n| format!("{n}\n")).collect::<String>(), expected);
    }

    #[test]
    fn cut_points_do_not_depend_on_how_content_arrives() {
        let cutter = Cutter::new(&ContentSecret::from_bytes([1; 32]), SIZES);
        let content = content(20 << 20);
        let whole = lengths(&cutter, &content, content.len());
        assert_eq!(lengths(&cutter, &content, 100_003), whole);
        assert_eq!(whole.iter().sum::<usize>(), content.len());
        assert!(whole.iter().all(|&n| n <= SIZES.max as usize));
    }

    #[test]
    fn a_hole_is_cut_as_the_zeros_that_it_stands_for() {
        let cutter = Cutter::new(&ContentSecret::from_bytes([1; 32]), SIZES);
        let data = content(3 << 20);
        for hole in [1, 1000, 1 << 20, 4 << 20, (9 << 20) + 1, 40 << 20] {
            let dense = [&vec![0; hole], &data[..], &vec![0; hole], b"end"].concat();
            let mut found = Vec::new();
            let mut pieces = cutter.pieces();
            let add = |found: &mut Vec<usize>, length, count| {
                found.extend(std::iter::repeat_n(length, count as usize));
                Ok::<(), Infallible>(())
            };
            for part in [&data[..], b"end"] {
                let lengths = std::cell::RefCell::new(&mut found);
                let emit = |chunk: &[u8]| add(&mut lengths.borrow_mut(), chunk.len(), 1);
                let repeat = |length, count| add(&mut lengths.borrow_mut(), length, count);
                pieces.hole(hole as u64, emit, repeat).unwrap();
                pieces.push(part, |chunk| add(&mut found, chunk.len(), 1)).unwrap();
            }
            pieces.finish(|chunk| add(&mut found, chunk.len(), 1)).unwrap();
            assert_eq!(found, lengths(&cutter, &dense, 1 << 20), "{hole}");
        }
    }

    #[test]
    fn an_insertion_moves_only_the_cuts_near_it() {
        let cutter = Cutter::new(&ContentSecret::from_bytes([1; 32]), SIZES);
        let mut content = content(24 << 20);
        let before = lengths(&cutter, &content, content.len());
        content.insert(3 << 20, 1);
        let after = lengths(&cutter, &content, content.len());
        let same = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
        assert!(same + 6 >= before.len(), "{before:?} {after:?}");
    }

    #[test]
    fn another_secret_cuts_elsewhere() {
        let content = content(8 << 20);
        let one = Cutter::new(&ContentSecret::from_bytes([1; 32]), SIZES);
        let other = Cutter::new(&ContentSecret::from_bytes([2; 32]), SIZES);
        assert_ne!(lengths(&one, &content, 1 << 20), lengths(&other, &content, 1 << 20));
    }

    #[test]
    fn a_small_object_is_one_chunk_and_an_empty_one_none() {
        let cutter = Cutter::new(&ContentSecret::from_bytes([1; 32]), SIZES);
        assert_eq!(lengths(&cutter, &content(256 << 10), 999), [256 << 10]);
        assert!(lengths(&cutter, &[], 1).is_empty());
    }
}
