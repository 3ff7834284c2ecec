//! Capturing every version of a bucket: key by key, against the parent's tree of versions. What the
//! capture of the current objects has read is not read again.

use std::collections::{BTreeSet, HashMap};
use std::iter::Peekable;

use tokio::sync::mpsc;

use super::objects::{Counts, Wish, Work, absent, version_of};
use super::{Error, Result, Run};
use crate::format::{Attributes, Item, ItemState, ObjectCapture, Root, version_key};
use crate::progress::{Amount, Phase};
use crate::repository::versions;
use crate::sorter::{Sorted, Sorter, paired};
use crate::source::{Bucket, Listed};
use crate::tree;

impl Run<'_> {
    /// Captures the versions into `capture`, where they are wanted; `read` is what was read for the current
    /// objects.
    pub(super) fn versions(
        &mut self,
        bucket: &Bucket,
        parent: Option<&ObjectCapture>,
        capture: &mut ObjectCapture,
        read: Option<Sorter>,
    ) -> Result<Option<Counts>> {
        let had = parent.is_some_and(|parent| parent.with_versions);
        let Some(read) = read else {
            if had {
                self.notes.push("the snapshot before has all versions, this one only the current objects: --versions was not given".into());
            }
            return Ok(None);
        };
        if !bucket.keeps_versions()? {
            let name = bucket.name();
            self.notes.push(format!("bucket {name} keeps no versions: there are only the current objects"));
            return Ok(None);
        }
        let before = parent.and_then(|parent| parent.versions);
        let current = Current {
            read: read.finish().map_err(|e| self.spool_error(e))?.peekable(),
            before: parent.and_then(|parent| parent.root),
        };
        self.repository.context().progress.begin(Phase { name: "reading versions", unit: "versions" });
        let work = Work::new(self, bucket);
        let worked = work.run(before, |work, wanted| compare(work, before.as_ref(), current, wanted))?;
        (capture.with_versions, capture.versions) = (true, worked.root);
        capture.gone += worked.gone;
        capture.unreadable += worked.unreadable.len() as u64;
        self.warn_about(worked.unreadable, "versions");
        Ok(Some(worked.counts))
    }
}

/// The current objects, as this backup has captured them, in order of key.
struct Current {
    read: Peekable<Sorted>,
    before: Option<Root>,
}

impl Current {
    /// The object behind `key`. Keys are asked for in order.
    fn get(&mut self, work: &Work, key: &[u8]) -> Result<Option<Item>> {
        let spool = |e| work.run.spool_error(e);
        while self.read.next_if(|next| next.as_ref().is_ok_and(|(k, _)| k.as_slice() < key)).is_some() {}
        let read = self.read.next_if(|next| next.as_ref().map_or(true, |(k, _)| k == key));
        let value = match read.transpose().map_err(spool)? {
            Some((_, value)) => Some(value),
            None => tree::get(&work.run.nodes, self.before.as_ref(), key)?,
        };
        Ok(value.map(|value| Item::decode(&value)).transpose()?)
    }
}

/// Merges the listing with the parent's tree.
fn compare(
    work: &Work,
    before: Option<&Root>,
    mut current: Current,
    wanted: mpsc::Sender<Wish>,
) -> Result<Counts> {
    let progress = &work.run.repository.context().progress;
    let (mut counts, mut expected) = (Counts::default(), Amount::default());
    let old = versions(&work.run.nodes, before, &[])?.map(|entry| entry.map_err(Error::from));
    for pair in paired(old, listed(work)) {
        let (key, old, new) = pair?;
        work.check()?;
        let merged = merge(new.unwrap_or_default(), old.unwrap_or_default());
        counts.unchanged += merged.unchanged;
        counts.changed += merged.changed;
        counts.added += merged.new.len() as u64 - merged.changed;
        counts.removed += merged.removed;
        expected.items += merged.unchanged + merged.new.len() as u64;
        progress.expect(expected);
        progress.advance(Amount { items: merged.unchanged, bytes: 0 });
        for entry in merged.dropped {
            work.edit(entry, Vec::new())?;
        }
        for (entry, item) in merged.moved {
            work.edit(entry, item.encode())?;
        }
        let known = if merged.new.is_empty() { None } else { current.get(work, &key)? };
        for wish in merged.new {
            let item = match marker(&wish.listed) {
                Some(marker) => Some(marker),
                None => known.as_ref().and_then(|known| same_version(known, &wish.listed)),
            };
            if let Some(item) = item {
                work.edit(wish.entry, item.encode())?;
                progress.advance(Amount { items: 1, bytes: 0 });
                continue;
            }
            counts.read_count += 1;
            if wanted.blocking_send(wish).is_err() {
                return Err(crate::context::Interrupted.into());
            }
        }
    }
    progress.settled();
    work.confirm(before, &counts, || {
        Ok(listed(work).flat_map(|group| match group {
            Ok((_, versions)) => versions.into_iter().map(Ok).collect(),
            Err(Error::Source(error)) => vec![Err(error)],
            Err(_) => Vec::new(),
        }))
    })?;
    Ok(counts)
}

