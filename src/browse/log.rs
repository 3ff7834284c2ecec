//! The history of keys: every event that any snapshot of a series tells, each once.

use std::cmp::Reverse;

use super::{Browser, Error, Result};
use crate::context::Nanos;
use crate::format::{EtcdCapture, KeyState, Root, history_key, parse_history_key};
use crate::repository::{self, EtcdAt, Line, Marks, SnapshotInfo, events, key_of, lines, outcome, state};
use crate::sorter::{Spool, paired};
use crate::tree::{self, Nodes};

/// Whose history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys<'k> {
    /// Of one key.
    One(&'k [u8]),
    /// Of all that begin with this.
    Below(&'k [u8]),
}

impl<'k> Keys<'k> {
    fn beginning(self) -> &'k [u8] {
        match self {
            Keys::One(key) | Keys::Below(key) => key,
        }
    }

    fn have(self, key: &[u8]) -> bool {
        match self {
            Keys::One(one) => key == one,
            Keys::Below(prefix) => key.starts_with(prefix),
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The line of history it belongs to.
    pub line: u32,
    /// The key.
    pub key: Vec<u8>,
    /// Its revision.
    pub revision: i64,
    /// What happened.
    pub change: Logged,
    /// Between which times it happened, as far as is known.
    pub span: (Option<Nanos>, Option<Nanos>),
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    /// It was put.
    Put {
        /// How many times since it was made.
        version: i64,
        /// Bytes of its value.
        size: u64,
    },
    /// It was deleted.
    Deleted,
    /// It was deleted in a gap: at this revision or before.
    DeletedBefore,
}

impl Logged {
    fn of(state: Option<&KeyState>) -> Logged {
        state.map_or(Logged::Deleted, |state| Logged::Put { version: state.version, size: state.value.len() })
    }
}

/// A part of a line's history that one capture tells: what came after `after`.
struct Leg<'a> {
    capture: &'a EtcdCapture,
    after: i64,
    /// The leg before, where it does not reach as far as this one's anchor.
    gap_after: Option<Option<EtcdAt<'a>>>,
}

/// Captures that tell the whole history of a line together, each event once.
fn legs<'a>(line: &Line<'a>) -> Vec<Leg<'a>> {
    let mut captures: Vec<&EtcdCapture> = line.snapshots.iter().map(|(_, etcd)| *etcd).collect();
    // Of those that stand on one anchor the last tells all that the others do.
    captures.sort_by_key(|etcd| (etcd.anchor.revision, Reverse(etcd.revision)));
    let mut legs: Vec<Leg> = Vec::new();
    let mut done = 0;
    for capture in captures {
        let fresh = capture.anchor.revision > done;
        if capture.revision <= done && !fresh {
            continue;
        }
        let before = legs.last().map(|leg| EtcdAt::whole(leg.capture));
        let after = capture.anchor.revision.max(done);
        legs.push(Leg { capture, after, gap_after: fresh.then_some(before) });
        done = capture.revision;
    }
    legs
}

/// Shows the history of keys in `series`, line by line, oldest first.
pub fn log(
    browser: &Browser,
    snapshots: &[SnapshotInfo],
    series: &str,
    keys: Keys,
    show: &mut dyn FnMut(LogLine) -> Result<()>,
) -> Result<()> {
    let nodes = browser.nodes();
    for line in lines(snapshots, series) {
        let spool = browser.repository.spool();
        let mut log =
            Log { nodes: &nodes, keys, line: line.number, marks: line.marks(), spool: &spool, show };
        let legs = legs(&line);
        for (place, leg) in legs.iter().enumerate() {
            if let Some(before) = leg.gap_after {
                log.gap(before, leg)?;
            }
            if !log.is_quiet(leg, legs.get(place + 1))? {
                log.events(browser, leg)?;
            }
        }
    }
    Ok(())
}

