//! Restoring objects to a bucket: only what differs, several at once.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ahead::{self, Take, queue};
use super::milvus::Later;
use super::put::{Putting, of_object};
use super::settings::Planned;
use super::{Change, Counts, Error, Listed, Plan, Result, Run, text};
use crate::context::Nanos;
use crate::format::{Attributes, FileKind, Headers, Item, ItemState, Malformed, ObjectAttributes};
use crate::progress::{Amount, Phase};
use crate::repository::{self, Certainty, object, objects};
use crate::sorter::Sorter;
use crate::target::BucketTarget;

const SECOND: Nanos = 1_000_000_000;
/// Objects whose metadata is asked for together.
const ALIKE: usize = 256;

/// Begins the record of a lock; those of puts begin with 0 or 1.
const LOCK: u8 = 2;

/// What is to be done with one object.
enum Job {
    Put {
        key: String,
        item: Box<Item>,
        replaces: bool,
    },
    /// It is there, and may not be locked yet.
    Lock {
        key: String,
        item: Box<Item>,
    },
    Delete {
        key: String,
    },
}

impl Job {
    /// As a record to spool: a plan may be larger than memory.
    fn record(self) -> (Vec<u8>, Vec<u8>) {
        match self {
            Job::Delete { key } => (key.into_bytes(), Vec::new()),
            Job::Put { key, item, replaces } => {
                (key.into_bytes(), [&[u8::from(replaces)][..], &item.encode()].concat())
            }
            Job::Lock { key, item } => (key.into_bytes(), [&[LOCK][..], &item.encode()].concat()),
        }
    }

    fn of_record(key: Vec<u8>, record: &[u8]) -> Result<Job> {
        let key = String::from_utf8_lossy(&key).into_owned();
        Ok(match record.split_first() {
            None => Job::Delete { key },
            Some((&LOCK, item)) => Job::Lock { key, item: Box::new(Item::decode(item)?) },
            Some((replaces, item)) => {
                Job::Put { key, item: Box::new(Item::decode(item)?), replaces: *replaces == 1 }
            }
        })
    }
}

/// What of a directory no object can be.
#[derive(Default)]
struct Unfit {
    /// Names that are no keys.
    keys: Listed,
    /// Links and special files.
    kinds: Listed,
    directories: u64,
    /// Hard links that become objects of their own.
    copies: u64,
}

/// The longest key that servers hold.
const MOST_KEY: usize = 1024;

/// What workers share.
struct Work<'a> {
    putting: Putting<'a>,
    run: &'a Run<'a>,
    target: &'a BucketTarget,
    /// Refused by the target: those that are not there, and those that are.
    refused: [AtomicU64; 2],
}

