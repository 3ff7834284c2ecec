//! etcd's buckets and records.

use std::fs::File;

use prost::Message;

use super::bbolt::{Database, Fault};
use crate::format::history_key;

/// Buckets beside `key` that belong to a cluster's state.
pub const SYSTEM_BUCKETS: [&str; 4] = ["auth", "authRoles", "authUsers", "lease"];

const REVISION_LEN: usize = 17;

/// `mvccpb.KeyValue`.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// The key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The revision that made it.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// The revision of this value.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// How many times it was put since it was made.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// The value.
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
    /// Its lease, 0 for none.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// `leasepb.Lease`.
#[derive(Clone, PartialEq, Message)]
pub struct Lease {
    /// Its id.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Seconds it was granted for.
    #[prost(int64, tag = "2")]
    pub ttl: i64,
    /// Seconds it had left at a checkpoint; 0 without one.
    #[prost(int64, tag = "3")]
    pub remaining: i64,
}

/// One record of the `key` bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyRecord {
    /// Its revision.
    pub revision: i64,
    /// Its position within the revision.
    pub sub: i64,
    /// Whether it is a deletion; then `kv` has only the key.
    pub tombstone: bool,
    /// The key and value.
    pub kv: KeyValue,
}

/// The key of a record in the `key` bucket, but for the mark of a deletion; also how compaction points are
/// written.
pub(super) fn revision_name(revision: i64, sub: i64) -> [u8; REVISION_LEN] {
    let mut name = [b'_'; REVISION_LEN];
    name[..8].copy_from_slice(&revision.to_be_bytes());
    name[9..].copy_from_slice(&sub.to_be_bytes());
    name
}

impl KeyRecord {
    /// Where it stands in a history.
    pub fn place(&self) -> [u8; 16] {
        history_key(self.revision, self.sub)
    }

    /// Its key in the `key` bucket and its value there, byte for byte as etcd writes them; made in `raw`.
    pub fn encode<'a>(&self, raw: &'a mut Vec<u8>) -> (&'a [u8], &'a [u8]) {
        raw.clear();
        raw.extend_from_slice(&revision_name(self.revision, self.sub));
        raw.extend_from_slice(if self.tombstone { b"t" } else { b"" });
        let name = raw.len();
        self.kv.encode_raw(raw);
        raw.split_at(name)
    }
}

/// (revision, sub, tombstone) from a key of the `key` bucket.
fn parse_revision(key: &[u8]) -> Result<(i64, i64, bool), Fault> {
    let bad = || Fault::Malformed("a record's key is no revision".into());
    let word = |at: usize| key.get(at..at + 8).and_then(|b| b.try_into().ok()).map(i64::from_be_bytes);
    let tombstone = match key.len() {
        REVISION_LEN => false,
        18 if key[REVISION_LEN] == b't' => true,
        _ => return Err(bad()),
    };
    match (word(0), key[8], word(9)) {
        (Some(revision), b'_', Some(sub)) if revision >= 0 && sub >= 0 => Ok((revision, sub, tombstone)),
        _ => Err(bad()),
    }
}

/// etcd's database file.
pub struct EtcdFile {
    database: Database,
    revision: i64,
    compacted: i64,
}

impl EtcdFile {
    /// Opens `file`, `size` bytes of bbolt without a trailer.
    pub fn open(file: File, size: u64) -> Result<EtcdFile, Fault> {
        let database = Database::open(file, size)?;
        let revision = match database.bucket(b"key")? {
            Some(bucket) => {
                database.last_key(&bucket)?.map_or(Ok(0), |key| parse_revision(&key).map(|r| r.0))?
            }
            None => 0,
        };
        let mut file = EtcdFile { database, revision, compacted: 0 };
        // While a compaction runs, the scheduled revision is ahead of the finished one and some records
        // below it are gone already.
        file.compacted =
            file.meta_revision(b"scheduledCompactRev")?.max(file.meta_revision(b"finishedCompactRev")?);
        // A store is at revision 1 before anything was written; a compaction may be all there is.
        file.revision = file.revision.max(file.compacted).max(1);
        Ok(file)
    }

    fn meta_revision(&self, name: &[u8]) -> Result<i64, Fault> {
        let Some(bucket) = self.database.bucket(b"meta")? else { return Ok(0) };
        let mut revision = 0;
        self.database.scan(&bucket, name, |key, value| {
            if key == name {
                revision = parse_revision(value)?.0;
            }
            Ok::<bool, Fault>(false)
        })?;
        Ok(revision)
    }

    /// The newest revision in it.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The compaction point: older records may be missing, the newest of each key is there. 0 when
    /// nothing was ever compacted.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Shows every record from `revision` on, by (revision, sub), while `show` says true.
    pub fn records<E: From<Fault>>(
        &self,
        revision: i64,
        mut show: impl FnMut(KeyRecord) -> Result<bool, E>,
    ) -> Result<(), E> {
        let Some(bucket) = self.database.bucket(b"key")? else { return Ok(()) };
        let from = revision.max(0).to_be_bytes();
        self.database.scan(&bucket, &from, |key, value| {
            let (revision, sub, tombstone) = parse_revision(key)?;
            let kv = KeyValue::decode(value);
            let kv = kv.map_err(|e| Fault::Malformed(format!("the record of revision {revision}: {e}")))?;
            show(KeyRecord { revision, sub, tombstone, kv })
        })
    }

    /// Shows every entry of the bucket `name`, in order; none where there is no such bucket.
    pub fn entries<E: From<Fault>>(
        &self,
        name: &str,
        mut show: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(bucket) = self.database.bucket(name.as_bytes())? else { return Ok(()) };
        self.database.scan(&bucket, &[], |key, value| show(key, value).map(|()| true))
    }
}
