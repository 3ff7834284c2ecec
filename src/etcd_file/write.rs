//! Writes a bbolt file from sorted entries, page after page, as a member's snapshot is: the database and
//! its SHA-256.
//!
//! ```text
//! page 0, 1    meta, written last
//! page 2       freelist, empty
//! page 3 …     leaves and branches of each bucket, children before their parents
//! last page    the root bucket
//! 32 bytes     SHA-256 of all that
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use aws_lc_rs::digest;
use crc_fast::{CrcAlgorithm, Digest};

use super::bbolt::{BRANCH, BUCKET, ELEMENT, LEAF, MAGIC, META, PAGE_HEADER, VERSION, fnv1a};
use super::record::revision_name;

/// etcd's own on most machines; the file says it, and any etcd reads it.
const PAGE: usize = 4096;
const FREELIST: u16 = 0x10;
/// Meta pages and the freelist.
const FIXED_PAGES: u64 = 3;
const BUFFER: usize = 1 << 20;

/// What an element refers to.
#[derive(Clone, Copy)]
enum Refers {
    /// To its value, with flags.
    Value(u32),
    /// To the page below.
    Child(u64),
}

/// An element of a page: the lengths of its key and value, and what it refers to.
#[derive(Clone, Copy)]
struct Element {
    key: usize,
    value: usize,
    refers: Refers,
}

fn page_header(id: u64, flags: u16, count: usize, overflow: u32) -> [u8; PAGE_HEADER] {
    let mut header = [0; PAGE_HEADER];
    header[..8].copy_from_slice(&id.to_le_bytes());
    header[8..10].copy_from_slice(&flags.to_le_bytes());
    header[10..12].copy_from_slice(&(count as u16).to_le_bytes());
    header[12..].copy_from_slice(&overflow.to_le_bytes());
    header
}

/// Pages on their way into the file.
struct Pages {
    file: BufWriter<File>,
    next: u64,
    /// Over all bytes from the first page that is not fixed on.
    sum: Digest,
    /// The page being made.
    page: Vec<u8>,
}

impl Pages {
    /// Writes elements, whose keys and values are `data`, as one page, which reaches over several where they
    /// are large. Gives its id.
    fn write(&mut self, elements: &[Element], data: &[u8]) -> io::Result<u64> {
        let id = self.next;
        let size = PAGE_HEADER + elements.len() * ELEMENT + data.len();
        let pages = size.div_ceil(PAGE);
        let is_branch = matches!(elements.first(), Some(Element { refers: Refers::Child(_), .. }));
        let flags = if is_branch { BRANCH } else { LEAF };
        self.page.clear();
        self.page.extend_from_slice(&page_header(id, flags, elements.len(), pages as u32 - 1));
        // Where the data stands, from the element on.
        let mut position = elements.len() * ELEMENT;
        for &Element { key, value, refers } in elements {
            let words = match refers {
                Refers::Value(flags) => [flags, position as u32, key as u32, value as u32],
                Refers::Child(page) => [position as u32, key as u32, page as u32, (page >> 32) as u32],
            };
            self.page.extend_from_slice(words.map(u32::to_le_bytes).as_flattened());
            position = position + key + value - ELEMENT;
        }
        self.page.extend_from_slice(data);
        self.page.resize(pages * PAGE, 0);
        self.sum.update(&self.page);
        self.file.write_all(&self.page)?;
        self.next += pages as u64;
        Ok(id)
    }
}

/// The elements of one level of a bucket that are in no page yet.
#[derive(Default)]
struct Level {
    elements: Vec<Element>,
    /// Their keys and values.
    data: Vec<u8>,
}

impl Level {
    /// Bytes in a page.
    fn size(&self) -> usize {
        PAGE_HEADER + self.elements.len() * ELEMENT + self.data.len()
    }

    /// Forgets the first elements, whose data are so many bytes. Gives the first key.
    fn remove(&mut self, count: usize, bytes: usize) -> Vec<u8> {
        let first = self.elements.drain(..count).next().map_or(0, |first| first.key);
        let key = self.data.get(..first).unwrap_or_default().to_vec();
        self.data.drain(..bytes);
        key
    }
}

/// A bucket's pages, filled from its first key on.
#[derive(Default)]
struct Tree {
    levels: Vec<Level>,
}

impl Tree {
    fn add(
        &mut self,
        pages: &mut Pages,
        level: usize,
        (key, value): (&[u8], &[u8]),
        refers: Refers,
    ) -> io::Result<()> {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        // A branch has at least two children: those that stay are the first of the next page.
        let (least, kept) = if level == 0 { (1, 0) } else { (4, 2) };
        let open = &self.levels[level];
        let count = open.elements.len();
        if open.size() + ELEMENT + key.len() + value.len() > PAGE && count >= least {
            self.close_page(pages, level, count - kept)?;
        }
        let Level { elements, data } = &mut self.levels[level];
        elements.push(Element { key: key.len(), value: value.len(), refers });
        data.extend_from_slice(key);
        data.extend_from_slice(value);
        Ok(())
    }

