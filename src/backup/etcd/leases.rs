//! Leases, where etcd's file is not read.

use std::collections::BTreeSet;

use prost::Message;

use super::super::{Result, Run};
use crate::etcd::{Etcd, LeaseTime};
use crate::etcd_file::Lease;
use crate::format::{EtcdCapture, Root};
use crate::source;
use crate::tree::{self, Builder};

/// Leases asked for before they are stored.
const BATCH: usize = 1000;

/// A lease's place in the tree of the system's own data, which is as etcd's file has it.
fn lease_key(id: i64) -> Vec<u8> {
    [b"lease\0", &id.to_be_bytes()[..]].concat()
}

impl Run<'_> {
    /// The leases of these ids, as far as the server tells. Of those that the user may not know, what the
    /// parent has.
    pub(super) fn leases(
        &mut self,
        etcd: &Etcd,
        ids: &BTreeSet<i64>,
        parent: Option<&EtcdCapture>,
    ) -> Result<Option<Root>> {
        let shape = self.repository.shape(self.repository.config().trees.anchor);
        let old = parent.and_then(|parent| parent.system);
        let mut builder = Builder::new(&self.nodes, shape);
        let mut unknown = 0;
        let ids: Vec<i64> = ids.iter().copied().collect();
        for ids in ids.chunks(BATCH) {
            self.repository.context().cancel.check()?;
            let times = etcd.lease_times(ids).map_err(source::Error::from)?;
            for (&id, time) in ids.iter().zip(times) {
                let record = match time {
                    LeaseTime::Granted(ttl) => Some(Lease { id, ttl, remaining: 0 }.encode_to_vec()),
                    LeaseTime::Gone => None,
                    LeaseTime::Denied => {
                        let known = tree::get(&self.nodes, old.as_ref(), &lease_key(id))?;
                        unknown += u64::from(known.is_none());
                        known
                    }
                };
                if let Some(record) = record {
                    let weight = record.len() as u64;
                    builder.push(lease_key(id), record, weight)?;
                }
            }
        }
        let root = builder.finish()?;
        if unknown > 0 {
            self.warnings.push(format!(
                "this user may not read {unknown} leases; their keys will be restored without a lease"
            ));
        }
        Ok(root)
    }
}
