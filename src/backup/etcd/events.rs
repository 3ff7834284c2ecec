//! Events on their way into trees.

use super::super::{Error, Result, Run};
use super::Line;
use crate::etcd_file::{EtcdFile, KeyRecord};
use crate::format::{Anchor, Event, KeyState, MAX_INLINE_VALUE, Root, UNKNOWN_SUB};
use crate::pool::ahead;
use crate::progress::Amount;
use crate::repository::outcome;
use crate::sorter::{Sorter, greatest_of_each};
use crate::tree::{self, Edit};

/// What new events are added to.
pub(super) struct Base {
    pub anchor: Anchor,
    pub history: Option<Root>,
    /// Keys alive at `from`.
    pub keys: u64,
    /// Events after this revision are new.
    pub from: i64,
    /// Where the anchor was made anew, from a file: that. Its tree need not be readable yet.
    pub file: Option<EtcdFile>,
}

/// Events since the base.
pub(super) struct Events {
    /// By key, dated.
    pub by_key: Sorter,
    pub count: u64,
    /// Keys that were made.
    pub made: u64,
    pub deleted: u64,
}

impl Run<'_> {
    pub(super) fn events(&self) -> Events {
        Events { by_key: self.repository.spool().sorter(), count: 0, made: 0, deleted: 0 }
    }

    /// A record as the state of its key.
    pub(super) fn state(&self, record: KeyRecord) -> Result<(Vec<u8>, Option<KeyState>)> {
        let KeyRecord { revision, sub, tombstone, kv } = record;
        if tombstone {
            return Ok((kv.key, None));
        }
        let state = KeyState {
            create_revision: kv.create_revision,
            // Of the one record that is no key it is not in the record.
            mod_revision: revision,
            sub: (sub < UNKNOWN_SUB).then_some(sub),
            version: kv.version,
            lease: kv.lease,
            value: self.store_bytes(kv.value)?,
        };
        Ok((kv.key, Some(state)))
    }

    /// One more event: what it is in the history. An event weighs what its key and value do.
    pub(super) fn event(&self, record: KeyRecord, events: &mut Events) -> Result<Edit> {
        let context = self.repository.context();
        context.cancel.check()?;
        context.progress.advance(Amount { items: 1, bytes: record.kv.value.len() as u64 });
        let at = record.place();
        let (key, state) = self.state(record)?;
        events.by_key.push(&key, dated(&at, &key, state.as_ref())).map_err(|e| self.spool_error(e))?;
        events.count += 1;
        let weight = weight(&key, state.as_ref());
        let key = self.store_bytes(key)?;
        let event = match state {
            Some(KeyState { create_revision, version, lease, value, .. }) => {
                events.made += u64::from(version == 1);
                Event::Put { key, create_revision, version, lease, value }
            }
            None => {
                events.deleted += 1;
                Event::Delete { key }
            }
        };
        Ok(Edit { key: at.to_vec(), value: Some((event.encode(), weight)) })
    }

    /// The same for an event of many that are found in any order.
    pub(super) fn sort_event(
        &self,
        record: KeyRecord,
        events: &mut Events,
        history: &mut Sorter,
    ) -> Result<()> {
        let Edit { key, value } = self.event(record, events)?;
        let event = value.map_or_else(Vec::new, |(event, _)| event);
        history.push(key, event).map_err(|e| self.spool_error(e))
    }

    /// Puts events that were sorted into a history.
    pub(super) fn apply_history(&self, root: Option<Root>, history: Sorter) -> Result<Option<Root>> {
        let shape = self.repository.shape(self.repository.config().trees.history);
        let sorted = history.finish().map_err(|e| self.spool_error(e))?;
        let edits = sorted.map(|record| {
            let (key, value) = record.map_err(|e| tree::Error::Input(e.to_string()))?;
            let weight = match Event::decode(&value).map_err(|e| tree::Error::Input(e.to_string()))? {
                Event::Put { key, value, .. } => key.len() + value.len(),
                Event::Delete { key } => key.len(),
            };
            Ok(Edit { key, value: Some((value, weight)) })
        });
        Ok(tree::apply(&self.nodes, shape, root, edits)?)
    }

    /// Puts the newest state of each key into a state tree.
    pub(super) fn apply_by_key(&self, root: Option<Root>, by_key: Sorter) -> Result<Option<Root>> {
        let shape = self.repository.shape(self.repository.config().trees.anchor);
        let sorted = by_key.finish().map_err(|e| self.spool_error(e))?;
        std::thread::scope(|scope| {
            let edits = ahead(scope, Edit::held, |give| {
                for record in greatest_of_each(sorted) {
                    let (key, dated) = record.map_err(|e| tree::Error::Input(e.to_string()))?;
                    if !give(Edit { key, value: undated(dated)? }) {
                        break;
                    }
                }
                Ok(())
            });
            Ok(tree::apply(&self.nodes, shape, root, edits)?)
        })
    }

    /// The state at `revision` as a tree of its own: an edit of the old one by all events since, or
    /// built anew from the file.
    pub(super) fn reanchor(
        &self,
        line: &Line,
        base: &Base,
        mut by_key: Sorter,
        revision: i64,
    ) -> Result<Anchor> {
        let root = if let Some(file) = &base.file {
            self.sort_base(file, line.prefix, base.from, &mut by_key)?;
            None
        } else {
            for entry in tree::scan(&self.nodes, base.history.as_ref(), &[])? {
                let tree::Entry { key: at, value } = entry?;
                let (key, state) = outcome(&self.nodes, &at, &value)?;
                by_key.push(&key, dated(&at, &key, state.as_ref())).map_err(|e| self.spool_error(e))?;
            }
            base.anchor.root
        };
        Ok(Anchor { revision, root: self.apply_by_key(root, by_key)? })
    }
}

fn weight(key: &[u8], state: Option<&KeyState>) -> u64 {
    key.len() as u64 + state.map_or(0, |state| state.value.len())
}

/// Bytes before the state in what [`dated`] gives: the history key, and the weight.
const DATE: usize = 16 + 8;

/// A key's state as it goes into a tree, with its weight, as a record that sorts by revision; `at` is the
/// history key.
pub(super) fn dated(at: &[u8], key: &[u8], state: Option<&KeyState>) -> Vec<u8> {
    let mut record = Vec::with_capacity(DATE + MAX_INLINE_VALUE / 2);
    record.extend_from_slice(at);
    record.extend_from_slice(&weight(key, state).to_be_bytes());
    state.into_iter().for_each(|state| state.encode_to(&mut record));
    record
}

/// The state in what [`dated`] gave, and its weight; nothing where the key was deleted.
fn undated(mut record: Vec<u8>) -> tree::Result<Option<(Vec<u8>, u64)>> {
    let weight = record.get(16..DATE).and_then(|weight| weight.try_into().ok()).map(u64::from_be_bytes);
    let weight = weight.ok_or_else(|| tree::Error::Input("a sorted record is cut".into()))?;
    record.drain(..DATE);
    Ok(if record.is_empty() { None } else { Some((record, weight)) })
}

/// A key's new state in a state tree.
pub(super) fn edit_of(key: Vec<u8>, state: &KeyState) -> Edit {
    let weight = weight(&key, Some(state));
    Edit { key, value: Some((state.encode(), weight)) }
}

impl From<crate::etcd_file::Fault> for Error {
    fn from(fault: crate::etcd_file::Fault) -> Error {
        Error::Source(fault.into())
    }
}
