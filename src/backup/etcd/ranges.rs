//! Capture by ranged reads at one revision, for users who may not have the whole file. What differs from
//! the parent's state becomes events; what happened between the two is not seen.

use std::collections::BTreeSet;

use super::super::{Error, Result, Run};
use super::events::edit_of;
use super::past::other_past;
use super::{Base, Found, Line, base_of, refused};
use crate::etcd::{Counted, Etcd, Present, Span};
use crate::etcd_file::{KeyRecord, KeyValue};
use crate::fault::Kind;
use crate::format::{Anchor, CapturePath, Content, Gap, KeyState, Mark, Root, UNKNOWN_SUB};
use crate::progress::{Amount, Phase};
use crate::repository::{EtcdAt, state};
use crate::sorter::{Sorted, Sorter, paired};
use crate::source::{self, ranges};
use crate::tree;

/// How often reading begins again at a newer revision when etcd was compacted meanwhile.
const ATTEMPTS: u32 = 5;

/// All keys at one revision.
struct Scanned {
    mark: Mark,
    /// By key: a state with its whole value, or with none where the parent has it.
    keys: Sorter,
    count: u64,
    leases: BTreeSet<i64>,
}

impl Run<'_> {
    /// Reads every key.
    pub(super) fn by_ranges(&mut self, etcd: &Etcd, line: &Line) -> Result<Found> {
        let Scanned { mark, keys, count, leases } = self.scan(etcd, line)?;
        self.check_forward(line, mark.revision)?;
        self.repository.context().progress.begin(Phase { name: "comparing keys", unit: "events" });
        let sorted = keys.finish().map_err(|e| self.spool_error(e))?;
        let (mut events, mut history) = (self.events(), self.repository.spool().sorter());
        let (base, gap) = match line.parent {
            Some(parent) => {
                self.differences(line, sorted, mark.revision, &mut |record| {
                    self.sort_event(record, &mut events, &mut history)
                })?;
                // Of the revisions between the two only the last is known.
                let unseen = mark.revision - parent.revision > 1;
                (base_of(parent), unseen.then_some(Gap { after: parent.revision, until: mark.revision }))
            }
            None => (self.whole_base(sorted, mark.revision)?, None),
        };
        let system = self.leases(etcd, &leases, line.parent)?;
        let history = self.apply_history(base.history, history)?;
        let (path, keys, compacted) = (CapturePath::Range, Some(count), self.compacted(etcd, line)?);
        Ok(Found { path, mark, compacted, base, events, history, keys, gap, system })
    }

    /// Reads all keys at one revision, anew where etcd is compacted beyond it before the end.
    fn scan(&mut self, etcd: &Etcd, line: &Line) -> Result<Scanned> {
        let span = Span::of_prefix(line.prefix);
        for _ in 0..ATTEMPTS {
            let from = self.repository.context().clock.now();
            let counted = match etcd.count(&span, 0) {
                Err(error) if error.kind() == Kind::Denied => return Err(refused(etcd, line, error)),
                counted => counted.map_err(source::Error::from)?,
            };
            let to = self.repository.context().clock.now();
            match self.scan_at(etcd, line, &span, counted) {
                Err(Error::Source(source::Error::Etcd(error))) if error.is_compacted() => {
                    self.repository.context().progress.note(&format!(
                        "etcd was compacted beyond revision {} while its keys were read; they are read again",
                        counted.revision
                    ));
                }
                Err(error) => return Err(error),
                Ok((keys, count, leases)) => {
                    let mark = Mark { revision: counted.revision, from, to };
                    return Ok(Scanned { mark, keys, count, leases });
                }
            }
        }
        Err(source::Error::Outrun(etcd.endpoint().to_owned(), ATTEMPTS).into())
    }

    fn scan_at(
        &self,
        etcd: &Etcd,
        line: &Line,
        span: &Span,
        counted: Counted,
    ) -> Result<(Sorter, u64, BTreeSet<i64>)> {
        let context = self.repository.context();
        context.progress.begin(Phase { name: "reading etcd", unit: "keys" });
        context.progress.expect(Amount { items: counted.keys, bytes: 0 });
        context.progress.settled();
        let known = line.parent.map_or(0, |parent| parent.revision);
        let (mut keys, mut count, mut leases) = (self.repository.spool().sorter(), 0, BTreeSet::new());
        ranges(etcd, span, counted, &context.cancel, |page| {
            let bytes = page.iter().map(|present| present.value.len() as u64).sum();
            context.progress.advance(Amount { items: page.len() as u64, bytes });
            count += page.len() as u64;
            leases.extend(page.iter().map(|present| present.lease).filter(|lease| *lease != 0));
            page.into_iter().try_for_each(|present| {
                let (key, state) = spooled(present, known);
                keys.push(key, state.encode()).map_err(|e| self.spool_error(e))
            })
        })?;
        if count != counted.keys {
            let why = format!("{count} keys arrived of {}", counted.keys);
            return Err(source::Error::Torn(etcd.endpoint().to_owned(), why).into());
        }
        Ok((keys, count, leases))
    }

    /// All keys as a new base at `revision`.
    fn whole_base(&self, sorted: Sorted, revision: i64) -> Result<Base> {
        let shape = self.repository.shape(self.repository.config().trees.anchor);
        let edits = sorted.map(|record| {
            let (key, state) = record.map_err(|e| tree::Error::Input(e.to_string()))?;
            let state = KeyState::decode(&state).map_err(|e| tree::Error::Input(e.to_string()))?;
            let value = self.store_bytes(whole(state.value))?;
            Ok(edit_of(key, &KeyState { value, ..state }))
        });
        let root: Option<Root> = tree::apply(&self.nodes, shape, None, edits)?;
        let keys = tree::count(root.as_ref());
        Ok(Base { anchor: Anchor { revision, root }, history: None, keys, from: revision, file: None })
    }

    /// What differs from the parent's state, as events: puts at their own revision, deletions, of which
    /// only the last possible revision is known, at `revision`.
    fn differences(
        &self,
        line: &Line,
        sorted: Sorted,
        revision: i64,
        show: &mut dyn FnMut(KeyRecord) -> Result<()>,
    ) -> Result<()> {
        let Some(parent) = line.parent else { return Ok(()) };
        let spool = self.repository.spool();
        let old =
            state(&self.nodes, EtcdAt::whole(parent), &[], &spool)?.map(|entry| entry.map_err(Error::from));
        let new = sorted.map(|record| {
            let (key, state) = record.map_err(|e| self.spool_error(e))?;
            Ok((key, KeyState::decode(&state)?))
        });
        // Places within a revision are not shown: the order of keys gives each event one of its own.
        let mut sub = UNKNOWN_SUB;
        for pair in paired(old, new) {
            let (key, old, new) = pair?;
            let record = match (old, new) {
                (Some(old), Some(new)) if old.mod_revision == new.mod_revision => continue,
                (_, Some(new)) if new.mod_revision > parent.revision => KeyRecord {
                    revision: new.mod_revision,
                    sub,
                    tombstone: false,
                    kv: KeyValue {
                        key,
                        create_revision: new.create_revision,
                        mod_revision: new.mod_revision,
                        version: new.version,
                        value: whole(new.value),
                        lease: new.lease,
                    },
                },
                (Some(_), None) if revision > parent.revision => {
                    let kv = KeyValue { key, ..KeyValue::default() };
                    KeyRecord { revision, sub, tombstone: true, kv }
                }
                _ => return Err(other_past(&key, parent.revision)),
            };
            sub += 1;
            show(record)?;
        }
        Ok(())
    }
}

/// A key as it waits to be compared. Values that the parent has are not kept.
fn spooled(present: Present, known: i64) -> (Vec<u8>, KeyState) {
    let Present { key, value, lease, mod_revision, create_revision, version } = present;
    let value = Content::Inline(if mod_revision > known { value } else { Vec::new() });
    (key, KeyState { create_revision, mod_revision, sub: None, version, lease, value })
}

/// The bytes of a value that waited.
fn whole(value: Content) -> Vec<u8> {
    match value {
        Content::Inline(bytes) => bytes,
        Content::Chunks(_) | Content::Tree(_) => Vec::new(),
    }
}
