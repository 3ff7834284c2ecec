//! The program, killed at any moment: what was said to be there is whole, and the next run goes on. 20 times;
//! with `ICECORE_SOAK=1` 500 times.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use icecore::context::{Random, Seeded};
use tempfile::TempDir;

struct World {
    directory: TempDir,
    random: Seeded,
}

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn draw(&self, most: u64) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        u64::from_le_bytes(bytes) % most
    }

    /// Changes some files of the source.
    fn churn(&self) {
        fs::create_dir_all(self.path("source")).unwrap();
        for _ in 0..12 {
            let mut bytes = vec![0; self.draw(200_000) as usize];
            self.random.fill(&mut bytes);
            fs::write(self.path("source").join(format!("file-{}", self.draw(60))), bytes).unwrap();
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.args(arguments).args(["--no-progress", "--json"]).stdin(Stdio::null());
        let set: Vec<String> =
            std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("ICECORE_")).collect();
        for name in &set {
            command.env_remove(name);
        }
        command
            .env("ICECORE_REPOSITORY", self.path("repository"))
            .env("ICECORE_PASSPHRASE", "a long sentence");
        command.env("ICECORE_CACHE_DIR", self.path("cache")).current_dir(self.directory.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {} {told}", output.status);
        output
    }

    /// Kills the command after so long; true where it had ended by itself.
    fn killed(&self, arguments: &[&str], after: Duration) -> bool {
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        let ended = child.try_wait().unwrap().is_some();
        let _ = child.kill();
        let _ = child.wait();
        ended
    }

    fn snapshots(&self) -> Vec<String> {
        let output = self.run(&["snapshots"]).stdout;
        String::from_utf8(output).unwrap().lines().map(str::to_owned).collect()
    }
}

fn same_files(a: &Path, b: &Path) {
    let names = |path: &Path| {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(a), names(b));
    for name in names(a) {
        assert!(fs::read(a.join(&name)).unwrap() == fs::read(b.join(&name)).unwrap(), "{name:?} differs");
    }
}

/// A cache says that its process has ended; hosts and numbers of processes, which containers share, do not.
#[test]
fn a_killed_backup_is_told_dead_by_its_own_cache_only() {
    let world = World { directory: tempfile::tempdir().unwrap(), random: Seeded::new(6) };
    world.churn();
    let source = world.path("source");
    let source = source.to_str().unwrap();
    world.run(&["init"]);
    world.run(&["backup", "--dir", source]);
    world.run(&["forget", "latest"]);
    // So slow that it is killed in the middle.
    world.churn();
    let mut slow = world.command(&["backup", "--dir", source, "--limit-upload", "20000"]);
    let mut backup = slow.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = |folder: &str| fs::read_dir(world.path("repository").join(folder)).map_or(0, Iterator::count);
    while begun("sessions") < 2 {
        assert!(backup.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    let prune = |cache: &str| {
        let mut command = world.command(&["prune", "--no-wait"]);
        command.env("ICECORE_CACHE_DIR", world.path(cache)).output().unwrap().status.code()
    };
    assert_eq!(prune("cache"), Some(3), "it lives");
    backup.kill().unwrap();
    backup.wait().unwrap();
    assert_eq!(begun("snapshots"), 1, "it was killed before it had ended");
    assert_eq!(prune("another cache"), Some(3), "whether it lives is not known there");
    assert_eq!(prune("cache"), Some(0));
    assert_eq!(begun("sessions"), 0);
}

#[test]
fn a_killed_program_loses_nothing_and_is_gone_on_with() {
    let world = World { directory: tempfile::tempdir().unwrap(), random: Seeded::new(5) };
    world.churn();
    let source = world.path("source");
    let source = source.to_str().unwrap();
    world.run(&["init"]);
    // As long as a command takes here: one that ends before it is killed shows nothing.
    let begun = Instant::now();
    world.run(&["backup", "--dir", source]);
    let whole = begun.elapsed();
    let rounds = if std::env::var_os("ICECORE_SOAK").is_some() { 500 } else { 20 };
    let mut killed = 0;
    for round in 0..rounds {
        world.churn();
        let after = Duration::from_micros(world.draw(whole.as_micros() as u64));
        let command: &[&str] = match round % 3 {
            0 => &["backup", "--dir", source],
            1 => &["forget", "--keep-last", "3", "--prune", "--max-unused", "0%"],
            _ => &["prune", "--max-unused", "0%"],
        };
        killed += u32::from(!world.killed(command, after));
        world.run(&["check", "--read-data"]);
        assert!(!world.snapshots().is_empty());
        if round % 3 == 2 {
            world.run(&["backup", "--dir", source]);
            let target = world.path("target");
            let _ = fs::remove_dir_all(&target);
            world.run(&["restore", "latest", "--to-dir", target.to_str().unwrap()]);
            same_files(Path::new(source), &target);
        }
    }
    println!("{killed} of {rounds} were killed before they had ended");
    assert!(killed >= rounds / 5, "only {killed} were killed");
    world.run(&["forget", "--keep-last", "1", "--prune", "--max-unused", "0%"]);
    world.run(&["check", "--read-data"]);
    assert_eq!(world.snapshots().len(), 1);
    // Nothing is left that nobody needs.
    for folder in ["sessions", "forgotten"] {
        let left = fs::read_dir(world.path("repository").join(folder)).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "{folder}");
    }
}
