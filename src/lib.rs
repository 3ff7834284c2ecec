//! icecore: incremental, deduplicating snapshots of etcd and S3 object storage.
//!
//! `docs/architecture.md` is the map. A module uses only modules on floors below its own;
//! `tests/architecture.rs` holds the floors and checks it.

pub mod backup;
pub mod browse;
pub mod check;
pub mod collection;
pub mod context;
pub mod directory;
pub mod etcd;
pub mod etcd_file;
pub mod fault;
pub mod forget;
pub mod format;
pub mod guard;
pub mod id;
pub mod lifeline;
pub mod memory;
pub mod milvus;
pub mod mutex;
pub mod pool;
pub mod progress;
pub mod proof;
pub mod prune;
pub mod repository;
pub mod restore;
pub mod secret;
pub mod selection;
pub mod sorter;
pub mod source;
pub mod storage;
pub mod store;
pub mod target;
pub mod tree;
