//! What a collector does: its steps, whom it waits for, and what it may judge dead.

use std::collections::HashSet;

use super::Numbers;
use crate::format::{SegmentName, SessionKind};
use crate::id::{PackId, SessionId};

/// What a collector does next. The number is the collection's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// List `collections/`.
    Look,
    /// Choose packs that may die, and put the list.
    Condemn(u64),
    /// List `sessions/`, and wait until every older writer has ended.
    Wait(u64),
    /// List in the order of [`super::MARK`], judge, and put what the judgement needs and the verdict.
    Judge(u64),
    /// List `collections/` again.
    Confirm(u64),
    /// Carry out the verdict that is stored.
    Execute(u64),
    /// Nothing is left to do.
    Done,
}

impl Step {
    /// `executed` is the verdict that this collector has carried out; `more`, whether it wants a collection
    /// of its own. One that is open is joined: no list is put before the last one has its verdict.
    pub fn looked(numbers: Numbers, executed: u64, more: bool) -> Step {
        match numbers.open() {
            Some(open) => Step::Wait(open),
            None if numbers.verdict > executed => Step::Execute(numbers.verdict),
            None if more => Step::Condemn(numbers.verdict + 1),
            None => Step::Done,
        }
    }

    /// A list of this number is there, ours or another's: the sessions to wait for are listed after it.
    pub fn condemned() -> Step {
        Step::Look
    }

    /// All older writers have ended.
    pub fn waited(number: u64) -> Step {
        Step::Judge(number)
    }

    /// After the listing that is to be judged: the collection may be over already.
    pub fn marked(number: u64, numbers: Numbers) -> Option<Step> {
        (numbers.open() != Some(number)).then_some(Step::Look)
    }

    /// A verdict of this number is there, ours or another's.
    pub fn judged(number: u64) -> Step {
        Step::Confirm(number)
    }

    /// Only the newest verdict is carried out.
    pub fn confirmed(number: u64, numbers: Numbers) -> Step {
        if numbers.verdict == number { Step::Execute(number) } else { Step::Look }
    }
}

/// Whether collection `number` waits for this session: it writes, is older, and has no claim. What is older
/// than the newest verdict is void, whatever it still does.
pub fn awaited(number: u64, verdict: u64, sid: &SessionId, kind: SessionKind, ended: bool) -> bool {
    kind == SessionKind::Write && (verdict..number).contains(&sid.label) && !ended
}

/// What sessions without a claim pin.
pub fn pins(
    sessions: impl IntoIterator<Item = (SessionId, Option<SessionId>)>,
    ended: impl Fn(&SessionId) -> bool,
) -> HashSet<SessionId> {
    let open = sessions.into_iter().filter(|(sid, _)| !ended(sid));
    open.filter_map(|(_, pin)| pin).collect()
}

/// Whether verdict `number` names this snapshot: it is older, and valid or pinned. One that is pinned and
/// forgotten keeps its tombstone.
pub fn kept(number: u64, sid: &SessionId, forgotten: bool, pinned: bool) -> bool {
    sid.label < number && (!forgotten || pinned)
}

/// Whether what this valid segment lists must stand, but for dead packs, in segments that verdict `number`
/// names. Younger ones stay valid by themselves.
pub fn covered(number: u64, name: &SegmentName) -> bool {
    match name {
        SegmentName::Session(sid, _) => sid.label < number,
        SegmentName::Merged(..) => true,
    }
}

/// How a needed chunk comes through a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// The pack at this place in the list is not condemned and has it.
    Safe(usize),
    /// Only condemned packs have it: it is copied out, or one of them stays.
    Endangered,
    /// No valid segment lists it: damage, and nothing may be judged.
    Lost,
}

/// By the packs in which valid segments list the chunk.
pub fn survival(places: &[PackId], condemned: &HashSet<PackId>) -> Survival {
    match places.iter().position(|pack| !condemned.contains(pack)) {
        Some(place) => Survival::Safe(place),
        None if places.is_empty() => Survival::Lost,
        None => Survival::Endangered,
    }
}
