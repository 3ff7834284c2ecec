//! What a prune will do: which packs go, and which are rewritten.

use std::collections::{HashMap, HashSet};

use super::{Error, Options, Result};
use crate::id::{ChunkKind, PackId, SessionId};
use crate::progress::Phase;
use crate::repository::{Needed, Repository, SnapshotInfo, Used, View};
use crate::store::Tuning;

/// So many packs of about one size are made one.
const TIER: usize = 8;
/// Sizes of a tier differ by this factor at most.
const TIER_FACTOR: u64 = 4;
/// One collection rewrites at most this much, so that a repository near its bound needs little room.
const BATCH: u64 = 8 << 30;

/// A plan is made again this often where other prunes go on meanwhile.
const TRIES: usize = 4;

/// Why a pack goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No snapshot needs anything in it.
    Unused,
    /// No segment lists it: an interrupted command left it.
    Unlisted,
    /// A segment lists it, and it is not there; nothing in it is needed.
    Missing,
    /// Too much of it is not needed.
    Waste,
    /// It is small, and there are many like it.
    Small,
}

/// A pack that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackPlan {
    /// Its name.
    pub id: PackId,
    /// The kind of its chunks.
    pub kind: ChunkKind,
    /// Its size.
    pub size: u64,
    /// Bytes in it that are needed, and are copied into another.
    pub used: u64,
    /// Why it goes.
    pub reason: Reason,
}

/// What a prune will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packs that go.
    pub packs: Vec<PackPlan>,
    /// Records of sessions that have ended and of snapshots that were forgotten.
    pub records: u64,
    /// Segments that are made fewer.
    pub segments: u64,
    /// Bytes of all packs.
    pub pack_bytes: u64,
    /// A collection without verdict, which is finished first.
    pub open: Option<u64>,
    /// More is left for a next collection.
    pub partial: bool,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.records == 0 && self.segments == 0
    }

    /// Packs of this kind of reason: how many, and their bytes.
    pub fn of(&self, reason: Reason) -> (u64, u64) {
        let packs = self.packs.iter().filter(|pack| pack.reason == reason);
        packs.fold((0, 0), |(count, bytes), pack| (count + 1, bytes + pack.size))
    }

    /// Bytes that are freed, but for what packs hold beside chunks.
    pub fn frees(&self) -> u64 {
        self.packs.iter().map(|pack| pack.size - pack.used.min(pack.size)).sum()
    }

    /// Bytes that are copied.
    pub fn copies(&self) -> u64 {
        self.packs.iter().map(|pack| pack.used).sum()
    }
}

/// What a pack has beside its chunks, when it has so many.
fn overhead(chunks: u64) -> u64 {
    // Two magics, the footer's seal and length; an id and three numbers for each chunk.
    64 + 47 * chunks
}

/// Bytes of a pack that rewriting it would free.
pub(super) fn waste(size: u64, used: &Used) -> u64 {
    if used.chunks == 0 { size } else { size.saturating_sub(used.bytes + overhead(used.chunks)) }
}

/// A pack from here on is not small.
pub(super) fn full(kind: ChunkKind) -> u64 {
    let tuning = Tuning::default();
    let target = match kind {
        ChunkKind::Data => tuning.data_pack,
        ChunkKind::Node => tuning.tree_pack,
    };
    target as u64 / 2
}

fn tier(size: u64) -> u32 {
    size.max(1).ilog(TIER_FACTOR)
}

/// What was found to be needed when the plan was made.
#[derive(Default)]
pub(super) struct Marked {
    /// The newest verdict then.
    verdict: u64,
    /// By which snapshots.
    pub snapshots: HashSet<SessionId>,
    pub needed: Needed,
}

impl Marked {
    /// Whether it still holds, beside what `wanted` snapshots have that are new: packs go only by a verdict, and
    /// none is counted in that nobody wants any more.
    pub fn holds(&self, view: &View, wanted: &[&SnapshotInfo]) -> bool {
        let known = wanted.iter().filter(|info| self.snapshots.contains(&info.id)).count();
        self.verdict == view.numbers.verdict && known == self.snapshots.len()
    }
}

/// A plan for what the repository holds, as if the snapshots `without` were forgotten.
pub fn plan(repository: &Repository, options: &Options, without: &HashSet<SessionId>) -> Result<Plan> {
    for _ in 1..TRIES {
        let numbers = repository.numbers()?;
        match mark_and_plan(repository, options, without) {
            Err(error) if error.is_of_the_past(|| Ok(repository.numbers()? != numbers))? => {}
            planned => return Ok(planned?.0),
        }
    }
    Ok(mark_and_plan(repository, options, without)?.0)
}

pub(super) fn mark_and_plan(
    repository: &Repository,
    options: &Options,
    without: &HashSet<SessionId>,
) -> Result<(Plan, Marked)> {
    let view = repository.view()?;
    if let Some(damaged) = view.unsure().pop() {
        return Err(damaged.into());
    }
    let view = View { damaged: vec![], ..view };
    let reader = repository.reader(&view)?;
    repository.context().progress.begin(Phase { name: "walking snapshots", unit: "nodes" });
    let mut marked = Marked { verdict: view.numbers.verdict, ..Marked::default() };
    let staying = || view.snapshots.iter().filter(|info| !without.contains(&info.id));
    let snapshots = staying().map(|info| &*info.snapshot);
    marked.needed.add(repository, &reader, &HashSet::new(), snapshots)?;
    marked.snapshots.extend(staying().map(|info| info.id));
    let listings = reader.listings()?;
    let listed = listings.iter().flat_map(|segment| segment.packs.iter().copied()).collect();
    let packs = repository.packs()?;
    let mut plan = choose(&packs, &listed, &marked.needed, options.max_unused)?;
    plan.open = view.numbers.open();
    plan.records = records(repository, &view)? + without.len() as u64;
    // What records list is written into a segment, so that it stays findable when they go.
    plan.segments = view.inline().count() as u64 + super::judge::tiers(&listings).len() as u64;
    Ok((plan, marked))
}

