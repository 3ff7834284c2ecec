//! The size bound: how much stays for every cut between what is kept and what is not.

use std::collections::{HashMap, HashSet};

use crate::format::Name;
use crate::id::SessionId;
use crate::progress::Phase;
use crate::repository::{Added, Needed, Repository, Result, SnapshotInfo, View};

/// What keeping one snapshot more costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Its id.
    pub id: SessionId,
    /// Bytes of the repository, at the least, with it and all before it.
    pub kept: u64,
    /// What it adds, at the most.
    pub most: u64,
}

/// Bytes of the repository that do not depend on snapshots, and the cost of each snapshot in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Curve {
    /// Configuration, keys, and records that stay.
    pub base: u64,
    /// One step for each snapshot.
    pub steps: Vec<Step>,
}

/// A chunk is listed in its pack and in a segment: its id and three numbers of one to five bytes each.
const LISTED: (u64, u64) = (2 * (32 + 3), 2 * (32 + 15));
/// What a pack and its place in a segment have beside chunks, at the most.
const PACK: u64 = 256;

fn cost(added: Added, record: u64) -> (u64, u64) {
    let (least, most) = (added.chunks * LISTED.0, added.chunks * LISTED.1 + 2 * PACK);
    (added.bytes + record + least, added.bytes + record + most)
}

/// The curve for snapshots in this order: first those that are kept whatever happens, then those to be kept
/// longest. Each chunk is counted at its stored size when it is first met, a shared node is met once.
pub fn curve(repository: &Repository, view: &View, order: &[&SnapshotInfo]) -> Result<Curve> {
    let reader = repository.reader(view)?;
    repository.context().progress.begin(Phase { name: "walking snapshots", unit: "nodes" });
    let mut base = 0;
    let mut records: HashMap<String, u64> = HashMap::new();
    repository.storage().list("", &mut |listed| {
        match listed.name.split('/').next().unwrap_or_default() {
            "packs" | "index" | "sessions" | "forgotten" | "collections" => {}
            "snapshots" => drop(records.insert(listed.name, listed.size)),
            _ => base += listed.size,
        }
        Ok(())
    })?;
    let (mut needed, mut kept, mut steps) = (Needed::default(), base, Vec::new());
    for info in order {
        let added = needed.add(repository, &reader, &HashSet::new(), [&*info.snapshot])?;
        let record = records.get(&Name::Claim(info.id).to_string()).copied().unwrap_or(0);
        let (least, most) = cost(added, record);
        kept += least;
        steps.push(Step { id: info.id, kept, most });
    }
    Ok(Curve { base, steps })
}

impl Curve {
    /// How many of the first snapshots fit into `max` bytes, judged by the least that they need.
    pub fn fit(&self, max: u64) -> usize {
        self.steps.partition_point(|step| step.kept <= max)
    }

    /// How many of the last of `count` must go, at the least, for `excess` bytes to be freed.
    pub fn excess(&self, count: usize, excess: u64) -> usize {
        let mut freed = 0;
        let last = self.steps[..count].iter().rev();
        let needed = last.take_while(|step| {
            let more = freed < excess;
            freed += step.most;
            more
        });
        needed.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seeded;

    #[test]
    fn the_cut_is_where_the_bound_is() {
        let step = |kept| Step { id: SessionId::draw(&Seeded::new(kept), 0), kept, most: 110 };
        let curve = Curve { base: 50, steps: vec![step(100), step(200), step(300)] };
        assert_eq!([99, 100, 299, 300].map(|max| curve.fit(max)), [0, 1, 2, 3]);
        assert_eq!([0, 1, 110, 111, 1000].map(|excess| curve.excess(3, excess)), [0, 1, 1, 2, 3]);
    }
}
