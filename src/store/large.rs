//! Large chunks of a repository on a server: each is read by itself, for its neighbours in the pack mostly belong to
//! something else. They may be asked for before they are wanted, and what was read lately is kept, for files may be
//! copies of each other. Together they take no more than so many bytes.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;
use lru::LruCache;

use super::blocks::is_answer;
use super::fetchers::Job;
use crate::format::Name;
use crate::id::{ChunkKind, PackId};
use crate::mutex::lock;
use crate::storage::{Result, Storage};

/// Where a chunk lies: its pack, where it begins, how long it is.
pub(super) type At = (ChunkKind, PackId, u32, u32);

/// Reads large chunks.
pub(super) struct Large(Arc<Shared>);

struct Shared {
    storage: Arc<dyn Storage>,
    state: Mutex<State>,
    /// What was asked for is here, or will not come.
    arrived: Condvar,
}

struct State {
    wanted: HashMap<At, Wanted>,
    /// Of all requests that are under way, and of what they brought until it is read.
    wanted_bytes: u64,
    read: LruCache<At, Bytes>,
    read_bytes: u64,
    /// The most that both may be together.
    most: u64,
    /// So far.
    requests: u64,
}

/// A chunk that was asked for and that nobody has read yet.
struct Wanted {
    request: u64,
    /// What came of the request.
    chunk: Option<Result<Bytes>>,
}

impl State {
    /// Makes room for one more that is wanted: what was read is forgotten for it.
    fn make_room(&mut self, length: u32) -> bool {
        let wanted = self.wanted_bytes + u64::from(length);
        if wanted <= self.most {
            self.wanted_bytes = wanted;
            self.shrink();
        }
        wanted <= self.most
    }

    /// Keeps what was read, as far as there is room.
    fn keep(&mut self, at: At, chunk: Bytes) {
        self.read_bytes += u64::from(at.3);
        if let Some((gone, _)) = self.read.push(at, chunk) {
            self.read_bytes -= u64::from(gone.3);
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.wanted_bytes + self.read_bytes > self.most
            && let Some((at, _)) = self.read.pop_lru()
        {
            self.read_bytes -= u64::from(at.3);
        }
    }

    fn is_wanted(&self, at: At, request: u64) -> bool {
        self.wanted.get(&at).is_some_and(|wanted| wanted.request == request)
    }

    /// What came of a request, which nobody else wants from now on. One that is under way needs its room until it ends.
    fn forget(&mut self, at: At, request: u64) -> Option<Result<Bytes>> {
        if !self.is_wanted(at, request) {
            return None;
        }
        let chunk = self.wanted.remove(&at)?.chunk?;
        self.wanted_bytes -= u64::from(at.3);
        Some(chunk)
    }
}

/// A chunk that was asked for; whoever wants it holds this until it is read.
pub struct Asked {
    shared: Arc<Shared>,
    at: At,
    request: u64,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.shared.end(self.at, self.request);
    }
}

/// A request to be made.
struct Request {
    shared: Arc<Shared>,
    at: At,
    request: u64,
    /// What it brought is wanted.
    brought: bool,
}

impl Request {
    /// Whether somebody answered.
    fn make(mut self) -> bool {
        let Request { shared, at, request, .. } = &self;
        if !lock(&shared.state).is_wanted(*at, *request) {
            return true;
        }
        let fetched = shared.fetch(*at);
        let answered = is_answer(&fetched);
        let mut state = lock(&shared.state);
        if let Some(wanted) = state.wanted.get_mut(at).filter(|wanted| wanted.request == *request) {
            wanted.chunk = Some(fetched);
            drop(state);
            self.brought = true;
        }
        answered
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.brought {
            lock(&self.shared.state).wanted_bytes -= u64::from(self.at.3);
            self.shared.end(self.at, self.request);
        }
        self.shared.arrived.notify_all();
    }
}

impl Shared {
    fn fetch(&self, (kind, pack, begin, length): At) -> Result<Bytes> {
        self.storage.get_range(&Name::Pack(kind, pack).to_string(), begin.into(), length.into())
    }

