//! Leases, asked for one by one.

use std::collections::BTreeSet;

use futures::StreamExt;

use super::{ANSWER, Error, Etcd, Result};
use crate::fault::Kind;

/// Requests under way at once.
const AT_ONCE: usize = 32;

/// What the server says of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseTime {
    /// The seconds it was granted for.
    Granted(i64),
    /// There is no such lease any more.
    Gone,
    /// The user may not know.
    Denied,
}

impl Etcd {
    /// All leases there are; `None` where the user may not list them.
    pub fn leases(&self) -> Result<Option<BTreeSet<i64>>> {
        let mut client = self.client();
        match self.answered("list the leases of", client.leases()) {
            Ok(answer) => Ok(Some(answer.leases().iter().map(|lease| lease.id()).collect())),
            Err(error) if error.kind() == Kind::Denied => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the server says of each lease, in the order of `ids`.
    pub fn lease_times(&self, ids: &[i64]) -> Result<Vec<LeaseTime>> {
        let asked = ids.iter().map(|&id| self.lease_time(id));
        let answers = futures::stream::iter(asked).buffered(AT_ONCE).collect::<Vec<Result<LeaseTime>>>();
        self.runtime.block_on(answers).into_iter().collect()
    }

    async fn lease_time(&self, id: i64) -> Result<LeaseTime> {
        let mut client = self.client();
        let answer = tokio::time::timeout(ANSWER, client.lease_time_to_live(id, None)).await;
        match answer.map_err(|_| self.silent("ask for the leases of"))? {
            Ok(answer) if answer.ttl() < 0 || answer.granted_ttl() <= 0 => Ok(LeaseTime::Gone),
            Ok(answer) => Ok(LeaseTime::Granted(answer.granted_ttl())),
            Err(error) => match self.fail("ask for the leases of", &error) {
                Error::Request { kind: Kind::Denied, .. } => Ok(LeaseTime::Denied),
                error if error.says("requested lease not found") => Ok(LeaseTime::Gone),
                error => Err(error),
            },
        }
    }
}
