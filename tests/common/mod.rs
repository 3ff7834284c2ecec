//! Real servers for tests: on loopback, on ports that were free, in a temporary directory, ended by
//! their own process id however the test ends.
//!
//! `scripts/lib.sh` starts the same servers for scripts; options that matter are explained there.

// Each test program uses a part of this.
#![allow(dead_code)]

pub mod bucket;
pub mod proxy;

use std::collections::{HashSet, hash_map::RandomState};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use icecore::storage::{CredentialVars, S3Access, S3Address, connect};
use tokio::runtime::Runtime;

pub const ACCESS_KEY: &str = "icecore-test";
pub const SECRET_KEY: &str = "icecore-test-secret";

/// A server may need this long on a busy machine.
const READY: Duration = Duration::from_secs(60);

/// A runtime for clients of servers.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A port that nobody listens on. Below 32768, where the kernel picks the ports of outgoing
/// connections: one of those could take it before the server does.
pub fn free_port() -> u16 {
    static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    // Every hasher has keys of its own: enough randomness for a port.
    let random = || RandomState::new().hash_one(0);
    let candidates = std::iter::repeat_with(|| 20_000 + (random() % 12_000) as u16);
    let free = candidates.take(1000).find(|&port| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && TAKEN.lock().unwrap().insert(port)
    });
    free.expect("no free port found")
}

/// A server's process and its directory.
pub struct Server {
    child: Child,
    /// What began it.
    command: Command,
    /// The path that answers once it is ready.
    health: &'static str,
    directory: tempfile::TempDir,
    /// `http://127.0.0.1:port`
    pub url: String,
    /// Files outside the directory that the server makes.
    litter: Vec<PathBuf>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for path in &self.litter {
            let _ = fs::remove_file(path);
        }
    }
}

/// Begins the process. The kernel ends it if this process is killed outright; it goes by the thread
/// that began it, so all are begun by one thread that stays.
fn launch(command: Command) -> io::Result<(Child, Command)> {
    type Order = (Command, Sender<io::Result<(Child, Command)>>);
    static LAUNCHER: LazyLock<Sender<Order>> = LazyLock::new(|| {
        let (orders, received) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in received {
                let _ = answer.send(command.spawn().map(|child| (child, command)));
            }
        });
        orders
    });
    let (answer, child) = channel();
    LAUNCHER.send((command, answer)).expect("the launcher stays");
    child.recv().expect("the launcher answers")
}

