//! Capturing etcd: its whole file, from which only what is new is stored.

use super::{Error, EtcdOptions, Result, Run};
use crate::etcd::{Etcd, Status};
use crate::etcd_file::{EtcdFile, KeyRecord, SYSTEM_BUCKETS};
use crate::format::{
    Anchor, CapturePath, Content, EtcdCapture, Event, Gap, KeyState, Mark, Root, history_key,
};
use crate::progress::{Amount, Phase};
use crate::repository::{dated, outcome, undated};
use crate::sorter::{Sorter, greatest_of_each};
use crate::source::snapshot;
use crate::tree::{self, Builder, Edit};

/// Memory for sorting, each.
const SORT_BYTES: usize = 32 << 20;
/// A new anchor is made once the events since the last weigh more than a tenth of it.
const REANCHOR: u64 = 10;

/// What new events are added to.
struct Base {
    anchor: Anchor,
    history: Option<Root>,
    /// Keys alive at `from`.
    keys: u64,
    /// Events after this revision are new.
    from: i64,
}

/// Events on their way into trees.
struct Events {
    /// By revision.
    history: Sorter,
    /// By key, dated.
    by_key: Sorter,
    count: u64,
    made: u64,
    deleted: u64,
}

impl Run<'_> {
    pub(super) fn spool_error(&self, error: std::io::Error) -> Error {
        Error::Spool(self.repository.spool().display().to_string(), error)
    }

    fn sorter(&self) -> Sorter {
        Sorter::new(&self.repository.spool(), SORT_BYTES)
    }

    /// Captures etcd against the parent's capture.
    pub(super) fn etcd(
        &mut self,
        etcd: &mut Etcd,
        status: &Status,
        wanted: &EtcdOptions,
        parent: Option<&EtcdCapture>,
    ) -> Result<EtcdCapture> {
        let parent = self.check_line(status, wanted, parent)?;
        let context = self.repository.context();
        context.progress.begin(Phase { name: "reading etcd", unit: "messages" });
        context.progress.expect(Amount { items: 0, bytes: status.db_size });
        context.progress.settled();
        let from = context.clock.now();
        let spooled = snapshot(etcd, &self.repository.spool(), &context.cancel, |bytes| {
            context.progress.advance(Amount { items: 1, bytes });
        })?;
        let to = context.clock.now();
        let file = EtcdFile::open(spooled.file, spooled.size).map_err(crate::source::Error::from)?;
        if let Some(parent) = parent.filter(|parent| parent.revision > file.revision()) {
            return Err(Error::SourceChanged(format!(
                "etcd is at revision {} and was at {} in the last snapshot: was it restored from a backup?",
                file.revision(),
                parent.revision
            )));
        }
        let capture =
            self.trees(&file, status, &wanted.prefix, parent, Mark { revision: file.revision(), from, to })?;
        if capture.keys == 0 && !wanted.prefix.is_empty() {
            let prefix = String::from_utf8_lossy(&wanted.prefix);
            self.warnings.push(format!("no key of etcd begins with {prefix:?}"));
        }
        Ok(capture)
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

    fn trees(
        &mut self,
        file: &EtcdFile,
        status: &Status,
        prefix: &[u8],
        parent: Option<&EtcdCapture>,
        mark: Mark,
    ) -> Result<EtcdCapture> {
        let (revision, compacted) = (file.revision(), file.compacted());
        let context = self.repository.context();
        context.progress.begin(Phase { name: "storing keys", unit: "events" });
        let continued = parent.filter(|parent| compacted <= parent.revision);
        let gaps: Vec<Gap> = match (parent, continued) {
            (Some(parent), None) => vec![Gap { after: parent.revision, until: compacted }],
            _ => Vec::new(),
        };
        for gap in &gaps {
            self.warnings.push(format!(
                "etcd was compacted up to revision {} before what came after revision {} could be captured; \
                 history reaches back to {} from here",
                gap.until, gap.after, gap.until
            ));
        }
        let mut events =
            Events { history: self.sorter(), by_key: self.sorter(), count: 0, made: 0, deleted: 0 };
        let base = match continued {
            Some(parent) => Base {
                anchor: parent.state.unwrap_or(parent.anchor),
                history: if parent.state.is_some() { None } else { parent.history },
                keys: parent.keys,
                from: parent.revision,
            },
            None => self.fresh_base(file, compacted, prefix, &mut events)?,
        };
        file.records(base.from + 1, |record| self.event(record, prefix, &mut events))?;
        let Events { history, by_key, count, made, deleted } = events;
        let shape = self.repository.shape(self.repository.config().trees.history);
        let new_history = self.apply_sorted(shape, base.history, history)?;
        let weight = tree::weight(new_history.as_ref());
        let state = match weight * REANCHOR > tree::weight(base.anchor.root.as_ref()) && weight > 0 {
            true => Some(self.reanchor(&base, continued.is_some(), by_key, revision)?),
            false => None,
        };
        let keys = match &state {
            Some(state) => tree::count(state.root.as_ref()),
            None => (base.keys + made).saturating_sub(deleted),
        };
        Ok(EtcdCapture {
            cluster_id: status.cluster_id,
            member_id: status.member_id,
            server_version: status.version.clone(),
            prefix: prefix.to_vec(),
            revision,
            compact_revision: compacted,
            keys,
            events: count,
            anchor: base.anchor,
            history: new_history,
            state,
            system: self.system(file, prefix)?,
            gaps,
            hash_kv: None,
            path: CapturePath::Snapshot,
            marks: vec![mark],
        })
    }

    /// The state at the compaction point: the newest record of each key at or below it.
    fn fresh_base(
        &self,
        file: &EtcdFile,
        compacted: i64,
        prefix: &[u8],
        events: &mut Events,
    ) -> Result<Base> {
        let mut keys = self.sorter();
        let mut done = false;
        file.records(0, |record| {
            if record.revision > compacted || done {
                done = true;
                return Ok(());
            }
            if record.kv.key.starts_with(prefix) {
                let (key, dated) = self.by_key(record)?;
                keys.push(key.clone(), dated.clone()).map_err(|e| self.spool_error(e))?;
                events.by_key.push(key, dated).map_err(|e| self.spool_error(e))?;
            }
            Ok::<(), Error>(())
        })?;
        let root = self.apply_by_key(None, keys)?;
        let anchor = Anchor { revision: compacted, root };
        Ok(Base { anchor, history: None, keys: tree::count(root.as_ref()), from: compacted })
    }

    /// A record as the state of its key.
    fn by_key(&self, record: KeyRecord) -> Result<(Vec<u8>, Vec<u8>)> {
        let KeyRecord { revision, sub, tombstone, kv } = record;
        let state = match tombstone {
            true => None,
            false => Some(KeyState {
                create_revision: kv.create_revision,
                mod_revision: kv.mod_revision,
                sub: Some(sub),
                version: kv.version,
                lease: kv.lease,
                value: self.store_bytes(kv.value)?,
            }),
        };
        Ok((kv.key, dated(&history_key(revision, sub), state)))
    }

    fn event(&self, record: KeyRecord, prefix: &[u8], events: &mut Events) -> Result<()> {
        if !record.kv.key.starts_with(prefix) {
            return Ok(());
        }
        let context = self.repository.context();
        context.cancel.check()?;
        context.progress.advance(Amount { items: 1, bytes: record.kv.value.len() as u64 });
        let at = history_key(record.revision, record.sub);
        let (created, lease, version) = (record.kv.create_revision, record.kv.lease, record.kv.version);
        let (key, dated) = self.by_key(record)?;
        let name = self.store_bytes(key.clone())?;
        let event = match undated(&dated)? {
            Some(KeyState { value, .. }) => {
                events.made += u64::from(version == 1);
                Event::Put { key: name, create_revision: created, version, lease, value }
            }
            None => {
                events.deleted += 1;
                Event::Delete { key: name }
            }
        };
        events.count += 1;
        events.history.push(at.to_vec(), event.encode()).map_err(|e| self.spool_error(e))?;
        events.by_key.push(key, dated).map_err(|e| self.spool_error(e))
    }

    /// Puts sorted entries of one kind into a tree. An event weighs what its key and value do.
    fn apply_sorted(&self, shape: tree::Shape, root: Option<Root>, sorter: Sorter) -> Result<Option<Root>> {
        let sorted = sorter.finish().map_err(|e| self.spool_error(e))?;
        let edits = sorted.map(|record| {
            let (key, value) = record.map_err(|e| tree::Error::Input(e.to_string()))?;
            let weight = match Event::decode(&value).map_err(|e| tree::Error::Input(e.to_string()))? {
                Event::Put { key, value, .. } => key.len() + value.len(),
                Event::Delete { key } => key.len(),
            };
            Ok(Edit { key, value: Some((value, weight)) })
        });
        Ok(tree::apply(&self.nodes, shape, root, edits)?)
    }

    /// Puts the newest state of each key into a state tree.
    fn apply_by_key(&self, root: Option<Root>, sorter: Sorter) -> Result<Option<Root>> {
        let shape = self.repository.shape(self.repository.config().trees.anchor);
        let sorted = sorter.finish().map_err(|e| self.spool_error(e))?;
        let edits = greatest_of_each(sorted).map(|record| {
            let (key, record) = record.map_err(|e| tree::Error::Input(e.to_string()))?;
            let state = undated(&record).map_err(|e| tree::Error::Input(e.to_string()))?;
            let value = state.map(|state| {
                let weight = key.len() as u64 + Content::len(&state.value);
                (state.encode(), weight)
            });
            Ok(Edit { key, value })
        });
        Ok(tree::apply(&self.nodes, shape, root, edits)?)
    }

    /// The state at `revision` as a tree of its own: an edit of the old one by all events since, or
    /// built anew where `by_key` has everything.
    fn reanchor(&self, base: &Base, continued: bool, mut by_key: Sorter, revision: i64) -> Result<Anchor> {
        let root = if continued {
            for entry in tree::scan(&self.nodes, base.history.as_ref(), &[])? {
                let tree::Entry { key: at, value } = entry?;
                let (key, state) = outcome(&self.nodes, &at, &value)?;
                by_key.push(key, dated(&at, state)).map_err(|e| self.spool_error(e))?;
            }
            base.anchor.root
        } else {
            None
        };
        Ok(Anchor { revision, root: self.apply_by_key(root, by_key)? })
    }

    /// Leases, and auth where everything is captured.
    fn system(&self, file: &EtcdFile, prefix: &[u8]) -> Result<Option<Root>> {
        let shape = self.repository.shape(self.repository.config().trees.anchor);
        let mut builder = Builder::new(&self.nodes, shape);
        for bucket in SYSTEM_BUCKETS {
            if bucket != "lease" && !prefix.is_empty() {
                continue;
            }
            file.entries(bucket, |key, value| {
                let key = [bucket.as_bytes(), &[0], key].concat();
                Ok::<(), Error>(builder.push(key, value.to_vec(), value.len() as u64)?)
            })?;
        }
        Ok(builder.finish()?)
    }
}

impl From<crate::etcd_file::Fault> for Error {
    fn from(fault: crate::etcd_file::Fault) -> Error {
        Error::Source(fault.into())
    }
}
