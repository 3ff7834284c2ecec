//! Every object that live segments and indexes refer to, against the objects that are there.

use std::collections::BTreeMap;
use std::io;

use super::catalog::{Catalog, Listing, Segment};
use super::manifest::{self, Manifest};
use super::objects::{Objects, below};
use super::reference::{Part, Reference};
use super::survey::Instance;
use super::woodpecker::Lacking;
use crate::format::{Item, ItemState};
use crate::repository::{Error, Result, content_bytes};
use crate::sorter::{Sorted, Sorter, Spool};
use crate::tree::Nodes;

/// Missing objects that are named; more are counted.
const NAMED: usize = 1000;
/// References by which a root path in the bucket is chosen.
const SAMPLE: usize = 64;
/// A longer manifest is not read: they have some hundred bytes for each file.
const LONGEST_MANIFEST: u64 = 8 << 20;
/// From here on sizes that etcd has leave out what surrounds the columns.
const PACKED_STORAGE: i64 = 2;

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
    /// Live segments of which not all was looked for, and why.
    pub unchecked: BTreeMap<i64, String>,
    /// What the snapshot lacks of the write-ahead log, where it has the rest.
    pub lacks_of_log: Option<Lacking>,
}

impl Catalog {
    /// Whether what refers to the object is alive.
    fn is_needed(&self, reference: &Reference) -> bool {
        let Some(segment) = self.segments.get(&reference.segment).filter(|s| s.state.is_live()) else {
            return false;
        };
        let index = |collection: &super::Collection, id| collection.indexes.contains_key(&id);
        match reference.part {
            // Of a segment with a manifest they are what that lists.
            Part::Inserts | Part::Text => segment.listing == Listing::Keys,
            // Older formats are not loaded any more, and the garbage collector deletes them.
            Part::Json(format) => segment.listing == Listing::Keys && format == self.json_format,
            Part::Index(id) => {
                self.collections.get(&reference.collection).is_some_and(|collection| index(collection, id))
            }
            Part::Log | Part::Manifest | Part::Listed | Part::Named => true,
        }
    }

    /// The size that the object must have, where that can be told.
    fn size_of(&self, reference: &Reference) -> Option<u64> {
        let packed = self.segments.get(&reference.segment).is_some_and(|s| s.storage >= PACKED_STORAGE);
        let exact = reference.part == Part::Listed || !packed;
        (reference.size > 0 && exact).then_some(reference.size)
    }

    /// Whether it cannot be told if the log is a file: some versions keep it so beside a manifest, others keep
    /// its size only.
    fn is_doubtful(&self, reference: &Reference) -> bool {
        let segment = self.segments.get(&reference.segment);
        reference.part == Part::Log && segment.is_some_and(|segment| segment.listing != Listing::Keys)
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
        spool: &Spool,
    ) -> Result<Checked> {
        let failed = |e: io::Error| Error::File(spool.to_string(), e.to_string());
        let references = std::mem::replace(&mut self.references, spool.small_sorter());
        let catalog = &self.catalog;
        let mut recorded = Needed { catalog, sorted: references.finish().map_err(failed)? };
        let sample: Vec<_> = recorded.by_ref().take(SAMPLE).collect::<io::Result<_>>().map_err(failed)?;
        let root = match bucket_root.map(str::to_owned).or_else(|| self.bucket_root.clone()) {
            Some(root) => root,
            None => choose_root(nodes, objects, &sample)?,
        };
        let mut checked = Checked { bucket_root: root.clone(), ..Checked::default() };
        for (&id, key) in &self.unread {
            if catalog.segments.get(&id).is_none_or(|segment| segment.state.is_live()) {
                checked
                    .uncheck(id, format!("what etcd has under {}/meta/{key} is not understood", self.root));
            }
        }
        for (id, _) in live(catalog).filter(|(_, segment)| segment.elsewhere) {
            checked.uncheck(id, "an index of it lies in a place that is not known".into());
        }
        let listed = self.listed(nodes, objects, spool, &mut checked)?.finish().map_err(failed)?;
        let recorded = sample.into_iter().map(Ok).chain(recorded);
        let mut needed = merged(recorded, Needed { catalog, sorted: listed }).peekable();
        let mut there = objects.below(nodes, &below(&root, b""))?.peekable();
        while let Some(next) = needed.next() {
            let (key, reference) = next.map_err(failed)?;
            let mut references = vec![reference];
            while let Some(Ok((_, reference))) =
                needed.next_if(|next| next.as_ref().is_ok_and(|(other, _)| *other == key))
            {
                references.push(reference);
            }
            let key = below(&root, &key);
            while there.next_if(|entry| entry.as_ref().is_ok_and(|(there, _)| *there < key)).is_some() {}
            let found = match there.peek() {
                Some(Ok((there, value))) if *there == key => Some(Item::decode(value)?),
                Some(Err(error)) => return Err(error.clone()),
                _ => None,
            };
            checked.note(catalog, key, &references, found);
        }
        Ok(checked)
    }

