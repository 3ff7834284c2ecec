//! An S3 client for any server: addresses, credentials, time-outs, and what its errors mean.

use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::{Bytes, BytesMut};

use super::Cause;
use crate::fault::{Kind, chain};

/// A server that does not take a connection within this time is given up.
const CONNECT: Duration = Duration::from_secs(5);
/// One that does not begin to answer within this time, too.
const ANSWER: Duration = Duration::from_secs(60);
/// No attempt takes longer, but for the body of an answer.
const ATTEMPT: Duration = Duration::from_secs(600);

/// How often the client tries a request to a source or a target: pauses that double up to the longest, at
/// random down to none.
pub const ATTEMPTS: u32 = 12;
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const FIRST_ATTEMPTS: u32 = 4;

/// Where an S3 server is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Address {
    /// `http://host:port`; `None` for AWS itself.
    pub endpoint: Option<String>,
    /// `None` for `us-east-1`.
    pub region: Option<String>,
    /// A PEM file of certificate authorities to trust beside the system's.
    pub ca: Option<PathBuf>,
}

/// Keys as the user gave them.
#[derive(Clone, PartialEq, Eq)]
pub struct CredentialVars {
    /// The access key id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
    /// A session token, for temporary keys.
    pub token: Option<String>,
}

/// A server and how to be let in.
#[derive(Clone, Default)]
pub struct S3Access {
    /// Where it is.
    pub address: S3Address,
    /// `None` for the SDK's usual chain.
    pub credentials: Option<CredentialVars>,
    /// Attempts that the client itself makes for one request; 1 leaves trying again to the caller.
    pub attempts: u32,
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// The file of certificate authorities cannot be read.
    #[error("cannot read the certificate authorities in {0}: {1}")]
    Ca(PathBuf, std::io::Error),
    /// The certificates cannot be used.
    #[error("cannot use the certificate authorities in {0:?}: {1}")]
    BadCa(Option<PathBuf>, String),
    /// The endpoint is not an http or https URL.
    #[error("{0:?} is not an endpoint: write http://host:port or https://host")]
    Endpoint(String),
}

/// A client for `access`. Makes no request.
pub async fn connect(access: &S3Access) -> Result<Client, S3Error> {
    let address = &access.address;
    if let Some(endpoint) = &address.endpoint
        && !(endpoint.starts_with("http://") || endpoint.starts_with("https://"))
    {
        return Err(S3Error::Endpoint(endpoint.clone()));
    }
    let region = Region::new(address.region.clone().unwrap_or_else(|| "us-east-1".into()));
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(trust(address)?)
        .pool_max_idle_per_host(128)
        .build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .read_timeout(ANSWER)
        .operation_attempt_timeout(ATTEMPT)
        .build();
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region.clone())
        .http_client(http.clone())
        .timeout_config(timeouts)
        .retry_config(retries(access.attempts))
        .retry_partition(RetryPartition::custom("icecore").token_bucket(TokenBucket::unlimited()).build())
        // Slow servers trip it; `received` sees what stands still.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // Trailing checksums break some servers; icecore checks contents itself.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &address.endpoint {
        config = config.endpoint_url(endpoint).force_path_style(!endpoint.contains(".amazonaws.com"));
    }
    config = match &access.credentials {
        Some(keys) => {
            let token = keys.token.clone();
            config.credentials_provider(Credentials::new(&keys.id, &keys.secret, token, None, "icecore"))
        }
        None => {
            let loader = aws_config::defaults(BehaviorVersion::latest()).region(region).http_client(http);
            let usual = loader.load().await;
            config.set_credentials_provider(usual.credentials_provider());
            config
        }
    };
    Ok(Client::from_conf(config.build()))
}

/// A server that throttles, or that is being restarted, answers within a minute or two.
fn retries(attempts: u32) -> RetryConfig {
    RetryConfig::standard().with_max_attempts(attempts.max(1)).with_max_backoff(LONGEST_PAUSE)
}

/// For the first request to a server: a wrong address is told quickly.
pub fn impatient() -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder().retry_config(retries(FIRST_ATTEMPTS))
}

/// Time for a request that sends so many bytes: the client's own time-outs run while it sends. Few
/// different ones, since each has connections of its own.
pub fn patience(bytes: u64) -> aws_sdk_s3::config::Builder {
    const SLOWEST: u64 = 32 << 10;
    let sending = Duration::from_secs(bytes.max(1 << 20).next_power_of_two() / SLOWEST);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .read_timeout(ANSWER + sending)
        .operation_attempt_timeout(ATTEMPT + sending);
    aws_sdk_s3::Config::builder().timeout_config(timeouts.build())
}

/// No time-outs but for connecting: somebody watches over a body that streams.
pub fn untimed() -> aws_sdk_s3::config::Builder {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT);
    let timeouts = timeouts.disable_read_timeout().disable_operation_attempt_timeout();
    aws_sdk_s3::Config::builder().timeout_config(timeouts.build())
}

