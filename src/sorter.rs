//! Sorts more records than fit in memory: sorted runs in unlinked files, then a merge.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// A record: what it is sorted by, and the rest.
pub type Record = (Vec<u8>, Vec<u8>);

/// Takes records in any order and gives them sorted by key; records of one key in the order they came.
pub struct Sorter {
    directory: PathBuf,
    most: usize,
    bytes: usize,
    records: Vec<Record>,
    runs: Vec<File>,
}

/// What a record costs beside its bytes.
const OVERHEAD: usize = 64;

impl Sorter {
    /// Holds about `most` bytes in memory; runs go to `directory`.
    pub fn new(directory: &Path, most: usize) -> Sorter {
        Sorter { directory: directory.to_owned(), most, bytes: 0, records: Vec::new(), runs: Vec::new() }
    }

    /// One more record.
    pub fn push(&mut self, key: Vec<u8>, value: Vec<u8>) -> io::Result<()> {
        self.bytes += key.len() + value.len() + OVERHEAD;
        self.records.push((key, value));
        if self.bytes > self.most { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> io::Result<()> {
        self.records.sort_by(|a, b| a.0.cmp(&b.0));
        std::fs::create_dir_all(&self.directory)?;
        let mut run = BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(&self.directory)?);
        for (key, value) in self.records.drain(..) {
            run.write_all(&(key.len() as u32).to_le_bytes())?;
            run.write_all(&(value.len() as u32).to_le_bytes())?;
            run.write_all(&key)?;
            run.write_all(&value)?;
        }
        self.bytes = 0;
        let mut file = run.into_inner().map_err(|e| e.into_error())?;
        file.rewind()?;
        self.runs.push(file);
        Ok(())
    }

    /// All records, sorted.
    pub fn finish(mut self) -> io::Result<Sorted> {
        self.records.sort_by(|a, b| a.0.cmp(&b.0));
        let mut sorted = Sorted { runs: Vec::new(), heads: BinaryHeap::new() };
        let files = self.runs.into_iter().map(|file| Run::File(BufReader::with_capacity(256 << 10, file)));
        sorted.runs.extend(files);
        sorted.runs.push(Run::Memory(self.records.into_iter()));
        for number in 0..sorted.runs.len() {
            sorted.refill(number)?;
        }
        Ok(sorted)
    }
}

enum Run {
    File(BufReader<File>),
    Memory(std::vec::IntoIter<Record>),
}

impl Run {
    fn next(&mut self) -> io::Result<Option<Record>> {
        let Run::File(file) = self else {
            let Run::Memory(records) = self else { return Ok(None) };
            return Ok(records.next());
        };
        let mut lengths = [0; 8];
        match file.read_exact(&mut lengths) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            done => done?,
        }
        let length = |at: usize| {
            u32::from_le_bytes([lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]]) as usize
        };
        let (mut key, mut value) = (vec![0; length(0)], vec![0; length(4)]);
        file.read_exact(&mut key)?;
        file.read_exact(&mut value)?;
        Ok(Some((key, value)))
    }
}

/// The next record of a run: key, run, value.
type Head = (Vec<u8>, usize, Vec<u8>);

/// Sorted records; holds one of each run.
pub struct Sorted {
    runs: Vec<Run>,
    /// Earlier runs first among equal keys.
    heads: BinaryHeap<Reverse<Head>>,
}

impl Sorted {
    fn refill(&mut self, number: usize) -> io::Result<()> {
        if let Some((key, value)) = self.runs[number].next()? {
            self.heads.push(Reverse((key, number, value)));
        }
        Ok(())
    }
}

impl Iterator for Sorted {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<io::Result<Record>> {
        let Reverse((key, number, value)) = self.heads.pop()?;
        if let Err(error) = self.refill(number) {
            return Some(Err(error));
        }
        Some(Ok((key, value)))
    }
}

/// Of several records of one key, only the one with the greatest value.
pub fn greatest_of_each(sorted: Sorted) -> impl Iterator<Item = io::Result<Record>> {
    let mut sorted = sorted.peekable();
    std::iter::from_fn(move || {
        let mut greatest = match sorted.next()? {
            Ok(record) => record,
            error => return Some(error),
        };
        while let Some(Ok(next)) = sorted.next_if(|next| next.as_ref().is_ok_and(|next| next.0 == greatest.0))
        {
            greatest = greatest.max(next);
        }
        Some(Ok(greatest))
    })
}

