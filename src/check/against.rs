//! Verify against the living source. What a system did since its snapshot is no damage; what the snapshot
//! says of a moment that the source still knows must be what the source says.

use std::collections::{HashMap, VecDeque};

use super::etag::Etag;
use super::verify::{Verified, Verifying};
use super::{Error, Result};
use crate::context::Nanos;
use crate::etcd::{self, Etcd, Keys, Present};
use crate::fault::Kind;
use crate::format::{Attributes, Content, EtcdCapture, Item, ItemState, KeyState, ObjectCapture, Place};
use crate::progress::{Amount, Phase};
use crate::proof::{Prover, Verdict};
use crate::repository::{
    self, EtcdAt, Moment, Repository, content_bytes, first_name, line_of, objects, state,
};
use crate::selection::Selection;
use crate::sorter::paired;
use crate::source::{self, Bucket, BucketOptions, Directory, DirectoryOptions, Fetched, Seen, shows};
use crate::tree::{self, Nodes};

/// Damaged keys and objects that are named; more are counted.
const NAMED: u64 = 1000;
/// Objects whose first chunks are asked for early.
const AHEAD: usize = 16;

/// The living sources that a snapshot is compared with.
#[derive(Clone, Default)]
pub struct Sources {
    /// etcd, and the beginning of the keys that are captured; empty for what the snapshot says.
    pub etcd: Option<(etcd::Access, Vec<u8>)>,
    /// The bucket.
    pub bucket: Option<BucketOptions>,
    /// The directory.
    pub directory: Option<DirectoryOptions>,
}

/// How the source differs from the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Since {
    /// It is in the source only.
    Added,
    /// It is in the snapshot only.
    Removed,
    /// It is another version.
    Changed,
}

/// A key or object that is other in the source now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `etcd` or `objects`.
    pub side: &'static str,
    /// The key.
    pub key: Vec<u8>,
    /// What happened to it.
    pub since: Since,
}

/// One side, compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// The revision of etcd that was read.
    pub revision: Option<i64>,
    /// Keys or objects that are the same.
    pub same: u64,
    /// What is not.
    pub differ: HashMap<Since, u64>,
}

