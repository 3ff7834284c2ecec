//! Every object that live segments and indexes refer to, against the objects that are there.

use std::collections::BTreeMap;
use std::path::Path;

use super::catalog::Catalog;
use super::proto::{Binlog, SegmentIndex, SegmentInfo};
use super::survey::Instance;
use crate::format::{Item, ItemState, Root};
use crate::repository::{self, Error, Moment, Result};
use crate::sorter::{Sorted, Sorter};
use crate::tree::{self, Nodes};

/// Missing objects that are named; more are counted.
const NAMED: usize = 1000;
/// References by which a root path in the bucket is chosen.
const SAMPLE: usize = 64;

/// The folders below the root path in a bucket.
const FOLDERS: [&str; 5] = ["insert_log", "delta_log", "stats_log", "bm25_stats", "index_files"];
/// From here on sizes that are recorded leave out what surrounds the columns.
const PACKED_STORAGE: i64 = 2;

/// In the place of an index.
pub(super) const MANIFEST: i64 = -1;

/// Who needs an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference {
    pub collection: i64,
    pub segment: i64,
    /// The index it is a part of; 0 for logs, [`MANIFEST`] for the list of a segment's files.
    pub index: i64,
    /// Its size, where it is recorded.
    pub size: u64,
}

impl Reference {
    pub fn encode(self) -> Vec<u8> {
        let Reference { collection, segment, index, size } = self;
        [collection.to_le_bytes(), segment.to_le_bytes(), index.to_le_bytes(), size.to_le_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Reference {
        let word =
            |at: usize| bytes.get(8 * at..8 * at + 8).and_then(|b| b.try_into().ok()).unwrap_or_default();
        let number = |at| i64::from_le_bytes(word(at));
        Reference {
            collection: number(0),
            segment: number(1),
            index: number(2),
            size: u64::from_le_bytes(word(3)),
        }
    }
}

/// An object that is referred to.
pub(super) struct Object {
    /// Its key below the root path.
    pub key: String,
    /// The root path, where it is recorded.
    pub root: Option<String>,
    /// Its size, where it is recorded; else 0.
    pub size: u64,
}

impl Object {
    /// The object of a log: by its path where that is recorded, else built from ids.
    pub fn of_log(
        kind: &str,
        [collection, partition, segment]: [i64; 3],
        field: i64,
        log: &Binlog,
    ) -> Object {
        let folder = match kind {
            "binlog" => "insert_log",
            "deltalog" => "delta_log",
            "statslog" => "stats_log",
            _ => "bm25_stats",
        };
        // Where the memory is not recorded, the size of an insert log is what it takes in memory.
        let size = if log.memory > 0 || kind != "binlog" { log.size.max(0) as u64 } else { 0 };
        let at = log.path.rfind(&format!("{folder}/"));
        if let Some(at) = at.filter(|&at| at == 0 || log.path.as_bytes()[at - 1] == b'/') {
            let root = log.path[..at].trim_end_matches('/').to_owned();
            return Object { key: log.path[at..].to_owned(), root: Some(root), size };
        }
        let key = match kind {
            "deltalog" => format!("{folder}/{collection}/{partition}/{segment}/{}", log.id),
            _ => format!("{folder}/{collection}/{partition}/{segment}/{field}/{}", log.id),
        };
        Object { key, root: None, size }
    }

    /// The manifest of a segment whose files are listed in one.
    pub fn of_manifest(info: &SegmentInfo) -> Option<(Object, Reference)> {
        let json: serde_json::Value = serde_json::from_str(&info.manifest).ok()?;
        let (base, version) = (json.get("base_path")?.as_str()?, json.get("ver")?.as_i64()?);
        let path = format!("{}/_metadata/manifest-{version}.avro", base.trim_end_matches('/'));
        let at = path.find("insert_log/").filter(|&at| at == 0 || path.as_bytes()[at - 1] == b'/')?;
        let root = path[..at].trim_end_matches('/').to_owned();
        let object = Object { key: path[at..].to_owned(), root: Some(root), size: 0 };
        let SegmentInfo { collection, id: segment, .. } = *info;
        Some((object, Reference { collection, segment, index: MANIFEST, size: 0 }))
    }

    /// The files of an index that is built.
    pub fn of_index(built: &SegmentIndex) -> Vec<(String, Reference)> {
        const FINISHED: i32 = 3;
        if built.state != FINISHED || built.deleted || built.path_version != 0 {
            return Vec::new();
        }
        let SegmentIndex { collection, partition, segment, index, build, version, .. } = *built;
        // The size of several files is recorded as one sum.
        let size = if built.files.len() == 1 { built.size } else { 0 };
        let name = |file: &String| {
            let file = file.rsplit('/').next().unwrap_or_default();
            format!("index_files/{build}/{version}/{partition}/{segment}/{file}")
        };
        let reference = Reference { collection, segment, index, size };
        built.files.iter().map(|file| (name(file), reference)).collect()
    }
}

/// What of a collection is in the snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Objects of live segments.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of these in indexes.
    pub index_bytes: u64,
    /// Objects that are not there, or of another size.
    pub missing: u64,
}

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// It is not there.
    Missing,
    /// It was listed and could not be read.
    Unread,
    /// It has other than the recorded size.
    Size {
        /// As Milvus recorded it.
        recorded: u64,
        /// As it is.
        found: u64,
    },
}

