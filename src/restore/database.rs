//! Restoring to a database file of etcd's own: every revision, version and lease as it was.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use super::mapping::Scope;
use super::{Error, Result, Run};
use crate::etcd_file::{FileWriter, KeyHash, SYSTEM_BUCKETS};
use crate::format::{EtcdCapture, HashKv, Root};
use crate::progress::{Amount, Phase};
use crate::repository::{self, Alive, Kept, Keyspace, ReadSession, SnapshotInfo};
use crate::target::{self, WholeFile};
use crate::tree;

const LEASE: &str = "lease";

/// The file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOptions {
    /// Where.
    pub path: PathBuf,
    /// How much of the past is in it.
    pub history: History,
    /// Whether users, roles and whether they count are in it.
    pub auth: bool,
}

/// How much of the past is restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum History {
    /// What the point's snapshot has by itself.
    #[default]
    Snapshot,
    /// All that snapshots lead back to.
    Full,
    /// Only the point itself.
    None,
    /// Every revision after this one, from earlier snapshots too.
    Since(i64),
}

/// A history that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no history: write snapshot, full, none, or the revision after which it begins")]
pub struct BadHistory(String);

impl FromStr for History {
    type Err = BadHistory;

    fn from_str(text: &str) -> std::result::Result<History, BadHistory> {
        match text {
            "snapshot" => Ok(History::Snapshot),
            "full" => Ok(History::Full),
            "none" => Ok(History::None),
            _ => {
                let since = text.parse().ok().filter(|&since: &i64| since >= 0);
                since.map(History::Since).ok_or_else(|| BadHistory(text.into()))
            }
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// Where.
    pub path: PathBuf,
    /// The revision that an etcd made from it begins at.
    pub revision: i64,
    /// Where its history begins; 0 where it has all.
    pub compact_revision: i64,
    /// Keys alive at the revision.
    pub keys: u64,
    /// Records, the past among them.
    pub records: u64,
    /// The file's size.
    pub bytes: u64,
    /// What an etcd made from it answers to `HashKV`; none where nothing was written.
    pub hash_kv: Option<HashKv>,
}

/// The snapshots that may lead further back than the point's own.
pub(super) type Line<'a> = [(&'a SnapshotInfo, &'a EtcdCapture)];

impl<'a> Run<'a> {
    fn keyspace<'r>(&'r self, options: &FileOptions, line: &Line<'r>) -> Result<Keyspace<'r>> {
        let at = self.at()?;
        let captures: Vec<&EtcdCapture> = line.iter().map(|(_, capture)| *capture).collect();
        let since = |revision| Keyspace::new(&self.nodes, at, &captures, revision, &self.repository.spool());
        let compacted = match options.history {
            History::Snapshot => at.oldest(),
            History::Full => since(0).err().unwrap_or(0),
            History::None => at.revision,
            History::Since(since) if since <= at.revision => since,
            History::Since(since) => {
                let why = format!("a history after {since} does not reach revision {}", at.revision);
                return Err(repository::Error::Usage(why).into());
            }
        };
        Ok(since(compacted).map_err(|oldest| {
            repository::Error::PointNotFound(format!(
                "the history that leads to revision {} reaches back to {oldest}, not to {compacted}",
                at.revision
            ))
        })?)
    }

    /// Looks whether the file may be written and whether what goes into it is there. Gives what keeps the
    /// snapshots that it is read from.
    pub(super) fn plan_file(&self, line: &Line) -> Result<Vec<ReadSession<'a>>> {
        let Some(options) = &self.options.file else { return Ok(Vec::new()) };
        if !self.options.etcd_maps.is_empty() {
            let why = "in a database file keys keep their names: --map etcd: is for a live etcd";
            return Err(repository::Error::Usage(why.into()).into());
        }
        if self.options.new_queue {
            let why = "in a database file values stay as they are: --milvus-new-queue is for a live etcd";
            return Err(repository::Error::Usage(why.into()).into());
        }
        self.check_named_keys()?;
        WholeFile::check(&options.path, self.options.overwrite)?;
        let mut sessions = Vec::new();
        for capture in self.keyspace(options, line)?.captures().filter(|_| !self.options.dry_run) {
            // The point's own snapshot is kept already.
            if let Some((info, _)) = line.iter().find(|(_, other)| std::ptr::eq(*other, capture)) {
                sessions.push(self.repository.begin_read(info.id)?);
            }
        }
        Ok(sessions)
    }

    /// Writes the file.
    pub(super) fn restore_file(&mut self, line: &Line) -> Result<Option<FileReport>> {
        let Some(options) = &self.options.file else { return Ok(None) };
        let (report, mut warnings) = self.make_file(options, line)?;
        self.warnings.append(&mut warnings);
        Ok(Some(report))
    }

    fn make_file(&self, options: &FileOptions, line: &Line) -> Result<(FileReport, Vec<String>)> {
        let context = self.repository.context();
        let keyspace = self.keyspace(options, line)?;
        // The file is etcd's own: what a live restore leaves out belongs to it.
        let scope = Scope { left_out: &super::NOTHING, ..self.etcd_scope() };
        let takes = |key: &[u8]| scope.takes(key);
        let mut report = FileReport {
            path: options.path.clone(),
            revision: self.at()?.revision,
            compact_revision: keyspace.compacted(),
            keys: 0,
            records: 0,
            bytes: 0,
            hash_kv: None,
        };
        if self.options.dry_run {
            context.progress.begin(Phase { name: "sorting keys", unit: "keys" });
            let alive = keyspace.alive(&takes)?;
            report.keys = alive.keys;
            return Ok((report, self.file_warnings(&alive)?));
        }
        context.progress.begin(Phase { name: "writing the file", unit: "records" });
        context.progress.expect(Amount { items: keyspace.most(), bytes: 0 });
        let alive = self.write_file(keyspace, &takes, options, &mut report)?;
        report.keys = alive.keys;
        let mut warnings = self.file_warnings(&alive)?;
        let wanted = self.at()?.revision;
        if report.revision < wanted {
            warnings.push(format!(
                "nothing that is restored changed after revision {}: an etcd made from the file begins there, \
                 not at {wanted}",
                report.revision
            ));
        }
        Ok((report, warnings))
    }

    fn write_file(
        &self,
        keyspace: Keyspace,
        takes: &dyn Fn(&[u8]) -> bool,
        options: &FileOptions,
        report: &mut FileReport,
    ) -> Result<Alive> {
        let context = self.repository.context();
        let failed = |e| target::Error::File(options.path.display().to_string(), e);
        let new = WholeFile::create(&options.path)?;
        let mut writer = FileWriter::new(new.file()?).map_err(failed)?;
        let (mut hash, mut newest) = (KeyHash::new(report.compact_revision), report.compact_revision.max(1));
        let (mut bucket, mut raw) = (writer.bucket("key"), Vec::new());
        let alive = keyspace.read::<Error>(takes, None, |record, kept| {
            context.cancel.check()?;
            context.progress.advance(Amount { items: 1, bytes: record.kv.value.len() as u64 });
            let (name, value) = record.encode(&mut raw);
            hash.push(&record, (name, value), kept != Kept::No);
            newest = record.revision;
            report.records += 1;
            Ok(bucket.push(name, value).map_err(failed)?)
        })?;
        bucket.close().map_err(failed)?;
        writer.compacted(report.compact_revision).map_err(failed)?;
        self.write_system(&mut writer, options)?;
        let bytes = writer.finish().map_err(failed)?;
        new.persist(self.options.overwrite)?;
        report.bytes = bytes;
        report.revision = newest.max(report.compact_revision);
        let (revision, compact_revision) = (report.revision, report.compact_revision);
        report.hash_kv = Some(HashKv { hash: hash.finish(), revision, compact_revision });
        Ok(alive)
    }

    /// Leases, and users and roles where they are wanted.
    fn write_system(&self, writer: &mut FileWriter, options: &FileOptions) -> Result<()> {
        let failed = |e| target::Error::File(options.path.display().to_string(), e);
        for name in SYSTEM_BUCKETS.into_iter().filter(|&name| name == LEASE || options.auth) {
            let mut entries = self.system(name)?.peekable();
            if name != LEASE && entries.peek().is_none() {
                continue;
            }
            let mut bucket = writer.bucket(name);
            for entry in entries {
                let (key, value) = entry?;
                bucket.push(&key, &value).map_err(failed)?;
            }
            bucket.close().map_err(failed)?;
        }
        Ok(())
    }

    /// The entries of one of etcd's buckets beside the keys, as the snapshot has them.
    fn system(&self, name: &str) -> Result<impl Iterator<Item = Result<(Vec<u8>, Vec<u8>)>> + '_> {
        let beginning = [name.as_bytes(), &[0]].concat();
        let root: Option<&Root> = self.at()?.capture.system.as_ref();
        let entries = tree::scan(&self.nodes, root, &beginning)?;
        Ok(entries.map_while(move |entry| match entry {
            Ok(tree::Entry { key, value }) => {
                key.strip_prefix(&beginning[..]).map(|key| Ok((key.to_vec(), value)))
            }
            Err(error) => Some(Err(error.into())),
        }))
    }

