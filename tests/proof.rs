//! The proof of restores: a random history is made on a real etcd, and everything is noted that it says of
//! every revision while that is current. Then revisions drawn at random, many of them long compacted away,
//! are brought back from snapshots to new servers, which must say the same: every field of every key, and
//! their hash.
//!
//! `SOAK=1000` draws so many for each version; `SEED=n` repeats a run. The seed is printed.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Server;
use etcd_client::{Client, CompactionOptions, DeleteOptions, Error, GetOptions, PutOptions, Txn, TxnOp};
use icecore::context::{Context, Random, Seeded};
use icecore::repository::{Access, KeyCost, Repository};
use icecore::storage::Location;
use serde_json::Value;
use tokio::runtime::Runtime;

const PASSPHRASE: &str = "a long sentence";
const KEYS: u64 = 60;
const LEASES: u64 = 5;
/// The checksum of a file does not fit what was changed in it.
const DAMAGED: [&str; 1] = ["--skip-hash-check"];

/// All fields of a key: create revision, mod revision, version, lease, value.
type Fields = (i64, i64, i64, i64, Vec<u8>);
type State = BTreeMap<Vec<u8>, Fields>;

struct Dice(Seeded);

impl Dice {
    fn below(&self, limit: u64) -> u64 {
        let mut word = [0; 8];
        self.0.fill(&mut word);
        u64::from_le_bytes(word) % limit
    }

    fn key(&self) -> Vec<u8> {
        let n = self.below(KEYS);
        match n % 20 {
            0 => vec![0xff, n as u8],
            _ => format!("key/{n:02}").into_bytes(),
        }
    }

    fn value(&self) -> Vec<u8> {
        let length = match self.below(40) {
            0 => 20_000,
            1 => 5_000,
            2 => 0,
            _ => self.below(600),
        };
        let mut value = vec![0; length as usize];
        self.0.fill(&mut value);
        value
    }
}

/// What the source said while it was so.
#[derive(Default)]
struct Truth {
    /// Revision, key, and the key's fields at that revision.
    changes: Vec<(i64, Vec<u8>, Option<Fields>)>,
    /// By revision: hash, and the compaction point it was made with.
    hashes: BTreeMap<i64, (u32, i64)>,
    now: State,
    revision: i64,
}

impl Truth {
    fn state(&self, revision: i64) -> State {
        let mut state = State::new();
        for (_, key, fields) in self.changes.iter().take_while(|(at, ..)| *at <= revision) {
            match fields {
                Some(fields) => drop(state.insert(key.clone(), fields.clone())),
                None => drop(state.remove(key)),
            }
        }
        state
    }
}

fn fields(kv: &etcd_client::KeyValue) -> (Vec<u8>, Fields) {
    let value = kv.value().to_vec();
    (kv.key().to_vec(), (kv.create_revision(), kv.mod_revision(), kv.version(), kv.lease(), value))
}

async fn whole_state(client: &mut Client, revision: i64) -> Result<(i64, State), Error> {
    let options = GetOptions::new().with_all_keys().with_revision(revision);
    let answer = client.get("", Some(options)).await?;
    Ok((answer.header().unwrap().revision(), answer.kvs().iter().map(fields).collect()))
}

async fn hash(client: &mut Client, revision: i64) -> (u32, i64) {
    let answer = client.hash_kv(revision).await.unwrap();
    (answer.hash(), answer.compact_version().max(0))
}

/// A living etcd and everything it said.
struct Source {
    client: Client,
    server: Server,
    truth: Truth,
    dice: Dice,
    compacted: i64,
    /// Revisions in which a key went and came.
    both: BTreeSet<i64>,
}

impl Source {
    async fn start(server: Server, seed: u64) -> Source {
        let mut client = Client::connect([&server.url], None).await.unwrap();
        for id in 1..=LEASES as i64 {
            let options = etcd_client::LeaseGrantOptions::new().with_id(id << 40);
            client.lease_grant(100_000, Some(options)).await.unwrap();
        }
        let truth = Truth { revision: 1, ..Truth::default() };
        let dice = Dice(Seeded::new(seed));
        Source { client, server, truth, dice, compacted: 0, both: BTreeSet::new() }
    }

    /// Does something at random, and notes what came of it.
    async fn step(&mut self) {
        let done = match self.dice.below(20) {
            0..=8 => self.put().await,
            9..=11 => self.delete().await,
            12..=15 => self.transaction().await,
            16 => self.delete_range().await,
            17 => self.delete_and_put().await,
            18 if self.dice.below(20) == 0 => self.delete_all().await,
            19 if self.dice.below(8) == 0 => self.revoke().await,
            _ => self.put().await,
        };
        // Refused (a lease that was revoked), or answered too late and done all the same: the server tells.
        if let Err(error) = done {
            assert!(matches!(error, Error::GRpcStatus(_)), "{error}");
        }
        self.note().await;
    }

