//! What a session may do: the writer's side.

use std::collections::HashSet;

use super::{Numbers, Validity};
use crate::format::SegmentName;
use crate::id::SessionId;

/// The label of a session that begins now.
pub fn label(numbers: Numbers) -> u64 {
    numbers.newest()
}

/// Whether the session may go on after it has listed what there is: no collection has begun since it took
/// its label. The list of packs that may die was complete, for it, before it looked.
pub fn established(sid: &SessionId, numbers: Numbers) -> bool {
    numbers.newest() == sid.label
}

/// What a session may refer to without storing it again.
pub struct Reuse<'a> {
    /// The session.
    pub sid: SessionId,
    /// By the newest verdict.
    pub validity: &'a Validity,
    /// Sessions that ended in a snapshot.
    pub committed: &'a HashSet<SessionId>,
}

impl Reuse<'_> {
    /// Whether what this valid segment lists may be referred to. Of an older label, what no verdict names
    /// and no snapshot holds may be left out of the next verdict.
    pub fn segment(&self, name: &SegmentName) -> bool {
        match name {
            name if self.validity.segments.contains(name) => true,
            SegmentName::Session(owner, _) => self.inline(owner),
            SegmentName::Merged(..) => false,
        }
    }

    /// The same for the segment inside a valid claim.
    pub fn inline(&self, owner: &SessionId) -> bool {
        owner.label == self.sid.label || self.committed.contains(owner)
    }
}
