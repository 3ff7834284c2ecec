//! What a Milvus needs, seen to at backup and restore: on real servers that hold what a real Milvus 2.3.5
//! stored, each key as it was, and objects of the sizes that it had.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::Server;
use common::bucket::World;
use data_encoding::BASE64;
use etcd_client::Client;
use icecore::backup::{self, EtcdOptions};
use icecore::context::Context;
use icecore::etcd::Access;
use icecore::guard;
use icecore::milvus::Queue;
use icecore::progress::{Amount, Phase, Progress};
use icecore::restore;
use prost::Message;

fn keys() -> BTreeMap<String, Vec<u8>> {
    let lines = include_str!("milvus/2.3.5.keys").lines().filter_map(|line| line.split_once(' '));
    lines.map(|(key, value)| (key.to_owned(), BASE64.decode(value.as_bytes()).unwrap())).collect()
}

fn objects() -> BTreeMap<String, Vec<u8>> {
    let lines = include_str!("milvus/2.3.5.objects").lines().filter_map(|line| line.split_once(' '));
    lines.map(|(size, key)| (key.to_owned(), vec![0; size.parse().unwrap()])).collect()
}

/// What a Milvus stored, on an etcd and in a bucket.
struct Stored {
    world: World,
    etcd: Server,
}

fn put(world: &World, etcd: &str, keys: &BTreeMap<String, Vec<u8>>) {
    world.runtime.block_on(async {
        let mut client = Client::connect([etcd], None).await.unwrap();
        for (key, value) in keys {
            client.put(key.as_str(), value.clone(), None).await.unwrap();
        }
    });
}

fn get(world: &World, etcd: &str, key: &str) -> Vec<u8> {
    world.runtime.block_on(async {
        let mut client = Client::connect([etcd], None).await.unwrap();
        client.get(key, None).await.unwrap().kvs()[0].value().to_vec()
    })
}

impl Stored {
    fn new() -> Stored {
        let (world, etcd) = (World::new(), Server::etcd("3.5.1"));
        put(&world, &etcd.url, &keys());
        world.fill(objects());
        Stored { world, etcd }
    }

    fn options(&self) -> backup::Options {
        let access = Access { endpoints: vec![self.etcd.url.clone()], ..Access::default() };
        let etcd = EtcdOptions { access, prefix: Vec::new(), capture: None };
        backup::Options { etcd: Some(etcd), ..self.world.options() }
    }

    fn backup(&self, context: &Context) -> guard::Report {
        let milvus = guard::Options { check: true, ..guard::Options::default() };
        guard::backup(&self.world.open_with(context), &self.options(), &milvus).unwrap()
    }
}

/// Does something once, when objects are about to be read and etcd was.
struct Meanwhile<F> {
    done: AtomicBool,
    act: F,
}

impl<F: Fn() + Send + Sync> Progress for Meanwhile<F> {
    fn begin(&self, phase: Phase) {
        if phase.name == "reading objects" && !self.done.swap(true, Ordering::SeqCst) {
            (self.act)();
        }
    }
    fn expect(&self, _: Amount) {}
    fn settled(&self) {}
    fn advance(&self, _: Amount) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
}

/// `datapb.SegmentInfo`: its state, 6 for one that is dropped.
#[derive(Clone, PartialEq, Message)]
struct State {
    #[prost(int32, tag = "6")]
    state: i32,
}

#[test]
fn what_the_collector_takes_between_etcd_and_the_bucket_has_the_snapshot_taken_again() {
    let stored = Arc::new(Stored::new());
    let (segment, info) = keys().into_iter().find(|(key, _)| key.contains("/datacoord-meta/s/")).unwrap();
    let id = segment.rsplit('/').next().unwrap().to_owned();
    // Fields that come later count, and nothing is lost.
    let dropped = [info, State { state: 6 }.encode_to_vec()].concat();
    let taken: Vec<String> = objects().into_keys().filter(|key| key.contains(&format!("/{id}/"))).collect();
    assert!(!taken.is_empty());
    let collector = stored.clone();
    let act = move || {
        // On a thread of its own: this is called on one that may not wait.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let client = collector.world.client();
                for key in &taken {
                    let delete = client.delete_object().bucket(&collector.world.bucket).key(key);
                    collector.world.runtime.block_on(delete.send()).unwrap();
                }
                put(
                    &collector.world,
                    &collector.etcd.url,
                    &BTreeMap::from([(segment.clone(), dropped.clone())]),
                );
            });
        });
    };
    let context = Context {
        progress: Arc::new(Meanwhile { done: AtomicBool::new(false), act }),
        ..stored.world.context()
    };
    let report = stored.backup(&context);
    assert_eq!((report.attempts, &report.backup.warnings[..]), (2, &[][..]));
    assert!(report.milvus[0].checked.is_complete());
    let snapshots = stored.world.open().view().unwrap().snapshots;
    assert_eq!(snapshots.iter().map(|info| info.id).collect::<Vec<_>>(), [report.backup.id]);
}

