//! Sessions: how a backup or a restore makes itself known, and how it ends.
//!
//! The writer's and the reader's side of the collection protocol (`docs/architecture.md`,
//! "Collection"). Steps are numbered as there.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::view::Collections;
use super::{Error, Repository, Result, SnapshotInfo, View};
use crate::collection::{self, Reuse};
use crate::fault::Kind;
use crate::format::{Claim, Closed, Name, Segment, SegmentName, Session, SessionKind, Snapshot};
use crate::id::{SessionId, draw};
use crate::lifeline::{Lifeline, is_cut};
use crate::mutex::lock;
use crate::storage::Cause;
use crate::store::{self, Finished, Index, PutSegment, Reader, Tuning, Writer, WriterParts};

/// Some 60 bytes for each of as many chunks as a segment lists.
const LARGEST_SEGMENT: u64 = 8 << 20;
/// A session begins again this often when collections go on meanwhile, or answers stay unclear.
const TRIES: usize = 8;

/// A running backup.
pub struct WriteSession<'a> {
    repository: &'a Repository,
    /// Its id, and its snapshot's.
    pub sid: SessionId,
    /// The snapshot it stands on.
    pub parent: Option<SnapshotInfo>,
    /// What is valid: as it was when the session began, and what it has put itself.
    pub view: View,
    index: Arc<Index>,
    ended: bool,
    _lifeline: Option<Lifeline>,
}

/// A running restore.
pub struct ReadSession<'a> {
    repository: &'a Repository,
    /// What was valid once the session had begun.
    pub view: View,
    begun: Option<Begun>,
}

/// A session whose record was put.
struct Begun {
    sid: SessionId,
    /// `None` where this machine cannot keep one: others wait for the session as for one elsewhere.
    lifeline: Option<Lifeline>,
}

