//! Versions, locks and settings of a bucket, and what a target refuses: on the built program, against
//! real servers.

mod common;

use std::process::Command;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ObjectLockLegalHoldStatus, ObjectLockMode, Tag, Tagging, VersioningConfiguration,
};
use aws_smithy_types::DateTime;
use common::Server;
use icecore::context::Context;
use icecore::repository::{Access, KeyCost, Repository};
use icecore::storage::{Location, connect};
use serde_json::Value;
use tokio::runtime::Runtime;

const PASSPHRASE: &str = "a long sentence";

struct World {
    runtime: Runtime,
    directory: tempfile::TempDir,
    server: Server,
    s3: Client,
}

struct Done {
    code: i32,
    out: String,
    error: String,
}

impl Done {
    fn ok(self) -> Done {
        assert_eq!(self.code, 0, "{}{}", self.out, self.error);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}{}", self.out, self.error))
    }

    fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl World {
    fn new(server: Server) -> World {
        let runtime = common::runtime();
        let s3 = runtime.block_on(connect(&server.access())).unwrap();
        let world = World { runtime, directory: tempfile::tempdir().unwrap(), server, s3 };
        let path = |name: &str| world.directory.path().join(name);
        let location = Location::Local(path("repository"));
        let access =
            Access { location, credentials: None, cache: path("cache"), upload: None, download: None };
        let context = Context::system(world.runtime.handle().clone());
        Repository::init(&context, &access, PASSPHRASE, KeyCost { memory: 64, passes: 1 }).unwrap();
        world
    }

    fn run(&self, words: &str) -> Done {
        let keys = self.server.access().credentials.unwrap();
        let path = |name: &str| self.directory.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.args(words.split_whitespace()).current_dir(self.directory.path()).env_clear();
        command.env("ICECORE_REPOSITORY", path("repository")).env("ICECORE_CACHE_DIR", path("cache"));
        command.env("ICECORE_PASSPHRASE", PASSPHRASE).env("HOME", self.directory.path());
        command.env("ICECORE_S3_ACCESS_KEY_ID", keys.id).env("ICECORE_S3_SECRET_ACCESS_KEY", keys.secret);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done { code: output.status.code().unwrap(), out: text(&output.stdout), error: text(&output.stderr) }
    }

    fn backup(&self, bucket: &str, more: &str) -> Done {
        self.run(format!("backup --s3 {} --bucket {bucket} --json {more}", self.server.url).trim())
    }

    fn restore(&self, bucket: &str, more: &str) -> Done {
        let to = format!("--to-s3 {} --to-bucket {bucket}", self.server.url);
        self.run(&format!("restore latest --json {to} {more}"))
    }

    fn versioned(&self, bucket: &str) {
        self.server.make_bucket(&self.runtime, bucket);
        let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        let request = self.s3.put_bucket_versioning().bucket(bucket).versioning_configuration(on);
        self.runtime.block_on(request.send()).unwrap();
    }

    fn lockable(&self, bucket: &str) {
        let request = self.s3.create_bucket().bucket(bucket).object_lock_enabled_for_bucket(true);
        self.runtime.block_on(request.send()).unwrap();
    }

    fn put(&self, bucket: &str, key: &str, body: &str) {
        let request = self.s3.put_object().bucket(bucket).key(key).metadata("length", body.len().to_string());
        self.runtime.block_on(request.body(body.as_bytes().to_vec().into()).send()).unwrap();
    }

    fn delete(&self, bucket: &str, key: &str) {
        self.runtime.block_on(self.s3.delete_object().bucket(bucket).key(key).send()).unwrap();
    }

    /// What a bucket has: (key, ETag or "deleted", whether it is current), the oldest first. The SDK gives
    /// markers apart, so they are sorted by time; the test's versions are milliseconds apart.
    fn sequence(&self, bucket: &str) -> Vec<(String, String, bool)> {
        let all = self.runtime.block_on(self.s3.list_object_versions().bucket(bucket).send()).unwrap();
        let mut found = Vec::new();
        for version in all.versions() {
            let (etag, latest) = (version.e_tag().unwrap().to_owned(), version.is_latest().unwrap());
            found.push((
                version.key().unwrap().to_owned(),
                version.last_modified().unwrap().as_nanos(),
                etag,
                latest,
            ));
        }
        for marker in all.delete_markers() {
            let (time, latest) = (marker.last_modified().unwrap().as_nanos(), marker.is_latest().unwrap());
            found.push((marker.key().unwrap().to_owned(), time, "deleted".into(), latest));
        }
        found.sort();
        found.into_iter().map(|(key, _, etag, latest)| (key, etag, latest)).collect()
    }

    /// Versions, deletes and a key that is deleted now.
    fn fill(&self, bucket: &str) {
        let pause = || std::thread::sleep(std::time::Duration::from_millis(5));
        for n in 0..3 {
            self.put(bucket, "a/b", &format!("version {n} ").repeat(100));
            pause();
        }
        self.delete(bucket, "a/b");
        pause();
        self.put(bucket, "a/b", "the last one");
        self.put(bucket, "gone", "it was here");
        pause();
        self.delete(bucket, "gone");
        self.put(bucket, "one", "only one");
    }
}

