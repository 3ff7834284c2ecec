//! Listing a bucket in parallel, in order.
//!
//! A bucket of one page costs one request. A larger one is divided by prefixes (servers without an
//! index of their own walk the drives for every listing, so ranges by key would walk them again);
//! each prefix is listed by one task into a bounded queue, and the queues are read in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::types::EncodingType;
use aws_smithy_runtime_api::http::Request;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use futures::{StreamExt, stream};
use quick_xml::events::Event;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::bucket::Requests;
use super::{Error, Result};
use crate::context::Nanos;
use crate::format::{Attributes, Item, ItemState};
use crate::mutex::lock;
use crate::storage::{Cause, classify, decode_key};

/// Prefixes listed at once.
const PARALLEL: usize = 8;
/// Prefixes that are enough to keep the tasks busy.
const ENOUGH: usize = 64;
/// Levels of prefixes looked into for that.
const DEPTH: usize = 5;
/// Pages a task may be ahead of the reader.
const PAGES_AHEAD: usize = 3;

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The full key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// When it was last modified.
    pub modified: Nanos,
    /// A hash of metadata and tags, where the listing shows them.
    pub shown: Option<[u8; 8]>,
    /// Which version it is; `None` for the current one.
    pub version: Option<Version>,
}

/// What a listing of versions shows beside the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its id; `null` for one from before the bucket kept versions.
    pub id: String,
    /// It is the current one.
    pub latest: bool,
    /// It is a delete marker.
    pub deleted: bool,
}

impl Listed {
    /// Whether the object is as a snapshot recorded it, as far as listings tell.
    pub fn shows(&self, before: &Item) -> bool {
        let Attributes::Object(attributes) = &before.attributes else { return false };
        let shown = self.shown.is_none() || attributes.shown.is_none() || attributes.shown == self.shown;
        before.state == ItemState::Present
            && before.size == self.size
            && attributes.etag == self.etag
            && same_time(before.modified, self.modified)
            && shown
    }
}

/// Listings show milliseconds, answers about one object whole seconds; an object that changed while it was
/// read has the latter.
fn same_time(before: Nanos, now: Nanos) -> bool {
    const SECOND: Nanos = 1_000_000_000;
    before == now || (before % SECOND == 0 && before / SECOND == now / SECOND)
}

/// What is listed, and how.
#[derive(Clone)]
pub(super) struct Lister {
    pub client: Client,
    pub bucket: String,
    pub requests: Arc<Requests>,
    /// Ask for metadata and tags, as MinIO and others give them.
    pub extended: bool,
}

/// A page of a listing.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Page {
    pub objects: Vec<Listed>,
    prefixes: Vec<String>,
    /// The token that continues the listing.
    next: Option<String>,
    /// The key and version that continue a listing of versions.
    pub next_version: (Option<String>, Option<String>),
}

impl Page {
    /// What is missing from a listing would look removed.
    fn check(&self, whole: bool, truncated: bool) -> std::result::Result<(), String> {
        if !whole {
            return Err("it is cut short".into());
        }
        if truncated && self.next.is_none() && self.next_version.0.is_none() {
            return Err("it is not all, and does not say how to go on".into());
        }
        Ok(())
    }
}

/// Keeps the body of an answer, since the SDK knows no MinIO extensions.
#[derive(Debug, Clone, Default)]
pub(super) struct Keep(Arc<Mutex<Bytes>>);

impl Keep {
    /// The body.
    pub fn body(&self) -> Bytes {
        lock(&self.0).clone()
    }
}

impl Intercept for Keep {
    fn name(&self) -> &'static str {
        "KeepBody"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        if let Some(bytes) = context.response().body().bytes() {
            *lock(&self.0) = Bytes::copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// Asks for metadata and tags, where the server may give them.
pub(super) fn extension(extended: bool) -> impl Fn(&mut Request<SdkBody>) + Send + Sync + 'static {
    move |request| {
        if extended {
            let uri = format!("{}&metadata=true", request.uri());
            // The URI was valid before; an addition of plain letters leaves it so.
            let _ = request.set_uri(uri);
        }
    }
}

impl Lister {
    pub(super) fn fail(&self, cause: Cause) -> Error {
        Error::S3 { action: "list", what: format!("bucket {}", self.bucket), cause }
    }

    pub(super) fn parsed(&self, body: &[u8]) -> Result<Page> {
        parse_page(body).map_err(|why| self.fail(Cause::Transient(format!("a broken answer: {why}"))))
    }