impl Repository {
    /// Puts a session record; an unclear answer costs the id.
    fn put_session(&self, kind: SessionKind, label: u64, pin: Option<SessionId>) -> Result<Begun> {
        let mut failure = None;
        for attempt in 0..TRIES as u32 {
            self.context().cancel.check()?;
            let sid = SessionId::draw(&*self.context().random, label);
            let name = Name::Session(sid).to_string();
            let (host, pid, began) = (super::open::host(), std::process::id(), self.context().clock.now());
            let record = Session { kind, pin, host, pid, began };
            let lifeline = Lifeline::hold(&self.lifeline(sid)).ok();
            match self.storage().put_once(&name, self.seal_record(&name, &record).into()) {
                Ok(()) => return Ok(Begun { sid, lifeline }),
                Err(error) => match error.cause {
                    Cause::Uncertain(_) | Cause::Transient(_) | Cause::Exists => {
                        self.context().cancel.wait(std::time::Duration::from_millis(100 << attempt))?;
                        failure = Some(error);
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        Err(failure.map_or_else(|| Error::Busy("no session could be begun".into()), Error::from))
    }

    fn lifeline(&self, sid: SessionId) -> PathBuf {
        self.cache().join(Name::Session(sid).to_string())
    }

    /// Whether the session's process is known to have ended: it ran on this machine, with this cache.
    pub fn is_dead(&self, sid: SessionId) -> bool {
        is_cut(&self.lifeline(sid))
    }

    /// Ends a session without a snapshot: one's own, or one that a collector has waited for long enough.
    pub fn close(&self, sid: SessionId, why: &str) -> Result<()> {
        let name = Name::Claim(sid).to_string();
        let closed = Claim::Closed(Closed { why: why.into(), time: self.context().clock.now() });
        match self.storage().put(&name, self.seal_record(&name, &closed).into()) {
            // A collector was faster; the session is over either way.
            Err(error) if error.is_exists() => Ok(()),
            done => Ok(done?),
        }
    }

    /// Begins a backup. `choose` picks the parent among the valid snapshots.
    pub fn begin_write(
        &self,
        choose: impl Fn(&[SnapshotInfo]) -> Result<Option<SnapshotInfo>>,
    ) -> Result<WriteSession<'_>> {
        for _ in 0..TRIES {
            // 1. The label, and the session that pins the parent.
            let first = self.view_of_snapshots()?;
            let parent = choose(&first.snapshots)?;
            let pin = parent.as_ref().map(|parent| parent.id);
            let begun = self.put_session(SessionKind::Write, collection::label(first.numbers), pin)?;
            let sid = begun.sid;
            match self.establish(begun, parent) {
                Ok(Some(session)) => return Ok(session),
                // 2. A collection began, or the parent went: begin again.
                Ok(None) => self.close(sid, "a collection began meanwhile")?,
                Err(error) => {
                    let _ = self.close(sid, "it could not begin");
                    return Err(error);
                }
            }
        }
        Err(Error::Busy("collections go on too fast for a backup to begin; try again".into()))
    }

    fn establish(&self, begun: Begun, parent: Option<SnapshotInfo>) -> Result<Option<WriteSession<'_>>> {
        let Begun { sid, lifeline } = begun;
        let view = self.view()?;
        if !collection::established(&sid, view.numbers) {
            return Ok(None);
        }
        if self.single_writer()? {
            self.check_alone(sid, &view)?;
        }
        let gone = |parent: &SnapshotInfo| !view.snapshots.iter().any(|info| info.id == parent.id);
        if parent.as_ref().is_some_and(gone) {
            return Ok(None);
        }
        // 3. What may be referred to.
        let committed = view.snapshots.iter().map(|info| info.id).collect();
        let reuse = Reuse { sid, validity: &view.validity, committed: &committed };
        let index = match self.index(&view, Some(&reuse)) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            index => Arc::new(index?),
        };
        let ended = false;
        Ok(Some(WriteSession { repository: self, sid, parent, view, index, ended, _lifeline: lifeline }))
    }

    /// Where the medium cannot arbitrate between writers, only one may write.
    fn check_alone(&self, sid: SessionId, view: &View) -> Result<()> {
        let ended = self.storage().names("snapshots/")?;
        for name in self.storage().names("sessions/")? {
            let Ok(other) = name.parse::<SessionId>() else { continue };
            if other == sid || other.label < view.validity.verdict || ended.contains(&name) {
                continue;
            }
            let session: Session = self.record(&Name::Session(other).to_string())?;
            if session.kind == SessionKind::Write && !self.is_dead(other) {
                return Err(Error::Busy(format!(
                    "{} cannot arbitrate between writers, and a backup on {} (process {}) has not ended; if that process is gone for good, remove sessions/{other}",
                    self.storage().medium(),
                    session.host,
                    session.pid
                )));
            }
        }
        Ok(())
    }

    /// Begins a restore of `snapshot`, which stays readable until the session ends. Where nothing can be
    /// written the restore goes on without a pin.
    pub fn begin_read(&self, snapshot: SessionId) -> Result<ReadSession<'_>> {
        let label = collection::label(self.numbers()?);
        let begun = match self.put_session(SessionKind::Read, label, Some(snapshot)) {
            Ok(begun) => Some(begun),
            Err(Error::Storage(error)) if matches!(error.cause, Cause::Refused(..)) => {
                self.context()
                    .progress
                    .note("the repository is read-only: restoring without protection from prune");
                None
            }
            Err(error) => return Err(error),
        };
        let mut session = ReadSession { repository: self, view: View::default(), begun };
        session.view = self.view()?;
        match session.view.snapshots.iter().any(|info| info.id == snapshot) {
            true => Ok(session),
            false => Err(Error::PointNotFound(format!("snapshot {snapshot} was removed just now"))),
        }
    }
}

impl Repository {
    /// Stores chunks for collection `number`, each anew; `listed` gets the names of segments that list them.
    pub fn rewriter(&self, number: u64, index: Arc<Index>, listed: Arc<Mutex<Vec<SegmentName>>>) -> Writer {
        let again = self.clone();
        let put_segment = move |_, segment: &Segment| {
            let (name, _) = again.put_merged(number, segment).map_err(|error| match error {
                Error::Storage(error) => store::Error::from(error),
                other => store::Error::Cache { directory: "index/".into(), what: other.to_string() },
            })?;
            lock(&listed).push(name);
            Ok(())
        };
        // What is left at the end is listed together with what stays.
        let tuning = Tuning { inline_chunks: usize::MAX, ..Tuning::within(self.context().memory) };
        Writer::start(self.writer_parts(index, Box::new(put_segment)), tuning)
    }

