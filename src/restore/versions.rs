//! Restoring every version of objects: those of a key one after another, the oldest first, so that the
//! target has the same sequence and the same current state. Keys are worked on several at once.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ahead::{self, Take};
use super::milvus::Later;
use super::put::{Putting, of_object};
use super::settings::Planned;
use super::{Change, Counts, Error, Plan, Result, Run};
use crate::format::{Item, ItemState, parse_version_key, version_key};
use crate::progress::{Amount, Phase};
use crate::repository::{self, versions};
use crate::selection::Selection;
use crate::sorter::{Sorted, Sorter, paired};
use crate::source::{Bucket, BucketOptions, Listed};
use crate::target::BucketTarget;

/// A version as far as it is compared: what a sequence in the target shows, too.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Object { size: u64, etag: String },
    Marker,
}

/// What is to be done for one key, in this order. A key of the snapshot's is put, deleted, put …
struct Series {
    key: String,
    /// An item that is `Deleted` is a delete.
    steps: Vec<Item>,
}

/// How many leading versions of `wanted` end the sequence in the target: those need not be put again.
fn there_already(found: &[Shown], wanted: &[Shown]) -> usize {
    (0..=wanted.len().min(found.len())).rev().find(|&n| found[found.len() - n..] == wanted[..n]).unwrap_or(0)
}

/// Delete markers that delete nothing, at the beginning or behind another, are not put and not compared:
/// some servers do not make them.
fn effective<T>(versions: Vec<T>, is_marker: impl Fn(&T) -> bool) -> Vec<T> {
    let mut deleted = true;
    let mut keep = |version: &T| {
        let marker = is_marker(version);
        !(std::mem::replace(&mut deleted, marker) && marker)
    };
    versions.into_iter().filter(|version| keep(version)).collect()
}

fn items(records: &[Vec<u8>]) -> Result<Vec<Item>> {
    records.iter().map(|record| Ok(Item::decode(record)?)).collect()
}

fn shown(item: &Item) -> Result<Shown> {
    Ok(match item.state {
        ItemState::Deleted => Shown::Marker,
        _ => Shown::Object { size: item.size, etag: of_object(item)?.etag.clone() },
    })
}

fn shown_in(listed: &Listed) -> Shown {
    match listed.version.as_ref().is_some_and(|version| version.deleted) {
        true => Shown::Marker,
        false => Shown::Object { size: listed.size, etag: listed.etag.clone() },
    }
}

/// A record of `key`, the n-th of its kind.
fn place(key: &str, n: usize) -> Vec<u8> {
    version_key(key.as_bytes(), n as i64, 0)
}

/// Records that [`place`] has sorted: key by key.
fn by_key<'a>(
    sorted: Sorted,
    failed: impl Fn(std::io::Error) -> Error + 'a,
) -> impl Iterator<Item = Result<(Vec<u8>, Vec<Vec<u8>>)>> + 'a {
    let mut records = sorted
        .map(move |record| {
            let (place, value) = record.map_err(&failed)?;
            Ok((parse_version_key(&place)?, (place, value)))
        })
        .peekable();
    std::iter::from_fn(move || {
        let (key, (mut last, first)) = match records.next()? {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let mut all = vec![first];
        while let Some(Ok((_, (place, value)))) =
            records.next_if(|next| next.as_ref().is_ok_and(|(k, _)| *k == key))
        {
            if place == last {
                let key = String::from_utf8_lossy(&key);
                let why = format!("the maps give two objects the name {key:?}");
                return Some(Err(repository::Error::Usage(why).into()));
            }
            last = place;
            all.push(value);
        }
        Some(Ok((key, all)))
    })
}

