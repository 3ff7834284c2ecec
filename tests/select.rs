//! What is picked out of a snapshot, and what is said about it: on the built program, against real
//! servers.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use common::Server;
use etcd_client::{Client, CompactionOptions, GetOptions, Txn, TxnOp};
use icecore::context::{Context, Random, Seeded};
use icecore::format::{Content, Item, KeyState, Snapshot, Stored};
use icecore::id::ChunkId;
use icecore::repository::{Access, KeyCost, Repository, for_each_chunk};
use icecore::storage::{Location, connect};
use icecore::store::Tuning;
use icecore::tree::{self, Edit, ReadWrite};
use serde_json::Value;
use tokio::runtime::Runtime;

const PASSPHRASE: &str = "a long sentence";
const BUCKET: &str = "data";

/// What a command did.
struct Done {
    code: i32,
    out: Vec<u8>,
    error: String,
}

impl Done {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    fn json(&self) -> Vec<Value> {
        self.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn ok(self) -> Done {
        assert_eq!(self.code, 0, "{}{}", self.text(), self.error);
        self
    }
}

struct World {
    runtime: Runtime,
    directory: tempfile::TempDir,
    etcd: Option<Server>,
    minio: Option<Server>,
}

impl World {
    fn new(etcd: bool, minio: bool) -> World {
        let runtime = common::runtime();
        let etcd = etcd.then(|| Server::etcd("3.6.4"));
        let minio = minio.then(Server::minio);
        if let Some(minio) = &minio {
            minio.make_bucket(&runtime, BUCKET);
        }
        let world = World { runtime, directory: tempfile::tempdir().unwrap(), etcd, minio };
        let cost = KeyCost { memory: 64, passes: 1 };
        Repository::init(&world.context(), &world.access(), PASSPHRASE, cost).unwrap();
        world
    }

    fn context(&self) -> Context {
        Context::system(self.runtime.handle().clone())
    }

    fn access(&self) -> Access {
        let path = |name: &str| self.directory.path().join(name);
        let location = Location::Local(path("repository"));
        Access { location, credentials: None, cache: path("cache"), upload: None, download: None }
    }

    fn open(&self) -> Repository {
        Repository::open(&self.context(), &self.access(), PASSPHRASE).unwrap()
    }

    /// Runs the program.
    fn run<T: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = T>) -> Done {
        let path = |name: &str| self.directory.path().join(name);
        let keys = self.minio.as_ref().and_then(|minio| minio.access().credentials);
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.args(arguments).current_dir(self.directory.path()).env_clear();
        command.env("ICECORE_REPOSITORY", path("repository")).env("ICECORE_CACHE_DIR", path("cache"));
        command.env("ICECORE_PASSPHRASE", PASSPHRASE).env("HOME", self.directory.path());
        if let Some(keys) = keys {
            command.env("ICECORE_S3_ACCESS_KEY_ID", keys.id).env("ICECORE_S3_SECRET_ACCESS_KEY", keys.secret);
        }
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        Done { code: output.status.code().unwrap(), out: output.stdout, error }
    }

    /// Runs the program with words, then with what names the sources.
    fn with_sources(&self, words: &str) -> Done {
        let mut arguments: Vec<String> = words.split(' ').map(str::to_owned).collect();
        if let Some(etcd) = &self.etcd {
            arguments.extend(["--etcd".into(), etcd.url.clone()]);
        }
        if let Some(minio) = &self.minio {
            arguments.extend(["--s3".into(), minio.url.clone(), "--bucket".into(), BUCKET.into()]);
        }
        self.run(arguments)
    }

    fn words(&self, words: &str) -> Done {
        self.run(words.split(' '))
    }

    fn put(&self, key: &str, body: &[u8]) {
        let minio = self.minio.as_ref().unwrap();
        self.runtime.block_on(async {
            let client = connect(&minio.access()).await.unwrap();
            let put = client.put_object().bucket(BUCKET).key(key).body(body.to_vec().into());
            put.send().await.unwrap();
        });
    }

    fn delete(&self, key: &str) {
        let minio = self.minio.as_ref().unwrap();
        self.runtime.block_on(async {
            let client = connect(&minio.access()).await.unwrap();
            client.delete_object().bucket(BUCKET).key(key).send().await.unwrap();
        });
    }