/// The versions of the keys that were chosen.
fn listed(work: &Work) -> impl Iterator<Item = Result<(Vec<u8>, Vec<Listed>)>> {
    work.bucket.versions().filter_map(|versions| match versions {
        Ok(versions) => {
            let key = versions.first().map(|first| first.key.clone()).filter(|key| work.takes(key))?;
            Some(Ok((key.into_bytes(), versions)))
        }
        Err(error) => Some(Err(error.into())),
    })
}

/// What becomes of the versions of one key.
#[derive(Default)]
struct Merged {
    unchanged: u64,
    /// Of those that are new: other than they were.
    changed: u64,
    removed: u64,
    /// Entries whose versions are gone, or have others now.
    dropped: Vec<Vec<u8>>,
    /// As they were, but at another place of the order.
    moved: Vec<(Vec<u8>, Item)>,
    new: Vec<Wish>,
}

/// Merges a key's versions as they are listed, the newest first, with its entries, the oldest first.
fn merge(listed: Vec<Listed>, old: Vec<(Vec<u8>, Item)>) -> Merged {
    let mut merged = Merged::default();
    let mut had: HashMap<Option<String>, (Vec<u8>, Item)> =
        old.into_iter().map(|(entry, item)| (id_of(&item), (entry, item))).collect();
    let mut dropped: BTreeSet<Vec<u8>> = had.values().map(|(entry, _)| entry.clone()).collect();
    for (entry, listed) in in_order(listed) {
        dropped.remove(&entry);
        match had.remove(&version_of(&listed)) {
            Some((place, item)) if shows(&listed, &item) => {
                merged.unchanged += 1;
                if place != entry {
                    merged.moved.push((entry, item));
                }
            }
            was => {
                merged.changed += u64::from(was.is_some());
                merged.new.push(Wish { entry, listed });
            }
        }
    }
    merged.removed = had.len() as u64;
    merged.dropped = dropped.into_iter().collect();
    merged
}

/// From the oldest to the newest, with the keys of their entries. Where the order and the times disagree
/// (a server's clock was set back), the order counts.
fn in_order(listed: Vec<Listed>) -> Vec<(Vec<u8>, Listed)> {
    let (mut time, mut place) = (i64::MIN, 0u16);
    let keyed = listed.into_iter().rev().map(|listed| {
        (time, place) = match (listed.modified > time, place.checked_add(1)) {
            (true, _) => (listed.modified, 0),
            (false, Some(next)) => (time, next),
            (false, None) => (time + 1, 0),
        };
        (version_key(listed.key.as_bytes(), time, place), listed)
    });
    keyed.collect()
}

fn id_of(item: &Item) -> Option<String> {
    let Attributes::Object(attributes) = &item.attributes else { return None };
    attributes.version.clone()
}

/// Whether the version is as its entry says, as far as listings tell.
fn shows(listed: &Listed, item: &Item) -> bool {
    match item.state {
        ItemState::Deleted => marker(listed).is_some() && item.modified == listed.modified,
        _ => marker(listed).is_none() && listed.shows(item),
    }
}

/// The entry of a delete marker.
fn marker(listed: &Listed) -> Option<Item> {
    let deleted = listed.version.as_ref().is_some_and(|version| version.deleted);
    deleted.then(|| absent(&Listed { shown: None, ..listed.clone() }, ItemState::Deleted))
}

