//! What is far away is asked for before a worker gets to it. Files and objects that follow each other mostly lie in one
//! pack: without this all workers would wait for that one, and then for the next.

use crossbeam_channel::{Receiver, bounded};

use super::Result;
use crate::id::ChunkId;
use crate::pool;
use crate::store::{Early, Reader};

/// Requests for jobs that no worker has taken yet.
const REQUESTS: usize = 12;
/// Jobs that wait for a worker.
const QUEUE: usize = 64;
/// And so many where they are to lie in several packs.
const QUEUE_FAR: usize = 512;

/// Takes a job, and the chunk that it reads first.
pub(super) type Take<'a, J> = dyn FnMut(J, Option<ChunkId>) -> Result<()> + 'a;

/// A job that waits for a worker.
struct Waiting<J> {
    job: J,
    request: Option<(Request, Early)>,
}

/// One of the requests that there may be, until it is dropped.
struct Request(Receiver<()>);

impl Drop for Request {
    fn drop(&mut self) {
        let _ = self.0.try_recv();
    }
}

/// How many jobs are to wait for a worker.
pub(super) fn queue(reader: &Reader) -> usize {
    if reader.is_remote() { QUEUE_FAR } else { QUEUE }
}

/// Does the jobs that `give` gives, in its order, as [`pool::run`] does them, `waiting` of which wait for a worker.
pub(super) fn run<J: Send, S, T>(
    reader: &Reader,
    threads: usize,
    waiting: usize,
    own: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, J) -> Result<()> + Sync,
    give: impl FnOnce(&mut Take<'_, J>) -> Result<T>,
) -> Result<T> {
    let work = |own: &mut S, Waiting { job, request }: Waiting<J>| {
        let _until_read = request.map(|(_one, early)| early);
        work(own, job)
    };
    let (made, done) = bounded(REQUESTS);
    pool::run(threads, waiting, own, work, |jobs| {
        give(&mut |job, beginning| {
            let mut request = None;
            if let Some(id) = beginning.filter(|_| reader.is_remote()) {
                // Before anything is asked for: a worker that waited for it might be the one that ends a request.
                let _ = made.send(());
                let one = Request(done.clone());
                request = match reader.ask(&id)? {
                    early @ Early::Coming(_) => Some((one, early)),
                    Early::Needless | Early::Full => None,
                };
            }
            Ok(jobs.give(Waiting { job, request })?)
        })
    })
}
