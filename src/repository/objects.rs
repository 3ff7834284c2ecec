//! Objects at a moment: those of its snapshot; between two snapshots those of the later one, but what it
//! dropped or changed since the earlier one as that had it. Where the later one has every version, they tell
//! which was current at the revision's time.

use super::{Moment, Result, When, versions};
use crate::context::Nanos;
use crate::format::{Attributes, Item, ItemState, ObjectCapture, Root};
use crate::sorter::paired;
use crate::tree::{self, Nodes};

/// How well it is known that an object was so at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// The snapshots on both sides of the moment say so, or the one that was taken at it; or the versions do,
    /// for all the time at which the moment may have been.
    Exact,
    /// The version that was current at the moment's likely time; another was within the time that it may have
    /// been.
    Version,
    /// The snapshot before says so; the one after has it no more, or another one.
    Before,
    /// Only the snapshot after has it.
    After,
}

/// An object's key, its encoded item, and how well it is known.
pub type ObjectAt = (Vec<u8>, Vec<u8>, Certainty);

/// What is known of an object at a moment between two snapshots.
#[derive(Default)]
struct Sides {
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    /// Every version, from the oldest to the newest.
    versions: Vec<Item>,
}

/// The objects that begin with `prefix`, in order.
pub fn objects<'a>(
    nodes: &'a dyn Nodes,
    moment: &Moment,
    prefix: &[u8],
) -> Result<Box<dyn Iterator<Item = Result<ObjectAt>> + 'a>> {
    let Some((after, before)) = moment.objects() else { return Ok(Box::new(std::iter::empty())) };
    let below = |objects: &ObjectCapture| -> Result<_> {
        let prefix = prefix.to_vec();
        let entries = tree::scan(nodes, objects.root.as_ref(), &prefix)?.map(|entry| {
            let tree::Entry { key, value } = entry?;
            Ok((key, value))
        });
        Ok(entries.take_while(move |entry: &Result<(Vec<u8>, _)>| {
            entry.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))
        }))
    };
    let all_versions = versions_of(moment).map(|(_, root)| versions(nodes, root, prefix)).transpose()?;
    let after = below(after)?;
    let Some(before) = before else {
        let certainty = alone(moment);
        return Ok(Box::new(after.map(move |entry| entry.map(|(key, value)| (key, value, certainty)))));
    };
    let when = moment.when;
    let both = paired(below(before)?, after)
        .map(|pair| pair.map(|(key, before, after)| (key, Sides { before, after, versions: Vec::new() })));
    let all = paired(both, all_versions.into_iter().flatten()).filter_map(move |pair| {
        let chosen = pair.and_then(|(key, sides, versions)| {
            let versions = versions.unwrap_or_default().into_iter().map(|(_, item)| item).collect();
            let sides = Sides { versions, ..sides.unwrap_or_default() };
            Ok(sides.choose(when)?.map(|(value, certainty)| (key, value, certainty)))
        });
        chosen.transpose()
    });
    Ok(Box::new(all))
}

/// The object `key`.
pub fn object(nodes: &dyn Nodes, moment: &Moment, key: &[u8]) -> Result<Option<(Vec<u8>, Certainty)>> {
    let Some((after, before)) = moment.objects() else { return Ok(None) };
    let after = tree::get(nodes, after.root.as_ref(), key)?;
    let Some(before) = before else { return Ok(after.map(|value| (value, alone(moment)))) };
    let before = tree::get(nodes, before.root.as_ref(), key)?;
    let versions = match versions_of(moment) {
        // The key itself sorts before all that it is the beginning of.
        Some((_, root)) => versions(nodes, root, key)?.next().transpose()?.filter(|(of, _)| of == key),
        None => None,
    };
    let versions = versions.into_iter().flat_map(|(_, all)| all).map(|(_, item)| item).collect();
    Sides { before, after, versions }.choose(moment.when)
}

/// How well it is known what only one snapshot tells.
fn alone(moment: &Moment) -> Certainty {
    if moment.is_whole() { Certainty::Exact } else { Certainty::After }
}

/// Every version, where the moment lies between two snapshots and the later has them.
fn versions_of(moment: &Moment) -> Option<(When, Option<&Root>)> {
    let (after, before) = moment.objects()?;
    before?;
    Some((moment.when?, after.versions.as_ref())).filter(|_| after.with_versions)
}

impl Sides {
    fn choose(self, when: Option<When>) -> Result<Option<(Vec<u8>, Certainty)>> {
        if let Some(after) = self.after.clone().filter(|after| Some(after) == self.before.as_ref()) {
            return Ok(Some((after, Certainty::Exact)));
        }
        match when.and_then(|when| at_time(&self.versions, when)) {
            Some((item, certainty)) => Ok(item.map(|item| (item.encode(), certainty))),
            None => nearest(self.before, self.after),
        }
    }
}

/// What the earlier snapshot lacks the content of is no better than what the later one has.
fn nearest(before: Option<Vec<u8>>, after: Option<Vec<u8>>) -> Result<Option<(Vec<u8>, Certainty)>> {
    Ok(match (before, after) {
        (Some(before), after) => match Item::decode(&before)?.state {
            ItemState::Present => Some((before, Certainty::Before)),
            _ => after.map(|after| (after, Certainty::After)),
        },
        (None, after) => after.map(|after| (after, Certainty::After)),
    })
}

/// Servers tell times of versions in whole seconds, by clocks of their own.
const CLOCKS: Nanos = 2_000_000_000;