/// `program`, ended by the kernel together with this process where the machine can do that.
fn guarded(program: &Path) -> Command {
    static GUARD: LazyLock<bool> = LazyLock::new(|| {
        let mut probe = Command::new("setpriv");
        probe.args(["--pdeathsig", "KILL", "true"]).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    });
    if !*GUARD {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// The path of an installed server program.
fn installed(name: &str, part: &str) -> PathBuf {
    installed_at(&format!("bin/{name}"), part)
}

/// The same for a program at a place of its own below the cache.
fn installed_at(place: &str, part: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/icecore");
    let cache = std::env::var_os("ICECORE_CACHE").map_or_else(home, PathBuf::from);
    let program = cache.join(place);
    assert!(
        program.is_file(),
        "{} is not there: `scripts/servers.sh {part}` installs it for this test",
        program.display()
    );
    program
}

fn etcd_program(version: &str) -> PathBuf {
    installed_at(&format!("servers/etcd-{version}/etcd"), &format!("etcd-{}", &version[..3]))
}

impl Server {
    /// MinIO.
    pub fn minio() -> Server {
        let program = installed("minio", "minio");
        start("MinIO", "/minio/health/ready", |directory| {
            let (port, console) = (free_port(), free_port());
            let mut command = guarded(&program);
            command.arg("server").arg(directory.join("data"));
            command.args(["--address", &format!("127.0.0.1:{port}")]);
            command.args(["--console-address", &format!("127.0.0.1:{console}")]);
            // Certificates in the home directory would turn TLS on.
            fs::create_dir_all(directory.join("certs/CAs")).unwrap();
            command.arg("--certs-dir").arg(directory.join("certs"));
            command.envs([("MINIO_ROOT_USER", ACCESS_KEY), ("MINIO_ROOT_PASSWORD", SECRET_KEY)]);
            command.envs([
                ("MINIO_UPDATE", "off"),
                ("MINIO_BROWSER", "off"),
                ("MINIO_CALLHOME_ENABLE", "off"),
            ]);
            (port, command, Vec::new())
        })
    }

    /// etcd of a version that `scripts/servers.sh` installs: 3.5.1, 3.6.4.
    pub fn etcd(version: &str) -> Server {
        Server::etcd_with(version, &[])
    }

    /// The same with options of its own.
    pub fn etcd_with(version: &str, options: &[&str]) -> Server {
        let program = etcd_program(version);
        start("etcd", "/health", |directory| {
            let (port, peer) = (free_port(), free_port());
            let (url, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
            let mut command = guarded(&program);
            command.arg("--data-dir").arg(directory.join("data"));
            command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--name", "test", "--initial-cluster", &format!("test={peer}")]).args(options);
            (port, command, Vec::new())
        })
    }

    /// Three members of one cluster.
    pub fn etcd_cluster(version: &str) -> Vec<Server> {
        let program = etcd_program(version);
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let at = |port: u16| format!("http://127.0.0.1:{port}");
        let all: Vec<String> = (0..3).map(|n| format!("m{n}={}", at(ports[n].1))).collect();
        let begin = |n: usize| {
            let directory = tempfile::tempdir().unwrap();
            let (url, peer) = (at(ports[n].0), at(ports[n].1));
            let mut command = guarded(&program);
            command.arg("--data-dir").arg(directory.path().join("data"));
            command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--name", &format!("m{n}"), "--initial-cluster", &all.join(",")]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let (child, command) = launch(command).unwrap();
            Server { child, command, health: "/health", directory, url, litter: Vec::new() }
        };
        let members: Vec<Server> = (0..3).map(begin).collect();
        members.iter().for_each(Server::wait);
        members
    }

    /// Until it answers.
    fn wait(&self) {
        let (begun, port) = (Instant::now(), self.url.rsplit(':').next().unwrap().parse().unwrap());
        while !healthy(port, self.health).unwrap_or(false) {
            assert!(begun.elapsed() < READY, "{} did not become ready", self.url);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills it and starts it again on the same data.
    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let command = std::mem::replace(&mut self.command, Command::new("false"));
        (self.child, self.command) = launch(command).unwrap();
        self.wait();
    }

    /// Kills it and starts it again on nothing.
    pub fn wipe(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        fs::remove_dir_all(self.directory.path().join("data")).unwrap();
        self.restart();
    }

    /// Has the process stand still, or go on.
    pub fn pause(&self, still: bool) {
        let signal = if still { "-STOP" } else { "-CONT" };
        let done = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status();
        assert!(done.unwrap().success());
    }

    /// etcd on what `etcdutl snapshot restore` with these options makes of `file`.
    pub fn etcd_from(version: &str, file: &Path, options: &[&str]) -> Server {
        let part = format!("etcd-{}", &version[..3]);
        let program = |name| installed_at(&format!("servers/etcd-{version}/{name}"), &part);
        start("etcd", "/health", |directory| {
            let (port, peer) = (free_port(), free_port());
            let (url, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
            let mut member: Vec<String> = ["--name", "test", "--initial-advertise-peer-urls", &peer]
                .iter()
                .map(|&word| word.to_owned())
                .collect();
            member.extend(["--initial-cluster".into(), format!("test={peer}")]);
            member.extend(["--data-dir".into(), directory.join("data").display().to_string()]);
            let mut restore = Command::new(program("etcdutl"));
            restore.args(["snapshot", "restore"]).arg(file).args(&member).args(options);
            let done = restore.output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let mut command = guarded(&program("etcd"));
            command.args(&member).args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
            // A member that is alone need not wait long for others; and nothing of this is kept.
            command.args(["--listen-peer-urls", &peer, "--unsafe-no-fsync"]);
            command.args(["--heartbeat-interval", "10", "--election-timeout", "100"]);
            (port, command, Vec::new())
        })
    }

    /// SeaweedFS with its S3 gateway.
    pub fn weed() -> Server {
        let program = installed("weed", "seaweedfs");
        start("SeaweedFS", "/healthz", |directory| {
            fs::create_dir_all(directory.join("data")).unwrap();
            let identities = format!(
                r#"{{"identities": [{{"name": "test",
                "credentials": [{{"accessKey": "{ACCESS_KEY}", "secretKey": "{SECRET_KEY}"}}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"]}}]}}"#
            );
            fs::write(directory.join("s3.json"), identities).unwrap();
            weed_command(&program, directory)
        })
    }

    /// moto: S3 in memory, with versions, tags and storage classes.
    pub fn moto() -> Server {
        let python = installed_at("venv/bin/python", "moto");
        start("moto", "/moto-api/", |_| {
            let port = free_port();
            let mut command = guarded(&python);
            command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
            (port, command, Vec::new())
        })
    }

    /// How to be let in.
    pub fn access(&self) -> S3Access {
        let address = S3Address { endpoint: Some(self.url.clone()), ..S3Address::default() };
        let keys = CredentialVars { id: ACCESS_KEY.into(), secret: SECRET_KEY.into(), token: None };
        S3Access { address, credentials: Some(keys), attempts: 1 }
    }

    /// Makes a bucket. Tried for a while: SeaweedFS answers before all of its parts have found each
    /// other.
    pub fn make_bucket(&self, runtime: &Runtime, bucket: &str) {
        runtime.block_on(async {
            let client = connect(&self.access()).await.unwrap();
            let begun = Instant::now();
            while let Err(error) = client.create_bucket().bucket(bucket).send().await {
                let error = aws_sdk_s3::error::DisplayErrorContext(error);
                assert!(begun.elapsed() < READY, "bucket {bucket} cannot be made: {error}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
}

fn weed_command(program: &Path, directory: &Path) -> (u16, Command, Vec<PathBuf>) {
    let port = free_port();
    let mut command = guarded(program);
    // Its log files go to the temporary directory unless told otherwise.
    command.env("TMPDIR", directory).arg("server").current_dir(directory);
    command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]).arg(option("-dir", directory.join("data")));
    command.args(["-master.volumeSizeLimitMB=1024", "-master.telemetry=false", "-volume.max=100"]);
    command.args([format!("-s3.port={port}"), "-s3.port.iceberg=0".into(), "-s3.port.lance=0".into()]);
    for name in ["-master.port", "-volume.port", "-filer.port", "-iam.port"] {
        command.arg(format!("{name}={}", free_port()));
    }
    let mut litter = Vec::new();
    for part in ["master", "volume", "filer", "s3"] {
        // Each is given: the default is the port + 10000, which may be taken.
        let grpc = free_port();
        command.arg(format!("-{part}.port.grpc={grpc}"));
        litter.push(format!("/tmp/seaweedfs-{part}-grpc-{grpc}.sock").into());
    }
    command.arg(option("-filer.localSocket", directory.join("filer.sock")));
    command.arg(option("-s3.localSocket", directory.join("s3.sock")));
    command.arg(option("-s3.config", directory.join("s3.json")));
    (port, command, litter)
}

fn option(name: &str, value: impl AsRef<OsStr>) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(format!("{name}="));
    option.push(value);
    option
}

/// Starts a server and waits until it is ready. Another process may take its ports before it does:
/// then it ends, and is started again on others.
fn start(
    name: &str,
    health: &'static str,
    prepare: impl Fn(&Path) -> (u16, Command, Vec<PathBuf>),
) -> Server {
    let mut said = String::new();
    for _ in 0..3 {
        let directory = tempfile::tempdir().unwrap();
        let (port, mut command, litter) = prepare(directory.path());
        let log = directory.path().join("log");
        let file = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let (child, command) = launch(command).unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let mut server = Server { child, command, health, directory, url, litter };
        let begun = Instant::now();
        while server.child.try_wait().unwrap().is_none() && begun.elapsed() < READY {
            if healthy(port, health).unwrap_or(false) {
                return server;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        said = fs::read_to_string(log).unwrap_or_default();
    }
    panic!("{name} did not become ready:\n{said}");
}

/// Whether the server answers 200.
fn healthy(port: u16, path: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer.ends_with(b" 200"))
}
