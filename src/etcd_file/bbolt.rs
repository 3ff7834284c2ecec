//! Reads a bbolt file by `pread`, from the newest valid meta page down.

use std::fs::File;
use std::os::unix::fs::FileExt;

pub(super) const MAGIC: u32 = 0xED0C_DAED;
pub(super) const VERSION: u32 = 2;
pub(super) const PAGE_HEADER: usize = 16;
pub(super) const ELEMENT: usize = 16;
pub(super) const BRANCH: u16 = 1;
pub(super) const LEAF: u16 = 2;
pub(super) const META: u16 = 4;
pub(super) const BUCKET: u32 = 1;
/// Deeper than any tree of 2^64 pages with two children each; a cycle ends here.
const MAX_DEPTH: usize = 64;
/// bbolt's pages are at most this large; etcd's files have 4 KiB pages.
const MAX_PAGE: u64 = 64 << 10;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The operating system said so.
    #[error("cannot read the database file: {0}")]
    Io(#[from] std::io::Error),
    /// Not a bbolt file, or a damaged one.
    #[error("the database file is damaged: {0}")]
    Malformed(String),
}

fn malformed<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Malformed(what.into()))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// A meta page's fields that reading needs.
#[derive(Clone, Copy)]
struct Meta {
    page_size: u64,
    root: u64,
    high_water: u64,
    txid: u64,
}

pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The meta in a page's bytes, if it is one and its checksum holds.
fn parse_meta(page: &[u8]) -> Option<Meta> {
    let meta = page.get(PAGE_HEADER..PAGE_HEADER + 64)?;
    let sound = u16_at(page, 8) & META != 0
        && u32_at(meta, 0) == MAGIC
        && u32_at(meta, 4) == VERSION
        && u64_at(meta, 56) == fnv1a(&meta[..56]);
    let page_size = u64::from(u32_at(meta, 8));
    let usable = sound && page_size.is_power_of_two() && (1024..=MAX_PAGE).contains(&page_size);
    usable.then(|| Meta {
        page_size,
        root: u64_at(meta, 16),
        high_water: u64_at(meta, 40),
        txid: u64_at(meta, 48),
    })
}

/// An open file.
pub struct Database {
    file: File,
    meta: Meta,
}

/// A bucket's tree: a page, or the page itself where it is small.
enum Tree {
    Page(u64),
    Inline(Vec<u8>),
}

/// A bucket.
pub struct Bucket(Tree);

/// Is shown (flags, key, value) of each element; false ends the visit.
type Visitor<'a, E> = dyn FnMut(u32, &[u8], &[u8]) -> Result<bool, E> + 'a;

/// A page's elements, bounds checked.
struct Page {
    bytes: Vec<u8>,
    is_leaf: bool,
    count: usize,
}

impl Page {
    fn parse(bytes: Vec<u8>) -> Result<Page, Fault> {
        let (flags, count) = (u16_at(&bytes, 8), usize::from(u16_at(&bytes, 10)));
        let is_leaf = match flags & (BRANCH | LEAF) {
            LEAF => true,
            BRANCH => false,
            _ => return malformed(format!("a page has flags {flags:#x}")),
        };
        if PAGE_HEADER + count * ELEMENT > bytes.len() {
            return malformed(format!("a page of {} bytes claims {count} elements", bytes.len()));
        }
        Ok(Page { bytes, is_leaf, count })
    }

    fn slice(&self, from: usize, length: usize) -> Result<&[u8], Fault> {
        let end = from.checked_add(length);
        let slice = end.and_then(|end| self.bytes.get(from..end));
        slice.ok_or_else(|| Fault::Malformed("an element reaches over its page".into()))
    }

    fn key(&self, at: usize) -> Result<&[u8], Fault> {
        let element = PAGE_HEADER + at * ELEMENT;
        // A leaf element has its flags first, a branch element its position.
        let fields = element + if self.is_leaf { 4 } else { 0 };
        let (position, length) = (u32_at(&self.bytes, fields), u32_at(&self.bytes, fields + 4));
        self.slice(element + position as usize, length as usize)
    }

    /// (flags, value) of a leaf element.
    fn value(&self, at: usize) -> Result<(u32, &[u8]), Fault> {
        let element = PAGE_HEADER + at * ELEMENT;
        let word = |n: usize| u32_at(&self.bytes, element + 4 * n) as usize;
        Ok((u32_at(&self.bytes, element), self.slice(element + word(1) + word(2), word(3))?))
    }

    fn child(&self, at: usize) -> u64 {
        u64_at(&self.bytes, PAGE_HEADER + at * ELEMENT + 8)
    }

