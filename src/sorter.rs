//! Sorts more records than fit in memory: sorted runs in unlinked files, then a merge. A run is sorted and written
//! while the next one is gathered. Of very many runs some are merged before, for each is an open file.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rayon::prelude::*;

/// Where records go that do not fit in memory, and how much of them does.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
    held: usize,
}

impl Spool {
    /// In `directory`, which is made when it is needed; a sorter holds `held` bytes.
    pub fn new(directory: PathBuf, held: usize) -> Spool {
        Spool { directory, held }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// For records of any number, where several sorters are full at once.
    pub fn sorter(&self) -> Sorter {
        Sorter::new(&self.directory, self.held)
    }

    /// One more than a budget provides for.
    pub fn small_sorter(&self) -> Sorter {
        Sorter::new(&self.directory, self.held / 2)
    }

    /// Where little else takes memory, and no more than three are full at once.
    pub fn large_sorter(&self) -> Sorter {
        Sorter::new(&self.directory, self.held * 4)
    }
}

impl fmt::Display for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.directory.display().fmt(f)
    }
}

/// A record: what it is sorted by, and the rest.
pub type Record = (Vec<u8>, Vec<u8>);

/// Takes records in any order and gives them sorted by key; records of one key in the order they came.
pub struct Sorter {
    directory: PathBuf,
    most: usize,
    held: Held,
    writing: Option<Writing>,
    /// In the order in which their records came.
    runs: Vec<File>,
    /// The first so many are merged ones.
    merged: usize,
    /// A run could not be written: records are missing.
    broken: bool,
}

/// A run that is being sorted and written; it gives back the room that its records had.
type Writing = JoinHandle<io::Result<(File, Held)>>;

/// What a record costs beside its bytes, while it is sorted.
const OVERHEAD: usize = size_of::<Place>() + size_of::<Ranked>();
/// Of a run being written, and at most of each being read.
const BUFFER: usize = 256 << 10;
/// At least of each run being read: there may be many.
const LEAST_BUFFER: usize = 16 << 10;
/// So many runs are merged into one.
const RUNS: usize = 200;

impl Sorter {
    /// Holds about `most` bytes in memory; runs go to `directory`.
    fn new(directory: &Path, most: usize) -> Sorter {
        Sorter {
            directory: directory.to_owned(),
            most,
            held: Held::default(),
            writing: None,
            runs: Vec::new(),
            merged: 0,
            broken: false,
        }
    }

    /// One more record. After an error there is no going on.
    pub fn push(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> io::Result<()> {
        self.held.push(key.as_ref(), value.as_ref())?;
        // As much again belongs to the run that is being written.
        if self.held.size() > self.most / 2 { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> io::Result<()> {
        let room = self.written()?;
        let full = std::mem::replace(&mut self.held, room);
        let directory = self.directory.clone();
        let begun = std::thread::Builder::new().spawn(move || full.write(&directory));
        self.broken = begun.is_err();
        self.writing = Some(begun?);
        Ok(())
    }

    /// Waits for the run that is being written, and gives room for another one. That run may wait for rayon's
    /// threads: no sorter belongs into a task of theirs.
    fn written(&mut self) -> io::Result<Held> {
        if self.broken {
            return Err(io::Error::other("a part of what is sorted could not be written"));
        }
        let Some(writing) = self.writing.take() else { return Ok(Held::default()) };
        self.broken = true;
        let (run, room) = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        self.runs.push(run);
        if self.runs.len() - self.merged == RUNS {
            let runs = self.runs.split_off(self.merged);
            self.runs.push(self.merge(runs)?);
            self.merged += 1;
        }
        self.broken = false;
        Ok(room)
    }

    /// Some runs as one.
    fn merge(&self, runs: Vec<File>) -> io::Result<File> {
        let mut merged = RunWriter::new(&self.directory)?;
        for record in Sorted::of(runs.into_iter().map(|run| Run::read(run, LEAST_BUFFER)).collect())? {
            let (key, value) = record?;
            merged.write(key.len() as u32, value.len() as u32, &[&key, &value])?;
        }
        merged.finish()
    }

    /// All records, sorted.
    pub fn finish(mut self) -> io::Result<Sorted> {
        let order = self.held.sorted().into_iter();
        drop(self.written()?);
        let (held, files) = (std::mem::take(&mut self.held), std::mem::take(&mut self.runs));
        // Together they need no more than what was held before.
        let buffer = self.most.checked_div(files.len()).unwrap_or(0).clamp(LEAST_BUFFER, BUFFER);
        let mut runs: Vec<Run> = files.into_iter().map(|file| Run::read(file, buffer)).collect();
        runs.push(Run::Memory(held, order));
        Sorted::of(runs)
    }
}

impl Drop for Sorter {
    fn drop(&mut self) {
        // Once a sorter is gone nothing is written to its directory.
        let _ = self.writing.take().map(JoinHandle::join);
    }
}

/// Records in memory, one behind the other, each with its key first.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// Where a record stands.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    key: u32,
    value: u32,
}

/// A record on its way to its place: some of its key's bytes as a number that sorts as they do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    word: u64,
    number: u32,
}

/// Bytes of a key in a word; the last byte says how many there are.
const WORD: usize = 7;
/// In the last byte: the key goes on.
const MORE: u64 = 8;
/// So few are compared as they are.
const FEW: usize = 12;
/// More are sorted by all cores together.
const LARGE: usize = 50_000;

impl Held {
    fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
        self.places.push(Place { at: self.bytes.len(), key: length(key)?, value: length(value)? });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        Ok(())
    }

