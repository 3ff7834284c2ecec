//! Capture by the whole file: `Maintenance.Snapshot`.

use super::super::{Result, Run};
use super::events::{Events, dated};
use super::{Base, Found, Line, base_of};
use crate::etcd::Etcd;
use crate::etcd_file::{EtcdFile, SYSTEM_BUCKETS};
use crate::format::{Anchor, CapturePath, Gap, Mark, Root};
use crate::pool::ahead;
use crate::progress::{Amount, Phase};
use crate::sorter::Sorter;
use crate::source::{self, snapshot};
use crate::tree::{self, Builder};

impl Run<'_> {
    /// Reads the whole file, of which only what is newer than the parent is looked at. A member that has not
    /// caught up with its cluster may be behind the parent.
    pub(super) fn by_file(&mut self, etcd: &Etcd, line: &Line, caught_up: bool) -> Result<Found> {
        let context = self.repository.context();
        context.progress.begin(Phase { name: "reading etcd", unit: "messages" });
        context.progress.expect(Amount { items: 0, bytes: line.status.db_size });
        context.progress.settled();
        let from = context.clock.now();
        let spooled = snapshot(etcd, self.repository.spool().directory(), &context.cancel, |bytes| {
            context.progress.advance(Amount { items: 1, bytes });
        })?;
        let to = context.clock.now();
        let file = EtcdFile::open(spooled.file, spooled.size).map_err(source::Error::from)?;
        let (revision, compacted) = (file.revision(), file.compacted());
        match line.parent {
            Some(parent) if !caught_up && revision < parent.revision => {
                let endpoint = etcd.endpoint().to_owned();
                return Err(source::Error::Behind { endpoint, revision, seen: parent.revision }.into());
            }
            _ => self.check_forward(line, revision)?,
        }
        context.progress.begin(Phase { name: "storing events", unit: "events" });
        let continued = line.parent.filter(|parent| compacted <= parent.revision);
        let gap = match (line.parent, continued) {
            (Some(parent), None) => Some(Gap { after: parent.revision, until: compacted }),
            _ => None,
        };
        if let Some(Gap { after, until }) = gap {
            self.warnings.push(format!(
                "etcd was compacted up to revision {until} before what came after revision {after} could be \
                 captured; history reaches back to {until} from here"
            ));
        }
        let mut base = match continued {
            Some(parent) => base_of(parent),
            None => self.compacted_base(&file, line)?,
        };
        let mut events = self.events();
        let history = self.read_history(&file, line.prefix, &base, &mut events)?;
        let system = self.system(&file, line.prefix)?;
        base.file = continued.is_none().then_some(file);
        let mark = Mark { revision, from, to };
        let (path, compacted) = (CapturePath::Snapshot, Some(compacted));
        Ok(Found { path, mark, compacted, base, events, history, keys: None, gap, system })
    }

    /// Reads the events after the base, which the file has in the history's order, and puts them into it.
    fn read_history(
        &self,
        file: &EtcdFile,
        prefix: &[u8],
        base: &Base,
        events: &mut Events,
    ) -> Result<Option<Root>> {
        let shape = self.repository.shape(self.repository.config().trees.history);
        let mut failure = None;
        let history = std::thread::scope(|scope| {
            let edits = ahead(scope, tree::Edit::held, |give| {
                file.records(base.from + 1, |record| match record.kv.key.starts_with(prefix) {
                    true => Ok::<bool, super::Error>(give(self.event(record, events)?)),
                    false => Ok(true),
                })
            });
            let edits = edits.map_while(|edit| edit.map_err(|error| failure = Some(error)).ok().map(Ok));
            tree::apply(&self.nodes, shape, base.history, edits)
        });
        // The tree of what came before the failure is not wanted.
        failure.map_or_else(|| Ok(history?), Err)
    }

    /// The state at the compaction point: the newest record of each key at or below it.
    fn compacted_base(&self, file: &EtcdFile, line: &Line) -> Result<Base> {
        let compacted = file.compacted();
        let mut keys = self.repository.spool().sorter();
        self.sort_base(file, line.prefix, compacted, &mut keys)?;
        let root = self.apply_by_key(None, keys)?;
        let anchor = Anchor { revision: compacted, root };
        let keys = tree::count(root.as_ref());
        Ok(Base { anchor, history: None, keys, from: compacted, file: None })
    }

    /// Sorts the records up to the compaction point by key.
    pub(super) fn sort_base(
        &self,
        file: &EtcdFile,
        prefix: &[u8],
        compacted: i64,
        keys: &mut Sorter,
    ) -> Result<()> {
        file.records(0, |record| {
            if record.revision > compacted {
                return Ok(false);
            }
            self.repository.context().cancel.check()?;
            if record.kv.key.starts_with(prefix) {
                let at = record.place();
                let (key, state) = self.state(record)?;
                keys.push(&key, dated(&at, &key, state.as_ref())).map_err(|e| self.spool_error(e))?;
            }
            Ok::<bool, super::Error>(true)
        })
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
                Ok::<(), super::Error>(builder.push(key, value.to_vec(), value.len() as u64)?)
            })?;
        }
        Ok(builder.finish()?)
    }
}
