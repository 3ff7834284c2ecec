//! Proves a capture by the hash of the member that it was made from.

use super::{Captured, Options, Result, Sources};
use crate::format::{CapturePath, EtcdCapture, Segment};
use crate::proof::{Prover, Verdict};
use crate::repository::{EtcdAt, Repository, SnapshotInfo, View, line_of};
use crate::tree::ReadWrite;

/// What a capture is proved with.
pub(super) struct Proving<'a> {
    pub repository: &'a Repository,
    pub options: &'a Options,
    /// It has all that was captured, but for what the last segment lists.
    pub view: &'a View,
    pub parent: Option<&'a SnapshotInfo>,
}

impl Proving<'_> {
    /// Asks the member where the user wants it, and at the first capture of a whole etcd: what everything later
    /// stands on. All that was captured is durable by now, and is read back. Gives what is not as the member
    /// says; what was captured is kept all the same.
    pub(super) fn prove(
        &self,
        sources: &Sources,
        captured: &mut Captured,
        segment: &Segment,
    ) -> Result<Vec<String>> {
        let Proving { repository, options, view, parent } = *self;
        let (Some((etcd, _)), Some(capture)) = (&sources.etcd, &captured.etcd) else { return Ok(Vec::new()) };
        let parent = parent.filter(|_| !options.new_line);
        let first = parent.is_none_or(|parent| parent.snapshot.etcd.is_none())
            && capture.path == CapturePath::Snapshot
            && capture.prefix.is_empty();
        if !first && !options.prove {
            return Ok(Vec::new());
        }
        let reader = repository.reader(view)?.also(segment);
        let nodes = ReadWrite::new(&reader, None);
        let line = parent.map(|parent| line_of(&view.snapshots, parent)).unwrap_or_default();
        let line: Vec<&EtcdCapture> = line.into_iter().map(|(_, capture)| capture).collect();
        let verdict = Prover::new(repository, &nodes, EtcdAt::whole(capture), line).prove(etcd)?;
        let (hash_kv, warning, damage) = match verdict {
            Verdict::Proved(hash) => (Some(hash), None, None),
            Verdict::Unproved(why) => (None, Some(format!("etcd could not be proved: {why}")), None),
            Verdict::Refuted(refuted) => {
                let member = capture.member_id;
                (None, None, Some(format!("etcd is not as member {member:016x} says: {refuted}")))
            }
        };
        captured.warnings.extend(warning);
        captured.etcd.iter_mut().for_each(|capture| capture.hash_kv = hash_kv);
        Ok(damage.into_iter().collect())
    }
}
