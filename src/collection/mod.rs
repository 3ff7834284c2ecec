//! The collection protocol: its rules and its steps, without I/O. `docs/architecture.md`, "Collection",
//! tells it; the repository and prune run these functions against a medium, and `tests/collection.rs` runs
//! the same ones through every interleaving.

mod collector;
mod session;
mod validity;

pub use collector::{Step, Survival, awaited, covered, kept, pins, survival};
pub use session::{Reuse, established, label};
pub use validity::{CHOOSE, Folder, LOOK, MARK, Numbers, Validity};
