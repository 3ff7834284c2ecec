//! Proof: a member of the cluster hashes what it holds at a revision, and what the repository holds must
//! have the same hash.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::etcd::{Error, Etcd, Hashed, Keys, Present};
use crate::etcd_file::KeyHash;
use crate::format::{EtcdCapture, HashKv, KeyState};
use crate::progress::{Amount, Phase};
use crate::repository::{self, EtcdAt, Keyspace, Repository, Result, content_bytes, state};
use crate::sorter::paired;
use crate::tree::Nodes;

/// A member may compact while it is asked; then it is asked again, this often in all.
const TRIES: u32 = 4;
/// Before it is asked again; longer each time.
const PAUSE: Duration = Duration::from_millis(250);
/// Keys that are named.
const NAMED: usize = 20;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The hashes are the same.
    Proved(HashKv),
    /// There is nothing to compare; why.
    Unproved(String),
    /// The hashes differ.
    Refuted(Refuted),
}

/// What is stored is not what a member says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refuted {
    /// The member's hash.
    pub theirs: HashKv,
    /// What differs.
    pub why: String,
}

impl std::fmt::Display for Refuted {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let HashKv { hash, revision, compact_revision } = self.theirs;
        write!(
            f,
            "its HashKV of revision {revision} (compacted at {compact_revision}) is {hash}, {}",
            self.why
        )
    }
}

/// The hashes that a member may have of one content.
#[derive(Debug, Clone, Copy)]
struct Hashes {
    /// As it is asked.
    asked: u32,
    /// As it compacted; another one only where no key was alive.
    compacting: u32,
}

/// A revision to be proved by any number of members.
pub struct Prover<'a> {
    repository: &'a Repository,
    nodes: &'a dyn Nodes,
    at: EtcdAt<'a>,
    /// Captures whose histories may lead further back.
    line: Vec<&'a EtcdCapture>,
    /// What was hashed already: by compaction point.
    hashes: BTreeMap<i64, std::result::Result<Hashes, String>>,
}