struct Log<'a> {
    nodes: &'a dyn Nodes,
    keys: Keys<'a>,
    line: u32,
    marks: Marks,
    spool: &'a Spool,
    show: &'a mut dyn FnMut(LogLine) -> Result<()>,
}

impl Log<'_> {
    fn show(&mut self, key: Vec<u8>, revision: i64, change: Logged) -> Result<()> {
        let span = self.marks.span(revision);
        (self.show)(LogLine { line: self.line, key, revision, change, span })
    }

    /// Whether nothing happened to the one key: both ends of the leg have the same version of it.
    fn is_quiet(&self, leg: &Leg, next: Option<&Leg>) -> Result<bool> {
        let Keys::One(key) = self.keys else { return Ok(false) };
        let anchor = &leg.capture.anchor;
        let next = next.map(|next| next.capture.anchor);
        let end = leg.capture.state.or(next.filter(|next| next.revision == leg.capture.revision));
        let (true, Some(end)) = (leg.after == anchor.revision, end) else { return Ok(false) };
        let get = |root: Option<&Root>| -> Result<Option<(i64, i64)>> {
            let Some(value) = tree::get(self.nodes, root, key)? else { return Ok(None) };
            let state = KeyState::decode(&value)?;
            Ok(Some((state.mod_revision, state.version)))
        };
        // A key that neither end has may have lived between them.
        let begin = get(anchor.root.as_ref())?;
        Ok(begin.is_some() && begin == get(end.root.as_ref())?)
    }

    fn events(&mut self, browser: &Browser, leg: &Leg) -> Result<()> {
        for event in events(self.nodes, leg.capture.history.as_ref(), leg.after, leg.capture.revision)? {
            browser.repository.context().cancel.check()?;
            let tree::Entry { key: at, value } = event?;
            // Most are of other keys, and need not be decoded whole.
            if self.keys.have(&key_of(self.nodes, &value)?) {
                let (key, state) = outcome(self.nodes, &at, &value)?;
                self.show(key, parse_history_key(&at)?.0, Logged::of(state.as_ref()))?;
            }
        }
        Ok(())
    }

    /// What the two ends of a gap tell of it: the last put of each key, and which keys went. Before the
    /// first leg nothing is known.
    fn gap(&mut self, before: Option<EtcdAt>, leg: &Leg) -> Result<()> {
        let at = |at: Option<EtcdAt>| -> Result<_> {
            let states = at.map(|at| state(self.nodes, at, self.keys.beginning(), self.spool)).transpose()?;
            Ok(states.into_iter().flatten().map(|entry| entry.map_err(Error::from)))
        };
        let anchor = EtcdAt { capture: leg.capture, revision: leg.capture.anchor.revision };
        let failed = |e| repository::Error::File(self.spool.to_string(), e);
        let failed = |e: std::io::Error| failed(e.to_string());
        let mut sorter = self.spool.large_sorter();
        for pair in paired(at(before)?, at(Some(anchor))?) {
            let (key, old, new) = pair?;
            let same = |old: &KeyState, new: &KeyState| old.mod_revision == new.mod_revision;
            if !self.keys.have(&key)
                || old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| same(old, new))
            {
                continue;
            }
            let revision = new.as_ref().map_or(anchor.revision, |new| new.mod_revision);
            let sub = new.as_ref().and_then(|new| new.sub).unwrap_or(i64::MAX);
            let place = [&history_key(revision, sub)[..], &key].concat();
            sorter.push(place, new.map_or_else(Vec::new, |new| new.encode())).map_err(failed)?;
        }
        for record in sorter.finish().map_err(failed)? {
            let (place, state) = record.map_err(failed)?;
            let (at, key) = place.split_at_checked(16).unwrap_or_default();
            let (revision, _) = parse_history_key(at)?;
            let change = match state.is_empty() {
                true => Logged::DeletedBefore,
                false => Logged::of(Some(&KeyState::decode(&state)?)),
            };
            self.show(key.to_vec(), revision, change)?;
        }
        Ok(())
    }
}
