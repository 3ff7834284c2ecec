//! Blocks of packs that were read lately: whoever reads a chunk usually wants its neighbours next.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use lru::LruCache;

use super::Place;
use super::fetchers::{Fetchers, Job};
use super::large::{Early, Large};
use crate::fault::Kind;
use crate::format::Name;
use crate::id::{ChunkKind, PackId};
use crate::mutex::lock;
use crate::storage::{Cause, Error, Result, Storage};

const BLOCK: u64 = 256 << 10;
/// Where a pack is read in its order, so many blocks are asked for at once.
const AHEAD: u64 = 4;
/// And so many where each request is answered late: one answer of 4 MiB takes hardly longer than one of a block.
const AHEAD_REMOTE: u64 = 16;
/// No further ahead than so many such requests.
const FURTHEST: u64 = 4;
/// Of a tree pack that is not, the block's group of so many.
const AROUND: u64 = 4;
/// A chunk from this size on is read by itself.
const LARGE: u64 = 128 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pack {
    kind: ChunkKind,
    id: PackId,
    size: u32,
}

/// A block of a pack, by its number.
type At = (Pack, u64);

/// Reads packs.
pub struct Blocks {
    shared: Arc<Shared>,
    large: Large,
    /// Begun once something is asked for early.
    fetchers: OnceLock<Fetchers>,
}

struct Shared {
    storage: Arc<dyn Storage>,
    state: Mutex<State>,
    /// What was coming is here, or will not come.
    arrived: Condvar,
}

struct State {
    here: LruCache<At, Kept>,
    /// Asked for; by which request.
    coming: HashMap<At, u64>,
    /// So far.
    requests: u64,
    /// Blocks that were asked for early and that nobody has read yet.
    early: usize,
}

/// A block that is here.
struct Kept {
    bytes: Bytes,
    /// Nobody has read it yet.
    unread: bool,
    /// It was asked for early.
    early: bool,
}

impl State {
    fn is_absent(&self, at: At) -> bool {
        !self.here.contains(&at) && !self.coming.contains_key(&at)
    }

    /// Whether a block is known to be where its pack ends.
    fn is_last(&self, at: At) -> bool {
        self.here.peek(&at).is_some_and(|kept| (kept.bytes.len() as u64) < BLOCK)
    }

    fn keep(&mut self, at: At, bytes: Bytes, early: bool) {
        if let Some((_, gone)) = self.here.push(at, Kept { bytes, unread: true, early }) {
            self.early -= usize::from(gone.unread && gone.early);
        }
    }

    /// A block that is here, and whether nobody has read it before.
    fn read(&mut self, at: At) -> Option<(Bytes, bool)> {
        let kept = self.here.get_mut(&at)?;
        let unread = std::mem::replace(&mut kept.unread, false);
        self.early -= usize::from(unread && kept.early);
        Some((kept.bytes.clone(), unread))
    }

    /// How many blocks before this one, up to `most`, were read, one after the other.
    fn run_before(&self, (pack, number): At, most: u64) -> u64 {
        let was_read = |before: &u64| self.here.peek(&(pack, *before)).is_some_and(|kept| !kept.unread);
        (number.saturating_sub(most)..number).rev().take_while(was_read).count() as u64
    }
}

/// Blocks to be fetched, for which others wait; whether they came or not, nobody does once this is dropped.
struct Coming {
    shared: Arc<Shared>,
    pack: Pack,
    numbers: Range<u64>,
    request: u64,
    early: bool,
    /// How many of them came.
    came: u64,
}

impl Coming {
    /// Fetches them, and keeps them up to the pack's end.
    fn fetch(mut self) -> Result<Bytes> {
        let length = (self.numbers.end - self.numbers.start) * BLOCK;
        let bytes = self.shared.storage.get_range(&name(self.pack), self.numbers.start * BLOCK, length)?;
        // Each by itself: one that is kept for long is not to keep the others.
        let mut parts = bytes.chunks(BLOCK as usize).map(Bytes::copy_from_slice);
        for number in self.numbers.clone() {
            let at = (self.pack, number);
            let part = parts.next().unwrap_or_default();
            let mut state = lock(&self.shared.state);
            state.keep(at, part, self.early);
            let is_last = state.is_last(at);
            drop(state);
            self.came += 1;
            if is_last {
                break;
            }
        }
        Ok(bytes)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        for number in self.numbers.clone() {
            let at = (self.pack, number);
            // Another thread may ask for it by now, too.
            if state.coming.get(&at) == Some(&self.request) {
                state.coming.remove(&at);
            }
        }
        if self.early {
            state.early -= (self.numbers.end - self.numbers.start - self.came) as usize;
        }
        drop(state);
        self.shared.arrived.notify_all();
    }
}

