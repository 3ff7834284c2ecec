//! Blocks of packs that were read lately: whoever reads a chunk usually wants its neighbours next.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use lru::LruCache;

use crate::format::Name;
use crate::id::{ChunkKind, PackId};
use crate::mutex::lock;
use crate::storage::{Cause, Error, Result, Storage};

const BLOCK: u64 = 256 << 10;
/// Where a pack is read in its order, so many blocks are asked for at once.
const AHEAD: u64 = 4;
/// And so many where each request is answered late: one answer of 4 MiB takes hardly longer than one of a block.
const AHEAD_REMOTE: u64 = 16;
/// Of a tree pack that is not, the block's group of so many.
const AROUND: u64 = 4;
/// A chunk from this size on is read by itself, where that is as fast.
const LARGE: u64 = 128 << 10;

type Pack = (ChunkKind, PackId);
/// A block of a pack, by its number.
type At = (Pack, u64);

/// Reads packs.
pub struct Blocks {
    storage: Arc<dyn Storage>,
    state: Mutex<State>,
    /// What was coming is here, or will not come.
    arrived: Condvar,
}

struct State {
    here: LruCache<At, Bytes>,
    /// Asked for; by which request.
    coming: HashMap<At, u64>,
    /// So far.
    requests: u64,
}

impl State {
    fn is_absent(&self, at: At) -> bool {
        !self.here.contains(&at) && !self.coming.contains_key(&at)
    }

    /// Whether a block is known to be where its pack ends.
    fn is_last(&self, at: At) -> bool {
        self.here.peek(&at).is_some_and(|block| (block.len() as u64) < BLOCK)
    }
}

/// Blocks to be fetched, for which others wait; whether they came or not, nobody does once this is dropped.
pub struct Coming<'a> {
    blocks: &'a Blocks,
    pack: Pack,
    numbers: Range<u64>,
    request: u64,
}

impl Coming<'_> {
    /// Fetches them, and keeps them up to the pack's end.
    pub fn fetch(self) -> Result<Bytes> {
        let Coming { blocks, pack, ref numbers, .. } = self;
        let length = (numbers.end - numbers.start) * BLOCK;
        let bytes = blocks.storage.get_range(&name(pack), numbers.start * BLOCK, length)?;
        // Each by itself: one that is kept for long is not to keep the others.
        let mut parts = bytes.chunks(BLOCK as usize).map(Bytes::copy_from_slice);
        for number in numbers.clone() {
            let at = (pack, number);
            let mut state = lock(&blocks.state);
            state.here.put(at, parts.next().unwrap_or_default());
            if state.is_last(at) {
                break;
            }
        }
        Ok(bytes)
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.blocks.state);
        for number in self.numbers.clone() {
            let at = (self.pack, number);
            // Another thread may ask for it by now, too.
            if state.coming.get(&at) == Some(&self.request) {
                state.coming.remove(&at);
            }
        }
        self.blocks.arrived.notify_all();
    }
}

impl Blocks {
    /// Reads from `storage`, and keeps so many bytes.
    pub fn new(storage: Arc<dyn Storage>, kept: usize) -> Blocks {
        let kept = NonZeroUsize::new(kept / BLOCK as usize).unwrap_or(NonZeroUsize::MIN);
        let state = State { here: LruCache::new(kept), coming: HashMap::new(), requests: 0 };
        Blocks { storage, state: Mutex::new(state), arrived: Condvar::new() }
    }

    /// How many places may be asked for early, each with what is read together with it: half of what is kept.
    pub fn requests(&self) -> usize {
        (lock(&self.state).here.cap().get() / (2 * AHEAD_REMOTE as usize)).max(1)
    }

    /// `length` bytes of a pack from `begin`; fewer where it ends before.
    pub fn read(&self, kind: ChunkKind, pack: PackId, begin: u64, length: u64) -> Result<Bytes> {
        let pack = (kind, pack);
        if length >= LARGE && !self.storage.is_remote() {
            return self.storage.get_range(&name(pack), begin, length);
        }
        match self.assemble(pack, begin..begin + length) {
            // Perhaps only for what lies around it.
            Err(Error { cause: Cause::Refused(..), .. }) => {
                self.storage.get_range(&name(pack), begin, length)
            }
            read => read,
        }
    }

