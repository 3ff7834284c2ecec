//! A bucket: its objects, with everything that belongs to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::{ObjectAttributes as Asked, ObjectLockLegalHoldStatus};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::listing::{Listed, Lister, Listing, Version};
use super::versions::Versions;
use super::{Error, Result};
use crate::context::Nanos;
use crate::fault::Kind;
use crate::format::{Headers, ObjectAttributes, Retention, runs_of};
use crate::selection::Selection;
use crate::storage::{Cause, S3Access, classify, connect, impatient, received};

/// A larger object is read in ranges of this size.
const PIECE: u64 = 4 << 20;
/// Pieces of one object that wait in memory for whoever cuts them.
const PIECES_AHEAD: usize = 3;
/// An object that changes while it is read is read again this often.
const TRIES: usize = 4;
/// A body that breaks off is asked for this often, after pauses that double.
const PIECE_TRIES: usize = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Requests made to the source.
#[derive(Debug, Default)]
pub struct Requests {
    /// Pages listed.
    pub lists: AtomicU64,
    /// Objects, ranges and tag sets read.
    pub gets: AtomicU64,
    /// Objects asked about.
    pub heads: AtomicU64,
    /// Settings of the bucket asked for.
    pub settings: AtomicU64,
}

impl Requests {
    pub(super) fn list(&self) {
        self.lists.fetch_add(1, Ordering::Relaxed);
    }
}

/// A bucket and how it is read.
#[derive(Clone)]
pub struct BucketOptions {
    /// The server.
    pub access: S3Access,
    /// The bucket.
    pub bucket: String,
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only keys that these globs take.
    pub selection: Selection,
    /// Every version and delete marker, too.
    pub versions: bool,
}

/// An object, or a version of it, that is asked for.
#[derive(Clone)]
struct Of {
    key: String,
    version: Option<String>,
}

impl Of {
    fn listed(listed: &Listed) -> Of {
        Of { key: listed.key.clone(), version: listed.version.as_ref().map(|version| version.id.clone()) }
    }
}

/// An open bucket.
#[derive(Clone)]
pub struct Bucket {
    pub(super) client: Client,
    pub(super) runtime: Handle,
    pub(super) bucket: String,
    prefix: String,
    endpoint: String,
    pub(super) requests: Arc<Requests>,
    extended: bool,
}

/// What the server says of an object beside its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Bytes.
    pub size: u64,
    /// Everything but what only listings show.
    pub attributes: ObjectAttributes,
}

/// An object being read.
pub enum Fetched {
    /// Its head, and its body piece by piece.
    Object(Box<Head>, Body),
    /// It vanished since it was listed.
    Gone,
    /// It cannot be read, for this reason.
    Unreadable(String),
}

impl Fetched {
    /// It was another one each time.
    pub fn changing() -> Fetched {
        Fetched::Unreadable("it changes faster than it can be read".into())
    }
}

/// A body arriving; it holds its share of the memory budget until it is dropped.
pub struct Body {
    pieces: mpsc::Receiver<Result<Bytes>>,
    left: u64,
    /// None for an object that is read again: whoever waits for it holds up those that would give way.
    _share: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// The next piece, from a thread that may block. An error where the body ends early.
    pub fn next_piece(&mut self) -> Result<Option<Bytes>> {
        match self.pieces.blocking_recv() {
            Some(piece) => {
                let piece = piece?;
                self.left = self.left.saturating_sub(piece.len() as u64);
                Ok(Some(piece))
            }
            None if self.left > 0 => {
                let cause = Cause::Transient(format!("the body ended {} bytes early", self.left));
                Err(Error::S3 { action: "read", what: "an object".into(), cause })
            }
            None => Ok(None),
        }
    }
}

/// Objects being read at once, within a budget of memory.
pub struct Reading {
    bucket: Bucket,
    /// KiB of bodies in memory at once.
    most: u32,
    budget: Arc<Semaphore>,
}

