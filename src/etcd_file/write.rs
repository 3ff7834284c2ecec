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
enum Content {
    Leaf { flags: u32, value: Vec<u8> },
    Child(u64),
}

/// An element of a page that is not full yet.
struct Element {
    key: Vec<u8>,
    content: Content,
}

impl Element {
    fn size(&self) -> usize {
        let value = match &self.content {
            Content::Leaf { value, .. } => value.len(),
            Content::Child(_) => 0,
        };
        ELEMENT + self.key.len() + value
    }
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
}

impl Pages {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.file.write_all(bytes)
    }

    /// Writes the elements as one page, which reaches over several where they are large. Gives its id.
    fn write(&mut self, elements: &[Element]) -> io::Result<u64> {
        let id = self.next;
        let size = PAGE_HEADER + elements.iter().map(Element::size).sum::<usize>();
        let pages = size.div_ceil(PAGE);
        let is_branch = matches!(elements.first(), Some(Element { content: Content::Child(_), .. }));
        let flags = if is_branch { BRANCH } else { LEAF };
        self.put(&page_header(id, flags, elements.len(), pages as u32 - 1))?;
        // Where the data stands, from the element on.
        let mut at = elements.len() * ELEMENT;
        for (number, Element { key, content }) in elements.iter().enumerate() {
            let position = (at - number * ELEMENT) as u32;
            let length = key.len() as u32;
            let (words, tail) = match content {
                Content::Leaf { flags, value } => {
                    ([*flags, position, length], (value.len() as u32).to_le_bytes().to_vec())
                }
                Content::Child(page) => {
                    ([position, length, *page as u32], ((*page >> 32) as u32).to_le_bytes().to_vec())
                }
            };
            self.put(&words.map(u32::to_le_bytes).concat())?;
            self.put(&tail)?;
            at += key.len() + if let Content::Leaf { value, .. } = content { value.len() } else { 0 };
        }
        for Element { key, content } in elements {
            self.put(key)?;
            if let Content::Leaf { value, .. } = content {
                self.put(value)?;
            }
        }
        self.put(&vec![0; pages * PAGE - size])?;
        self.next += pages as u64;
        Ok(id)
    }
}

/// The elements of one level of a bucket that are in no page yet.
#[derive(Default)]
struct Level {
    elements: Vec<Element>,
    size: usize,
}

impl Level {
    fn push(&mut self, element: Element) {
        self.size += element.size();
        self.elements.push(element);
    }

    fn take(&mut self, count: usize) -> Vec<Element> {
        let rest = self.elements.split_off(count);
        let taken = std::mem::replace(&mut self.elements, rest);
        self.size -= taken.iter().map(Element::size).sum::<usize>();
        taken
    }
}

/// A bucket's pages, filled from its first key on.
#[derive(Default)]
struct Tree {
    levels: Vec<Level>,
}

impl Tree {
    fn add(&mut self, pages: &mut Pages, level: usize, element: Element) -> io::Result<()> {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        // A branch has at least two children: those that stay are the first of the next page.
        let (least, kept) = if level == 0 { (1, 0) } else { (4, 2) };
        let Level { elements, size } = &self.levels[level];
        if PAGE_HEADER + size + element.size() > PAGE && elements.len() >= least {
            self.close_page(pages, level, elements.len() - kept)?;
        }
        self.levels[level].push(element);
        Ok(())
    }

    /// Writes the first `count` elements of a level as a page, and enters it on the level above.
    fn close_page(&mut self, pages: &mut Pages, level: usize, count: usize) -> io::Result<u64> {
        let elements = self.levels[level].take(count);
        let page = pages.write(&elements)?;
        let key = elements.into_iter().next().map(|first| first.key).unwrap_or_default();
        self.add(pages, level + 1, Element { key, content: Content::Child(page) })?;
        Ok(page)
    }

    /// Writes what is left. The page at the top.
    fn close(mut self, pages: &mut Pages) -> io::Result<u64> {
        let mut level = 0;
        loop {
            let rest = self.levels.get(level).map_or(0, |level| level.elements.len());
            if rest == 0 {
                return pages.write(&[]);
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
    pub fn push(&mut self, key: Vec<u8>, value: Vec<u8>) -> io::Result<()> {
        let content = Content::Leaf { flags: 0, value };
        self.tree.add(&mut self.file.pages, 0, Element { key, content })
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
            meta.push(name.as_bytes().to_vec(), revision_name(revision, 0).to_vec())?;
        }
        meta.close()
    }

    /// Ends the database and signs it. Gives its size, once it is durable.
    pub fn finish(mut self) -> io::Result<u64> {
        self.buckets.sort();
        let mut top = Tree::default();
        for (name, root) in self.buckets {
            let value = [root.to_le_bytes(), 0u64.to_le_bytes()].concat();
            let content = Content::Leaf { flags: BUCKET, value };
            top.add(&mut self.pages, 0, Element { key: name.into_bytes(), content })?;
        }
        let root = top.close(&mut self.pages)?;
        let Pages { file, next, sum } = self.pages;
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
                bucket.push(key.clone(), value.clone()).unwrap();
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
            bucket.push(record.name(), record.value()).unwrap();
        }
        bucket.close().unwrap();
        writer.compacted(2).unwrap();
        let size = writer.finish().unwrap();
        let file = EtcdFile::open(file, size - 32).unwrap();
        assert_eq!((file.revision(), file.compacted()), (3, 2));
        let mut found = Vec::new();
        file.records::<Fault>(0, |record| {
            found.push(record);
            Ok(())
        })
        .unwrap();
        assert_eq!(found, records);
    }
}