    /// Reads what the server holds at each revision that is new.
    async fn note(&mut self) {
        let (head, _) = whole_state(&mut self.client, 0).await.unwrap();
        for revision in self.truth.revision + 1..=head {
            let (_, now) = whole_state(&mut self.client, revision).await.unwrap();
            let before = std::mem::replace(&mut self.truth.now, now);
            let keys: BTreeSet<&Vec<u8>> = before.keys().chain(self.truth.now.keys()).collect();
            for key in keys {
                let found = self.truth.now.get(key);
                if before.get(key) != found {
                    self.truth.changes.push((revision, key.clone(), found.cloned()));
                }
            }
            let hash = hash(&mut self.client, revision).await;
            assert_eq!(hash.1, self.compacted);
            self.truth.hashes.insert(revision, hash);
            self.truth.revision = revision;
        }
    }

    async fn put(&mut self) -> Result<(), Error> {
        let (key, value) = (self.dice.key(), self.dice.value());
        let lease = self.dice.below(LEASES * 4) as i64;
        let options =
            ((1..=LEASES as i64).contains(&lease)).then(|| PutOptions::new().with_lease(lease << 40));
        self.client.put(key, value, options).await.map(drop)
    }

    async fn delete(&mut self) -> Result<(), Error> {
        self.client.delete(self.dice.key(), None).await.map(drop)
    }

    async fn transaction(&mut self) -> Result<(), Error> {
        let mut operations = BTreeMap::new();
        for _ in 0..=self.dice.below(50) {
            let key = self.dice.key();
            let operation = match self.dice.below(3) {
                0 => TxnOp::delete(key.clone(), None),
                _ => TxnOp::put(key.clone(), self.dice.value(), None),
            };
            operations.insert(key, operation);
        }
        // Not in the order of keys.
        let mut operations: Vec<_> = operations.into_values().collect();
        let turn = self.dice.below(operations.len() as u64) as usize;
        operations.rotate_left(turn);
        self.client.txn(Txn::new().and_then(operations)).await.map(drop)
    }

    /// A key that goes and comes, or comes and goes, in one revision. etcd refuses it in simple transactions.
    async fn delete_and_put(&mut self) -> Result<(), Error> {
        let value = self.dice.value();
        let operations = match self.dice.below(2) {
            0 => {
                // One of the last keys, so that few go with it.
                let key = vec![0xff, 20];
                let from = DeleteOptions::new().with_from_key();
                [TxnOp::delete(key.clone(), Some(from)), TxnOp::put(key, value, None)]
            }
            _ => {
                let key = self.dice.key();
                let both = [TxnOp::put(key.clone(), value, None), TxnOp::delete(key, None)];
                both.map(|operation| TxnOp::txn(Txn::new().and_then([operation])))
            }
        };
        let done = self.client.txn(Txn::new().and_then(operations)).await;
        let duplicate = |error: &Error| error.to_string().contains("duplicate key");
        assert!(!done.as_ref().is_err_and(duplicate), "{done:?}");
        self.both.extend(done.as_ref().ok().and_then(|done| Some(done.header()?.revision())));
        done.map(drop)
    }

    async fn delete_range(&mut self) -> Result<(), Error> {
        let (a, b) = (self.dice.key(), self.dice.key());
        let (from, to) = (a.clone().min(b.clone()), a.max(b));
        self.client.delete(from, Some(DeleteOptions::new().with_range(to))).await.map(drop)
    }

    async fn delete_all(&mut self) -> Result<(), Error> {
        self.client.delete("", Some(DeleteOptions::new().with_all_keys())).await.map(drop)
    }

    async fn revoke(&mut self) -> Result<(), Error> {
        let lease = 1 + self.dice.below(LEASES) as i64;
        self.client.lease_revoke(lease << 40).await.map(drop)
    }

    /// Not to a revision in which a key went and came: etcd 3.6 drops what came, and ends at the next reading
    /// (etcd issue 22376).
    async fn compact(&mut self, revision: i64) {
        let revision = (0..=revision).rev().find(|revision| !self.both.contains(revision)).unwrap_or(0);
        if revision > self.compacted {
            let options = CompactionOptions::new().with_physical();
            self.client.compact(revision, Some(options)).await.unwrap();
            self.compacted = revision;
        }
    }
}

