//! What etcd's own store holds at a revision, once it was compacted at an earlier one: of each key alive at
//! the compaction point its newest record, and every record since.

use std::collections::BTreeMap;
use std::thread::Scope;

use super::state::{bytes_of, events, is_bump, outcome, spool_failed, state_and_bump};
use super::{Error, EtcdAt, Result};
use crate::etcd_file::{KeyRecord, KeyValue};
use crate::format::{
    EtcdCapture, KeyState, MAX_INLINE_VALUE, Malformed, Root, UNKNOWN_SUB, history_key, parse_history_key,
};
use crate::pool::ahead;
use crate::sorter::{Sorter, Spool, greatest_of_each, paired};
use crate::tree::{self, Nodes};

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
    spool: Spool,
    /// The state at the compaction point.
    base: EtcdAt<'a>,
    /// All since, oldest first.
    stretches: Vec<Stretch<'a>>,
}

/// The last that happened to a key since the compaction point.
struct Last {
    /// The lease and the checksum of its state, where it is alive.
    alive: Option<(i64, u64)>,
}

impl Last {
    /// Sorts by revision; `at` is the history key.
    fn encode(&self, at: &[u8]) -> Vec<u8> {
        let (lease, sum) = self.alive.unwrap_or_default();
        [at, &lease.to_be_bytes(), &sum.to_be_bytes(), &[u8::from(self.alive.is_some())]].concat()
    }

    fn decode(record: &[u8]) -> Result<Last> {
        let word = |at: usize| record.get(at..at + 8).and_then(|word| word.try_into().ok());
        let (Some(lease), Some(sum), Some(alive)) = (word(16), word(24), record.get(32)) else {
            return Err(Malformed::Length(record.len()).into());
        };
        let alive = (*alive != 0).then(|| (i64::from_be_bytes(lease), u64::from_be_bytes(sum)));
        Ok(Last { alive })
    }
}

/// What tells a key's state from another one, of the bytes it is stored as. A checksum finds what goes wrong
/// by accident, and any difference in one place.
pub fn checksum(state: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, state)
}

/// Whether a record counts in etcd's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is after the compaction point, or what its key is at the revision.
    Yes,
    /// Its key was changed after the compaction point.
    No,
    /// The same, and no key is alive at the revision.
    NoneAlive,
}

/// What is alive at the revision.
#[derive(Debug, Default)]
pub struct Alive {
    /// Keys.
    pub keys: u64,
    /// Leases, and how many of those keys each has.
    pub leases: BTreeMap<i64, u64>,
    /// Whether the order of operations within every revision is etcd's own; without it the hash is not.
    pub order_known: bool,
}

