//! A running Milvus, made quiet while it is captured.

mod collector;
mod flush;

pub use collector::{Paused, pause_collector};
pub use flush::{Access as MilvusAccess, Error as FlushError, Flushed, flush};