#[test]
fn every_version_is_captured_once_and_comes_back_in_order() {
    let world = World::new(Server::minio());
    world.versioned("source");
    world.versioned("target");
    world.fill("source");
    let first = world.backup("source", "--versions").ok().json();
    assert_eq!(first["objects"]["count"], 2);
    assert_eq!(first["objects"]["versions"]["count"], 8);
    assert_eq!(first["objects"]["versions"]["read_count"], 4, "the current ones are read once: {first}");
    let again = world.backup("source", "--versions").ok().json();
    assert_eq!(again["requests"]["source_get"], 0, "{again}");
    assert_eq!(again["objects"]["versions"]["unchanged"], 8);
    world.put("source", "one", "a second one");
    let more = world.backup("source", "--versions").ok().json();
    assert_eq!(more["requests"]["source_get"], 1, "only what is new is read: {more}");
    assert_eq!(more["objects"]["versions"]["added"], 1);

    let listed = world.run("ls latest objects a/ --versions --json").ok().lines();
    let kinds: Vec<_> = listed.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["object", "object", "object", "deleted", "object"]);
    let id = listed[1]["version"].as_str().unwrap();
    let body = world.run(&format!("cat latest objects a/b --version {id}")).ok();
    assert_eq!(body.out, "version 1 ".repeat(100));
    assert!(world.run("check --read-data").ok().out.contains("no damage"));

    let report = world.restore("target", "--versions").ok().json();
    assert_eq!((&report["objects"]["written"], &report["objects"]["deleted"]), (&7.into(), &2.into()));
    assert_eq!(world.sequence("target"), world.sequence("source"));
    let nothing = world.restore("target", "--versions").ok().json();
    assert_eq!((&nothing["objects"]["written"], &nothing["objects"]["identical"]), (&0.into(), &3.into()));
    // What was interrupted goes on: a target that has the beginning.
    world.versioned("begun");
    for n in 0..2 {
        world.put("begun", "a/b", &format!("version {n} ").repeat(100));
    }
    world.restore("begun", "--versions").ok();
    assert_eq!(world.sequence("begun"), world.sequence("source"));
    // What is other is refused, and overwritten on request: the current state is the snapshot's.
    world.put("begun", "a/b", "something else");
    let refused = world.restore("begun", "--versions");
    assert_eq!(refused.code, 1, "{}", refused.error);
    assert!(refused.error.contains("target_not_empty"), "{}", refused.error);
    world.restore("begun", "--versions --overwrite").ok();
    let current = |bucket: &str| -> Vec<_> { world.sequence(bucket).into_iter().filter(|v| v.2).collect() };
    assert_eq!(current("begun"), current("source"));
}

#[test]
fn a_bucket_without_versions_is_said_and_is_no_target_for_them() {
    let world = World::new(Server::minio());
    world.server.make_bucket(&world.runtime, "plain");
    world.put("plain", "a", "1");
    let report = world.backup("plain", "--versions").ok().json();
    assert!(report["notes"][0].as_str().unwrap().contains("keeps no versions"), "{report}");
    assert_eq!(world.restore("plain", "--versions").code, 2);
    world.versioned("source");
    world.put("source", "a", "1");
    world.backup("source", "--versions --new-line").ok();
    world.server.make_bucket(&world.runtime, "target");
    let refused = world.restore("target", "--versions");
    assert_eq!(refused.code, 2);
    assert!(refused.error.contains("turn versioning on"), "{}", refused.error);
    assert!(world.sequence("target").is_empty());
}

