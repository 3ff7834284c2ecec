//! etcd's own file: read as real servers write it, and never believed blindly.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use common::Server;
use etcd_client::{Client, CompactionOptions, PutOptions, Txn, TxnOp};
use icecore::context::{Cancel, Random, Seeded};
use icecore::etcd::{Access, Etcd};
use icecore::etcd_file::{EtcdFile, Fault, KeyRecord};
use icecore::source::{Spooled, snapshot};
use tokio::runtime::Runtime;

/// Both supported generations; their files differ in small ways.
const VERSIONS: [&str; 2] = ["3.5.1", "3.6.4"];

struct World {
    runtime: Runtime,
    server: Server,
}

impl World {
    fn start(version: &str) -> World {
        World { runtime: common::runtime(), server: Server::etcd(version) }
    }

    fn client(&self) -> Client {
        self.runtime.block_on(Client::connect([&self.server.url], None)).unwrap()
    }

    fn etcd(&self) -> Etcd {
        let access = Access { endpoints: vec![self.server.url.clone()], ..Access::default() };
        Etcd::connect(self.runtime.handle(), &access).unwrap().0
    }

    fn spool(&self, directory: &tempfile::TempDir) -> Spooled {
        snapshot(&self.etcd(), directory.path(), &Cancel::default(), |_| {}).unwrap()
    }

    /// Puts, deletes, a lease, a transaction that deletes and puts one key, a large value. The last
    /// revision.
    fn history(&self) -> i64 {
        let mut client = self.client();
        self.runtime.block_on(async {
            let lease = client.lease_grant(3600, None).await.unwrap().id();
            for n in 0..300 {
                let options = (n % 10 == 0).then(|| PutOptions::new().with_lease(lease));
                client.put(format!("key/{}", n % 100), format!("value {n}"), options).await.unwrap();
            }
            client.delete("key/7", None).await.unwrap();
            let both = [TxnOp::put("a", "1", None), TxnOp::put("b", "2", None), TxnOp::delete("key/8", None)];
            client.txn(Txn::new().and_then(both)).await.unwrap();
            let last = client.put("large", vec![7; 1_400_000], None).await.unwrap();
            last.header().unwrap().revision()
        })
    }
}

fn encoded(record: &KeyRecord) -> (Vec<u8>, Vec<u8>) {
    let mut raw = Vec::new();
    let (name, value) = record.encode(&mut raw);
    (name.to_vec(), value.to_vec())
}

fn records(file: &EtcdFile, from: i64) -> Vec<KeyRecord> {
    let mut records = Vec::new();
    file.records(from, |record| {
        records.push(record);
        Ok::<bool, Fault>(true)
    })
    .unwrap();
    records
}

/// What is alive after all records.
fn state(records: &[KeyRecord]) -> BTreeMap<Vec<u8>, KeyRecord> {
    let mut state = BTreeMap::new();
    for record in records {
        match record.tombstone {
            true => state.remove(&record.kv.key),
            false => state.insert(record.kv.key.clone(), record.clone()),
        };
    }
    state
}

#[test]
fn a_file_holds_what_the_server_says_to_the_last_field() {
    for version in VERSIONS {
        let world = World::start(version);
        let revision = world.history();
        let directory = tempfile::tempdir().unwrap();
        let spooled = world.spool(&directory);
        let file = EtcdFile::open(spooled.file, spooled.size).unwrap();
        assert_eq!((file.revision(), file.compacted()), (revision, 0), "{version}");
        let all = records(&file, 0);
        assert!(all.is_sorted_by_key(|record| (record.revision, record.sub)), "{version}");
        assert_eq!(all.iter().filter(|record| record.revision == revision - 1).count(), 3, "{version}");
        let state = state(&all);
        let mut client = world.client();
        let answer =
            world.runtime.block_on(client.get("", Some(etcd_client::GetOptions::new().with_all_keys())));
        let answer = answer.unwrap();
        assert_eq!(answer.kvs().len(), state.len(), "{version}");
        for kv in answer.kvs() {
            let found = &state[kv.key()];
            let fields = (kv.create_revision(), kv.mod_revision(), kv.version(), kv.lease(), kv.value());
            let kv = &found.kv;
            assert_eq!(fields, (kv.create_revision, kv.mod_revision, kv.version, kv.lease, &kv.value[..]));
        }
        let mut leases = 0;
        file.entries("lease", |_, _| {
            leases += 1;
            Ok::<(), Fault>(())
        })
        .unwrap();
        assert_eq!(leases, 1, "{version}");
    }
}

