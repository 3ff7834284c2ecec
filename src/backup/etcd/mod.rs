//! Capturing etcd, of which only what is new is stored. Each path finds events since the parent, or a
//! new base to stand on; what becomes of them is the same for all.

mod events;
mod file;
mod leases;
mod past;
mod ranges;
mod watch;

use std::cell::Cell;

use super::{Error, EtcdOptions, Result, Run};
use crate::etcd::{self, Etcd, Span, Status};
use crate::fault::Kind;
use crate::format::{CapturePath, EtcdCapture, Gap, Mark, Root};
use crate::progress::Phase;
use crate::source::{self, Early};
use crate::tree;

use events::{Base, Events};
use watch::{file_seconds, watch_seconds};

/// Where there is no whole file to be had, a watch of so many seconds is better than ranges, which show no
/// history.
const PATIENCE: f64 = 60.0;

/// What is captured, and what it goes on from.
struct Line<'a> {
    status: &'a Status,
    prefix: &'a [u8],
    parent: Option<&'a EtcdCapture>,
    early: Cell<Option<Early>>,
}

/// Begins to watch what came after the parent, where that will probably be the path: the server finds the
/// events while the session is made.
pub(super) fn begin_watch(
    (etcd, status): &(Etcd, Status),
    wanted: &EtcdOptions,
    parent: &EtcdCapture,
) -> Option<Early> {
    let same = parent.cluster_id == status.cluster_id && parent.prefix == wanted.prefix;
    let behind = status.revision.checked_sub(parent.revision).filter(|behind| same && *behind > 0)?;
    let watched = match wanted.capture {
        None => watch_seconds(behind.unsigned_abs()) < file_seconds(status.db_size),
        forced => forced == Some(CapturePath::Watch),
    };
    watched.then(|| Early::begin(etcd, &Span::of_prefix(&wanted.prefix), parent.revision)).flatten()
}

/// What a path found.
struct Found {
    path: CapturePath,
    /// The revision that was reached.
    mark: Mark,
    /// The compaction point, where it is known.
    compacted: Option<i64>,
    base: Base,
    /// What came after the base.
    events: Events,
    /// The base's history with it.
    history: Option<Root>,
    /// Keys alive, where the events do not tell.
    keys: Option<u64>,
    gap: Option<Gap>,
    system: Option<Root>,
}