/// Of several records of one key, only the one that came last.
pub fn last_of_each(sorted: Sorted) -> impl Iterator<Item = io::Result<Record>> {
    let mut sorted = sorted.peekable();
    std::iter::from_fn(move || {
        let mut last = match sorted.next()? {
            Ok(record) => record,
            error => return Some(error),
        };
        while let Some(Ok(next)) = sorted.next_if(|next| next.as_ref().is_ok_and(|next| next.0 == last.0)) {
            last = next;
        }
        Some(Ok(last))
    })
}

/// Two runs in order of key as one: each key with what either run has of it. An error ends it.
pub fn paired<K: Ord, A, B, E>(
    a: impl Iterator<Item = Result<(K, A), E>>,
    b: impl Iterator<Item = Result<(K, B), E>>,
) -> impl Iterator<Item = Result<(K, Option<A>, Option<B>), E>> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let order = match (a.peek(), b.peek()) {
            (None, None) => return None,
            (Some(Ok((x, _))), Some(Ok((y, _)))) => x.cmp(y),
            (Some(Err(_)), _) | (_, None) => Ordering::Less,
            (_, Some(_)) => Ordering::Greater,
        };
        let x = if order.is_le() { a.next() } else { None };
        let y = if order.is_ge() { b.next() } else { None };
        let pair = match (x, y) {
            (Some(Ok((key, x))), None) => Ok((key, Some(x), None)),
            (None, Some(Ok((key, y)))) => Ok((key, None, Some(y))),
            (Some(Ok((key, x))), Some(Ok((_, y)))) => Ok((key, Some(x), Some(y))),
            (Some(Err(error)), _) | (_, Some(Err(error))) => Err(error),
            (None, None) => return None,
        };
        failed = pair.is_err();
        Some(pair)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_come_sorted_and_equal_keys_in_the_order_they_came(
            keys in proptest::collection::vec(0..50u8, 0..300),
            most in 1..10_000usize,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(directory.path(), most);
            for (number, key) in keys.iter().enumerate() {
                sorter.push(vec![*key], number.to_be_bytes().to_vec()).unwrap();
            }
            let mut expected: Vec<Record> =
                keys.iter().enumerate().map(|(n, key)| (vec![*key], n.to_be_bytes().to_vec())).collect();
            expected.sort();
            let sorted: Vec<Record> = sorter.finish().unwrap().map(|r| r.unwrap()).collect();
            prop_assert_eq!(sorted, expected);
        }

        #[test]
        fn the_greatest_of_each_key_wins(keys in proptest::collection::vec(0..20u8, 0..200)) {
            let directory = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(directory.path(), 2000);
            let mut expected = std::collections::BTreeMap::new();
            for (number, key) in keys.iter().enumerate() {
                let value = vec![(number * 7 % 101) as u8];
                sorter.push(vec![*key], value.clone()).unwrap();
                let greatest = expected.entry(vec![*key]).or_insert_with(|| value.clone());
                *greatest = value.max(greatest.clone());
            }
            let kept: Vec<Record> = greatest_of_each(sorter.finish().unwrap()).map(|r| r.unwrap()).collect();
            prop_assert_eq!(kept, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_last_of_each_key_stays() {
        let directory = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(directory.path(), 1);
        for (key, value) in [(b"b", 1), (b"a", 9), (b"b", 3), (b"b", 2)] {
            sorter.push(key.to_vec(), vec![value]).unwrap();
        }
        let kept: Vec<Record> = last_of_each(sorter.finish().unwrap()).map(|r| r.unwrap()).collect();
        assert_eq!(kept, [(b"a".to_vec(), vec![9]), (b"b".to_vec(), vec![2])]);
    }

    #[test]
    fn two_runs_are_paired_by_key_and_an_error_ends_them() {
        let a = [Ok((1, 'a')), Ok((3, 'b')), Ok((4, 'c'))];
        let b = [Ok((1, 'x')), Ok((2, 'y')), Err("broken"), Ok((4, 'z'))];
        let all: Vec<_> = paired(a.into_iter(), b.into_iter()).collect();
        let both = Ok((1, Some('a'), Some('x')));
        assert_eq!(all, [both, Ok((2, None, Some('y'))), Err("broken")]);
        let none = std::iter::empty::<Result<(i32, ()), &str>>;
        assert_eq!(paired(none(), none()).count(), 0);
    }
}