/// The version of an object that was current at a time, and how well that is known; `None` where the versions
/// do not tell. Of several that may have been, one that was there: what referred to it needs it.
fn at_time(versions: &[Item], when: When) -> Option<(Option<&Item>, Certainty)> {
    let (from, to) = (when.from.saturating_sub(CLOCKS), when.to.saturating_add(CLOCKS));
    // The order is the server's, whose clock may have been set back.
    let times = versions.iter().scan(Nanos::MIN, |last, item| {
        *last = item.modified.max(*last);
        Some(*last)
    });
    let times: Vec<Nanos> = times.collect();
    let by = |time: Nanos| times.partition_point(|at| *at <= time);
    // One without an id replaces another without a trace.
    let traceless = |item: &Item| match &item.attributes {
        Attributes::Object(object) => object.version.as_deref().is_none_or(|id| id == "null"),
        Attributes::File(_) => true,
    };
    let (first, likely, last) = (by(from), by(when.likely), by(to));
    if versions.is_empty() || versions[first..].iter().any(traceless) {
        return None;
    }
    // Before the first of them there was nothing.
    let current = |place: usize| place.checked_sub(1).map(|place| &versions[place]);
    let unread = |item: &Item| matches!(item.state, ItemState::Gone | ItemState::Unreadable);
    if (first..=last).filter_map(current).any(unread) {
        return None;
    }
    let present = |place: usize| current(place).filter(|item| item.state == ItemState::Present);
    if first == last {
        return Some((present(first), Certainty::Exact));
    }
    let nearest = (first..=likely).rev().chain(likely + 1..=last).find_map(present);
    Some((nearest, Certainty::Version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Content, Headers, ObjectAttributes};

    const SECOND: Nanos = 1_000_000_000;

    /// A version of this second; of no content where it is `-`.
    fn version(second: i64, content: &str, id: Option<&str>) -> Item {
        let headers = Headers::default();
        let object = ObjectAttributes { version: id.map(str::to_owned), headers, ..Default::default() };
        let state = if content == "-" { ItemState::Deleted } else { ItemState::Present };
        Item {
            state,
            size: content.len() as u64,
            modified: second * SECOND,
            content: Content::Inline(content.into()),
            attributes: Attributes::Object(Box::new(object)),
        }
    }

    fn all(versions: &[(i64, &str)]) -> Vec<Item> {
        versions.iter().map(|(second, content)| version(*second, content, Some("id"))).collect()
    }

    /// What was current when it may have been any time of 100 to 200 seconds, probably 150.
    fn told(versions: &[Item]) -> Option<(Option<String>, Certainty)> {
        let when = When { from: 100 * SECOND, to: 200 * SECOND, likely: 150 * SECOND };
        at_time(versions, when).map(|(item, certainty)| {
            let text = item.map(|item| match &item.content {
                Content::Inline(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                _ => String::new(),
            });
            (text, certainty)
        })
    }

    fn is(content: &str, certainty: Certainty) -> Option<(Option<String>, Certainty)> {
        Some(((content != "-").then(|| content.to_owned()), certainty))
    }

    #[test]
    fn a_version_that_was_current_all_the_time_is_exact() {
        assert_eq!(told(&all(&[(50, "a"), (90, "b"), (300, "c")])), is("b", Certainty::Exact));
        assert_eq!(told(&all(&[(50, "a"), (90, "-"), (300, "c")])), is("-", Certainty::Exact));
        assert_eq!(told(&all(&[(300, "c")])), is("-", Certainty::Exact));
        // A clock may be a little wrong.
        assert_eq!(told(&all(&[(50, "a"), (99, "b")])), is("b", Certainty::Version));
        assert_eq!(told(&all(&[(50, "a"), (201, "b")])), is("a", Certainty::Version));
    }

    #[test]
    fn of_several_the_one_at_the_likely_time_is_taken_and_what_was_there_before_what_was_not() {
        assert_eq!(told(&all(&[(50, "a"), (120, "b"), (180, "c")])), is("b", Certainty::Version));
        assert_eq!(told(&all(&[(50, "a"), (120, "-"), (180, "c")])), is("a", Certainty::Version));
        assert_eq!(told(&all(&[(120, "-"), (180, "c")])), is("c", Certainty::Version));
        assert_eq!(told(&all(&[(170, "c"), (190, "-")])), is("c", Certainty::Version));
        assert_eq!(told(&all(&[(120, "-"), (180, "-")])), is("-", Certainty::Version));
    }

    #[test]
    fn versions_that_leave_no_trace_or_were_not_read_tell_nothing() {
        assert_eq!(told(&[]), None);
        for id in [None, Some("null")] {
            let (old, new) = (version(50, "a", id), version(150, "b", id));
            assert_eq!(
                told(std::slice::from_ref(&old)),
                is("a", Certainty::Exact),
                "nothing replaced it since"
            );
            assert_eq!(told(&[old.clone(), new]), None);
            assert_eq!(told(&[old, version(300, "b", id)]), None);
        }
        let mut unread = all(&[(50, "a"), (150, "b")]);
        unread[1].state = ItemState::Unreadable;
        assert_eq!(told(&unread), None);
    }

    #[test]
    fn a_clock_that_was_set_back_changes_no_order() {
        assert_eq!(told(&all(&[(50, "a"), (90, "b"), (20, "c"), (300, "d")])), is("c", Certainty::Exact));
    }
}
