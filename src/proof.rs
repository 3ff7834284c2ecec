//! Proof: a member of the cluster hashes what it holds at a revision, and what the repository holds must
//! have the same hash.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::etcd::{Error, Etcd, Hashed, Keys, Present};
use crate::etcd_file::KeyHash;
use crate::format::{EtcdCapture, HashKv, KeyState, Root};
use crate::progress::{Amount, Phase};
use crate::repository::{
    self, EtcdAt, Kept, Keyspace, Living, Repository, Result, checksum, content_bytes, state,
};
use crate::sorter::paired;
use crate::tree::{self, Nodes, Scan};

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
#[derive(Debug, Clone)]
struct Hashes {
    /// As it is asked.
    asked: u32,
    /// As it compacted; another one only where no key was alive.
    compacting: u32,
    /// A key that the state, as the capture made it anew, has otherwise.
    otherwise: Option<Vec<u8>>,
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
            let theirs = match self.ask_and_hash(etcd)? {
                Ok(theirs) => theirs,
                Err(why) => return Ok(Verdict::Unproved(why)),
            };
            let ours = match self.hash(theirs.compact_revision)? {
                Ok(ours) => ours,
                Err(why) => return Ok(Verdict::Unproved(why)),
            };
            if [ours.asked, ours.compacting].contains(&theirs.hash) {
                return Ok(judge(theirs, ours.otherwise));
            }
            if attempt == TRIES {
                return self.compare(etcd, theirs, ours.asked);
            }
            std::thread::sleep(PAUSE * attempt);
        }
        Ok(Verdict::Unproved("it was not asked".into()))
    }

    /// The member's hash. It takes its time: what will most likely be compared with it is hashed meanwhile.
    fn ask_and_hash(&mut self, etcd: &Etcd) -> Result<std::result::Result<HashKv, String>> {
        let EtcdAt { capture, revision } = self.at;
        std::thread::scope(|scope| {
            let theirs = scope.spawn(|| ask(etcd, revision));
            let ours = capture.compact_revision.map_or(Ok(()), |compacted| self.hash(compacted).map(drop));
            let theirs = theirs.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ours.map(|()| theirs)
        })
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
        // The hash is of the anchor and its history. Where the capture made the state anew for its successors
        // to stand on, that must be what they lead to.
        let mut made = self.made().map(|root| Made::new(self.nodes, root)).transpose()?;
        let mut meet = made.as_mut().map(|made| move |key: &[u8], sum| made.meet(key, sum));
        let living = meet.as_mut().map(|meet| meet as &mut Living);
        let (mut asked, mut compacting) = (KeyHash::new(compacted), None);
        let mut raw = Vec::new();
        let alive = keyspace.read::<repository::Error>(&|_| true, living, |record, kept| {
            context.cancel.check()?;
            context.progress.advance(Amount { items: 1, bytes: record.kv.value.len() as u64 });
            let raw = record.encode(&mut raw);
            if kept == Kept::NoneAlive {
                compacting.get_or_insert_with(|| asked.clone());
            }
            asked.push(&record, raw, kept != Kept::No);
            compacting.iter_mut().for_each(|hash| hash.push(&record, raw, kept == Kept::Yes));
            Ok(())
        })?;
        if !alive.order_known {
            return Ok(Err(
                "some revisions were captured by ranges, which do not tell the order of operations \
                           within one"
                    .into(),
            ));
        }
        let compacting = compacting.map_or_else(|| asked.finish(), |hash| hash.finish());
        let otherwise = made.map(Made::end).transpose()?.flatten();
        Ok(Ok(Hashes { asked: asked.finish(), compacting, otherwise }))
    }

    /// The state that the capture made anew, if it did.
    fn made(&self) -> Option<Option<&'a Root>> {
        let EtcdAt { capture, revision } = self.at;
        let state = capture.state.as_ref().filter(|_| revision == capture.revision);
        state.map(|state| state.root.as_ref())
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

/// The member's hash, or why it has none that can be compared.
fn ask(etcd: &Etcd, revision: i64) -> std::result::Result<HashKv, String> {
    match etcd.hash_kv(revision) {
        Err(error) if error.is_compacted() => Err(format!("the member has compacted revision {revision}")),
        Err(error) => Err(error.to_string()),
        Ok(Hashed { revision: Some(other), .. }) if other != revision => {
            Err(format!("the member answered with the hash of revision {other}, not {revision}"))
        }
        Ok(Hashed { hash, compact_revision, .. }) => Ok(HashKv { hash, revision, compact_revision }),
    }
}

