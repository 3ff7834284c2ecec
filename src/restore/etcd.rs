//! Restoring keys to a live etcd: only differences, in transactions.

use std::collections::HashMap;

use prost::Message;

use super::{Change, Counts, Error, Plan, Result, Run};
use crate::etcd::{Etcd, Present};
use crate::etcd_file::Lease;
use crate::format::{KeyState, Malformed, history_key};
use crate::progress::{Amount, Phase};
use crate::repository::{self, EtcdAt, content_bytes, keys_at, state};
use crate::sorter::paired;
use crate::target::{EtcdTarget, Operation};
use crate::tree;

/// Keys as the target should have them, in order.
type Wanted<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, KeyState)>> + 'a>;

/// One key on both sides.
struct Pair {
    key: Vec<u8>,
    wanted: Option<KeyState>,
    present: Option<Present>,
}

impl<'a> Run<'a> {
    pub(super) fn at(&self) -> Result<EtcdAt<'a>> {
        let usage = || repository::Error::Usage("this snapshot has no etcd".into());
        Ok(self.moment.etcd().ok_or_else(usage)?)
    }

    fn wanted(&self) -> Result<Wanted<'_>> {
        let scope = self.etcd_scope();
        let spool = self.repository.spool();
        let all = state(&self.nodes, self.at()?, &scope.beginning(), &spool)?;
        let chosen = all.filter(move |entry| entry.as_ref().map_or(true, |(key, _)| scope.takes(key)));
        let chosen = chosen.map(|entry| {
            let (key, state) = entry?;
            let state = self.adapted(&key, state)?;
            Ok::<_, Error>((key, state))
        });
        if scope.maps.is_empty() {
            return Ok(Box::new(chosen));
        }
        let failed = move |e: std::io::Error| Error::Spool(spool.to_string(), e);
        let mut sorter = self.repository.spool().large_sorter();
        for entry in chosen {
            let (key, state) = entry?;
            sorter.push(scope.renamed(&key), state.encode()).map_err(&failed)?;
        }
        let sorted = sorter.finish().map_err(&failed)?;
        let mut last: Option<Vec<u8>> = None;
        Ok(Box::new(sorted.map(move |record| {
            let (key, state) = record.map_err(&failed)?;
            if last.as_ref() == Some(&key) {
                let key = String::from_utf8_lossy(&key).into_owned();
                return Err(
                    repository::Error::Usage(format!("the maps give two keys the name {key:?}")).into()
                );
            }
            last = Some(key.clone());
            Ok((key, KeyState::decode(&state)?))
        })))
    }

    /// Shows every key of both sides, in order.
    fn pairs(&self, target: &EtcdTarget, mut show: impl FnMut(Pair) -> Result<()>) -> Result<()> {
        let present = target.keys(&self.etcd_scope().target_beginning());
        let present = present.map(|present| {
            let present = present.map_err(crate::target::Error::from)?;
            Ok((present.key.clone(), present))
        });
        for pair in paired(self.wanted()?, present) {
            self.repository.context().cancel.check()?;
            let (key, wanted, present) = pair?;
            show(Pair { key, wanted, present })?;
        }
        Ok(())
    }

    /// A key that was named and is not there is a mistake to be told before anything is written.
    pub(super) fn check_named_keys(&self) -> Result<()> {
        let found = keys_at(&self.nodes, self.at()?, &self.options.etcd_keys)?;
        match self.options.etcd_keys.iter().find(|key| !found.contains_key(*key)) {
            Some(key) => Err(super::not_there("key", key)),
            None => Ok(()),
        }
    }

    /// Connects, and looks whether the target may be written to.
    pub(super) fn plan_etcd(&mut self) -> Result<Option<EtcdTarget>> {
        let Some(access) = &self.options.etcd else { return Ok(None) };
        let context = self.repository.context();
        self.check_named_keys()?;
        context.progress.begin(Phase { name: "comparing keys", unit: "keys" });
        let etcd = Etcd::connect(&context.runtime, access).map_err(crate::target::Error::from)?.0;
        let target = EtcdTarget::new(etcd);
        let mut plan = Plan::default();
        self.pairs(&target, |pair| {
            context.progress.advance(Amount { items: 1, bytes: 0 });
            match self.judge(&pair)? {
                Verdict::Put if pair.present.is_some() => {
                    plan.counts.overwritten += 1;
                    plan.note(&pair.key);
                }
                Verdict::Extra => {
                    plan.counts.extra += 1;
                    plan.note(&pair.key);
                }
                Verdict::Put | Verdict::Leave => {}
            }
            Ok(())
        })?;
        plan.check(self.options, "etcd", "keys")?;
        Ok(Some(target))
    }

    fn judge(&self, pair: &Pair) -> Result<Verdict> {
        let Pair { key, wanted, present } = pair;
        Ok(match (wanted, present) {
            (Some(wanted), Some(present)) => match self.same(wanted, present)? {
                true => Verdict::Leave,
                false => Verdict::Put,
            },
            (Some(_), None) => Verdict::Put,
            (None, _) if self.etcd_scope().holds(key) => Verdict::Extra,
            (None, _) => Verdict::Leave,
        })
    }

    fn same(&self, wanted: &KeyState, present: &Present) -> Result<bool> {
        let lease = if self.ttl(wanted.lease)?.is_some() { wanted.lease } else { 0 };
        if lease != present.lease || wanted.value.len() != present.value.len() as u64 {
            return Ok(false);
        }
        Ok(content_bytes(&self.nodes, &wanted.value)? == present.value)
    }

    /// The granted time of a lease that existed at the capture, in seconds.
    fn ttl(&self, lease: i64) -> Result<Option<i64>> {
        if lease == 0 {
            return Ok(None);
        }
        let key = [b"lease\0", &lease.to_be_bytes()[..]].concat();
        // One that had expired by the snapshot may have been there at the one before.
        for capture in self.moment.leases() {
            let record = tree::get(&self.nodes, capture.system.as_ref(), &key)?;
            let lease = record.and_then(|record| Lease::decode(&record[..]).ok());
            if let Some(lease) = lease.filter(|lease| lease.ttl > 0) {
                return Ok(Some(lease.ttl));
            }
        }
        Ok(None)
    }

    /// Writes the differences: puts in the order in which the source made them, then deletions, the newest
    /// key first. So whoever watches never sees a key before those that it may refer to, nor after them.
    pub(super) fn restore_etcd(&mut self, mut target: EtcdTarget) -> Result<Counts> {
        let context = self.repository.context();
        context.progress.begin(Phase { name: "comparing keys", unit: "keys" });
        let mut writing = Writing { counts: Counts::default(), leases: HashMap::new(), lost: 0 };
        let mut sorter = self.repository.spool().large_sorter();
        let failed = |e| Error::Spool(self.repository.spool().to_string(), e);
        self.pairs(&target, |pair| {
            context.progress.advance(Amount { items: 1, bytes: 0 });
            let Some((place, step)) = self.step(pair, &mut writing.counts)? else { return Ok(()) };
            sorter.push(place, step).map_err(failed)
        })?;
        let Counts { written, overwritten, deleted, .. } = writing.counts;
        context.progress.begin(Phase { name: "restoring keys", unit: "keys" });
        context.progress.expect(Amount { items: written + overwritten + deleted, bytes: 0 });
        context.progress.settled();
        for record in sorter.finish().map_err(failed)? {
            context.cancel.check()?;
            let (place, step) = record.map_err(failed)?;
            self.make(Step::of_record(&place, &step)?, &mut target, &mut writing)?;
            context.progress.advance(Amount { items: 1, bytes: 0 });
        }
        target.flush()?;
        if writing.lost > 0 {
            self.warnings.push(format!(
                "{} keys were restored without their lease, which had expired when the snapshot was taken",
                writing.lost
            ));
        }
        Ok(writing.counts)
    }

    /// What is to be done with a key, as a record that sorts by when.
    fn step(&self, pair: Pair, counts: &mut Counts) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let verdict = self.judge(&pair)?;
        let Pair { key, wanted, present } = pair;
        let counter = match (verdict, present.is_some()) {
            (Verdict::Leave, _) => {
                counts.identical += u64::from(wanted.is_some());
                return Ok(None);
            }
            (Verdict::Extra, _) if !self.options.delete_extra => {
                counts.extra += 1;
                return Ok(None);
            }
            (Verdict::Extra, _) => &mut counts.deleted,
            // It came after the comparison, while objects were restored.
            (Verdict::Put, true) if !self.options.overwrite => {
                let key = String::from_utf8_lossy(&key).into_owned();
                return Err(crate::target::Error::Changed(key).into());
            }
            (Verdict::Put, true) => &mut counts.overwritten,
            (Verdict::Put, false) => &mut counts.written,
        };
        *counter += 1;
        counts.bytes += wanted.as_ref().map_or(0, |wanted| wanted.value.len());
        let seen = present.map_or(0, |present| present.mod_revision);
        Ok(Some(Step { key, seen, wanted }.record()))
    }

    fn make(&self, step: Step, target: &mut EtcdTarget, writing: &mut Writing) -> Result<()> {
        let together = step.together();
        let Step { key, seen, wanted } = step;
        let action = match (&wanted, seen) {
            (None, _) => "delete",
            (Some(_), 0) => "put",
            (Some(_), _) => "overwrite",
        };
        (self.show)(Change { side: "etcd", action, key: key.clone() });
        if self.options.dry_run {
            return Ok(());
        }
        let operation = match wanted {
            None => Operation::Delete { key, seen },
            Some(wanted) => {
                let lease = self.lease(wanted.lease, target, writing)?;
                let value = content_bytes(&self.nodes, &wanted.value)?;
                Operation::Put { key, value, lease, seen }
            }
        };
        Ok(target.change(operation, together)?)
    }

    /// The lease to put a key under: made anew with its old id, or none where it had expired.
    fn lease(&self, lease: i64, target: &mut EtcdTarget, writing: &mut Writing) -> Result<i64> {
        if lease == 0 {
            return Ok(0);
        }
        if let Some(&there) = writing.leases.get(&lease) {
            writing.lost += u64::from(!there);
            return Ok(if there { lease } else { 0 });
        }
        let ttl = self.ttl(lease)?;
        if let Some(ttl) = ttl {
            target.grant(lease, ttl)?;
        }
        writing.leases.insert(lease, ttl.is_some());
        writing.lost += u64::from(ttl.is_none());
        Ok(if ttl.is_some() { lease } else { 0 })
    }
}