    /// What is to be fetched so that a stretch of a pack of contents, which is read soon, begins with what is here.
    /// Nothing where it is or comes without that, or where answers are quick.
    pub fn ask(&self, pack: PackId, begin: u64, length: u64) -> Option<Coming<'_>> {
        let at = ((ChunkKind::Data, pack), begin / BLOCK);
        let mut state = lock(&self.state);
        if !self.storage.is_remote() || !state.is_absent(at) {
            return None;
        }
        let numbers = self.numbers(&state, at, (begin + length).saturating_sub(1) / BLOCK);
        Some(self.coming(&mut state, at.0, numbers))
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
        let mut state = lock(&self.state);
        if !state.here.contains(&at)
            && let Some(request) = state.coming.get(&at).copied()
        {
            if let Some(next) = self.next(&state, at) {
                // A failure is told to whoever wants it.
                let coming = self.coming(&mut state, at.0, next);
                drop(state);
                let _ = coming.fetch();
                state = lock(&self.state);
            }
            // Not for another thread's next try, where this one fails: all would try one after another.
            let coming = |state: &mut State| state.coming.get(&at) == Some(&request);
            state = self.arrived.wait_while(state, coming).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(block) = state.here.get(&at) {
            return Ok(block.clone());
        }
        let numbers = self.numbers(&state, at, last);
        let begin = ((at.1 - numbers.start) * BLOCK) as usize;
        let coming = self.coming(&mut state, at.0, numbers);
        drop(state);
        let bytes = coming.fetch()?;
        Ok(bytes.slice(begin.min(bytes.len())..bytes.len().min(begin + BLOCK as usize)))
    }

    /// Has whoever wants these blocks wait for them.
    fn coming(&self, state: &mut State, pack: Pack, numbers: Range<u64>) -> Coming<'_> {
        state.requests += 1;
        let request = state.requests;
        state.coming.extend(numbers.clone().map(|number| ((pack, number), request)));
        Coming { blocks: self, pack, numbers, request }
    }

    /// What is asked for together with a block: those that are wanted, and more where the pack is read in its
    /// order. Nodes that are wanted together lie here and there: of them all around the block.
    fn numbers(&self, state: &State, (pack, number): At, last: u64) -> Range<u64> {
        let around = number / AROUND * AROUND;
        let (from, to) = match pack.0 {
            _ if self.in_order(state, (pack, number)) => (number, number + self.ahead()),
            ChunkKind::Node => (around, around + AROUND),
            ChunkKind::Data => (number, number),
        };
        let absent = |number: &u64| state.is_absent((pack, *number));
        let before = (from..number).rev().take_while(absent).count() as u64;
        let after = (number + 1..to.max(last + 1)).take_while(absent).count() as u64;
        number - before..number + 1 + after
    }

    /// What a thread that would only wait for a block asks for meanwhile: those that follow.
    fn next(&self, state: &State, (pack, number): At) -> Option<Range<u64>> {
        if !self.storage.is_remote() || !self.in_order(state, (pack, number)) {
            return None;
        }
        let mut following =
            (number + 1..=number + self.ahead()).take_while(|after| !state.is_last((pack, after - 1)));
        let first = following.find(|&number| state.is_absent((pack, number)))?;
        Some(self.numbers(state, (pack, first), first))
    }

    /// Whether a block's pack is read from its begin, or was read shortly before the block.
    fn in_order(&self, state: &State, (pack, number): At) -> bool {
        let mut before = number.saturating_sub(self.ahead())..number;
        number == 0 || before.any(|before| !state.is_absent((pack, before)))
    }

    fn ahead(&self) -> u64 {
        if self.storage.is_remote() { AHEAD_REMOTE } else { AHEAD }
    }
}