fn judge(theirs: HashKv, otherwise: Option<Vec<u8>>) -> Verdict {
    let Some(key) = otherwise else { return Verdict::Proved(theirs) };
    let key = String::from_utf8_lossy(&key);
    let why = format!("as the history has it, and the state that was made of it has another {key:?}");
    Verdict::Refuted(Refuted { theirs, why })
}

/// A state that was made, compared with the keys that are alive as they come.
struct Made<'a> {
    entries: Scan<'a>,
    /// The first key that differs.
    otherwise: Option<Vec<u8>>,
}

impl<'a> Made<'a> {
    fn new(nodes: &'a dyn Nodes, root: Option<&Root>) -> Result<Made<'a>> {
        Ok(Made { entries: tree::scan(nodes, root, &[])?, otherwise: None })
    }

    /// The next key that is alive, and the checksum of its state.
    fn meet(&mut self, key: &[u8], sum: u64) -> Result<()> {
        if self.otherwise.is_none() {
            self.otherwise = match self.entries.next().transpose()? {
                Some(entry) if entry.key == key && checksum(&entry.value) == sum => None,
                Some(entry) => Some(entry.key.min(key.to_vec())),
                None => Some(key.to_vec()),
            };
        }
        Ok(())
    }

    /// No more keys are alive.
    fn end(mut self) -> Result<Option<Vec<u8>>> {
        if self.otherwise.is_none() {
            self.otherwise = self.entries.next().transpose()?.map(|entry| entry.key);
        }
        Ok(self.otherwise)
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::RwLock;

    use bytes::Bytes;

    use super::*;
    use crate::format::TreeShape;
    use crate::id::{ChunkId, ChunkKind};
    use crate::secret::ContentSecret;
    use crate::store;
    use crate::tree::{Builder, Shape};

    #[derive(Default)]
    struct Memory(RwLock<HashMap<ChunkId, Bytes>>);

    impl Nodes for Memory {
        fn get(&self, kind: ChunkKind, id: &ChunkId) -> store::Result<Bytes> {
            self.0.read().unwrap().get(id).cloned().ok_or(store::Error::Missing { kind, id: *id })
        }

        fn put(&self, kind: ChunkKind, bytes: Vec<u8>) -> store::Result<ChunkId> {
            let id = ContentSecret::from_bytes([1; 32]).namer().name(kind, &bytes);
            self.0.write().unwrap().insert(id, bytes.into());
            Ok(id)
        }
    }

    /// The first key that a state of `made` has otherwise than `alive`.
    fn otherwise(made: &[(&str, &str)], alive: &[(&str, &str)]) -> Option<String> {
        let memory = Memory::default();
        let sizes = TreeShape { window: 2, most: 16, key_bytes: 1 << 10 };
        let mut builder = Builder::new(&memory, Shape { sizes, key: [3; 32] });
        for (key, state) in made {
            builder.push(key.as_bytes().to_vec(), state.as_bytes().to_vec(), 1).unwrap();
        }
        let root = builder.finish().unwrap();
        let mut made = Made::new(&memory, root.as_ref()).unwrap();
        for (key, state) in alive {
            made.meet(key.as_bytes(), checksum(state.as_bytes())).unwrap();
        }
        made.end().unwrap().map(|key| String::from_utf8(key).unwrap())
    }

    #[test]
    fn a_state_that_was_made_is_what_the_history_leads_to_or_a_key_is_named() {
        let alive = [("a", "1"), ("b", "2"), ("c", "3")];
        assert_eq!(otherwise(&alive, &alive), None);
        assert_eq!(otherwise(&[], &[]), None);
        assert_eq!(otherwise(&[("a", "1"), ("b", "x"), ("c", "3")], &alive).as_deref(), Some("b"));
        assert_eq!(otherwise(&[("a", "1"), ("c", "3")], &alive).as_deref(), Some("b"));
        assert_eq!(
            otherwise(&[("a", "1"), ("aa", "1"), ("b", "2"), ("c", "3")], &alive).as_deref(),
            Some("aa")
        );
        assert_eq!(otherwise(&alive[..2], &alive).as_deref(), Some("c"));
        assert_eq!(otherwise(&alive, &alive[..2]).as_deref(), Some("c"));
    }
}
