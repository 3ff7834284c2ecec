//! A bucket as target.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, EncodingType, ServerSideEncryption, StorageClass,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::http::Request;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::{Error, Result};
use crate::format::{ObjectAttributes, sizes_of};
use crate::mutex::lock;
use crate::storage::{Cause, S3Access, classify, connect, decode_key, patience, untimed};

/// Up to this size a body is sent from memory, so that the client may try again by itself.
const IN_MEMORY: u64 = 8 << 20;

/// What is smaller is sent within the client's own time-outs, also over a slow link.
const QUICK: u64 = 1 << 20;

/// A server that takes nothing for so long of a body that streams, nor answers, is given up. The kernel may hold
/// some MiB of it, which a slow link needs a while for.
const STILL: Duration = Duration::from_secs(180);
/// A body that streams is given in frames of so many bytes, so that it is seen how the server takes them.
const FRAME: usize = 64 << 10;

/// Objects asked about at once.
const ASKED_AT_ONCE: usize = 32;

/// An object that the target holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The full key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
}

/// The bytes of an object, given piece by piece from another thread.
pub type Pieces = mpsc::Receiver<std::result::Result<Bytes, String>>;

/// A bucket.
#[derive(Clone)]
pub struct BucketTarget {
    pub(super) client: Client,
    pub(super) runtime: Handle,
    pub(super) bucket: String,
    pub(super) endpoint: String,
}

/// An object that was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Its ETag, without quotes.
    pub etag: String,
    /// Its version, where the bucket keeps versions.
    pub version: Option<String>,
}

impl Put {
    fn new(etag: Option<&str>, version: Option<&str>) -> Put {
        let etag = etag.unwrap_or_default().trim_matches('"').to_owned();
        Put { etag, version: version.map(str::to_owned) }
    }
}

/// An object to be put.
pub struct Upload<'a> {
    /// Its key in the target.
    pub key: &'a str,
    /// Its bytes.
    pub size: u64,
    /// Everything but the body.
    pub attributes: &'a ObjectAttributes,
}

/// What a body that streams shares with whoever watches over its sending.
#[derive(Default)]
struct Stream {
    /// Nothing once the sending has ended: the connection may keep the body, and whoever gives the pieces would wait
    /// as long as it does.
    pieces: Option<Pieces>,
    /// Since when it is the server's turn, to take more or to answer; nothing while pieces are waited for.
    turn: Option<Instant>,
}

