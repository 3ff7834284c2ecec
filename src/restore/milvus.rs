//! What a Milvus needs beside its bytes: some keys must not come back, and some point elsewhere.

use super::mapping::Scope;
use super::{Error, Result, Run};
use crate::etcd::Etcd;
use crate::milvus::{Instance, allocator, session_prefix, survey};
use crate::target::EtcdTarget;

/// Bytes of a message's id in rocksmq and Kafka; Pulsar's are longer.
const SHORT_MESSAGE_ID: usize = 8;

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
        for instance in survey(&self.nodes, etcd, &self.repository.spool())?.instances {
            let sessions = session_prefix(&instance.root);
            self.check_running(&instance.root, &sessions)?;
            if !instance.sessions.is_empty() && !self.options.keep_sessions {
                self.notes.push(format!(
                    "left out: {} keys below {}, which belonged to servers that ran then (--keep-sessions)",
                    instance.sessions.len(),
                    String::from_utf8_lossy(&sessions)
                ));
                self.left_out.extend(instance.sessions.iter().cloned());
            }
            self.say_positions(&instance);
        }
        Ok(())
    }

    /// Under servers that run, ids and timestamps must not go backwards.
    fn check_running(&self, root: &str, sessions: &[u8]) -> Result<()> {
        let scope = self.etcd_scope();
        let Some(access) = self.options.etcd.as_ref().filter(|_| scope.takes(&allocator(root))) else {
            return Ok(());
        };
        let sessions = scope.renamed(sessions);
        let runtime = &self.repository.context().runtime;
        let etcd = Etcd::connect(runtime, access).map_err(crate::target::Error::from)?.0;
        let mut servers = 0;
        for key in EtcdTarget::new(etcd).keys(&sessions) {
            servers += u64::from(key.map_err(crate::target::Error::from)?.lease != 0);
        }
        match servers {
            0 => Ok(()),
            _ => Err(Error::Running { sessions: String::from_utf8_lossy(&sessions).into_owned(), servers }),
        }
    }

    fn say_positions(&mut self, instance: &Instance) {
        let root = &instance.root;
        let positions = instance.catalog.checkpoints.values();
        let elsewhere = positions.filter(|position| position.message.len() > SHORT_MESSAGE_ID).count();
        if elsewhere > 0 {
            self.warnings.push(format!(
                "Milvus at {root:?} goes on reading {elsewhere} channels of Pulsar where it had stopped: it needs the \
                 topics that it used then; docs/milvus.md, \"Message queues\""
            ));
        }
        let Some(files) = &instance.bucket_root else { return };
        if self.options.objects_maps.iter().any(|map| map.from.starts_with(files.as_bytes())) {
            self.warnings.push(format!(
                "Milvus at {root:?} has the root path {files:?} of its bucket inside of its keys; --map does not \
                 change it there"
            ));
        }
    }
}