#[test]
fn locks_and_settings_are_captured_and_restored_on_request() {
    let world = World::new(Server::minio());
    for bucket in ["source", "target", "without"] {
        world.lockable(bucket);
    }
    let until = DateTime::from_secs(4_000_000_000);
    let request = world.s3.put_object().bucket("source").key("locked").body(b"locked".to_vec().into());
    let request = request.object_lock_mode(ObjectLockMode::Governance).object_lock_retain_until_date(until);
    let request = request.object_lock_legal_hold_status(ObjectLockLegalHoldStatus::On);
    world.runtime.block_on(request.send()).unwrap();
    let tagging = Tagging::builder().tag_set(Tag::builder().key("team").value("ice").build().unwrap());
    let request = world.s3.put_bucket_tagging().bucket("source").tagging(tagging.build().unwrap());
    world.runtime.block_on(request.send()).unwrap();
    let policy = |bucket: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":["*"]}},"Action":["s3:GetObject"],"Resource":["arn:aws:s3:::{bucket}/*"]}}]}}"#
        )
    };
    let request = world.s3.put_bucket_policy().bucket("source").policy(policy("source"));
    world.runtime.block_on(request.send()).unwrap();
    let report = world.backup("source", "").ok().json();
    assert_eq!(report["requests"]["source_settings"], 8);
    let again = world.backup("source", "").ok().json();
    assert_eq!(again["requests"]["source_get"], 0, "settings are no GETs of objects: {again}");
    let settings = world.run("ls latest objects --settings --json").ok().lines();
    let names: Vec<_> = settings.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["object-lock", "policy", "tagging", "versioning"]);

    let report = world.restore("without", "").ok().json();
    assert!(report["notes"][0].as_str().unwrap().contains("--object-locks"), "{report}");
    let lock = |bucket: &str| {
        let head = world.s3.head_object().bucket(bucket).key("locked").send();
        let head = world.runtime.block_on(head).unwrap();
        let hold = head.object_lock_legal_hold_status().cloned();
        (head.object_lock_mode().cloned(), head.object_lock_retain_until_date().copied(), hold)
    };
    assert_eq!(lock("without").0, None);
    let report = world.restore("target", "--object-locks --bucket-settings").ok().json();
    assert_eq!(lock("target"), lock("source"));
    assert_eq!(report["settings"], serde_json::json!(["tagging", "policy"]));
    let tags = world.runtime.block_on(world.s3.get_bucket_tagging().bucket("target").send()).unwrap();
    assert_eq!((tags.tag_set()[0].key(), tags.tag_set()[0].value()), ("team", "ice"));
    let there = world.runtime.block_on(world.s3.get_bucket_policy().bucket("target").send()).unwrap();
    let there: Value = serde_json::from_str(there.policy().unwrap()).unwrap();
    assert_eq!(there["Statement"][0]["Resource"][0], "arn:aws:s3:::target/*");
    // Again: all is there. Another setting is refused before anything is written.
    let again = world.restore("target", "--object-locks --bucket-settings").ok().json();
    assert_eq!((&again["settings"], &again["objects"]["identical"]), (&serde_json::json!([]), &1.into()));
    let request =
        world.s3.put_bucket_policy().bucket("target").policy(policy("target").replace("Allow", "Deny"));
    world.runtime.block_on(request.send()).unwrap();
    let refused = world.restore("target", "--bucket-settings");
    assert!(refused.code == 1 && refused.error.contains("policy"), "{}", refused.error);
    // An unlocked bucket cannot lock.
    world.versioned("unlocked");
    assert_eq!(world.restore("unlocked", "--object-locks").code, 2);
}

#[test]
fn objects_that_a_target_refuses_are_listed_and_the_others_are_restored() {
    // moto takes what MinIO refuses.
    let (moto, minio) = (Server::moto(), Server::minio());
    let world = World::new(moto);
    world.server.make_bucket(&world.runtime, "source");
    minio.make_bucket(&world.runtime, "target");
    let long = "n".repeat(256);
    for key in ["a", "b", &long, "z"] {
        world.put("source", key, key);
    }
    world.backup("source", "--strict").ok();
    let restore = format!("restore latest --json --to-s3 {} --to-bucket target", minio.url);
    let report = world.run(&restore);
    assert_eq!(report.code, 3, "{}{}", report.out, report.error);
    let report = report.json();
    assert_eq!((&report["objects"]["written"], &report["objects"]["refused"]), (&3.into(), &1.into()));
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(warning.contains("refused") && warning.contains(&long), "{warning}");
    // A bucket that is not there is no refusal of an object.
    let none = world.run(&restore.replace("target", "nowhere"));
    assert!(none.code == 1 && none.error.contains("no_bucket"), "{}", none.error);
}

#[test]
fn a_storage_class_comes_back_where_the_target_knows_it_and_is_said_once_where_not() {
    let world = World::new(Server::moto());
    let minio = Server::minio();
    for bucket in ["source", "target"] {
        world.server.make_bucket(&world.runtime, bucket);
    }
    minio.make_bucket(&world.runtime, "target");
    for key in ["a", "b"] {
        let request = world.s3.put_object().bucket("source").key(key).body(b"cold".to_vec().into());
        let request = request.storage_class(aws_sdk_s3::types::StorageClass::StandardIa);
        world.runtime.block_on(request.send()).unwrap();
    }
    world.backup("source", "").ok();
    world.restore("target", "").ok();
    let head = world.runtime.block_on(world.s3.head_object().bucket("target").key("a").send()).unwrap();
    assert_eq!(head.storage_class().map(|class| class.as_str()), Some("STANDARD_IA"));
    let report = world.run(&format!("restore latest --json --to-s3 {} --to-bucket target", minio.url));
    assert_eq!(report.code, 3, "{}{}", report.out, report.error);
    let report = report.json();
    assert_eq!(report["objects"]["written"], 2);
    let warnings = report["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{report}");
    assert!(warnings[0].as_str().unwrap().contains("STANDARD_IA"));
}

#[test]
fn versions_are_captured_of_a_store_that_lists_delete_markers_apart_and_restored_to_another() {
    let (world, minio) = (World::new(Server::moto()), World::new(Server::minio()));
    world.versioned("source");
    minio.versioned("target");
    // moto's times are whole seconds, and nothing else tells when a marker was made.
    let second = || std::thread::sleep(std::time::Duration::from_millis(1100));
    world.put("source", "a", "first");
    second();
    world.delete("source", "a");
    second();
    world.put("source", "a", "second");
    world.put("source", "b", "only");
    let first = world.backup("source", "--versions").ok().json();
    assert_eq!(first["objects"]["versions"]["count"], 4, "{first}");
    let again = world.backup("source", "--versions").ok().json();
    assert_eq!(again["requests"]["source_get"], 0, "{again}");
    world.run(&format!("restore latest --versions --to-s3 {} --to-bucket target", minio.server.url)).ok();
    assert_eq!(minio.sequence("target"), world.sequence("source"));
}

#[test]
fn at_a_revision_between_two_snapshots_objects_are_the_versions_of_its_likely_time() {
    let world = World::new(Server::minio());
    let etcd = Server::etcd("3.6.4");
    world.versioned("data");
    world.server.make_bucket(&world.runtime, "target");
    let mut client = world.runtime.block_on(etcd_client::Client::connect([&etcd.url], None)).unwrap();
    let mut revise = || drop(world.runtime.block_on(client.put("key", "value", None)).unwrap());
    let backup = || world.backup("data", &format!("--versions --etcd {}", etcd.url)).ok();
    for key in ["steady", "changed", "dropped"] {
        world.put("data", key, "1");
    }
    let begun = std::time::Instant::now();
    revise();
    backup();
    world.put("data", "changed", "22");
    world.put("data", "brief", "22");
    world.delete("data", "dropped");
    revise();
    // So that half of the time between the two snapshots lies between these changes and the next.
    std::thread::sleep(begun.elapsed() + std::time::Duration::from_secs(1));
    world.put("data", "changed", "333");
    world.put("data", "later", "333");
    world.delete("data", "brief");
    revise();
    backup();
    let listed = |point: &str| {
        let lines = world.run(&format!("ls {point} objects --json")).ok().lines();
        let text =
            |line: &Value| format!("{} {} {}", line["key"], line["size"], line["nearest"]).replace('"', "");
        lines.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(listed("rev:2"), ["changed 1 null", "dropped 1 null", "steady 1 null"]);
    let between =
        ["brief 2 version", "changed 2 version", "dropped 1 version", "later 3 version", "steady 1 null"];
    assert_eq!(listed("rev:3"), between);
    assert_eq!(listed("rev:4"), ["changed 3 null", "later 3 null", "steady 1 null"]);
    assert_eq!(world.run("cat rev:3 objects changed").ok().out, "22");
    let to = format!("--to-s3 {} --to-bucket target", world.server.url);
    let report = world.run(&format!("restore rev:3 --json {to}")).ok().json();
    assert_eq!((&report["by_version"], &report["nearest"]), (&4.into(), &0.into()), "{report}");
    assert!(report["when"]["from"].as_str() < report["when"]["likely"].as_str(), "{report}");
    let target = world.sequence("target").into_iter().map(|(key, ..)| key);
    assert_eq!(target.collect::<std::collections::BTreeSet<_>>().len(), 5);
}
