//! Every kind of file × every kind of damage × every reading verb, on the built program: what a verb has to
//! look at it finds, names, and ends with 4; whatever it says or writes otherwise is what it says of the whole
//! repository.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::Server;
use common::bucket::{PASSPHRASE, World, content};
use etcd_client::Client;
use icecore::backup::{self, EtcdOptions};
use icecore::etcd;
use icecore::format::{Condemned, Name, Segment, Verdict};
use icecore::id::SessionId;
use icecore::storage::connect;
use icecore::store::Tuning;

/// Whatever a command does, it ends within this.
const LONGEST: Duration = Duration::from_secs(100);

/// How a file is damaged.
const HOWS: [&str; 5] = ["missing", "cut", "flipped", "swapped", "emptied"];

/// What is read of a repository. `T` is a place of its own in the target.
const VERBS: &[(&str, &[&str])] = &[
    ("snapshots", &["snapshots", "--json"]),
    ("ls objects", &["ls", "latest", "objects", "-l"]),
    ("ls etcd", &["ls", "latest", "etcd", "-l"]),
    ("cat object", &["cat", "latest", "objects", "new/big"]),
    ("cat key", &["cat", "latest", "etcd", "new"]),
    ("diff", &["diff", "latest~1", "latest", "--json"]),
    ("verify", &["verify", "latest", "--json"]),
    ("check", &["check", "--json"]),
    ("check --read-data", &["check", "--read-data", "--json"]),
    ("stats", &["stats", "latest", "--json"]),
    ("stats of all", &["stats", "--snapshots", "--json"]),
    ("restore", &["restore", "latest", "--to-bucket", "target", "--to-prefix", "T"]),
];

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Done {
    code: Option<i32>,
    out: Vec<u8>,
    error: String,
}

impl Done {
    fn all(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned() + &self.error
    }
}

/// A repository of two snapshots, a forgotten one, a verdict and a condemned list, and what of it is where.
struct Bench {
    world: World,
    /// Kind → file that only the newest snapshot needs, and another of its kind.
    files: BTreeMap<&'static str, (String, Vec<u8>)>,
    /// The source's keys and ETags.
    source: BTreeMap<String, String>,
}