    /// Whoever waits for this request has to make one.
    fn end(&self, at: At, request: u64) {
        let ended = lock(&self.state).forget(at, request);
        drop(ended);
        self.arrived.notify_all();
    }
}

impl Large {
    /// Reads from `storage`, and keeps no more than so many bytes.
    pub fn new(storage: Arc<dyn Storage>, most: usize) -> Large {
        let (wanted, read) = (HashMap::new(), LruCache::unbounded());
        let state = State { wanted, wanted_bytes: 0, read, read_bytes: 0, most: most as u64, requests: 0 };
        let state = Mutex::new(state);
        Large(Arc::new(Shared { storage, state, arrived: Condvar::new() }))
    }

    /// Asks for a chunk; `give` has the request made by somebody else.
    pub fn ask(&self, at: At, give: impl FnOnce(Job) -> bool) -> Early {
        let Large(shared) = self;
        let mut state = lock(&shared.state);
        if state.wanted.contains_key(&at) || state.read.contains(&at) {
            return Early::Needless;
        }
        if !state.make_room(at.3) {
            return Early::Full;
        }
        state.requests += 1;
        let request = state.requests;
        state.wanted.insert(at, Wanted { request, chunk: None });
        drop(state);
        let to_make = Request { shared: shared.clone(), at, request, brought: false };
        match give(Box::new(move || to_make.make())) {
            true => Early::Coming(Some(Asked { shared: shared.clone(), at, request })),
            false => Early::Full,
        }
    }

    /// A chunk; fewer bytes where its pack ends before.
    pub fn read(&self, at: At) -> Result<Bytes> {
        let Large(shared) = self;
        let state = lock(&shared.state);
        let coming = |state: &mut State| state.wanted.get(&at).is_some_and(|wanted| wanted.chunk.is_none());
        let state = shared.arrived.wait_while(state, coming);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if let Some(chunk) = state.read.get(&at) {
            return Ok(chunk.clone());
        }
        let request = state.wanted.get(&at).map(|wanted| wanted.request);
        let came = request
            .and_then(|request| state.forget(at, request))
            .filter(|came| came.is_ok() || !is_answer(came));
        drop(state);
        let chunk = came.unwrap_or_else(|| shared.fetch(at))?;
        lock(&shared.state).keep(at, chunk.clone());
        Ok(chunk)
    }
}

/// What comes of asking early.
pub enum Early {
    /// It is coming.
    Coming(Option<Asked>),
    /// It is here or coming already, or an answer is quick.
    Needless,
    /// Too much was asked for that nobody has read yet.
    Full,
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::fetchers::Fetchers;
    use super::*;
    use crate::fault::Kind;
    use crate::storage::{Cause, Error, Listed};

    const LENGTH: u32 = 1000;

    /// Chunks of one byte each that says where they begin; and the requests for them.
    struct Bytewise {
        asked: Mutex<Vec<u64>>,
        /// What the first request fails with.
        fails: Mutex<Option<Cause>>,
        panics: bool,
    }

    impl Storage for Bytewise {
        fn medium(&self) -> Arc<str> {
            "memory".into()
        }
        fn is_remote(&self) -> bool {
            true
        }
        fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes> {
            lock(&self.asked).push(offset);
            assert!(!self.panics || lock(&self.asked).len() > 1, "made up");
            match lock(&self.fails).take() {
                Some(cause) => Err(Error { action: "read", name: name.into(), medium: self.medium(), cause }),
                None => Ok(vec![offset as u8; length as usize].into()),
            }
        }
        fn get(&self, _: &str) -> Result<Bytes> {
            unimplemented!()
        }
        fn put_once(&self, _: &str, _: Bytes) -> Result<()> {
            unimplemented!()
        }
        fn list(&self, _: &str, _: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
            unimplemented!()
        }
        fn delete(&self, _: &str) -> Result<()> {
            unimplemented!()
        }
    }

