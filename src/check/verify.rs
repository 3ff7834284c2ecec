//! Verify: every byte of one snapshot.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Damage, Result, damage, needed_by, unread};
use crate::fault::Kind;
use crate::format::Snapshot;
use crate::id::{ChunkId, ChunkKind};
use crate::progress::{Amount, Phase};
use crate::repository::{Moment, Reached, Repository, for_each_chunk};
use crate::store::{self, Reader};
use crate::tree::{Nodes, ReadWrite};

/// What was read of a snapshot.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    /// Chunks and nodes read.
    pub chunks: u64,
    /// Their plain bytes.
    pub bytes: u64,
    /// What is wrong.
    pub damage: Vec<Damage>,
}

/// Reads everything that the moment's snapshot refers to, and opens it; and the objects of an earlier one
/// that may stand in for its own.
pub fn verify(repository: &Repository, moment: &Moment) -> Result<Verified> {
    let reader = repository.reader(&repository.view()?)?.from_the_medium();
    let mut verifying = Verifying::new(repository, moment, &reader);
    verifying.read_all()?;
    Ok(verifying.verified)
}

/// A snapshot being read.
pub(super) struct Verifying<'a> {
    repository: &'a Repository,
    pub moment: &'a Moment,
    pub nodes: ReadWrite<'a>,
    /// What was read, and need not be again.
    seen: HashSet<ChunkId>,
    pub verified: Verified,
}

impl<'a> Verifying<'a> {
    pub fn new(repository: &'a Repository, moment: &'a Moment, reader: &'a Reader) -> Verifying<'a> {
        let nodes = ReadWrite::new(reader, None);
        Verifying { repository, moment, nodes, seen: HashSet::new(), verified: Verified::default() }
    }

    /// Notes something that is wrong with this snapshot.
    pub fn note(&mut self, kind: &'static str, file: String, what: String) {
        let mut damage = damage(kind, file, what);
        damage.snapshots.insert(self.moment.info.id.to_string());
        self.verified.damage.push(damage);
    }

    /// A chunk of content; it is counted when it is read for the first time.
    pub fn chunk(&mut self, id: &ChunkId) -> store::Result<Bytes> {
        let bytes = self.nodes.get(ChunkKind::Data, id)?;
        if self.seen.insert(*id) {
            self.verified.chunks += 1;
            self.verified.bytes += bytes.len() as u64;
            let amount = Amount { items: 1, bytes: bytes.len() as u64 };
            self.repository.context().progress.advance(amount);
        }
        Ok(bytes)
    }

    /// An earlier snapshot's objects may stand in for this one's; its etcd does not matter.
    fn objects_before(&self) -> Option<Snapshot> {
        let (_, before) = self.moment.objects()?;
        let earlier = self.moment.earlier.as_ref().filter(|_| before.is_some())?;
        Some(Snapshot { etcd: None, ..(*earlier.snapshot).clone() })
    }

    /// Reads everything that has not been read.
    pub fn read_all(&mut self) -> Result<()> {
        let context = self.repository.context();
        context.progress.begin(Phase { name: "verifying", unit: "chunks" });
        let reader = self.nodes.reader();
        let snapshots = std::iter::once((*self.moment.info.snapshot).clone()).chain(self.objects_before());
        let nodes = ReadWrite::new(reader, None);
        let mut broken = Vec::new();
        let mut enter = |reached: Reached| {
            context.cancel.check()?;
            if self.seen.contains(&reached.id) {
                return Ok(false);
            }
            if reached.kind == ChunkKind::Node {
                self.seen.insert(reached.id);
                self.verified.chunks += 1;
                context.progress.advance(Amount { items: 1, bytes: 0 });
                return Ok(true);
            }
            match self.chunk(&reached.id) {
                Ok(_) => {}
                Err(error) if error.kind() == Kind::Damage || error.kind() == Kind::NotFound => {
                    self.seen.insert(reached.id);
                    self.note("chunk", reached.id.to_string(), needed_by(reached, &error));
                }
                Err(error) => return Err(error.into()),
            }
            Ok(true)
        };
        for snapshot in snapshots {
            for_each_chunk(&nodes, &snapshot, &mut enter, &mut |reached, error| {
                broken.push(unread(reached, &error));
                Ok(())
            })?;
        }
        for damage in broken {
            // Of an entry that stands in a chunk the chunk was read as well.
            if !self.verified.damage.iter().any(|known| known.file == damage.file) {
                self.note(damage.kind, damage.file, damage.what);
            }
        }
        Ok(())
    }
}