fn nanos(time: Option<&aws_smithy_types::DateTime>) -> Nanos {
    time.map_or(0, |time| time.as_nanos() as Nanos)
}

/// How the server encrypts it by itself.
fn encryption_of(answer: &GetObjectOutput) -> Option<String> {
    let how = answer.server_side_encryption()?.as_str();
    Some(match answer.ssekms_key_id().filter(|_| how.starts_with("aws:kms")) {
        Some(key) => format!("{how} {key}"),
        None => how.to_owned(),
    })
}

fn retention_of(answer: &GetObjectOutput) -> Option<Retention> {
    let mode = answer.object_lock_mode()?.as_str().to_owned();
    Some(Retention { mode, until: nanos(answer.object_lock_retain_until_date()) })
}

fn unquote(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}

impl Bucket {
    /// Connects. Makes no request.
    pub fn open(runtime: &Handle, options: &BucketOptions) -> Result<Bucket> {
        let client = runtime.block_on(connect(&options.access))?;
        let endpoint = options.access.address.endpoint.clone().unwrap_or_else(|| "AWS".into());
        let extended = !endpoint.contains("amazonaws.com") && endpoint != "AWS";
        Ok(Bucket {
            client,
            runtime: runtime.clone(),
            bucket: options.bucket.clone(),
            prefix: options.prefix.clone(),
            endpoint,
            requests: Arc::default(),
            extended,
        })
    }

    /// Asks whether the bucket is there and may be read.
    pub fn check(&self) -> Result<()> {
        self.requests.heads.fetch_add(1, Ordering::Relaxed);
        let request = self.client.list_objects_v2().bucket(&self.bucket).max_keys(1);
        let request = request.set_prefix((!self.prefix.is_empty()).then(|| self.prefix.clone()));
        let answer = self.runtime.block_on(request.customize().config_override(impatient()).send());
        let what = format!("bucket {} at {}", self.bucket, self.endpoint);
        let fail = |e| Error::S3 { action: "list", what, cause: classify(&e, false) };
        answer.map(|_| ()).map_err(fail)
    }

