//! Putting objects: what a target does not know is left out and said once, what it refuses is listed.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Error, Listed, Result, Run};
use crate::context::Interrupted;
use crate::fault::Kind;
use crate::format::{Attributes, Content, Item, Malformed, ObjectAttributes};
use crate::id::ChunkKind;
use crate::mutex::{into_inner, lock};
use crate::progress::Amount;
use crate::target::{self, BucketTarget, Put, Upload};
use crate::tree::{self, Nodes};

/// A large object is sent so often to a target that breaks off or does not answer, after pauses that double.
const TRIES: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// What belongs to an object of a bucket.
pub(super) fn of_object(item: &Item) -> Result<&ObjectAttributes> {
    match &item.attributes {
        Attributes::Object(attributes) => Ok(attributes),
        Attributes::File(_) => Err(Malformed::Decode("a file among objects".into()).into()),
    }
}

/// The client has not tried it again already, and it may help.
fn may_be_sent_again(error: &target::Error) -> bool {
    matches!(error, target::Error::Streamed(_)) && error.kind() == Kind::Unreachable
}

/// Objects being put; shared by the threads that do it.
pub(super) struct Putting<'a> {
    run: &'a Run<'a>,
    target: &'a BucketTarget,
    bytes: AtomicU64,
    other_etag: Mutex<Listed>,
    refused: Mutex<Listed>,
    not_locked: Mutex<Listed>,
    /// Objects that are locked in the snapshot, where locks are not restored.
    locks: AtomicU64,
    /// Storage classes and encryptions that the target does not know.
    unknown: Mutex<BTreeSet<String>>,
}

