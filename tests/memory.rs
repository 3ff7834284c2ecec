//! The program's peak memory is bounded by its budget, however much goes through it.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use icecore::context::{Random, Seeded};

use crate::common::{ACCESS_KEY, SECRET_KEY, Server};

const MIB: u64 = 1 << 20;

/// The highest resident memory of a command that succeeds, in bytes.
fn peak(directory: &Path, repository: &str, arguments: &[&str]) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ICECORE_")) {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .args(["--quiet", "--json"])
        .env("ICECORE_REPOSITORY", repository)
        .env("ICECORE_REPOSITORY_ACCESS_KEY_ID", ACCESS_KEY)
        .env("ICECORE_REPOSITORY_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("ICECORE_S3_ACCESS_KEY_ID", ACCESS_KEY)
        .env("ICECORE_S3_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("ICECORE_CACHE_DIR", directory.join("cache"))
        .env("ICECORE_PASSPHRASE", "a long sentence")
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let ended = loop {
        // The kernel remembers the highest: only what comes after the last look is missed.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0) << 10);
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(ended.success(), "{arguments:?}: {ended}");
    assert!(most > 0, "no memory was seen of {arguments:?}");
    most
}

/// Noise in large files and in many small ones.
fn fill(directory: &Path, large: usize, small: usize) {
    let random = Seeded::new(5);
    let mut block = vec![0; MIB as usize];
    fs::create_dir_all(directory).unwrap();
    for number in 0..large {
        let mut file = File::create(directory.join(format!("large-{number}"))).unwrap();
        for _ in 0..32 {
            random.fill(&mut block);
            file.write_all(&block).unwrap();
        }
    }
    for number in 0..small {
        random.fill(&mut block[..2000]);
        let path = directory.join(format!("{:02}", number % 50));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(format!("small-{number}")), &block[..2000]).unwrap();
    }
}

/// Files of stretches of 4 MiB in which two bytes alternate: there is nowhere to cut, so that each is a chunk of the
/// largest size, of which the repository holds next to nothing.
fn fill_with_large_chunks(directory: &Path) {
    let random = Seeded::new(7);
    let mut stretch = vec![0; 4 * MIB as usize];
    fs::create_dir_all(directory).unwrap();
    for number in 0..24 {
        let mut file = File::create(directory.join(format!("stretches-{number}"))).unwrap();
        for _ in 0..16 {
            let mut two = [0; 2];
            random.fill(&mut two);
            stretch.chunks_exact_mut(2).for_each(|place| place.copy_from_slice(&two));
            file.write_all(&stretch).unwrap();
        }
    }
}

/// Every verb that much goes through, on a source of 300 MiB, within so much.
fn stays_within(repository: &str, world: &Path, budget: &str, bound: u64) {
    let at = |name: &str| world.join(name).to_string_lossy().into_owned();
    fill(&world.join("source"), 9, 6000);
    peak(world, repository, &["init"]);
    let source = at("source");
    let steps: [&[&str]; 5] = [
        &["backup", "--dir", &source],
        &["backup", "--dir", &source],
        &["check", "--read-data"],
        &["verify", "latest"],
        &["restore", "latest", "--to-dir", &at("restored")],
    ];
    for step in steps {
        let most = peak(world, repository, &[step, &["--memory", budget]].concat());
        assert!(most <= bound, "{step:?} within {budget}: {} MiB", most / MIB);
    }
}

#[test]
fn a_hundred_times_as_much_stays_within_the_budget() {
    for (budget, bound) in [("256MiB", 256 * MIB), ("128MiB", 192 * MIB)] {
        let world = tempfile::tempdir().unwrap();
        let repository = world.path().join("repository").to_string_lossy().into_owned();
        stays_within(&repository, world.path(), budget, bound);
    }
}

/// There packs are sent from memory, and more is asked for at once.
#[test]
fn a_hundred_times_as_much_on_a_server_stays_within_the_budget() {
    let (runtime, server) = (common::runtime(), Server::minio());
    server.make_bucket(&runtime, "a-bucket");
    let world = tempfile::tempdir().unwrap();
    stays_within(&format!("s3://a-bucket/?endpoint={}", server.url), world.path(), "256MiB", 256 * MIB);
}

/// What is restored to a bucket is read, opened and sent at once, a chunk for each step of each object.
#[test]
fn a_restore_to_a_bucket_stays_within_the_budget_whatever_the_size_of_chunks() {
    let (runtime, server) = (common::runtime(), Server::minio());
    let world = tempfile::tempdir().unwrap();
    let at = |name: &str| world.path().join(name).to_string_lossy().into_owned();
    fill(&world.path().join("noise"), 9, 3000);
    fill_with_large_chunks(&world.path().join("stretches"));
    server.make_bucket(&runtime, "a-repository");
    let far = format!("s3://a-repository/?endpoint={}", server.url);
    for (number, repository) in [at("repository"), far].iter().enumerate() {
        peak(world.path(), repository, &["init"]);
        for source in ["noise", "stretches"] {
            peak(world.path(), repository, &["backup", "--series", source, "--dir", &at(source)]);
            for (budget, bound) in [("256MiB", 256 * MIB), ("128MiB", 192 * MIB)] {
                let bucket = format!("{source}-{number}-{}", bound / MIB);
                server.make_bucket(&runtime, &bucket);
                let to =
                    ["restore", "latest", "--series", source, "--to-s3", &server.url, "--to-bucket", &bucket];
                let most = peak(world.path(), repository, &[&to[..], &["--memory", budget]].concat());
                assert!(most <= bound, "{source} of {repository} within {budget}: {} MiB", most / MIB);
            }
        }
    }
}
