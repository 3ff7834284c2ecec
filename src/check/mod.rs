//! Check: is everything there that snapshots need, and is it what was written? And verify: the same
//! for every byte of one snapshot.

mod against;
mod etag;
mod packs;
mod records;
mod verify;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;

use crate::context::Interrupted;
use crate::fault::Kind;
use crate::format::{Malformed, Name, Snapshot};
use crate::id::{ChunkId, ChunkKind, PackId};
use crate::progress::{Amount, Phase};
use crate::repository::{self, Contents, Met, Reached, Repository, View, for_each_chunk, prefetch_roots};
use crate::source;
use crate::store::{self, Place, Reader};
use crate::tree::{self, ReadWrite};

pub use against::{Against, Compared, Difference, Member, Since, Sources, verify_against};
pub use verify::{Verified, verify};

/// How thorough to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Read every pack to the last byte; without it names, sizes, records and tree nodes.
    pub read_data: bool,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// What kind of file: `config`, `key`, `pack`, `segment`, `session`, `snapshot`, `tombstone`,
    /// `collection`, `node` or `chunk`; or a key of etcd (`etcd key`), all of them (`etcd hash`, with the
    /// member's URL as file) or an `object` in the snapshot that is not what the source says.
    pub kind: &'static str,
    /// The file, or the chunk, key or object where no file can be named.
    pub file: String,
    /// What is wrong.
    pub what: String,
    /// Snapshots that cannot be restored whole because of it.
    pub snapshots: BTreeSet<String>,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Damage, none where all is well.
    pub damage: Vec<Damage>,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Packs looked at.
    pub packs: u64,
    /// Chunks read to the last byte.
    pub chunks_read: u64,
    /// Bytes read of packs.
    pub bytes_read: u64,
    /// Packs that no valid segment lists: left by interrupted runs, harmless.
    pub unused_packs: u64,
}

/// Why a check could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// A living source.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The source is not the one that the snapshot was made from.
    #[error("{0}")]
    SourceChanged(String),
}

/// The result of a check.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Repository(error) => error.kind(),
            Error::Source(error) => error.kind(),
            Error::SourceChanged(_) => Kind::SourceChanged,
        }
    }
}

repository::through_repository!(Error: store::Error, tree::Error, crate::storage::Error, Malformed, Interrupted);

fn damage(kind: &'static str, file: impl Into<String>, what: impl ToString) -> Damage {
    Damage { kind, file: file.into(), what: what.to_string(), snapshots: BTreeSet::new() }
}

/// A node or a chunk that cannot be read.
fn unread(reached: Reached, error: impl Display) -> Damage {
    let kind = match reached.kind {
        ChunkKind::Node => "node",
        ChunkKind::Data => "chunk",
    };
    damage(kind, reached.id.to_string(), needed_by(reached, error))
}

/// What is wrong, and with what that matters: an entry, or all from a node's first key on.
fn needed_by(reached: Reached, what: impl Display) -> String {
    let (tree, at) = (reached.tree, String::from_utf8_lossy(reached.key));
    match reached.kind {
        ChunkKind::Node => format!("{what}; {tree} from {at:?} needs it"),
        ChunkKind::Data => format!("{what}; {tree} {at:?} needs it"),
    }
}

/// A running check.
struct Run<'a> {
    repository: &'a Repository,
    report: Report,
    named: records::Named,
    /// Packs that are missing or damaged as a whole.
    bad_packs: HashSet<PackId>,
    /// Places in packs that are there of chunks that cannot be read.
    bad_chunks: HashSet<(PackId, u32)>,
}

/// A check is made again this often when a prune was carried out meanwhile.
const TRIES: usize = 4;

/// Checks. What a prune has removed since it was listed is no damage: then all is looked at again.
pub fn run(repository: &Repository, options: Options) -> Result<Report> {
    for _ in 1..TRIES {
        let before = repository.numbers()?;
        let report = run_once(repository, options);
        let damaged = match &report {
            Ok(report) => !report.damage.is_empty(),
            Err(error) => matches!(error.kind(), Kind::Damage | Kind::NotFound),
        };
        if !damaged || repository.numbers()? == before {
            return report;
        }
        repository.context().progress.note("a prune ran meanwhile: checking again");
    }
    run_once(repository, options)
}

fn run_once(repository: &Repository, options: Options) -> Result<Report> {
    let mut run = Run {
        repository,
        report: Report::default(),
        named: records::Named::default(),
        bad_packs: HashSet::new(),
        bad_chunks: HashSet::new(),
    };
    let progress = &repository.context().progress;
    progress.begin(Phase { name: "reading records", unit: "files" });
    run.records()?;
    let view = match repository.view() {
        // Without its newest verdict nothing can be told valid; the damage has been noted already.
        Err(error) if error.kind() == Kind::Damage && !run.report.damage.is_empty() => return Ok(run.report),
        view => view?,
    };
    run.missing_records(&view)?;
    let segments = run.segments(&view)?;
    run.packs(&segments, options.read_data)?;
    run.trees(&view, &segments)?;
    run.report.snapshots = view.snapshots.len() as u64;
    run.report.damage.sort();
    run.report.damage.dedup();
    Ok(run.report)
}