/// A body, put together as it arrives: where the server tells its length, what has been received is held once only.
/// Of one that is longer than `most` a little more than that. However slowly it comes, what moves is waited for.
pub async fn received(mut body: ByteStream, expected: Option<i64>, most: usize) -> Result<Bytes, String> {
    /// Room that is made on a server's word alone.
    const ROOM: usize = 64 << 20;
    /// Nothing comes for so long: the connection is lost, which may not be told otherwise.
    const STILL: Duration = Duration::from_secs(120);
    let expected = expected.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    let mut bytes = BytesMut::with_capacity(expected.min(most).min(ROOM));
    loop {
        let more = tokio::time::timeout(STILL, body.try_next()).await;
        let more = more.map_err(|_| format!("after {} bytes nothing came for {STILL:?}", bytes.len()))?;
        let Some(more) = more.map_err(|e| chain(&e))? else { break };
        bytes.extend_from_slice(&more);
        if bytes.len() > most {
            break;
        }
    }
    Ok(bytes.freeze())
}

fn trust(address: &S3Address) -> Result<TlsContext, S3Error> {
    let mut store = TrustStore::default();
    if let Some(path) = &address.ca {
        let pem = std::fs::read(path).map_err(|e| S3Error::Ca(path.clone(), e))?;
        if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
            return Err(S3Error::BadCa(address.ca.clone(), "no PEM certificate in it".into()));
        }
        store = store.with_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(store).build();
    context.map_err(|e| S3Error::BadCa(address.ca.clone(), e.to_string()))
}

/// Percent-decodes a key as listings with `encoding-type=url` give it.
pub fn decode_key(text: &str) -> std::result::Result<String, String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex = text.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
                at += 2;
                hex.ok_or_else(|| format!("{text:?} is not percent-encoded"))?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).map_err(|_| format!("{text:?} is not UTF-8"))
}

/// What a failed request means. `writes`: whether it may have happened all the same.
pub fn classify<E>(error: &SdkError<E, HttpResponse>, writes: bool) -> Cause
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let unclear = |why: String| if writes { Cause::Uncertain(why) } else { Cause::Transient(why) };
    match error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let code = service.err().code().unwrap_or_default();
            let message = service.err().message().unwrap_or_default();
            let said = match (code, message) {
                ("", "") => format!("the server answered {status}"),
                ("", message) => format!("the server answered {status}: {message}"),
                (code, "") => code.to_owned(),
                (code, message) => format!("{code}: {message}"),
            };
            classify_answer(status, code, said, unclear)
        }
        SdkError::TimeoutError(_) => unclear("no answer in time".into()),
        SdkError::ResponseError(_) => unclear(format!("a broken answer: {}", chain(error))),
        SdkError::DispatchFailure(failure) => {
            let why = failure.as_connector_error().map_or_else(|| chain(error), |e| chain(e));
            let lower = why.to_lowercase();
            // A connection that breaks says "tls", too, where it was one.
            let broken = ["handshake eof", "close_notify", "unexpected eof", "reset by peer", "broken pipe"];
            let tls = ["certificate", "tls", "corrupt message", "unknownissuer", "handshake"];
            let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
            if says(&tls) && !says(&broken) {
                Cause::Refused(Kind::Tls, why)
            } else if lower.contains("credentials") {
                Cause::Refused(Kind::Denied, format!("no credentials were found ({why})"))
            } else {
                unclear(why)
            }
        }
        _ => {
            let why = chain(error);
            match why.contains("credential") {
                true => Cause::Refused(Kind::Denied, format!("no credentials were found ({why})")),
                false => Cause::Refused(Kind::Failed, why),
            }
        }
    }
}

fn classify_answer(status: u16, code: &str, said: String, unclear: impl Fn(String) -> Cause) -> Cause {
    match (status, code) {
        (_, "NoSuchBucket") => Cause::Refused(Kind::NoBucket, said),
        // Any web server answers 404; an S3 server says of what.
        (404, "") => Cause::Refused(Kind::Failed, format!("{said}; is this an S3 server?")),
        (404, _) | (_, "NoSuchKey" | "NotFound") => Cause::NotFound,
        (412, _) => Cause::Exists,
        (409, _) => unclear(said),
        (_, "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" | "QuotaExceeded") | (507, _) => {
            Cause::Refused(Kind::NoSpace, said)
        }
        (_, "RequestTimeTooSkewed" | "ExpiredToken") | (401 | 403, _) => Cause::Refused(Kind::Denied, said),
        (400, "") => {
            let hint = "is this the right scheme, http or https, and the S3 port?";
            Cause::Refused(Kind::Failed, format!("{said}; {hint}"))
        }
        // What a server has not, it will not have on the next try.
        (501, _) => Cause::Refused(Kind::Failed, said),
        // A body that stood still for a while is refused with 400.
        (408 | 429, _) | (_, "RequestTimeout") | (500..=599, _) => unclear(said),
        _ => Cause::Refused(Kind::Failed, said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_that_stood_still_is_no_refusal() {
        let cause = classify_answer(400, "RequestTimeout", "too slow".into(), Cause::Uncertain);
        assert!(matches!(cause, Cause::Uncertain(_)), "{cause:?}");
    }

    #[test]
    fn a_body_is_what_came_whatever_its_length_was_said_to_be() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let receive = |expected, most| {
            let body = ByteStream::from_static(b"0123456789");
            runtime.block_on(received(body, expected, most)).unwrap()
        };
        for said in [None, Some(-1), Some(0), Some(3), Some(10), Some(i64::MAX)] {
            assert_eq!(&receive(said, usize::MAX)[..], b"0123456789", "{said:?}");
        }
        assert!(receive(Some(10), 4).len() > 4, "that it is longer is seen");
    }
}
