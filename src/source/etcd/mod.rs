//! The ways to read an etcd.

mod file;
mod ranges;
mod watch;

pub use file::{Spooled, snapshot};
pub use ranges::ranges;
pub use watch::{Early, Watched, watch};
