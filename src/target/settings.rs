//! What belongs to a bucket as a whole, and locks on its objects.

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ObjectLockEnabled, ObjectLockLegalHold, ObjectLockLegalHoldStatus,
    ObjectLockRetention, ObjectLockRetentionMode,
};
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use md5::{Digest, Md5};

use super::{BucketTarget, Error, Result};
use crate::format::{Retention, Setting};
use crate::storage::{Cause, classify};

/// Sends these bytes in place of what the SDK would write.
#[derive(Debug)]
struct Body(String);

impl Intercept for Body {
    fn name(&self) -> &'static str {
        "Body"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let request = context.request_mut();
        *request.body_mut() = SdkBody::from(self.0.clone());
        let sum = aws_smithy_types::base64::encode(Md5::digest(self.0.as_bytes()));
        let headers = request.headers_mut();
        // They were made for the other body.
        for name in ["x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"] {
            headers.remove(name);
        }
        headers.try_insert("content-length", self.0.len().to_string())?;
        headers.try_insert("content-md5", sum)?;
        Ok(())
    }
}

macro_rules! put {
    ($request:expr, $body:expr) => {
        $request
            .customize()
            .interceptor(Body($body.clone()))
            .send()
            .await
            .map(|_| ())
            .map_err(|error| classify(&error, true))
    };
}

impl BucketTarget {
    fn of_bucket(&self, action: &'static str, cause: Cause) -> Error {
        Error::S3 { action, what: format!("bucket {} at {}", self.bucket, self.endpoint), cause }
    }

    /// Whether every put makes a version of its own.
    pub fn keeps_versions(&self) -> Result<bool> {
        let request = self.client.get_bucket_versioning().bucket(&self.bucket);
        match self.runtime.block_on(request.send()).map_err(|e| classify(&e, false)) {
            Ok(answer) => Ok(answer.status() == Some(&BucketVersioningStatus::Enabled)),
            Err(Cause::Refused(crate::fault::Kind::Failed, _)) => Ok(false),
            Err(cause) => Err(self.of_bucket("read the versioning of", cause)),
        }
    }

    /// Whether objects in it can be locked.
    pub fn has_object_lock(&self) -> Result<bool> {
        let request = self.client.get_object_lock_configuration().bucket(&self.bucket);
        match self.runtime.block_on(request.send()).map_err(|e| classify(&e, false)) {
            Ok(answer) => {
                let enabled = answer.object_lock_configuration().and_then(|c| c.object_lock_enabled());
                Ok(enabled == Some(&ObjectLockEnabled::Enabled))
            }
            Err(Cause::NotFound | Cause::Refused(crate::fault::Kind::Failed, _)) => Ok(false),
            Err(cause) => Err(self.of_bucket("read the object lock of", cause)),
        }
    }

    /// Locks an object, or a version of it.
    pub async fn lock(
        &self,
        key: &str,
        version: Option<&str>,
        retention: Option<&Retention>,
        legal_hold: bool,
    ) -> Result<()> {
        let version = version.map(str::to_owned);
        if let Some(Retention { mode, until }) = retention {
            let until = DateTime::from_nanos(i128::from(*until));
            let until =
                until.map_err(|_| Error::Input(format!("{key:?} is locked until a time out of range")))?;
            let lock = ObjectLockRetention::builder()
                .mode(ObjectLockRetentionMode::from(mode.as_str()))
                .retain_until_date(until);
            let request = self.client.put_object_retention().bucket(&self.bucket).key(key);
            let request = request.set_version_id(version.clone()).retention(lock.build());
            request.send().await.map_err(|e| self.fail("lock", key, classify(&e, true)))?;
        }
        if legal_hold {
            let hold = ObjectLockLegalHold::builder().status(ObjectLockLegalHoldStatus::On).build();
            let request = self.client.put_object_legal_hold().bucket(&self.bucket).key(key);
            let request = request.set_version_id(version).legal_hold(hold);
            request.send().await.map_err(|e| self.fail("hold", key, classify(&e, true)))?;
        }
        Ok(())
    }

    /// Sets what a snapshot has, in the words that it has.
    pub async fn set(&self, setting: &Setting) -> Result<()> {
        let (client, bucket, body) = (&self.client, self.bucket.as_str(), &setting.body);
        let done = match setting.name.as_str() {
            "cors" => put!(client.put_bucket_cors().bucket(bucket), body),
            "encryption" => put!(client.put_bucket_encryption().bucket(bucket), body),
            "lifecycle" => put!(client.put_bucket_lifecycle_configuration().bucket(bucket), body),
            "notification" => put!(client.put_bucket_notification_configuration().bucket(bucket), body),
            "object-lock" => put!(client.put_object_lock_configuration().bucket(bucket), body),
            "policy" => put!(client.put_bucket_policy().bucket(bucket).policy(body), body),
            "tagging" => put!(client.put_bucket_tagging().bucket(bucket), body),
            "versioning" => put!(client.put_bucket_versioning().bucket(bucket), body),
            other => Err(Cause::Refused(crate::fault::Kind::Failed, format!("{other} is no known setting"))),
        };
        done.map_err(|cause| self.of_bucket("set what belongs to", cause))
    }
}
