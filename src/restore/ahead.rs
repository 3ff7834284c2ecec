//! What is far away is asked for before a worker gets to it. Files and objects that follow each other mostly lie in one
//! pack: without this all workers would wait for that one, and then for the next.

use crossbeam_channel::{Receiver, bounded};

use super::{Error, Result};
use crate::format::{Content, Item};
use crate::id::ChunkId;
use crate::pool::{self, Pool};
use crate::store::{Coming, Reader};

/// Jobs that wait for a worker.
const QUEUE: usize = 64;
/// And so many where they are to lie in several packs.
const QUEUE_FAR: usize = 512;
/// What is larger is read ahead by the worker that has it, and a few of them would drive out all that was asked for.
const LARGE: u64 = 1 << 20;

/// Takes a job, and the chunk that it reads first.
pub(super) type Take<'a, J> = dyn FnMut(J, Option<ChunkId>) -> Result<()> + 'a;

/// A job that waits for a worker.
struct Waiting<J> {
    job: J,
    request: Option<Request>,
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

/// What of an item's content it pays to ask for early. Of one that is a tree nodes would have to be read for it.
pub(super) fn beginning(item: &Item) -> Option<ChunkId> {
    match &item.content {
        Content::Chunks(chunks) if item.size <= LARGE => chunks.first().map(|(id, _)| *id),
        _ => None,
    }
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
        drop(request);
        work(own, job)
    };
    pool::run(threads, waiting, own, work, |jobs| match reader.is_remote() {
        true => asking(reader, threads, jobs, give),
        false => give(&mut |job, _| Ok(jobs.give(Waiting { job, request: None })?)),
    })
}

/// Gives `jobs` what `give` gives, and asks for their beginnings on so many `threads`: as many as would ask if each
/// worker did, for those wait where a request is made here.
fn asking<J: Send, T>(
    reader: &Reader,
    threads: usize,
    jobs: &Pool<'_, Waiting<J>, Error>,
    give: impl FnOnce(&mut Take<'_, J>) -> Result<T>,
) -> Result<T> {
    let fetch = |(): &mut (), coming: Coming<'_>| {
        // A worker that needs what did not come asks once more, and tells why.
        if !jobs.has_failed() {
            let _ = coming.fetch();
        }
        Ok(())
    };
    // For jobs that no worker has taken yet: what they bring has to be kept until then.
    let requests = reader.requests();
    let (made, done) = bounded(requests);
    pool::run(
        threads,
        requests,
        || (),
        fetch,
        |requests| {
            give(&mut |job, beginning| {
                let mut request = None;
                if let Some(id) = beginning {
                    // Before anything is asked for: a worker that waited for it might be the one that ends a request.
                    let _ = made.send(());
                    request = Some(Request(done.clone()));
                    match reader.ask(&id)? {
                        Some(coming) => requests.give(coming)?,
                        None => request = None,
                    }
                }
                Ok(jobs.give(Waiting { job, request })?)
            })
        },
    )
}
