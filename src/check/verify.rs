//! Verify: every byte of one snapshot.

use std::collections::HashSet;
use std::sync::Mutex;

use bytes::Bytes;

use super::{Damage, Error, Result, damage, unread};
use crate::fault::Kind;
use crate::format::Snapshot;
use crate::id::{ChunkId, ChunkKind};
use crate::mutex::{into_inner, lock};
use crate::pool::{self, Pool, cores};
use crate::progress::{Amount, Phase};
use crate::repository::{Moment, Reached, Repository, for_each_chunk};
use crate::store::{self, Early, Reader};
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

/// Chunks that wait for who reads them.
const QUEUE: usize = 64;

/// A chunk of content that is to be read.
struct Wanted {
    id: ChunkId,
    /// Where it was met first.
    tree: &'static str,
    key: Vec<u8>,
    _until_read: Early,
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

    /// Reads everything that has not been read: this thread walks the trees, others read what they refer to.
    pub fn read_all(&mut self) -> Result<()> {
        let context = self.repository.context();
        context.progress.begin(Phase { name: "verifying", unit: "chunks" });
        let nodes = ReadWrite::new(self.nodes.reader(), None);
        let seen = std::mem::take(&mut self.seen);
        let read = Mutex::<Verified>::default();
        let most = if self.repository.storage().is_remote() { usize::MAX } else { cores() };
        let threads = most.min(context.memory.files());
        let work = |(): &mut (), wanted: Wanted| self.read_one(&nodes, &wanted, &read);
        let (seen, broken) =
            pool::run(threads, QUEUE, || (), work, |pool| self.walk(&nodes, seen, &read, pool))?;
        self.seen = seen;
        let Verified { chunks, bytes, mut damage } = into_inner(read);
        // Whichever thread met it first.
        damage.sort();
        self.verified.chunks += chunks;
        self.verified.bytes += bytes;
        for Damage { kind, file, what, .. } in damage {
            self.note(kind, file, what);
        }
        for damage in broken {
            // Of an entry that stands in a chunk the chunk was read as well.
            if !self.verified.damage.iter().any(|known| known.file == damage.file) {
                self.note(damage.kind, damage.file, damage.what);
            }
        }
        Ok(())
    }

    /// Gives all chunks of content that were not seen before to those who read them; tells what was seen by then,
    /// and what cannot be walked.
    fn walk(
        &self,
        nodes: &ReadWrite,
        mut seen: HashSet<ChunkId>,
        read: &Mutex<Verified>,
        readers: &Pool<'_, Wanted, Error>,
    ) -> Result<(HashSet<ChunkId>, Vec<Damage>)> {
        let context = self.repository.context();
        let mut broken = Vec::new();
        let mut enter = |reached: Reached| {
            context.cancel.check()?;
            let Reached { kind, id, tree, key } = reached;
            let is_new = seen.insert(id);
            match kind {
                _ if !is_new => {}
                ChunkKind::Node => {
                    lock(read).chunks += 1;
                    context.progress.advance(Amount { items: 1, bytes: 0 });
                }
                ChunkKind::Data => {
                    let early = nodes.ask(&id)?;
                    readers.give(Wanted { id, tree, key: key.to_vec(), _until_read: early })?;
                }
            }
            Ok(is_new)
        };
        let snapshots = std::iter::once((*self.moment.info.snapshot).clone()).chain(self.objects_before());
        for snapshot in snapshots {
            for_each_chunk(nodes, &snapshot, &mut enter, &mut |reached, error| {
                broken.push(unread(reached, &error));
                Ok(())
            })?;
        }
        Ok((seen, broken))
    }

    fn read_one(&self, nodes: &ReadWrite, wanted: &Wanted, read: &Mutex<Verified>) -> Result<()> {
        self.repository.context().cancel.check()?;
        let Wanted { id, tree, key, .. } = wanted;
        match nodes.get(ChunkKind::Data, id) {
            Ok(chunk) => {
                let bytes = chunk.len() as u64;
                self.repository.context().progress.advance(Amount { items: 1, bytes });
                let mut read = lock(read);
                read.chunks += 1;
                read.bytes += bytes;
                Ok(())
            }
            Err(error) if matches!(error.kind(), Kind::Damage | Kind::NotFound) => {
                let reached = Reached { kind: ChunkKind::Data, id: *id, tree, key };
                lock(read).damage.push(unread(reached, &error));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
