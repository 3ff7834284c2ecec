//! A live etcd as target.

use etcd_client::{Compare, CompareOp, GetOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp};

use super::{Error, Result};
use crate::etcd::Etcd;

/// Operations of one transaction; etcd's own default limit.
const MAX_OPERATIONS: usize = 128;
/// Bytes of one transaction, well under etcd's default limit of 1.5 MiB.
const MAX_BYTES: usize = 1 << 20;
/// Bytes that a page of keys should have.
const PAGE_BYTES: usize = 2 << 20;
/// Answers up to this size are taken: one value may have 1.5 MB, a first page has a hundred.
const MAX_ANSWER: usize = 512 << 20;

/// A key as it is in the target now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Its lease, 0 for none.
    pub lease: i64,
    /// The revision of this value.
    pub mod_revision: i64,
    /// The revision that made the key.
    pub create_revision: i64,
    /// How many times it was put since.
    pub version: i64,
}

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
            Operation::Put { key, value, .. } => 2 * key.len() + value.len() + 64,
            Operation::Delete { key, .. } => 2 * key.len() + 64,
        }
    }

    /// The key and the revision it was seen at.
    fn seen(&self) -> (&[u8], i64) {
        match self {
            Operation::Put { key, seen, .. } | Operation::Delete { key, seen } => (key, *seen),
        }
    }
}

/// A live etcd.
pub struct EtcdTarget {
    etcd: Etcd,
    batch: Vec<Operation>,
    bytes: usize,
    /// What the last changes of the batch should be made together as, and where they begin.
    group: (i64, usize),
}

/// The keys of an etcd in order, page by page, at one revision.
pub struct Keys<'a> {
    etcd: &'a Etcd,
    next: Option<Vec<u8>>,
    end: Vec<u8>,
    revision: i64,
    limit: i64,
    page: std::vec::IntoIter<Present>,
}

/// The end of the range of keys that begin with `prefix`; `\0` for all there are.
fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

impl EtcdTarget {
    /// Writes to the member behind `etcd`.
    pub fn new(etcd: Etcd) -> EtcdTarget {
        EtcdTarget { etcd, batch: Vec::new(), bytes: 0, group: (0, 0) }
    }

    /// The target's keys that begin with `prefix`, in order.
    pub fn keys(&self, prefix: &[u8]) -> Keys<'_> {
        Keys::at(&self.etcd, prefix, 0)
    }

    /// Makes a lease of this id, if there is none of it. False where there is one already.
    pub fn grant(&mut self, id: i64, ttl: i64) -> Result<bool> {
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
        let compare = batch.iter().map(|operation| {
            let (key, seen) = operation.seen();
            Compare::mod_revision(key, CompareOp::Equal, seen)
        });
        let compare: Vec<Compare> = compare.collect();
        let first = String::from_utf8_lossy(batch[0].seen().0).into_owned();
        let operations: Vec<TxnOp> = batch.into_iter().map(to_txn).collect();
        let txn = Txn::new().when(compare).and_then(operations);
        let mut client = self.etcd.client();
        let answer = self.etcd.runtime().block_on(client.txn(txn));
        match answer {
            Ok(answer) if answer.succeeded() => Ok(()),
            Ok(_) => Err(Error::Changed(first)),
            Err(error) => Err(self.etcd.fail("write to", &error).into()),
        }
    }
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

impl<'a> Keys<'a> {
    /// The keys that begin with `prefix` at `revision`; 0 for the newest.
    pub fn at(etcd: &'a Etcd, prefix: &[u8], revision: i64) -> Keys<'a> {
        let begin = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
        Keys {
            etcd,
            next: Some(begin),
            end: range_end(prefix),
            revision,
            limit: 100,
            page: Vec::new().into_iter(),
        }
    }

    fn fetch(&mut self, from: Vec<u8>) -> Result<()> {
        let options = GetOptions::new()
            .with_range(self.end.clone())
            .with_limit(self.limit)
            .with_revision(self.revision);
        let client = self.etcd.client();
        let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
        let answer = self.etcd.runtime().block_on(kv.get(from, Some(options)));
        let mut answer = answer.map_err(|e| self.etcd.fail("read", &e))?;
        if self.revision == 0 {
            self.revision = answer.header().map_or(0, |header| header.revision());
        }
        let more = answer.more();
        let present: Vec<Present> = answer
            .take_kvs()
            .into_iter()
            .map(|kv| {
                let (lease, mod_revision) = (kv.lease(), kv.mod_revision());
                let (create_revision, version) = (kv.create_revision(), kv.version());
                let (key, value) = kv.into_key_value();
                Present { key, value, lease, mod_revision, create_revision, version }
            })
            .collect();
        let bytes: usize = present.iter().map(|p| p.key.len() + p.value.len() + 32).sum();
        if !present.is_empty() {
            // As many keys as make a page of the right size, at most eight times as many as before.
            let fitting = (PAGE_BYTES * present.len() / bytes.max(1)) as i64;
            self.limit = fitting.clamp(1, self.limit * 8).min(100_000);
        }
        self.next = present.last().filter(|_| more).map(|last| [&last.key[..], &[0]].concat());
        self.page = present.into_iter();
        Ok(())
    }
}

impl Iterator for Keys<'_> {
    type Item = Result<Present>;

    fn next(&mut self) -> Option<Result<Present>> {
        loop {
            if let Some(present) = self.page.next() {
                return Some(Ok(present));
            }
            let from = self.next.take()?;
            if let Err(error) = self.fetch(from) {
                return Some(Err(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(range_end(b"a/"), b"a0");
        assert_eq!(range_end(b"a\xff"), b"b");
        assert_eq!(range_end(b"\xff\xff"), b"\0");
        assert_eq!(range_end(b""), b"\0");
    }
}
