//! The built program on narrow terminals, with closed and full outputs, on full disks and on media that cannot
//! be written: it says what is wrong in words, ends with the right code, and never panics.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::bucket::{PASSPHRASE, World, content, objects};

/// The program, for `world`'s repository and source.
fn program(world: &World, program: &str) -> Command {
    let keys = world.minio.access().credentials.unwrap();
    let mut command = Command::new(program);
    command.current_dir(world.directory.path()).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", world.directory.path());
    command.env("ICECORE", env!("CARGO_BIN_EXE_icecore")).env("TERM", "xterm");
    command.env("ICECORE_REPOSITORY", world.path("repository")).env("ICECORE_CACHE_DIR", world.path("cache"));
    command.env("ICECORE_PASSPHRASE", PASSPHRASE).env("URL", &world.minio.url).env("BUCKET", &world.bucket);
    command.env("ICECORE_S3_ACCESS_KEY_ID", keys.id).env("ICECORE_S3_SECRET_ACCESS_KEY", keys.secret);
    command.stdin(Stdio::null());
    command
}

/// Runs a script of bash, in which `$ICECORE` is the program.
fn bash(world: &World, script: &str) -> Output {
    let mut command = program(world, "bash");
    command.args(["-c", &format!("set -o pipefail; {script}")]);
    command.output().unwrap()
}

/// The same where mounts are the script's own and end with it.
fn with_mounts(world: &World, script: &str) -> Output {
    let mut command = program(world, "unshare");
    command.args(["-rm", "bash", "-c", &format!("set -eo pipefail; {script}")]);
    command.output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Everything that was said.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A world with a snapshot.
fn world() -> World {
    let world = World::new();
    world.fill(objects(300));
    world.backup().unwrap();
    world
}

const BACKUP: &str = "backup --s3 $URL --bucket $BUCKET";

/// Every verb that prints, and what it ends with.
const VERBS: &[&str] = &[
    "snapshots",
    "snapshots --json",
    "ls latest objects",
    "ls latest objects --json -l",
    "cat latest objects 00/000000",
    "diff latest latest",
    "diff latest latest --stat",
    "verify latest",
    "check --read-data",
    "stats",
    "stats latest",
    "restore latest --to-s3 $URL --to-bucket target --dry-run",
    "key list",
    "completions bash",
    "backup --s3 $URL --bucket $BUCKET",
    "--help",
    "--version",
];

#[test]
fn whoever_stops_reading_ends_the_program_quietly() {
    let world = world();
    world.minio.make_bucket(&world.runtime, "target");
    for verb in VERBS {
        // `true` reads nothing at all; what is written first meets a closed pipe.
        let output = bash(&world, &format!("$ICECORE -q {verb} | true; exit ${{PIPESTATUS[0]}}"));
        assert_eq!((code(&output), said(&output).as_str()), (0, ""), "{verb}");
    }
    let output = bash(&world, "$ICECORE ls latest objects | head -n 1");
    assert_eq!((code(&output), said(&output).as_str()), (0, "00/000000\n"));
}

#[test]
fn a_full_output_is_said_and_nothing_panics() {
    let world = world();
    world.minio.make_bucket(&world.runtime, "target-full");
    for verb in VERBS.iter().filter(|verb| !verb.starts_with("--")) {
        let verb = verb.replace("target", "target-full");
        let output = bash(&world, &format!("$ICECORE {verb} >/dev/full"));
        let said = said(&output);
        // Nothing differs, and so nothing is written.
        let silent = verb == "diff latest latest";
        assert_eq!(code(&output), if silent { 0 } else { 1 }, "{verb}: {said}");
        assert!(silent || said.contains("No space left on device"), "{verb}: {said}");
        assert!(!said.contains("panicked"), "{verb}: {said}");
        if verb.starts_with("backup") {
            assert!(said.contains("is there"), "the snapshot was made: {said}");
        }
    }
    let output = bash(&world, "$ICECORE snapshots --json >/dev/full");
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "no_space");
}

#[test]
fn damage_is_told_by_the_exit_code_also_to_whoever_does_not_read() {
    let world = world();
    let packs = "find $ICECORE_REPOSITORY/packs/data -type f";
    assert_eq!(code(&bash(&world, &format!("{packs} -exec sh -c ': > $1' - {{}} ';'"))), 0);
    for verb in ["check", "check --json", "verify latest", "verify latest --json"] {
        let output = bash(&world, &format!("$ICECORE {verb} | true; exit ${{PIPESTATUS[0]}}"));
        assert_eq!(code(&output), 4, "{verb}: {}", said(&output));
    }
}

#[test]
fn without_any_of_its_three_files_the_program_works_all_the_same() {
    let world = world();
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        for verb in ["snapshots", "verify latest", BACKUP] {
            let output = bash(&world, &format!("$ICECORE {verb} {closed}"));
            assert_eq!(code(&output), 0, "{verb} {closed}: {}", said(&output));
        }
    }
    let output = bash(&world, "env -u ICECORE_PASSPHRASE $ICECORE snapshots <&-");
    assert_eq!(code(&output), 2, "{}", said(&output));
    assert!(said(&output).contains("ICECORE_PASSPHRASE_FILE"), "{}", said(&output));
    world.is_whole();
}