    fn objects(&self, bucket: &str) -> BTreeSet<String> {
        let minio = self.minio.as_ref().unwrap();
        self.runtime.block_on(async {
            let client = connect(&minio.access()).await.unwrap();
            let page = client.list_objects_v2().bucket(bucket).send().await.unwrap();
            page.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
        })
    }
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

/// Puts and deletes (values of none) in one transaction; the revision it makes.
fn change(runtime: &Runtime, server: &Server, changes: &[(&[u8], Option<&[u8]>)]) -> i64 {
    runtime.block_on(async {
        let mut client = Client::connect([&server.url], None).await.unwrap();
        let operations = changes.iter().map(|(key, value)| match value {
            Some(value) => TxnOp::put(*key, *value, None),
            None => TxnOp::delete(*key, None),
        });
        let answer = client.txn(Txn::new().and_then(operations.collect::<Vec<_>>())).await.unwrap();
        answer.header().unwrap().revision()
    })
}

fn keys_of(runtime: &Runtime, server: &Server) -> BTreeMap<Vec<u8>, Vec<u8>> {
    runtime.block_on(async {
        let mut client = Client::connect([&server.url], None).await.unwrap();
        let answer = client.get("", Some(GetOptions::new().with_all_keys())).await.unwrap();
        answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec())).collect()
    })
}

fn key_names(runtime: &Runtime, server: &Server) -> BTreeSet<String> {
    keys_of(runtime, server).keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
}

#[test]
fn a_restore_of_keys_takes_what_is_chosen_and_deletes_nothing_else() {
    let world = World::new(true, false);
    let (runtime, source) = (&world.runtime, world.etcd.as_ref().unwrap());
    let one: Option<&[u8]> = Some(b"1");
    change(
        runtime,
        source,
        &[(b"a/1", one), (b"a/2.log", one), (b"b/1", one), (b"c", one), (b"\xff\xfe", one)],
    );
    world.with_sources("backup --name s").ok();
    let target = Server::etcd("3.5.1");
    let restore = |choice: &str| world.words(&format!("restore s --to-etcd {} {choice}", target.url));
    let fill = |keys: &[&str]| {
        let there: Vec<Vec<u8>> = keys_of(runtime, &target).into_keys().collect();
        let gone = there.iter().map(|key| (&key[..], None));
        let put = keys.iter().map(|key| (key.as_bytes(), Some(&b"old"[..])));
        change(runtime, &target, &gone.collect::<Vec<_>>());
        change(runtime, &target, &put.collect::<Vec<_>>());
    };
    let now = || key_names(runtime, &target);

    fill(&["z"]);
    restore("--etcd-key a/1").ok();
    assert_eq!(now(), set(&["a/1", "z"]), "a single key needs no empty target");
    fill(&["a/9.log", "b/9", "z"]);
    let refused = restore("--include *.log");
    assert_eq!(refused.code, 1, "a/9.log is extra: {}", refused.error);
    assert_eq!(now(), set(&["a/9.log", "b/9", "z"]));
    let dry = restore("--include *.log --delete-extra --dry-run").ok();
    let shown = BTreeSet::from(["delete etcd a/9.log", "put etcd a/2.log"].map(str::to_owned));
    assert_eq!(dry.lines().into_iter().filter(|l| l.contains(" etcd ")).collect::<BTreeSet<_>>(), shown);
    let dry = restore("--include *.log --delete-extra --dry-run --json").ok().json();
    let changes = dry[0]["changes"].as_array().unwrap().iter();
    let told = changes.map(|c| format!("{} {} {}", c["change"], c["in"], c["key"]).replace('"', ""));
    assert_eq!((told.collect(), dry.len()), (shown, 1));
    restore("--include *.log --delete-extra").ok();
    assert_eq!(now(), set(&["a/2.log", "b/9", "z"]));
    // Its own map: only what the chosen keys could have become is in scope.
    fill(&["n/1/9", "n/2/9", "a/9"]);
    restore("--etcd-prefix a/ --etcd-key b/1 --exclude etcd:*.log --map etcd:a/=n/1/ --delete-extra").ok();
    assert_eq!(now(), set(&["n/1/1", "n/2/9", "a/9", "b/1"]));
    fill(&["a/9"]);
    restore("--include /a --map etcd:a/=a/old/ --delete-extra").ok();
    assert_eq!(now(), set(&["a/9", "a/old/1", "a/old/2.log"]), "a map into itself leaves the originals");

    fill(&[]);
    let words = ["restore", "s", "--to-etcd", &target.url, "--etcd-key"].map(OsString::from);
    world.run(words.into_iter().chain([OsStr::from_bytes(b"\xff\xfe").into()])).ok();
    assert_eq!(keys_of(runtime, &target).into_keys().collect::<Vec<_>>(), [b"\xff\xfe"]);
    let missing = restore("--etcd-key a/1 --etcd-key nowhere");
    assert_eq!((missing.code, missing.error.contains("no key \"nowhere\"")), (1, true), "{}", missing.error);
    let twice = restore("--map etcd:a/=x/ --map etcd:a/=y/");
    assert_eq!(twice.code, 2, "{}", twice.error);
    assert_eq!(restore("--include [").code, 2);
}

