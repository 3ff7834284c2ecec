//! etcd's state at a revision: the anchor with the events after it, up to the revision, folded in.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;

use super::{Error, EtcdAt, Result};
use crate::format::{Content, Event, KeyState, Malformed, Root, UNKNOWN_SUB, history_key, parse_history_key};
use crate::id::ChunkKind;
use crate::sorter::{Spool, greatest_of_each};
use crate::tree::{self, Nodes};

/// A key and its state.
type KeyAndState = (Vec<u8>, KeyState);

/// All bytes of a value or key. For what etcd bounds, not for objects.
pub fn content_bytes(nodes: &dyn Nodes, content: &Content) -> Result<Vec<u8>> {
    bytes_of(nodes, content.clone())
}

/// The same of content that is not needed any more.
pub(super) fn bytes_of(nodes: &dyn Nodes, content: Content) -> Result<Vec<u8>> {
    if let Content::Inline(bytes) = content {
        return Ok(bytes);
    }
    let mut bytes = Vec::new();
    tree::read_chunks(nodes, &content, |id, length| {
        let chunk = nodes.get(ChunkKind::Data, &id)?;
        if chunk.len() as u64 != length {
            return Err(Error::Entry(Malformed::Length(chunk.len())));
        }
        bytes.extend_from_slice(&chunk);
        Ok(())
    })?;
    Ok(bytes)
}

/// The key an event is about.
pub fn key_of(nodes: &dyn Nodes, event: &[u8]) -> Result<Vec<u8>> {
    bytes_of(nodes, Event::key_of(event)?)
}

/// The key an event is about, and its state after it; `None` where it was deleted.
pub fn outcome(nodes: &dyn Nodes, at: &[u8], event: &[u8]) -> Result<(Vec<u8>, Option<KeyState>)> {
    let (mod_revision, sub) = parse_history_key(at)?;
    match Event::decode(event)? {
        Event::Delete { key } => Ok((bytes_of(nodes, key)?, None)),
        Event::Put { key, create_revision, version, lease, value } => {
            let sub = (sub < UNKNOWN_SUB).then_some(sub);
            let state = KeyState { create_revision, mod_revision, sub, version, lease, value };
            Ok((bytes_of(nodes, key)?, Some(state)))
        }
    }
}

/// A key's state as a record that sorts by revision; `at` is the history key.
pub fn dated(at: &[u8], state: Option<KeyState>) -> Vec<u8> {
    let state = state.map_or_else(Vec::new, |state| state.encode());
    [at, &state].concat()
}

/// The reverse of [`dated`]. A state has at least one byte; none stands for a deletion.
pub fn undated(record: &[u8]) -> Result<Option<KeyState>> {
    match record.get(16..) {
        None => Err(Malformed::Length(record.len()).into()),
        Some([]) => Ok(None),
        Some(state) => Ok(Some(KeyState::decode(state)?)),
    }
}

pub(super) fn spool_failed(spool: &Spool, error: std::io::Error) -> Error {
    Error::File(spool.to_string(), error.to_string())
}

/// Keys and their states, in order.
type States<'a> = Box<dyn Iterator<Item = Result<KeyAndState>> + 'a>;

/// Every key alive at the revision that begins with `prefix`, in order. Events are sorted in `spool` when
/// they are many.
pub fn state<'a>(nodes: &'a dyn Nodes, at: EtcdAt, prefix: &[u8], spool: &Spool) -> Result<States<'a>> {
    let is_key = |entry: &Result<KeyAndState>| entry.as_ref().map_or(true, |(_, state)| !is_bump(state));
    Ok(Box::new(state_and_bump(nodes, at, prefix, spool)?.filter(is_key)))
}

/// Whether it is no key, but what `etcdutl snapshot restore --bump-revision` leaves: an empty record.
pub(super) fn is_bump(state: &KeyState) -> bool {
    state.version == 0
}