    /// Puts a segment of collection `number`; gives its name and size.
    pub fn put_merged(&self, number: u64, segment: &Segment) -> Result<(SegmentName, u64)> {
        let segment_name = SegmentName::merged(number, &*self.context().random);
        let name = Name::Segment(segment_name).to_string();
        let bytes = self.seal_record(&name, segment);
        let size = bytes.len() as u64;
        self.storage().put(&name, bytes.into())?;
        Ok((segment_name, size))
    }

    fn writer_parts(&self, index: Arc<Index>, put_segment: PutSegment) -> WriterParts {
        let context = self.context();
        // Drawn, for process ids come again: the table of another run would tell what this one has stored.
        let run = u64::from_le_bytes(draw(&*context.random));
        let scratch = format!("index/commands/{}-{run:016x}-own", std::process::id());
        WriterParts {
            storage: self.shared_storage(),
            index,
            namer: self.namer(),
            seal: self.seal_secret().clone(),
            random: context.random.clone(),
            cache: self.pack_cache(),
            scratch: self.cache().join(scratch),
            put_segment,
            cancel: context.cancel.clone(),
            progress: context.progress.clone(),
        }
    }
}

impl WriteSession<'_> {
    /// Stores content in this session.
    pub fn writer(&self, tuning: Tuning) -> Writer {
        let repository = self.repository;
        let (storage, key, id, sid) =
            (repository.shared_storage(), repository.records_key(), repository.id(), self.sid);
        let random = repository.context().random.clone();
        let put_segment = move |k: u32, segment: &Segment| {
            let name = Name::Segment(SegmentName::Session(sid, k)).to_string();
            let bytes = crate::format::seal(segment, &[], &key, id, &name, &*random);
            storage.put(&name, bytes.into()).map_err(store::Error::from)
        };
        let parts = repository.writer_parts(self.index.clone(), Box::new(put_segment));
        Writer::start(parts, tuning)
    }

    /// Reads what the session may see, first of all its parent: a collection that was open when the session
    /// began may move that.
    pub fn reader(&self) -> Reader {
        self.repository.reloading(self.index.clone())
    }

    /// Makes durable what a writer of this session has stored.
    pub fn finish(&mut self, writer: Writer) -> Result<Finished> {
        let finished = writer.finish()?;
        // Nobody has listed them: of one it is only known how large it can be.
        let own = (0..finished.segments).map(|k| (SegmentName::Session(self.sid, k), LARGEST_SEGMENT));
        self.view.segments.extend(own);
        Ok(finished)
    }

    /// 4. Ends the session with a snapshot; gives what is valid then.
    pub fn commit(mut self, snapshot: Snapshot) -> Result<View> {
        let name = Name::Claim(self.sid).to_string();
        let claim = Claim::Snapshot(Box::new(snapshot));
        let bytes = self.repository.seal_record(&name, &claim);
        let put = self.repository.storage().put(&name, bytes.into());
        self.ended = true;
        match put {
            Err(error) if error.is_exists() => {
                let why = match self.repository.claim(self.sid) {
                    Ok(Claim::Closed(closed)) => closed.why,
                    _ => "its name is taken".into(),
                };
                return Err(Error::Fenced { sid: self.sid, why });
            }
            done => done?,
        }
        self.check_not_void()?;
        if let Claim::Snapshot(snapshot) = claim {
            self.view.add(SnapshotInfo { id: self.sid, snapshot: snapshot.into() });
        }
        Ok(std::mem::take(&mut self.view))
    }

    /// 5. A verdict above our label that does not name us came before our claim did.
    fn check_not_void(&self) -> Result<()> {
        let Collections { validity, .. } = self.repository.collections()?;
        if validity.snapshot(&self.sid) {
            return Ok(());
        }
        Err(Error::Fenced {
            sid: self.sid,
            why: format!("collection {} was decided before it", validity.verdict),
        })
    }

    /// Ends the session without a snapshot.
    pub fn give_up(mut self, why: &str) -> Result<()> {
        self.ended = true;
        self.repository.close(self.sid, why)
    }
}

impl Drop for WriteSession<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // Best effort: a session that stays open costs a later prune some patience.
            let _ = self.repository.close(self.sid, "it failed");
        }
    }
}

impl Drop for ReadSession<'_> {
    fn drop(&mut self) {
        if let Some(begun) = &self.begun {
            let _ = self.repository.close(begun.sid, "done");
        }
    }
}
