//! What differs between two snapshots.

use std::path::Path;

use super::{Browser, Error, Prefix, Prefixes, Result, Side, lacks};
use crate::context::Nanos;
use crate::format::{Attributes, EtcdCapture, Item, KeyState, Root};
use crate::repository::{self, SnapshotInfo, for_each_event, undated};
use crate::sorter::{Sorted, Sorter};
use crate::tree::{self, Nodes};

/// Memory for sorting what differs.
const SORT_BYTES: usize = 64 << 20;

/// A key or object that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffLine {
    /// The side it is on.
    pub side: Side,
    /// The key.
    pub key: Vec<u8>,
    /// As it was; `None` where it was added.
    pub before: Option<Summary>,
    /// As it is; `None` where it was removed.
    pub after: Option<Summary>,
}

/// One version of a key or object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the value or body.
    pub size: u64,
    /// The revision of a key's value.
    pub mod_revision: Option<i64>,
    /// An object's ETag.
    pub etag: Option<String>,
    /// When an object or file was last modified.
    pub modified: Option<Nanos>,
}

fn of_key(state: &KeyState) -> Summary {
    Summary { size: state.value.len(), mod_revision: Some(state.mod_revision), etag: None, modified: None }
}

fn of_object(value: &[u8]) -> Result<Summary> {
    let item = Item::decode(value)?;
    let etag = match item.attributes {
        Attributes::Object(attributes) => Some(attributes.etag),
        Attributes::File(_) => None,
    };
    Ok(Summary { size: item.size, mod_revision: None, etag, modified: Some(item.modified) })
}

/// How much differs on one side.
pub struct DiffStat {
    /// The side.
    pub side: Side,
    /// Keys or objects of the second snapshot alone, and their bytes.
    pub added: (u64, u64),
    /// Of the first alone.
    pub removed: (u64, u64),
    /// In both, and other: how many, their bytes in the first and in the second.
    pub changed: (u64, u64, u64),
    /// Where most differs.
    prefixes: Prefixes,
}

impl DiffStat {
    /// Of nothing yet.
    pub fn new(side: Side) -> DiffStat {
        let prefixes = Prefixes::new(|prefix| prefix.count);
        DiffStat { side, added: (0, 0), removed: (0, 0), changed: (0, 0, 0), prefixes }
    }

    /// Counts a line; lines come in order.
    pub fn add(&mut self, line: &DiffLine) {
        let size = |summary: &Option<Summary>| summary.as_ref().map_or(0, |summary| summary.size);
        let (before, after) = (size(&line.before), size(&line.after));
        match (&line.before, &line.after) {
            (None, _) => self.added = (self.added.0 + 1, self.added.1 + after),
            (_, None) => self.removed = (self.removed.0 + 1, self.removed.1 + before),
            _ => {
                let (count, was, is) = self.changed;
                self.changed = (count + 1, was + before, is + after);
            }
        }
        self.prefixes.add(&line.key, before.max(after));
    }

    /// Below which most keys differ, most first; their bytes are those of the larger version of each.
    pub fn into_prefixes(self) -> Vec<Prefix> {
        self.prefixes.finish()
    }
}

/// Shows every key and object that differs and begins with `prefix`, in order.
pub fn diff(
    browser: &Browser,
    (before, after): (&SnapshotInfo, &SnapshotInfo),
    side: Side,
    prefix: &[u8],
    show: &mut dyn FnMut(DiffLine) -> Result<()>,
) -> Result<()> {
    match side {
        Side::Etcd => keys(browser, before, after, prefix, show),
        Side::Objects => objects(browser, before, after, prefix, show),
    }
}

/// A state of etcd: a tree, and events to be folded into it.
struct Parts<'a> {
    base: Option<&'a Root>,
    history: Option<&'a Root>,
}