    /// The requests made so far.
    pub fn requests(&self) -> Arc<Requests> {
        self.requests.clone()
    }

    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.bucket
    }

    fn lister(&self) -> Lister {
        Lister {
            client: self.client.clone(),
            bucket: self.bucket.clone(),
            requests: self.requests.clone(),
            extended: self.extended,
        }
    }

    /// All objects, in order of key.
    pub fn list(&self) -> Result<Listing> {
        self.list_below("")
    }

    /// All objects whose keys begin so, in order of key.
    pub fn list_below(&self, beginning: &str) -> Result<Listing> {
        let prefix = if beginning.starts_with(&self.prefix) { beginning } else { &self.prefix };
        Listing::begin(&self.runtime, &self.lister(), prefix)
    }

    /// Every version and delete marker, key by key in order.
    pub fn versions(&self) -> Versions {
        Versions::begin(&self.runtime, self.lister(), &self.prefix)
    }

    /// Begins to read objects, of whose bodies so many bytes may be in memory at once.
    pub fn reading(&self, bodies: usize) -> Reading {
        let most = u32::try_from(bodies / 1024).unwrap_or(u32::MAX).max(1);
        Reading { bucket: self.clone(), most, budget: Arc::new(Semaphore::new(most as usize)) }
    }

    fn fail(&self, action: &'static str, key: &str, cause: Cause) -> Error {
        Error::S3 { action, what: format!("{key:?} in bucket {} at {}", self.bucket, self.endpoint), cause }
    }

    async fn get(&self, of: &Of, range: Option<(u64, u64)>, etag: Option<&str>) -> Result<GetObjectOutput> {
        self.requests.gets.fetch_add(1, Ordering::Relaxed);
        let Of { key, version } = of;
        let request = self.client.get_object().bucket(&self.bucket).key(key).set_version_id(version.clone());
        let request = request
            .set_range(range.map(|(from, to)| format!("bytes={from}-{}", to - 1)))
            .set_if_match(etag.map(|etag| format!("\"{etag}\"")));
        let answer = request.send().await.map_err(|e| self.fail("read", key, classify(&e, false)))?;
        // Not every server, and not every proxy before one, heeds the condition.
        match (etag, answer.e_tag()) {
            (Some(wanted), Some(_)) if unquote(answer.e_tag()) != wanted => {
                Err(self.fail("read", key, Cause::Exists))
            }
            _ => Ok(answer),
        }
    }

    /// What the server says of the object, or of a version of it, now, in a listing's words. `None` when it
    /// is gone.
    pub async fn look(&self, key: &str, version: Option<&Version>) -> Result<Option<Listed>> {
        self.requests.heads.fetch_add(1, Ordering::Relaxed);
        let request = self.client.head_object().bucket(&self.bucket).key(key);
        let answer = request.set_version_id(version.map(|version| version.id.clone())).send().await;
        match answer {
            Ok(head) => Ok(Some(Listed {
                key: key.to_owned(),
                size: head.content_length().unwrap_or_default().try_into().unwrap_or_default(),
                etag: unquote(head.e_tag()),
                modified: nanos(head.last_modified()),
                shown: None,
                version: version.cloned(),
            })),
            Err(error) => match classify(&error, false) {
                Cause::NotFound => Ok(None),
                cause => Err(self.fail("look at", key, cause)),
            },
        }
    }

    async fn tags(&self, of: &Of) -> Result<Vec<(String, String)>> {
        self.requests.gets.fetch_add(1, Ordering::Relaxed);
        let Of { key, version } = of;
        let request = self.client.get_object_tagging().bucket(&self.bucket).key(key);
        let answer = request.set_version_id(version.clone()).send().await;
        let answer = answer.map_err(|e| self.fail("read the tags of", key, classify(&e, false)))?;
        let mut tags: Vec<_> =
            answer.tag_set().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect();
        tags.sort();
        Ok(tags)
    }

    /// Part sizes of an object whose ETag says that it has `count` parts: all in one call where the
    /// server gives them, else one by one. None where it does not tell: whether the object is there says its own
    /// answer.
    async fn parts(&self, of: &Of, count: usize) -> Result<Vec<u64>> {
        self.requests.heads.fetch_add(1, Ordering::Relaxed);
        let Of { key, version } = of;
        let request = self.client.get_object_attributes().bucket(&self.bucket).key(key);
        let request = request.set_version_id(version.clone());
        let request = request.object_attributes(Asked::ObjectParts).max_parts(10_000);
        if let Ok(answer) = request.send().await {
            let parts = answer.object_parts().map(|parts| parts.parts()).unwrap_or_default();
            let sizes: Option<Vec<u64>> = parts.iter().map(|part| part.size()?.try_into().ok()).collect();
            if let Some(sizes) = sizes.filter(|sizes| sizes.len() == count) {
                return Ok(sizes);
            }
        }
        let mut sizes = Vec::with_capacity(count);
        for number in 1..=count as i32 {
            self.requests.heads.fetch_add(1, Ordering::Relaxed);
            let request = self.client.head_object().bucket(&self.bucket).key(key).part_number(number);
            let answer = match request.set_version_id(version.clone()).send().await {
                Ok(answer) => answer,
                Err(error) => match classify(&error, false) {
                    Cause::NotFound | Cause::Refused(..) => return Ok(Vec::new()),
                    cause => return Err(self.fail("read the parts of", key, cause)),
                },
            };
            sizes.push(answer.content_length().unwrap_or_default().try_into().unwrap_or_default());
        }
        Ok(sizes)
    }

    async fn head_of(&self, of: &Of, size: u64, answer: &GetObjectOutput) -> Result<Head> {
        let text = |value: Option<&str>| value.filter(|v| !v.is_empty()).map(str::to_owned);
        let mut metadata: Vec<(String, String)> = answer
            .metadata()
            .map(|map| map.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
            .unwrap_or_default();
        metadata.sort();
        let etag = unquote(answer.e_tag());
        let tags = if answer.tag_count().unwrap_or(0) > 0 { self.tags(of).await? } else { Vec::new() };
        let count = etag.rsplit_once('-').and_then(|(_, count)| count.parse::<usize>().ok());
        let parts = match count {
            // An ETag that no count follows is no multipart one; nor is one of more parts than bytes.
            Some(count) if count <= 10_000 && count as u64 <= size.max(1) => self.parts(of, count).await?,
            _ => Vec::new(),
        };
        let parts = if parts.iter().sum::<u64>() == size { parts } else { Vec::new() };
        let attributes = ObjectAttributes {
            etag,
            version: text(answer.version_id()).filter(|v| v != "null"),
            headers: Headers {
                content_type: text(answer.content_type()),
                cache_control: text(answer.cache_control()),
                content_disposition: text(answer.content_disposition()),
                content_encoding: text(answer.content_encoding()),
                content_language: text(answer.content_language()),
                expires: text(answer.expires_string()),
            },
            storage_class: text(answer.storage_class().map(|class| class.as_str()))
                .filter(|c| c != "STANDARD"),
            metadata,
            tags,
            shown: None,
            parts: runs_of(&parts),
            encryption: encryption_of(answer),
            retention: retention_of(answer),
            legal_hold: answer.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On),
        };
        Ok(Head { size, attributes })
    }
}