impl<'a> Keyspace<'a> {
    /// The keyspace at a revision, compacted at `compacted`. Where that lies before the anchor, histories of
    /// other captures of the `line` lead back; the error is the oldest revision that they lead back to.
    pub fn new(
        nodes: &'a dyn Nodes,
        at: EtcdAt<'a>,
        line: &[&'a EtcdCapture],
        compacted: i64,
        spool: &Spool,
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
        Ok(Keyspace { nodes, spool: spool.clone(), base, stretches })
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

    /// Shows every record of a wanted key by (revision, sub), and whether it counts in etcd's hash. `living` is
    /// shown every key alive in the end, in order, with the [`checksum`] of its state.
    pub fn read<E: From<Error>>(
        self,
        takes: &dyn Fn(&[u8]) -> bool,
        living: Option<&mut Living>,
        mut show: impl FnMut(KeyRecord, Kept) -> std::result::Result<(), E>,
    ) -> std::result::Result<Alive, E> {
        let mut survey = Survey::new(&self.spool, living);
        let alone = self.base.base() == (None, None);
        if !alone {
            // What is alive in the end decides what counts of the base.
            for event in all_events(self.nodes, &self.stretches) {
                let (at, key, state) = event?;
                survey.event(takes, &at, &key, state.as_ref())?;
            }
            self.show_base(takes, &mut survey, &mut show)?;
        }
        std::thread::scope(|scope| {
            for event in self.events_ahead(scope) {
                let (at, key, state) = event?;
                if alone {
                    survey.event(takes, &at, &key, state.as_ref())?;
                }
                if takes(&key) {
                    let (revision, sub) = parse_history_key(&at).map_err(Error::from)?;
                    show(record(self.nodes, revision, sub, key, state)?, Kept::Yes)?;
                }
            }
            Ok::<(), E>(())
        })?;
        if alone {
            survey.fold(std::iter::empty(), |_, _, _| Ok(()))?;
        }
        Ok(survey.alive)
    }

    /// What is alive in the end, of the wanted keys.
    pub fn alive(self, takes: &dyn Fn(&[u8]) -> bool) -> Result<Alive> {
        let mut survey = Survey::new(&self.spool, None);
        for event in all_events(self.nodes, &self.stretches) {
            let (at, key, state) = event?;
            survey.event(takes, &at, &key, state.as_ref())?;
        }
        let base = state_and_bump(self.nodes, self.base, &[], &self.spool)?;
        let base = base.filter(|entry| entry.as_ref().map_or(true, |(key, _)| takes(key)));
        let mut order_known = true;
        survey.fold(base, |_, state, _| {
            order_known &= state.sub.is_some();
            Ok(())
        })?;
        survey.alive.order_known &= order_known;
        Ok(survey.alive)
    }

    /// Every event, read some way ahead.
    fn events_ahead<'s>(&'s self, scope: &'s Scope<'s, '_>) -> impl Iterator<Item = Result<EventAt>> + 's {
        // A value that stands in its event is small.
        let held = |(at, key, _): &EventAt| size_of::<EventAt>() + at.len() + key.len() + MAX_INLINE_VALUE;
        ahead(scope, held, move |give| {
            for event in all_events(self.nodes, &self.stretches) {
                if !give(event?) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Shows what is alive at the compaction point.
    fn show_base<E: From<Error>>(
        &self,
        takes: &dyn Fn(&[u8]) -> bool,
        survey: &mut Survey,
        show: &mut impl FnMut(KeyRecord, Kept) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let failed = |e| spool_failed(&self.spool, e);
        let mut records = self.spool.large_sorter();
        let base = state_and_bump(self.nodes, self.base, &[], &self.spool)?;
        let base = base.filter(|entry| entry.as_ref().map_or(true, |(key, _)| takes(key)));
        let mut order_known = true;
        survey.fold(base, |key, state, kept| {
            order_known &= state.sub.is_some();
            let at = history_key(state.mod_revision, state.sub.unwrap_or(UNKNOWN_SUB));
            records.push(at, pack(kept, key, state)).map_err(failed)
        })?;
        survey.alive.order_known &= order_known;
        let changed = if survey.alive.keys == 0 { Kept::NoneAlive } else { Kept::No };
        let mut last = (0, 0);
        for packed in records.finish().map_err(failed)? {
            let (at, packed) = packed.map_err(failed)?;
            let (kept, key, state) = unpack(&packed)?;
            let (revision, sub) = parse_history_key(&at).map_err(Error::from)?;
            // Those of unknown place come last in their revision, each with a place of its own.
            let taken = last.0 == revision && last.1 >= sub;
            let sub = if taken { last.1 + 1 } else { sub };
            last = (revision, sub);
            let kept = if kept { Kept::Yes } else { changed };
            show(record(self.nodes, revision, sub, key, Some(state))?, kept)?;
        }
        Ok(())
    }
}

/// Is shown keys and the checksums of their states.
pub type Living<'a> = dyn FnMut(&[u8], u64) -> Result<()> + 'a;

/// Finds out what is alive in the end.
struct Survey<'a, 'l> {
    spool: &'a Spool,
    /// By key, every event as [`Last`].
    touched: Sorter,
    living: Option<&'a mut Living<'l>>,
    alive: Alive,
}

impl<'a, 'l> Survey<'a, 'l> {
    fn new(spool: &'a Spool, living: Option<&'a mut Living<'l>>) -> Survey<'a, 'l> {
        let alive = Alive { order_known: true, ..Alive::default() };
        Survey { spool, touched: spool.large_sorter(), living, alive }
    }

    fn event(
        &mut self,
        takes: &dyn Fn(&[u8]) -> bool,
        at: &[u8],
        key: &[u8],
        state: Option<&KeyState>,
    ) -> Result<()> {
        self.alive.order_known &= parse_history_key(at)?.1 < UNKNOWN_SUB;
        if !takes(key) {
            return Ok(());
        }
        let sum = |state: &KeyState| if self.living.is_some() { checksum(&state.encode()) } else { 0 };
        let last = Last { alive: state.map(|state| (state.lease, sum(state))) };
        self.touched.push(key, last.encode(at)).map_err(|e| spool_failed(self.spool, e))
    }

    /// Folds the events into the base, which `show` is shown: key, state, and whether no event is about it.
    fn fold(
        &mut self,
        base: impl Iterator<Item = Result<(Vec<u8>, KeyState)>>,
        mut show: impl FnMut(&[u8], &KeyState, bool) -> Result<()>,
    ) -> Result<()> {
        let Survey { spool, touched, living, alive } = self;
        let failed = |e| spool_failed(spool, e);
        let touched = std::mem::replace(touched, spool.small_sorter()).finish().map_err(failed)?;
        let touched = greatest_of_each(touched).map(|record| {
            let (key, last) = record.map_err(failed)?;
            Ok((key, Last::decode(&last)?))
        });
        for pair in paired(base, touched) {
            let (key, state, last) = pair?;
            if let Some(state) = &state {
                show(&key, state, last.is_none())?;
            }
            let of_base = || {
                let state = state.as_ref()?;
                let sum = if living.is_some() { checksum(&state.encode()) } else { 0 };
                Some((state.lease, sum))
            };
            let Some((lease, sum)) = last.map_or_else(of_base, |last| last.alive) else { continue };
            alive.keys += 1;
            if lease != 0 {
                *alive.leases.entry(lease).or_default() += 1;
            }
            if let Some(living) = living {
                living(&key, sum)?;
            }
        }
        Ok(())
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
            value: bytes_of(nodes, state.value)?,
            lease: state.lease,
        },
    };
    Ok(KeyRecord { revision, sub, tombstone, kv })
}
