//! Leases, where etcd's file is not read.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::super::{Result, Run};
use crate::etcd::{Etcd, LeaseTime};
use crate::etcd_file::Lease;
use crate::format::{EtcdCapture, Root};
use crate::source;
use crate::tree::{self, Edit};

/// Leases asked for at once.
const BATCH: usize = 1000;
/// Where leases are in the tree of the system's own data, which is as etcd's file has it.
const LEASES: &[u8] = b"lease\0";

fn lease_key(id: i64) -> Vec<u8> {
    [LEASES, &id.to_be_bytes()].concat()
}

fn lease_id(key: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(key.strip_prefix(LEASES)?.try_into().ok()?))
}

impl Run<'_> {
    /// The leases of these ids, as far as the server tells.
    pub(super) fn leases(
        &mut self,
        etcd: &Etcd,
        carried: &BTreeSet<i64>,
        parent: Option<&EtcdCapture>,
    ) -> Result<Option<Root>> {
        let old = parent.and_then(|parent| parent.system);
        let mut edits = BTreeMap::new();
        self.ask(etcd, carried, old.as_ref(), &mut edits)?;
        self.apply_leases(None, edits)
    }

    /// What the parent has, with the leases of now: of all where the user may list them, else with those
    /// that new events carry.
    pub(super) fn leases_since(
        &mut self,
        etcd: &Etcd,
        carried: &BTreeSet<i64>,
        parent: &EtcdCapture,
    ) -> Result<Option<Root>> {
        let living = etcd.leases().map_err(source::Error::from)?;
        let (mut edits, mut known) = (BTreeMap::new(), BTreeSet::new());
        for entry in tree::scan(&self.nodes, parent.system.as_ref(), LEASES)? {
            let key = entry?.key;
            let Some(id) = lease_id(&key) else { break };
            if living.as_ref().is_some_and(|living| !living.contains(&id)) {
                edits.insert(key, None);
            } else {
                known.insert(id);
            }
        }
        let new = living.as_ref().unwrap_or(carried).difference(&known).copied().collect();
        self.ask(etcd, &new, parent.system.as_ref(), &mut edits)?;
        self.apply_leases(parent.system, edits)
    }

    /// Asks for leases. Of one that the user may not know, what is known of old stays.
    fn ask(
        &mut self,
        etcd: &Etcd,
        ids: &BTreeSet<i64>,
        old: Option<&Root>,
        edits: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    ) -> Result<()> {
        let ids: Vec<i64> = ids.iter().copied().collect();
        let mut unknown = 0;
        for ids in ids.chunks(BATCH) {
            self.repository.context().cancel.check()?;
            let times = etcd.lease_times(ids).map_err(source::Error::from)?;
            for (&id, time) in ids.iter().zip(times) {
                let record = match time {
                    LeaseTime::Granted(ttl) => Some(Lease { id, ttl, remaining: 0 }.encode_to_vec()),
                    LeaseTime::Gone => None,
                    LeaseTime::Denied => {
                        let known = tree::get(&self.nodes, old, &lease_key(id))?;
                        unknown += u64::from(known.is_none());
                        known
                    }
                };
                edits.insert(lease_key(id), record);
            }
        }
        if unknown > 0 {
            self.warnings.push(format!(
                "this user may not read {unknown} leases; their keys will be restored without a lease"
            ));
        }
        Ok(())
    }

    fn apply_leases(
        &self,
        root: Option<Root>,
        edits: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    ) -> Result<Option<Root>> {
        let shape = self.repository.shape(self.repository.config().trees.anchor);
        let edits = edits.into_iter().map(|(key, record)| {
            let value = record.map(|record| {
                let weight = record.len() as u64;
                (record, weight)
            });
            Ok(Edit { key, value })
        });
        Ok(tree::apply(&self.nodes, shape, root, edits)?)
    }
}
