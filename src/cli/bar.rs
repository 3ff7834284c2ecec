//! Progress: a line that moves on a terminal, lines now and then in a log.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use icecore::progress::{Amount, Phase, Progress};
use indicatif::{ProgressBar, ProgressStyle};

use super::show::{duration, number, size};

/// How far the current phase is.
struct State {
    phase: Option<Phase>,
    done: Amount,
    total: Amount,
    begun: Instant,
    shown: Instant,
}

impl State {
    fn new() -> State {
        let now = Instant::now();
        State { phase: None, done: Amount::default(), total: Amount::default(), begun: now, shown: now }
    }

    fn begin(&mut self, phase: Phase) {
        *self = State { phase: Some(phase), ..State::new() };
    }

    fn advance(&mut self, more: Amount) {
        self.done.items += more.items;
        self.done.bytes += more.bytes;
    }

    /// True at most once in `every`.
    fn due(&mut self, every: Duration) -> bool {
        let due = self.shown.elapsed() >= every;
        if due {
            self.shown = Instant::now();
        }
        due
    }

    fn line(&self) -> String {
        let Some(phase) = self.phase else { return String::new() };
        let seconds = self.begun.elapsed().as_secs_f64();
        let of = |done: String, total: u64, text: fn(u64) -> String| match total {
            0 => done,
            total => format!("{done} of {}", text(total)),
        };
        let mut line = format!(
            "{}: {} {}",
            phase.name,
            of(number(self.done.items), self.total.items, number),
            phase.unit
        );
        if self.done.bytes > 0 {
            line += &format!(", {}", of(size(self.done.bytes), self.total.bytes, size));
            line += &format!(", {}/s", size((self.done.bytes as f64 / seconds.max(0.001)) as u64));
        }
        // Honest only once there is something to judge by.
        let (done, total) = (self.done.bytes, self.total.bytes);
        if seconds > 3.0 && done > 0 && total > done {
            line += &format!(", {} left", duration(seconds / done as f64 * (total - done) as f64));
        }
        line
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|e| e.into_inner())
}

/// A moving line on a terminal.
pub struct Bar {
    bar: ProgressBar,
    state: Mutex<State>,
}

impl Bar {
    pub fn new() -> Bar {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(120));
        Bar { bar, state: Mutex::new(State::new()) }
    }

    fn show(&self, state: &State) {
        self.bar.set_message(state.line());
    }
}

impl Progress for Bar {
    fn begin(&self, phase: Phase) {
        let mut state = lock(&self.state);
        state.begin(phase);
        self.show(&state);
    }

    fn expect(&self, total: Amount) {
        lock(&self.state).total = total;
    }

    fn advance(&self, more: Amount) {
        let mut state = lock(&self.state);
        state.advance(more);
        if state.due(Duration::from_millis(100)) {
            self.show(&state);
        }
    }

    fn note(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Lines for a log.
pub struct Lines(Mutex<State>);

/// A line in a log this often.
const EVERY: Duration = Duration::from_secs(10);

impl Lines {
    pub fn new() -> Lines {
        Lines(Mutex::new(State::new()))
    }
}

impl Progress for Lines {
    fn begin(&self, phase: Phase) {
        lock(&self.0).begin(phase);
    }

    fn expect(&self, total: Amount) {
        lock(&self.0).total = total;
    }

    fn advance(&self, more: Amount) {
        let mut state = lock(&self.0);
        state.advance(more);
        if state.due(EVERY) {
            eprintln!("{}", state.line());
        }
    }

    fn note(&self, line: &str) {
        eprintln!("{line}");
    }

    fn end(&self) {}
}