/// What has been written so far.
struct Writing {
    counts: Counts,
    /// Leases met, and whether they are in the target now.
    leases: HashMap<i64, bool>,
    /// Keys whose lease was gone.
    lost: u64,
}

/// A key that is put or deleted.
struct Step {
    key: Vec<u8>,
    /// The revision that the target has it at, 0 where it is not there.
    seen: i64,
    /// As it should be; `None` where it is to go.
    wanted: Option<KeyState>,
}

impl Step {
    /// As a record that sorts as steps are made.
    fn record(self) -> (Vec<u8>, Vec<u8>) {
        let (phase, revision, sub) = match &self.wanted {
            Some(wanted) => (0, wanted.mod_revision, wanted.sub.unwrap_or(0)),
            None => (1, i64::MAX - self.seen, 0),
        };
        let place = [&[phase], &history_key(revision, sub)[..], &self.key].concat();
        let state = self.wanted.map_or_else(Vec::new, |wanted| wanted.encode());
        (place, [&self.seen.to_be_bytes()[..], &state].concat())
    }

    fn of_record(place: &[u8], step: &[u8]) -> Result<Step> {
        let cut = |bytes: &[u8]| Malformed::Length(bytes.len());
        let (_, key) = place.split_at_checked(17).ok_or_else(|| cut(place))?;
        let (seen, state) = step.split_first_chunk::<8>().ok_or_else(|| cut(step))?;
        let wanted = if state.is_empty() { None } else { Some(KeyState::decode(state)?) };
        Ok(Step { key: key.to_vec(), seen: i64::from_be_bytes(*seen), wanted })
    }

    /// Steps that are the same in this were one transaction in the source, or in the target.
    fn together(&self) -> i64 {
        self.wanted.as_ref().map_or(-self.seen, |wanted| wanted.mod_revision)
    }
}

/// What is to be done with a key.
enum Verdict {
    Put,
    Leave,
    Extra,
}