    fn world(fails: Option<Cause>, panics: bool) -> (Arc<Bytewise>, Large, Fetchers) {
        let storage = Arc::new(Bytewise { asked: Mutex::default(), fails: Mutex::new(fails), panics });
        let large = Large::new(storage.clone(), 3 * LENGTH as usize);
        (storage, large, Fetchers::begin(4))
    }

    fn at(begin: u32) -> At {
        (ChunkKind::Data, PackId([7; 16]), begin, LENGTH)
    }

    fn is_right(large: &Large, begin: u32) -> bool {
        large.read(at(begin)).unwrap() == vec![begin as u8; LENGTH as usize]
    }

    #[test]
    fn what_was_asked_for_early_is_asked_for_once_however_many_want_it() {
        let (storage, large, fetchers) = world(None, false);
        let ask = || large.ask(at(5), |job| fetchers.give(job));
        let first = ask();
        assert!(matches!((&first, ask()), (Early::Coming(Some(_)), Early::Needless)));
        assert!(is_right(&large, 5));
        // One that was held for longer takes nothing from who asked later.
        assert!(matches!(ask(), Early::Needless));
        drop(first);
        assert!(is_right(&large, 5));
        assert_eq!(*lock(&storage.asked), [5]);
    }

    #[test]
    fn no_more_is_asked_for_than_there_is_room_for() {
        let (_, large, fetchers) = world(None, false);
        let ask = |begin| large.ask(at(begin), |job| fetchers.give(job));
        let mut held: Vec<Early> = (0..3).map(ask).collect();
        assert!(held.iter().all(|early| matches!(early, Early::Coming(_))));
        assert!(matches!(ask(3), Early::Full));
        assert!(is_right(&large, 9), "what finds no room is read all the same");
        // What was read makes room for what is wanted, and so does what is not wanted any more.
        assert!(is_right(&large, 0));
        held.push(ask(3));
        let begun = Instant::now();
        let is_coming = |wanted: &Wanted| wanted.chunk.is_none();
        while lock(&large.0.state).wanted.values().any(is_coming) && begun.elapsed() < Duration::from_secs(10)
        {
            std::thread::yield_now();
        }
        drop(held.remove(1));
        held.push(ask(4));
        assert!(held.iter().all(|early| matches!(early, Early::Coming(_))));
        drop(held);
        // What is under way needs its room until it ends.
        drop(fetchers);
        (0..20).for_each(|begin| assert!(is_right(&large, begin)));
        let state = lock(&large.0.state);
        assert_eq!((state.wanted.len(), state.wanted_bytes), (0, 0));
        assert_eq!((state.read.len(), state.read_bytes), (3, 3 * u64::from(LENGTH)));
    }

    #[test]
    fn who_waits_for_what_does_not_come_asks_himself_unless_nobody_answers() {
        let refused = Cause::Refused(Kind::Failed, "made up".into());
        for (fails, panics, comes) in [
            (Some(refused), false, true),
            (None, true, true),
            (Some(Cause::Transient("".into())), false, false),
        ] {
            let (storage, large, fetchers) = world(fails, panics);
            let early = large.ask(at(5), |job| fetchers.give(job));
            assert_eq!(large.read(at(5)).is_ok(), comes);
            assert_eq!(lock(&storage.asked).len(), if comes { 2 } else { 1 });
            drop(early);
            assert!(is_right(&large, 5));
        }
    }

    #[test]
    fn nobody_waits_for_a_request_that_is_not_made() {
        let (storage, large, fetchers) = world(None, false);
        assert!(matches!(large.ask(at(5), |_not_made| false), Early::Full));
        let mut kept = None;
        let early = large.ask(at(6), |job| {
            kept = Some(job);
            true
        });
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| assert!(is_right(&large, 6)));
            drop(kept.take());
            reading.join().unwrap();
        });
        drop((early, fetchers));
        assert!(is_right(&large, 5));
        assert_eq!(*lock(&storage.asked), [6, 5]);
    }
}