#[test]
fn a_restore_of_objects_takes_what_is_chosen_and_deletes_nothing_else() {
    let world = World::new(false, true);
    let minio = world.minio.as_ref().unwrap();
    for key in ["a/1", "a/2.log", "b/1", "c", "ä/1"] {
        world.put(key, key.as_bytes());
    }
    world.with_sources("backup --name s").ok();
    let mut number = 0;
    let mut restore = |there: &[&str], choice: &str| {
        number += 1;
        let bucket = format!("to-{number}");
        minio.make_bucket(&world.runtime, &bucket);
        world.runtime.block_on(async {
            let client = connect(&minio.access()).await.unwrap();
            for key in there {
                let put = client.put_object().bucket(&bucket).key(*key).body(b"old".to_vec().into());
                put.send().await.unwrap();
            }
        });
        let done = world.words(&format!("restore s --to-s3 {} --to-bucket {bucket} {choice}", minio.url));
        (done.code, world.objects(&bucket))
    };
    assert_eq!(restore(&["z"], "--object a/1 --object ä/1"), (0, set(&["a/1", "ä/1", "z"])));
    let logs = "--include objects:*.log --delete-extra";
    assert_eq!(restore(&["b/9", "a/9.log"], logs), (0, set(&["a/2.log", "b/9"])));
    let mapped = "--objects-prefix a/ --exclude *.log --map objects:a/=n/ --delete-extra";
    assert_eq!(restore(&["n/9", "n/9.log", "a/9"], mapped), (0, set(&["n/1", "n/9.log", "a/9"])));
    let beside = "--objects-prefix b/ --object c --to-prefix p/ --delete-extra";
    assert_eq!(restore(&["p/b/9", "p/d", "c"], beside), (0, set(&["p/b/1", "p/c", "p/d", "c"])));
    assert_eq!(restore(&["a/9"], "--include a/* --dry-run").0, 1);
    assert_eq!(restore(&[], "--object nowhere"), (1, set(&[])));
}

#[test]
fn what_a_backup_does_not_select_is_not_read_and_leaves_the_snapshot() {
    let world = World::new(false, true);
    for key in ["a/1", "a/2.log", "tmp/1", "b/tmp"] {
        world.put(key, key.as_bytes());
    }
    let names = |point: &str| world.words(&format!("ls {point} objects")).ok().lines();
    let report = world.with_sources("backup --json --include a --include b --exclude *.log").ok().json();
    assert_eq!(
        (&report[0]["objects"]["count"], &report[0]["requests"]["source_get"]),
        (&2.into(), &2.into())
    );
    assert_eq!(names("latest"), ["a/1", "b/tmp"]);
    assert_eq!(
        world.open().view().unwrap().snapshots[0].snapshot.objects.as_ref().unwrap().exclude,
        ["*.log"]
    );
    // Another selection in the same series: what it takes in is read, what it leaves out goes.
    let report = world.with_sources("backup --json --exclude /tmp --exclude b").ok().json();
    assert_eq!(names("latest"), ["a/1", "a/2.log"]);
    assert_eq!(
        (&report[0]["objects"]["removed"], &report[0]["objects"]["read_count"]),
        (&1.into(), &1.into())
    );
    let config = "[objects]\nexclude = ['{x,a}', '*.log']\n";
    std::fs::write(world.directory.path().join("icecore.toml"), config).unwrap();
    world.with_sources("backup").ok();
    assert_eq!(names("latest"), ["b/tmp", "tmp/1"], "from the configuration file");
    let nothing = world.with_sources("backup --include nothing-fits");
    assert_eq!(
        (nothing.code, nothing.error.contains("no object was selected")),
        (3, true),
        "{}",
        nothing.error
    );
    assert_eq!(world.with_sources("backup --include {").code, 2);
    assert_eq!(world.words("backup --etcd http://127.0.0.1:1 --include x").code, 2);
}