impl<'a> Putting<'a> {
    pub fn new(run: &'a Run<'a>, target: &'a BucketTarget) -> Putting<'a> {
        Putting {
            run,
            target,
            bytes: AtomicU64::new(0),
            other_etag: Mutex::default(),
            refused: Mutex::default(),
            not_locked: Mutex::default(),
            locks: AtomicU64::new(0),
            unknown: Mutex::default(),
        }
    }

    /// Puts one object; false where the target refuses it.
    pub fn put(&self, key: &str, item: &Item) -> Result<bool> {
        let context = self.run.repository.context();
        context.cancel.check()?;
        let mut attributes = of_object(item)?.clone();
        for known in [&mut attributes.storage_class, &mut attributes.encryption] {
            known.take_if(|feature| lock(&self.unknown).contains(feature.as_str()));
        }
        let (mut tries, mut pause) = (1, FIRST_PAUSE);
        let put = loop {
            match self.send(key, item, &attributes) {
                Ok(put) => break put,
                Err(Error::Target(error)) => match error.refusal() {
                    Some(why) if self.leave_out(&mut attributes, why) => {}
                    Some(why) => {
                        lock(&self.refused).add(|| format!("{key:?} ({why})"));
                        return Ok(false);
                    }
                    None if may_be_sent_again(&error) && tries < TRIES => {
                        context.cancel.wait(pause)?;
                        (tries, pause) = (tries + 1, pause * 2);
                    }
                    None => return Err(error.into()),
                },
                Err(error) => return Err(error),
            }
        };
        if !attributes.etag.is_empty() && put.etag != attributes.etag {
            lock(&self.other_etag).add(|| format!("{key:?}"));
        }
        self.lock_object(key, put.version.as_deref(), &attributes)?;
        self.bytes.fetch_add(item.size, Ordering::Relaxed);
        context.progress.advance(Amount { items: 1, bytes: item.size });
        Ok(true)
    }

    /// Takes out of `attributes` what the refusal is about, if it is about such a thing.
    fn leave_out(&self, attributes: &mut ObjectAttributes, why: &str) -> bool {
        let left_out = if why.contains("StorageClass") {
            attributes.storage_class.take()
        } else if ["ncrypt", "KMS"].iter().any(|word| why.contains(word)) {
            attributes.encryption.take()
        } else {
            None
        };
        lock(&self.unknown).extend(left_out.clone());
        left_out.is_some()
    }

    /// Locks an object as it was, where that is wanted.
    pub fn lock_object(&self, key: &str, version: Option<&str>, attributes: &ObjectAttributes) -> Result<()> {
        let now = self.run.repository.context().clock.now();
        let retention = attributes.retention.as_ref().filter(|retention| retention.until > now);
        if retention.is_none() && !attributes.legal_hold {
            return Ok(());
        }
        if !self.run.options.object_locks {
            self.locks.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let runtime = &self.run.repository.context().runtime;
        let locked = runtime.block_on(self.target.lock(key, version, retention, attributes.legal_hold));
        if let Err(error) = locked {
            match error.refusal() {
                Some(why) => lock(&self.not_locked).add(|| format!("{key:?} ({why})")),
                None => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// This thread reads the object's chunks, a task sends them.
    fn send(&self, key: &str, item: &Item, attributes: &ObjectAttributes) -> Result<Put> {
        let context = self.run.repository.context();
        // One waits while one is sent and one is read: of 4 MiB each, in every upload, more would not fit.
        let (pieces, arriving) = mpsc::channel(1);
        let (target, key_there, sent, size) =
            (self.target.clone(), key.to_owned(), attributes.clone(), item.size);
        let sending = context.runtime.spawn(async move {
            let upload = Upload { key: &key_there, size, attributes: &sent };
            target.put(&upload, arriving).await
        });
        let fed = self.feed(&item.content, &pieces);
        if let Err(error) = &fed {
            let _ = pieces.blocking_send(Err(error.to_string()));
        }
        drop(pieces);
        let answer = context.runtime.block_on(sending);
        fed?;
        match answer {
            Ok(put) => Ok(put?),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn feed(
        &self,
        content: &Content,
        pieces: &mpsc::Sender<std::result::Result<bytes::Bytes, String>>,
    ) -> Result<()> {
        let cancel = &self.run.repository.context().cancel;
        if let Content::Inline(bytes) = content {
            let _ = pieces.blocking_send(Ok(bytes.clone().into()));
            return Ok(());
        }
        let mut stopped = false;
        let fed = tree::read_chunks(&self.run.nodes, content, |id, length| {
            cancel.check()?;
            let chunk = self.run.nodes.get(ChunkKind::Data, &id)?;
            if chunk.len() as u64 != length {
                return Err(Malformed::Length(chunk.len()).into());
            }
            stopped = pieces.blocking_send(Ok(chunk)).is_err();
            if stopped { Err(Interrupted.into()) } else { Ok(()) }
        });
        // A sender that stopped has an error of its own to tell.
        if stopped { Ok(()) } else { fed }
    }

    /// What was put, and what is to be said of it.
    pub fn finish(self) -> Done {
        let (refused, not_locked) = (into_inner(self.refused), into_inner(self.not_locked));
        let mut done = Done { bytes: self.bytes.into_inner(), refused: refused.count, ..Done::default() };
        done.warnings.extend(refused.warning("objects were refused by the target and are not in it"));
        done.warnings.extend(not_locked.warning("objects are in the target and could not be locked"));
        let other = into_inner(self.other_etag);
        done.warnings.extend(other.warning("objects have another ETag than before in this target"));
        for feature in into_inner(self.unknown) {
            // AWS encrypts everything so, unasked; its loss is no change of what was meant.
            let line = format!("the target does not know {feature}: objects were put without it");
            if feature == "AES256" { done.notes.push(line) } else { done.warnings.push(line) }
        }
        let locks = self.locks.into_inner();
        if locks > 0 {
            done.notes.push(format!(
                "{locks} objects are locked in the snapshot and were restored without their locks: \
                 --object-locks restores those"
            ));
        }
        done
    }
}

/// What came of putting objects.
#[derive(Default)]
pub(super) struct Done {
    pub bytes: u64,
    pub refused: u64,
    pub warnings: Vec<String>,
    pub notes: Vec<String>,
}