impl Blocks {
    /// Reads from `storage`; keeps so many bytes in blocks, and so many of large chunks that are wanted soon.
    pub fn new(storage: Arc<dyn Storage>, kept: usize, large: usize) -> Blocks {
        let kept = NonZeroUsize::new(kept / BLOCK as usize).unwrap_or(NonZeroUsize::MIN);
        let state = State { here: LruCache::new(kept), coming: HashMap::new(), requests: 0, early: 0 };
        let large = Large::new(storage.clone(), large);
        let shared = Shared { storage, state: Mutex::new(state), arrived: Condvar::new() };
        Blocks { shared: Arc::new(shared), large, fetchers: OnceLock::new() }
    }

    /// A chunk's sealed bytes; fewer where its pack ends before.
    pub fn read(&self, kind: ChunkKind, place: &Place) -> Result<Bytes> {
        let pack = Pack { kind, id: place.pack, size: place.pack_size };
        let (begin, length) = (u64::from(place.offset), u64::from(place.stored));
        let storage = &self.shared.storage;
        if length >= LARGE {
            return match storage.is_remote() {
                true => self.large.read((kind, place.pack, place.offset, place.stored)),
                false => storage.get_range(&name(pack), begin, length),
            };
        }
        match self.assemble(pack, begin..begin + length) {
            // Perhaps only for what lies around it.
            Err(Error { cause: Cause::Refused(..), .. }) => storage.get_range(&name(pack), begin, length),
            read => read,
        }
    }

    /// Has others fetch a chunk of contents that is read soon, or what it begins with.
    pub fn ask(&self, place: &Place) -> Early {
        if !self.shared.storage.is_remote() {
            return Early::Needless;
        }
        let pack = Pack { kind: ChunkKind::Data, id: place.pack, size: place.pack_size };
        let (begin, length) = (u64::from(place.offset), u64::from(place.stored));
        match length >= LARGE {
            true => {
                let at = (ChunkKind::Data, place.pack, place.offset, place.stored);
                self.large.ask(at, |job| self.give(job))
            }
            false => self.ask_small(pack, begin, length),
        }
    }

    fn ask_small(&self, pack: Pack, begin: u64, length: u64) -> Early {
        let at = (pack, begin / BLOCK);
        let mut state = lock(&self.shared.state);
        if !state.is_absent(at) {
            return Early::Needless;
        }
        let numbers = self.numbers(&state, at, (begin + length).saturating_sub(1) / BLOCK);
        let coming = self.early(&mut state, at.0, numbers);
        drop(state);
        match coming.is_some_and(|coming| self.give_blocks(coming)) {
            true => Early::Coming(None),
            false => Early::Full,
        }
    }

    fn give_blocks(&self, coming: Coming) -> bool {
        self.give(Box::new(move || is_answer(&coming.fetch())))
    }

    fn give(&self, job: Job) -> bool {
        self.fetchers.get_or_init(|| Fetchers::begin(self.shared.storage.at_once())).give(job)
    }

    fn assemble(&self, pack: Pack, wanted: Range<u64>) -> Result<Bytes> {
        let last = wanted.end.saturating_sub(1) / BLOCK;
        let mut read = BytesMut::with_capacity((wanted.end - wanted.start) as usize);
        for number in wanted.start / BLOCK..=last {
            let block = self.block((pack, number), last)?;
            let first = number * BLOCK;
            let from = wanted.start.saturating_sub(first) as usize;
            let to = (wanted.end - first).min(block.len() as u64) as usize;
            let Some(part) = block.get(from..to) else { break };
            read.extend_from_slice(part);
        }
        Ok(read.freeze())
    }