    /// What the manifests of live segments list. Those that cannot be read are told.
    fn listed(
        &self,
        nodes: &dyn Nodes,
        objects: Objects,
        spool: &Spool,
        checked: &mut Checked,
    ) -> Result<Sorter> {
        let failed = |e: io::Error| Error::File(spool.to_string(), e.to_string());
        let mut listed = spool.sorter();
        for (id, segment) in live(&self.catalog) {
            let place = match &segment.listing {
                Listing::Keys => continue,
                Listing::Unknown => {
                    checked.uncheck(id, "where its manifest is cannot be told".into());
                    continue;
                }
                Listing::Manifest(place) => place,
            };
            let Some(key) = place.key() else { continue };
            match read(nodes, objects, &below(&checked.bucket_root, key.as_bytes()), &place.base)? {
                Err(why) => checked.uncheck(id, format!("its manifest {key} {why}")),
                Ok(manifest) => {
                    for (key, reference) in self.references_of(id, segment, manifest) {
                        listed.push(key.into_bytes(), reference.encode()).map_err(failed)?;
                    }
                }
            }
        }
        Ok(listed)
    }

    /// What a manifest refers to. Which indexes there are is said by etcd, and mostly their files, too.
    fn references_of(&self, id: i64, segment: &Segment, manifest: Manifest) -> Vec<(String, Reference)> {
        let Segment { collection, partition, .. } = *segment;
        let reference = |part, size| Reference { collection, segment: id, part, size };
        let mut all = Vec::new();
        for file in manifest.files {
            if let Some(log) = file.delta_log() {
                let key = format!("delta_log/{collection}/{partition}/{id}/{log}");
                all.push((key, reference(Part::Named, 0)));
            }
            all.push((file.key, reference(Part::Listed, file.size)));
        }
        for index in manifest.indexes.into_iter().filter(|index| self.without_files.contains(&(id, index.id)))
        {
            all.extend(index.files.into_iter().map(|key| (key, reference(Part::Index(index.id), 0))));
        }
        all
    }
}

fn live(catalog: &Catalog) -> impl Iterator<Item = (i64, &Segment)> {
    catalog.segments.iter().map(|(&id, segment)| (id, segment)).filter(|(_, segment)| segment.state.is_live())
}

/// The manifest under a key, or why there is none to read.
fn read(
    nodes: &dyn Nodes,
    objects: Objects,
    key: &[u8],
    base: &str,
) -> Result<std::result::Result<Manifest, String>> {
    let item = objects.get(nodes, key)?.map(|value| Item::decode(&value)).transpose()?;
    Ok(match item.filter(|item| item.state == ItemState::Present) {
        None => Err("is not there".into()),
        Some(item) if item.size > LONGEST_MANIFEST => {
            Err(format!("has {} bytes, more than one ever has", item.size))
        }
        Some(item) => {
            let bytes = content_bytes(nodes, &item.content)?;
            manifest::read(&bytes, base).map_err(|why| format!("is not understood: {why}"))
        }
    })
}

/// References whose owners live, sorted by key.
struct Needed<'a> {
    catalog: &'a Catalog,
    sorted: Sorted,
}

/// A key below the root path, and who needs it.
type Entry = (Vec<u8>, Reference);

impl Iterator for Needed<'_> {
    type Item = io::Result<Entry>;

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

/// Two sorted runs as one.
fn merged(
    one: impl Iterator<Item = io::Result<Entry>>,
    other: impl Iterator<Item = io::Result<Entry>>,
) -> impl Iterator<Item = io::Result<Entry>> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(Ok(first)), Some(Ok(second))) if second.0 < first.0 => other.next(),
        (None, _) => other.next(),
        _ => one.next(),
    })
}

/// The root path under which most of the sample is found.
fn choose_root(nodes: &dyn Nodes, objects: Objects, sample: &[Entry]) -> Result<String> {
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
        self.missing_count == 0 && self.unchecked.is_empty() && self.lacks_of_log.is_none()
    }

    fn uncheck(&mut self, segment: i64, why: String) {
        self.unchecked.entry(segment).or_insert(why);
    }

    /// An object, and all that refer to it.
    fn note(&mut self, catalog: &Catalog, key: Vec<u8>, references: &[Reference], found: Option<Item>) {
        let files = || references.iter().filter(|reference| reference.part != Part::Named);
        let certain = files().find(|reference| !catalog.is_doubtful(reference));
        let Some(reference) = certain.or(files().next()) else { return };
        if certain.is_none() && found.is_none() {
            if files().count() == references.len() {
                let key = String::from_utf8_lossy(&key);
                self.uncheck(reference.segment, format!("etcd has a log of it that is not there: {key}"));
            }
            return;
        }
        let held = self.held.entry(reference.collection).or_default();
        let lack = match found {
            None => Some(Lack::Missing),
            Some(item) if item.state != ItemState::Present => Some(Lack::Unread),
            Some(item) => {
                held.objects += 1;
                held.bytes += item.size;
                held.index_bytes += if matches!(reference.part, Part::Index(_)) { item.size } else { 0 };
                let mut sizes = files().filter_map(|reference| catalog.size_of(reference));
                let recorded = sizes.find(|&size| size != item.size);
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