impl Run<'_> {
    /// Compares, then restores.
    pub(super) fn restore_objects(&mut self) -> Result<Option<Counts>> {
        let Some((access, bucket)) = &self.options.bucket else { return Ok(None) };
        let context = self.repository.context();
        let target = BucketTarget::open(&context.runtime, access, bucket)?;
        self.check_named_objects()?;
        if self.options.object_locks && !target.has_object_lock()? {
            return Err(repository::Error::Usage(format!(
                "objects in bucket {bucket} cannot be locked: make it with object lock, or leave out --object-locks"
            ))
            .into());
        }
        let settings = self.plan_settings(&target)?;
        let counts = match self.options.versions {
            true => self.restore_versions(&target, &settings)?,
            false => self.restore_current(&target, &settings)?,
        };
        self.set_after(&target, &settings)?;
        Ok(Some(counts))
    }

    /// The current objects.
    fn restore_current(&mut self, target: &BucketTarget, settings: &Planned) -> Result<Counts> {
        let context = self.repository.context();
        context.progress.begin(Phase { name: "comparing objects", unit: "objects" });
        let (mut plan, mut expected) = (Plan::default(), Amount::default());
        let mut jobs = self.repository.spool().sorter();
        let (mut unfit, mut staying) = (Unfit::default(), Later::default());
        let identical = self.compare_objects(target, &mut unfit, |job| {
            match &job {
                Job::Put { key, replaces: true, .. } => {
                    plan.counts.overwritten += 1;
                    plan.note(key.as_bytes());
                }
                Job::Delete { key } => {
                    plan.counts.extra += 1;
                    plan.note(key.as_bytes());
                    self.note_staying(key, &mut staying);
                }
                Job::Put { .. } | Job::Lock { .. } => {}
            }
            if let Job::Put { item, .. } = &job {
                expected.items += 1;
                expected.bytes += item.size;
            }
            let (key, record) = job.record();
            jobs.push(key, record).map_err(|e| self.spool_failed(e))
        })?;
        plan.check(self.options, "the bucket", "objects")?;
        self.warn_about_staying(&staying);
        self.set_before(target, settings)?;
        let context = self.repository.context();
        context.progress.begin(Phase { name: "restoring objects", unit: "objects" });
        context.progress.expect(expected);
        context.progress.settled();
        let mut counts = self.write_objects(target, jobs)?;
        counts.identical = identical;
        self.look_at_chosen()?;
        self.say_unfit(unfit);
        Ok(counts)
    }

    fn say_unfit(&mut self, unfit: Unfit) {
        let Unfit { keys, kinds, directories, copies } = unfit;
        self.warnings.extend(keys.warning("names cannot be keys of objects and were not restored"));
        self.warnings
            .extend(kinds.warning("links and special files cannot be objects and were not restored"));
        if directories > 0 {
            self.notes.push(format!("{directories} directories are not in the bucket: objects need none"));
        }
        if copies > 0 {
            self.notes.push(format!("{copies} hard links have become objects of their own"));
        }
    }

    /// Counts objects that are only the nearest, and warns of those that have no content.
    pub(super) fn look_at_chosen(&mut self) -> Result<()> {
        let (mut absent, mut nearest, mut by_version) = (Listed::default(), 0, 0);
        let later = self.for_each_chosen(|key, value, certainty| {
            if Item::decode(&value)?.state == ItemState::Unreadable {
                absent.add(|| text(&key));
            }
            match certainty {
                Certainty::Exact => {}
                Certainty::Version => by_version += 1,
                Certainty::Before | Certainty::After => nearest += 1,
            }
            Ok(())
        })?;
        (self.nearest, self.by_version) = (nearest, by_version);
        self.say_later(&later);
        let what = "objects could not be read when the snapshot was taken and were not restored";
        self.warnings.extend(absent.warning(what));
        Ok(())
    }

    pub(super) fn target_key(&self, key: &[u8]) -> Result<String> {
        let mapped = self.options.objects_scope().renamed(key);
        let key = String::from_utf8(mapped)
            .map_err(|_| Malformed::Decode("an object's key is not UTF-8".into()))?;
        Ok(format!("{}{key}", self.options.to_prefix))
    }

    /// Shows every object of the snapshot that is restored, in order, and returns what was left out as later than
    /// etcd.
    pub(super) fn for_each_chosen(
        &self,
        mut show: impl FnMut(Vec<u8>, Vec<u8>, Certainty) -> Result<()>,
    ) -> Result<Later> {
        let scope = self.options.objects_scope();
        let mut later = Later::default();
        for entry in objects(&self.nodes, self.moment, &scope.beginning())? {
            let (key, value, certainty) = entry?;
            match scope.takes(&key) {
                true if self.is_later(&key) => later.add(&key),
                true => show(key, value, certainty)?,
                false => {}
            }
        }
        Ok(later)
    }

    /// A key that was named and is not there is a mistake to be told before anything is written.
    pub(super) fn check_named_objects(&self) -> Result<()> {
        for key in &self.options.object_keys {
            if object(&self.nodes, self.moment, key)?.is_none() {
                return Err(super::not_there("object", key));
            }
        }
        Ok(())
    }

    /// The snapshot's objects by their keys in the target, in order.
    fn wanted_objects(&self, unfit: &mut Unfit) -> Result<Sorter> {
        let spool = self.repository.spool();
        let mut sorter = spool.sorter();
        self.for_each_chosen(|key, value, _| {
            let item = Item::decode(&value)?;
            let value = match &item.attributes {
                Attributes::Object(_) => value,
                Attributes::File(_) => match self.object_of_file(&key, item, unfit)? {
                    Some(object) => object.encode(),
                    None => return Ok(()),
                },
            };
            sorter.push(self.target_key(&key)?.into_bytes(), value).map_err(|e| self.spool_failed(e))
        })?;
        Ok(sorter)
    }

    /// A regular file as an object.
    fn object_of_file(&self, key: &[u8], item: Item, unfit: &mut Unfit) -> Result<Option<Item>> {
        let Attributes::File(file) = &item.attributes else { return Ok(None) };
        match file.kind {
            // What is not there is told apart from this.
            _ if item.state != ItemState::Present => return Ok(None),
            FileKind::Regular => {}
            FileKind::HardLink(_) => unfit.copies += 1,
            FileKind::Directory => {
                unfit.directories += 1;
                return Ok(None);
            }
            _ => {
                unfit.kinds.add(|| text(key));
                return Ok(None);
            }
        }
        let length = self.options.to_prefix.len() + self.options.objects_scope().renamed(key).len();
        if length > MOST_KEY || std::str::from_utf8(key).is_err() {
            unfit.keys.add(|| text(key));
            return Ok(None);
        }
        let item = repository::unlinked(&self.nodes, self.moment, item)?;
        let (seconds, nanos) = (item.modified.div_euclid(SECOND), item.modified.rem_euclid(SECOND));
        let headers = Headers { content_type: Some("application/octet-stream".into()), ..Headers::default() };
        // As rclone does. It is how the object is known to be the file again.
        let metadata = vec![("mtime".into(), format!("{seconds}.{nanos:09}"))];
        let attributes = ObjectAttributes { headers, metadata, ..ObjectAttributes::default() };
        Ok(Some(Item { attributes: Attributes::Object(Box::new(attributes)), ..item }))
    }

    /// The target's objects: key → size and ETag.
    fn found_objects(&self, target: &BucketTarget) -> Result<Sorter> {
        let spool = self.repository.spool();
        let mut sorter = spool.sorter();
        let mut failure = None;
        let beginning = self.options.objects_scope().target_beginning();
        let whole = beginning.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let prefix = format!("{}{whole}", self.options.to_prefix);
        target.list(&prefix, |found| {
            let value = [&found.size.to_le_bytes()[..], found.etag.as_bytes()].concat();
            if let Err(error) = sorter.push(found.key.into_bytes(), value) {
                failure.get_or_insert(error);
            }
            Ok(())
        })?;
        match failure {
            Some(error) => Err(Error::Spool(spool.to_string(), error)),
            None => Ok(sorter),
        }
    }

    pub(super) fn spool_failed(&self, error: std::io::Error) -> Error {
        Error::Spool(self.repository.spool().to_string(), error)
    }

    /// Shows what is to be done; counts what is identical.
    fn compare_objects(
        &self,
        target: &BucketTarget,
        unfit: &mut Unfit,
        mut show: impl FnMut(Job) -> Result<()>,
    ) -> Result<u64> {
        let failed = |e| self.spool_failed(e);
        let mut found = self.found_objects(target)?.finish().map_err(failed)?.peekable();
        let wanted = self.wanted_objects(unfit)?.finish().map_err(failed)?;
        let (mut identical, mut last) = (0, Vec::new());
        let mut alike: Vec<(String, Item)> = Vec::new();
        for record in wanted {
            self.repository.context().cancel.check()?;
            let (key, value) = record.map_err(failed)?;
            if key == last {
                let key = String::from_utf8_lossy(&key).into_owned();
                return Err(
                    repository::Error::Usage(format!("the maps give two objects the name {key:?}")).into()
                );
            }
            while let Some(extra) = found.next_if(|f| f.as_ref().map_or(true, |f| f.0 < key)) {
                self.extra(extra.map_err(failed)?.0, &mut show)?;
            }
            let there =
                found.next_if(|f| f.as_ref().is_ok_and(|f| f.0 == key)).transpose().map_err(failed)?;
            last = key.clone();
            let item = Item::decode(&value)?;
            if item.state != ItemState::Present {
                continue;
            }
            let key = String::from_utf8_lossy(&key).into_owned();
            let expected = [&item.size.to_le_bytes()[..], of_object(&item)?.etag.as_bytes()].concat();
            // Of what was a file only the size is known before its metadata are asked for.
            let any_etag = expected.len() == 8;
            let fits = |there: &[u8]| there == expected || any_etag && there.starts_with(&expected);
            if there.as_ref().is_some_and(|(_, there)| fits(there)) {
                alike.push((key, item));
                if alike.len() >= ALIKE {
                    identical += self.judge_alike(target, &mut alike, &mut show)?;
                }
                continue;
            }
            show(Job::Put { key, item: Box::new(item), replaces: there.is_some() })?;
        }
        identical += self.judge_alike(target, &mut alike, &mut show)?;
        for extra in found {
            self.extra(extra.map_err(failed)?.0, &mut show)?;
        }
        Ok(identical)
    }

    /// Objects of the right size and ETag: identical if headers, metadata and tags are the same too.
    fn judge_alike(
        &self,
        target: &BucketTarget,
        alike: &mut Vec<(String, Item)>,
        show: &mut impl FnMut(Job) -> Result<()>,
    ) -> Result<u64> {
        let asked = alike.iter().map(|(key, item)| Ok((key.as_str(), of_object(item)?)));
        let asked: Vec<(&str, &ObjectAttributes)> = asked.collect::<Result<_>>()?;
        let same = target.all_same_metadata(&asked)?;
        self.repository.context().progress.advance(Amount { items: same.len() as u64, bytes: 0 });
        let mut identical = 0;
        for ((key, item), same) in alike.drain(..).zip(same) {
            match same {
                true => {
                    identical += 1;
                    let attributes = of_object(&item)?;
                    let locked = attributes.retention.is_some() || attributes.legal_hold;
                    if locked && self.options.object_locks {
                        show(Job::Lock { key, item: Box::new(item) })?;
                    }
                }
                false => show(Job::Put { key, item: Box::new(item), replaces: true })?,
            }
        }
        Ok(identical)
    }

    /// Whether a key of the target is in scope.
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        let to_prefix = self.options.to_prefix.as_bytes();
        self.options.objects_scope().holds(key.strip_prefix(to_prefix).unwrap_or(key))
    }

    fn extra(&self, key: Vec<u8>, show: &mut impl FnMut(Job) -> Result<()>) -> Result<()> {
        match self.holds(&key) {
            true => show(Job::Delete { key: String::from_utf8_lossy(&key).into_owned() }),
            false => Ok(()),
        }
    }

    fn write_objects(&mut self, target: &BucketTarget, jobs: Sorter) -> Result<Counts> {
        let putting = Putting::new(self, target);
        let work = Work { putting, run: self, target, refused: Default::default() };
        let done = |(): &mut (), job| work.one(job);
        let reader = self.nodes.reader();
        let give = |take: &mut Take<'_, Job>| work.give(jobs, take);
        let at_once = self.repository.context().memory.puts();
        let mut counts = ahead::run(reader, at_once, queue(reader), || (), done, give)?;
        let [new, there] = work.refused.map(AtomicU64::into_inner);
        counts.written -= new;
        counts.overwritten -= there;
        let done = work.putting.finish();
        (counts.bytes, counts.refused) = (done.bytes, done.refused);
        self.warnings.extend(done.warnings);
        self.notes.extend(done.notes);
        Ok(counts)
    }
}