fn files_in(root: &Path, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return found };
    for entry in entries {
        let name = format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap());
        match root.join(&name).is_dir() {
            true => found.extend(files_in(root, &name)),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

/// One more snapshot; small ones list their packs in their own record.
fn backup(world: &World, etcd: &Server, segments: bool) -> SessionId {
    let mut options = world.options();
    options.tuning = Tuning { inline_chunks: if segments { 0 } else { 1000 }, ..Tuning::default() };
    let access = etcd::Access { endpoints: vec![etcd.url.clone()], user: None, ca: None, identity: None };
    options.etcd = Some(EtcdOptions { access, prefix: Vec::new(), capture: None });
    backup::run(&world.open(), &options).unwrap().id
}

fn put_keys(world: &World, etcd: &Server, keys: &[(&str, usize)]) {
    world.runtime.block_on(async {
        let mut client = Client::connect([&etcd.url], None).await.unwrap();
        for (number, (key, length)) in keys.iter().enumerate() {
            client.put(*key, content(number, *length), None).await.unwrap();
        }
    });
}

impl Bench {
    fn new() -> Bench {
        let (world, etcd) = (World::new(), Server::etcd("3.6.4"));
        let root = world.path("repository");
        world.minio.make_bucket(&world.runtime, "target");
        world.fill((0..40).map(|n| (format!("old/{n:03}"), content(n, 3000 + 100 * n))));
        put_keys(&world, &etcd, &[("a", 10), ("b", 6000), ("c", 20)]);
        backup(&world, &etcd, true);
        world.fill([("forgotten".to_owned(), content(900, 9000))]);
        let forgotten = [backup(&world, &etcd, true), backup(&world, &etcd, false)];
        let repository = world.open();
        let view = repository.view().unwrap();
        for info in view.snapshots.iter().filter(|info| forgotten.contains(&info.id)) {
            icecore::forget::forget(&repository, info).unwrap();
        }
        // What stands in records only is listed by the collection, too.
        let packs = view.inline().flat_map(|info| info.snapshot.segment.packs.clone()).collect();
        let (merged, _) = repository.put_merged(1, &Segment { packs }).unwrap();
        let verdict = Verdict {
            dead: vec![],
            segments: view
                .segments
                .iter()
                .map(|(name, _)| name)
                .chain([&merged])
                .map(ToString::to_string)
                .collect(),
            snapshots: view.snapshots.iter().map(|info| info.id).collect(),
        };
        repository.put_record(&Name::Verdict(1).to_string(), &verdict).unwrap();
        repository.put_record(&Name::Condemned(2).to_string(), &Condemned { packs: vec![] }).unwrap();
        let before: BTreeMap<&str, Vec<String>> =
            FOLDERS.iter().map(|&(kind, folder)| (kind, files_in(&root, folder))).collect();
        world.fill((0..10).map(|n| (format!("new/{n:03}"), content(100 + n, 5000))));
        world.fill([("new/big".to_owned(), content(200, 3 << 20))]);
        put_keys(&world, &etcd, &[("new", 9000), ("a", 11)]);
        // Its label is 2, from here on the condemned list cannot vanish unnoticed.
        let (_, newest) = (backup(&world, &etcd, true), backup(&world, &etcd, true));
        let mut files = BTreeMap::new();
        for (kind, folder) in FOLDERS {
            let all = files_in(&root, folder);
            let new = all.iter().find(|name| !before[kind].contains(name));
            let name = match *kind {
                "snapshot" => format!("snapshots/{newest}"),
                _ => new.or(all.first()).unwrap().clone(),
            };
            let other = all.iter().find(|other| **other != name);
            let other = other.map(|other| fs::read(root.join(other)).unwrap());
            files.insert(*kind, (name, other.unwrap_or_else(|| b"nothing of icecore's".to_vec())));
        }
        // Of another repository.
        let other = World::on(world.minio.clone());
        let other_root = other.path("repository");
        files.insert("config", ("config".into(), fs::read(other_root.join("config")).unwrap()));
        let foreign = files_in(&other_root, "keys").remove(0);
        files.insert("key", (files_in(&root, "keys").remove(0), fs::read(other_root.join(foreign)).unwrap()));
        let source = listing(&world, &world.bucket, "");
        Bench { world, files, source }
    }

    /// Runs the program on `repository` with a cache that knows nothing.
    fn run(&self, repository: &Path, words: &[&str], place: &str) -> Done {
        let cache = tempfile::tempdir_in(self.world.directory.path()).unwrap();
        let keys = self.world.minio.access().credentials.unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.args(words.iter().map(|word| if *word == "T" { place } else { word }));
        if words[0] == "restore" {
            command.args(["--to-s3", &self.world.minio.url]);
        }
        command.current_dir(cache.path()).env_clear().env("HOME", cache.path()).env("TZ", "UTC");
        command.env("ICECORE_REPOSITORY", repository).env("ICECORE_CACHE_DIR", cache.path());
        command.env("ICECORE_PASSPHRASE", PASSPHRASE);
        command.env("ICECORE_S3_ACCESS_KEY_ID", keys.id).env("ICECORE_S3_SECRET_ACCESS_KEY", keys.secret);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        run_within(&mut command)
    }

    /// A copy of the repository in which one file is damaged.
    fn damaged(&self, kind: &str, how: &str, into: &Path) -> PathBuf {
        let root = self.world.path("repository");
        copy(&root, into);
        let (name, other) = &self.files[kind];
        let path = into.join(name);
        let mut bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        match how {
            "missing" => return path,
            "cut" => bytes.truncate(bytes.len() / 2),
            "flipped" => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
            }
            "swapped" => bytes.clone_from(other),
            _ => bytes.clear(),
        }
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// The folder of each kind that has several.
const FOLDERS: &[(&str, &str)] = &[
    ("data pack", "packs/data"),
    ("tree pack", "packs/tree"),
    ("segment", "index"),
    ("session", "sessions"),
    ("snapshot", "snapshots"),
    ("tombstone", "forgotten"),
    ("verdict", "collections"),
];

fn listing(world: &World, bucket: &str, prefix: &str) -> BTreeMap<String, String> {
    world.runtime.block_on(async {
        let client = connect(&world.minio.access()).await.unwrap();
        let page = client.list_objects_v2().bucket(bucket).prefix(prefix).send().await.unwrap();
        let one = |o: &aws_sdk_s3::types::Object| {
            (o.key().unwrap()[prefix.len()..].to_owned(), o.e_tag().unwrap().to_owned())
        };
        page.contents().iter().map(one).collect()
    })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => fs::hard_link(entry.path(), target).unwrap(),
        }
    }
}

/// The output of a command; `None` for its code where it had to be killed.
fn run_within(command: &mut Command) -> Done {
    let mut child = command.spawn().unwrap();
    let (mut out, mut error) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).map(|_| bytes).unwrap()
    });
    let error = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        error.read_to_end(&mut bytes).map(|_| bytes).unwrap()
    });
    let begun = Instant::now();
    let code = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status.code(),
            None if begun.elapsed() > LONGEST => {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let error = String::from_utf8_lossy(&error.join().unwrap()).into_owned();
    Done { code, out: out.join().unwrap(), error }
}