impl Compared {
    /// How many have met this.
    pub fn count(&self, since: Since) -> u64 {
        self.differ.get(&since).copied().unwrap_or(0)
    }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Against {
    /// What was read of the snapshot, and its damage.
    pub verified: Verified,
    /// Objects whose ETag was made again from the bytes stored.
    pub etags: u64,
    /// Keys.
    pub etcd: Option<Compared>,
    /// What each member of etcd says of its hash.
    pub members: Vec<Member>,
    /// Objects.
    pub objects: Option<Compared>,
}

/// A member of etcd that was asked for its hash of the revision.
#[derive(Debug, Clone)]
pub struct Member {
    /// Where it is.
    pub endpoint: String,
    /// Its id, where it answered.
    pub id: Option<u64>,
    /// What came of it.
    pub verdict: Verdict,
}

/// Whoever is shown differences.
type Show<'a> = &'a mut dyn FnMut(Difference);

/// Reads everything that the snapshot refers to, as `verify` does, makes ETags again from what is stored,
/// and compares with the sources. `show` is told every key and object that the sources have moved on from.
pub fn verify_against(
    repository: &Repository,
    moment: &Moment,
    sources: &Sources,
    show: Show,
) -> Result<Against> {
    // Sources that are down, or other ones, are told before hours of reading.
    let etcd = sources.etcd.as_ref().map(|(access, prefix)| connect(repository, moment, access, prefix));
    let etcd = etcd.transpose()?;
    let bucket = sources.bucket.as_ref().map(|options| open_bucket(repository, moment, options));
    let bucket = bucket.transpose()?;
    let directory = sources.directory.as_ref().map(|options| open_directory(moment, options)).transpose()?;
    let view = repository.view()?;
    let reader = repository.reader(&view)?.from_the_medium();
    let verifying = Verifying::new(repository, moment, &reader);
    let mut run = Run { repository, verifying, damaged: 0, show };
    let mut against = Against::default();
    if let Some((bucket, _)) = &bucket {
        against.etags = run.etags(bucket)?;
    }
    run.verifying.read_all()?;
    // What cannot be read cannot be compared.
    if run.verifying.verified.damage.len() as u64 <= run.damaged.min(NAMED) {
        against.etcd = etcd.map(|(etcd, at)| run.compare_keys(&etcd, at)).transpose()?;
        if let Some((access, _)) = &sources.etcd {
            let line = line_of(&view.snapshots, &moment.info);
            against.members =
                run.ask_members(access, line.into_iter().map(|(_, capture)| capture).collect())?;
        }
        against.objects = match (bucket, directory) {
            (Some((bucket, capture)), _) => Some(run.compare_objects(&bucket, capture)?),
            (None, Some((directory, capture))) => Some(run.compare_files(&directory, capture)?),
            (None, None) => None,
        };
    }
    if run.damaged > NAMED {
        let more = format!("{} more keys and objects are not as the source says", run.damaged - NAMED);
        run.verifying.note("snapshot", moment.info.id.to_string(), more);
    }
    against.verified = run.verifying.verified;
    Ok(against)
}

fn lacks(what: &str) -> Error {
    repository::Error::Usage(format!("this snapshot has no {what} to compare with")).into()
}

/// The etcd that the snapshot was made from.
fn connect<'a>(
    repository: &Repository,
    moment: &'a Moment,
    access: &etcd::Access,
    prefix: &[u8],
) -> Result<(Etcd, EtcdAt<'a>)> {
    let at = moment.etcd().ok_or_else(|| lacks("etcd"))?;
    let capture = at.capture;
    let (etcd, status) = Etcd::connect(&repository.context().runtime, access).map_err(source::Error::from)?;
    let other = |why: String| Error::SourceChanged(format!("this is not the etcd of the snapshot: {why}"));
    if status.cluster_id != capture.cluster_id {
        return Err(other(format!(
            "its cluster id is {:016x} and was {:016x}",
            status.cluster_id, capture.cluster_id
        )));
    }
    if status.revision < capture.revision {
        return Err(other(format!("it is at revision {} and was at {}", status.revision, capture.revision)));
    }
    if !prefix.is_empty() && prefix != capture.prefix {
        let (now, then) = (String::from_utf8_lossy(prefix), String::from_utf8_lossy(&capture.prefix));
        return Err(Error::SourceChanged(format!("the snapshot's etcd prefix is {then:?}, not {now:?}")));
    }
    Ok((etcd, at))
}

/// The bucket that the snapshot was made from.
fn open_bucket<'a>(
    repository: &Repository,
    moment: &'a Moment,
    options: &BucketOptions,
) -> Result<(Bucket, &'a ObjectCapture)> {
    let capture = moment.info.snapshot.objects.as_ref().ok_or_else(|| lacks("objects"))?;
    let Place::Bucket { name, prefix } = &capture.place else { return Err(lacks("bucket")) };
    if options.bucket != *name || !options.prefix.is_empty() && options.prefix != *prefix {
        return Err(Error::SourceChanged(format!(
            "the snapshot is of bucket {name:?}, prefix {prefix:?}, and this is bucket {:?}, prefix {:?}",
            options.bucket, options.prefix
        )));
    }
    let options = BucketOptions { prefix: prefix.clone(), ..options.clone() };
    let bucket = Bucket::open(&repository.context().runtime, &options)?;
    bucket.check()?;
    Ok((bucket, capture))
}

