//! Forget: a snapshot is no longer wanted. It gets a tombstone; its content goes with a later prune.

use crate::format::{Name, Tombstone};
use crate::repository::{Repository, Result, SnapshotInfo};

/// Forgets one snapshot. A tombstone that is there already is as good.
pub fn forget(repository: &Repository, info: &SnapshotInfo) -> Result<()> {
    let name = Name::Forgotten(info.id).to_string();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let tombstone = Tombstone { time: repository.context().clock.now(), host };
    match repository.put_record(&name, &tombstone) {
        Err(crate::repository::Error::Storage(error)) if error.is_exists() => Ok(()),
        done => done,
    }
}