/// The verbs that have to find it.
fn finders(kind: &str, how: &str) -> Vec<&'static str> {
    let all = VERBS.iter().map(|(verb, _)| *verb);
    let of_point = all
        .clone()
        .filter(|verb| !verb.starts_with("check") && !matches!(*verb, "snapshots" | "stats of all"));
    let checks = ["check", "check --read-data"];
    match (kind, how) {
        // Another repository's config looks like a wrong passphrase: nothing of ours opens under its id.
        ("config", "swapped") => vec![],
        ("config" | "key", _) => all.collect(),
        // A size that is not as listed is seen without reading.
        ("data pack", "missing" | "cut" | "emptied" | "swapped") => {
            vec!["cat object", "verify", "check", "check --read-data", "restore"]
        }
        ("data pack", _) => vec!["verify", "check --read-data"],
        ("tree pack", _) => {
            vec!["ls objects", "verify", "check", "check --read-data", "restore", "stats of all"]
        }
        ("segment", "missing") => vec!["verify", "check", "check --read-data", "restore"],
        ("segment", _) => of_point.chain(checks).collect(),
        ("session", "missing") => vec![],
        ("session", _) => checks.to_vec(),
        // Nothing refers to the newest.
        ("snapshot", "missing") => vec![],
        ("snapshot", _) => all.collect(),
        ("tombstone", "missing") => vec![],
        ("tombstone", _) => checks.to_vec(),
        ("verdict", "missing") => checks.to_vec(),
        ("verdict", _) => all.collect(),
        _ => panic!("{kind}"),
    }
}

/// Where another answer than of the whole repository is no lie: the file was all that said so.
fn may_differ(kind: &str, how: &str) -> bool {
    matches!((kind, how), ("snapshot" | "tombstone" | "verdict", "missing"))
}

fn judge(bench: &Bench, whole: &BTreeMap<&str, Done>, kind: &'static str, how: &'static str) -> Vec<String> {
    let directory = tempfile::tempdir_in(bench.world.directory.path()).unwrap();
    let copy = directory.path().join("r");
    bench.damaged(kind, how, &copy);
    let (name, _) = &bench.files[kind];
    let finders = finders(kind, how);
    let mut wrong = Vec::new();
    for (verb, words) in VERBS {
        let place = format!("{kind}-{how}/");
        let done = bench.run(&copy, words, &place);
        let mut say =
            |what: &str| wrong.push(format!("{kind} {how}: {verb} {what}\n{:?} {}", done.code, done.all()));
        if done.error.contains("panicked") {
            say("panicked");
        }
        let named = done.all().contains(name.as_str())
            || ["chunk ", "node", "keys/"].iter().any(|w| done.all().contains(w));
        match done.code {
            Some(4) if named => {}
            Some(4) => say("does not name it"),
            Some(10) if (kind, how) == ("config", "missing") => {}
            Some(12) if (kind, how) == ("config", "swapped") => {}
            None => say("does not end"),
            Some(_) if finders.contains(verb) => say("does not find it"),
            Some(0) if may_differ(kind, how) || *verb == "restore" => {}
            Some(0) if done.out == whole[verb].out => {}
            _ => say("is neither damage nor what the whole repository says"),
        }
        if *verb == "restore" {
            let target = listing(&bench.world, "target", &place);
            let right = target.iter().all(|(key, etag)| bench.source.get(key) == Some(etag));
            if !right || done.code == Some(0) && target.len() != bench.source.len() && !may_differ(kind, how)
            {
                say("wrote something else");
            }
        }
    }
    // What does not need the file is whole.
    if matches!(kind, "data pack" | "tree pack" | "snapshot" | "session") {
        let old = bench.run(&copy, &["ls", "latest~2", "objects"], "");
        let whole_id = String::from_utf8_lossy(&whole["oldest"].out).trim().to_owned();
        let verified = bench.run(&copy, &["verify", &whole_id], "");
        if verified.code != Some(0) {
            wrong.push(format!(
                "{kind} {how}: the older snapshot is not whole\n{} {}",
                verified.all(),
                old.all()
            ));
        }
        let place = format!("older-{kind}-{how}/");
        let words =
            ["restore", &whole_id, "--to-bucket", "target", "--to-prefix", "T", "--objects-prefix", "old/"];
        let restored = bench.run(&copy, &words, &place);
        let target = listing(&bench.world, "target", &place);
        let right = target.iter().all(|(key, etag)| bench.source.get(key) == Some(etag));
        if restored.code != Some(0) || target.len() != 40 || !right {
            wrong.push(format!("{kind} {how}: the older snapshot is not restored\n{}", restored.all()));
        }
    }
    wrong
}

#[test]
fn damage_is_found_named_and_ends_with_4_by_every_verb_that_looks_at_it_and_is_never_passed_on() {
    let bench = Bench::new();
    let root = bench.world.path("repository");
    let mut whole = BTreeMap::new();
    for (verb, words) in VERBS {
        let done = bench.run(&root, words, "whole/");
        assert_eq!(done.code, Some(0), "{verb}: {}", done.all());
        whole.insert(*verb, done);
    }
    let oldest = bench.world.open().view().unwrap().snapshots[0].id;
    whole.insert("oldest", Done { code: Some(0), out: oldest.to_string().into(), error: String::new() });
    assert_eq!(listing(&bench.world, "target", "whole/"), bench.source);
    let cases: Vec<_> = bench.files.keys().flat_map(|kind| HOWS.map(|how| (*kind, how))).collect();
    let (queue, wrong) = (Mutex::new(cases.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let Some((kind, how)) = queue.lock().unwrap().next() else { return };
                    let found = judge(&bench, &whole, kind, how);
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
