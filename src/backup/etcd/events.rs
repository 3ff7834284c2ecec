//! Events on their way into trees.

use super::super::{Error, Result, Run};
use crate::etcd_file::KeyRecord;
use crate::format::{Anchor, Content, Event, KeyState, Root, UNKNOWN_SUB, history_key};
use crate::progress::Amount;
use crate::repository::{dated, outcome, undated};
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
    /// It is the parent's.
    pub continued: bool,
}

/// Events since the base.
pub(super) struct Events {
    /// By revision.
    pub history: Sorter,
    /// By key, dated. Where the base is new, what it holds, too.
    pub by_key: Sorter,
    pub count: u64,
    /// Keys that were made.
    pub made: u64,
    pub deleted: u64,
}

impl Run<'_> {
    pub(super) fn events(&self) -> Events {
        Events { history: self.sorter(), by_key: self.sorter(), count: 0, made: 0, deleted: 0 }
    }

    /// A record as the state of its key.
    pub(super) fn by_key(&self, record: KeyRecord) -> Result<(Vec<u8>, Vec<u8>)> {
        let KeyRecord { revision, sub, tombstone, kv } = record;
        let state = match tombstone {
            true => None,
            false => Some(KeyState {
                create_revision: kv.create_revision,
                // Of the one record that is no key it is not in the record.
                mod_revision: revision,
                sub: (sub < UNKNOWN_SUB).then_some(sub),
                version: kv.version,
                lease: kv.lease,
                value: self.store_bytes(kv.value)?,
            }),
        };
        Ok((kv.key, dated(&history_key(revision, sub), state)))
    }

    /// One more event.
    pub(super) fn event(&self, record: KeyRecord, events: &mut Events) -> Result<()> {
        let context = self.repository.context();
        context.cancel.check()?;
        context.progress.advance(Amount { items: 1, bytes: record.kv.value.len() as u64 });
        let at = history_key(record.revision, record.sub);
        let (created, lease, version) = (record.kv.create_revision, record.kv.lease, record.kv.version);
        let (key, dated) = self.by_key(record)?;
        let name = self.store_bytes(key.clone())?;
        let event = match undated(&dated)? {
            Some(KeyState { value, .. }) => {
                events.made += u64::from(version == 1);
                Event::Put { key: name, create_revision: created, version, lease, value }
            }
            None => {
                events.deleted += 1;
                Event::Delete { key: name }
            }
        };
        events.count += 1;
        events.history.push(at.to_vec(), event.encode()).map_err(|e| self.spool_error(e))?;
        events.by_key.push(key, dated).map_err(|e| self.spool_error(e))
    }

    /// Puts sorted events into a history. An event weighs what its key and value do.
    pub(super) fn apply_sorted(
        &self,
        shape: tree::Shape,
        root: Option<Root>,
        sorter: Sorter,
    ) -> Result<Option<Root>> {
        let sorted = sorter.finish().map_err(|e| self.spool_error(e))?;
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
    pub(super) fn apply_by_key(&self, root: Option<Root>, sorter: Sorter) -> Result<Option<Root>> {
        let shape = self.repository.shape(self.repository.config().trees.anchor);
        let sorted = sorter.finish().map_err(|e| self.spool_error(e))?;
        let edits = greatest_of_each(sorted).map(|record| {
            let (key, record) = record.map_err(|e| tree::Error::Input(e.to_string()))?;
            let state = undated(&record).map_err(|e| tree::Error::Input(e.to_string()))?;
            Ok(edit_of(key, state))
        });
        Ok(tree::apply(&self.nodes, shape, root, edits)?)
    }

    /// The state at `revision` as a tree of its own: an edit of the old one by all events since, or
    /// built anew where `by_key` has everything.
    pub(super) fn reanchor(&self, base: &Base, mut by_key: Sorter, revision: i64) -> Result<Anchor> {
        let root = if base.continued {
            for entry in tree::scan(&self.nodes, base.history.as_ref(), &[])? {
                let tree::Entry { key: at, value } = entry?;
                let (key, state) = outcome(&self.nodes, &at, &value)?;
                by_key.push(key, dated(&at, state)).map_err(|e| self.spool_error(e))?;
            }
            base.anchor.root
        } else {
            None
        };
        Ok(Anchor { revision, root: self.apply_by_key(root, by_key)? })
    }
}

/// A key's new state, or its removal, in a state tree.
pub(super) fn edit_of(key: Vec<u8>, state: Option<KeyState>) -> Edit {
    let value = state.map(|state| {
        let weight = key.len() as u64 + Content::len(&state.value);
        (state.encode(), weight)
    });
    Edit { key, value }
}

impl From<crate::etcd_file::Fault> for Error {
    fn from(fault: crate::etcd_file::Fault) -> Error {
        Error::Source(fault.into())
    }
}
