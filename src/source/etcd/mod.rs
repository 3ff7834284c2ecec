//! The ways to read an etcd.

mod file;
mod ranges;

pub use file::{Spooled, snapshot};
pub use ranges::ranges;