    /// What an etcd made from the file will do otherwise than the source.
    fn file_warnings(&self, alive: &Alive) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let mut leases = BTreeSet::new();
        for entry in self.system(LEASE)? {
            let id = entry?.0.try_into().map(i64::from_be_bytes);
            leases.extend(id.ok());
        }
        let lost = alive.leases.iter().filter(|(lease, _)| !leases.contains(lease));
        match lost.map(|(_, keys)| keys).sum() {
            0u64 => {}
            keys => warnings.push(format!(
                "{keys} keys have a lease that had ended when the snapshot was taken: an etcd made from the file \
                 never expires them"
            )),
        }
        if !alive.order_known {
            warnings.push(
                "some revisions were captured by ranges, which do not tell the order of operations within one: \
                 HashKV of an etcd made from the file is not the source's"
                    .into(),
            );
        }
        if !self.at()?.capture.prefix.is_empty() {
            warnings.push("the snapshot has only a part of the keys: so has the file".into());
        }
        Ok(warnings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_a_word_or_the_revision_after_which_it_begins() {
        let words = ["snapshot", "full", "none", "0", "12"];
        let parsed: [History; 5] = words.map(|text| text.parse().unwrap());
        let [snapshot, full, none] = [History::Snapshot, History::Full, History::None];
        assert_eq!(parsed, [snapshot, full, none, History::Since(0), History::Since(12)]);
        for text in ["", "-1", "all", "1.5"] {
            assert!(text.parse::<History>().is_err(), "{text}");
        }
    }
}
