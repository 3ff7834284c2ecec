//! What a repository costs and what it holds, and what each snapshot does.

use std::collections::HashMap;

use super::{Browser, Prefix, Prefixes, Result};
use crate::format::{ItemState, Snapshot};
use crate::id::{ChunkId, ChunkKind};
use crate::progress::{Amount, Phase};
use crate::repository::{self, Moment, Repository, SnapshotInfo, for_each_chunk};
use crate::sorter::Sorter;
use crate::store::{self, Place, Reader};
use crate::tree::ReadWrite;

/// Numbers about a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Valid snapshots.
    pub snapshots: u64,
    /// Files and bytes by the first part of their names.
    pub files: Vec<(String, u64, u64)>,
    /// All bytes.
    pub bytes: u64,
    /// Plain bytes of the objects of all snapshots together, as if each were a full copy.
    pub full_copies: u64,
    /// Plain bytes of content that is stored.
    pub content: u64,
}

/// Counts.
pub fn stats(repository: &Repository) -> Result<Stats> {
    let view = repository.view()?;
    let mut stats = Stats { snapshots: view.snapshots.len() as u64, ..Stats::default() };
    let mut files: std::collections::BTreeMap<String, (u64, u64)> = Default::default();
    let listed = repository.storage().list("", &mut |listed| {
        let folder = match listed.name.split('/').collect::<Vec<_>>()[..] {
            ["packs", kind, ..] => format!("packs/{kind}"),
            [first, ..] => first.to_owned(),
            [] => String::new(),
        };
        let entry = files.entry(folder).or_default();
        *entry = (entry.0 + 1, entry.1 + listed.size);
        Ok(())
    });
    listed.map_err(crate::repository::Error::from)?;
    stats.bytes = files.values().map(|(_, bytes)| bytes).sum();
    stats.files = files.into_iter().map(|(name, (count, bytes))| (name, count, bytes)).collect();
    for info in &view.snapshots {
        let objects = info.snapshot.objects.as_ref().and_then(|objects| objects.root);
        stats.full_copies += crate::tree::weight(objects.as_ref());
        stats.content += info.snapshot.stored.new_bytes;
    }
    Ok(stats)
}

/// Chunks and nodes, each counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// How many.
    pub chunks: u64,
    /// Their plain bytes.
    pub plain: u64,
    /// Their bytes as they are stored, compressed and sealed.
    pub stored: u64,
}

impl Volume {
    fn add(&mut self, place: &Place) {
        self.chunks += 1;
        self.plain += u64::from(place.plain);
        self.stored += u64::from(place.stored);
    }
}

/// What a snapshot holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Objects and their bytes.
    pub objects: (u64, u64),
    /// Keys of etcd, and the bytes of keys and values.
    pub keys: (u64, u64),
    /// Everything that it refers to.
    pub all: Volume,
    /// Where most bytes of objects are.
    pub object_prefixes: Vec<Prefix>,
    /// Where most bytes of keys and values are.
    pub key_prefixes: Vec<Prefix>,
}

/// For each of the snapshots, what no other one refers to: this would be freed without it.
pub fn alone(repository: &Repository, snapshots: &[SnapshotInfo]) -> Result<Vec<Volume>> {
    let reader = repository.reader(&repository.view()?)?;
    let mut marks = Marks::new(repository, &reader);
    for (info, number) in snapshots.iter().zip(0..) {
        marks.mark(&info.snapshot, number)?;
    }
    let mut alone = vec![Volume::default(); snapshots.len()];
    marks.finish(|number, place| {
        if let Some(volume) = alone.get_mut(number as usize) {
            volume.add(place);
        }
    })?;
    Ok(alone)
}