impl Run<'_> {
    /// Captures etcd against the parent's capture.
    pub(super) fn etcd(
        &mut self,
        etcd: &Etcd,
        status: &Status,
        wanted: &EtcdOptions,
        parent: Option<&EtcdCapture>,
        early: Option<Early>,
    ) -> Result<EtcdCapture> {
        let parent = self.check_line(status, wanted, parent)?;
        let line = Line { status, prefix: &wanted.prefix, parent, early: Cell::new(early) };
        let mark = self.catch_up(etcd, &line, wanted.capture)?;
        self.check_past(etcd, &line)?;
        let found = self.find(etcd, &line, wanted.capture, mark)?;
        let capture = self.store(&line, found)?;
        if capture.keys == 0 && !wanted.prefix.is_empty() {
            let prefix = String::from_utf8_lossy(&wanted.prefix);
            self.warnings.push(format!("no key of etcd begins with {prefix:?}"));
        }
        Ok(capture)
    }

    /// By the path that is forced, or the one that seems to be the fastest. A watch that cannot go on gives
    /// way to another; the whole file, which is for the role root only, to ranges.
    fn find(
        &mut self,
        etcd: &Etcd,
        line: &Line,
        forced: Option<CapturePath>,
        mark: Option<Mark>,
    ) -> Result<Found> {
        let watchable = line.parent.zip(mark).filter(|_| matches!(forced, None | Some(CapturePath::Watch)));
        let behind = |(parent, mark): (&EtcdCapture, Mark)| mark.revision.abs_diff(parent.revision);
        let watching = watchable.map_or(f64::INFINITY, |between| watch_seconds(behind(between)));
        let fast = forced.is_some() || watching < file_seconds(line.status.db_size);
        if fast && let Some(found) = self.try_watch(etcd, line, watchable)? {
            return Ok(found);
        }
        if forced != Some(CapturePath::Range) {
            match self.by_file(etcd, line, mark.is_some()) {
                Err(error) if error.kind() == Kind::Denied && forced != Some(CapturePath::Snapshot) => {}
                found => return found,
            }
        }
        if !fast
            && watching < PATIENCE
            && let Some(found) = self.try_watch(etcd, line, watchable)?
        {
            return Ok(found);
        }
        self.by_ranges(etcd, line)
    }

    /// The parent's capture, if this is the etcd it was made from.
    fn check_line<'p>(
        &self,
        status: &Status,
        wanted: &EtcdOptions,
        parent: Option<&'p EtcdCapture>,
    ) -> Result<Option<&'p EtcdCapture>> {
        // With a new line nothing of the old one is gone on with.
        let Some(parent) = parent.filter(|_| !self.options.new_line) else { return Ok(None) };
        let changed = if parent.cluster_id != status.cluster_id {
            format!("its cluster id is {:016x} and was {:016x}", status.cluster_id, parent.cluster_id)
        } else if parent.prefix != wanted.prefix {
            let (now, then) =
                (String::from_utf8_lossy(&wanted.prefix), String::from_utf8_lossy(&parent.prefix));
            format!("its prefix is {now:?} and was {then:?}")
        } else {
            return Ok(Some(parent));
        };
        Err(Error::SourceChanged(format!(
            "this is not the etcd that series {:?} was made from: {changed}",
            self.options.series
        )))
    }

    /// Has the member catch up with its cluster: it may lag, and be behind what the parent saw. Where there
    /// is no quorum the member's file is still worth having.
    fn catch_up(&mut self, etcd: &Etcd, line: &Line, forced: Option<CapturePath>) -> Result<Option<Mark>> {
        let from = self.repository.context().clock.now();
        match etcd.catch_up(&Span::of_prefix(line.prefix).from) {
            Ok(revision) => {
                self.check_forward(line, revision)?;
                let to = self.repository.context().clock.now();
                Ok(Some(Mark { revision, from, to }))
            }
            Err(error) if error.kind() == Kind::Denied => Err(refused(etcd, line, error)),
            Err(error) if forced == Some(CapturePath::Range) => Err(source::Error::from(error).into()),
            Err(error) => {
                self.warnings.push(format!("this member may lag behind its cluster: {error}"));
                Ok(None)
            }
        }
    }

    /// The compaction point where the file is not read. No cheap request tells it: it is the parent's, if what
    /// was there then still is.
    fn compacted(&self, etcd: &Etcd, line: &Line) -> Result<Option<i64>> {
        let Some(known) = line.parent.and_then(|parent| parent.compact_revision) else { return Ok(None) };
        // Nothing was written at revision 1, so that nothing is compacted at it.
        let kept = etcd.keeps(&Span::of_prefix(line.prefix).from, known.max(1));
        Ok(kept.map_err(source::Error::from)?.then_some(known))
    }

    /// A source that went back is another one.
    fn check_forward(&self, line: &Line, revision: i64) -> Result<()> {
        let Some(parent) = line.parent.filter(|parent| parent.revision > revision) else { return Ok(()) };
        Err(Error::SourceChanged(format!(
            "etcd is at revision {revision} and was at {} in the last snapshot: was it restored from a backup?",
            parent.revision
        )))
    }

    /// Puts what was found into trees.
    fn store(&mut self, line: &Line, found: Found) -> Result<EtcdCapture> {
        let progress = &self.repository.context().progress;
        progress.begin(Phase { name: "storing keys", unit: "events" });
        let Found { path, mark, compacted, base, events, history, keys, gap, system } = found;
        let Events { by_key, count, made, deleted } = events;
        let weight = tree::weight(history.as_ref());
        // A state that changed in many places is written nearly whole: not before its events weigh as much.
        let state = match weight > tree::weight(base.anchor.root.as_ref()) {
            true => Some(self.reanchor(line, &base, by_key, mark.revision)?),
            false => None,
        };
        let keys = match (keys, &state) {
            (Some(keys), _) => keys,
            (None, Some(state)) => tree::count(state.root.as_ref()),
            (None, None) => (base.keys + made).saturating_sub(deleted),
        };
        // Each snapshot knows by itself every gap inside what it covers.
        let inherited = line.parent.map_or(&[][..], |parent| &parent.gaps);
        let inside = inherited.iter().filter(|gap| gap.until > base.anchor.revision);
        Ok(EtcdCapture {
            cluster_id: line.status.cluster_id,
            member_id: line.status.member_id,
            server_version: line.status.version.clone(),
            prefix: line.prefix.to_vec(),
            revision: mark.revision,
            compact_revision: compacted,
            keys,
            events: count,
            anchor: base.anchor,
            history,
            state,
            system,
            gaps: inside.copied().chain(gap).collect(),
            hash_kv: None,
            path,
            marks: vec![mark],
        })
    }
}

/// What the parent leaves to stand on.
fn base_of(parent: &EtcdCapture) -> Base {
    Base {
        anchor: parent.state.unwrap_or(parent.anchor),
        history: if parent.state.is_some() { None } else { parent.history },
        keys: parent.keys,
        from: parent.revision,
        file: None,
    }
}

/// Why keys may not be read: what the user's rights are, if he may know them.
fn refused(etcd: &Etcd, line: &Line, error: etcd::Error) -> Error {
    let Ok(Some(rights)) = etcd.rights() else { return source::Error::from(error).into() };
    let wanted = match line.prefix {
        [] => "all keys".into(),
        prefix => format!("{:?}", String::from_utf8_lossy(prefix)),
    };
    source::Error::Rights { endpoint: etcd.endpoint().to_owned(), wanted, rights }.into()
}