    async fn page(&self, prefix: &str, delimited: bool, token: Option<String>) -> Result<Page> {
        self.requests.list();
        let keep = Keep::default();
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .set_prefix((!prefix.is_empty()).then(|| prefix.to_owned()))
            .set_delimiter(delimited.then(|| "/".to_owned()))
            .encoding_type(EncodingType::Url)
            .set_continuation_token(token)
            .customize()
            .interceptor(keep.clone())
            .mutate_request(extension(self.extended));
        request.send().await.map_err(|e| self.fail(classify(&e, false)))?;
        let page = self.parsed(&keep.body())?;
        match page.objects.iter().find(|object| !object.key.starts_with(prefix)) {
            None => Ok(page),
            Some(other) => Err(self.fail(Cause::Transient(format!(
                "a broken answer: {:?} does not begin with {prefix:?}, which was asked for",
                other.key
            )))),
        }
    }

    /// Everything below `prefix`, page by page.
    async fn walk(&self, prefix: &str, pages: &mpsc::Sender<Result<Vec<Listed>>>) {
        let mut token = None;
        loop {
            let page = self.page(prefix, false, token).await;
            let (sent, next) = match page {
                Ok(page) => (pages.send(Ok(page.objects)).await, page.next),
                Err(error) => (pages.send(Err(error)).await, None),
            };
            token = next;
            // A reader that is gone wants no more.
            if sent.is_err() || token.is_none() {
                return;
            }
        }
    }
}

/// A stretch of the bucket.
enum Part {
    Objects(Vec<Listed>),
    Below(String),
}

impl Part {
    /// Where it may be divided.
    fn prefix(&self) -> Option<String> {
        match self {
            Part::Objects(_) => None,
            Part::Below(prefix) => Some(prefix.clone()),
        }
    }
}

/// Divides what is below `prefix` into parts, in order: the first that can be divided, again and again,
/// until there are enough.
async fn divide(lister: &Lister, prefix: &str) -> Result<Vec<Part>> {
    let first = lister.page(prefix, false, None).await?;
    if first.next.is_none() {
        return Ok(vec![Part::Objects(first.objects)]);
    }
    let mut level = vec![Part::Below(prefix.to_owned())];
    for _ in 0..DEPTH {
        let (mut finer, mut found, mut left) = (Vec::new(), false, level.len());
        let prefixes: Vec<Option<String>> = level.iter().map(Part::prefix).collect();
        let mut looks = stream::iter(prefixes).map(|prefix| look_below(lister, prefix)).buffered(PARALLEL);
        for part in level {
            left -= 1;
            match looks.next().await.transpose()?.flatten() {
                Some(divided) if divided.len() == 1 || finer.len() + left < ENOUGH => {
                    found = true;
                    finer.extend(divided);
                }
                _ => finer.push(part),
            }
        }
        level = finer;
        if !found || level.len() >= ENOUGH {
            break;
        }
    }
    Ok(level)
}

async fn look_below(lister: &Lister, prefix: Option<String>) -> Result<Option<Vec<Part>>> {
    match prefix {
        Some(prefix) => divide_once(lister, &prefix).await,
        None => Ok(None),
    }
}

/// The parts of one level, or `None` where dividing it would not help: no prefixes, or so many that each
/// holds little.
async fn divide_once(lister: &Lister, prefix: &str) -> Result<Option<Vec<Part>>> {
    let page = lister.page(prefix, true, None).await?;
    // Nothing lies deeper, and this is all of it: it need not be listed again.
    if page.next.is_none() && page.prefixes.is_empty() {
        return Ok(Some(vec![Part::Objects(page.objects)]));
    }
    if page.next.is_some() || page.prefixes.is_empty() || page.prefixes.len() > 2 * ENOUGH {
        return Ok(None);
    }
    let mut parts = Vec::new();
    let mut objects: VecDeque<Listed> = page.objects.into();
    for prefix in page.prefixes {
        let before = objects.iter().take_while(|object| object.key < prefix).count();
        if before > 0 {
            parts.push(Part::Objects(objects.drain(..before).collect()));
        }
        parts.push(Part::Below(prefix));
    }
    if !objects.is_empty() {
        parts.push(Part::Objects(objects.into()));
    }
    Ok(Some(parts))
}

/// Where the next objects come from.
enum Queue {
    Ready(Vec<Listed>),
    Coming(mpsc::Receiver<Result<Vec<Listed>>>),
}

/// A bucket's objects in order of key.
pub struct Listing {
    runtime: Handle,
    queues: VecDeque<Queue>,
    page: std::vec::IntoIter<Listed>,
    last: Option<String>,
}

impl Listing {
    /// Begins to list what is below `prefix`.
    pub(super) fn begin(runtime: &Handle, lister: &Lister, prefix: &str) -> Result<Listing> {
        let parts = runtime.block_on(divide(lister, prefix))?;
        let places = Arc::new(tokio::sync::Semaphore::new(PARALLEL));
        let mut queues = VecDeque::new();
        let mut below = Vec::new();
        for part in parts {
            queues.push_back(match part {
                Part::Objects(objects) => Queue::Ready(objects),
                Part::Below(prefix) => {
                    let (pages, queue) = mpsc::channel(PAGES_AHEAD);
                    below.push((prefix, pages));
                    Queue::Coming(queue)
                }
            });
        }
        let lister = lister.clone();
        runtime.spawn(async move {
            // In order, so that the part that is read next is never behind the others.
            for (prefix, pages) in below {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let lister = lister.clone();
                tokio::spawn(async move {
                    lister.walk(&prefix, &pages).await;
                    drop(place);
                });
            }
        });
        Ok(Listing { runtime: runtime.clone(), queues, page: Vec::new().into_iter(), last: None })
    }