impl Work<'_> {
    /// Gives the plan's jobs to the workers, or only shows them.
    fn give(&self, plan: Sorter, take: &mut Take<'_, Job>) -> Result<Counts> {
        let (options, context) = (self.run.options, self.run.repository.context());
        let failed = |e| self.run.spool_failed(e);
        let mut counts = Counts::default();
        for record in plan.finish().map_err(failed)? {
            context.cancel.check()?;
            let (key, record) = record.map_err(failed)?;
            let job = Job::of_record(key, &record)?;
            let mut locks = 0;
            let (action, key, counter) = match &job {
                Job::Lock { key, .. } => ("lock", key, &mut locks),
                Job::Put { key, replaces: true, .. } => ("overwrite", key, &mut counts.overwritten),
                Job::Put { key, replaces: false, .. } => ("put", key, &mut counts.written),
                Job::Delete { .. } if !options.delete_extra => {
                    counts.extra += 1;
                    continue;
                }
                Job::Delete { key } => ("delete", key, &mut counts.deleted),
            };
            *counter += 1;
            (self.run.show)(Change { side: "objects", action, key: key.clone().into_bytes() });
            if !options.dry_run {
                let beginning = match &job {
                    Job::Put { item, .. } => item.content.first_chunk(),
                    Job::Lock { .. } | Job::Delete { .. } => None,
                };
                take(job, beginning)?;
            }
        }
        Ok(counts)
    }

    fn one(&self, job: Job) -> Result<()> {
        match job {
            Job::Put { key, item, replaces } => {
                if !self.putting.put(&key, &item)? {
                    self.refused[usize::from(replaces)].fetch_add(1, Ordering::Relaxed);
                }
            }
            Job::Lock { key, item } => self.putting.lock_object(&key, None, of_object(&item)?)?,
            Job::Delete { key } => {
                self.run.repository.context().runtime.block_on(self.target.delete(&key))?
            }
        }
        Ok(())
    }
}