/// A repository of snapshots, and the built program.
struct Repo {
    directory: tempfile::TempDir,
}

impl Repo {
    fn make(runtime: &Runtime) -> Repo {
        let repo = Repo { directory: tempfile::tempdir().unwrap() };
        let location = Location::Local(repo.path("repository"));
        let cache = repo.path("cache");
        let access = Access { location, credentials: None, cache, upload: None, download: None };
        let cost = KeyCost { memory: 64, passes: 1 };
        let context = Context::system(runtime.handle().clone());
        Repository::init(&context, &access, PASSPHRASE, cost).unwrap();
        repo
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the program says, and what it warns of.
    fn warned(&self, words: &[&str]) -> (Value, Vec<String>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.args(words).arg("--json").env_clear().env("HOME", self.directory.path());
        command.env("ICECORE_REPOSITORY", self.path("repository"));
        command.env("ICECORE_CACHE_DIR", self.path("cache")).env("ICECORE_PASSPHRASE", PASSPHRASE);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{words:?}: {:?}: {error}", output.status);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let warnings = report["warnings"].as_array().cloned().unwrap_or_default();
        let warnings: Vec<String> = warnings.iter().map(|w| w.as_str().unwrap().to_owned()).collect();
        assert_eq!(output.status.code() == Some(3), !warnings.is_empty(), "{report}");
        (report, warnings)
    }

    /// Nothing is warned of but keys whose lease was revoked before the snapshot.
    fn run(&self, words: &[&str]) -> Value {
        let (report, warnings) = self.warned(words);
        assert!(warnings.iter().all(|w| w.contains("have a lease that had ended")), "{report}");
        report
    }

    /// Takes a snapshot, on one of the ways that can be proved, and proves it; its revision.
    fn backup(&self, source: &Source) -> i64 {
        let ways: [&[&str]; 3] = [&[], &["--etcd-capture", "snapshot"], &["--etcd-capture", "watch"]];
        let way =
            ways[if self.path("repository/snapshots").exists() { source.dice.below(3) as usize } else { 0 }];
        let report = self.run(&[&["backup", "--etcd", &source.server.url, "--prove"], way].concat());
        let hash = &source.truth.hashes[&source.truth.revision];
        // Of a revision that is compacted itself a server may tell a hash that it made before.
        if source.compacted < source.truth.revision {
            assert_eq!(report["etcd"]["hash_kv"]["compact_revision"], source.compacted, "{report}");
        }
        if report["etcd"]["hash_kv"]["compact_revision"] == hash.1 {
            assert_eq!(report["etcd"]["hash_kv"]["hash"], hash.0, "{report}");
        }
        assert_eq!(report["etcd"]["revision"], source.truth.revision);
        source.truth.revision
    }

    fn restore(&self, revision: i64, history: &str) -> (PathBuf, Value) {
        let file = self.path(&format!("{revision}-{history}.db"));
        let point = format!("rev:{revision}");
        let name = file.to_str().unwrap();
        let report = self.run(&["restore", &point, "--to-etcd-file", name, "--history", history]);
        (file, report["etcd_file"].clone())
    }
}

/// A history, its snapshots, and what was true.
struct World {
    version: &'static str,
    runtime: Runtime,
    source: Source,
    repo: Repo,
    last: i64,
}

impl World {
    fn make(version: &'static str, seed: u64, revisions: i64) -> World {
        println!("etcd {version}, SEED={seed}, {revisions} revisions of history");
        let runtime = common::runtime();
        let mut source = runtime.block_on(Source::start(Server::etcd(version), seed));
        let repo = Repo::make(&runtime);
        let mut last = 0;
        let mut next = 20;
        while source.truth.revision < revisions {
            runtime.block_on(source.step());
            if source.truth.revision < next {
                continue;
            }
            last = repo.backup(&source);
            next = last + 1 + source.dice.below(40) as i64;
            if source.dice.below(3) == 0 {
                let back = source.dice.below(last as u64 / 2 + 1) as i64;
                runtime.block_on(source.compact((last - back).max(2)));
            }
        }
        last = last.max(repo.backup(&source));
        // Most of it is gone in the source by the time of the restores.
        runtime.block_on(source.compact(last * 2 / 3));
        World { version, runtime, source, repo, last }
    }

