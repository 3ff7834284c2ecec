//! What differs between two moments.

use super::{Browser, Error, Prefix, Prefixes, Result, Side, check_objects, etcd_of};
use crate::context::Nanos;
use crate::format::{Attributes, Item, KeyState, Root};
use crate::repository::{EtcdAt, Moment, for_each_event, objects, undated};
use crate::sorter::{Sorted, Sorter, paired};
use crate::tree::{self, Nodes};

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
    (before, after): (&Moment, &Moment),
    side: Side,
    prefix: &[u8],
    show: &mut dyn FnMut(DiffLine) -> Result<()>,
) -> Result<()> {
    match side {
        Side::Etcd => keys(browser, before, after, prefix, show),
        Side::Objects => items(browser, before, after, prefix, show),
    }
}

/// A state of etcd: a tree, and events up to a revision to be folded into it.
struct Parts<'a> {
    base: Option<&'a Root>,
    history: Option<&'a Root>,
    last: i64,
}

impl<'a> Parts<'a> {
    fn folded(at: EtcdAt<'a>) -> Parts<'a> {
        let (anchor, history) = (&at.capture.anchor, &at.capture.history);
        Parts { base: anchor.root.as_ref(), history: history.as_ref(), last: at.revision }
    }

    fn whole(at: EtcdAt<'a>) -> Parts<'a> {
        let (base, history) = at.base();
        Parts { base, history, last: at.revision }
    }

    /// The two states by what they share: of one anchor, only the events can differ.
    fn of(a: EtcdAt<'a>, b: EtcdAt<'a>) -> (Parts<'a>, Parts<'a>) {
        let (x, y) = (Parts::whole(a), Parts::whole(b));
        match a.capture.anchor == b.capture.anchor && (x.history.is_some() || y.history.is_some()) {
            true => (Parts::folded(a), Parts::folded(b)),
            false => (x, y),
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

/// Every key that may differ goes to a sorter: what differs in the bases, and what has an event.
fn sort_touched(
    browser: &Browser,
    nodes: &dyn Nodes,
    (before, after): (&Parts, &Parts),
    prefix: &[u8],
) -> Result<Sorter> {
    let mut sorter = browser.repository.spool().large_sorter();
    let cancel = &browser.repository.context().cancel;
    let mut push = |key: Vec<u8>, kind: u8, event: &[u8]| -> Result<()> {
        cancel.check()?;
        let pushed = sorter.push(key, [&[kind], event].concat());
        Ok(pushed.map_err(|e| browser.repository.spool_failed(e))?)
    };
    tree::diff(nodes, before.base, after.base, |change| match change.key.starts_with(prefix) {
        true => push(change.key, BASES, &[]),
        false => Ok(()),
    })?;
    for (parts, kind) in [(before, BEFORE), (after, AFTER)] {
        for_each_event(nodes, parts.history, parts.last, prefix, |key, event| push(key, kind, &event))?;
    }
    Ok(sorter)
}

fn keys(
    browser: &Browser,
    before: &Moment,
    after: &Moment,
    prefix: &[u8],
    show: &mut dyn FnMut(DiffLine) -> Result<()>,
) -> Result<()> {
    let (before, after) = Parts::of(etcd_of(before)?, etcd_of(after)?);
    let nodes = browser.nodes();
    let sorter = sort_touched(browser, &nodes, (&before, &after), prefix)?;
    let failed = |e| browser.repository.spool_failed(e);
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

fn items(
    browser: &Browser,
    before: &Moment,
    after: &Moment,
    prefix: &[u8],
    show: &mut dyn FnMut(DiffLine) -> Result<()>,
) -> Result<()> {
    check_objects(before)?;
    check_objects(after)?;
    let nodes = browser.nodes();
    let mut line = |key: Vec<u8>, before: Option<Vec<u8>>, after: Option<Vec<u8>>| {
        browser.repository.context().cancel.check()?;
        if before == after || !key.starts_with(prefix) {
            return Ok(());
        }
        let (before, after) = (before.as_deref().map(of_object), after.as_deref().map(of_object));
        show(DiffLine { side: Side::Objects, key, before: before.transpose()?, after: after.transpose()? })
    };
    let between = |moment: &Moment| moment.objects().is_some_and(|(_, before)| before.is_some());
    if between(before) || between(after) {
        // Between snapshots objects come from two trees: every one is looked at.
        let at = |moment| -> Result<_> {
            let entries = objects(&nodes, moment, prefix)?;
            Ok(entries.map(|entry| entry.map(|(key, value, _)| (key, value)).map_err(Error::from)))
        };
        for pair in paired(at(before)?, at(after)?) {
            let (key, before, after) = pair?;
            line(key, before, after)?;
        }
        return Ok(());
    }
    let root = |moment: &Moment| moment.info.snapshot.objects.as_ref().and_then(|objects| objects.root);
    tree::diff(&nodes, root(before).as_ref(), root(after).as_ref(), |change| {
        line(change.key, change.before, change.after)
    })
}