    /// One block, where those up to `last` are wanted, too.
    fn block(&self, at: At, last: u64) -> Result<Bytes> {
        let mut state = lock(&self.shared.state);
        if !state.here.contains(&at)
            && let Some(request) = state.coming.get(&at).copied()
        {
            // Not for another thread's next try, where this one fails: all would try one after another.
            let coming = |state: &mut State| state.coming.get(&at) == Some(&request);
            state = self.shared.arrived.wait_while(state, coming).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some((block, unread)) = state.read(at) {
            let next = if unread { self.next(&mut state, at) } else { None };
            drop(state);
            next.map(|next| self.give_blocks(next));
            return Ok(block);
        }
        let numbers = self.numbers(&state, at, last);
        let begin = ((at.1 - numbers.start) * BLOCK) as usize;
        let coming = self.coming(&mut state, at.0, numbers, false);
        drop(state);
        let bytes = coming.fetch()?;
        lock(&self.shared.state).read(at);
        Ok(bytes.slice(begin.min(bytes.len())..bytes.len().min(begin + BLOCK as usize)))
    }

    /// Has whoever wants these blocks wait for them.
    fn coming(&self, state: &mut State, pack: Pack, numbers: Range<u64>, early: bool) -> Coming {
        state.requests += 1;
        let request = state.requests;
        state.coming.extend(numbers.clone().map(|number| ((pack, number), request)));
        Coming { shared: self.shared.clone(), pack, numbers, request, early, came: 0 }
    }

    /// The same of blocks that nobody waits for yet, unless there are too many of them.
    fn early(&self, state: &mut State, pack: Pack, numbers: Range<u64>) -> Option<Coming> {
        let early = state.early + (numbers.end - numbers.start) as usize;
        if early > state.here.cap().get() / 4 * 3 {
            return None;
        }
        state.early = early;
        Some(self.coming(state, pack, numbers, true))
    }

    /// What is asked for together with a block: those that are wanted, and more where the pack is read in its
    /// order. Nodes that are wanted together lie here and there: of them all around the block.
    fn numbers(&self, state: &State, (pack, number): At, last: u64) -> Range<u64> {
        let around = number / AROUND * AROUND;
        let (from, to) = match pack.kind {
            _ if self.in_order(state, (pack, number)) => (number, number + self.ahead()),
            ChunkKind::Node => (around, around + AROUND),
            ChunkKind::Data => (number, number),
        };
        let absent = |number: &u64| state.is_absent((pack, *number));
        let before = (from..number).rev().take_while(absent).count() as u64;
        let to = to.min(u64::from(pack.size).div_ceil(BLOCK)).max(last + 1);
        let after = (number + 1..to).take_while(absent).count() as u64;
        number - before..number + 1 + after
    }

    /// What is asked for early once a block was read: the more of its pack was read in its order before, the further
    /// ahead.
    fn next(&self, state: &mut State, (pack, number): At) -> Option<Coming> {
        if !self.shared.storage.is_remote() {
            return None;
        }
        let run = state.run_before((pack, number), self.ahead() * FURTHEST);
        // A chunk here or there may lie in two.
        let until = if run < 2 { number } else { number + self.ahead() + run };
        let end = u64::from(pack.size).div_ceil(BLOCK);
        let first = (number + 1..until.min(end)).find(|&number| state.is_absent((pack, number)))?;
        let numbers = self.numbers(state, (pack, first), first);
        self.early(state, pack, numbers)
    }

    /// Whether a block's pack is read from its begin, or was read shortly before the block.
    fn in_order(&self, state: &State, (pack, number): At) -> bool {
        let near = match pack.kind {
            // In others large chunks lie between, which are read by themselves.
            ChunkKind::Data if self.shared.storage.is_remote() => 1,
            _ => self.ahead(),
        };
        let mut before = number.saturating_sub(near)..number;
        number == 0 || before.any(|before| !state.is_absent((pack, before)))
    }

    fn ahead(&self) -> u64 {
        if self.shared.storage.is_remote() { AHEAD_REMOTE } else { AHEAD }
    }
}

/// Whether whoever was asked is there; what is told otherwise was tried for as long as there is patience.
pub(super) fn is_answer(fetched: &Result<Bytes>) -> bool {
    !matches!(fetched, Err(error) if matches!(error.kind(), Kind::Unreachable | Kind::Interrupted))
}

fn name(pack: Pack) -> String {
    Name::Pack(pack.kind, pack.id).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::context::{Random, Seeded};
    use crate::storage::Listed;

    const PACK: PackId = PackId([7; 16]);
    const SIZE: u64 = 40 * BLOCK + 1000;

    /// One pack, and what was asked of it.
    struct One {
        bytes: Bytes,
        is_remote: bool,
        asked: Mutex<Vec<Range<u64>>>,
        /// So many requests fail before one is answered.
        failing: AtomicU64,
        /// A byte that the medium cannot read.
        bad: Option<u64>,
    }

    impl One {
        fn new(is_remote: bool) -> Arc<One> {
            let mut bytes = vec![0; SIZE as usize];
            Seeded::new(3).fill(&mut bytes);
            let bytes = Bytes::from(bytes);
            let (asked, failing) = (Mutex::default(), AtomicU64::new(0));
            Arc::new(One { bytes, is_remote, asked, failing, bad: None })
        }

        fn asked(&self) -> Vec<Range<u64>> {
            std::mem::take(&mut *lock(&self.asked))
        }

        fn of(&self, begin: u64, length: u64) -> Bytes {
            self.bytes.slice(begin.min(SIZE) as usize..(begin + length).min(SIZE) as usize)
        }
    }

    impl Storage for One {
        fn medium(&self) -> Arc<str> {
            "memory".into()
        }
        fn is_remote(&self) -> bool {
            self.is_remote
        }
        fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes> {
            lock(&self.asked).push(offset / BLOCK..(offset + length).div_ceil(BLOCK));
            std::thread::sleep(Duration::from_millis(1));
            let failed =
                |cause| Err(Error { action: "read", name: name.into(), medium: self.medium(), cause });
            let fails = |left: u64| left.checked_sub(1);
            if self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
                return failed(Cause::Transient("made up".into()));
            }
            if self.bad.is_some_and(|bad| (offset..offset + length).contains(&bad)) {
                return failed(Cause::Refused(Kind::Failed, "made up".into()));
            }
            Ok(self.of(offset, length))
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

    fn over(one: &Arc<One>) -> Blocks {
        Blocks::new(one.clone(), 48 << 20, 48 << 20)
    }

    fn place(begin: u64, length: u64) -> Place {
        let (offset, stored) = (begin as u32, length as u32);
        Place { pack: PACK, pack_size: SIZE as u32, position: 0, offset, stored, plain: 0 }
    }

    fn read(blocks: &Blocks, begin: u64, length: u64) -> Result<Bytes> {
        blocks.read(ChunkKind::Data, &place(begin, length))
    }

    #[test]
    fn any_stretch_of_a_pack_is_read_as_it_is_by_many_at_once() {
        for is_remote in [false, true] {
            let one = One::new(is_remote);
            let blocks = over(&one);
            std::thread::scope(|scope| {
                for seed in 0..8 {
                    let (one, blocks) = (&one, &blocks);
                    scope.spawn(move || {
                        let random = Seeded::new(seed);
                        let mut draw = [0; 8];
                        for _ in 0..200 {
                            random.fill(&mut draw);
                            let drawn = u64::from_le_bytes(draw);
                            let (begin, length) = (drawn % (SIZE + BLOCK), (drawn >> 32) % (3 * BLOCK));
                            assert!(read(blocks, begin, length).unwrap() == one.of(begin, length));
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn of_what_is_read_here_and_there_only_the_blocks_that_hold_it_are_asked_for() {
        let one = One::new(true);
        let blocks = over(&one);
        read(&blocks, 30 * BLOCK + 5, 100).unwrap();
        read(&blocks, 30 * BLOCK + 500, 100).unwrap();
        read(&blocks, 4 * BLOCK - 5, 2 * BLOCK).unwrap();
        assert_eq!(one.asked(), [30..31, 3..6]);
    }

    #[test]
    fn a_tree_pack_that_is_read_here_and_there_is_asked_for_in_few_requests() {
        let one = One::new(false);
        let blocks = over(&one);
        for number in [14, 12, 9, 40] {
            let begin = number * BLOCK + 5;
            assert!(blocks.read(ChunkKind::Node, &place(begin, 100)).unwrap() == one.of(begin, 100));
        }
        assert_eq!(one.asked(), [12..16, 8..12, 40..41]);
    }

    #[test]
    fn a_pack_that_is_read_in_its_order_is_asked_for_once_and_much_of_it_together() {
        for (is_remote, most) in [(false, 11), (true, 3)] {
            let one = One::new(is_remote);
            let blocks = over(&one);
            for begin in (0..SIZE).step_by(5000) {
                assert!(read(&blocks, begin, 5000).unwrap() == one.of(begin, 5000));
            }
            drop(blocks);
            let mut asked = one.asked();
            asked.sort_by_key(|range| range.start);
            assert!(asked.len() <= most, "{asked:?}");
            assert!(asked.windows(2).all(|two| two[0].end == two[1].start), "{asked:?}");
        }
    }

    #[test]
    fn no_block_is_asked_for_twice_by_many_that_read_a_pack_in_its_order() {
        for is_remote in [false, true] {
            let one = One::new(is_remote);
            let blocks = over(&one);
            let next = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        loop {
                            let begin = next.fetch_add(5000, Ordering::SeqCst);
                            if begin >= SIZE {
                                break;
                            }
                            assert!(read(&blocks, begin, 5000).unwrap() == one.of(begin, 5000));
                        }
                    });
                }
            });
            drop(blocks);
            let mut asked: Vec<u64> = one.asked().into_iter().flatten().collect();
            asked.sort_unstable();
            assert!(asked.windows(2).all(|two| two[0] < two[1]), "{asked:?}");
        }
    }

    #[test]
    fn what_follows_is_asked_for_before_it_is_read_where_a_pack_is_read_in_its_order() {
        let one = One::new(true);
        let blocks = over(&one);
        for number in 0..3 {
            assert!(read(&blocks, number * BLOCK, 100).unwrap() == one.of(number * BLOCK, 100));
        }
        let begun = Instant::now();
        while lock(&one.asked).len() < 2 && begun.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        drop(blocks);
        assert_eq!(one.asked(), [0..16, 16..32]);
    }

    #[test]
    fn who_wants_what_was_asked_for_early_waits_for_it_and_asks_himself_where_it_does_not_come() {
        for failing in [0, 1] {
            let one = One::new(true);
            one.failing.store(failing, Ordering::SeqCst);
            let blocks = over(&one);
            let early = blocks.ask(&place(10, 100));
            assert!(matches!(early, Early::Coming(_)));
            if failing == 0 {
                assert!(matches!(blocks.ask(&place(10, 100)), Early::Needless));
            }
            assert!(read(&blocks, 10, 100).unwrap() == one.of(10, 100));
            assert_eq!(one.asked().len() as u64, 1 + failing);
        }
        assert!(matches!(over(&One::new(false)).ask(&place(10, 100)), Early::Needless));
    }

    #[test]
    fn beside_large_chunks_only_the_small_ones_are_asked_for_in_blocks() {
        let one = One::new(true);
        let blocks = over(&one);
        for number in [5, 10, 15, 20] {
            assert!(read(&blocks, number * BLOCK, 100).unwrap() == one.of(number * BLOCK, 100));
            let begin = number * BLOCK + 1000;
            assert!(read(&blocks, begin, 3 * BLOCK).unwrap() == one.of(begin, 3 * BLOCK));
        }
        drop(blocks);
        assert_eq!(one.asked(), [5, 10, 15, 20].map(|n| [n..n + 1, n..n + 4]).concat());
    }

    #[test]
    fn beside_what_the_medium_cannot_read_all_else_is_read() {
        for is_remote in [false, true] {
            let bad = 2 * BLOCK + 700;
            let one = Arc::new(One { bad: Some(bad), ..Arc::into_inner(One::new(is_remote)).unwrap() });
            let blocks = over(&one);
            for begin in (0..SIZE).step_by(100_000) {
                match read(&blocks, begin, 100_000) {
                    Ok(bytes) => assert!(bytes == one.of(begin, 100_000)),
                    Err(error) => assert!((begin..begin + 100_000).contains(&bad), "{begin}: {error}"),
                }
            }
            assert!(read(&blocks, bad - 100, 100).unwrap() == one.of(bad - 100, 100));
            assert!(read(&blocks, bad, 100).is_err());
        }
    }

    #[test]
    fn a_chunk_that_is_large_is_read_by_itself() {
        for is_remote in [false, true] {
            let one = One::new(is_remote);
            let blocks = over(&one);
            assert!(read(&blocks, 77, LARGE).unwrap() == one.of(77, LARGE));
            assert!(lock(&blocks.shared.state).here.is_empty());
        }
    }

    #[test]
    fn a_failure_is_told_and_nobody_waits_for_what_will_not_come() {
        for is_remote in [false, true] {
            let one = One::new(is_remote);
            let blocks = over(&one);
            one.failing.store(3, Ordering::SeqCst);
            let failed = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| match read(&blocks, 10, 10) {
                        Ok(bytes) => assert!(bytes == one.of(10, 10)),
                        Err(_) => _ = failed.fetch_add(1, Ordering::SeqCst),
                    });
                }
            });
            assert!((1..=3).contains(&failed.into_inner()), "{is_remote}");
            assert!(lock(&blocks.shared.state).coming.is_empty());
            assert!(read(&blocks, 10, 10).unwrap() == one.of(10, 10));
        }
    }
}