    /// Revisions to bring back: at least three of ten that the source has no more.
    fn draw(&self, count: usize) -> Vec<i64> {
        let (dice, gone) = (&self.source.dice, self.source.compacted as u64);
        let mut drawn = BTreeSet::new();
        while drawn.len() * 10 < count * 3 {
            drawn.insert(2 + dice.below(gone - 2) as i64);
        }
        while drawn.len() < count {
            drawn.insert(2 + dice.below(self.last as u64 - 1) as i64);
        }
        drawn.into_iter().collect()
    }

    /// Whether a server made from `file` says what the source said at the revision.
    fn compare(
        &self,
        file: &Path,
        options: &[&str],
        revision: i64,
        earlier: Option<i64>,
    ) -> Result<(u32, i64), String> {
        let server = Server::etcd_from(self.version, file, options);
        self.runtime.block_on(async {
            let mut client = Client::connect([&server.url], None).await.map_err(|e| e.to_string())?;
            let (head, state) = whole_state(&mut client, 0).await.map_err(|e| e.to_string())?;
            if head != revision {
                return Err(format!("it begins at revision {head}"));
            }
            if state != self.source.truth.state(revision) {
                return Err("its keys are other ones".into());
            }
            if let Some(earlier) = earlier {
                let (_, state) = whole_state(&mut client, earlier).await.map_err(|e| e.to_string())?;
                if state != self.source.truth.state(earlier) {
                    return Err(format!("its keys at revision {earlier} are other ones"));
                }
            }
            // At the head, which etcd 3.5 hashes also where it is the compaction point.
            Ok(hash(&mut client, 0).await)
        })
    }

    /// Brings a revision back with the history that the source had when it was current.
    fn check(&self, revision: i64) {
        let (hash, compacted) = self.source.truth.hashes[&revision];
        let says = |what: &str| {
            format!("etcd {}, revision {revision} compacted at {compacted}: {what}", self.version)
        };
        let (file, report) = self.repo.restore(revision, &compacted.to_string());
        let said = &report["hash_kv"];
        assert_eq!(
            (&said["hash"], &said["compact_revision"]),
            (&hash.into(), &compacted.into()),
            "{}",
            says("report")
        );
        let middle = compacted.max(1) + (revision - compacted.max(1)) / 2;
        let found = self.compare(&file, &[], revision, (middle > compacted).then_some(middle));
        assert_eq!(found, Ok((hash, compacted)), "{}", says("server"));
        std::fs::remove_file(file).unwrap();
    }

    /// Brings a revision back with another history: the same keys, and the hash that was announced.
    fn check_with(&self, revision: i64, history: &str) {
        let (file, report) = self.repo.restore(revision, history);
        let said = &report["hash_kv"];
        let announced = (said["hash"].as_u64().unwrap() as u32, said["compact_revision"].as_i64().unwrap());
        let found = self.compare(&file, &[], revision, None);
        assert_eq!(found, Ok(announced), "etcd {}, revision {revision}, history {history}", self.version);
        std::fs::remove_file(file).unwrap();
    }