/// What was read of the version when it was captured as the current object.
fn same_version(current: &Item, listed: &Listed) -> Option<Item> {
    let Attributes::Object(attributes) = &current.attributes else { return None };
    let same = current.state == ItemState::Present
        && attributes.version == version_of(listed)
        && attributes.etag == listed.etag
        && current.size == listed.size;
    let mut item = same.then(|| current.clone())?;
    item.modified = listed.modified;
    if let Attributes::Object(attributes) = &mut item.attributes {
        attributes.shown = listed.shown;
    }
    Some(item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Content;
    use crate::source::Version;

    /// Versions of one key as (id, time), the newest first.
    fn listing(versions: &[(&str, i64)]) -> Vec<Listed> {
        let one = |&(id, modified): &(&str, i64)| Listed {
            key: "k".into(),
            size: 1,
            etag: id.trim_end_matches('+').into(),
            modified,
            shown: None,
            version: Some(Version { id: id.into(), latest: false, deleted: id.starts_with('d') }),
        };
        versions.iter().map(one).collect()
    }

    /// What a capture of the listing leaves.
    fn captured(versions: &[(&str, i64)]) -> Vec<(Vec<u8>, Item)> {
        let item = |listed: &Listed| match marker(listed) {
            Some(marker) => marker,
            None => Item { content: Content::Inline(b"x".to_vec()), ..absent(listed, ItemState::Present) },
        };
        in_order(listing(versions)).into_iter().map(|(entry, listed)| (entry, item(&listed))).collect()
    }

    fn ids(merged: &Merged) -> Vec<String> {
        merged.new.iter().map(|wish| wish.listed.version.clone().unwrap().id).collect()
    }

    #[test]
    fn entries_keep_the_servers_order_also_where_times_tie_or_go_back() {
        let entries = captured(&[("e", 3), ("d", 9), ("c", 7), ("b", 7), ("a", 7)]);
        assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
        let ids: Vec<_> = entries.iter().map(|(_, item)| id_of(item).unwrap()).collect();
        assert_eq!(ids, ["a", "b", "c", "d", "e"]);
        let many: Vec<(&str, i64)> = std::iter::repeat_n(("x", 5), 70_000).collect();
        assert!(in_order(listing(&many)).is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn only_new_versions_are_wanted() {
        let before = [("d1", 8), ("b", 7), ("a", 1)];
        let now = [("c", 9), ("d1", 8), ("b", 7), ("a", 1)];
        let same = merge(listing(&before), captured(&before));
        assert_eq!((same.unchanged, same.new.len(), same.dropped.len(), same.moved.len()), (3, 0, 0, 0));
        let more = merge(listing(&now), captured(&before));
        assert_eq!((more.unchanged, ids(&more), more.changed, more.removed), (3, vec!["c".into()], 0, 0));
        let first = merge(listing(&now), Vec::new());
        assert_eq!(ids(&first), ["a", "b", "d1", "c"], "the oldest first");
    }

    #[test]
    fn what_the_bucket_has_no_more_is_dropped_and_what_moves_is_not_read_again() {
        // Two of one time, and the older one goes: the other takes its place.
        let (before, now) = ([("b", 7), ("a", 7)], [("b", 7)]);
        let old = captured(&before);
        let places: Vec<_> = old.iter().map(|(entry, _)| entry.clone()).collect();
        let merged = merge(listing(&now), old);
        assert_eq!((merged.unchanged, merged.removed, merged.new.len()), (1, 1, 0));
        assert_eq!(merged.moved[0].0, places[0]);
        assert_eq!(merged.dropped, [places[1].clone()]);
        let gone = merge(Vec::new(), captured(&before));
        assert_eq!((gone.removed, gone.dropped.len()), (2, 2));
    }

    #[test]
    fn a_null_version_that_was_written_over_is_read_again() {
        let merged = merge(listing(&[("null", 9)]), captured(&[("null", 5)]));
        assert_eq!((ids(&merged), merged.changed, merged.removed), (vec!["null".into()], 1, 0));
        assert_eq!(merged.dropped.len(), 1, "its place is another one now");
    }
}
