//! The settings of a bucket: asked for while it is listed.

use tokio::task::JoinHandle;

use super::Run;
use crate::format::ObjectCapture;
use crate::source::{Bucket, Settings};

impl Run<'_> {
    /// Begins to ask.
    pub(super) fn ask_settings(&self, bucket: &Bucket) -> JoinHandle<Settings> {
        let bucket = bucket.clone();
        self.repository.context().runtime.spawn(async move { bucket.settings().await })
    }

    /// Puts the answers into `capture`. That some may not be read is no failure.
    pub(super) fn settle_settings(&mut self, asked: JoinHandle<Settings>, capture: &mut ObjectCapture) {
        let settings = match self.repository.context().runtime.block_on(asked) {
            Ok(settings) => settings,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        capture.settings = settings.known;
        if !settings.denied.is_empty() {
            let names = settings.denied.join(", ");
            self.notes
                .push(format!("settings of the bucket that may not be read and are not captured: {names}"));
        }
        if !settings.failed.is_empty() {
            let names = settings.failed.join(", ");
            self.warnings.push(format!("settings of the bucket could not be read: {names}"));
        }
    }
}