/// An object that Milvus needs and the snapshot has not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its key in the bucket.
    pub key: String,
    /// The collection.
    pub collection: i64,
    /// The segment.
    pub segment: i64,
    /// What is wrong.
    pub lack: Lack,
}

/// The outcome of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// The root path in the bucket.
    pub bucket_root: String,
    /// What is there, by collection.
    pub held: BTreeMap<i64, Held>,
    /// What is not, the first of them.
    pub missing: Vec<Missing>,
    /// How many there are.
    pub missing_count: u64,
    /// Live segments of which not all was looked for: their files are listed in manifests, which are not read,
    /// or an index lies in a place that is not known.
    pub unchecked_segments: u64,
}

impl Catalog {
    /// Whether what refers to the object is alive.
    fn is_needed(&self, reference: &Reference) -> bool {
        let Some(segment) = self.segments.get(&reference.segment).filter(|s| s.state.is_live()) else {
            return false;
        };
        let index = |collection: &super::Collection| collection.indexes.contains_key(&reference.index);
        match reference.index {
            // Logs of a segment with a manifest are what that lists.
            0 => !segment.manifest,
            MANIFEST => true,
            _ => self.collections.get(&reference.collection).is_some_and(index),
        }
    }

    /// The size that the object must have, where that can be told.
    fn size_of(&self, reference: &Reference) -> Option<u64> {
        let packed = self.segments.get(&reference.segment).is_some_and(|s| s.storage >= PACKED_STORAGE);
        (reference.size > 0 && !packed).then_some(reference.size)
    }
}

/// Objects to look among.
#[derive(Clone, Copy)]
pub enum Objects<'a> {
    /// Those of a moment.
    At(&'a Moment),
    /// Those of a tree.
    Tree(Option<&'a Root>),
}

/// Keys and encoded items, in order.
type Entries<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>)>> + 'a>;

impl<'a> Objects<'a> {
    fn trees(self) -> Vec<Option<&'a Root>> {
        let Objects::At(moment) = self else {
            let Objects::Tree(root) = self else { return Vec::new() };
            return vec![root];
        };
        let infos = [Some(&moment.info), moment.earlier.as_ref()];
        let captures = infos.into_iter().flatten().filter_map(|info| info.snapshot.objects.as_ref());
        captures.map(|objects| objects.root.as_ref()).collect()
    }

    fn get(self, nodes: &dyn Nodes, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(match self {
            Objects::At(moment) => repository::object(nodes, moment, key)?.map(|(value, _)| value),
            Objects::Tree(root) => tree::get(nodes, root, key)?,
        })
    }

    fn below<'n>(self, nodes: &'n dyn Nodes, prefix: &[u8]) -> Result<Entries<'n>> {
        Ok(match self {
            Objects::At(moment) => {
                let all = repository::objects(nodes, moment, prefix)?;
                Box::new(all.map(|entry| entry.map(|(key, value, _)| (key, value))))
            }
            Objects::Tree(root) => {
                let all = tree::scan(nodes, root, prefix)?;
                Box::new(all.map(|entry| entry.map(|e| (e.key, e.value)).map_err(Error::from)))
            }
        })
    }

    /// Root paths that hold folders of Milvus.
    fn bucket_roots(self, nodes: &dyn Nodes) -> Result<Vec<String>> {
        let mut roots = Vec::new();
        for tree in self.trees() {
            bucket_roots(nodes, tree, &mut roots)?;
        }
        Ok(roots)
    }
}

fn bucket_roots(nodes: &dyn Nodes, objects: Option<&Root>, roots: &mut Vec<String>) -> Result<()> {
    let mut from = Vec::new();
    'hop: loop {
        for entry in tree::scan(nodes, objects, &from)? {
            let key = entry?.key;
            if let Some((root, folder)) = folder_of(&key) {
                // Nothing more is to be learned from this folder.
                from = [key[..folder].to_vec(), vec![b'/' + 1]].concat();
                if !roots.contains(&root) {
                    roots.push(root);
                }
                continue 'hop;
            }
        }
        return Ok(());
    }
}