/// Records that a collection removes: of ended sessions, forgotten snapshots, and collections before.
fn records(repository: &Repository, view: &View) -> Result<u64> {
    let names = repository.storage().names("sessions/")?;
    let sessions = names.iter().filter_map(|name| name.parse::<SessionId>().ok());
    let sessions = sessions.filter(|sid| view.ended.contains(sid)).count() as u64;
    let closed = (view.ended.len() - view.snapshots.len() - view.forgotten.len()) as u64;
    Ok(sessions + closed + view.forgotten.len() as u64)
}

/// Chooses among the packs that are there.
fn choose(
    packs: &[(ChunkKind, PackId, u64)],
    listed: &HashSet<PackId>,
    needed: &Needed,
    max_unused: f64,
) -> Result<Plan> {
    let mut plan = Plan { pack_bytes: packs.iter().map(|(_, _, size)| size).sum(), ..Plan::default() };
    let there: HashMap<PackId, ChunkKind> = packs.iter().map(|(kind, id, _)| (*id, *kind)).collect();
    if let Some(missing) = needed.packs().find(|id| !there.contains_key(id)) {
        return Err(Error::PackMissing(format!("pack {missing}")));
    }
    let missing = listed.iter().filter(|id| !there.contains_key(id));
    plan.packs.extend(missing.map(|&id| {
        // Its kind does not matter: there is no file to delete.
        PackPlan { id, kind: ChunkKind::Data, size: 0, used: 0, reason: Reason::Missing }
    }));
    let mut used: Vec<(PackPlan, u64)> = Vec::new();
    for &(kind, id, size) in packs {
        let of_it = needed.of(&id);
        let reason = match (listed.contains(&id), of_it.chunks) {
            (false, _) => Reason::Unlisted,
            (true, 0) => Reason::Unused,
            (true, _) => Reason::Waste,
        };
        let pack = PackPlan { id, kind, size, used: of_it.bytes, reason };
        match reason {
            Reason::Waste => used.push((pack, waste(size, &of_it))),
            _ => plan.packs.push(pack),
        }
    }
    rewrite(&mut plan, used, max_unused);
    Ok(plan)
}

/// Of packs that are needed and their waste, chooses those that are worth rewriting.
fn rewrite(plan: &mut Plan, mut used: Vec<(PackPlan, u64)>, max_unused: f64) {
    let share = |(pack, waste): &(PackPlan, u64)| *waste as f64 / pack.size.max(1) as f64;
    used.sort_by(|a, b| share(a).total_cmp(&share(b)).then(b.0.id.cmp(&a.0.id)));
    let mut all: u64 = used.iter().map(|(pack, _)| pack.size).sum();
    let mut left: u64 = used.iter().map(|(_, waste)| waste).sum();
    let mut copied = 0;
    while left as f64 > max_unused * all as f64
        && let Some((pack, waste)) = used.pop()
    {
        if copied > 0 && copied + pack.used > BATCH {
            plan.partial = true;
            return;
        }
        copied += pack.used;
        left -= waste;
        all -= waste;
        plan.packs.push(pack);
    }
    let mut tiers: HashMap<(ChunkKind, u32), Vec<PackPlan>> = HashMap::new();
    for (pack, _) in used.into_iter().filter(|(pack, _)| pack.size < full(pack.kind)) {
        tiers.entry((pack.kind, tier(pack.size))).or_default().push(pack);
    }
    let many = tiers.into_values().filter(|packs| packs.len() >= TIER).flatten();
    plan.packs.extend(many.map(|pack| PackPlan { reason: Reason::Small, ..pack }));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pack(n: u8, size: u64, used: u64) -> (PackPlan, u64) {
        let id = PackId([n; 16]);
        (PackPlan { id, kind: ChunkKind::Data, size, used, reason: Reason::Waste }, size - used)
    }

    proptest! {
        #[test]
        fn what_stays_is_within_the_allowed_waste(
            packs in proptest::collection::vec((1..40_000_000u64, 0..=100u64), 1..50),
            max_unused in 0..100u32,
        ) {
            let packs: Vec<_> = packs
                .iter()
                .zip(0u8..)
                .map(|(&(size, percent), n)| pack(n, size, (size * percent / 100).max(1)))
                .collect();
            let max_unused = f64::from(max_unused) / 100.0;
            let mut plan = Plan::default();
            rewrite(&mut plan, packs.clone(), max_unused);
            let goes = |id: PackId| plan.packs.iter().any(|pack| pack.id == id);
            let left: u64 = packs.iter().filter(|(pack, _)| !goes(pack.id)).map(|(_, waste)| waste).sum();
            let kept: u64 = packs.iter().map(|(pack, _)| pack.used).sum();
            prop_assert!(left as f64 <= max_unused * (kept + left) as f64);
        }
    }

    #[test]
    fn small_packs_are_made_one_when_there_are_many_of_a_size() {
        let mut plan = Plan::default();
        rewrite(&mut plan, (0..7).map(|n| pack(n, 1000, 1000)).collect(), 0.05);
        assert!(plan.packs.is_empty());
        rewrite(&mut plan, (0..8).map(|n| pack(n, 1000 + u64::from(n), 1000)).collect(), 0.05);
        assert_eq!(plan.of(Reason::Small).0, 8);
    }
}
