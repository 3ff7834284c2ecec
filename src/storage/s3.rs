//! A bucket, or a prefix of one, as medium.

use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::Bytes;
use tokio::runtime::Handle;

use super::{Cause, Error, Listed, Result, Storage, classify, patience, received};

/// A bucket and a prefix.
pub struct S3 {
    client: Client,
    runtime: Handle,
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    medium: Arc<str>,
}

impl S3 {
    /// The files below `prefix` in `bucket`; `medium` is what messages call it.
    pub fn new(client: Client, runtime: Handle, bucket: &str, prefix: &str, medium: &str) -> S3 {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        S3 { client, runtime, bucket: bucket.into(), prefix, medium: medium.into() }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn error(&self, action: &'static str, name: &str, cause: Cause) -> Error {
        Error { action, name: name.into(), medium: self.medium.clone(), cause }
    }

    fn fail<E>(&self, action: &'static str, name: &str, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.error(action, name, classify(&error, action == "write"))
    }

    /// The whole file, or so many bytes of it from an offset on.
    fn read(&self, name: &str, range: Option<(u64, u64)>) -> Result<Bytes> {
        let header = range.map(|(from, length)| format!("bytes={from}-{}", from.saturating_add(length - 1)));
        self.runtime.block_on(async {
            let request = self.client.get_object().bucket(&self.bucket).key(self.key(name)).set_range(header);
            let answer = request.send().await.map_err(|e| self.fail("read", name, e))?;
            let broken = |why: String| self.error("read", name, Cause::Transient(why));
            let expected = answer.content_length();
            let size = answer.content_range().and_then(|range| range.rsplit_once('/')?.1.parse::<u64>().ok());
            let most = range.map_or(usize::MAX, |(_, length)| usize::try_from(length).unwrap_or(usize::MAX));
            let bytes = received(answer.body, expected, most).await.map_err(broken)?;
            // Less than there is would be taken for the file's end.
            if let (Some((from, length)), Some(size)) = (range, size) {
                let due = size.saturating_sub(from).min(length);
                if (bytes.len() as u64) < due {
                    return Err(broken(format!("{} bytes came instead of {due}", bytes.len())));
                }
            }
            Ok(bytes)
        })
    }
}

impl Storage for S3 {
    fn medium(&self) -> Arc<str> {
        self.medium.clone()
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.read(name, None)
    }

    fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        match self.read(name, Some((offset, length))) {
            // A range that begins behind the end is refused by the server: nothing is there.
            Err(Error { cause: Cause::Refused(_, why), .. }) if why.contains("InvalidRange") => {
                Ok(Bytes::new())
            }
            Ok(bytes) if bytes.len() as u64 > length => {
                let why = format!("more came than the {length} bytes that were asked for");
                Err(self.error("read", name, Cause::Refused(crate::fault::Kind::Failed, why)))
            }
            bytes => bytes,
        }
    }

    fn put_once(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.runtime.block_on(async {
            let request = self.client.put_object().bucket(&self.bucket).key(self.key(name));
            let patience = patience(bytes.len() as u64);
            let request = request.if_none_match("*").body(ByteStream::from(bytes));
            request
                .customize()
                .config_override(patience)
                .send()
                .await
                .map_err(|e| self.fail("write", name, e))?;
            Ok(())
        })
    }

    fn list(&self, folder: &str, show: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let mut token = None;
        loop {
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.key(folder));
            let page = self.runtime.block_on(request.set_continuation_token(token).send());
            let page = page.map_err(|e| self.fail("list", folder, e))?;
            for object in page.contents() {
                let name = object.key().and_then(|key| key.strip_prefix(&self.prefix));
                if let Some(name) = name {
                    let size = object.size().unwrap_or_default().try_into().unwrap_or_default();
                    show(Listed { name: name.into(), size })?;
                }
            }
            token = page.next_continuation_token().map(str::to_owned);
            match &token {
                Some(_) => {}
                None if page.is_truncated() == Some(true) => {
                    let why = "the listing is cut off and does not say how it goes on".into();
                    return Err(self.error("list", folder, Cause::Refused(crate::fault::Kind::Failed, why)));
                }
                None => return Ok(()),
            }
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        let request = self.client.delete_object().bucket(&self.bucket).key(self.key(name));
        match self.runtime.block_on(request.send()) {
            Err(e) => match self.fail("delete", name, e) {
                error if error.is_not_found() => Ok(()),
                error => Err(error),
            },
            Ok(_) => Ok(()),
        }
    }
}
