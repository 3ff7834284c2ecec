//! What Milvus's keys and objects mean.
//!
//! Keys are shown to a [`Survey`] in order; it finds every Milvus among them, its catalog, and every
//! object that its segments and indexes refer to. [`Instance::check`] looks for those in a tree of objects.
//! No Milvus is needed, and what is not understood is counted and left alone.

mod catalog;
mod config;
mod key;
mod proto;
mod queue;
mod reference;
mod rewrite;
mod root;
mod survey;

pub use catalog::{Catalog, Checkpoint, Collection, Database, Field, Index, Role, Segment, SegmentState};
pub use config::bucket_root;
pub use key::{counters_prefix, metadata_prefix, session_prefix};
pub use queue::Queue;
pub use reference::{Checked, Held, Lack, Missing, Objects};
pub use rewrite::Rewrite;
pub use survey::{Found, Instance, Survey, survey};