impl<'a> Parts<'a> {
    fn folded(capture: &'a EtcdCapture) -> Parts<'a> {
        Parts { base: capture.anchor.root.as_ref(), history: capture.history.as_ref() }
    }

    fn whole(capture: &'a EtcdCapture) -> Parts<'a> {
        match &capture.state {
            Some(state) => Parts { base: state.root.as_ref(), history: None },
            None => Parts::folded(capture),
        }
    }

    /// The two states by what they share: of one anchor, only the events can differ.
    fn of(a: &'a EtcdCapture, b: &'a EtcdCapture) -> (Parts<'a>, Parts<'a>) {
        let both_whole = a.state.is_some() && b.state.is_some();
        match a.anchor == b.anchor && !both_whole {
            true => (Parts::folded(a), Parts::folded(b)),
            false => (Parts::whole(a), Parts::whole(b)),
        }
    }
}

/// What a record in the sorter says of its key: it differs in the bases, or an event of one side follows.
const BASES: u8 = 0;
const BEFORE: u8 = 1;
const AFTER: u8 = 2;

/// A key that may differ, with its last event on each side, dated.
#[derive(Default)]
struct Touched {
    key: Vec<u8>,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
}

/// The keys that may differ, in order.
fn touched(sorted: Sorted) -> impl Iterator<Item = std::io::Result<Touched>> {
    let mut sorted = sorted.peekable();
    std::iter::from_fn(move || {
        let mut found = match sorted.peek()? {
            Ok((key, _)) => Touched { key: key.clone(), ..Touched::default() },
            Err(_) => Touched::default(),
        };
        // Events of one key come oldest first: the last one stays.
        while let Some(record) =
            sorted.next_if(|next| next.as_ref().map_or(true, |(key, _)| *key == found.key))
        {
            match record {
                Ok((_, record)) => match record.split_first() {
                    Some((&BEFORE, event)) => found.before = Some(event.to_vec()),
                    Some((&AFTER, event)) => found.after = Some(event.to_vec()),
                    _ => {}
                },
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(found))
    })
}

fn spool_failed(spool: &Path, error: std::io::Error) -> Error {
    repository::Error::File(spool.display().to_string(), error.to_string()).into()
}

/// Every key that may differ goes to a sorter: what differs in the bases, and what has an event.
fn sort_touched(
    browser: &Browser,
    nodes: &dyn Nodes,
    (before, after): (&Parts, &Parts),
    prefix: &[u8],
) -> Result<Sorter> {
    let spool = browser.repository.spool();
    let mut sorter = Sorter::new(&spool, SORT_BYTES);
    let cancel = &browser.repository.context().cancel;
    let mut push = |key: Vec<u8>, kind: u8, event: &[u8]| {
        cancel.check()?;
        sorter.push(key, [&[kind], event].concat()).map_err(|e| spool_failed(&spool, e))
    };
    tree::diff(nodes, before.base, after.base, |change| match change.key.starts_with(prefix) {
        true => push(change.key, BASES, &[]),
        false => Ok(()),
    })?;
    for (parts, kind) in [(before, BEFORE), (after, AFTER)] {
        for_each_event(nodes, parts.history, prefix, |key, event| push(key, kind, &event))?;
    }
    Ok(sorter)
}

fn keys(
    browser: &Browser,
    before: &SnapshotInfo,
    after: &SnapshotInfo,
    prefix: &[u8],
    show: &mut dyn FnMut(DiffLine) -> Result<()>,
) -> Result<()> {
    fn capture(info: &SnapshotInfo) -> Result<&EtcdCapture> {
        info.snapshot.etcd.as_ref().ok_or_else(|| lacks(info, Side::Etcd))
    }
    let (before, after) = Parts::of(capture(before)?, capture(after)?);
    let nodes = browser.nodes();
    let sorter = sort_touched(browser, &nodes, (&before, &after), prefix)?;
    let failed = |e| spool_failed(&browser.repository.spool(), e);
    let state = |event: Option<Vec<u8>>, base: Option<&Root>, key: &[u8]| -> Result<Option<KeyState>> {
        if let Some(event) = event {
            return Ok(undated(&event)?);
        }
        let value = tree::get(&nodes, base, key)?;
        Ok(value.map(|value| KeyState::decode(&value)).transpose()?)
    };
    for found in touched(sorter.finish().map_err(failed)?) {
        browser.repository.context().cancel.check()?;
        let Touched { key, before: event_before, after: event_after } = found.map_err(failed)?;
        if event_before.is_some() && event_before == event_after {
            continue;
        }
        let x = state(event_before, before.base, &key)?;
        let y = state(event_after, after.base, &key)?;
        let same = match (&x, &y) {
            (Some(x), Some(y)) => x.mod_revision == y.mod_revision && x.value == y.value,
            (x, y) => x.is_none() && y.is_none(),
        };
        if !same {
            let (before, after) = (x.as_ref().map(of_key), y.as_ref().map(of_key));
            show(DiffLine { side: Side::Etcd, key, before, after })?;
        }
    }
    Ok(())
}

fn objects(
    browser: &Browser,
    before: &SnapshotInfo,
    after: &SnapshotInfo,
    prefix: &[u8],
    show: &mut dyn FnMut(DiffLine) -> Result<()>,
) -> Result<()> {
    let root = |info: &SnapshotInfo| match &info.snapshot.objects {
        Some(objects) => Ok(objects.root),
        None => Err(lacks(info, Side::Objects)),
    };
    let (root_a, root_b) = (root(before)?, root(after)?);
    let nodes = browser.nodes();
    tree::diff(&nodes, root_a.as_ref(), root_b.as_ref(), |change| {
        browser.repository.context().cancel.check()?;
        if !change.key.starts_with(prefix) {
            return Ok(());
        }
        let (before, after) =
            (change.before.as_deref().map(of_object), change.after.as_deref().map(of_object));
        let (before, after) = (before.transpose()?, after.transpose()?);
        show(DiffLine { side: Side::Objects, key: change.key, before, after })?;
        Ok::<(), Error>(())
    })
}
