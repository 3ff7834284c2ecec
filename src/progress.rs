//! What long work tells whoever watches. The display itself is the command line's.

/// One stretch of work, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// What is being done, in the present participle: "reading objects".
    pub name: &'static str,
    /// What is counted: "objects", "keys".
    pub unit: &'static str,
}

/// How far a phase is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Items done or expected.
    pub items: u64,
    /// Bytes done or expected.
    pub bytes: u64,
}

/// Bytes in binary units.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Receives progress. Calls are cheap and may come from any thread.
pub trait Progress: Send + Sync {
    /// A phase begins; the one before is over.
    fn begin(&self, phase: Phase);
    /// The total of the current phase as far as it is known by now.
    fn expect(&self, total: Amount);
    /// The total of the current phase is final.
    fn settled(&self);
    /// More of the current phase is done.
    fn advance(&self, more: Amount);
    /// Something the user should read now, in one line.
    fn note(&self, line: &str);
    /// All work is over; the display goes.
    fn end(&self);
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: Phase) {}
    fn expect(&self, _: Amount) {}
    fn settled(&self) {}
    fn advance(&self, _: Amount) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
}