fn name((kind, pack): Pack) -> String {
    Name::Pack(kind, pack).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::context::{Random, Seeded};
    use crate::fault::Kind;
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
        /// None is answered before so many were made.
        together: usize,
        /// A byte that the medium cannot read.
        bad: Option<u64>,
    }

    impl One {
        fn new(is_remote: bool) -> Arc<One> {
            let mut bytes = vec![0; SIZE as usize];
            Seeded::new(3).fill(&mut bytes);
            let bytes = Bytes::from(bytes);
            let (asked, failing) = (Mutex::default(), AtomicU64::new(0));
            Arc::new(One { bytes, is_remote, asked, failing, together: 0, bad: None })
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
            let began = Instant::now();
            while lock(&self.asked).len() < self.together && began.elapsed() < Duration::from_secs(10) {
                std::thread::yield_now();
            }
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
        Blocks::new(one.clone(), 48 << 20)
    }

    fn read(blocks: &Blocks, begin: u64, length: u64) -> Result<Bytes> {
        blocks.read(ChunkKind::Data, PACK, begin, length)
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
            assert!(blocks.read(ChunkKind::Node, PACK, begin, 100).unwrap() == one.of(begin, 100));
        }
        assert_eq!(one.asked(), [12..16, 8..12, 40..44]);
    }

    #[test]
    fn a_pack_that_is_read_in_its_order_is_asked_for_once_and_much_of_it_together() {
        for (is_remote, most) in [(false, 11), (true, 3)] {
            let one = One::new(is_remote);
            let blocks = over(&one);
            for begin in (0..SIZE).step_by(5000) {
                assert!(read(&blocks, begin, 5000).unwrap() == one.of(begin, 5000));
            }
            let asked = one.asked();
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
            let mut asked: Vec<u64> = one.asked().into_iter().flatten().collect();
            asked.sort_unstable();
            assert!(asked.windows(2).all(|two| two[0] < two[1]), "{asked:?}");
        }
    }

    #[test]
    fn who_would_wait_for_a_block_asks_for_those_that_follow() {
        let one = Arc::new(One { together: 2, ..Arc::into_inner(One::new(true)).unwrap() });
        let blocks = over(&one);
        std::thread::scope(|scope| {
            for begin in [0, 100] {
                let (one, blocks) = (&one, &blocks);
                scope.spawn(move || assert!(read(blocks, begin, 100).unwrap() == one.of(begin, 100)));
            }
        });
        // Both are under way at once, and which came first is not said.
        let mut asked = one.asked();
        asked.sort_by_key(|range| range.start);
        assert_eq!(asked, [0..16, 16..32]);
    }

    #[test]
    fn who_wants_what_was_asked_for_ahead_waits_for_it_and_asks_himself_where_it_does_not_come() {
        for comes in [true, false] {
            let one = One::new(true);
            let blocks = over(&one);
            let coming = blocks.ask(PACK, 10, 100).unwrap();
            assert!(blocks.ask(PACK, 10, 100).is_none(), "it is coming");
            std::thread::scope(|scope| {
                let reading = scope.spawn(|| assert!(read(&blocks, 10, 100).unwrap() == one.of(10, 100)));
                match comes {
                    true => assert!(coming.fetch().is_ok()),
                    false => drop(coming),
                }
                reading.join().unwrap();
            });
            assert!(blocks.ask(PACK, 10, 100).is_none(), "it is here");
            assert_eq!(one.asked().iter().filter(|asked| asked.contains(&0)).count(), 1);
        }
        assert!(over(&One::new(false)).ask(PACK, 10, 100).is_none(), "an answer is quick");
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
    fn a_chunk_that_is_large_is_read_by_itself_where_answers_are_quick() {
        let one = One::new(false);
        let blocks = over(&one);
        assert!(read(&blocks, 77, LARGE).unwrap() == one.of(77, LARGE));
        assert!(lock(&blocks.state).here.is_empty());
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
            assert!(lock(&blocks.state).coming.is_empty());
            assert!(read(&blocks, 10, 10).unwrap() == one.of(10, 10));
        }
    }
}
