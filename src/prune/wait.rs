//! Waiting for writers that began before the condemned list was there.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::{Result, Run, described};
use crate::collection;
use crate::context::Nanos;
use crate::fault::Kind;
use crate::format::{Name, SegmentName, Session, SessionKind};
use crate::id::SessionId;
use crate::progress::Phase;

/// Between two looks, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A restore that has not ended after a week, by the clocks, has died. Should it live, it meets a missing
/// chunk, stops, and can be run again.
const READERS_LIVE: Nanos = 7 * 24 * 3600 * 1_000_000_000;

/// What is known of a session that is waited for.
struct Watched {
    segments: usize,
    since: Instant,
}

impl Run<'_> {
    /// Step 2. Waits until every older writer has a claim; true once that is so. Where patience with one is
    /// over, it is closed. Without patience it only looks.
    pub(super) fn wait(&mut self, number: u64) -> Result<bool> {
        let context = self.repository.context().clone();
        let mut watched: HashMap<SessionId, Watched> = HashMap::new();
        let mut records: HashMap<SessionId, Session> = HashMap::new();
        let mut pause = PAUSES.0;
        loop {
            let open = self.open_sessions(&mut records)?;
            let verdict = self.repository.numbers()?.verdict;
            let awaited = open.iter().filter(|sid| {
                records.get(sid).is_some_and(|s| collection::awaited(number, verdict, sid, s.kind, false))
            });
            let awaited: Vec<SessionId> = awaited.copied().collect();
            if awaited.is_empty() {
                return Ok(true);
            }
            let segments = self.repository.storage().names("index/")?;
            let mut alive = Vec::new();
            for sid in &awaited {
                let session = &records[sid];
                let shown = segments.iter().filter(|name| of_session(name, sid)).count();
                let now = Watched { segments: shown, since: Instant::now() };
                let seen = watched.entry(*sid).or_insert(now);
                if seen.segments != shown {
                    *seen = Watched { segments: shown, since: Instant::now() };
                }
                let waited = seen.since.elapsed();
                if self.repository.is_dead(*sid) {
                    self.repository.close(*sid, "its process has ended, a prune found")?;
                } else if self.options.patience.is_some_and(|patience| waited >= patience) {
                    self.repository.close(*sid, "a prune has waited long enough for it")?;
                } else {
                    alive.push(described(sid, session));
                }
            }
            if alive.is_empty() {
                continue;
            }
            if self.options.patience.is_none() {
                self.report.waiting = alive;
                return Ok(false);
            }
            if pause == PAUSES.0 {
                context.progress.begin(Phase { name: "waiting for running backups", unit: "backups" });
                alive
                    .iter()
                    .for_each(|backup| context.progress.note(&format!("waiting for backup {backup}")));
            }
            context.cancel.wait(pause)?;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Sessions without a claim; their records are kept in `records`. Restores that are dead are ended.
    fn open_sessions(&self, records: &mut HashMap<SessionId, Session>) -> Result<Vec<SessionId>> {
        let sessions = self.repository.storage().names("sessions/")?;
        let ended: HashSet<String> = self.repository.storage().names("snapshots/")?.into_iter().collect();
        let mut open = Vec::new();
        for name in sessions.iter().filter(|name| !ended.contains(*name)) {
            let Ok(sid) = name.parse::<SessionId>() else { continue };
            let session = match records.entry(sid) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => match self.repository.record(&Name::Session(sid).to_string()) {
                    Ok(session) => new.insert(session),
                    // Another prune was here.
                    Err(error) if error.kind() == Kind::NotFound => continue,
                    Err(error) => return Err(error.into()),
                },
            };
            let old = self.repository.context().clock.now().saturating_sub(session.began) > READERS_LIVE;
            match session.kind == SessionKind::Read && (self.repository.is_dead(sid) || old) {
                true => self.repository.close(sid, "it has ended, a prune found")?,
                false => open.push(sid),
            }
        }
        Ok(open)
    }
}

fn of_session(segment: &str, sid: &SessionId) -> bool {
    matches!(segment.parse(), Ok(SegmentName::Session(owner, _)) if owner == *sid)
}