#[test]
fn keys_that_are_no_text_are_listed_and_shown_and_globs_narrow_a_listing() {
    let world = World::new(true, true);
    let (runtime, source) = (&world.runtime, world.etcd.as_ref().unwrap());
    change(runtime, source, &[(b"\xff/1", Some(b"odd")), (b"a/x.log", Some(b"v")), (b"a/y", Some(b"w"))]);
    let large: Vec<u8> = (0..6_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    world.put("a/large", &large);
    world.put("a/x.log", b"log");
    world.with_sources("backup").ok();
    assert_eq!(world.words("ls latest etcd a/ --exclude *.log").ok().lines(), ["a/y"]);
    assert_eq!(world.words("ls latest objects --include *.log").ok().lines(), ["a/x.log"]);
    let words = ["ls", "latest", "etcd", "--json"].map(OsString::from);
    let odd = world.run(words.into_iter().chain([OsStr::from_bytes(b"\xff/").into()])).ok();
    assert_eq!(odd.json()[0]["key_base64"], "/y8x");
    assert_eq!(world.words("cat latest etcd /y8x --base64").ok().out, b"odd");
    let words = ["cat", "latest", "etcd"].map(OsString::from);
    let odd = world.run(words.into_iter().chain([OsStr::from_bytes(b"\xff/1").into()])).ok();
    assert_eq!(odd.out, b"odd");
    assert_eq!(world.words("cat latest etcd y8x --base64").code, 2);
    assert!(world.words("cat latest objects a/large").ok().out == large, "a large object came otherwise");
    assert_eq!(world.words("cat latest objects nothing").code, 1);
}

/// A random step of a history: some puts and deletes.
fn step(runtime: &Runtime, server: &Server, random: &Seeded, keys: u16, puts: usize) {
    let mut changes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
    for _ in 0..puts {
        let mut draw = [0; 4];
        random.fill(&mut draw);
        let number = u16::from_le_bytes([draw[0], draw[1]]) % keys;
        let value = (draw[2] > 60).then(|| vec![draw[3]; usize::from(draw[2])]);
        changes.insert(format!("k{}/{number:05}", number % 3).into_bytes(), value);
    }
    let all: Vec<(&[u8], Option<&[u8]>)> =
        changes.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
    for part in all.chunks(100) {
        change(runtime, server, part);
    }
}

/// key → revision and size, as `ls` says.
fn listed(world: &World, point: &str, prefix: &str) -> BTreeMap<String, (i64, u64)> {
    let lines = world.words(&format!("ls {point} etcd {prefix} --json")).ok().json();
    let one = |line: &Value| {
        let number = |field: &str| line[field].as_i64().unwrap();
        (line["key"].as_str().unwrap().to_owned(), (number("mod_revision"), number("size") as u64))
    };
    lines.iter().map(one).collect()
}

#[test]
fn a_diff_of_keys_is_the_difference_of_the_two_listings() {
    let world = World::new(true, false);
    let (runtime, source) = (&world.runtime, world.etcd.as_ref().unwrap());
    let random = Seeded::new(7);
    // Small steps share an anchor, large ones make a new one; a compaction makes a gap.
    let steps = [1500, 20, 0, 30, 400, 10, 40];
    for (puts, number) in steps.into_iter().zip(0..) {
        step(runtime, source, &random, 2000, puts);
        if number == 4 {
            runtime.block_on(async {
                let mut client = Client::connect([&source.url], None).await.unwrap();
                let now = client.get("x", None).await.unwrap().header().unwrap().revision();
                client.compact(now, Some(CompactionOptions::new().with_physical())).await.unwrap();
            });
        }
        world.with_sources(&format!("backup --name s{number} -q"));
    }
    let snapshots = world.open().view().unwrap().snapshots;
    let anchors: Vec<_> = snapshots.iter().map(|info| info.snapshot.etcd.as_ref().unwrap().anchor).collect();
    assert!(anchors.windows(2).any(|pair| pair[0] == pair[1]), "no two snapshots share an anchor");
    assert!(anchors.windows(2).any(|pair| pair[0] != pair[1]), "no new anchor was made");
    let listings = ["", "k1/"].map(|prefix| {
        (0..steps.len()).map(|number| listed(&world, &format!("s{number}"), prefix)).collect::<Vec<_>>()
    });
    for (a, b) in (0..steps.len()).flat_map(|a| (0..steps.len()).map(move |b| (a, b))) {
        let prefix = ["", "k1/"][(a + b) % 2];
        let (before, after) = (&listings[(a + b) % 2][a], &listings[(a + b) % 2][b]);
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let differ = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
        let expected: Vec<_> =
            differ.map(|key| (key.clone(), before.get(key).copied(), after.get(key).copied())).collect();
        let lines = world.words(&format!("diff s{a} s{b} etcd {prefix} --json")).ok().json();
        let of = |line: &Value| {
            let number = |field: &str| line[field].as_i64();
            Some((number("mod_revision")?, number("size")? as u64))
        };
        let found: Vec<_> = lines
            .iter()
            .map(|line| (line["key"].as_str().unwrap().to_owned(), of(&line["before"]), of(&line["after"])))
            .collect();
        assert_eq!(found, expected, "s{a} to s{b}");
        if a > b {
            continue;
        }
        let stat = &world.words(&format!("diff s{a} s{b} etcd {prefix} --stat --json")).ok().json()[0];
        let count = |change: &str| lines.iter().filter(|line| line["change"] == change).count();
        for change in ["added", "removed", "changed"] {
            assert_eq!(stat[change]["count"], count(change), "{change} from s{a} to s{b}");
        }
    }
}

#[test]
fn verify_tells_a_source_that_moved_on_from_damage() {
    let world = World::new(true, true);
    let (runtime, source) = (&world.runtime, world.etcd.as_ref().unwrap());
    change(runtime, source, &[(b"a", Some(b"1")), (b"b", Some(b"1")), (b"c", Some(&[7; 5000]))]);
    for key in ["one", "two", "three"] {
        world.put(key, key.as_bytes());
    }
    world.with_sources("backup --name s").ok();
    let verify = || world.with_sources("verify s --against-source --json");
    let report = verify().ok().json().pop().unwrap();
    assert_eq!(
        (&report["source"]["etcd"]["same"], &report["source"]["objects"]["same"]),
        (&3.into(), &3.into())
    );
    assert_eq!(report["source"]["etags"], 3);

    // etcd still knows the snapshot's revision: nothing differs there, whatever it did since.
    let revision = change(runtime, source, &[(b"a", Some(b"2")), (b"b", None), (b"d", Some(b"1"))]);
    world.with_sources("verify s --against-source").ok();
    world.put("one", b"other");
    world.put("four", b"four");
    world.delete("two");
    let done = verify();
    assert_eq!(done.code, 3, "{}", done.error);
    let differ = |done: &Done| -> BTreeSet<(String, String, String)> {
        let lines = done.json();
        let text = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
        let differ = lines[..lines.len() - 1].iter();
        differ.map(|line| (text(line, "in"), text(line, "change"), text(line, "key"))).collect()
    };
    let triple = |side: &str, change: &str, key: &str| (side.to_owned(), change.to_owned(), key.to_owned());
    let objects = [("changed", "one"), ("added", "four"), ("removed", "two")];
    let objects: BTreeSet<_> = objects.iter().map(|(change, key)| triple("objects", change, key)).collect();
    assert_eq!(differ(&done), objects);
    runtime.block_on(async {
        let mut client = Client::connect([&source.url], None).await.unwrap();
        client.compact(revision, None).await.unwrap();
    });
    let done = verify();
    assert_eq!(done.code, 3, "{}", done.error);
    let keys = [("changed", "a"), ("removed", "b"), ("added", "d")].map(|(c, key)| triple("etcd", c, key));
    assert_eq!(differ(&done), objects.into_iter().chain(keys).collect());
    assert_eq!(done.json().last().unwrap()["source"]["etcd"]["revision"], revision);
    assert_eq!(done.json().last().unwrap()["source"]["etcd"]["same"], 1);
    let told = world.with_sources("verify s --against-source").text();
    assert!(
        told.contains("is whole") && told.contains("* objects one") && told.contains("- etcd b"),
        "{told}"
    );

    let other = Server::etcd("3.6.4");
    let done = world.words(&format!("verify s --against-source --etcd {}", other.url));
    assert_eq!((done.code, done.error.contains("cluster id")), (1, true), "{}", done.error);
    assert_eq!(world.words("verify s --against-source").code, 2);
    assert_eq!(world.with_sources("verify s").code, 2);
}

/// Commits the newest snapshot once more, with edits to its trees of objects and of keys.
fn forge(world: &World, objects: Vec<Edit>, keys: Vec<Edit>) {
    let repository = world.open();
    let session = repository.begin_write(|snapshots| Ok(snapshots.last().cloned())).unwrap();
    let (reader, writer) = (session.reader(), session.writer(Tuning::default()));
    let old: Snapshot = (*session.parent.as_ref().unwrap().snapshot).clone();
    let nodes = ReadWrite::new(&reader, Some(&writer));
    let apply = |sizes, root, edits: Vec<Edit>| {
        tree::apply(&nodes, repository.shape(sizes), root, edits.into_iter().map(Ok)).unwrap()
    };
    let trees = repository.config().trees;
    let (mut bucket, mut etcd) = (old.objects.clone().unwrap(), old.etcd.clone().unwrap());
    bucket.root = apply(trees.objects, bucket.root, objects);
    let state = etcd.state.as_mut().unwrap();
    state.root = apply(trees.anchor, state.root, keys);
    drop(nodes);
    let segment = writer.finish().unwrap().segment;
    let stored = Stored::default();
    session
        .commit(Snapshot {
            time: old.time + 1,
            objects: Some(bucket),
            etcd: Some(etcd),
            segment,
            stored,
            ..old
        })
        .unwrap();
}

#[test]
fn verify_names_what_the_source_proves_wrong() {
    let world = World::new(true, true);
    let (runtime, source) = (&world.runtime, world.etcd.as_ref().unwrap());
    change(runtime, source, &[(b"a", Some(b"1")), (b"b", Some(b"1"))]);
    world.put("one", b"one");
    world.put("two", b"two");
    world.with_sources("backup").ok();
    let repository = world.open();
    let view = repository.view().unwrap();
    let reader = repository.reader(&view).unwrap();
    let nodes = ReadWrite::new(&reader, None);
    let snapshot = &view.snapshots[0].snapshot;
    let read = |root, key: &[u8]| tree::get(&nodes, root, key).unwrap().unwrap();
    let mut item = Item::decode(&read(snapshot.objects.as_ref().unwrap().root.as_ref(), b"two")).unwrap();
    item.content = Content::Inline(b"tww".to_vec());
    let state = snapshot.etcd.as_ref().unwrap().state.as_ref().unwrap();
    let mut key = KeyState::decode(&read(state.root.as_ref(), b"b")).unwrap();
    key.value = Content::Inline(b"2".to_vec());
    forge(
        &world,
        vec![Edit { key: b"two".to_vec(), value: Some((item.encode(), 3)) }],
        vec![Edit { key: b"b".to_vec(), value: Some((key.encode(), 2)) }],
    );
    world.words("verify latest").ok();
    let done = world.with_sources("verify latest --against-source --json");
    assert_eq!(done.code, 4, "{}", done.error);
    let damage = done.json().pop().unwrap()["damage"].clone();
    let named: Vec<_> = damage.as_array().unwrap().iter().map(|d| (&d["kind"], &d["file"])).collect();
    let url = world.etcd.as_ref().unwrap().url.as_str();
    let expected = [("object", "two"), ("etcd key", "b"), ("etcd hash", url)];
    let expected = expected.map(|(kind, file)| (kind.into(), file.into()));
    assert_eq!(named, expected.each_ref().map(|(kind, file): &(Value, Value)| (kind, file)), "{damage}");
    world.with_sources("verify latest~1 --against-source").ok();
}

#[test]
fn verify_against_a_source_names_what_cannot_be_read() {
    let world = World::new(true, true);
    change(&world.runtime, world.etcd.as_ref().unwrap(), &[(b"a", Some(b"1"))]);
    world.put("small", b"small");
    world.put("large", &vec![7; 100_000]);
    world.with_sources("backup").ok();
    let damaged = |kind: &str| {
        let packs = world.directory.path().join("repository/packs").join(kind);
        for folder in std::fs::read_dir(packs).unwrap() {
            for pack in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                let path = pack.unwrap().path();
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[8..].iter_mut().step_by(20).for_each(|byte| *byte ^= 1);
                std::fs::write(path, bytes).unwrap();
            }
        }
        let done = world.with_sources("verify latest --against-source --json");
        assert_eq!(done.code, 4, "{}", done.error);
        let report = done.json().pop().unwrap();
        assert_eq!(report["source"]["objects"], Value::Null, "what cannot be read was compared");
        let kinds = report["damage"].as_array().unwrap().iter().map(|damage| damage["kind"].to_string());
        kinds.collect::<BTreeSet<_>>()
    };
    assert_eq!(damaged("data"), set(&["\"chunk\""]));
    assert_eq!(damaged("tree"), set(&["\"node\""]));
}