#[test]
fn what_is_missing_for_good_is_named_after_a_second_try_and_the_snapshot_stays() {
    let stored = Stored::new();
    let lost = objects().into_keys().find(|key| key.contains("/stats_log/")).unwrap();
    let delete = stored.world.client().delete_object().bucket(&stored.world.bucket).key(&lost).send();
    stored.world.runtime.block_on(delete).unwrap();
    let report = stored.backup(&stored.world.context());
    assert_eq!(report.attempts, 2);
    assert!(
        report.backup.warnings.iter().any(|warning| warning.contains(&lost)),
        "{:?}",
        report.backup.warnings
    );
    assert_eq!(stored.world.open().view().unwrap().snapshots.len(), 1);
}

/// `msgpb.MsgPosition`.
#[derive(Clone, PartialEq, Message)]
struct Position {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bytes = "vec", tag = "2")]
    message: Vec<u8>,
    #[prost(string, tag = "3")]
    group: String,
    #[prost(uint64, tag = "4")]
    timestamp: u64,
}

#[test]
fn places_in_pulsar_are_warned_of_and_become_its_begin_where_it_begins_anew() {
    let stored = Stored::new();
    let position = |message: &[u8]| {
        let (key, value) = keys().into_iter().find(|(key, _)| key.contains("/channel-cp/")).unwrap();
        let mut position = Position::decode(&value[..]).unwrap();
        position.message = message.to_vec();
        put(&stored.world, &stored.etcd.url, &BTreeMap::from([(key.clone(), position.encode_to_vec())]));
        (key, position)
    };
    let (key, old) = position(&[8, 90, 16, 7, 24, 0, 32, 0, 48, 0]);
    let id = stored.backup(&stored.world.context()).backup.id;
    let repository = stored.world.open();
    let info = repository.view().unwrap().snapshots.into_iter().find(|info| info.id == id).unwrap();
    let moment = info.into();
    for new_queue in [false, true] {
        let target = Server::etcd("3.5.1");
        let access = Access { endpoints: vec![target.url.clone()], ..Access::default() };
        let options = restore::Options { etcd: Some(access), new_queue, ..restore::Options::default() };
        let report = restore::run(&repository, &moment, &options, &|_| {}).unwrap();
        let found = Position::decode(&get(&stored.world, &target.url, &key)[..]).unwrap();
        if !new_queue {
            assert!(report.warnings[0].contains("1 channels of Pulsar"), "{:?}", report.warnings);
            assert_eq!(found, old);
            continue;
        }
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
        assert_eq!(Queue::of(&found.message), Queue::Pulsar);
        assert_ne!(found.message, old.message);
        assert_eq!(
            Position { message: Vec::new(), ..found },
            Position { message: Vec::new(), ..old.clone() }
        );
        // All others are of rocksmq, which has another begin.
        let segment =
            keys().into_keys().find(|key| key.contains("/channel-cp/") && *key != self::key(&old)).unwrap();
        let other = Position::decode(&get(&stored.world, &target.url, &segment)[..]).unwrap();
        assert_eq!(other.message, [0; 8]);
    }
}

/// `datapb.FieldBinlog`, as older versions have it: with whole keys of objects.
#[derive(Clone, PartialEq, Message)]
struct Logs {
    #[prost(message, repeated, tag = "2")]
    logs: Vec<Log>,
}

#[derive(Clone, PartialEq, Message)]
struct Log {
    #[prost(string, tag = "4")]
    path: String,
}

/// Etcd and the bucket may be restored one after the other.
#[test]
fn a_new_prefix_of_the_objects_is_in_the_values_also_where_etcd_alone_is_restored() {
    let stored = Stored::new();
    let key = keys().into_keys().find(|key| key.contains("/datacoord-meta/binlog/")).unwrap();
    let path = objects().into_keys().find(|path| path.contains("/insert_log/")).unwrap();
    let logs = Logs { logs: vec![Log { path: path.clone() }] };
    put(&stored.world, &stored.etcd.url, &BTreeMap::from([(key.clone(), logs.encode_to_vec())]));
    let id = stored.backup(&stored.world.context()).backup.id;
    let repository = stored.world.open();
    let info = repository.view().unwrap().snapshots.into_iter().find(|info| info.id == id).unwrap();
    let moment = info.into();
    let restored = |options: restore::Options| {
        let target = Server::etcd("3.5.1");
        let access = Access { endpoints: vec![target.url.clone()], ..Access::default() };
        let options = restore::Options { etcd: Some(access), ..options };
        restore::run(&repository, &moment, &options, &|_| {}).unwrap();
        Logs::decode(&get(&stored.world, &target.url, &key)[..]).unwrap().logs.remove(0).path
    };
    assert_eq!(restored(restore::Options::default()), path);
    let moved = restored(restore::Options { to_prefix: "copy/".into(), ..restore::Options::default() });
    assert_eq!(moved, format!("copy/{path}"));
}

fn key(position: &Position) -> String {
    format!("by-dev/meta/datacoord-meta/channel-cp/{}", position.channel)
}