    /// Each revision as the source had it, and every fourth from what its snapshot has by itself.
    fn check_all(&self, revisions: &[i64]) {
        for (number, &revision) in revisions.iter().enumerate() {
            self.check(revision);
            if number % 4 == 0 {
                self.check_with(revision, "snapshot");
            }
        }
    }
}

fn seed() -> u64 {
    let given = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    given.unwrap_or_else(|| {
        let mut word = [0; 8];
        icecore::context::SystemRandom.fill(&mut word);
        u64::from_le_bytes(word)
    })
}

fn soak() -> Option<usize> {
    std::env::var("SOAK").ok().map(|count| count.parse().expect("SOAK is a number"))
}

fn prove(version: &'static str) {
    let (count, revisions) = soak().map_or((8, 150), |count| (count, 1500.max(count as i64 * 2)));
    let world = World::make(version, seed(), revisions);
    let drawn = world.draw(count);
    let gone = drawn.iter().filter(|revision| **revision <= world.source.compacted).count();
    let half = drawn.len().div_ceil(2);
    std::thread::scope(|scope| {
        for part in drawn.chunks(half) {
            let world = &world;
            scope.spawn(move || world.check_all(part));
        }
    });
    for history in ["none", "full"] {
        world.check_with(world.draw(1)[0], history);
    }
    println!("etcd {version}: {count} revisions as the source had them, {gone} of them compacted there");
}

#[test]
fn any_revision_comes_back_as_etcd_3_5_had_it() {
    prove("3.5.1");
}

#[test]
fn any_revision_comes_back_as_etcd_3_6_had_it() {
    prove("3.6.4");
}

#[test]
fn any_revision_comes_back_as_etcd_3_7_had_it() {
    prove("3.7.3");
}

/// A comparison that overlooks a difference proves nothing.
#[test]
fn one_flipped_byte_of_a_value_is_noticed() {
    let world = World::make("3.6.4", seed(), 60);
    let truth = &world.source.truth;
    // The last revision with a value that stands in the file once; the very last may have no keys.
    let longest = |revision: i64| {
        let values = truth.state(revision).into_values().map(|fields| fields.4);
        values.max_by_key(|value| value.len()).filter(|value| value.len() >= 12)
    };
    let with_value =
        |(&revision, (hash, _)): (&i64, &(u32, i64))| Some((revision, *hash, longest(revision)?));
    let (revision, hash, value) = truth.hashes.iter().rev().find_map(with_value).expect("a value");
    let (file, _) = world.repo.restore(revision, "0");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(value.len()).position(|window| window == &value[..]).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let found = world.compare(&file, &DAMAGED, revision, None);
    assert_eq!(found, Err("its keys are other ones".into()));
    let server = Server::etcd_from("3.6.4", &file, &DAMAGED);
    let found = world.runtime.block_on(async {
        let mut client = Client::connect([&server.url], None).await.unwrap();
        client.hash_kv(revision).await.unwrap().hash()
    });
    assert_ne!(found, hash);
}

/// Watchers of a cluster that was brought back need revisions that grow: etcdutl adds a record that is no
/// key.
#[test]
fn a_cluster_that_was_restored_with_higher_revisions_is_captured_to_its_hash() {
    let world = World::make("3.6.4", seed(), 60);
    let (file, _) = world.repo.restore(world.last, "none");
    let server = Server::etcd_from("3.6.4", &file, &["--bump-revision", "1000", "--mark-compacted"]);
    let repo = Repo::make(&world.runtime);
    let (now, mut state) = world.runtime.block_on(async {
        let mut client = Client::connect([&server.url], None).await.unwrap();
        client.put("after", "it", None).await.unwrap();
        whole_state(&mut client, 0).await.unwrap()
    });
    // Raised from the last record, which is below the file's revision where that ends in deletions.
    assert!(now > world.last + 900 && now <= world.last + 1001, "{now}");
    let report = repo.run(&["backup", "--etcd", &server.url]);
    let proved = &report["etcd"]["hash_kv"];
    assert_eq!((&proved["revision"], &proved["compact_revision"]), (&now.into(), &(now - 1).into()));
    repo.run(&["verify", "latest", "--against-source", "--etcd", &server.url]);
    let (file, report) = repo.restore(now, "snapshot");
    let again = Server::etcd_from("3.6.4", &file, &[]);
    let (found, found_hash) = world.runtime.block_on(async {
        let mut client = Client::connect([&again.url], None).await.unwrap();
        let found = whole_state(&mut client, 0).await.unwrap();
        (found, hash(&mut client, 0).await.0)
    });
    // The record has an empty name, and nothing else.
    state.remove(&Vec::new());
    let (revision, mut keys) = found;
    keys.remove(&Vec::new());
    assert_eq!((revision, keys), (now, state));
    assert_eq!(report["hash_kv"]["hash"], found_hash);
}

#[test]
fn what_ranges_captured_comes_back_without_the_sources_hash() {
    let runtime = common::runtime();
    let mut source = runtime.block_on(Source::start(Server::etcd("3.6.4"), seed()));
    let repo = Repo::make(&runtime);
    for _ in 0..3 {
        (0..15).for_each(|_| runtime.block_on(source.step()));
        // Where nothing lives there is no order to be unsure of.
        runtime.block_on(async {
            source.client.put("lives", "on", None).await.unwrap();
            source.note().await;
        });
        repo.warned(&["backup", "--etcd", &source.server.url, "--etcd-capture", "range"]);
    }
    for history in ["snapshot", "none"] {
        let file = repo.path(&format!("{history}.db"));
        let name = file.to_str().unwrap();
        let (report, warnings) =
            repo.warned(&["restore", "latest", "--to-etcd-file", name, "--history", history]);
        assert!(warnings.iter().any(|warning| warning.contains("captured by ranges")), "{warnings:?}");
        let server = Server::etcd_from("3.6.4", &file, &[]);
        let (found, found_hash) = runtime.block_on(async {
            let mut client = Client::connect([&server.url], None).await.unwrap();
            let found = whole_state(&mut client, 0).await.unwrap();
            (found, hash(&mut client, 0).await.0)
        });
        assert_eq!(found, (source.truth.revision, source.truth.now.clone()), "history {history}");
        assert_eq!(report["etcd_file"]["hash_kv"]["hash"], found_hash);
    }
}