impl Run<'_> {
    /// Compares, then restores.
    pub(super) fn restore_versions(&mut self, target: &BucketTarget, settings: &Planned) -> Result<Counts> {
        let context = self.repository.context();
        let bucket = self.target_as_source()?;
        if !settings.versioning() && !target.keeps_versions()? {
            return Err(repository::Error::Usage(format!(
                "bucket {} does not keep versions: turn versioning on in it, or restore the current objects \
                 without --versions",
                bucket.name()
            ))
            .into());
        }
        context.progress.begin(Phase { name: "comparing versions", unit: "keys" });
        let mut plan = Plan::default();
        let (jobs, expected) = self.plan_versions(&bucket, &mut plan)?;
        plan.check(self.options, "the bucket", "objects")?;
        self.set_before(target, settings)?;
        let context = self.repository.context();
        context.progress.begin(Phase { name: "restoring versions", unit: "versions" });
        context.progress.expect(expected);
        context.progress.settled();
        let putting = Putting::new(self, target);
        let work = Work { putting, run: self, target, left: Default::default() };
        let done = |(): &mut (), series: Series| work.one(&series);
        let give = |take: &mut Take<'_, Series>| work.give(jobs, plan.counts, take);
        // Few wait: each holds every version of its key.
        let at_once = self.repository.context().memory.puts();
        let mut counts = ahead::run(self.nodes.reader(), at_once, at_once, || (), done, give)?;
        counts.written -= work.left.0.into_inner();
        counts.deleted -= work.left.1.into_inner();
        let done = work.putting.finish();
        (counts.bytes, counts.refused) = (done.bytes, done.refused);
        self.warnings.extend(done.warnings);
        self.notes.extend(done.notes);
        Ok(counts)
    }

    /// The target's bucket, to be listed.
    pub(super) fn target_as_source(&self) -> Result<Bucket> {
        let Some((access, bucket)) = &self.options.bucket else {
            return Err(crate::context::Interrupted.into());
        };
        let beginning = self.options.objects_scope().target_beginning();
        let whole = beginning.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let options = BucketOptions {
            access: access.clone(),
            bucket: bucket.clone(),
            prefix: format!("{}{whole}", self.options.to_prefix),
            selection: Selection::default(),
            versions: true,
        };
        Ok(Bucket::open(&self.repository.context().runtime, &options)?)
    }

    /// The snapshot's versions by their keys in the target.
    fn wanted_versions(&mut self) -> Result<Sorter> {
        let capture = self.moment.info.snapshot.objects.as_ref();
        let root = capture.and_then(|capture| capture.versions);
        let scope = self.options.objects_scope();
        let mut wanted = self.repository.spool().sorter();
        let (mut absent, mut later) = (0, Later::default());
        for entry in versions(&self.nodes, root.as_ref(), &scope.beginning())? {
            let (key, all) = entry?;
            self.repository.context().cancel.check()?;
            if !scope.takes(&key) {
                continue;
            }
            if self.is_later(&key) {
                later.add(&key);
                continue;
            }
            let key = self.target_key(&key)?;
            let here = |item: &Item| matches!(item.state, ItemState::Present | ItemState::Deleted);
            absent += all.iter().filter(|(_, item)| !here(item)).count();
            let all: Vec<Item> = all.into_iter().map(|(_, item)| item).filter(here).collect();
            let all = effective(all, |item| item.state == ItemState::Deleted);
            for (n, item) in all.into_iter().enumerate() {
                wanted.push(place(&key, n), item.encode()).map_err(|e| self.spool_failed(e))?;
            }
        }
        self.say_later(&later);
        if absent > 0 {
            self.warnings.push(format!(
                "{absent} versions could not be read when the snapshot was taken and were not restored"
            ));
        }
        Ok(wanted)
    }

    /// What is to be done, and how much it is.
    fn plan_versions(&mut self, bucket: &Bucket, plan: &mut Plan) -> Result<(Sorter, Amount)> {
        let spool = self.repository.spool();
        let wanted = self.wanted_versions()?;
        let failed = |e| Error::Spool(spool.to_string(), e);
        let wanted = by_key(wanted.finish().map_err(failed)?, failed);
        let found = bucket.versions().map(|found| {
            let found = found?;
            let key = found.first().map(|first| first.key.clone().into_bytes()).unwrap_or_default();
            let sequence = found.iter().rev().map(shown_in).collect();
            Ok((key, effective(sequence, |shown| *shown == Shown::Marker)))
        });
        let (mut jobs, mut expected) = (spool.sorter(), Amount::default());
        let mut staying = Later::default();
        for pair in paired(wanted, found) {
            let (key, wanted, found): (_, Option<Vec<Vec<u8>>>, Option<Vec<Shown>>) = pair?;
            self.repository.context().cancel.check()?;
            let key = String::from_utf8_lossy(&key).into_owned();
            let found = found.unwrap_or_default();
            let steps = match wanted {
                Some(wanted) => {
                    let items = items(&wanted)?;
                    let sequence = items.iter().map(shown).collect::<Result<Vec<_>>>()?;
                    let there = there_already(&found, &sequence);
                    if there != found.len() {
                        plan.counts.overwritten += 1;
                        plan.note(key.as_bytes());
                    } else if there == sequence.len() {
                        plan.counts.identical += 1;
                    }
                    items.into_iter().skip(there).collect()
                }
                None if !self.holds(key.as_bytes()) || found.is_empty() => continue,
                None => {
                    plan.counts.extra += 1;
                    plan.note(key.as_bytes());
                    match found.last() {
                        Some(Shown::Object { .. }) if self.options.delete_extra => vec![delete()],
                        Some(Shown::Object { .. }) => {
                            self.note_staying(&key, &mut staying);
                            Vec::new()
                        }
                        _ => Vec::new(),
                    }
                }
            };
            for (n, item) in steps.into_iter().enumerate() {
                expected.items += 1;
                expected.bytes += item.weight();
                jobs.push(place(&key, n), item.encode()).map_err(failed)?;
            }
        }
        self.warn_about_staying(&staying);
        Ok((jobs, expected))
    }
}

