//! Directories as source and target, on the real file system; between directories and buckets on MinIO.
//!
//! Trees are compared by the archives that `tar` makes of them: names, kinds, modes, owners, times in
//! nanoseconds, links, devices, extended attributes and contents.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::Server;
use icecore::backup;
use icecore::context::Context;
use icecore::fault::Kind;
use icecore::format::{Attributes, FileKind, Item, ItemState};
use icecore::progress::{Amount, Phase, Progress};
use icecore::repository::{Access, KeyCost, Repository};
use icecore::restore::{self, Change};
use icecore::source::DirectoryOptions;
use icecore::storage::{Location, connect};
use icecore::store::Tuning;
use rustix::fs::{FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, mkdirat, mknodat, openat};
use serde_json::Value;
use tokio::runtime::Runtime;

const PASSPHRASE: &str = "a long sentence";

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

    fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|_| panic!("{}{}", self.text(), self.error))
    }

    fn exits(self, code: i32) -> Done {
        assert_eq!(self.code, code, "{}{}", self.text(), self.error);
        self
    }
}

/// A temporary directory that may hold trees deeper than paths reach.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = Command::new("rm").arg("-rf").arg(&self.0).status();
    }
}

struct World {
    runtime: Runtime,
    directory: Temporary,
    minio: Option<Server>,
}

impl World {
    fn new() -> World {
        let directory = Temporary(tempfile::tempdir().unwrap().keep());
        let world = World { runtime: common::runtime(), directory, minio: None };
        let cost = KeyCost { memory: 64, passes: 1 };
        Repository::init(&world.context(), &world.access(), PASSPHRASE, cost).unwrap();
        world
    }