impl Reading {
    /// Begins to read the object; its body arrives while the caller works on it. Waits for a share of
    /// the memory budget first. `listed` becomes what was really read.
    pub async fn fetch(&self, listed: &mut Listed) -> Result<Fetched> {
        self.fetch_within(listed, true).await
    }

    /// The same for an object whose first reading broke off; it does not wait for the budget, which
    /// objects behind it may hold.
    pub async fn fetch_again(&self, listed: &mut Listed) -> Result<Fetched> {
        self.fetch_within(listed, false).await
    }

    async fn fetch_within(&self, listed: &mut Listed, budget: bool) -> Result<Fetched> {
        let mut failure = None;
        for _ in 0..TRIES {
            match self.try_fetch(listed, budget).await {
                // Changed since it was listed: look again.
                Err(Error::S3 { cause: Cause::Exists, .. }) => {
                    match self.bucket.look(&listed.key, listed.version.as_ref()).await? {
                        Some(now) => *listed = now,
                        None => return Ok(Fetched::Gone),
                    }
                }
                Err(Error::S3 { cause: Cause::NotFound, .. }) => return Ok(Fetched::Gone),
                Err(error) => match unreadable(&error) {
                    Some(why) => return Ok(Fetched::Unreadable(why)),
                    None => failure = Some(error),
                },
                fetched => return fetched,
            }
        }
        failure.map_or_else(|| Ok(Fetched::changing()), Err)
    }

    async fn try_fetch(&self, listed: &mut Listed, budget: bool) -> Result<Fetched> {
        let in_memory = listed.size.min(PIECE * (PIECES_AHEAD as u64 + 1));
        let share = (in_memory / 1024 + 1).min(u64::from(self.most)) as u32;
        let share = match budget {
            // Fails only for a closed semaphore; this one is never closed.
            true => Some(
                self.budget
                    .clone()
                    .acquire_many_owned(share)
                    .await
                    .map_err(|_| crate::context::Interrupted)?,
            ),
            false => None,
        };
        let of = Of::listed(listed);
        let large = listed.size > PIECE;
        let range = large.then_some((0, PIECE));
        let answer = self.bucket.get(&of, range, large.then_some(listed.etag.as_str())).await?;
        let length: u64 = answer.content_length().unwrap_or_default().try_into().unwrap_or_default();
        if !large && length > PIECE {
            // It has become a large one since it was listed.
            return Err(self.bucket.fail("read", &of.key, Cause::Exists));
        }
        let size = if large { listed.size } else { length };
        let head = self.bucket.head_of(&of, size, &answer).await?;
        if head.attributes.etag != listed.etag || head.size != listed.size {
            listed.shown = None;
            if answer.last_modified().is_some() {
                listed.modified = nanos(answer.last_modified());
            }
        }
        (listed.etag, listed.size) = (head.attributes.etag.clone(), head.size);
        let (pieces, arriving) = mpsc::channel(PIECES_AHEAD);
        let sending =
            Sending { bucket: self.bucket.clone(), of, size, etag: head.attributes.etag.clone(), pieces };
        match large {
            true => drop(tokio::spawn(sending.send(answer))),
            // A task of its own would cost a small object more than it takes.
            false => sending.send(answer).await,
        }
        Ok(Fetched::Object(Box::new(head), Body { pieces: arriving, left: size, _share: share }))
    }
}