#[test]
fn what_a_snapshot_alone_holds_is_what_no_other_refers_to() {
    let world = World::new(true, true);
    let (runtime, source) = (&world.runtime, world.etcd.as_ref().unwrap());
    let random = Seeded::new(3);
    let body = |length: usize| {
        let mut body = vec![0; length];
        random.fill(&mut body);
        body
    };
    let shared = body(700_000);
    for number in 0..4 {
        step(runtime, source, &random, 500, 60);
        world.put("shared", &shared);
        world.put(&format!("dir/own-{number}"), &body(100_000));
        world.put("changing", &body(300_000));
        world.with_sources(&format!("backup --name s{number} -q"));
    }
    let repository = world.open();
    let view = repository.view().unwrap();
    let reader = repository.reader(&view).unwrap();
    let mut owners: HashMap<ChunkId, HashSet<usize>> = HashMap::new();
    for (number, info) in view.snapshots.iter().enumerate() {
        let nodes = ReadWrite::new(&reader, None);
        let mut enter = |reached: icecore::repository::Reached| {
            owners.entry(reached.id).or_default().insert(number);
            Ok(true)
        };
        for_each_chunk(&nodes, &info.snapshot, &mut enter, &mut |_, error| Err(error)).unwrap();
    }
    let stored = |id: &ChunkId| u64::from(reader.places(id).unwrap()[0].stored);
    let lines = world.words("stats --snapshots --json").ok().json();
    assert_eq!(lines.len(), 4);
    for (number, line) in lines.iter().enumerate() {
        let own: u64 = owners
            .iter()
            .filter(|(_, o)| o.len() == 1 && o.contains(&number))
            .map(|(id, _)| stored(id))
            .sum();
        assert_eq!(line["alone"]["stored_bytes"], own, "s{number}");
        let all: u64 = owners.iter().filter(|(_, o)| o.contains(&number)).map(|(id, _)| stored(id)).sum();
        let one = &world.words(&format!("stats s{number} --json")).ok().json()[0];
        assert_eq!(
            (&one["holds"]["stored_bytes"], &one["alone"]),
            (&all.into(), &line["alone"]),
            "s{number}"
        );
    }
    assert!(lines[1]["alone"]["bytes"].as_u64().unwrap() >= 300_000, "its version of the changing object");
    let last = &world.words("stats s3 --json").ok().json()[0];
    assert_eq!(last["objects"]["prefixes"][0]["key"], "dir/");
    assert_eq!(
        (&last["objects"]["prefixes"][0]["count"], &last["objects"]["bytes"]),
        (&4.into(), &1_400_000.into())
    );
    let keys: u64 =
        keys_of(runtime, source).iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
    assert_eq!(last["etcd"]["bytes"], keys);
    let told = world.words("stats s3").ok().text();
    assert!(told.contains("it alone holds:") && told.contains("dir/") && told.contains("k1/"), "{told}");
    assert_eq!(world.words("stats").ok().code, 0);
}
