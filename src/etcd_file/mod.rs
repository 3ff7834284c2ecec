//! etcd's own database file: bbolt pages, and etcd's records in them.
//!
//! Layouts are from bbolt's `internal/common` and etcd's `server/storage/schema`; everything read is
//! checked before it is used, since the file comes over a network.

mod bbolt;
mod hash;
mod record;
mod write;

pub use bbolt::{Database, Fault};
pub use hash::KeyHash;
pub use record::{EtcdFile, KeyRecord, KeyValue, Lease, SYSTEM_BUCKETS};
pub use write::{BucketWriter, FileWriter};