impl<'a> Prover<'a> {
    /// Proves `at`.
    pub fn new(
        repository: &'a Repository,
        nodes: &'a dyn Nodes,
        at: EtcdAt<'a>,
        line: Vec<&'a EtcdCapture>,
    ) -> Prover<'a> {
        Prover { repository, nodes, at, line, hashes: BTreeMap::new() }
    }

    /// Compares with what the member says.
    pub fn prove(&mut self, etcd: &Etcd) -> Result<Verdict> {
        let prefix = &self.at.capture.prefix;
        if !prefix.is_empty() {
            let prefix = String::from_utf8_lossy(prefix);
            return Ok(Verdict::Unproved(format!("only keys that begin with {prefix:?} were captured")));
        }
        for attempt in 1.. {
            self.repository.context().cancel.check()?;
            let theirs = match self.ask(etcd) {
                Ok(theirs) => theirs,
                Err(why) => return Ok(Verdict::Unproved(why)),
            };
            let ours = match self.hash(theirs.compact_revision)? {
                Ok(ours) => ours,
                Err(why) => return Ok(Verdict::Unproved(why)),
            };
            if [ours.asked, ours.compacting].contains(&theirs.hash) {
                return self.check_state(theirs);
            }
            if attempt == TRIES {
                return self.compare(etcd, theirs, ours.asked);
            }
            std::thread::sleep(PAUSE * attempt);
        }
        Ok(Verdict::Unproved("it was not asked".into()))
    }

    /// The member's hash, or why it has none that can be compared.
    fn ask(&self, etcd: &Etcd) -> std::result::Result<HashKv, String> {
        let revision = self.at.revision;
        match etcd.hash_kv(revision) {
            Err(error) if error.is_compacted() => {
                Err(format!("the member has compacted revision {revision}"))
            }
            Err(error) => Err(error.to_string()),
            Ok(Hashed { revision: Some(other), .. }) if other != revision => {
                Err(format!("the member answered with the hash of revision {other}, not {revision}"))
            }
            Ok(Hashed { hash, compact_revision, .. }) => Ok(HashKv { hash, revision, compact_revision }),
        }
    }

    /// The repository's hash of the revision, compacted at `compacted`; or why there is none.
    fn hash(&mut self, compacted: i64) -> Result<std::result::Result<Hashes, String>> {
        if let Some(known) = self.hashes.get(&compacted) {
            return Ok(known.clone());
        }
        let hash = self.hash_now(compacted)?;
        self.hashes.insert(compacted, hash.clone());
        Ok(hash)
    }

    fn hash_now(&self, compacted: i64) -> Result<std::result::Result<Hashes, String>> {
        let EtcdAt { revision, .. } = self.at;
        if compacted > revision {
            return Ok(Err(format!("the member has compacted revision {revision}")));
        }
        let context = self.repository.context();
        let spool = self.repository.spool();
        let keyspace = match Keyspace::new(self.nodes, self.at, &self.line, compacted, &spool) {
            Ok(keyspace) => keyspace,
            Err(oldest) => {
                return Ok(Err(format!(
                    "its hash depends on all since revision {compacted}, and the history that is stored leads \
                     back to {oldest}"
                )));
            }
        };
        context.progress.begin(Phase { name: "hashing", unit: "records" });
        context.progress.expect(Amount { items: keyspace.most(), bytes: 0 });
        let sorted = keyspace.sort(&|_| true)?;
        if !sorted.order_known {
            return Ok(Err(
                "some revisions were captured by ranges, which do not tell the order of operations \
                           within one"
                    .into(),
            ));
        }
        let empty = sorted.keys == 0;
        let (mut asked, mut compacting) = (KeyHash::new(compacted), KeyHash::new(compacted));
        sorted.records::<repository::Error>(
            |_| true,
            |record, kept| {
                context.cancel.check()?;
                context.progress.advance(Amount { items: 1, bytes: record.kv.value.len() as u64 });
                asked.push(&record, kept || empty);
                compacting.push(&record, kept);
                Ok(())
            },
        )?;
        Ok(Ok(Hashes { asked: asked.finish(), compacting: compacting.finish() }))
    }

    /// The hash is of the anchor and its history. Where the capture made the state anew for its successors to
    /// stand on, that must be what they lead to.
    fn check_state(&self, theirs: HashKv) -> Result<Verdict> {
        let whole = self.at.revision == self.at.capture.revision;
        if !whole || self.at.capture.state.is_none() {
            return Ok(Verdict::Proved(theirs));
        }
        let spool = self.repository.spool();
        let folded = EtcdCapture { state: None, ..self.at.capture.clone() };
        let made = state(self.nodes, self.at, &[], &spool)?;
        for pair in paired(made, state(self.nodes, EtcdAt::whole(&folded), &[], &spool)?) {
            self.repository.context().cancel.check()?;
            let (key, made, folded) = pair?;
            if made != folded {
                let key = String::from_utf8_lossy(&key);
                let why =
                    format!("as the history has it, and the state that was made of it has another {key:?}");
                return Ok(Verdict::Refuted(Refuted { theirs, why }));
            }
        }
        Ok(Verdict::Proved(theirs))
    }

    /// Finds out what differs at the revision. A member that has compacted it meanwhile may have hashed
    /// anything.
    fn compare(&self, etcd: &Etcd, theirs: HashKv, ours: u32) -> Result<Verdict> {
        let (mut keys, mut differ) = (Vec::new(), 0);
        let stored = state(self.nodes, self.at, &[], &self.repository.spool())?;
        let stored = stored.map(|entry| entry.map_err(Stop::Ours));
        let living = Keys::at(etcd, &[], self.at.revision);
        let living = living.map(|key| key.map(|p| (p.key.clone(), p)).map_err(Stop::Theirs));
        for pair in paired(stored, living) {
            self.repository.context().cancel.check()?;
            let (key, stored, living) = match pair {
                Ok(pair) => pair,
                Err(Stop::Ours(error)) => return Err(error),
                Err(Stop::Theirs(error)) => {
                    return Ok(Verdict::Unproved(format!(
                        "the hashes differ, and not in what can be read: {error}"
                    )));
                }
            };
            let same = match (&stored, &living) {
                (Some(stored), Some(living)) => same(self.nodes, stored, living)?,
                _ => false,
            };
            if !same {
                differ += 1;
                if keys.len() < NAMED {
                    keys.push(String::from_utf8_lossy(&key).into_owned());
                }
            }
        }
        let what = match differ {
            0 => "keys and values at that revision are the same, the history before it is not".into(),
            _ => {
                let more = if differ > keys.len() { ", …" } else { "" };
                format!("{differ} keys differ at that revision: {}{more}", keys.join(", "))
            }
        };
        Ok(Verdict::Refuted(Refuted { theirs, why: format!("and what was captured has {ours}; {what}") }))
    }
}

/// Why a comparison ends early.
enum Stop {
    Ours(repository::Error),
    Theirs(Error),
}

/// Whether a key is the same in all that a range shows of it.
fn same(nodes: &dyn Nodes, stored: &KeyState, living: &Present) -> Result<bool> {
    let alike = (stored.create_revision, stored.mod_revision, stored.version, stored.lease)
        == (living.create_revision, living.mod_revision, living.version, living.lease);
    Ok(alike && content_bytes(nodes, &stored.value)? == living.value)
}
