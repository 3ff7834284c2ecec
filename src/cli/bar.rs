//! Progress: a line that moves on a terminal, lines now and then in a log.

use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use icecore::mutex::lock;
use icecore::progress::{Amount, Phase, Progress};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::show::{duration, number, say, size};

/// The rate that is shown looks back about so far.
const MEMORY: Duration = Duration::from_secs(10);
/// No time left is told before.
const FIRST_GUESS: Duration = Duration::from_secs(3);
/// Standing still for so long is told.
const STILL: Duration = Duration::from_secs(10);
/// The moving line changes this often.
const MOVES: Duration = Duration::from_millis(100);
/// A line in a log this often.
const LOGS: Duration = Duration::from_secs(10);
/// The spinner and a space before the moving line.
const MARGIN: usize = 2;
/// The width of a log's lines is nobody's concern.
const WIDE: usize = usize::MAX;

/// How fast something grows, the latest counting most.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    seen: u64,
    a_second: f64,
}

impl Pace {
    fn update(&mut self, done: u64, elapsed: Duration, first: bool) {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let now = done.saturating_sub(self.seen) as f64 / seconds;
        let weight = if first { 1.0 } else { 1.0 - (-seconds / MEMORY.as_secs_f64()).exp() };
        self.a_second += weight * (now - self.a_second);
        self.seen = done;
    }

    /// Seconds until `total`.
    fn left(&self, total: u64) -> Option<f64> {
        let missing = total.saturating_sub(self.seen) as f64;
        (self.a_second > 0.0).then(|| missing / self.a_second)
    }
}

/// How far the current phase is.
struct State {
    phase: Option<Phase>,
    done: Amount,
    total: Amount,
    /// The total will not grow any more.
    settled: bool,
    begun: Instant,
    moved: Instant,
    shown: Instant,
    items: Pace,
    bytes: Pace,
    updates: u64,
}

impl State {
    fn new() -> State {
        let now = Instant::now();
        State {
            phase: None,
            done: Amount::default(),
            total: Amount::default(),
            settled: false,
            begun: now,
            moved: now,
            shown: now,
            items: Pace::default(),
            bytes: Pace::default(),
            updates: 0,
        }
    }

    fn begin(&mut self, phase: Phase) {
        *self = State { phase: Some(phase), ..State::new() };
    }

    fn advance(&mut self, more: Amount) {
        self.done.items += more.items;
        self.done.bytes += more.bytes;
        self.moved = Instant::now();
    }

    /// True at most once in `every`; then it is time for a new line.
    fn due(&mut self, every: Duration) -> bool {
        let elapsed = self.shown.elapsed();
        if elapsed < every {
            return false;
        }
        self.items.update(self.done.items, elapsed, self.updates == 0);
        self.bytes.update(self.done.bytes, elapsed, self.updates == 0);
        self.updates += 1;
        self.shown = Instant::now();
        true
    }

    /// The share that is done, by what is better known.
    fn share(&self) -> Option<f64> {
        let (done, total) = match self.total.bytes {
            0 => (self.done.items, self.total.items),
            bytes => (self.done.bytes, bytes),
        };
        (self.settled && total > 0).then(|| (done as f64 / total as f64).min(1.0))
    }

    /// Honest only where the total is known and there is something to judge by. Many small items and few
    /// large ones take their time in different ways: the slower counts.
    fn left(&self) -> Option<f64> {
        if !self.settled || self.begun.elapsed() < FIRST_GUESS {
            return None;
        }
        let known = |pace: &Pace, total: u64| (total > 0).then(|| pace.left(total)).flatten();
        let guesses = [known(&self.items, self.total.items), known(&self.bytes, self.total.bytes)];
        guesses.into_iter().flatten().reduce(f64::max)
    }

    /// What there is to say, the most important first.
    fn line(&self, width: usize) -> String {
        let Some(phase) = self.phase else { return String::new() };
        let more = if self.settled { "" } else { "+" };
        let of = |done: String, total: u64, text: fn(u64) -> String| match total {
            0 => done,
            total => format!("{done} of {}{more}", text(total)),
        };
        let mut fields = vec![Field::new(0, phase.name.to_owned())];
        if let Some(share) = self.share() {
            fields.push(Field::new(1, format!("{:.0}%", (share * 100.0).floor())));
        }
        let items = of(number(self.done.items), self.total.items, number);
        fields.push(Field::new(3, format!("{items} {}", phase.unit)));
        if self.done.bytes > 0 {
            fields.push(Field::new(4, of(size(self.done.bytes), self.total.bytes, size)));
            if self.updates > 0 {
                fields.push(Field::new(5, format!("{}/s", size(self.bytes.a_second as u64))));
            }
        }
        let still = self.moved.elapsed();
        if still >= STILL {
            fields.push(Field::new(2, format!("nothing for {}", duration(still.as_secs_f64()))));
        } else if let Some(left) = self.left() {
            fields.push(Field::new(2, format!("{} left", duration(left))));
        }
        fit(fields, width)
    }
}