/// What a terminal of so many columns was sent.
fn on_terminal(world: &World, columns: usize, words: &str) -> (i32, String) {
    let mut command = program(world, "script");
    let inner = format!("stty cols {columns} rows 10; exec $ICECORE {words}");
    let output = command.args(["-qefc", &inner, "/dev/null"]).output().unwrap();
    (code(&output), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is seen of it: without what moves the cursor or colours.
fn seen(text: &str) -> String {
    let mut seen = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                rest.by_ref().find(char::is_ascii_alphabetic);
            }
            c => seen.push(c),
        }
    }
    seen
}

#[test]
fn the_moving_line_fits_a_terminal_of_20_columns_and_is_gone_at_the_end() {
    let world = World::new();
    world.fill((0..40).map(|n| (format!("{n:03}"), content(n, 100_000))));
    for columns in [20, 80] {
        let series = format!("{BACKUP} --series s{columns} --limit-upload 2MiB");
        let repository = world.path(&format!("repository-{columns}"));
        let (_, made) = on_terminal(&world, 80, &format!("init -r {}", repository.display()));
        assert!(made.contains("made repository"), "{made}");
        let (code, text) = on_terminal(&world, columns, &format!("{series} -r {}", repository.display()));
        assert_eq!(code, 0, "{text}");
        let shown = seen(&text);
        let lines = shown
            .split(['\r', '\n'])
            .filter(|line| line.contains("reading objects") || line.contains("storing"));
        let widest = lines.clone().map(|line| line.trim_end().chars().count()).max();
        assert!(widest.is_some_and(|widest| widest < columns), "{widest:?} of {columns}: {shown:?}");
        assert!(lines.count() > 3, "it does not move: {shown:?}");
        let end = shown.trim_end().rsplit(['\r', '\n']).next().unwrap();
        assert!(end.starts_with("snapshot "), "{end:?}");
    }
}

#[test]
fn a_repository_that_cannot_be_written_can_be_read_and_a_backup_says_so() {
    let world = world();
    world.minio.make_bucket(&world.runtime, "from-read-only");
    let read_only = "mount --bind $ICECORE_REPOSITORY $ICECORE_REPOSITORY; \
                     mount -o remount,bind,ro $ICECORE_REPOSITORY;";
    for verb in [
        "snapshots",
        "ls latest objects",
        "cat latest objects 00/000000",
        "diff latest latest",
        "verify latest",
        "check --read-data",
        "stats latest",
        "restore latest --to-s3 $URL --to-bucket from-read-only",
    ] {
        let output = with_mounts(&world, &format!("{read_only} $ICECORE {verb}"));
        assert_eq!(code(&output), 0, "{verb}: {}", said(&output));
    }
    let output = with_mounts(&world, &format!("{read_only} $ICECORE {BACKUP} --json"));
    assert_eq!(code(&output), 1, "{}", said(&output));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "denied");
    assert!(error["error"]["message"].as_str().unwrap().contains("Read-only file system"), "{error}");
}

#[test]
fn a_full_repository_disk_is_said_and_with_more_room_the_backup_goes_on() {
    let world = World::new();
    world.fill((0..60).map(|n| (format!("{n:03}"), content(n, 100_000))));
    let disk = world.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=4m none {0}; export ICECORE_REPOSITORY={0}/r; $ICECORE init >/dev/null
         code=0; $ICECORE {BACKUP} --json 2>error || code=$?; [[ $code == 1 ]]; grep -q '\"no_space\"' error
         $ICECORE snapshots --json; $ICECORE check --read-data --json; [[ -z $(ls {0}/r/tmp) ]]
         mount -o remount,size=40m {0}; $ICECORE {BACKUP} --json; $ICECORE verify latest -q; $ICECORE check --read-data",
        disk.display()
    );
    let output = with_mounts(&world, &script);
    let error = std::fs::read_to_string(world.path("error")).unwrap_or_default();
    assert_eq!(code(&output), 0, "{}{error}", said(&output));
}

#[test]
fn a_cache_that_is_full_or_cannot_be_written_is_named_with_what_to_do() {
    let world = world();
    let cache = world.path("small");
    std::fs::create_dir(&cache).unwrap();
    let mount = |options: &str| {
        format!("mount -t tmpfs -o {options} none {0}; export ICECORE_CACHE_DIR={0};", cache.display())
    };
    for (options, kind, why) in
        [("size=16k", "no_space", "No space left"), ("ro", "cache", "Read-only file system")]
    {
        for verb in ["ls latest objects", "verify latest", BACKUP] {
            let output = with_mounts(&world, &format!("{} $ICECORE {verb} --json", mount(options)));
            assert_eq!(code(&output), 1, "{options} {verb}: {}", said(&output));
            let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
            assert_eq!(error["error"]["code"], kind, "{options} {verb}: {error}");
            let message = error["error"]["message"].as_str().unwrap();
            assert!(message.contains(why), "{options} {verb}: {error}");
            assert!(message.contains(&cache.display().to_string()), "{options} {verb}: {error}");
            assert!(error.to_string().contains("--cache-dir"), "{options} {verb}: {error}");
        }
    }
    // A file where the directory should be.
    let file = world.path("file");
    std::fs::File::create(&file).unwrap().write_all(b"no directory").unwrap();
    let output = bash(&world, &format!("$ICECORE --cache-dir {} ls latest objects", file.display()));
    assert_eq!(code(&output), 1, "{}", said(&output));
    assert!(said(&output).contains("--cache-dir"), "{}", said(&output));
    world.is_whole();
    assert!(Path::new(&file).is_file());
}