#[test]
fn records_are_written_byte_for_byte_as_etcd_does() {
    for version in VERSIONS {
        let world = World::start(version);
        world.history();
        let directory = tempfile::tempdir().unwrap();
        let spooled = world.spool(&directory);
        let file = EtcdFile::open(spooled.file, spooled.size).unwrap();
        let mut raw = Vec::new();
        file.entries("key", |key, value| {
            raw.push((key.to_vec(), value.to_vec()));
            Ok::<(), Fault>(())
        })
        .unwrap();
        let records = records(&file, 0);
        assert!(
            records.iter().any(|record| record.tombstone)
                && records.iter().any(|record| record.kv.lease != 0)
        );
        let ours: Vec<_> = records.iter().map(encoded).collect();
        assert!(ours == raw, "{version}");
    }
}

#[test]
fn reading_from_a_revision_gives_only_what_came_since() {
    let world = World::start("3.6.4");
    let revision = world.history();
    let directory = tempfile::tempdir().unwrap();
    let spooled = world.spool(&directory);
    let file = EtcdFile::open(spooled.file, spooled.size).unwrap();
    let all = records(&file, 0);
    for from in [1, 2, 150, revision - 1, revision, revision + 1] {
        let expected: Vec<KeyRecord> = all.iter().filter(|record| record.revision >= from).cloned().collect();
        assert_eq!(records(&file, from), expected, "from {from}");
    }
}

#[test]
fn a_compaction_is_seen_and_the_newest_record_of_each_key_stays() {
    for version in VERSIONS {
        let world = World::start(version);
        world.history();
        let directory = tempfile::tempdir().unwrap();
        let spooled = world.spool(&directory);
        let before = state(&records(&EtcdFile::open(spooled.file, spooled.size).unwrap(), 0));
        let mut client = world.client();
        let options = CompactionOptions::new().with_physical();
        world.runtime.block_on(client.compact(250, Some(options))).unwrap();
        world.runtime.block_on(client.defragment()).unwrap();
        let spooled = world.spool(&directory);
        let file = EtcdFile::open(spooled.file, spooled.size).unwrap();
        assert_eq!(file.compacted(), 250, "{version}");
        assert_eq!(state(&records(&file, 0)), before, "{version}");
    }
}

#[test]
fn an_empty_etcd_has_a_file_without_records() {
    for version in VERSIONS {
        let world = World::start(version);
        let directory = tempfile::tempdir().unwrap();
        let spooled = world.spool(&directory);
        let file = EtcdFile::open(spooled.file, spooled.size).unwrap();
        assert_eq!((file.revision(), records(&file, 0).len()), (1, 0), "{version}");
    }
}

/// The file comes over a network; its checksum is verified, and yet nothing in it may bring the
/// program down.
#[test]
fn any_damage_in_a_file_is_an_error_or_other_records_never_a_crash() {
    let world = World::start("3.5.1");
    world.history();
    let directory = tempfile::tempdir().unwrap();
    let spooled = world.spool(&directory);
    let mut whole = vec![0; spooled.size as usize];
    spooled.file.read_exact_at(&mut whole, 0).unwrap();
    let random = Seeded::new(5);
    for round in 0..400 {
        let mut word = [0; 9];
        random.fill(&mut word);
        let at = u64::from_le_bytes(word[..8].try_into().unwrap()) as usize % whole.len().min(200_000);
        let file = tempfile::tempfile_in(directory.path()).unwrap();
        let mut damaged = whole.clone();
        damaged[at] ^= word[8].max(1);
        let length = if round % 10 == 0 { at } else { damaged.len() };
        file.write_all_at(&damaged[..length], 0).unwrap();
        let Ok(file) = EtcdFile::open(file, length as u64) else { continue };
        let _ = file.records(0, |_| Ok::<bool, Fault>(true));
        let _ = file.entries("lease", |_, _| Ok::<(), Fault>(()));
    }
}
