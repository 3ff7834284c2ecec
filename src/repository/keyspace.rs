//! What etcd's own store holds at a revision, once it was compacted at an earlier one: of each key alive at
//! the compaction point its newest record, and every record since.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::state::{content_bytes, events, is_bump, outcome, spool_failed, state_and_bump};
use super::{Error, EtcdAt, Result};
use crate::etcd_file::{KeyRecord, KeyValue};
use crate::format::{EtcdCapture, KeyState, Malformed, Root, UNKNOWN_SUB, history_key, parse_history_key};
use crate::sorter::{Sorted, Sorter, greatest_of_each, paired};
use crate::tree::{self, Nodes};

const SORT_BYTES: usize = 64 << 20;

/// A part of a history: the events after one revision up to another.
#[derive(Debug, Clone, Copy)]
struct Stretch<'a> {
    capture: &'a EtcdCapture,
    after: i64,
    until: i64,
}

impl<'a> Stretch<'a> {
    fn history(&self) -> Option<&'a Root> {
        self.capture.history.as_ref()
    }
}

/// The keys and their records at a revision.
pub struct Keyspace<'a> {
    nodes: &'a dyn Nodes,
    spool: PathBuf,
    /// The state at the compaction point.
    base: EtcdAt<'a>,
    /// All since, oldest first.
    stretches: Vec<Stretch<'a>>,
}

/// The last that happened to a key since the compaction point.
struct Last {
    alive: bool,
    lease: i64,
}

impl Last {
    /// Sorts by revision.
    fn encode(at: &[u8], state: Option<&KeyState>) -> Vec<u8> {
        let lease = state.map_or(0, |state| state.lease);
        [at, &[u8::from(state.is_some())], &lease.to_be_bytes()].concat()
    }

    fn decode(record: &[u8]) -> Result<Last> {
        let lease = record.get(17..).and_then(|lease| lease.try_into().ok()).map(i64::from_be_bytes);
        let lease = lease.ok_or(Malformed::Length(record.len()))?;
        Ok(Last { alive: record[16] != 0, lease })
    }
}

impl<'a> Keyspace<'a> {
    /// The keyspace at a revision, compacted at `compacted`. Where that lies before the anchor, histories of
    /// other captures of the `line` lead back; the error is the oldest revision that they lead back to.
    pub fn new(
        nodes: &'a dyn Nodes,
        at: EtcdAt<'a>,
        line: &[&'a EtcdCapture],
        compacted: i64,
        spool: &Path,
    ) -> std::result::Result<Keyspace<'a>, i64> {
        let (mut base, mut stretches) = (at, Vec::new());
        loop {
            let begin = oldest(base.capture, base.revision);
            let after = begin.max(compacted);
            stretches.push(Stretch { capture: base.capture, after, until: base.revision });
            base.revision = after;
            if after == compacted {
                break;
            }
            let reaches =
                |capture: &&&EtcdCapture| after <= capture.revision && oldest(capture, after) < after;
            let earlier = line.iter().filter(reaches).min_by_key(|capture| oldest(capture, after));
            base.capture = earlier.ok_or(after)?;
        }
        stretches.reverse();
        Ok(Keyspace { nodes, spool: spool.to_owned(), base, stretches })
    }

    /// The captures that it is read from.
    pub fn captures(&self) -> impl Iterator<Item = &'a EtcdCapture> {
        self.stretches.iter().map(|stretch| stretch.capture)
    }

    /// The compaction point.
    pub fn compacted(&self) -> i64 {
        self.base.revision
    }

    /// How many records there may be.
    pub fn most(&self) -> u64 {
        let (base, _) = self.base.base();
        let events = self.stretches.iter().map(|stretch| tree::count(stretch.history()));
        tree::count(base) + events.sum::<u64>()
    }

    /// Looks at every key that is wanted: what is alive in the end decides what etcd hashes.
    pub fn sort(self, takes: &dyn Fn(&[u8]) -> bool) -> Result<SortedKeyspace<'a>> {
        let failed = |e| spool_failed(&self.spool, e);
        let mut touched = Sorter::new(&self.spool, SORT_BYTES);
        let mut order_known = true;
        for event in all_events(self.nodes, &self.stretches) {
            let (at, key, state) = event?;
            order_known &= parse_history_key(&at)?.1 < UNKNOWN_SUB;
            if takes(&key) {
                touched.push(key, Last::encode(&at, state.as_ref())).map_err(failed)?;
            }
        }
        let spool = &self.spool;
        let touched = greatest_of_each(touched.finish().map_err(failed)?).map(|record| {
            let (key, last) = record.map_err(|e| spool_failed(spool, e))?;
            Ok((key, Last::decode(&last)?))
        });
        let base = state_and_bump(self.nodes, self.base, &[], spool)?;
        let base = base.filter(|entry| entry.as_ref().map_or(true, |(key, _)| takes(key)));
        let (mut keys, mut leases) = (0, BTreeMap::new());
        let mut records = Sorter::new(spool, SORT_BYTES);
        for pair in paired(base, touched) {
            let (key, state, last) = pair?;
            let kept = last.is_none();
            let last =
                last.unwrap_or_else(|| Last { alive: true, lease: state.as_ref().map_or(0, |s| s.lease) });
            if last.alive {
                keys += 1;
                *leases.entry(last.lease).or_default() += 1;
            }
            let Some(state) = state else { continue };
            order_known &= state.sub.is_some();
            let at = history_key(state.mod_revision, state.sub.unwrap_or(UNKNOWN_SUB));
            records.push(at.to_vec(), pack(kept, &key, &state)).map_err(failed)?;
        }
        leases.remove(&0);
        let records = records.finish().map_err(failed)?;
        Ok(SortedKeyspace { keyspace: self, records, keys, leases, order_known })
    }
}

