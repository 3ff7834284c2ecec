//! The settings of a bucket, in the server's own words.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use quick_xml::events::Event;

use super::bucket::Bucket;
use super::listing::Keep;
use crate::fault::Kind;
use crate::format::Setting;
use crate::storage::{Cause, classify};

/// What a server was asked for, and what it has.
#[derive(Debug, Default)]
pub struct Settings {
    /// Those that are set, by name.
    pub known: Vec<Setting>,
    /// Names of those that may not be read.
    pub denied: Vec<&'static str>,
    /// Those that could not be read now, and why.
    pub failed: Vec<String>,
}

/// A request's body as it came.
macro_rules! asked {
    ($request:expr) => {{
        let keep = Keep::default();
        let answer = $request.customize().interceptor(keep.clone()).send().await;
        answer.map(|_| keep.body()).map_err(|error| classify(&error, false))
    }};
}

/// Every setting that is captured, in order of name.
const NAMES: [&str; 8] =
    ["cors", "encryption", "lifecycle", "notification", "object-lock", "policy", "tagging", "versioning"];

impl Bucket {
    /// Asks for everything that is set, at once. What a server does not know is not set.
    pub async fn settings(&self) -> Settings {
        let asked = NAMES.map(|name| async move { (name, self.setting(name).await) });
        let mut settings = Settings::default();
        for (name, answer) in futures::future::join_all(asked).await {
            match answer {
                Ok(body) if is_set(&body) => {
                    let body = String::from_utf8_lossy(&body).into_owned();
                    settings.known.push(Setting { name: name.into(), body });
                }
                Err(Cause::Refused(Kind::Denied, _)) => settings.denied.push(name),
                Ok(_) | Err(Cause::NotFound | Cause::Refused(..)) => {}
                Err(cause) => settings.failed.push(format!("{name} ({cause})")),
            }
        }
        settings
    }

    async fn setting(&self, name: &str) -> Result<Bytes, Cause> {
        self.requests.settings.fetch_add(1, Ordering::Relaxed);
        let (client, bucket) = (&self.client, self.bucket.as_str());
        match name {
            "cors" => asked!(client.get_bucket_cors().bucket(bucket)),
            "encryption" => asked!(client.get_bucket_encryption().bucket(bucket)),
            "lifecycle" => asked!(client.get_bucket_lifecycle_configuration().bucket(bucket)),
            "notification" => asked!(client.get_bucket_notification_configuration().bucket(bucket)),
            "object-lock" => asked!(client.get_object_lock_configuration().bucket(bucket)),
            "policy" => asked!(client.get_bucket_policy().bucket(bucket)),
            "tagging" => asked!(client.get_bucket_tagging().bucket(bucket)),
            "versioning" => asked!(client.get_bucket_versioning().bucket(bucket)),
            _ => Err(Cause::NotFound),
        }
    }
}

/// An answer of one empty element says that nothing is set; a policy is no XML.
fn is_set(body: &[u8]) -> bool {
    if !body.trim_ascii_start().starts_with(b"<") {
        return !body.trim_ascii().is_empty();
    }
    let mut reader = quick_xml::Reader::from_reader(body);
    let mut elements = 0;
    while let Ok(event) = reader.read_event() {
        match event {
            Event::Eof => break,
            Event::Start(_) | Event::Empty(_) => elements += 1,
            _ => {}
        }
    }
    elements > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_element_sets_nothing() {
        assert!(!is_set(br#"<?xml version="1.0"?><VersioningConfiguration xmlns="http://s3"/>"#));
        assert!(!is_set(b"<NotificationConfiguration></NotificationConfiguration>") && !is_set(b""));
        assert!(is_set(b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"));
        assert!(is_set(br#"{"Version":"2012-10-17"}"#));
    }
}
