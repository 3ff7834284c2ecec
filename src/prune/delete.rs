//! Carrying out a verdict: the only place where anything is deleted.

use std::collections::HashSet;

use super::{Error, Result, Run};
use crate::collection::Validity;
use crate::fault::Kind;
use crate::format::{Name, SegmentName, Session, SessionKind, Verdict};
use crate::id::{PackId, SessionId};
use crate::pool::{self, Pool};
use crate::progress::{Amount, Phase};
use crate::storage::Listed;

impl Run<'_> {
    /// Step 6. Deletes what the stored verdict says, in an order in which whoever looks meanwhile finds no record
    /// of what is gone.
    pub(super) fn execute(&mut self, number: u64) -> Result<()> {
        let verdict = match self.repository.record::<Verdict>(&Name::Verdict(number).to_string()) {
            // A newer one is there, and was carried out.
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            verdict => verdict?,
        };
        let validity = Validity::new(number, &verdict);
        let before = (self.report.packs, self.report.records);
        let progress = &self.repository.context().progress;
        progress.begin(Phase { name: "deleting", unit: "files" });
        let ended = self.repository.storage().names("snapshots/")?;
        let ended: HashSet<SessionId> = ended.iter().filter_map(|name| name.parse().ok()).collect();
        self.delete_sessions(&validity, &ended)?;
        let dooms = |name: &str| name.parse().ok().filter(|sid| validity.dooms_claim(sid));
        // A session that has ended since stays, and would look open without its claim.
        self.delete("snapshots/", |name| dooms(name).is_some_and(|sid| ended.contains(&sid)))?;
        self.delete("forgotten/", |name| dooms(name).is_some())?;
        self.delete("index/", |name| {
            name.parse::<SegmentName>().is_ok_and(|name| validity.dooms_segment(&name))
        })?;
        let dead: HashSet<PackId> = verdict.dead.into_iter().collect();
        if !dead.is_empty() {
            let records = self.report.records;
            self.delete("packs/", |name| {
                let id = name.rsplit('/').next().and_then(|id| id.parse::<PackId>().ok());
                id.is_some_and(|id| dead.contains(&id))
            })?;
            self.report.packs += self.report.records - records;
            self.report.records = records;
        }
        self.delete("collections/", |name| {
            let number = name.split_once('.').and_then(|(number, _)| number.parse().ok());
            number.is_some_and(|number| validity.dooms_collection(number))
        })?;
        if before != (self.report.packs, self.report.records) {
            self.report.collections.push(number);
        }
        Ok(())
    }

    /// Sessions that have ended, and writers that nobody waits for.
    fn delete_sessions(&mut self, validity: &Validity, ended: &HashSet<SessionId>) -> Result<()> {
        let repository = self.repository;
        self.delete("sessions/", |name| {
            let Ok(sid) = name.parse::<SessionId>() else { return false };
            let ended = ended.contains(&sid);
            // What cannot be read is taken for a restore that goes on.
            let record = || repository.record::<Session>(&Name::Session(sid).to_string());
            let reads = || !record().is_ok_and(|session| session.kind == SessionKind::Write);
            sid.label < validity.verdict && validity.dooms_session(&sid, !ended && reads(), ended)
        })
    }

    fn delete(&mut self, folder: &str, doomed: impl Fn(&str) -> bool) -> Result<()> {
        let all = self.repository.storage().list_all(folder)?;
        let doomed: Vec<Listed> =
            all.into_iter().filter(|file| file.name.strip_prefix(folder).is_some_and(&doomed)).collect();
        let (context, storage) = (self.repository.context(), self.repository.storage());
        let delete = |(): &mut (), file: &Listed| {
            context.cancel.check()?;
            storage.delete(&file.name)?;
            // What this machine keeps of it goes too; else it costs room only.
            let _ = std::fs::remove_file(self.repository.cache().join(&file.name));
            context.progress.advance(Amount { items: 1, bytes: file.size });
            Ok(())
        };
        let give = |pool: &Pool<'_, _, Error>| doomed.iter().try_for_each(|file| Ok(pool.give(file)?));
        pool::run(storage.at_once().min(doomed.len()), 0, || (), delete, give)?;
        self.report.records += doomed.len() as u64;
        self.report.deleted_bytes += doomed.iter().map(|file| file.size).sum::<u64>();
        Ok(())
    }
}