/// What one snapshot holds.
pub fn held(browser: &Browser, info: &SnapshotInfo) -> Result<Held> {
    let (mut held, moment) = (Held::default(), Moment::from(info.clone()));
    let (mut objects, mut keys) = (Prefixes::new(|p| p.bytes), Prefixes::new(|p| p.bytes));
    if info.snapshot.objects.is_some() {
        browser.objects(&moment, &[], |key, item, _| {
            if item.state == ItemState::Present {
                held.objects = (held.objects.0 + 1, held.objects.1 + item.size);
                objects.add(key, item.size);
            }
            Ok(())
        })?;
    }
    if info.snapshot.etcd.is_some() {
        browser.keys(&moment, &[], |key, state| {
            let bytes = key.len() as u64 + state.value.len();
            held.keys = (held.keys.0 + 1, held.keys.1 + bytes);
            keys.add(key, bytes);
            Ok(())
        })?;
    }
    (held.object_prefixes, held.key_prefixes) = (objects.finish(), keys.finish());
    let mut marks = Marks::new(browser.repository, &browser.reader);
    marks.mark(&info.snapshot, 0)?;
    marks.finish(|_, place| held.all.add(place))?;
    Ok(held)
}

/// More than one snapshot refers to it.
const SEVERAL: u32 = u32::MAX;

/// Who refers to what. In memory are tree nodes only, some 50 bytes each; a node that a second snapshot
/// shares is entered once more, so that all below it is known to be shared, and never again.
struct Marks<'a> {
    repository: &'a Repository,
    reader: &'a Reader,
    nodes: HashMap<ChunkId, u32>,
    /// Chunk → kind and snapshot.
    chunks: Sorter,
}

impl<'a> Marks<'a> {
    fn new(repository: &'a Repository, reader: &'a Reader) -> Marks<'a> {
        repository.context().progress.begin(Phase { name: "walking snapshots", unit: "nodes" });
        let chunks = repository.spool().large_sorter();
        Marks { repository, reader, nodes: HashMap::new(), chunks }
    }

    /// Marks everything that the snapshot of this number refers to.
    fn mark(&mut self, snapshot: &Snapshot, number: u32) -> Result<()> {
        let Marks { repository, reader, nodes: owners, chunks } = self;
        let context = repository.context();
        let nodes = ReadWrite::new(reader, None);
        let mut enter = |reached: repository::Reached| {
            context.cancel.check()?;
            if reached.kind == ChunkKind::Node {
                match owners.get(&reached.id) {
                    Some(&owner) if owner == number || owner == SEVERAL => return Ok(false),
                    Some(_) => owners.insert(reached.id, SEVERAL),
                    None => owners.insert(reached.id, number),
                };
                context.progress.advance(Amount { items: 1, bytes: 0 });
            }
            let kind = u8::from(reached.kind == ChunkKind::Node);
            let record = [&[kind][..], &number.to_le_bytes()].concat();
            let pushed = chunks.push(reached.id.0, record);
            pushed.map_err(|e| repository.spool_failed(e))?;
            Ok(true)
        };
        Ok(for_each_chunk(&nodes, snapshot, &mut enter, &mut |_, error| Err(error))?)
    }

    /// Shows where each chunk is, once, with the number of the one snapshot that refers to it.
    fn finish(self, mut show: impl FnMut(u32, &Place)) -> Result<()> {
        let Marks { repository, reader, chunks, .. } = self;
        let failed = |e| repository.spool_failed(e);
        let mut sorted = chunks.finish().map_err(failed)?.peekable();
        reader.look_up(|look_up| {
            while let Some(record) = sorted.next() {
                repository.context().cancel.check()?;
                let (key, record) = record.map_err(failed)?;
                let mut owner = number_of(&record);
                while let Some(next) = sorted.next_if(|next| next.as_ref().map_or(true, |next| next.0 == key))
                {
                    if number_of(&next.map_err(failed)?.1) != owner {
                        owner = SEVERAL;
                    }
                }
                let id = ChunkId(<[u8; 32]>::try_from(key).unwrap_or_default());
                let kind = if record.first() == Some(&1) { ChunkKind::Node } else { ChunkKind::Data };
                let places = look_up.places(&id)?;
                show(owner, places.first().ok_or(store::Error::Missing { kind, id })?);
            }
            Ok(())
        })
    }
}

/// The snapshot's number in a record.
fn number_of(record: &[u8]) -> u32 {
    record.get(1..5).and_then(|bytes| bytes.try_into().ok()).map_or(SEVERAL, u32::from_le_bytes)
}
