//! What Milvus's keys and objects mean.
//!
//! Keys are shown to a [`Survey`] in order; it finds every Milvus among them, its catalog, and every
//! object that its segments and indexes refer to. [`Instance::check`] looks for those in a tree of objects.
//! No Milvus is needed, and what is not understood is counted and left alone.

mod avro;
mod catalog;
mod checked;
mod config;
mod key;
mod manifest;
mod objects;
mod proto;
mod queue;
mod reference;
mod rewrite;
mod root;
mod survey;
mod woodpecker;

pub use avro::Error as ManifestError;
pub use catalog::{
    Catalog, Checkpoint, Collection, Database, Field, Index, Listing, Role, Segment, SegmentState,
};
pub use checked::{Checked, Held, Lack, Missing};
pub use config::Config;
pub use key::{counters_prefix, metadata_prefix, session_prefix};
pub use manifest::{File, Index as ManifestIndex, Manifest, Place, read as read_manifest};
pub use objects::Objects;
pub use queue::Queue;
pub use rewrite::Rewrite;
pub use survey::{Found, Instance, Survey, survey};
pub use woodpecker::{Lacking, Woodpecker, is_log_footer, log_folder, log_root};