    /// Writes the first `count` elements of a level as a page, and enters it on the level above.
    fn close_page(&mut self, pages: &mut Pages, level: usize, count: usize) -> io::Result<u64> {
        let open = &mut self.levels[level];
        let bytes: usize = open.elements[..count].iter().map(|element| element.key + element.value).sum();
        let page = pages.write(&open.elements[..count], &open.data[..bytes])?;
        let key = open.remove(count, bytes);
        self.add(pages, level + 1, (&key, &[]), Refers::Child(page))?;
        Ok(page)
    }

    /// Writes what is left. The page at the top.
    fn close(mut self, pages: &mut Pages) -> io::Result<u64> {
        let mut level = 0;
        loop {
            let rest = self.levels.get(level).map_or(0, |level| level.elements.len());
            if rest == 0 {
                return pages.write(&[], &[]);
            }
            let page = self.close_page(pages, level, rest)?;
            level += 1;
            // Of a level that has pages at least two elements are left.
            if self.levels[level].elements.len() == 1 {
                return Ok(page);
            }
        }
    }
}

/// A bucket being written.
pub struct BucketWriter<'a> {
    file: &'a mut FileWriter,
    name: String,
    tree: Tree,
}

impl BucketWriter<'_> {
    /// One more entry; entries come sorted by key.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.tree.add(&mut self.file.pages, 0, (key, value), Refers::Value(0))
    }

    /// Puts the bucket into the file.
    pub fn close(self) -> io::Result<()> {
        let root = self.tree.close(&mut self.file.pages)?;
        self.file.buckets.push((self.name, root));
        Ok(())
    }
}

/// A database being written.
pub struct FileWriter {
    pages: Pages,
    /// Names and top pages.
    buckets: Vec<(String, u64)>,
}

impl FileWriter {
    /// Writes to `file`, which is empty and can be read.
    pub fn new(mut file: File) -> io::Result<FileWriter> {
        file.write_all(&[0; FIXED_PAGES as usize * PAGE])?;
        let pages = Pages {
            file: BufWriter::with_capacity(BUFFER, file),
            next: FIXED_PAGES,
            sum: Digest::new(CrcAlgorithm::Crc32Iscsi),
            page: Vec::new(),
        };
        Ok(FileWriter { pages, buckets: Vec::new() })
    }

    /// Begins the bucket `name`. It is in the file once it is closed.
    pub fn bucket(&mut self, name: &str) -> BucketWriter<'_> {
        BucketWriter { file: self, name: name.to_owned(), tree: Tree::default() }
    }

    /// Writes the bucket that says up to where etcd was compacted; 0 for nowhere.
    pub fn compacted(&mut self, revision: i64) -> io::Result<()> {
        let mut meta = self.bucket("meta");
        for name in ["finishedCompactRev", "scheduledCompactRev"].iter().filter(|_| revision > 0) {
            meta.push(name.as_bytes(), &revision_name(revision, 0))?;
        }
        meta.close()
    }

    /// Ends the database and signs it. Gives its size, once it is durable.
    pub fn finish(mut self) -> io::Result<u64> {
        self.buckets.sort();
        let mut top = Tree::default();
        for (name, root) in self.buckets {
            let value = [root.to_le_bytes(), 0u64.to_le_bytes()].concat();
            top.add(&mut self.pages, 0, (name.as_bytes(), &value), Refers::Value(BUCKET))?;
        }
        let root = top.close(&mut self.pages)?;
        let Pages { file, next, sum, .. } = self.pages;
        let mut file = file.into_inner().map_err(|e| e.into_error())?;
        file.write_all_at(&page_header(2, FREELIST, 0, 0), 2 * PAGE as u64)?;
        for id in 0..2 {
            file.write_all_at(&meta_page(id, root, next), id * PAGE as u64)?;
        }
        file.sync_all()?;
        let signature = sign(&mut file, sum)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(signature.as_ref())?;
        file.sync_all()?;
        Ok(next * PAGE as u64 + signature.as_ref().len() as u64)
    }
}

/// Both metas say the same; the one with the greater transaction is the newer.
fn meta_page(id: u64, root: u64, high_water: u64) -> Vec<u8> {
    let words = [MAGIC, VERSION, PAGE as u32, 0].map(u32::to_le_bytes).concat();
    let longs = [root, 0, 2, high_water, id].map(u64::to_le_bytes).concat();
    let meta = [words, longs].concat();
    let checksum = fnv1a(&meta).to_le_bytes();
    [&page_header(id, META, 0, 0)[..], &meta, &checksum].concat()
}

