//! What a Milvus needs beside its bytes: some keys must not come back, and some values point elsewhere.

use std::collections::BTreeMap;

use super::mapping::Scope;
use super::{Error, Result, Run};
use crate::etcd::Etcd;
use crate::format::{Content, KeyState};
use crate::milvus::{
    Instance, Queue, Rewrite, Woodpecker, counters_prefix, log_root, metadata_prefix, session_prefix, survey,
};
use crate::repository::{self, content_bytes, state};
use crate::target::{self, EtcdTarget};

/// Objects of a write-ahead log, in segments that etcd knows only later.
#[derive(Default)]
pub(super) struct Later {
    count: u64,
    example: String,
    /// The first root path below which they are, and whether there are others.
    root: Option<Vec<u8>>,
    many_roots: bool,
}

impl Later {
    pub fn add(&mut self, key: &[u8]) {
        let root = log_root(key).unwrap_or_default();
        match &self.root {
            None => {
                (self.root, self.example) = (Some(root.to_vec()), String::from_utf8_lossy(key).into_owned())
            }
            Some(first) => self.many_roots |= first != root,
        }
        self.count += 1;
    }
}

impl Run<'_> {
    /// What of etcd is restored.
    pub(super) fn etcd_scope(&self) -> Scope<'_> {
        Scope {
            prefix: &self.options.etcd_prefix,
            keys: &self.options.etcd_keys,
            selection: &self.options.etcd_selection,
            maps: &self.options.etcd_maps,
            left_out: &self.left_out,
        }
    }

    /// Finds every Milvus that is restored, leaves its servers' sessions out, and says what to look after.
    pub(super) fn look_at_milvus(&mut self) -> Result<()> {
        let Some(etcd) = self.moment.etcd().filter(|_| self.options.etcd.is_some()) else { return Ok(()) };
        let found = survey(&self.nodes, etcd, &self.repository.spool())?;
        if !found.left_out.is_empty() {
            let roots: Vec<String> = found.left_out.into_iter().collect();
            self.warnings.push(format!(
                "there are too many Milvus in this etcd; those at {} were not looked at, and are restored as any keys",
                roots.join(", ")
            ));
        }
        for instance in found.instances {
            if !self.touches(&instance.root)? {
                continue;
            }
            let sessions = session_prefix(&instance.root);
            self.look_at_target(&instance.root, &sessions)?;
            if !instance.sessions.is_empty() && !self.options.keep_sessions {
                self.notes.push(format!(
                    "left out: {} keys below {}, which belonged to servers that ran then (--keep-sessions)",
                    instance.sessions.len(),
                    String::from_utf8_lossy(&sessions)
                ));
                self.left_out.extend(instance.sessions.iter().cloned());
            }
            self.look_at_queue(&instance)?;
            if self.options.new_queue && !instance.targets.is_empty() {
                self.notes.push(format!(
                    "left out: {} keys of what Milvus at {:?} had loaded when it stopped, with places in the old queue; \
                     it makes them anew",
                    instance.targets.len(),
                    instance.root
                ));
                self.left_out.extend(instance.targets.iter().cloned());
            }
            if self.options.new_queue || self.moves_objects() {
                self.say_unreadable(&instance);
                self.rewritten.push(metadata_prefix(&instance.root));
            }
        }
        Ok(())
    }

    /// Whether any key of this Milvus is restored.
    fn touches(&self, root: &str) -> Result<bool> {
        let scope = self.etcd_scope();
        for prefix in [metadata_prefix(root), counters_prefix(root)] {
            for entry in state(&self.nodes, self.at()?, &prefix, &self.repository.spool())? {
                if scope.takes(&entry?.0) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Finds what must not come back of the write-ahead log, also where only objects are restored: etcd may be,
    /// by another command.
    pub(super) fn look_at_logs(&mut self) -> Result<()> {
        let mut infos = [Some(&self.moment.info), self.moment.earlier.as_ref()].into_iter().flatten();
        let has_objects = infos.any(|info| info.snapshot.objects.is_some());
        if let Some(etcd) = self.moment.etcd().filter(|_| has_objects) {
            self.logs = Woodpecker::at(&self.nodes, etcd, &self.repository.spool())?;
        }
        if self.logs.is_some() && self.options.etcd.is_some() && self.options.bucket.is_none() {
            self.notes.push(
                "the write-ahead log of Milvus is in the bucket, too: restore that to the same point, with --delete-extra \
                 where it has gone on, before Milvus is started"
                    .into(),
            );
        }
        Ok(())
    }

    pub(super) fn say_later(&mut self, later: &Later) {
        let Later { count, example, many_roots, .. } = later;
        if *count == 0 {
            return;
        }
        let what = format!(
            "left out: {count} objects of the write-ahead log, in segments that were begun after the revision, for \
             example {example:?}"
        );
        match many_roots {
            true => self.warnings.push(format!(
                "{what}; they are below several root paths, of which etcd is only one's: --object restores those of others"
            )),
            false => self.notes.push(what),
        }
    }

    /// Notes such an object that is in the target and stays there.
    pub(super) fn note_staying(&self, key: &str, staying: &mut Later) {
        if !self.options.delete_extra && self.is_later(key.as_bytes()) {
            staying.add(key.as_bytes());
        }
    }

    pub(super) fn warn_about_staying(&mut self, staying: &Later) {
        if staying.count > 0 {
            self.warnings.push(format!(
                "{} objects of the write-ahead log stay in the bucket, in segments that were begun after the revision, \
                 for example {:?}: Milvus must not be started on them. --delete-extra deletes them",
                staying.count, staying.example
            ));
        }
    }

    /// Whether an object of the snapshot is not restored, because etcd knows its segment of the log only later.
    pub(super) fn is_later(&self, key: &[u8]) -> bool {
        let named = self.options.object_keys.contains(key);
        !named && self.logs.as_ref().is_some_and(|logs| logs.is_later(key))
    }

    /// Under servers that run nothing is restored; and nothing lets ids and timestamps go backwards.
    fn look_at_target(&mut self, root: &str, sessions: &[u8]) -> Result<()> {
        let scope = self.etcd_scope();
        let mut counters = BTreeMap::new();
        for entry in state(&self.nodes, self.at()?, &counters_prefix(root), &self.repository.spool())? {
            let (key, state) = entry?;
            if scope.takes(&key) {
                counters.insert(scope.renamed(&key), (key, content_bytes(&self.nodes, &state.value)?));
            }
        }
        let Some(access) = &self.options.etcd else { return Ok(()) };
        let runtime = &self.repository.context().runtime;
        let present = |prefix: &[u8]| {
            let etcd = Etcd::connect(runtime, access).map_err(target::Error::from)?.0;
            let keys = EtcdTarget::new(etcd).keys(prefix).collect::<std::result::Result<Vec<_>, _>>();
            Ok::<_, Error>(keys.map_err(target::Error::from)?)
        };
        let there = scope.renamed(sessions);
        let servers = present(&there)?.iter().filter(|session| session.lease != 0).count() as u64;
        if servers > 0 {
            return Err(Error::Running { sessions: String::from_utf8_lossy(&there).into_owned(), servers });
        }
        for present in present(&scope.renamed(&counters_prefix(root)))? {
            let Some((key, value)) = counters.remove(&present.key) else { continue };
            if present.value.len() == value.len() && present.value > value {
                let name = String::from_utf8_lossy(&present.key).into_owned();
                self.notes.push(format!("left as it is: {name}, which has come further on the target"));
                self.left_out.insert(key);
            }
        }
        Ok(())
    }

    /// Places in message queues: pointed at the begin where that is wanted, else told where they matter.
    fn look_at_queue(&mut self, instance: &Instance) -> Result<()> {
        let root = &instance.root;
        if instance.write_ahead && self.options.new_queue {
            let why = format!(
                "Milvus at {root:?} has a write-ahead log (2.6), with places that icecore cannot change: restore it \
                 without --milvus-new-queue"
            );
            return Err(repository::Error::Usage(why).into());
        }
        let mut channels: BTreeMap<Queue, u64> = BTreeMap::new();
        for checkpoint in instance.catalog.checkpoints.values() {
            *channels.entry(Queue::of(&checkpoint.message)).or_default() += 1;
        }
        channels.remove(&Queue::Unread);
        for (queue, count) in channels {
            let name = queue.name();
            match queue {
                Queue::Other if self.options.new_queue => self.warnings.push(format!(
                    "Milvus at {root:?}: places in {count} channels of {name} stay as they are"
                )),
                _ if self.options.new_queue => self.notes.push(format!(
                    "Milvus at {root:?}: {count} channels of {name} are read from their begin"
                )),
                // It is kept with Milvus's local files, and one that begins anew is read from its begin.
                Queue::Rocksmq => {}
                _ => self.warnings.push(format!(
                    "Milvus at {root:?} goes on reading {count} channels of {name} where it had stopped then, and takes \
                     in what came after. To have it as the snapshot is, delete their topics and restore with \
                     --milvus-new-queue; docs/milvus.md, \"Message queues\""
                )),
            }
        }
        Ok(())
    }

    /// Whether objects get other keys.
    fn moves_objects(&self) -> bool {
        !self.options.objects_maps.is_empty() || !self.options.to_prefix.is_empty()
    }

    fn say_unreadable(&mut self, instance: &Instance) {
        if instance.unreadable_count > 0 {
            self.warnings.push(format!(
                "Milvus at {:?}: {} values cannot be read, for example of {}; paths and places in them stay as they are",
                instance.root, instance.unreadable_count, instance.unreadable[0]
            ));
        }
    }

    /// A key's state as the target should have it: with the keys that objects have there.
    pub(super) fn adapted(&self, key: &[u8], state: KeyState) -> Result<KeyState> {
        if !self.rewritten.iter().any(|prefix| key.starts_with(prefix)) {
            return Ok(state);
        }
        let scope = self.options.objects_scope();
        let path = |key: &str| {
            let new = String::from_utf8(scope.renamed(key.as_bytes())).ok()?;
            Some(format!("{}{new}", self.options.to_prefix))
        };
        let rewrite = Rewrite { path: &path, new_queue: self.options.new_queue };
        Ok(match rewrite.value(key, &content_bytes(&self.nodes, &state.value)?) {
            Some(value) => KeyState { value: Content::Inline(value), ..state },
            None => state,
        })
    }
}
