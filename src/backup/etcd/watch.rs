//! Capture by `Watch` from the parent's revision: what changed, and nothing else is read.

use std::collections::BTreeSet;

use super::super::{Result, Run};
use super::{Found, Line, base_of};
use crate::etcd::{Etcd, Span};
use crate::format::{CapturePath, EtcdCapture, Mark, UNKNOWN_SUB};
use crate::progress::{Amount, Phase};
use crate::source::{self, Watched, watch};
use crate::tree;

/// The name in the tree of the system's own data.
const AUTH_REVISION: &[u8] = b"auth\0authRevision";
/// Before this version a server asked how far a watch is may name a revision that it has not shown.
const HONEST: [u32; 3] = [3, 5, 8];
/// Before this version a server that is compacted while it is watched may leave out what it has compacted: a
/// deletion in that very revision, or what a slow watcher has not had yet.
const WHOLE: [u32; 3] = [3, 5, 18];

impl Run<'_> {
    /// A watch, where there is something to go on from and it can be watched.
    pub(super) fn try_watch(
        &mut self,
        etcd: &Etcd,
        line: &Line,
        between: Option<(&EtcdCapture, Mark)>,
    ) -> Result<Option<Found>> {
        match between {
            Some((parent, mark)) if self.can_watch(etcd, line, parent)? => {
                self.by_watch(etcd, line, parent, mark)
            }
            _ => Ok(None),
        }
    }

    /// Goes on from the parent up to the revision that was seen; `None` where that cannot be done.
    fn by_watch(
        &mut self,
        etcd: &Etcd,
        line: &Line,
        parent: &EtcdCapture,
        mark: Mark,
    ) -> Result<Option<Found>> {
        let context = self.repository.context();
        context.progress.begin(Phase { name: "watching etcd", unit: "events" });
        let behind = (mark.revision - parent.revision).unsigned_abs();
        context.progress.expect(Amount { items: behind, bytes: 0 });
        let span = Span::of_prefix(line.prefix);
        let (mut events, mut history, mut leases) =
            (self.events(), self.repository.spool().sorter(), BTreeSet::new());
        let between = (parent.revision, mark.revision);
        let watched = watch(etcd, &span, between, line.early.take(), &context.cancel, |mut record| {
            if record.kv.lease != 0 {
                leases.insert(record.kv.lease);
            }
            if !line.prefix.is_empty() {
                // What others did in the same revision is not shown, and was counted by etcd.
                record.sub += UNKNOWN_SUB;
            }
            self.sort_event(record, &mut events, &mut history)
        })?;
        match watched {
            Watched::Reached if is_from(&line.status.version, WHOLE) => {}
            Watched::Reached if etcd.keeps(&span.from, parent.revision).map_err(source::Error::from)? => {}
            // Whoever reads the file says what is lost.
            Watched::Reached | Watched::Compacted => return Ok(None),
            Watched::Lost => {
                self.warnings.push("etcd's watch left out events: all of it was read instead".into());
                return Ok(None);
            }
        }
        let system = self.leases_since(etcd, &leases, parent)?;
        let base = base_of(parent);
        Ok(Some(Found {
            path: CapturePath::Watch,
            mark,
            compacted: self.compacted(etcd, line)?,
            history: self.apply_history(base.history, history)?,
            base,
            events,
            keys: None,
            gap: None,
            system,
        }))
    }

    /// Whether a watch would see all there is to see: users and roles are not in it, so they must be as they
    /// were, and the server must be able to tell how far it is.
    fn can_watch(&self, etcd: &Etcd, line: &Line, parent: &EtcdCapture) -> Result<bool> {
        if !line.prefix.is_empty() {
            return Ok(is_from(&line.status.version, HONEST));
        }
        let Ok(Some(auth)) = etcd.auth() else { return Ok(false) };
        let stored = tree::get(&self.nodes, parent.system.as_ref(), AUTH_REVISION)?;
        let stored = stored.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        Ok(stored == auth.revision)
    }
}

/// Whether the version is `first` or later. An empty one is one that the user may not know, which is so from 3.6
/// on.
fn is_from(version: &str, first: [u32; 3]) -> bool {
    let mut parts = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let parts = [(); 3].map(|()| parts.next().unwrap_or(0));
    version.is_empty() || parts >= first
}

/// The seconds that replaying so many revisions takes the server, as it was measured with values of 256
/// bytes: each of its passes reads the whole backlog again.
pub(super) fn watch_seconds(behind: u64) -> f64 {
    let behind = behind as f64;
    behind / 12_000.0 + behind * behind / 1e9
}

/// The seconds that streaming and looking through the whole file takes.
pub(super) fn file_seconds(bytes: u64) -> f64 {
    0.05 + bytes as f64 / 100e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_not_believed() {
        let is_honest = |version| is_from(version, HONEST);
        assert!(!is_honest("3.4.23") && !is_honest("3.5.1") && !is_honest("3.5.7"));
        assert!(is_honest("3.5.8") && is_honest("3.5.21") && is_honest("3.6.0-rc.1") && is_honest(""));
    }

    #[test]
    fn a_short_backlog_is_watched_and_a_long_one_read_from_the_file() {
        let file = |megabytes: u64| file_seconds(megabytes << 20);
        assert!(watch_seconds(1000) < file(100) && watch_seconds(10_000) < file(400));
        assert!(watch_seconds(100_000) > file(400) && watch_seconds(10_000) > file(10));
    }
}