/// A body on its way to whoever cuts it.
struct Sending {
    bucket: Bucket,
    of: Of,
    size: u64,
    etag: String,
    pieces: mpsc::Sender<Result<Bytes>>,
}

impl Sending {
    /// Sends the first piece, which `answer` has, and the others, until nobody wants more. One piece never
    /// waits: there is room for it.
    async fn send(self, answer: GetObjectOutput) {
        let Sending { bucket, of, size, etag, pieces } = self;
        let mut piece = match bucket.collect(&of.key, answer).await {
            // It broke off in the middle.
            Err(Error::S3 { cause: Cause::Transient(_), .. }) if size > 0 => {
                bucket.piece(&of, 0, size.min(PIECE), &etag).await
            }
            piece => piece,
        };
        let mut from = 0;
        loop {
            from += piece.as_ref().map_or(size, |piece| piece.len() as u64);
            let more = piece.is_ok() && from < size;
            if pieces.send(piece).await.is_err() || !more {
                return;
            }
            piece = bucket.piece(&of, from, (from + PIECE).min(size), &etag).await;
        }
    }
}

impl Bucket {
    /// A part of an object. A body that breaks off is asked for again: a large object need not be read
    /// from its beginning for that.
    async fn piece(&self, of: &Of, from: u64, to: u64, etag: &str) -> Result<Bytes> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..PIECE_TRIES {
            match self.piece_once(of, from, to, etag).await {
                Err(Error::S3 { cause: Cause::Transient(_), .. }) => {}
                piece => return piece,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.piece_once(of, from, to, etag).await
    }

    async fn piece_once(&self, of: &Of, from: u64, to: u64, etag: &str) -> Result<Bytes> {
        let answer = self.get(of, Some((from, to)), Some(etag)).await?;
        let piece = self.collect(&of.key, answer).await?;
        if piece.len() as u64 == to - from {
            return Ok(piece);
        }
        let why = format!("{} bytes came instead of {}", piece.len(), to - from);
        Err(self.fail("read", &of.key, Cause::Transient(why)))
    }

    async fn collect(&self, key: &str, answer: GetObjectOutput) -> Result<Bytes> {
        let broken = |why: String| self.fail("read", key, Cause::Transient(why));
        let expected = answer.content_length();
        let bytes = received(answer.body, expected, PIECE as usize).await.map_err(broken)?;
        if bytes.len() as u64 > PIECE {
            return Err(broken("more came than was asked for".into()));
        }
        if expected.is_some_and(|expected| expected != bytes.len() as i64) {
            return Err(broken(format!(
                "{} bytes came instead of {}",
                bytes.len(),
                expected.unwrap_or_default()
            )));
        }
        Ok(bytes)
    }
}

/// Why this one object cannot be read, where that is no failure of the whole source.
fn unreadable(error: &Error) -> Option<String> {
    let Error::S3 { cause: Cause::Refused(kind, why), .. } = error else { return None };
    let archived = why.contains("InvalidObjectState");
    let customer_key = why.contains("Server Side Encryption") || why.contains("server side encryption");
    (archived || customer_key || (*kind == Kind::Denied && why.contains("AccessDenied"))).then(|| why.clone())
}