impl Run<'_> {
    fn note(&mut self, damage: Damage) {
        self.report.damage.push(damage);
    }

    /// Walks every snapshot's trees: nodes are read, content must be where the index says, which is asked in the
    /// order of names.
    fn trees(&mut self, view: &View, segments: &records::Segments) -> Result<()> {
        let (repository, context) = (self.repository, self.repository.context());
        context.progress.begin(Phase { name: "walking trees", unit: "nodes" });
        let reader = self.reader(view, segments)?;
        let nodes = ReadWrite::new(&reader, None);
        let (mut met, mut contents) = (Met::default(), Contents::new(repository));
        let snapshots: Vec<&Snapshot> = view.snapshots.iter().map(|info| &*info.snapshot).collect();
        for (at, snapshot) in snapshots.iter().enumerate() {
            prefetch_roots(&nodes, &snapshots, at)?;
            let mut enter = |reached: Reached| {
                context.cancel.check()?;
                let new = met.add(&reached);
                match reached.kind {
                    ChunkKind::Node => context.progress.advance(Amount { items: 1, bytes: 0 }),
                    ChunkKind::Data if new => contents.add(&reached.id)?,
                    ChunkKind::Data => {}
                }
                Ok(new)
            };
            let mut broken = |reached: Reached, error| {
                self.note(unread(reached, error));
                Ok(())
            };
            for_each_chunk(&nodes, snapshot, &mut enter, &mut broken)?;
        }
        let mut lost = HashMap::new();
        contents.look_up(&reader, |id, places| {
            lost.extend(self.why_lost(places).map(|what| (id, what)));
            Ok(())
        })?;
        let concerns = |damage: &Damage| matches!(damage.kind, "node" | "chunk" | "pack" | "segment");
        if !lost.is_empty() || self.report.damage.iter().any(concerns) {
            self.name_snapshots(view, &reader, &lost)?;
        }
        Ok(())
    }

    /// A reader that believes only segments that could be read now.
    fn reader(&self, view: &View, segments: &records::Segments) -> Result<Reader> {
        match segments.whole {
            true => Ok(self.repository.reader(view)?),
            // The shared cache must not learn that a damaged segment lists nothing.
            false => Ok(self.repository.reader_for_now(view, &segments.readable)?),
        }
    }

    /// Why a content chunk cannot be read, if so.
    fn why_lost(&self, places: &[Place]) -> Option<&'static str> {
        if places.is_empty() {
            return Some("it is in no pack");
        }
        let bad_pack = |place: &Place| self.bad_packs.contains(&place.pack);
        let bad = |place: &Place| bad_pack(place) || self.bad_chunks.contains(&(place.pack, place.position));
        match (places.iter().all(bad_pack), places.iter().all(bad)) {
            (true, _) => Some("its pack is missing or damaged"),
            (_, bad) => bad.then_some("it is damaged"),
        }
    }

    /// Says for each damage which snapshots it concerns: each is walked by itself.
    fn name_snapshots(
        &mut self,
        view: &View,
        reader: &Reader,
        lost: &HashMap<ChunkId, &'static str>,
    ) -> Result<()> {
        let of = |damage: &Damage| (damage.kind, damage.file.clone());
        let mut known: HashMap<_, usize> = self.report.damage.iter().map(of).zip(0..).collect();
        for info in &view.snapshots {
            for damage in self.damage_of(reader, &info.snapshot, lost)? {
                let place = *known.entry(of(&damage)).or_insert(self.report.damage.len());
                if place == self.report.damage.len() {
                    self.report.damage.push(damage);
                }
                self.report.damage[place].snapshots.insert(info.id.to_string());
            }
        }
        self.blame_packs()
    }

    /// What is wrong with one snapshot's trees.
    fn damage_of(
        &self,
        reader: &Reader,
        snapshot: &Snapshot,
        lost: &HashMap<ChunkId, &'static str>,
    ) -> Result<Vec<Damage>> {
        let nodes = ReadWrite::new(reader, None);
        let (mut found, mut broken, mut met) = (Vec::new(), Vec::new(), Met::default());
        let mut enter = |reached: Reached| {
            self.repository.context().cancel.check()?;
            let new = met.add(&reached);
            if let Some(what) = lost.get(&reached.id).filter(|_| new) {
                found.push(unread(reached, what));
            }
            Ok(new)
        };
        for_each_chunk(&nodes, snapshot, &mut enter, &mut |reached, error| {
            broken.push(unread(reached, error));
            Ok(())
        })?;
        found.append(&mut broken);
        Ok(found)
    }

    /// A damaged pack concerns every snapshot that one of its chunks concerns.
    fn blame_packs(&mut self) -> Result<()> {
        let concerned: BTreeSet<String> = self
            .report
            .damage
            .iter()
            .filter(|damage| matches!(damage.kind, "node" | "chunk"))
            .flat_map(|damage| damage.snapshots.clone())
            .collect();
        let packs: Vec<&mut Damage> = self.report.damage.iter_mut().filter(|d| d.kind == "pack").collect();
        // With one damaged pack the answer is exact; with several, each is said to concern all.
        for pack in packs {
            pack.snapshots = concerned.clone();
        }
        Ok(())
    }

    fn pack_name(kind: crate::id::ChunkKind, id: PackId) -> String {
        Name::Pack(kind, id).to_string()
    }
}