/// The directory that the snapshot was made from.
fn open_directory<'a>(
    moment: &'a Moment,
    options: &DirectoryOptions,
) -> Result<(Directory, &'a ObjectCapture)> {
    let capture = moment.info.snapshot.objects.as_ref().ok_or_else(|| lacks("objects"))?;
    let Place::Directory(path) = &capture.place else { return Err(lacks("directory")) };
    let bad = |e: crate::selection::BadGlob| repository::Error::Usage(e.to_string());
    let selection = Selection::new(capture.include.clone(), capture.exclude.clone()).map_err(bad)?;
    let directory = Directory::open(&DirectoryOptions { selection, ..options.clone() })?;
    if directory.place() != *path {
        let (was, is) = (String::from_utf8_lossy(path), directory.path().display());
        let what = format!("the snapshot is of directory {was:?}, and this is {:?}", is.to_string());
        return Err(Error::SourceChanged(what));
    }
    Ok((directory, capture))
}

/// A snapshot being compared.
struct Run<'a> {
    repository: &'a Repository,
    verifying: Verifying<'a>,
    damaged: u64,
    show: Show<'a>,
}

impl Run<'_> {
    /// Something that cannot have come about by the source moving on.
    fn damaged(&mut self, kind: &'static str, key: &[u8], what: String) {
        self.damaged += 1;
        if self.damaged <= NAMED {
            self.verifying.note(kind, String::from_utf8_lossy(key).into_owned(), what);
        }
    }

    fn differs(&mut self, compared: &mut Compared, side: &'static str, key: Vec<u8>, since: Since) {
        *compared.differ.entry(since).or_default() += 1;
        (self.show)(Difference { side, key, since });
    }

    fn step(&self) -> Result<()> {
        self.repository.context().cancel.check()?;
        self.repository.context().progress.advance(Amount { items: 1, bytes: 0 });
        Ok(())
    }

    /// At the moment's own revision while etcd still has it, else as it is now.
    fn compare_keys(&mut self, etcd: &Etcd, at: EtcdAt) -> Result<Compared> {
        let (damage, damaged) = (self.verifying.verified.damage.len(), self.damaged);
        match self.compare_keys_at(etcd, at, at.revision) {
            Err(Error::Source(source::Error::Etcd(error))) if error.is_compacted() => {
                self.verifying.verified.damage.truncate(damage);
                self.damaged = damaged;
                let now = etcd.status().map_err(source::Error::from)?.revision;
                self.compare_keys_at(etcd, at, now)
            }
            compared => compared,
        }
    }

    fn compare_keys_at(&mut self, etcd: &Etcd, at: EtcdAt, revision: i64) -> Result<Compared> {
        let progress = &self.repository.context().progress;
        progress.begin(Phase { name: "comparing keys", unit: "keys" });
        progress.expect(Amount { items: at.capture.keys, bytes: 0 });
        let reader = self.verifying.nodes.reader();
        let nodes = tree::ReadWrite::new(reader, None);
        let stored = state(&nodes, at, &[], &self.repository.spool())?;
        let living = Keys::at(etcd, &at.capture.prefix, revision);
        let living = living.map(|key| {
            let present = key.map_err(source::Error::from)?;
            Ok((present.key.clone(), present))
        });
        let mut compared = Compared { revision: Some(revision), ..Compared::default() };
        for pair in paired(stored.map(|entry| entry.map_err(Error::from)), living) {
            self.step()?;
            let (key, stored, living) = pair?;
            let since = match (&stored, &living) {
                (Some(stored), Some(living)) if stored.mod_revision == living.mod_revision => {
                    match same(&nodes, stored, living)? {
                        true => compared.same += 1,
                        false => {
                            let what = format!("etcd's revision {} of it is another", stored.mod_revision);
                            self.damaged("etcd key", &key, what);
                        }
                    }
                    continue;
                }
                (Some(_), Some(_)) => Since::Changed,
                (Some(_), None) => Since::Removed,
                (None, _) => Since::Added,
            };
            if revision != at.revision {
                self.differs(&mut compared, "etcd", key, since);
                continue;
            }
            let says = |revision: Option<i64>| revision.map_or("not".into(), |r| format!("of revision {r}"));
            let (stored, living) = (stored.map(|s| s.mod_revision), living.map(|l| l.mod_revision));
            let what =
                format!("at revision {revision} etcd has it {}, the snapshot {}", says(living), says(stored));
            self.damaged("etcd key", &key, what);
        }
        Ok(compared)
    }

    /// Asks every member for its hash of the revision.
    fn ask_members(&mut self, access: &etcd::Access, line: Vec<&EtcdCapture>) -> Result<Vec<Member>> {
        let at = self.verifying.moment.etcd().ok_or_else(|| lacks("etcd"))?;
        let nodes = tree::ReadWrite::new(self.verifying.nodes.reader(), None);
        let mut prover = Prover::new(self.repository, &nodes, at, line);
        let mut members = Vec::new();
        for (endpoint, connected) in Etcd::connect_each(&self.repository.context().runtime, access) {
            let (id, verdict) = match connected {
                Err(error) => (None, Verdict::Unproved(error.to_string())),
                Ok((_, status)) if status.cluster_id != at.capture.cluster_id => {
                    (None, Verdict::Unproved("it is a member of another cluster".into()))
                }
                Ok((etcd, status)) => (Some(status.member_id), prover.prove(&etcd)?),
            };
            members.push(Member { endpoint, id, verdict });
        }
        for Member { endpoint, verdict, .. } in &members {
            if let Verdict::Refuted(refuted) = verdict {
                self.damaged("etcd hash", endpoint.as_bytes(), refuted.to_string());
            }
        }
        Ok(members)
    }

    fn compare_objects(&mut self, bucket: &Bucket, capture: &ObjectCapture) -> Result<Compared> {
        let bad = |e: crate::selection::BadGlob| repository::Error::Usage(e.to_string());
        let selection = Selection::new(capture.include.clone(), capture.exclude.clone()).map_err(bad)?;
        let living = bucket.list()?.map(|listed| {
            let listed = listed?;
            Ok((listed.key.clone().into_bytes(), listed))
        });
        let living = living.filter(|entry| entry.as_ref().map_or(true, |(key, _)| selection.takes(key)));
        self.compare_items(capture, living, |item, listed| listed.shows(item))
    }

    fn compare_files(&mut self, directory: &Directory, capture: &ObjectCapture) -> Result<Compared> {
        let living = directory.list()?.filter_map(|seen| match seen {
            Seen::Entry(entry) => entry.status.ok().map(|status| Ok((entry.key, status))),
            // It was listed itself; of what is below nothing can be said.
            Seen::Closed(..) => None,
        });
        self.compare_items(capture, living, |item, status| shows(status, item, first_name(item), Nanos::MAX))
    }

    /// Compares the snapshot's items with those of the source, both in order of key.
    fn compare_items<L>(
        &mut self,
        capture: &ObjectCapture,
        living: impl Iterator<Item = Result<(Vec<u8>, L)>>,
        same: impl Fn(&Item, &L) -> bool,
    ) -> Result<Compared> {
        let progress = &self.repository.context().progress;
        progress.begin(Phase { name: "comparing objects", unit: "objects" });
        progress.expect(Amount { items: tree::count(capture.root.as_ref()), bytes: 0 });
        let nodes = tree::ReadWrite::new(self.verifying.nodes.reader(), None);
        let stored = objects(&nodes, self.verifying.moment, &[])?.map(|entry| {
            let (key, value, _) = entry?;
            Ok::<_, Error>((key, Item::decode(&value)?))
        });
        // What vanished while it was captured is not in the snapshot.
        let stored = stored.filter(|entry| !matches!(entry, Ok((_, item)) if item.state == ItemState::Gone));
        let mut compared = Compared::default();
        for pair in paired(stored, living) {
            self.step()?;
            let (key, stored, living) = pair?;
            let since = match (stored, living) {
                (Some(item), Some(living)) => {
                    // One that could not be read was at least listed.
                    if same(&Item { state: ItemState::Present, ..item }, &living) {
                        compared.same += 1;
                        continue;
                    }
                    Since::Changed
                }
                (Some(_), None) => Since::Removed,
                (None, _) => Since::Added,
            };
            self.differs(&mut compared, "objects", key, since);
        }
        Ok(compared)
    }

    /// Makes ETags again from the bytes stored; says how many. A damaged tree or chunk ends this early, and
    /// is found again by whoever reads all.
    fn etags(&mut self, bucket: &Bucket) -> Result<u64> {
        let context = self.repository.context();
        context.progress.begin(Phase { name: "verifying objects", unit: "chunks" });
        let nodes = tree::ReadWrite::new(self.verifying.nodes.reader(), None);
        let lost = |kind| matches!(kind, Kind::Damage | Kind::NotFound);
        let mut entries = match objects(&nodes, self.verifying.moment, &[]) {
            Err(error) if lost(error.kind()) => return Ok(0),
            entries => entries?,
        };
        let (mut made, mut next, mut ended) = (0, VecDeque::new(), false);
        loop {
            context.cancel.check()?;
            // The first chunks of those that come next are on their way meanwhile.
            while next.len() < AHEAD
                && !ended
                && let Some(entry) = entries.next()
            {
                let (key, value, _) = match entry {
                    Err(error) if lost(error.kind()) => {
                        ended = true;
                        break;
                    }
                    entry => entry?,
                };
                let item = Item::decode(&value)?;
                let Attributes::Object(attributes) = &item.attributes else { continue };
                let etag = Etag::of(attributes, item.size).filter(|_| item.state == ItemState::Present);
                if let Some(etag) = etag {
                    let early = item.content.first_chunk().map(|id| nodes.ask(&id)).transpose()?;
                    next.push_back((key, item, etag, early));
                }
            }
            let Some((key, item, etag, _until_read)) = next.pop_front() else { return Ok(made) };
            let Attributes::Object(attributes) = &item.attributes else { continue };
            let found = match self.etag_of(etag, &nodes, &item.content) {
                Err(error) if lost(error.kind()) => continue,
                found => found?,
            };
            made += 1;
            if found == attributes.etag {
                continue;
            }
            if self.is_md5_in(bucket, &key, &item)? == Some(false) {
                // This server's ETags say nothing about bytes.
                return Ok(made - 1);
            }
            self.damaged(
                "object",
                &key,
                format!("its bytes have the ETag {found}, and it had {}", attributes.etag),
            );
        }
    }

    fn etag_of(&mut self, mut etag: Etag, nodes: &dyn tree::Nodes, content: &Content) -> Result<String> {
        if let Content::Inline(bytes) = content {
            etag.push(bytes);
        }
        tree::read_chunks::<Error>(nodes, content, |id, _| {
            self.repository.context().cancel.check()?;
            etag.push(&self.verifying.chunk(&id)?);
            Ok(())
        })?;
        Ok(etag.finish())
    }

    /// Whether the ETag is the MD5 of the living object's bytes; `None` where that is another object now.
    fn is_md5_in(&self, bucket: &Bucket, key: &[u8], item: &Item) -> Result<Option<bool>> {
        let runtime = &self.repository.context().runtime;
        let Attributes::Object(attributes) = &item.attributes else { return Ok(None) };
        let Some(listed) = runtime.block_on(bucket.look(&String::from_utf8_lossy(key), None))? else {
            return Ok(None);
        };
        let (Some(mut etag), mut listed) = (Etag::of(attributes, item.size), listed) else { return Ok(None) };
        if listed.etag != attributes.etag {
            return Ok(None);
        }
        let reading = bucket.reading(self.repository.context().memory.bodies());
        let Fetched::Object(head, mut body) = runtime.block_on(reading.fetch(&mut listed))? else {
            return Ok(None);
        };
        while let Some(piece) = body.next_piece()? {
            etag.push(&piece);
        }
        Ok((head.attributes.etag == attributes.etag).then(|| etag.finish() == attributes.etag))
    }
}

/// Whether a key is the same in all that etcd never changes within one revision.
fn same(nodes: &dyn tree::Nodes, stored: &KeyState, living: &Present) -> Result<bool> {
    let alike = (stored.create_revision, stored.version, stored.lease)
        == (living.create_revision, living.version, living.lease);
    Ok(alike && content_bytes(nodes, &stored.value)? == living.value)
}