    fn size(&self) -> usize {
        self.bytes.len() + self.places.len() * OVERHEAD
    }

    /// Makes a run of the records, and gives it with their room.
    fn write(mut self, directory: &Path) -> io::Result<(File, Held)> {
        let mut run = RunWriter::new(directory)?;
        for Ranked { number, .. } in self.sorted() {
            let place = self.places[number as usize];
            run.write(place.key, place.value, &[self.record(place)])?;
        }
        self.bytes.clear();
        self.places.clear();
        Ok((run.finish()?, self))
    }

    fn record(&self, Place { at, key, value }: Place) -> &[u8] {
        &self.bytes[at..at + key as usize + value as usize]
    }

    /// What follows the first `depth` bytes of a record's key.
    fn key_from(&self, number: u32, depth: usize) -> &[u8] {
        let Place { at, key, .. } = self.places[number as usize];
        &self.bytes[at + depth..at + key as usize]
    }

    fn word(&self, number: u32, depth: usize) -> u64 {
        let rest = self.key_from(number, depth);
        let mut word = [0; 8];
        let length = rest.len().min(WORD);
        word[..length].copy_from_slice(&rest[..length]);
        word[WORD] = if rest.len() > WORD { MORE as u8 } else { length as u8 };
        u64::from_be_bytes(word)
    }

    /// The records by key, and by number where keys are equal: first by some bytes of each key, then those
    /// that have them in common by the next ones. Keys are often alike for long, and lie far apart. All cores
    /// sort a large group together, and small ones beside each other.
    fn sorted(&self) -> Vec<Ranked> {
        let mut all: Vec<Ranked> =
            (0..self.places.len() as u32).map(|number| Ranked { word: 0, number }).collect();
        if all.len() <= LARGE {
            self.sort((&mut all, 0));
            return all;
        }
        let (mut large, mut small) = (vec![(&mut all[..], 0)], Vec::new());
        while let Some((group, depth)) = large.pop() {
            group.par_iter_mut().for_each(|ranked| ranked.word = self.word(ranked.number, depth));
            group.par_sort_unstable();
            for more in undecided(group, depth) {
                if more.0.len() > LARGE { large.push(more) } else { small.push(more) }
            }
        }
        small.into_par_iter().for_each(|group| self.sort(group));
        all
    }

    /// Sorts a group. Without recursion: a key may be as long as memory.
    fn sort(&self, group: Group) {
        let mut todo = vec![group];
        while let Some((group, depth)) = todo.pop() {
            if group.len() <= FEW {
                group.sort_by(|a, b| {
                    self.key_from(a.number, depth)
                        .cmp(self.key_from(b.number, depth))
                        .then(a.number.cmp(&b.number))
                });
                continue;
            }
            group.iter_mut().for_each(|ranked| ranked.word = self.word(ranked.number, depth));
            group.sort_unstable();
            todo.extend(undecided(group, depth));
        }
    }
}

/// Records whose keys have so many bytes in common.
type Group<'a> = (&'a mut [Ranked], usize);

/// Of a sorted group those parts whose words do not tell their order.
fn undecided(group: &mut [Ranked], depth: usize) -> impl Iterator<Item = Group<'_>> {
    let parts = group.chunk_by_mut(|a, b| a.word == b.word);
    let goes_on = |alike: &&mut [Ranked]| alike.len() > 1 && alike[0].word & 0xff == MORE;
    parts.filter(goes_on).map(move |alike| (alike, depth + WORD))
}

/// A run on its way into its file.
struct RunWriter(BufWriter<File>);

impl RunWriter {
    fn new(directory: &Path) -> io::Result<RunWriter> {
        std::fs::create_dir_all(directory)?;
        Ok(RunWriter(BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(directory)?)))
    }

    /// A record: the lengths of its key and its value, and both.
    fn write(&mut self, key: u32, value: u32, record: &[&[u8]]) -> io::Result<()> {
        self.0.write_all(&key.to_le_bytes())?;
        self.0.write_all(&value.to_le_bytes())?;
        record.iter().try_for_each(|part| self.0.write_all(part))
    }

    fn finish(self) -> io::Result<File> {
        let mut file = self.0.into_inner().map_err(|e| e.into_error())?;
        file.rewind()?;
        Ok(file)
    }
}

