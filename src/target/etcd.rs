//! A live etcd as target.

use std::collections::{BTreeSet, HashMap};

use etcd_client::{
    Compare, CompareOp, GetOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use super::{Error, Result};
use crate::etcd::{Etcd, Keys};

/// Operations of one transaction; etcd's own default limit.
const MAX_OPERATIONS: usize = 128;
/// Bytes of one transaction, well under etcd's default limit of 1.5 MiB.
const MAX_BYTES: usize = 1 << 20;

/// A change to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Put it.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// The lease, 0 for none.
        lease: i64,
        /// The revision that the key has now, 0 where it is not there.
        seen: i64,
    },
    /// Delete it.
    Delete {
        /// The key.
        key: Vec<u8>,
        /// The revision that the key has now.
        seen: i64,
    },
}

impl Operation {
    fn bytes(&self) -> usize {
        match self {
            // The key is compared, put, and asked for where the comparison fails.
            Operation::Put { key, value, .. } => 3 * key.len() + value.len() + 64,
            Operation::Delete { key, .. } => 3 * key.len() + 64,
        }
    }

    /// The key and the revision it was seen at.
    fn seen(&self) -> (Vec<u8>, i64) {
        match self {
            Operation::Put { key, seen, .. } | Operation::Delete { key, seen } => (key.clone(), *seen),
        }
    }

    fn lease(&self) -> Option<i64> {
        match self {
            Operation::Put { lease, .. } => Some(*lease).filter(|lease| *lease != 0),
            Operation::Delete { .. } => None,
        }
    }
}

/// A live etcd.
pub struct EtcdTarget {
    etcd: Etcd,
    batch: Vec<Operation>,
    bytes: usize,
    /// Leases that were made, and their times to live.
    leases: HashMap<i64, i64>,
    /// What the last changes of the batch should be made together as, and where they begin.
    group: (i64, usize),
}

impl EtcdTarget {
    /// Writes to the member behind `etcd`.
    pub fn new(etcd: Etcd) -> EtcdTarget {
        EtcdTarget { etcd, batch: Vec::new(), bytes: 0, leases: HashMap::new(), group: (0, 0) }
    }

    /// The target's keys that begin with `prefix`, in order.
    pub fn keys(&self, prefix: &[u8]) -> Keys<'_> {
        Keys::at(&self.etcd, prefix, 0)
    }

    /// Makes a lease of this id, if there is none of it. False where there is one already.
    pub fn grant(&mut self, id: i64, ttl: i64) -> Result<bool> {
        self.leases.insert(id, ttl);
        let options = LeaseGrantOptions::new().with_id(id);
        let mut client = self.etcd.client();
        match self.etcd.runtime().block_on(client.lease_grant(ttl, Some(options))) {
            Ok(_) => Ok(true),
            Err(error) if error.to_string().contains("lease already exists") => Ok(false),
            Err(error) => Err(self.etcd.fail("make a lease in", &error).into()),
        }
    }

    /// Takes a change; changes are made in transactions under the server's limits. Those that follow each
    /// other with the same `together` are made in one, where they fit.
    pub fn change(&mut self, operation: Operation, together: i64) -> Result<()> {
        if self.group.0 != together {
            self.group = (together, self.batch.len());
        }
        let bytes = operation.bytes();
        while !self.batch.is_empty() && (self.batch.len() >= MAX_OPERATIONS || self.bytes + bytes > MAX_BYTES)
        {
            let whole = self.group.1 > 0;
            self.make(if whole { self.group.1 } else { self.batch.len() })?;
        }
        self.bytes += bytes;
        self.batch.push(operation);
        Ok(())
    }

    /// Makes the changes taken so far.
    pub fn flush(&mut self) -> Result<()> {
        self.make(self.batch.len())
    }

    /// Makes the first `count` changes. All keys must still be as they were seen.
    fn make(&mut self, count: usize) -> Result<()> {
        let batch: Vec<Operation> = self.batch.drain(..count).collect();
        self.bytes = self.batch.iter().map(Operation::bytes).sum();
        self.group.1 = self.group.1.saturating_sub(count);
        if batch.is_empty() {
            return Ok(());
        }
        let seen: Vec<(Vec<u8>, i64)> = batch.iter().map(Operation::seen).collect();
        let leases: BTreeSet<i64> = batch.iter().filter_map(Operation::lease).collect();
        let compare =
            |(key, seen): &(Vec<u8>, i64)| Compare::mod_revision(key.clone(), CompareOp::Equal, *seen);
        let look =
            |(key, _): &(Vec<u8>, i64)| TxnOp::get(key.clone(), Some(GetOptions::new().with_keys_only()));
        let compares: Vec<Compare> = seen.iter().map(compare).collect();
        // Of a single one it is clear which has changed, and its request may be as large as any may be.
        let looks: Vec<TxnOp> = seen.iter().filter(|_| seen.len() > 1).map(look).collect();
        let operations: Vec<TxnOp> = batch.into_iter().map(to_txn).collect();
        let txn = Txn::new().when(compares).and_then(operations).or_else(looks);
        let answer = match self.commit(txn.clone()) {
            // A short one may run out before the last of its keys is put.
            Err(error) if error.to_string().contains("requested lease not found") => {
                let again: Vec<(i64, i64)> =
                    leases.iter().filter_map(|id| Some((*id, *self.leases.get(id)?))).collect();
                again.into_iter().try_for_each(|(id, ttl)| self.grant(id, ttl).map(|_| ()))?;
                self.commit(txn)
            }
            answer => answer,
        };
        match answer {
            Ok(answer) if answer.succeeded() => Ok(()),
            Ok(answer) => Err(Error::Changed(changed(&seen, &answer))),
            Err(error) => Err(self.etcd.fail("write to", &error).into()),
        }
    }

    fn commit(&self, txn: Txn) -> std::result::Result<TxnResponse, etcd_client::Error> {
        let mut client = self.etcd.client();
        self.etcd.runtime().block_on(client.txn(txn))
    }
}

/// The first key whose revision is not the one that was seen.
fn changed(seen: &[(Vec<u8>, i64)], answer: &TxnResponse) -> String {
    let now = answer.op_responses().into_iter().map(|answer| match answer {
        TxnOpResponse::Get(answer) => answer.kvs().first().map_or(0, |kv| kv.mod_revision()),
        _ => 0,
    });
    let changed = seen.iter().zip(now).find(|((_, seen), now)| seen != now).map(|(seen, _)| seen);
    changed.or(seen.first()).map_or_else(String::new, |(key, _)| String::from_utf8_lossy(key).into_owned())
}

fn to_txn(operation: Operation) -> TxnOp {
    match operation {
        Operation::Put { key, value, lease, .. } => {
            let options = (lease != 0).then(|| PutOptions::new().with_lease(lease));
            TxnOp::put(key, value, options)
        }
        Operation::Delete { key, .. } => TxnOp::delete(key, None),
    }
}
