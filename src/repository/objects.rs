//! Objects at a moment: those of its snapshot; between two snapshots those of the later one, but what it
//! dropped or changed since the earlier one as that had it.

use super::{Moment, Result};
use crate::format::{Item, ItemState, ObjectCapture};
use crate::sorter::paired;
use crate::tree::{self, Nodes};

/// How well it is known that an object was so at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// The snapshots on both sides of the moment say so, or the one that was taken at it.
    Exact,
    /// The snapshot before says so; the one after has it no more, or another one.
    Before,
    /// Only the snapshot after has it.
    After,
}

/// An object's key, its encoded item, and how well it is known.
pub type ObjectAt = (Vec<u8>, Vec<u8>, Certainty);

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
    let after = below(after)?;
    let Some(before) = before else {
        return Ok(Box::new(after.map(|entry| entry.map(|(key, value)| (key, value, Certainty::Exact)))));
    };
    Ok(Box::new(paired(below(before)?, after).filter_map(|pair| {
        let chosen = pair.and_then(|(key, before, after)| {
            Ok(choose(before, after)?.map(|(value, certainty)| (key, value, certainty)))
        });
        chosen.transpose()
    })))
}

/// The object `key`.
pub fn object(nodes: &dyn Nodes, moment: &Moment, key: &[u8]) -> Result<Option<(Vec<u8>, Certainty)>> {
    let Some((after, before)) = moment.objects() else { return Ok(None) };
    let after = tree::get(nodes, after.root.as_ref(), key)?;
    match before {
        Some(before) => choose(tree::get(nodes, before.root.as_ref(), key)?, after),
        None => Ok(after.map(|value| (value, Certainty::Exact))),
    }
}

/// What the earlier snapshot lacks the content of is no better than what the later one has.
fn choose(before: Option<Vec<u8>>, after: Option<Vec<u8>>) -> Result<Option<(Vec<u8>, Certainty)>> {
    Ok(match (before, after) {
        (Some(before), Some(after)) if before == after => Some((after, Certainty::Exact)),
        (Some(before), after) => match Item::decode(&before)?.state {
            ItemState::Present => Some((before, Certainty::Before)),
            _ => after.map(|after| (after, Certainty::After)),
        },
        (None, after) => after.map(|after| (after, Certainty::After)),
    })
}