enum Run {
    File(BufReader<File>),
    Memory(Held, std::vec::IntoIter<Ranked>),
}

impl Run {
    fn read(file: File, buffer: usize) -> Run {
        Run::File(BufReader::with_capacity(buffer, file))
    }

    fn next(&mut self) -> io::Result<Option<Record>> {
        match self {
            Run::File(file) => read_record(file),
            Run::Memory(held, order) => Ok(order.next().map(|Ranked { number, .. }| {
                let place = held.places[number as usize];
                let (key, value) = held.record(place).split_at(place.key as usize);
                (key.to_vec(), value.to_vec())
            })),
        }
    }
}

fn read_record(file: &mut BufReader<File>) -> io::Result<Option<Record>> {
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

/// The next record of a run: key, run, value.
type Head = (Vec<u8>, usize, Vec<u8>);

/// Sorted records; holds one of each run.
pub struct Sorted {
    runs: Vec<Run>,
    /// Earlier runs first among equal keys.
    heads: BinaryHeap<Reverse<Head>>,
}

impl Sorted {
    fn of(mut runs: Vec<Run>) -> io::Result<Sorted> {
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (number, run) in runs.iter_mut().enumerate() {
            heads.extend(run.next()?.map(|(key, value)| Reverse((key, number, value))));
        }
        Ok(Sorted { runs, heads })
    }
}

impl Iterator for Sorted {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<io::Result<Record>> {
        let mut first = self.heads.peek_mut()?;
        let number = first.0.1;
        let (key, _, value) = match self.runs[number].next() {
            Ok(Some((key, value))) => std::mem::replace(&mut first.0, (key, number, value)),
            Ok(None) => PeekMut::pop(first).0,
            Err(error) => {
                PeekMut::pop(first);
                return Some(Err(error));
            }
        };
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
                sorter.push(vec![*key], number.to_be_bytes()).unwrap();
            }
            let mut expected: Vec<Record> =
                keys.iter().enumerate().map(|(n, key)| (vec![*key], n.to_be_bytes().to_vec())).collect();
            expected.sort();
            let sorted: Vec<Record> = sorter.finish().unwrap().map(|r| r.unwrap()).collect();
            prop_assert_eq!(sorted, expected);
        }

        #[test]
        fn keys_that_are_alike_for_long_sort_as_bytes_do(
            keys in proptest::collection::vec((0..40usize, proptest::collection::vec(0..3u8, 0..20)), 0..300),
            most in 500..100_000usize,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(directory.path(), most);
            let mut expected: Vec<Record> = Vec::new();
            for (number, (alike, rest)) in keys.into_iter().enumerate() {
                let key = [vec![0; alike], rest].concat();
                sorter.push(&key, number.to_be_bytes()).unwrap();
                expected.push((key, number.to_be_bytes().to_vec()));
            }
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
    fn groups_that_all_cores_sort_together_are_sorted_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(directory.path(), usize::MAX);
        let count = 3 * LARGE as u32;
        // Half of them are alike for long, and a hundred each for longer; many keys are there twice.
        let key = |n: u32| {
            let hundred = (n / 200).to_be_bytes();
            [&b"alike for long"[..n as usize % 2 * 14], &hundred, b"and longer", &n.to_be_bytes()].concat()
        };
        let mut expected: Vec<Record> = Vec::new();
        for number in 0..count {
            let n = number.wrapping_mul(0x9e37_79b1) % (count / 2);
            sorter.push(key(n), number.to_be_bytes()).unwrap();
            expected.push((key(n), number.to_be_bytes().to_vec()));
        }
        expected.sort();
        assert!(sorter.finish().unwrap().map(|r| r.unwrap()).eq(expected));
    }

    #[test]
    fn runs_that_were_merged_before_the_end_keep_the_order() {
        let directory = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(directory.path(), 1);
        let mut expected: Vec<Record> = Vec::new();
        for number in 0..2 * RUNS as u32 + 50 {
            let record = (vec![(number % 7) as u8], number.to_be_bytes().to_vec());
            sorter.push(&record.0, &record.1).unwrap();
            expected.push(record);
        }
        assert_eq!(sorter.merged, 2);
        expected.sort();
        assert!(sorter.finish().unwrap().map(|r| r.unwrap()).eq(expected));
    }

    #[test]
    fn a_run_that_cannot_be_written_is_never_left_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sorter = Sorter::new(&file.path().join("below a file"), 1);
        sorter.push(b"a", b"1").unwrap();
        assert!(sorter.push(b"b", b"2").is_err());
        assert!(sorter.push(b"c", b"3").is_err());
        assert!(sorter.finish().is_err());
    }

    #[test]
    fn the_last_of_each_key_stays() {
        let directory = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(directory.path(), 1);
        for (key, value) in [(b"b", 1), (b"a", 9), (b"b", 3), (b"b", 2)] {
            sorter.push(key, vec![value]).unwrap();
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
