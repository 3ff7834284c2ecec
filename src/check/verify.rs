//! Verify: every byte of one snapshot.

use std::collections::HashSet;

use super::{Damage, Result, damage};
use crate::fault::Kind;
use crate::id::ChunkKind;
use crate::progress::{Amount, Phase};
use crate::repository::{Repository, SnapshotInfo, for_each_chunk};
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

/// Reads everything that the snapshot refers to, and opens it.
pub fn verify(repository: &Repository, info: &SnapshotInfo) -> Result<Verified> {
    let context = repository.context();
    context.progress.begin(Phase { name: "verifying", unit: "chunks" });
    let reader = repository.reader(&repository.view()?)?.from_the_medium();
    let nodes = ReadWrite::new(&reader, None);
    let mut verified = Verified::default();
    let mut seen = HashSet::new();
    let mut broken = Vec::new();
    let mut noted = |kind, id: String, what: String| {
        let mut damage = damage(kind, id, what);
        damage.snapshots.insert(info.id.to_string());
        broken.push(damage);
    };
    let mut nodes_broken = Vec::new();
    for_each_chunk(
        &nodes,
        &info.snapshot,
        &mut |reached| {
            context.cancel.check()?;
            if !seen.insert(reached.id) {
                return Ok(false);
            }
            if reached.kind == ChunkKind::Node {
                verified.chunks += 1;
                context.progress.advance(Amount { items: 1, bytes: 0 });
                return Ok(true);
            }
            match nodes.get(ChunkKind::Data, &reached.id) {
                Ok(bytes) => {
                    verified.chunks += 1;
                    verified.bytes += bytes.len() as u64;
                    context.progress.advance(Amount { items: 1, bytes: bytes.len() as u64 });
                }
                Err(error) if error.kind() == Kind::Damage || error.kind() == Kind::NotFound => {
                    let at = String::from_utf8_lossy(reached.key);
                    noted(
                        "chunk",
                        reached.id.to_string(),
                        format!("{error}; {} {at:?} needs it", reached.tree),
                    );
                }
                Err(error) => return Err(error.into()),
            }
            Ok(true)
        },
        &mut |reached, error| {
            let at = String::from_utf8_lossy(reached.key);
            nodes_broken
                .push((reached.id.to_string(), format!("{error}; {} from {at:?} needs it", reached.tree)));
            Ok(())
        },
    )?;
    for (id, what) in nodes_broken {
        noted("node", id, what);
    }
    verified.damage = broken;
    Ok(verified)
}