    fn next_page(&mut self) -> Result<Option<Vec<Listed>>> {
        loop {
            match self.queues.front_mut() {
                None => return Ok(None),
                Some(Queue::Ready(objects)) => {
                    let objects = std::mem::take(objects);
                    self.queues.pop_front();
                    return Ok(Some(objects));
                }
                Some(Queue::Coming(queue)) => match self.runtime.block_on(queue.recv()) {
                    Some(page) => return page.map(Some),
                    None => self.queues.pop_front(),
                },
            };
        }
    }

    /// A server that lists out of order, or twice, would make objects look removed.
    fn check_order(&mut self, listed: &Listed) -> Result<()> {
        if self.last.as_ref().is_some_and(|last| *last >= listed.key) {
            let why = format!("the listing is not in order at {:?}", listed.key);
            let cause = Cause::Refused(crate::fault::Kind::Failed, why);
            return Err(Error::S3 { action: "list", what: "the bucket".into(), cause });
        }
        self.last = Some(listed.key.clone());
        Ok(())
    }
}

impl Iterator for Listing {
    type Item = Result<Listed>;

    fn next(&mut self) -> Option<Result<Listed>> {
        loop {
            if let Some(listed) = self.page.next() {
                return Some(self.check_order(&listed).map(|()| listed));
            }
            match self.next_page() {
                Ok(page) => self.page = page?.into_iter(),
                Err(error) => {
                    self.queues.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The elements of one `Contents`, `Version` or `DeleteMarker`.
#[derive(Default)]
struct Fields {
    key: String,
    size: u64,
    etag: String,
    modified: String,
    shown: Vec<(String, String)>,
    version: Option<String>,
    latest: bool,
    deleted: bool,
}

impl Fields {
    fn listed(mut self, encoded: bool, extended: bool) -> std::result::Result<Listed, String> {
        let key = if encoded { decode_key(&self.key)? } else { self.key };
        let modified: jiff::Timestamp =
            self.modified.parse().map_err(|_| format!("{:?} is no time", self.modified))?;
        self.shown.sort();
        let mut hasher = blake3::Hasher::new();
        for (name, value) in &self.shown {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
            hasher.update(&(value.len() as u64).to_le_bytes()).update(value.as_bytes());
        }
        let mut shown = [0; 8];
        shown.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Ok(Listed {
            key,
            size: self.size,
            etag: self.etag.trim_matches('"').to_owned(),
            modified: modified.as_nanosecond() as Nanos,
            shown: extended.then_some(shown),
            version: self.version.map(|id| Version { id, latest: self.latest, deleted: self.deleted }),
        })
    }
}

/// The elements that stand for one object or version.
macro_rules! listed {
    () => {
        "Contents" | "Version" | "DeleteMarker"
    };
}

/// An answer to ListObjectsV2 or ListObjectVersions.
fn parse_page(body: &[u8]) -> std::result::Result<Page, String> {
    let mut reader = quick_xml::Reader::from_reader(body);
    let mut path: Vec<String> = Vec::new();
    let mut text = String::new();
    let (mut page, mut contents, mut prefixes) = (Page::default(), Vec::new(), Vec::new());
    let (mut fields, mut encoded, mut extended) = (Fields::default(), false, false);
    let (mut truncated, mut whole) = (false, false);
    loop {
        match reader.read_event().map_err(|e| e.to_string())? {
            Event::Eof => break,
            Event::Start(start) => {
                path.push(start.local_name().as_ref().to_owned());
                text.clear();
            }
            Event::Empty(empty) if path.iter().any(|p| p == "UserMetadata") => {
                let name = empty.local_name().as_ref().to_owned();
                fields.shown.push((name, String::new()));
            }
            Event::Text(piece) => text.push_str(&piece.xml10_content()),
            Event::GeneralRef(reference) => text.push(resolve(&reference)?),
            Event::End(_) => {
                let names: Vec<&str> = path.iter().skip(1).map(String::as_str).collect();
                match names[..] {
                    [listed!(), "Key"] => fields.key = std::mem::take(&mut text),
                    [listed!(), "Size"] => fields.size = text.parse().map_err(|_| "a size is no number")?,
                    [listed!(), "ETag"] => fields.etag = std::mem::take(&mut text),
                    [listed!(), "LastModified"] => fields.modified = std::mem::take(&mut text),
                    [listed!(), "VersionId"] => fields.version = Some(std::mem::take(&mut text)),
                    [listed!(), "IsLatest"] => fields.latest = text == "true",
                    [listed!(), "UserMetadata", name] => {
                        fields.shown.push((name.to_owned(), std::mem::take(&mut text)));
                    }
                    [listed!(), "UserMetadata"] => extended = true,
                    [listed!(), "UserTags"] => {
                        extended = true;
                        fields.shown.push(("tags".into(), std::mem::take(&mut text)));
                    }
                    [listed!()] => {
                        fields.deleted = names == ["DeleteMarker"];
                        contents.push(std::mem::take(&mut fields));
                    }
                    ["CommonPrefixes", "Prefix"] => prefixes.push(std::mem::take(&mut text)),
                    ["EncodingType"] => encoded = text == "url",
                    ["IsTruncated"] => truncated = text == "true",
                    ["NextContinuationToken"] => page.next = Some(std::mem::take(&mut text)),
                    ["NextKeyMarker"] => page.next_version.0 = Some(std::mem::take(&mut text)),
                    ["NextVersionIdMarker"] => page.next_version.1 = Some(std::mem::take(&mut text)),
                    _ => {}
                }
                path.pop();
                whole = path.is_empty();
            }
            _ => {}
        }
    }
    page.check(whole, truncated)?;
    for fields in contents {
        page.objects.push(fields.listed(encoded, extended)?);
    }
    for prefix in prefixes {
        page.prefixes.push(if encoded { decode_key(&prefix)? } else { prefix });
    }
    if let (true, Some(key)) = (encoded, &page.next_version.0) {
        page.next_version.0 = Some(decode_key(key)?);
    }
    Ok(page)
}

/// The character that `&name;` or `&#n;` stands for.
fn resolve(reference: &quick_xml::events::BytesRef<'_>) -> std::result::Result<char, String> {
    if let Some(character) = reference.resolve_char_ref().map_err(|e| e.to_string())? {
        return Ok(character);
    }
    match reference.as_ref() {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        other => Err(format!("&{other}; is not known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_not_whole_is_no_page() {
        let whole = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
        assert!(parse_page(whole.as_bytes()).is_ok());
        for end in 0..whole.len() {
            assert!(parse_page(&whole.as_bytes()[..end]).is_err(), "{}", &whole[..end]);
        }
        assert!(parse_page(whole.replace("false", "true").as_bytes()).is_err());
    }

    #[test]
    fn a_page_is_read_with_odd_keys_and_metadata() {
        let body = br#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3"><Name>b</Name>
            <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
            <NextContinuationToken>a&amp;b</NextContinuationToken>
            <Contents><Key>a+b%2B%26%25</Key><LastModified>2026-11-22T10:00:00.123Z</LastModified>
            <ETag>&#34;abc-2&#34;</ETag><Size>7</Size><UserMetadata><X-B>2</X-B><X-A>1</X-A></UserMetadata>
            <UserTags>k=v</UserTags></Contents>
            <Contents><Key>z</Key><LastModified>2026-11-22T10:00:00.123Z</LastModified>
            <ETag>"e"</ETag><Size>0</Size><UserMetadata><X-A>1</X-A><X-B>2</X-B></UserMetadata>
            <UserTags>k=v</UserTags></Contents>
            <CommonPrefixes><Prefix>p%2Fq/</Prefix></CommonPrefixes></ListBucketResult>"#;
        let page = parse_page(body).unwrap();
        assert_eq!(page.objects[0].key, "a b+&%");
        assert_eq!(page.objects[0].etag, "abc-2");
        assert_eq!(page.objects[0].size, 7);
        assert_eq!(page.objects[0].modified % 1_000_000_000, 123_000_000);
        assert!(page.objects[0].shown.is_some());
        assert_eq!(page.objects[0].shown, page.objects[1].shown, "the order of metadata does not count");
        assert_eq!(page.prefixes, ["p/q/"]);
        assert_eq!(page.next.as_deref(), Some("a&b"));
    }

    #[test]
    fn a_torn_page_is_an_error() {
        for body in [&b"<ListBucketResult><Contents><Key>a</Ke"[..], b"<a><Contents></Contents></a>"] {
            assert!(parse_page(body).is_err());
        }
    }
}