    fn with_minio() -> World {
        let mut world = World::new();
        let minio = Server::minio();
        minio.make_bucket(&world.runtime, "data");
        world.minio = Some(minio);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    /// A file of the source.
    fn write(&self, name: &str, content: &[u8]) {
        let path = self.path("source").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn context(&self) -> Context {
        Context::system(self.runtime.handle().clone())
    }

    fn access(&self) -> Access {
        let location = Location::Local(self.path("repository"));
        Access { location, credentials: None, cache: self.path("cache"), upload: None, download: None }
    }

    fn open(&self, context: &Context) -> Repository {
        Repository::open(context, &self.access(), PASSPHRASE).unwrap()
    }

    fn command(&self, program: &[&str], arguments: &[&OsStr]) -> Done {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(arguments).current_dir(&self.directory.0).env_clear();
        command.env("ICECORE_REPOSITORY", self.path("repository"));
        command.env("ICECORE_CACHE_DIR", self.path("cache")).env("HOME", &self.directory.0);
        command.env("ICECORE_PASSPHRASE", PASSPHRASE).env("TZ", "UTC").env("PATH", "/usr/bin:/bin");
        if let Some(keys) = self.minio.as_ref().and_then(|minio| minio.access().credentials) {
            command.env("ICECORE_S3_ACCESS_KEY_ID", keys.id).env("ICECORE_S3_SECRET_ACCESS_KEY", keys.secret);
        }
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        Done { code: output.status.code().unwrap(), out: output.stdout, error }
    }

    /// Runs the program.
    fn run(&self, words: &str) -> Done {
        let arguments: Vec<&OsStr> = words.split_whitespace().map(OsStr::new).collect();
        self.command(&[env!("CARGO_BIN_EXE_icecore")], &arguments)
    }

    /// Runs the program with what names the bucket.
    fn with_bucket(&self, words: &str) -> Done {
        let minio = self.minio.as_ref().unwrap();
        let flags =
            if words.starts_with("restore") { ["--to-s3", "--to-bucket"] } else { ["--s3", "--bucket"] };
        self.run(&format!("{words} {} {} {} data", flags[0], minio.url, flags[1]))
    }

    fn backup(&self) -> Value {
        self.run("backup --dir source --json").exits(0).json()
    }

    fn put(&self, key: &str, body: &[u8]) {
        let minio = self.minio.as_ref().unwrap();
        self.runtime.block_on(async {
            let client = connect(&minio.access()).await.unwrap();
            let put = client.put_object().bucket("data").key(key).body(body.to_vec().into());
            put.send().await.unwrap();
        });
    }

    fn bodies(&self) -> BTreeMap<String, Vec<u8>> {
        let minio = self.minio.as_ref().unwrap();
        self.runtime.block_on(async {
            let client = connect(&minio.access()).await.unwrap();
            let page = client.list_objects_v2().bucket("data").send().await.unwrap();
            let mut bodies = BTreeMap::new();
            for object in page.contents() {
                let key = object.key().unwrap();
                let got = client.get_object().bucket("data").key(key).send().await.unwrap();
                bodies.insert(key.to_owned(), got.body.collect().await.unwrap().into_bytes().to_vec());
            }
            bodies
        })
    }

    /// The items of the newest snapshot.
    fn items(&self) -> BTreeMap<Vec<u8>, Item> {
        let repository = self.open(&self.context());
        let moment = repository.view().unwrap().snapshots.last().cloned().unwrap().into();
        let browser = icecore::browse::Browser::open(&repository).unwrap();
        let mut items = BTreeMap::new();
        let mut show = |key: &[u8], item: &Item, _| {
            items.insert(key.to_vec(), item.clone());
            Ok(())
        };
        browser.objects(&moment, b"", &mut show).unwrap();
        items
    }
}

/// Everything about a tree that a restore brings back, as an archive.
fn archive(tree: &Path) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--format=posix", "--numeric-owner", "--xattrs", "--acls"]);
    tar.args(["--xattrs-include=*", "--pax-option=exthdr.name=x,delete=atime,delete=ctime"]);
    let output = tar.arg("--directory").arg(tree).arg(".").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn assert_same_trees(a: &Path, b: &Path) {
    if archive(a) == archive(b) {
        return;
    }
    // Archives of megabytes make no message.
    let listing = |tree: &Path| {
        let mut find = Command::new("find");
        find.args([".", "-printf", "%p %y %#m %U:%G %T@ %s %l %n\n"]).current_dir(tree);
        let lines = String::from_utf8_lossy(&find.output().unwrap().stdout).into_owned();
        lines.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let (a, b) = (listing(a), listing(b));
    let differ: Vec<&String> = a.symmetric_difference(&b).take(20).collect();
    panic!("trees differ, in attributes or contents where no line is here: {differ:#?}");
}

/// Times of files are never those of the listing: such files are read twice.
fn let_time_pass() {
    std::thread::sleep(Duration::from_millis(60));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn names(tree: &Path) -> BTreeSet<OsString> {
    fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// A tree with everything that a file system can hold and a program can stumble over.
fn make_nasty(root: &Path) {
    let bytes = |name: &[u8]| root.join(OsStr::from_bytes(name));
    fs::create_dir_all(root.join("empty")).unwrap();
    for name in
        [&b"\xff\xfe"[..], b"new\nline", b" ", b"-", b"~", b"a", b"a.txt", b"a-b", b"a0", b"...", b"*"]
    {
        fs::write(bytes(name), name).unwrap();
    }
    fs::write(bytes(&[b'n'; 255]), b"long").unwrap();
    for name in ["b", "b.d", "b-", "b/c", "b/c.d", "!d", "\u{e4}/\u{1f9ca}"] {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join("x"), name).unwrap();
    }
    symlink("loop", root.join("loop")).unwrap();
    symlink("../../..", root.join("b/up")).unwrap();
    symlink(OsStr::from_bytes(b"/nowhere\xff"), root.join("dangling")).unwrap();
    fs::hard_link(root.join("a"), root.join("b/second")).unwrap();
    fs::hard_link(root.join("a"), root.join("!d/before")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_all_at(&[7; 5000], 20 << 20).unwrap();
    fs::write(root.join("large"), noise(9 << 20)).unwrap();
    fs::write(root.join("nothing"), b"").unwrap();
    fs::File::create(root.join("hole")).unwrap().set_len(300).unwrap();
    mknodat(rustix::fs::CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    if is_root() {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(rustix::fs::CWD, root.join("null"), FileType::CharacterDevice, mode, 0x103).unwrap();
        std::os::unix::fs::chown(root.join("b/x"), Some(12345), Some(54321)).unwrap();
        std::os::unix::fs::lchown(root.join("dangling"), Some(7), Some(8)).unwrap();
    }
    // Set in the order of their names, as a restore does: archives have them in the order they were set.
    for (name, value) in [("user.a", &b""[..]), ("user.bytes", b"\0\xff"), ("user.long", &[1; 2000])] {
        rustix::fs::setxattr(root.join("large"), name, value, XattrFlags::empty()).unwrap();
        rustix::fs::setxattr(root.join("empty"), name, value, XattrFlags::empty()).unwrap();
    }
    // user 99 may read: an ACL with a mask.
    let entry = |tag: u16, bits: u16, id: u32| {
        [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let entries = [(1, 6, none), (2, 4, 99), (4, 4, none), (16, 4, none), (32, 0, none)];
    let acl = entries.map(|(tag, bits, id)| entry(tag, bits, id)).concat();
    let acl = [&2u32.to_le_bytes()[..], &acl].concat();
    rustix::fs::setxattr(root.join("a.txt"), "system.posix_acl_access", &acl, XattrFlags::empty()).unwrap();
    make_wide(&root.join("wide"), 10_000);
    make_deep(root, 1000);
    for (name, mode) in [("a0", 0), ("...", 0o6711), ("b/c.d", 0o1777), ("empty", 0o2500), ("*", 0o400)] {
        set_mode(&root.join(name), mode);
    }
    set_time(&root.join("a-b"), 1_700_000_000, 123_456_789);
    set_time(&root.join("nothing"), -5, 1);
    set_time(&root.join("loop"), 1, 2);
    set_time(&root.join("b"), 1_600_000_000, 999_999_999);
    set_time(root, 1_500_000_000, 1);
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    icecore::context::Random::fill(&icecore::context::Seeded::new(length as u64), &mut bytes);
    bytes
}

fn make_wide(path: &Path, files: usize) {
    fs::create_dir(path).unwrap();
    for number in 0..files {
        fs::write(path.join(format!("file-{number}")), number.to_string()).unwrap();
    }
}

/// Directories in each other, with a path longer than any system call takes, and a file at the end.
fn make_deep(root: &Path, depth: usize) {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut at = openat(rustix::fs::CWD, root, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&at, "deeper-and-deeper", Mode::RWXU).unwrap();
        at = openat(&at, "deeper-and-deeper", flags, Mode::empty()).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let file = openat(&at, "treasure", flags, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"gold").unwrap();
}

#[test]
fn everything_that_a_tree_holds_comes_back() {
    let world = World::new();
    let (source, out) = (world.path("source"), world.path("out"));
    make_nasty(&source);
    let_time_pass();
    let first = world.backup();
    assert_eq!(first["objects"]["added"], first["objects"]["count"]);
    assert!(first["objects"]["read_bytes"].as_u64().unwrap() < 20 << 20, "holes are not read: {first}");
    assert_eq!(first["requests"]["source_list"], 0);
    let restored = world.run("restore latest --to-dir out --json").exits(0).json();
    assert_eq!(restored["objects"]["identical"], 1, "the root");
    assert_same_trees(&source, &out);
    assert!(out.join("sparse").metadata().unwrap().blocks() * 512 < 1 << 20, "holes are holes again");
    let inode = |name: &str| out.join(name).metadata().unwrap().ino();
    assert_eq!((inode("a"), inode("a")), (inode("b/second"), inode("!d/before")));

    // Nothing has changed: nothing is read, nothing is written again.
    let second = world.backup();
    let of = |report: &Value, field: &str| report["objects"][field].clone();
    assert_eq!(of(&second, "unchanged"), of(&first, "count"), "{second}");
    assert_eq!((of(&second, "read_count"), of(&second, "read_bytes")), (0.into(), 0.into()), "{second}");
    assert_eq!(second["stored"]["new_bytes"], 0);
    let again = world.run("restore latest --to-dir out --json").exits(0).json();
    assert_eq!(again["objects"]["identical"], of(&first, "count"), "{again}");
    let bytes = |side: &str| again["objects"][side].as_u64().unwrap();
    assert_eq!(bytes("written") + bytes("overwritten") + bytes("bytes"), 0, "{again}");
    assert_same_trees(&source, &out);
    world.run("verify latest --against-source --dir source").exits(0);
    world.run("check --read-data").exits(0);
}

#[test]
fn only_what_changed_is_read() {
    let world = World::new();
    world.write("a/one", &noise(100_000));
    world.write("a/two", &noise(200_000));
    world.write("b", b"b");
    let_time_pass();
    world.backup();
    world.write("a/one", &noise(100_001));
    world.write("a/new", b"new");
    fs::remove_file(world.path("source/b")).unwrap();
    set_mode(&world.path("source/a/two"), 0o600);
    let_time_pass();
    let report = world.backup();
    let of = |field: &str| report["objects"][field].as_u64().unwrap();
    // Changed are one file, one mode, and the times of both directories.
    assert_eq!((of("added"), of("changed"), of("removed"), of("unchanged")), (1, 4, 1, 0), "{report}");
    assert_eq!((of("read_count"), of("read_bytes")), (3, 300_004), "{report}");
    assert_eq!(report["stored"]["new_bytes"], 100_001, "{report}");
    let diff = world.run("diff latest~1 latest").exits(0).text();
    for line in ["+ objects a/new  3 B", "- objects b  1 B", "* objects a/one  97.7 KiB → 97.7 KiB"] {
        assert!(diff.contains(line), "{line}: {diff}");
    }
    world.run("restore latest --to-dir out").exits(0);
    assert_same_trees(&world.path("source"), &world.path("out"));
}

/// Tells of every item that is met, before it is read.
struct Meddler(Box<dyn Fn(u64) + Send + Sync>);

impl Progress for Meddler {
    fn begin(&self, _: Phase) {}
    fn expect(&self, total: Amount) {
        (self.0)(total.items);
    }
    fn settled(&self) {}
    fn advance(&self, _: Amount) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
}

/// Backs up the source while `meddle`, told how many items were met so far, does something to it.
fn backup_while(world: &World, meddle: impl Fn(u64) + Send + Sync + 'static) -> backup::Report {
    let mut context = world.context();
    context.progress = Arc::new(Meddler(Box::new(meddle)));
    let repository = world.open(&context);
    let options = backup::Options {
        series: "default".into(),
        name: None,
        tags: vec![],
        etcd: None,
        objects: None,
        directory: Some(DirectoryOptions { path: world.path("source"), ..DirectoryOptions::default() }),
        new_line: false,
        max_size: None,
        prove: false,
        tuning: Tuning::default(),
    };
    backup::run(&repository, &options).unwrap()
}

#[test]
fn a_file_that_vanishes_while_it_is_backed_up_is_recorded_as_gone() {
    let world = World::new();
    world.write("f", b"here");
    world.write("g", b"too");
    let file = world.path("source/f");
    let report = backup_while(&world, move |items| {
        if items == 2 {
            fs::remove_file(&file).unwrap();
        }
    });
    let (capture, _) = report.objects.unwrap();
    assert_eq!((capture.gone, capture.unreadable, report.warnings.len()), (1, 0, 0));
    let items = world.items();
    assert_eq!(items[&b"f"[..]].state, ItemState::Gone);
    assert_eq!(items[&b"g"[..]].state, ItemState::Present);
    world.run("restore latest --to-dir out").exits(0);
    assert_eq!(names(&world.path("out")), ["g".into()].into());
}

#[test]
fn the_first_name_of_a_file_may_vanish_and_its_others_keep_the_content() {
    let world = World::new();
    world.write("a", &noise(5000));
    for name in ["b", "c"] {
        fs::hard_link(world.path("source/a"), world.path("source").join(name)).unwrap();
    }
    let file = world.path("source/a");
    backup_while(&world, move |items| {
        if items == 2 {
            fs::remove_file(&file).unwrap();
        }
    });
    world.run("restore latest --to-dir out").exits(0);
    let out = world.path("out");
    assert_eq!(names(&out), ["b".into(), "c".into()].into());
    assert_eq!(fs::read(out.join("b")).unwrap(), noise(5000));
    let inode = |name: &str| out.join(name).metadata().unwrap().ino();
    assert_eq!(inode("b"), inode("c"));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again() {
    let world = World::new();
    world.write("f", b"short");
    let file = world.path("source/f");
    let report = backup_while(&world, move |items| {
        if items == 2 {
            fs::write(&file, noise(3 << 20)).unwrap();
        }
    });
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    world.run("restore latest --to-dir out").exits(0);
    assert_eq!(fs::read(world.path("out/f")).unwrap(), noise(3 << 20));
}

#[test]
fn a_file_that_never_stops_changing_is_kept_with_a_warning() {
    let world = World::new();
    let length = 48 << 20;
    world.write("f", &noise(length));
    let stop = Arc::new(AtomicBool::new(false));
    let (file, stopped) = (world.path("source/f"), stop.clone());
    let (began, begun) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let file = fs::OpenOptions::new().append(true).open(file).unwrap();
        while !stopped.load(Ordering::SeqCst) {
            std::io::Write::write_all(&mut &file, b"x").unwrap();
            let _ = began.send(());
        }
    });
    begun.recv().unwrap();
    let report = backup_while(&world, |_| {});
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    let warning = report.warnings.first().expect("it changed all the time");
    assert!(warning.contains("\"f\" changed each time"), "{warning}");
    world.run("restore latest --to-dir out").exits(0);
    assert!(fs::read(world.path("out/f")).unwrap()[..length] == noise(length));
    // The next backup takes it as it is by then.
    let_time_pass();
    assert_eq!(world.backup()["objects"]["read_count"], 1);
}

#[test]
fn what_cannot_be_read_is_listed_and_the_rest_is_there() {
    let world = World::new();
    for name in ["closed/x", "open/x", "secret"] {
        world.write(name, b"x");
    }
    set_mode(&world.path("source/secret"), 0);
    set_mode(&world.path("source/closed"), 0);
    // Root reads everything.
    let nobody =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_icecore")];
    let program = if is_root() { &nobody[..] } else { &nobody[4..] };
    assert!(
        Command::new("chmod").args(["-R", "a+rwX"]).arg(world.path("repository")).status().unwrap().success()
    );
    set_mode(&world.directory.0, 0o777);
    let arguments = ["backup", "--dir", "source", "--json"].map(OsStr::new);
    let report = world.command(program, &arguments).exits(3).json();
    let warnings = report["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{report}");
    assert!(
        warnings.iter().all(|warning| warning.as_str().unwrap().contains("ermission denied")),
        "{report}"
    );
    let items = world.items();
    for (key, state) in
        [("closed", ItemState::Unreadable), ("secret", ItemState::Unreadable), ("open/x", ItemState::Present)]
    {
        assert_eq!(items[key.as_bytes()].state, state, "{key}");
    }
    let restored = world.run("restore latest --to-dir out").exits(3);
    assert!(restored.error.contains("2 objects could not be read when"), "{}", restored.error);
    assert_eq!(names(&world.path("out")), ["open".into()].into());
}

#[test]
fn globs_caches_and_mounts_decide_what_is_taken() {
    let world = World::new();
    for name in ["a.log", "b.txt", "tmp/x.log", "cache/x.log", "cache/deep/y.log", "keep/tmp/z.log"] {
        world.write(name, b"x");
    }
    world.write("cache/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n");
    let keys = |flags: &str| {
        world.run(&format!("backup --series {} --dir source {flags}", flags.len())).exits(0);
        let listed = world.run(&format!("ls latest objects --series {}", flags.len())).exits(0).text();
        listed.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(keys("").len(), 13);
    let chosen = keys("--include *.log --exclude /tmp --exclude cache");
    assert_eq!(chosen, [".", "a.log", "keep", "keep/tmp", "keep/tmp/z.log"]);
    let tagged = keys("--exclude-caches");
    assert!(tagged.contains(&"cache/CACHEDIR.TAG".into()) && !tagged.contains(&"cache/x.log".into()));
    assert!(keys("--exclude nothing").contains(&"cache/x.log".into()), "only if asked for");

    // Device files are only recorded, so /dev is a tree with another file system in it that is always there.
    let device = |path| fs::metadata(path).unwrap().dev();
    assert_ne!(device("/dev"), device("/dev/pts"), "this test needs /dev/pts to be mounted");
    let pts = |flag: &str| {
        world.run(&format!("backup --series dev{} --dir /dev --exclude /[!p]* {flag}", flag.len())).exits(0);
        let listed = world.run(&format!("ls latest objects pts --series dev{}", flag.len())).exits(0).text();
        listed.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(pts("--one-file-system"), ["pts"]);
    assert!(pts("").contains(&"pts/ptmx".into()));
}

#[test]
fn a_series_stays_with_its_directory() {
    let world = World::with_minio();
    world.write("f", b"x");
    fs::create_dir(world.path("other")).unwrap();
    world.backup();
    let refused = world.run("backup --dir other --json").exits(1);
    assert!(
        refused.error.contains("source_changed") && refused.error.contains("/other"),
        "{}",
        refused.error
    );
    assert!(world.with_bucket("backup --json").exits(1).error.contains("source_changed"));
    world.run("backup --dir source --s3 http://127.0.0.1:9 --bucket b").exits(2);
    world.run("restore latest --to-dir out --to-s3 http://127.0.0.1:9 --to-bucket b").exits(2);
    world.run("backup --dir nowhere --series new").exits(1);
    world.run("backup --dir other --new-line").exits(0);
    // The same place by another way.
    world.run("backup --dir ./other/").exits(0);
    fs::write(
        world.path("icecore.toml"),
        format!("[objects]\ndir = {:?}\nexclude-caches = true\n", world.path("other")),
    )
    .unwrap();
    world.run("backup").exits(0);
}

#[test]
fn a_target_that_holds_something_else_is_left_alone() {
    let world = World::new();
    world.write("a", b"snapshot");
    world.write("d/b", b"snapshot");
    world.write("d/c", b"snapshot");
    world.backup();
    let out = world.path("out");
    world.run("restore latest --to-dir out").exits(0);
    fs::write(out.join("a"), "mine").unwrap();
    fs::remove_file(out.join("d/b")).unwrap();
    fs::create_dir_all(out.join("extra/deep")).unwrap();
    let before = archive(&out);
    let refused = world.run("restore latest --to-dir out --json").exits(1);
    assert!(refused.error.contains("target_not_empty"), "{}", refused.error);
    assert!(
        refused.error.contains("1 files differ from the snapshot and 2 are not in it"),
        "{}",
        refused.error
    );
    let dry = world.run("restore latest --to-dir out --overwrite --delete-extra --dry-run").exits(0).text();
    let lines: BTreeSet<&str> = dry.lines().filter(|line| line.contains(" objects ")).collect();
    let expected =
        ["delete objects extra/deep", "delete objects extra", "overwrite objects a", "put objects d/b"];
    assert_eq!(lines, expected.into());
    assert!(before == archive(&out), "nothing was touched so far");
    let report = world.run("restore latest --to-dir out --overwrite --json").exits(0).json();
    assert_eq!((&report["objects"]["extra"], &report["objects"]["overwritten"]), (&2.into(), &1.into()));
    assert!(out.join("extra/deep").exists());
    world.run("restore latest --to-dir out --delete-extra").exits(0);
    assert_same_trees(&world.path("source"), &out);

    // The same content with another mode and time: only those are set.
    set_mode(&out.join("a"), 0o777);
    set_time(&out.join("a"), 1, 1);
    let inode = out.join("a").metadata().unwrap().ino();
    world.run("restore latest --to-dir out").exits(1);
    let report = world.run("restore latest --to-dir out --overwrite --json").exits(0).json();
    assert_eq!((&report["objects"]["overwritten"], &report["objects"]["bytes"]), (&1.into(), &0.into()));
    assert_eq!(out.join("a").metadata().unwrap().ino(), inode);
    assert_same_trees(&world.path("source"), &out);

    // Kinds change into each other.
    fs::remove_file(out.join("a")).unwrap();
    fs::create_dir(out.join("a")).unwrap();
    fs::remove_dir_all(out.join("d")).unwrap();
    symlink("/", out.join("d")).unwrap();
    world.run("restore latest --to-dir out").exits(1);
    world.run("restore latest --to-dir out --overwrite").exits(0);
    assert_same_trees(&world.path("source"), &out);
    fs::remove_file(out.join("a")).unwrap();
    fs::create_dir(out.join("a")).unwrap();
    fs::write(out.join("a/mine"), "mine").unwrap();
    let kept = world.run("restore latest --to-dir out --overwrite").exits(3);
    assert!(kept.error.contains("1 files could not be restored: \"a\""), "{}", kept.error);
    assert_eq!(fs::read(out.join("a/mine")).unwrap(), b"mine");
}

#[test]
fn a_part_is_restored_and_nothing_else_is_touched() {
    let world = World::new();
    for name in ["a/x.log", "a/y.txt", "b/x.log", "b/first", "c"] {
        world.write(name, b"x");
    }
    fs::hard_link(world.path("source/b/first"), world.path("source/b/second")).unwrap();
    world.backup();
    let out = world.path("out");
    fs::create_dir_all(out.join("mine")).unwrap();
    world.run("restore latest --to-dir out --objects-prefix a/ --delete-extra").exits(0);
    assert_eq!(names(&out), ["a".into(), "mine".into()].into());
    world.run("restore latest --to-dir out --include *.log --delete-extra").exits(0);
    assert_eq!(names(&out.join("b")), ["x.log".into()].into());
    // A hard link whose first name is not chosen is a file of its own.
    world.run("restore latest --to-dir out --object b/second").exits(0);
    assert_eq!(out.join("b/second").metadata().unwrap().nlink(), 1);
    world.run("restore latest --to-dir out --objects-prefix a/ --map objects:a/=copy/of/").exits(0);
    assert_eq!(names(&out.join("copy/of")), ["x.log".into(), "y.txt".into()].into());
    world.run("restore latest --to-dir out --objects-prefix c --map objects:c=../c").exits(3);
    assert!(!world.path("c").exists());
    assert!(out.join("mine").exists());
}

#[test]
fn nothing_is_written_outside_however_links_are_planted() {
    let world = World::new();
    world.write("sub/deep/x", b"inside");
    world.write("y", b"inside");
    world.backup();
    let (out, outside) = (world.path("out"), world.path("outside"));
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::create_dir(&out).unwrap();
    symlink(&outside, out.join("sub")).unwrap();
    world.run("restore latest --to-dir out").exits(1);
    let kept = archive(&outside);
    world.run("restore latest --to-dir out --overwrite").exits(0);
    assert_same_trees(&world.path("source"), &out);
    assert!(archive(&outside) == kept);

    // Planted when the plan was made already.
    fs::remove_dir_all(&out).unwrap();
    fs::create_dir(&out).unwrap();
    let (link, to, file) = (out.join("sub"), outside.clone(), outside.join("target"));
    let plant = |change: Change| {
        if change.key == b"sub" {
            symlink(&to, &link).unwrap();
        }
        if change.key == b"y" {
            symlink(&file, out.join("y")).unwrap();
        }
    };
    let context = world.context();
    let repository = world.open(&context);
    let moment = repository.view().unwrap().snapshots[0].clone().into();
    let options = restore::Options { directory: Some(out.clone()), ..restore::Options::default() };
    let report = restore::run(&repository, &moment, &options, &plant).unwrap();
    assert!(report.warnings[0].contains("could not be restored"), "{:?}", report.warnings);
    assert!(archive(&outside) == kept, "nothing was written there");
}

#[test]
fn an_interrupted_restore_continues_where_it_was() {
    let world = World::new();
    for number in 0..300 {
        world.write(&format!("d{}/f{number}", number % 7), &noise(1000 + number));
    }
    world.backup();
    let context = world.context();
    let repository = world.open(&context);
    let moment = repository.view().unwrap().snapshots[0].clone().into();
    let options = restore::Options { directory: Some(world.path("out")), ..restore::Options::default() };
    let (shown, cancel) = (AtomicU64::new(0), context.cancel.clone());
    let stop = |_: Change| {
        if shown.fetch_add(1, Ordering::SeqCst) == 150 {
            cancel.cancel();
        }
    };
    let error = restore::run(&repository, &moment, &options, &stop).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
    // As a kill would have left it.
    fs::write(world.path("out/d0/.icecore-unfinished-0123456789abcdef"), "half").unwrap();
    let report = world.run("restore latest --to-dir out --json").exits(0).json();
    let of = |field: &str| report["objects"][field].as_u64().unwrap();
    assert!(of("identical") > 50 && of("written") > 100, "{report}");
    assert_eq!(of("identical") + of("written"), 308, "{report}");
    assert_same_trees(&world.path("source"), &world.path("out"));
}

#[test]
fn a_bucket_goes_into_a_directory_and_what_no_path_can_be_is_listed() {
    let world = World::with_minio();
    for key in ["a/b/c", "a/b.txt", "top", "umlaut-\u{e4}", "empty"] {
        world.put(key, if key == "empty" { b"" } else { key.as_bytes() });
    }
    world.put(&format!("{}/x", "d".repeat(200)), &noise(3 << 20));
    world.with_bucket("backup").exits(0);
    let restored = world.run("restore latest --to-dir out --json").exits(0).json();
    assert_eq!(restored["objects"]["written"], 6, "{restored}");
    assert_eq!(fs::read(world.path("out/a/b/c")).unwrap(), b"a/b/c");
    assert_eq!(fs::read(world.path("out").join("d".repeat(200)).join("x")).unwrap(), noise(3 << 20));
    let item = &world.items()[&b"top"[..]];
    let metadata = world.path("out/top").metadata().unwrap();
    assert_eq!(metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(), item.modified);
    let again = world.run("restore latest --to-dir out --json").exits(0).json();
    assert_eq!(
        (&again["objects"]["identical"], &again["objects"]["extra"]),
        (&6.into(), &0.into()),
        "{again}"
    );
    // MinIO keeps its objects in files and has no such keys; maps make some.
    let listed =
        world.run("restore latest --to-dir out --map objects:top=a --map objects:empty=x//y").exits(3);
    assert!(
        listed.error.contains("\"a\"") && listed.error.contains("\"x//y\" (an empty name)"),
        "{}",
        listed.error
    );
    world.run("restore latest --to-dir out --map objects:top=empty").exits(2);
}

#[test]
fn a_directorys_files_go_into_a_bucket() {
    let world = World::with_minio();
    world.write("a", b"a");
    world.write("d/large", &noise(20 << 20));
    world.write("d/empty", b"");
    fs::hard_link(world.path("source/a"), world.path("source/d/second")).unwrap();
    fs::create_dir(world.path("source/nothing")).unwrap();
    world.backup();
    let restored = world.with_bucket("restore latest --json").exits(0).json();
    assert_eq!(restored["objects"]["written"], 4, "{restored}");
    assert_eq!(restored["notes"].as_array().unwrap().len(), 2, "{restored}");
    let expected = [
        ("a", b"a".to_vec()),
        ("d/empty", vec![]),
        ("d/large", noise(20 << 20)),
        ("d/second", b"a".to_vec()),
    ];
    assert_eq!(world.bodies(), expected.map(|(key, body)| (key.to_owned(), body)).into());
    let again = world.with_bucket("restore latest --json").exits(0).json();
    assert_eq!(again["objects"]["identical"], 4, "{again}");
    symlink("a", world.path("source/link")).unwrap();
    fs::write(world.path("source").join(OsStr::from_bytes(b"\xff")), b"x").unwrap();
    world.write("a", b"b");
    world.backup();
    world.with_bucket("restore latest").exits(1);
    let listed = world.with_bucket("restore latest --overwrite").exits(3);
    assert!(listed.error.contains("1 links and special files cannot be objects"), "{}", listed.error);
    assert!(listed.error.contains("1 names cannot be keys"), "{}", listed.error);
    assert_eq!(world.bodies()["d/second"], b"b");
}

#[test]
fn verify_lists_what_the_directory_has_become_since() {
    let world = World::new();
    for name in ["same", "changed", "removed"] {
        world.write(name, b"x");
    }
    let_time_pass();
    world.backup();
    world.run("verify latest --against-source --dir source").exits(0);
    world.write("changed", b"xy");
    world.write("added", b"x");
    fs::remove_file(world.path("source/removed")).unwrap();
    let text = world.run("verify latest --against-source --dir source").exits(3).text();
    for line in ["* objects changed", "+ objects added", "- objects removed", "1 the same in the source"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    fs::create_dir(world.path("other")).unwrap();
    world.run("verify latest --against-source --dir other").exits(1);
}

#[test]
fn files_are_shown_as_people_know_them() {
    let world = World::new();
    world.write("d/f", b"content");
    fs::hard_link(world.path("source/d/f"), world.path("source/d/g")).unwrap();
    symlink("d/f", world.path("source/link")).unwrap();
    set_mode(&world.path("source/d/f"), 0o4750);
    set_mode(&world.path("source/d"), 0o1777);
    world.backup();
    let long = world.run("ls -l latest objects").exits(0).text();
    for part in ["-rwsr-x---  ", "drwxrwxrwt  ", "  link -> d/f", "  d/g (hard link to d/f)"] {
        assert!(long.contains(part), "{part}: {long}");
    }
    assert_eq!(world.run("cat latest objects d/g").exits(0).out, b"content");
    assert!(world.run("cat latest objects d").exits(2).error.contains("no content"));
    let json = world.run("ls latest objects link --json").exits(0).json();
    assert_eq!((&json["kind"], &json["target"]), (&"symlink".into(), &"d/f".into()), "{json}");
    let items = world.items();
    let Attributes::File(file) = &items[&b"d/g"[..]].attributes else { panic!("it is a file") };
    assert_eq!(file.kind, FileKind::HardLink(b"d/f".to_vec()));
    assert_eq!(items[&b"d/g"[..]].size, 0, "its bytes count once");
    world.run("stats latest").exits(0);
}