/// A body of known length that arrives over a channel.
struct Arriving {
    stream: Arc<Mutex<Stream>>,
    /// What is to be given yet of the last piece.
    rest: Bytes,
    left: u64,
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, std::io::Error>>> {
        let body = &mut *self;
        if body.left == 0 {
            return Poll::Ready(None);
        }
        let mut stream = lock(&body.stream);
        stream.turn = Some(Instant::now());
        let failed = |why: String| Poll::Ready(Some(Err(std::io::Error::other(why))));
        if body.rest.is_empty() {
            let Some(pieces) = &mut stream.pieces else { return failed("it was given up".into()) };
            body.rest = match pieces.poll_recv(task) {
                Poll::Ready(Some(Ok(piece))) => piece,
                Poll::Ready(Some(Err(why))) => return failed(why),
                Poll::Ready(None) => return failed("the body ended early".into()),
                Poll::Pending => {
                    stream.turn = None;
                    return Poll::Pending;
                }
            };
        }
        let frame = body.rest.split_to(body.rest.len().min(FRAME));
        body.left = body.left.saturating_sub(frame.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The request with everything that describes the object; the two requests that take it share no type.
macro_rules! described_as {
    ($request:expr, $attributes:expr) => {{
        let (attributes, headers) = ($attributes, &$attributes.headers);
        $request
            .set_content_type(headers.content_type.clone())
            .set_cache_control(headers.cache_control.clone())
            .set_content_disposition(headers.content_disposition.clone())
            .set_content_encoding(headers.content_encoding.clone())
            .set_content_language(headers.content_language.clone())
            .set_metadata(Some(attributes.metadata.iter().cloned().collect()))
            .set_tagging(tagging(&attributes.tags))
            .set_storage_class(attributes.storage_class.as_deref().map(StorageClass::from))
            .set_server_side_encryption(encryption(attributes).map(|(how, _)| how))
            .set_ssekms_key_id(encryption(attributes).and_then(|(_, key)| key))
    }};
}

impl BucketTarget {
    /// Connects. Makes no request.
    pub fn open(runtime: &Handle, access: &S3Access, bucket: &str) -> Result<BucketTarget> {
        let client = runtime.block_on(connect(access))?;
        let endpoint = access.address.endpoint.clone().unwrap_or_else(|| "AWS".into());
        Ok(BucketTarget { client, runtime: runtime.clone(), bucket: bucket.into(), endpoint })
    }

    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.bucket
    }

    pub(super) fn fail(&self, action: &'static str, key: &str, cause: Cause) -> Error {
        Error::S3 { action, what: format!("{key:?} in bucket {} at {}", self.bucket, self.endpoint), cause }
    }

    /// Shows every object below `prefix`, in order.
    pub fn list(&self, prefix: &str, mut show: impl FnMut(Found) -> Result<()>) -> Result<()> {
        let mut token = None;
        loop {
            // Keys may hold what XML cannot say.
            let request = self.client.list_objects_v2().bucket(&self.bucket).encoding_type(EncodingType::Url);
            let request = request.set_prefix((!prefix.is_empty()).then(|| prefix.to_owned()));
            let page = self.runtime.block_on(request.set_continuation_token(token).send());
            let page = page.map_err(|e| {
                let what = format!("bucket {} at {}", self.bucket, self.endpoint);
                Error::S3 { action: "list", what, cause: classify(&e, false) }
            })?;
            let encoded = page.encoding_type() == Some(&EncodingType::Url);
            for object in page.contents() {
                let key = object.key().unwrap_or_default();
                show(Found {
                    key: if encoded { decode_key(key).map_err(Error::Input)? } else { key.to_owned() },
                    size: object.size().unwrap_or_default().try_into().unwrap_or_default(),
                    etag: object.e_tag().unwrap_or_default().trim_matches('"').to_owned(),
                })?;
            }
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                return Ok(());
            }
        }
    }

    /// Whether headers, metadata and tags of the object in the target are those given.
    async fn same_metadata(&self, key: &str, attributes: &ObjectAttributes) -> Result<bool> {
        let head = self.client.head_object().bucket(&self.bucket).key(key).send().await;
        let head = match head.map_err(|e| classify(&e, false)) {
            Ok(head) => head,
            Err(Cause::NotFound) => return Ok(false),
            Err(cause) => return Err(self.fail("look at", key, cause)),
        };
        let mut metadata: Vec<(String, String)> = head
            .metadata()
            .map(|map| map.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
            .unwrap_or_default();
        metadata.sort();
        let wanted = &attributes.headers;
        let same = |there: Option<&str>, wanted: &Option<String>| {
            there.filter(|t| !t.is_empty()) == wanted.as_deref()
        };
        let headers = same(head.content_type(), &wanted.content_type)
            && same(head.cache_control(), &wanted.cache_control)
            && same(head.content_disposition(), &wanted.content_disposition)
            && same(head.content_encoding(), &wanted.content_encoding)
            && same(head.content_language(), &wanted.content_language)
            && same(head.expires_string(), &wanted.expires);
        if !headers || metadata != attributes.metadata {
            return Ok(false);
        }
        let tags = if head.tag_count().unwrap_or(0) > 0 { self.tags(key).await? } else { Vec::new() };
        Ok(tags == attributes.tags)
    }

    /// Whether headers, metadata and tags of objects in the target are those given; several at once, in
    /// their order.
    pub fn all_same_metadata(&self, objects: &[(&str, &ObjectAttributes)]) -> Result<Vec<bool>> {
        use futures::stream::{StreamExt, TryStreamExt};
        let asked = objects.iter().map(|(key, attributes)| self.same_metadata(key, attributes));
        self.runtime.block_on(futures::stream::iter(asked).buffered(ASKED_AT_ONCE).try_collect())
    }

    async fn tags(&self, key: &str) -> Result<Vec<(String, String)>> {
        let answer = self.client.get_object_tagging().bucket(&self.bucket).key(key).send().await;
        match answer.map_err(|e| classify(&e, false)) {
            Ok(answer) => {
                let tags = answer.tag_set().iter();
                let mut tags: Vec<_> =
                    tags.map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect();
                tags.sort();
                Ok(tags)
            }
            // A server without tags has none.
            Err(Cause::NotFound) => Ok(Vec::new()),
            Err(Cause::Refused(crate::fault::Kind::Failed, why)) if why.contains("NotImplemented") => {
                Ok(Vec::new())
            }
            Err(cause) => Err(self.fail("read the tags of", key, cause)),
        }
    }

    /// Puts an object.
    pub async fn put(&self, upload: &Upload<'_>, pieces: Pieces) -> Result<Put> {
        if upload.attributes.parts.is_empty() {
            self.put_whole(upload, pieces).await
        } else {
            self.put_parts(upload, pieces).await
        }
    }

    async fn body(
        &self,
        key: &str,
        mut pieces: Pieces,
        size: u64,
        stream: &Arc<Mutex<Stream>>,
    ) -> Result<ByteStream> {
        if size > IN_MEMORY {
            *lock(stream) = Stream { pieces: Some(pieces), turn: Some(Instant::now()) };
            let arriving = Arriving { stream: stream.clone(), rest: Bytes::new(), left: size };
            return Ok(ByteStream::new(SdkBody::from_body_1_x(arriving)));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        while let Some(piece) = pieces.recv().await {
            bytes.extend_from_slice(&piece.map_err(Error::Input)?);
        }
        if bytes.len() as u64 != size {
            return Err(Error::Input(format!("{key:?} has {} bytes instead of {size}", bytes.len())));
        }
        Ok(ByteStream::from(bytes))
    }

    async fn put_whole(&self, upload: &Upload<'_>, pieces: Pieces) -> Result<Put> {
        let (key, attributes) = (upload.key, upload.attributes);
        let stream = Arc::default();
        let body = self.body(key, pieces, upload.size, &stream).await?;
        let request = self.client.put_object().bucket(&self.bucket).key(key);
        let request = described_as!(request, attributes).content_length(upload.size as i64).body(body);
        // A body that streams cannot be hashed first; the ETag that comes back verifies it.
        let request = request.customize().mutate_request(add_expires(attributes));
        let request = if upload.size > IN_MEMORY { request.disable_payload_signing() } else { request };
        let request = match time_for(upload.size) {
            Some(time) => request.config_override(time),
            None => request,
        };
        let answer = moving(request.send(), &stream, STILL).await;
        let answer = answer.map_err(|cause| self.not_sent("write", key, upload.size, cause))?;
        Ok(Put::new(answer.e_tag(), answer.version_id()))
    }

    async fn put_parts(&self, upload: &Upload<'_>, pieces: Pieces) -> Result<Put> {
        let (key, attributes) = (upload.key, upload.attributes);
        let request = self.client.create_multipart_upload().bucket(&self.bucket).key(key);
        let request = described_as!(request, attributes).customize().mutate_request(add_expires(attributes));
        let begun = request.send().await.map_err(|e| self.fail("write", key, classify(&e, true)))?;
        let id = begun.upload_id().unwrap_or_default().to_owned();
        let done = self.parts(upload, &id, pieces).await;
        if done.is_err() {
            // Parts that stay would cost the user; failing to remove them is not the error to tell.
            let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(&id);
            let _ = abort.send().await;
        }
        done
    }

    async fn parts(&self, upload: &Upload<'_>, id: &str, pieces: Pieces) -> Result<Put> {
        let key = upload.key;
        let mut completed = Vec::new();
        let mut cutting = Cutting { pieces, rest: Bytes::new() };
        for (&size, number) in sizes_of(&upload.attributes.parts).iter().zip(1..) {
            let (given, part) = mpsc::channel(1);
            let sent = self.part(key, id, number, size, part);
            let (answer, fed) = tokio::join!(sent, cutting.give(size, given));
            let etag = match (answer, fed) {
                // What could not be read is the cause of what could not be sent.
                (_, Err(error)) | (Err(error), _) => return Err(error),
                (Ok(etag), Ok(())) => etag,
            };
            let part = CompletedPart::builder().part_number(number).set_e_tag(etag);
            completed.push(part.build());
        }
        let completed = CompletedMultipartUpload::builder().set_parts(Some(completed)).build();
        let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(key).upload_id(id);
        let answer = request.multipart_upload(completed).send().await;
        let answer = answer.map_err(|e| self.fail("complete", key, classify(&e, true)))?;
        Ok(Put::new(answer.e_tag(), answer.version_id()))
    }

    async fn part(
        &self,
        key: &str,
        id: &str,
        number: i32,
        size: u64,
        pieces: Pieces,
    ) -> Result<Option<String>> {
        let stream = Arc::default();
        let body = self.body(key, pieces, size, &stream).await?;
        let request =
            self.client.upload_part().bucket(&self.bucket).key(key).upload_id(id).part_number(number);
        let request = request.content_length(size as i64).body(body).customize();
        let request = if size > IN_MEMORY { request.disable_payload_signing() } else { request };
        let request = match time_for(size) {
            Some(time) => request.config_override(time),
            None => request,
        };
        let answer = moving(request.send(), &stream, STILL).await;
        let answer = answer.map_err(|cause| self.not_sent("write a part of", key, size, cause))?;
        Ok(answer.e_tag().map(str::to_owned))
    }

    /// Why a body of so many bytes was not sent.
    fn not_sent(&self, action: &'static str, key: &str, size: u64, cause: Cause) -> Error {
        let error = self.fail(action, key, cause);
        if size > IN_MEMORY { Error::Streamed(Box::new(error)) } else { error }
    }

    /// Removes an object.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key);
        request.send().await.map(|_| ()).map_err(|e| self.fail("delete", key, classify(&e, true)))
    }
}

/// Time-outs for a request that sends so many bytes, where they are not the client's own.
fn time_for(size: u64) -> Option<Builder> {
    match size {
        _ if size > IN_MEMORY => Some(untimed()),
        _ if size > QUICK => Some(patience(size)),
        _ => None,
    }
}

/// What comes of a request, as long as the server does its part: within `still` it takes more of a body that streams,
/// or answers. A time-out for the whole of a large body would be too long for a server that stands still, or too short
/// for a slow link.
async fn moving<T, E>(
    sending: impl Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
    stream: &Mutex<Stream>,
    still: Duration,
) -> std::result::Result<T, Cause>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let mut sending = pin!(sending);
    let sent = loop {
        if let Ok(answer) = tokio::time::timeout(still / 60, sending.as_mut()).await {
            break answer.map_err(|e| classify(&e, true));
        }
        if lock(stream).turn.is_some_and(|since| since.elapsed() > still) {
            break Err(Cause::Uncertain(format!("the server took nothing for {still:?}")));
        }
    };
    lock(stream).pieces = None;
    sent
}

/// A body being cut into parts.
struct Cutting {
    pieces: Pieces,
    rest: Bytes,
}

impl Cutting {
    /// Gives the next `size` bytes to `part`.
    async fn give(
        &mut self,
        size: u64,
        part: mpsc::Sender<std::result::Result<Bytes, String>>,
    ) -> Result<()> {
        let mut left = size;
        while left > 0 {
            if self.rest.is_empty() {
                let piece = self.pieces.recv().await;
                let piece = piece.ok_or_else(|| Error::Input("the body ended early".into()))?;
                self.rest = piece.map_err(Error::Input)?;
            }
            let take = self.rest.split_to((self.rest.len() as u64).min(left) as usize);
            left -= take.len() as u64;
            // Whoever sends the part and stopped has an error of its own to tell.
            if part.send(Ok(take)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The header as it was: the SDK takes only times that it can write itself.
fn add_expires(attributes: &ObjectAttributes) -> impl Fn(&mut Request<SdkBody>) + Send + Sync + 'static {
    let expires = attributes.headers.expires.clone().filter(|expires| expires.is_ascii());
    move |request| {
        if let Some(expires) = &expires {
            let _ = request.headers_mut().try_insert("expires", expires.clone());
        }
    }
}

/// How the server is to encrypt the object, and with which key.
fn encryption(attributes: &ObjectAttributes) -> Option<(ServerSideEncryption, Option<String>)> {
    let (how, key) = match attributes.encryption.as_deref()?.split_once(' ') {
        Some((how, key)) => (how, Some(key.to_owned())),
        None => (attributes.encryption.as_deref()?, None),
    };
    Some((ServerSideEncryption::from(how), key))
}

/// Tags in a URL's query form.
fn tagging(tags: &[(String, String)]) -> Option<String> {
    let pair = |(name, value): &(String, String)| format!("{}={}", encode(name), encode(value));
    (!tags.is_empty()).then(|| tags.iter().map(pair).collect::<Vec<_>>().join("&"))
}

fn encode(text: &str) -> String {
    let byte = |b: u8| match b {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::operation::put_object::PutObjectError;

    use super::*;

    #[test]
    fn a_server_that_stands_still_is_given_up_and_nobody_waits_to_give_it_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let still = Duration::from_millis(100);
        let (given, pieces) = mpsc::channel(1);
        let stream = Mutex::new(Stream { pieces: Some(pieces), turn: None });
        let never =
            || std::future::pending::<std::result::Result<(), SdkError<PutObjectError, HttpResponse>>>();
        runtime.block_on(async {
            let waiting = moving(never(), &stream, still);
            assert!(tokio::time::timeout(still * 3, waiting).await.is_err(), "it is not the server's turn");
            assert!(!given.is_closed());
            lock(&stream).turn = Some(Instant::now());
            let cause = moving(never(), &stream, still).await.unwrap_err();
            assert!(matches!(cause, Cause::Uncertain(_)), "{cause:?}");
        });
        assert!(given.is_closed());
    }

    #[test]
    fn tags_survive_their_header() {
        let tags = vec![("a b".to_owned(), "1&2=3".to_owned()), ("k".to_owned(), String::new())];
        assert_eq!(tagging(&tags).as_deref(), Some("a%20b=1%262%3D3&k="));
        assert_eq!(tagging(&[]), None);
    }
}