/// A part of a line.
struct Field {
    /// The greatest goes first where there is no room.
    rank: u8,
    text: String,
}

impl Field {
    fn new(rank: u8, text: String) -> Field {
        Field { rank, text }
    }
}

/// The fields in a line of at most `width` characters: as many as fit, at least a part of the first.
fn fit(mut fields: Vec<Field>, width: usize) -> String {
    loop {
        let line = fields.iter().map(|field| field.text.as_str()).collect::<Vec<_>>().join("  ");
        if line.chars().count() <= width {
            return line;
        }
        match fields.iter().enumerate().max_by_key(|(_, field)| field.rank) {
            Some((at, _)) if fields.len() > 1 => fields.remove(at),
            _ => return line.chars().take(width).collect(),
        };
    }
}

/// A moving line on a terminal.
pub struct Bar {
    bar: ProgressBar,
    state: Arc<Mutex<State>>,
}

impl Bar {
    pub fn new() -> Bar {
        let (bar, state) = (ProgressBar::new_spinner(), Arc::new(Mutex::new(State::new())));
        let (shown, terminal) = (state.clone(), console::Term::stderr());
        let style = ProgressStyle::with_template("{spinner} {line}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        // Asked for with every move of the spinner, so that standing still is seen, too.
        bar.set_style(style.with_key("line", move |_: &ProgressState, out: &mut dyn Write| {
            let (_, columns) = terminal.size();
            let mut state = lock(&shown);
            state.due(MOVES);
            let _ = out.write_str(&state.line(usize::from(columns).saturating_sub(MARGIN + 1)));
        }));
        Bar { bar, state }
    }
}

impl Progress for Bar {
    fn begin(&self, phase: Phase) {
        lock(&self.state).begin(phase);
        // Commands that are done at once show nothing.
        self.bar.enable_steady_tick(MOVES);
    }

    fn expect(&self, total: Amount) {
        lock(&self.state).total = total;
    }

    fn settled(&self) {
        lock(&self.state).settled = true;
    }

    fn advance(&self, more: Amount) {
        lock(&self.state).advance(more);
    }

    fn note(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Lines for a log.
pub struct Lines(Mutex<State>);

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

    fn settled(&self) {
        lock(&self.0).settled = true;
    }

    fn advance(&self, more: Amount) {
        let mut state = lock(&self.0);
        state.advance(more);
        if state.due(LOGS) {
            say(&state.line(WIDE));
        }
    }

    fn note(&self, line: &str) {
        say(line);
    }

    fn end(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the middle of reading objects, `seconds` after the begin.
    fn reading(settled: bool, seconds: u64) -> State {
        let mut state = State::new();
        state.begin(Phase { name: "reading objects", unit: "objects" });
        state.begun -= Duration::from_secs(seconds);
        state.shown = state.begun;
        state.total = Amount { items: 28_000, bytes: 3 << 30 };
        state.settled = settled;
        state.advance(Amount { items: 7_000, bytes: 1 << 30 });
        assert!(state.due(Duration::ZERO));
        state
    }

    #[test]
    fn a_line_says_all_there_is_where_there_is_room() {
        let line = reading(true, 60).line(WIDE);
        assert_eq!(
            line,
            "reading objects  33%  7,000 of 28,000 objects  1.0 GiB of 3.0 GiB  17.1 MiB/s  3:00 min left"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_the_share_stays_longest() {
        let state = reading(true, 60);
        for width in 0..120 {
            assert!(state.line(width).chars().count() <= width, "{width}");
        }
        assert_eq!(state.line(20), "reading objects  33%");
        assert_eq!(state.line(36), "reading objects  33%  3:00 min left");
    }

    #[test]
    fn while_the_total_grows_neither_share_nor_time_left_are_told() {
        let line = reading(false, 60).line(WIDE);
        assert!(line.contains("28,000+") && !line.contains('%') && !line.contains("left"), "{line}");
        assert!(!reading(true, 1).line(WIDE).contains("left"), "too early to judge");
    }

    #[test]
    fn standing_still_is_told_instead_of_a_time_left() {
        let mut state = reading(true, 60);
        state.moved -= Duration::from_secs(75);
        let line = state.line(WIDE);
        assert!(line.contains("nothing for 1:15 min") && !line.contains("left"), "{line}");
    }
}
