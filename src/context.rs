//! What a command gets from outside as values: the clock, randomness, the wish to stop, the
//! progress display and the runtime that drives network requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::memory::Memory;
use crate::mutex::lock;
use crate::progress::{Progress, Silent};

/// Nanoseconds since 1970-01-01 UTC.
pub type Nanos = i64;

/// A source of random bytes.
pub trait Random: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// The operating system's generator.
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        // The generator fails only where the operating system has none; nothing safe can follow.
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }
}

/// A repeatable generator for tests: keyed BLAKE3 in counter mode.
pub struct Seeded(Mutex<blake3::OutputReader>);

impl Seeded {
    /// The sequence number `seed`.
    pub fn new(seed: u64) -> Seeded {
        Seeded(Mutex::new(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof()))
    }
}

impl Random for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        lock(&self.0).fill(bytes);
    }
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Nanos;
}

/// The operating system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Nanos {
        jiff::Timestamp::now().as_nanosecond() as Nanos
    }
}

/// A clock that stands still, for tests.
pub struct FixedClock(pub Nanos);

impl Clock for FixedClock {
    fn now(&self) -> Nanos {
        self.0
    }
}

/// The user's wish to stop; every loop over data looks at it.
#[derive(Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// The command was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Cancel {
    /// Asks everything that holds a clone to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether stopping was asked for.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once stopping was asked for.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() { Err(Interrupted) } else { Ok(()) }
    }

    /// Waits for so long, or until stopping is asked for, which is an error.
    pub fn wait(&self, pause: Duration) -> Result<(), Interrupted> {
        let until = Instant::now() + pause;
        loop {
            self.check()?;
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => std::thread::sleep(left.min(Duration::from_millis(20))),
            }
        }
    }
}

/// Everything a command takes from outside.
#[derive(Clone)]
pub struct Context {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids, keys and nonces.
    pub random: Arc<dyn Random>,
    /// The wish to stop.
    pub cancel: Cancel,
    /// Where progress is shown.
    pub progress: Arc<dyn Progress>,
    /// What buffers are shares of.
    pub memory: Memory,
    /// Drives network requests. Library code blocks on it from threads of its own, never from
    /// one of the runtime's.
    pub runtime: tokio::runtime::Handle,
}

impl Context {
    /// The real clock and randomness, no display.
    pub fn system(runtime: tokio::runtime::Handle) -> Context {
        Context {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            cancel: Cancel::default(),
            progress: Arc::new(Silent),
            memory: Memory::USUAL,
            runtime,
        }
    }
}