/// The same, and what [`is_bump`] tells from a key.
pub(super) fn state_and_bump<'a>(
    nodes: &'a dyn Nodes,
    at: EtcdAt,
    prefix: &[u8],
    spool: &Spool,
) -> Result<States<'a>> {
    let below = |root: Option<&Root>| -> Result<_> {
        let prefix = prefix.to_vec();
        let keys = tree::scan(nodes, root, &prefix)?.map(|entry| {
            let tree::Entry { key, value } = entry?;
            Ok((key, KeyState::decode(&value)?))
        });
        let fits = move |(key, _): &KeyAndState| key.starts_with(&prefix);
        Ok(keys.take_while(move |entry| entry.as_ref().map_or(true, &fits)))
    };
    let (base, history) = at.base();
    let base = below(base)?;
    if history.is_none() {
        return Ok(Box::new(base));
    }
    let mut sorter = spool.large_sorter();
    for_each_event(nodes, history, at.revision, prefix, |key, event| {
        sorter.push(key, event).map_err(|e| spool_failed(spool, e))
    })?;
    let events = sorter.finish().map_err(|e| spool_failed(spool, e))?;
    let spool = spool.clone();
    let events = greatest_of_each(events).map(move |record| {
        let (key, record) = record.map_err(|e| spool_failed(&spool, e))?;
        Ok((key, undated(&record)?))
    });
    Ok(Box::new(Fold { anchor: base.peekable(), events: events.peekable() }))
}

/// Shows every event up to revision `last` about a key that begins with `prefix`, oldest first: the key,
/// and its state after it as [`dated`] gives it.
pub fn for_each_event<E: From<Error>>(
    nodes: &dyn Nodes,
    history: Option<&Root>,
    last: i64,
    prefix: &[u8],
    mut show: impl FnMut(Vec<u8>, Vec<u8>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    for event in events(nodes, history, 0, last)? {
        let tree::Entry { key: at, value } = event?;
        let (key, state) = outcome(nodes, &at, &value)?;
        if key.starts_with(prefix) {
            show(key, dated(&at, state))?;
        }
    }
    Ok(())
}

/// The events after revision `after` and up to `last`, oldest first.
pub fn events<'a>(
    nodes: &'a dyn Nodes,
    history: Option<&Root>,
    after: i64,
    last: i64,
) -> Result<impl Iterator<Item = Result<tree::Entry>> + 'a> {
    let first = history_key(after.saturating_add(1), 0);
    let end = history_key(last, i64::MAX);
    let events = tree::scan(nodes, history, &first)?;
    let wanted =
        move |entry: &tree::Result<tree::Entry>| entry.as_ref().map_or(true, |e| e.key[..] <= end[..]);
    Ok(events.take_while(wanted).map(|entry| Ok(entry?)))
}

/// An anchor's keys with the last event of each key in its place.
struct Fold<A: Iterator, E: Iterator> {
    anchor: Peekable<A>,
    events: Peekable<E>,
}

impl<A, E> Iterator for Fold<A, E>
where
    A: Iterator<Item = Result<KeyAndState>>,
    E: Iterator<Item = Result<(Vec<u8>, Option<KeyState>)>>,
{
    type Item = Result<KeyAndState>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let order = match (self.anchor.peek(), self.events.peek()) {
                (_, None) | (Some(Err(_)), _) => return self.anchor.next(),
                (None, _) | (_, Some(Err(_))) => std::cmp::Ordering::Greater,
                (Some(Ok((old, _))), Some(Ok((new, _)))) => old.cmp(new),
            };
            if order.is_lt() {
                return self.anchor.next();
            }
            if order.is_eq() {
                self.anchor.next();
            }
            match self.events.next()? {
                Ok((key, Some(state))) => return Some(Ok((key, state))),
                Ok((_, None)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The states of `keys` at the revision; of those that are alive.
pub fn keys_at(
    nodes: &dyn Nodes,
    at: EtcdAt,
    keys: &BTreeSet<Vec<u8>>,
) -> Result<BTreeMap<Vec<u8>, KeyState>> {
    let (base, history) = at.base();
    let mut found = BTreeMap::new();
    for key in keys {
        if let Some(value) = tree::get(nodes, base, key)? {
            found.insert(key.clone(), KeyState::decode(&value)?);
        }
    }
    for event in events(nodes, history, 0, at.revision)? {
        let tree::Entry { key: at, value } = event?;
        match outcome(nodes, &at, &value)? {
            (key, Some(state)) if keys.contains(&key) => drop(found.insert(key, state)),
            (key, None) => drop(found.remove(&key)),
            _ => {}
        }
    }
    Ok(found)
}