/// The root path of an object of Milvus, and where its folder ends: `<root>/<folder>/<number>/…`.
fn folder_of(key: &[u8]) -> Option<(String, usize)> {
    let text = std::str::from_utf8(key).ok()?;
    FOLDERS.iter().find_map(|folder| {
        let (at, _) = text.match_indices(folder).find(|&(at, _)| {
            let begins = at == 0 || key[at - 1] == b'/';
            let rest = text[at + folder.len()..].strip_prefix('/');
            begins && rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })?;
        Some((text[..at].trim_end_matches('/').to_owned(), at + folder.len()))
    })
}

/// The object's key below a root path.
fn below(root: &str, key: &[u8]) -> Vec<u8> {
    match root.trim_matches('/') {
        "" => key.to_vec(),
        root => [root.as_bytes(), b"/", key].concat(),
    }
}

impl Instance {
    /// Looks for every object that live segments and indexes refer to. `bucket_root` is the root path in the
    /// bucket where the user knows it.
    pub fn check(
        &mut self,
        nodes: &dyn Nodes,
        objects: Objects,
        bucket_root: Option<&str>,
        spool: &Path,
    ) -> Result<Checked> {
        let failed = |e: std::io::Error| Error::File(spool.display().to_string(), e.to_string());
        let references = std::mem::replace(&mut self.references, Sorter::new(spool, 0));
        let mut needed = Needed { catalog: &self.catalog, sorted: references.finish().map_err(failed)? };
        let sample: Vec<_> = needed.by_ref().take(SAMPLE).collect::<std::io::Result<_>>().map_err(failed)?;
        let root = match bucket_root.map(str::to_owned).or_else(|| self.bucket_root.clone()) {
            Some(root) => root,
            None => choose_root(nodes, objects, &sample)?,
        };
        let live = self.catalog.segments.values().filter(|segment| segment.state.is_live());
        let mut checked = Checked {
            unchecked_segments: live.filter(|s| s.manifest || s.elsewhere).count() as u64,
            bucket_root: root.clone(),
            ..Checked::default()
        };
        let mut there = objects.below(nodes, &below(&root, b""))?.peekable();
        for needed in sample.into_iter().map(Ok).chain(needed) {
            let (key, reference) = needed.map_err(failed)?;
            let key = below(&root, &key);
            while there.next_if(|entry| entry.as_ref().is_ok_and(|(there, _)| *there < key)).is_some() {}
            let found = match there.peek() {
                Some(Ok((there, value))) if *there == key => Some(Item::decode(value)?),
                Some(Err(error)) => return Err(error.clone()),
                _ => None,
            };
            checked.note(key, &reference, self.catalog.size_of(&reference), found);
        }
        Ok(checked)
    }
}

/// References whose owners live, sorted by key.
struct Needed<'a> {
    catalog: &'a Catalog,
    sorted: Sorted,
}

impl Iterator for Needed<'_> {
    type Item = std::io::Result<(Vec<u8>, Reference)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (key, record) = match self.sorted.next()? {
                Ok(record) => record,
                Err(error) => return Some(Err(error)),
            };
            let reference = Reference::decode(&record);
            if self.catalog.is_needed(&reference) {
                return Some(Ok((key, reference)));
            }
        }
    }
}

/// The root path under which most of the sample is found.
fn choose_root(nodes: &dyn Nodes, objects: Objects, sample: &[(Vec<u8>, Reference)]) -> Result<String> {
    let mut best = (0, String::new());
    for root in objects.bucket_roots(nodes)? {
        let mut found = 0;
        for (key, _) in sample {
            found += usize::from(objects.get(nodes, &below(&root, key))?.is_some());
        }
        if found > best.0 || best.1.is_empty() {
            best = (found, root);
        }
    }
    Ok(best.1)
}

impl Checked {
    /// Whether all is there: nothing is missing, and nothing was not looked for.
    pub fn is_complete(&self) -> bool {
        self.missing_count == 0 && self.unchecked_segments == 0
    }

    fn note(&mut self, key: Vec<u8>, reference: &Reference, size: Option<u64>, found: Option<Item>) {
        let held = self.held.entry(reference.collection).or_default();
        let lack = match found {
            None => Some(Lack::Missing),
            Some(item) if item.state != ItemState::Present => Some(Lack::Unread),
            Some(item) => {
                held.objects += 1;
                held.bytes += item.size;
                held.index_bytes += if reference.index > 0 { item.size } else { 0 };
                let recorded = size.filter(|&size| size != item.size);
                recorded.map(|recorded| Lack::Size { recorded, found: item.size })
            }
        };
        let Some(lack) = lack else { return };
        held.missing += 1;
        self.missing_count += 1;
        if self.missing.len() < NAMED {
            let key = String::from_utf8_lossy(&key).into_owned();
            let (collection, segment) = (reference.collection, reference.segment);
            self.missing.push(Missing { key, collection, segment, lack });
        }
    }
}