/// The revision that a capture's history leads back to from `revision`: its anchor's, or the end of a gap.
pub(super) fn oldest(capture: &EtcdCapture, revision: i64) -> i64 {
    let gaps = capture.gaps.iter().filter(|gap| gap.after < revision).map(|gap| gap.until);
    gaps.max().unwrap_or(0).max(capture.anchor.revision).min(revision)
}

type EventAt = (Vec<u8>, Vec<u8>, Option<KeyState>);

/// Every event of the stretches: where it stands, its key, and the state after it.
fn all_events<'a>(nodes: &'a dyn Nodes, stretches: &[Stretch<'a>]) -> impl Iterator<Item = Result<EventAt>> {
    stretches.iter().copied().flat_map(move |stretch| {
        let (events, failed) = match events(nodes, stretch.history(), stretch.after, stretch.until) {
            Ok(events) => (Some(events), None),
            Err(error) => (None, Some(Err(error))),
        };
        let events = events.into_iter().flatten().map(move |event| {
            let tree::Entry { key: at, value } = event?;
            let (key, state) = outcome(nodes, &at, &value)?;
            Ok((at, key, state))
        });
        failed.into_iter().chain(events)
    })
}

/// What is sorted by revision, in one piece.
fn pack(kept: bool, key: &[u8], state: &KeyState) -> Vec<u8> {
    [&[u8::from(kept)], &(key.len() as u32).to_le_bytes()[..], key, &state.encode()].concat()
}

fn unpack(packed: &[u8]) -> Result<(bool, Vec<u8>, KeyState)> {
    let short = || Error::from(Malformed::Length(packed.len()));
    let (head, rest) = packed.split_first_chunk::<5>().ok_or_else(short)?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let (key, state) = rest.split_at_checked(length).ok_or_else(short)?;
    Ok((head[0] != 0, key.to_vec(), KeyState::decode(state)?))
}

/// A keyspace whose records can be shown in etcd's order.
pub struct SortedKeyspace<'a> {
    keyspace: Keyspace<'a>,
    records: Sorted,
    /// Keys alive at the revision.
    pub keys: u64,
    /// Leases, and how many of those keys each has.
    pub leases: BTreeMap<i64, u64>,
    /// Whether the order of operations within every revision is etcd's own; without it the hash is not.
    pub order_known: bool,
}

impl SortedKeyspace<'_> {
    /// Shows every record by (revision, sub), and whether it is after the compaction point or is what its key
    /// is at the revision.
    pub fn records<E: From<Error>>(
        self,
        mut takes: impl FnMut(&[u8]) -> bool,
        mut show: impl FnMut(KeyRecord, bool) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let SortedKeyspace { keyspace: Keyspace { nodes, spool, stretches, .. }, records, .. } = self;
        let mut last = (0, 0);
        for packed in records {
            let (at, packed) = packed.map_err(|e| spool_failed(&spool, e))?;
            let (kept, key, state) = unpack(&packed)?;
            let (revision, sub) = parse_history_key(&at).map_err(Error::from)?;
            // Those of unknown place come last in their revision, each with a place of its own.
            let taken = last.0 == revision && last.1 >= sub;
            let sub = if taken { last.1 + 1 } else { sub };
            last = (revision, sub);
            show(record(nodes, revision, sub, key, Some(state))?, kept)?;
        }
        for event in all_events(nodes, &stretches) {
            let (at, key, state) = event?;
            let (revision, sub) = parse_history_key(&at).map_err(Error::from)?;
            if takes(&key) {
                show(record(nodes, revision, sub, key, state)?, true)?;
            }
        }
        Ok(())
    }
}

fn record(
    nodes: &dyn Nodes,
    revision: i64,
    sub: i64,
    key: Vec<u8>,
    state: Option<KeyState>,
) -> Result<KeyRecord> {
    let tombstone = state.is_none();
    let kv = match state {
        None => KeyValue { key, ..KeyValue::default() },
        Some(state) if is_bump(&state) => KeyValue::default(),
        Some(state) => KeyValue {
            key,
            create_revision: state.create_revision,
            mod_revision: state.mod_revision,
            version: state.version,
            value: content_bytes(nodes, &state.value)?,
            lease: state.lease,
        },
    };
    Ok(KeyRecord { revision, sub, tombstone, kv })
}