/// The SHA-256 of the whole file, whose pages must read as `sum` was made from them.
fn sign(file: &mut File, sum: Digest) -> io::Result<digest::Digest> {
    let (mut sha, mut again) = (digest::Context::new(&digest::SHA256), Digest::new(CrcAlgorithm::Crc32Iscsi));
    let mut fixed = vec![0; FIXED_PAGES as usize * PAGE];
    file.rewind()?;
    file.read_exact(&mut fixed)?;
    sha.update(&fixed);
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        sha.update(&buffer[..length]);
        again.update(&buffer[..length]);
    }
    match again.finalize() == sum.finalize() {
        true => Ok(sha.finish()),
        false => Err(io::Error::other("what was written does not read back the same")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{Database, EtcdFile, Fault, KeyRecord, KeyValue};
    use super::*;

    type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

    fn written(buckets: &[(&str, &Entries)]) -> (File, u64) {
        let file = tempfile::tempfile().unwrap();
        let mut writer = FileWriter::new(file.try_clone().unwrap()).unwrap();
        for (name, entries) in buckets {
            let mut bucket = writer.bucket(name);
            for (key, value) in *entries {
                bucket.push(key, value).unwrap();
            }
            bucket.close().unwrap();
        }
        (file, writer.finish().unwrap())
    }

    fn read(database: &Database, name: &str) -> Entries {
        let bucket = database.bucket(name.as_bytes()).unwrap().unwrap();
        let mut entries = Entries::new();
        database
            .scan::<Fault>(&bucket, &[], |key, value| {
                entries.insert(key.to_vec(), value.to_vec());
                Ok(true)
            })
            .unwrap();
        entries
    }

    /// Every page below the high-water mark is used exactly once, and branches have two children.
    fn check_pages(file: &File, size: u64) {
        let mut bytes = vec![0; size as usize - 32];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes.len() % PAGE, 0);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let mut used = vec![0; bytes.len() / PAGE];
        let mut todo = vec![word(PAGE_HEADER + 16)];
        used[..3].fill(1);
        while let Some(page) = todo.pop() {
            let at = page * PAGE;
            assert_eq!(word(at), page);
            (page..=page + word(at + 12)).for_each(|page| used[page] += 1);
            let (flags, count) = (word(at + 8) & 0xffff, word(at + 8) >> 16);
            for element in (0..count).map(|n| at + PAGE_HEADER + n * ELEMENT) {
                if flags == usize::from(BRANCH) {
                    assert!(count >= 2);
                    todo.push(word(element + 8));
                } else if word(element) == BUCKET as usize {
                    todo.push(word(element + word(element + 4) + word(element + 8)));
                }
            }
        }
        assert!(used.iter().all(|&times| times == 1), "{used:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn what_is_written_reads_back_from_a_sound_file(
            sizes in proptest::collection::vec((1..40usize, 0..300usize), 0..600),
            large in proptest::collection::vec((1..6000usize, 0..20_000usize), 0..12),
        ) {
            let entries = |sizes: &[(usize, usize)]| -> Entries {
                let key = |n: usize, length: usize| {
                    [&(n as u32).to_be_bytes()[..], &vec![7; length - 1]].concat()
                };
                sizes.iter().enumerate().map(|(n, &(k, v))| (key(n, k), vec![n as u8; v])).collect()
            };
            let (many, few, none) = (entries(&sizes), entries(&large), Entries::new());
            let (file, size) = written(&[("key", &many), ("lease", &few), ("auth", &none)]);
            prop_assert_eq!(size % 512, 32);
            check_pages(&file, size);
            let database = Database::open(file, size - 32).unwrap();
            prop_assert_eq!(read(&database, "key"), many);
            prop_assert_eq!(read(&database, "lease"), few);
            prop_assert_eq!(read(&database, "auth"), none);
        }
    }

    #[test]
    fn a_tree_of_many_levels_reads_back() {
        // Long keys make branches of few children.
        let entries: Entries =
            (0..2000u32).map(|n| ([&n.to_be_bytes()[..], &[1; 1500]].concat(), vec![2])).collect();
        let (file, size) = written(&[("key", &entries)]);
        check_pages(&file, size);
        assert_eq!(read(&Database::open(file, size - 32).unwrap(), "key"), entries);
    }

    #[test]
    fn records_and_the_compaction_point_are_read_as_etcds() {
        let kv = |key: &str, revision, version| KeyValue {
            key: key.into(),
            create_revision: 2,
            mod_revision: revision,
            version,
            value: vec![1; 30],
            lease: -5,
        };
        let gone = KeyValue { key: b"a".to_vec(), ..KeyValue::default() };
        let records = [
            KeyRecord { revision: 2, sub: 0, tombstone: false, kv: kv("a", 2, 1) },
            KeyRecord { revision: 3, sub: 0, tombstone: true, kv: gone },
            KeyRecord { revision: 3, sub: 1, tombstone: false, kv: kv("b", 3, 1) },
        ];
        let file = tempfile::tempfile().unwrap();
        let mut writer = FileWriter::new(file.try_clone().unwrap()).unwrap();
        let mut bucket = writer.bucket("key");
        for record in &records {
            let mut raw = Vec::new();
            let (name, value) = record.encode(&mut raw);
            bucket.push(name, value).unwrap();
        }
        bucket.close().unwrap();
        writer.compacted(2).unwrap();
        let size = writer.finish().unwrap();
        let file = EtcdFile::open(file, size - 32).unwrap();
        assert_eq!((file.revision(), file.compacted()), (3, 2));
        let mut found = Vec::new();
        file.records::<Fault>(0, |record| {
            found.push(record);
            Ok(true)
        })
        .unwrap();
        assert_eq!(found, records);
    }
}