/// The delete of a key that the snapshot has not.
fn delete() -> Item {
    let attributes = crate::format::Attributes::Object(Box::default());
    let content = crate::format::Content::Inline(Vec::new());
    Item { state: ItemState::Deleted, size: 0, modified: 0, content, attributes }
}

/// What workers share.
struct Work<'a> {
    putting: Putting<'a>,
    run: &'a Run<'a>,
    target: &'a BucketTarget,
    /// Puts and deletes that were not made because an older version was refused.
    left: (AtomicU64, AtomicU64),
}

impl Work<'_> {
    /// Gives each key's series to a worker, or only shows it.
    fn give(&self, plan: Sorter, mut counts: Counts, take: &mut Take<'_, Series>) -> Result<Counts> {
        let failed = |e| self.run.spool_failed(e);
        for series in by_key(plan.finish().map_err(failed)?, failed) {
            self.run.repository.context().cancel.check()?;
            let (key, steps) = series?;
            let key = String::from_utf8_lossy(&key).into_owned();
            let steps = items(&steps)?;
            for step in &steps {
                let (action, counter) = match step.state {
                    ItemState::Deleted => ("delete", &mut counts.deleted),
                    _ => ("put", &mut counts.written),
                };
                *counter += 1;
                (self.run.show)(Change { side: "objects", action, key: key.clone().into_bytes() });
            }
            if !self.run.options.dry_run {
                let beginning = steps.first().and_then(|item| item.content.first_chunk());
                take(Series { key, steps }, beginning)?;
            }
        }
        Ok(counts)
    }

    fn one(&self, series: &Series) -> Result<()> {
        let context = self.run.repository.context();
        for (n, step) in series.steps.iter().enumerate() {
            context.cancel.check()?;
            if step.state == ItemState::Deleted {
                context.runtime.block_on(self.target.delete(&series.key))?;
                context.progress.advance(Amount { items: 1, bytes: 0 });
            } else if !self.putting.put(&series.key, step)? {
                // What came after it would stand in its place.
                let left = &series.steps[n..];
                let deletes = left.iter().filter(|step| step.state == ItemState::Deleted).count() as u64;
                self.left.0.fetch_add(left.len() as u64 - deletes, Ordering::Relaxed);
                self.left.1.fetch_add(deletes, Ordering::Relaxed);
                return Ok(());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(text: &str) -> Vec<Shown> {
        let one = |etag: char| match etag {
            '-' => Shown::Marker,
            etag => Shown::Object { size: 1, etag: etag.into() },
        };
        text.chars().map(one).collect()
    }

    #[test]
    fn a_series_goes_on_where_the_target_ends() {
        let cases = [
            ("", "ab", 0),
            ("a", "ab", 1),
            ("ab", "ab", 2),
            ("xa", "ab", 1),
            ("abx", "ab", 0),
            ("aa", "aab", 2),
        ];
        for (found, wanted, there) in cases {
            assert_eq!(there_already(&sequence(found), &sequence(wanted)), there, "{found} {wanted}");
        }
    }

    #[test]
    fn delete_markers_that_delete_nothing_do_not_count() {
        let kept = effective(sequence("--a--b-"), |shown| *shown == Shown::Marker);
        assert_eq!(kept, sequence("a-b-"));
        assert!(effective(sequence("--"), |shown| *shown == Shown::Marker).is_empty());
    }
}
