//! Threads that fetch what somebody wants soon, and do not wait for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};

/// One request, which tells whether anybody answers. Where it is not made it is dropped, and whoever waits for it has to
/// be told by that.
pub(super) type Job = Box<dyn FnOnce() -> bool + Send>;

/// The threads, until this is dropped, or nobody answers: what is under way then is waited for, what waits is not begun.
pub(super) struct Fetchers {
    queue: Option<Sender<Job>>,
    closing: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Fetchers {
    /// Fewer where the system has no more threads.
    pub fn begin(most: usize) -> Fetchers {
        let (queue, jobs) = bounded::<Job>(most);
        let closing = Arc::new(AtomicBool::new(false));
        let fetcher = |_| {
            let (jobs, closing) = (jobs.clone(), closing.clone());
            let fetch = move || {
                for job in jobs {
                    if !closing.load(Ordering::SeqCst) {
                        // After a panic its waiters are told as it unwinds, and the others' go on.
                        let answered = catch_unwind(AssertUnwindSafe(job)).unwrap_or(true);
                        closing.fetch_or(!answered, Ordering::SeqCst);
                    }
                }
            };
            std::thread::Builder::new().spawn(fetch).ok()
        };
        let threads = (0..most).map_while(fetcher).collect();
        Fetchers { queue: Some(queue), closing, threads }
    }

    /// Whether somebody does it.
    pub fn give(&self, job: Job) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.try_send(job).is_ok())
    }
}

impl Drop for Fetchers {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