    /// The first element whose key is not below `from`.
    fn lower_bound(&self, from: &[u8]) -> Result<usize, Fault> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = (low + high) / 2;
            if self.key(middle)? < from { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }
}

impl Database {
    /// Opens the newest state in `file`, which is `size` bytes of bbolt.
    pub fn open(file: File, size: u64) -> Result<Database, Fault> {
        let mut first = vec![0; MAX_PAGE.min(size) as usize];
        file.read_exact_at(&mut first, 0)?;
        let one = parse_meta(&first);
        // The second meta page begins one page in; where the first is damaged its size is unknown.
        let sizes = one.map_or(vec![4096, 8192, 16384, 32768], |meta| vec![meta.page_size as usize]);
        let two = sizes.into_iter().find_map(|size| parse_meta(first.get(size..)?));
        let newest = one.into_iter().chain(two).max_by_key(|meta| meta.txid);
        let Some(meta) = newest else { return malformed("no valid meta page") };
        match meta.high_water.checked_mul(meta.page_size) {
            Some(end) if end <= size => Ok(Database { file, meta }),
            _ => malformed(format!("it is {size} bytes long and should have {} pages", meta.high_water)),
        }
    }

    fn page(&self, id: u64) -> Result<Page, Fault> {
        if id < 2 || id >= self.meta.high_water {
            return malformed(format!("page {id} is out of bounds"));
        }
        let at = id * self.meta.page_size;
        let mut bytes = vec![0; self.meta.page_size as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        if u64_at(&bytes, 0) != id {
            return malformed(format!("page {id} says that it is page {}", u64_at(&bytes, 0)));
        }
        let overflow = u64::from(u32_at(&bytes, 12));
        if overflow > self.meta.high_water - id - 1 {
            return malformed(format!("page {id} reaches over the end"));
        }
        if overflow > 0 {
            bytes.resize(((overflow + 1) * self.meta.page_size) as usize, 0);
            self.file.read_exact_at(&mut bytes, at)?;
        }
        Page::parse(bytes)
    }

    fn root_of(&self, tree: &Tree) -> Result<Page, Fault> {
        match tree {
            Tree::Page(id) => self.page(*id),
            Tree::Inline(bytes) => Page::parse(bytes.clone()),
        }
    }

    /// The top-level bucket `name`.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, Fault> {
        let mut found = None;
        let root = self.page(self.meta.root)?;
        self.visit::<Fault>(&root, name, 0, &mut |flags, key, value| {
            if key == name && flags & BUCKET != 0 {
                found = Some(value.to_vec());
            }
            Ok(false)
        })?;
        let Some(value) = found else { return Ok(None) };
        if value.len() < 16 {
            return malformed("a bucket's header is cut");
        }
        let tree = match u64_at(&value, 0) {
            0 => Tree::Inline(value[16..].to_vec()),
            page => Tree::Page(page),
        };
        Ok(Some(Bucket(tree)))
    }

    /// Shows the bucket's entries from key `from` on, in order, while `show` says true.
    pub fn scan<E: From<Fault>>(
        &self,
        bucket: &Bucket,
        from: &[u8],
        mut show: impl FnMut(&[u8], &[u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let root = self.root_of(&bucket.0)?;
        self.visit(&root, from, 0, &mut |_, key, value| show(key, value)).map(|_| ())
    }

    /// False once `show` said false.
    fn visit<E: From<Fault>>(
        &self,
        page: &Page,
        from: &[u8],
        depth: usize,
        show: &mut Visitor<'_, E>,
    ) -> Result<bool, E> {
        if depth > MAX_DEPTH {
            return Err(Fault::Malformed("its pages go in a circle".into()).into());
        }
        let begin = page.lower_bound(from)?;
        if page.is_leaf {
            for at in begin..page.count {
                let (flags, value) = page.value(at)?;
                if !show(flags, page.key(at)?, value)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        // The child before the first greater key may hold `from` too.
        for at in begin.saturating_sub(1)..page.count {
            let below = self.page(page.child(at))?;
            if !self.visit(&below, from, depth + 1, show)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The last key of a bucket.
    pub fn last_key(&self, bucket: &Bucket) -> Result<Option<Vec<u8>>, Fault> {
        let mut page = self.root_of(&bucket.0)?;
        for _ in 0..MAX_DEPTH {
            let Some(last) = page.count.checked_sub(1) else { return Ok(None) };
            if page.is_leaf {
                return page.key(last).map(|key| Some(key.to_vec()));
            }
            page = self.page(page.child(last))?;
        }
        malformed("its pages go in a circle")
    }
}
