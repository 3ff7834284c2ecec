//! etcd: connecting, and its whole state as one file.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::runtime::Handle;

use super::{Error, Result};
use crate::context::Cancel;
use crate::fault::{Kind, chain};

const DIGEST_LEN: u64 = 32;
const ANSWER: Duration = Duration::from_secs(20);

/// Where an etcd is, and how to be let in.
#[derive(Clone, Default)]
pub struct EtcdAccess {
    /// URLs of members.
    pub endpoints: Vec<String>,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// A PEM file of certificate authorities.
    pub ca: Option<PathBuf>,
    /// PEM files of the client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The cluster.
    pub cluster_id: u64,
    /// The member.
    pub member_id: u64,
    /// Its version.
    pub version: String,
    /// Its newest revision.
    pub revision: i64,
    /// The size of its file in bytes.
    pub db_size: u64,
}

/// A member's whole state in an unlinked file.
pub struct Spooled {
    /// The file.
    pub file: File,
    /// Bytes of bbolt in it.
    pub size: u64,
}

/// A connection to one member.
pub struct Etcd {
    client: Client,
    endpoint: String,
    runtime: Handle,
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::File(path.display().to_string(), e))
}

fn options(access: &EtcdAccess) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_keep_alive(Duration::from_secs(10), Duration::from_secs(20));
    if let Some((name, password)) = &access.user {
        options = options.with_user(name, password).with_auto_token_refresh(true);
    }
    if access.ca.is_some() || access.identity.is_some() {
        let mut tls = TlsOptions::new().with_native_roots();
        if let Some(ca) = &access.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let Some((certificate, key)) = &access.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        options = options.with_tls(tls);
    }
    Ok(options)
}

/// The kind of failure behind etcd-client's error.
fn kind_of(error: &etcd_client::Error, why: &str) -> Kind {
    let lower = why.to_lowercase();
    let tls = ["certificate", "tls", "handshake", "corrupt message", "invalidcontenttype"];
    if tls.iter().any(|word| lower.contains(word)) {
        return Kind::Tls;
    }
    let denied = ["permission denied", "authentication failed", "user name is empty", "invalid auth token"];
    if denied.iter().any(|word| lower.contains(word)) {
        return Kind::Denied;
    }
    match error {
        etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => Kind::Usage,
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => Kind::Unreachable,
        etcd_client::Error::GRpcStatus(status) => match status.code() as i32 {
            // DeadlineExceeded, Unavailable, and Unknown or Internal where the connection broke.
            2 | 4 | 13 | 14 => Kind::Unreachable,
            7 | 16 => Kind::Denied,
            8 => Kind::NoSpace,
            _ => Kind::Failed,
        },
        _ => Kind::Failed,
    }
}

impl Etcd {
    /// Connects to the first of the endpoints that answers.
    pub fn connect(runtime: &Handle, access: &EtcdAccess) -> Result<(Etcd, Status)> {
        let mut failure = Error::Etcd {
            action: "reach",
            endpoint: String::new(),
            kind: Kind::Usage,
            why: "no endpoint was given".into(),
        };
        for endpoint in &access.endpoints {
            let answer = Etcd::connect_one(runtime, access, endpoint).and_then(|mut etcd| {
                let status = etcd.status()?;
                Ok((etcd, status))
            });
            match answer {
                Ok(found) => return Ok(found),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn connect_one(runtime: &Handle, access: &EtcdAccess, endpoint: &str) -> Result<Etcd> {
        let options = options(access)?;
        let connected = runtime.block_on(async {
            tokio::time::timeout(ANSWER, Client::connect([endpoint], Some(options))).await
        });
        let etcd = |client| Etcd { client, endpoint: endpoint.into(), runtime: runtime.clone() };
        match connected {
            Ok(Ok(client)) => Ok(etcd(client)),
            Ok(Err(error)) => Err(failure("reach", endpoint, &error)),
            Err(_) => Err(silent("reach", endpoint)),
        }
    }

    /// The client, for what the source itself does not do.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The member's URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What went wrong with `action`.
    pub fn fail(&self, action: &'static str, error: &etcd_client::Error) -> Error {
        failure(action, &self.endpoint, error)
    }

    /// Asks the member about itself.
    pub fn status(&mut self) -> Result<Status> {
        let (client, endpoint) = (&mut self.client, &self.endpoint);
        let answer = self.runtime.block_on(async { tokio::time::timeout(ANSWER, client.status()).await });
        let answer = answer.map_err(|_| silent("reach", endpoint))?;
        let answer = answer.map_err(|e| failure("reach", endpoint, &e))?;
        let header = answer.header();
        Ok(Status {
            cluster_id: header.map_or(0, |h| h.cluster_id()),
            member_id: header.map_or(0, |h| h.member_id()),
            version: answer.version().to_owned(),
            revision: header.map_or(0, |h| h.revision()),
            db_size: answer.db_size().try_into().unwrap_or_default(),
        })
    }

    /// Streams the member's whole state into an unlinked file in `directory`, and verifies the SHA-256
    /// that ends it. `progress` is told of every piece.
    pub fn snapshot(
        &mut self,
        directory: &Path,
        cancel: &Cancel,
        mut progress: impl FnMut(u64),
    ) -> Result<Spooled> {
        let spool = |e| Error::Spool(directory.display().to_string(), e);
        std::fs::create_dir_all(directory).map_err(spool)?;
        self.check_room(directory)?;
        let mut file = tempfile::tempfile_in(directory).map_err(spool)?;
        let mut digest = TrailingDigest::new();
        let (client, endpoint) = (&mut self.client, &self.endpoint);
        let size = self.runtime.block_on(async {
            let mut stream = client.snapshot().await.map_err(|e| failure("snapshot", endpoint, &e))?;
            loop {
                cancel.check()?;
                let message = tokio::time::timeout(ANSWER, stream.message()).await;
                let message = message.map_err(|_| silent("snapshot", endpoint))?;
                let Some(message) = message.map_err(|e| failure("snapshot", endpoint, &e))? else { break };
                file.write_all(message.blob()).map_err(spool)?;
                digest.update(message.blob());
                progress(message.blob().len() as u64);
            }
            Ok::<u64, Error>(digest.length)
        })?;
        digest.check().map_err(|why| Error::Torn(self.endpoint.clone(), why))?;
        Ok(Spooled { file, size: size - DIGEST_LEN })
    }

    fn check_room(&mut self, directory: &Path) -> Result<()> {
        let needed = self.status()?.db_size;
        let directory_name = directory.display().to_string();
        let room = rustix::fs::statvfs(directory).map_err(|e| Error::Spool(directory_name.clone(), e.into()))?;
        let free = room.f_bavail * room.f_frsize;
        if free < needed {
            return Err(Error::NoRoom { directory: directory_name, free, needed });
        }
        Ok(())
    }
}

fn failure(action: &'static str, endpoint: &str, error: &etcd_client::Error) -> Error {
    let why = chain(error);
    Error::Etcd { action, endpoint: endpoint.into(), kind: kind_of(error, &why), why }
}

fn silent(action: &'static str, endpoint: &str) -> Error {
    let why = format!("no answer within {} seconds", ANSWER.as_secs());
    Error::Etcd { action, endpoint: endpoint.into(), kind: Kind::Unreachable, why }
}

/// SHA-256 of everything but the last 32 bytes, which should be it.
struct TrailingDigest {
    context: digest::Context,
    tail: Vec<u8>,
    length: u64,
}

impl TrailingDigest {
    fn new() -> TrailingDigest {
        TrailingDigest { context: digest::Context::new(&digest::SHA256), tail: Vec::new(), length: 0 }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        let surplus = self.tail.len().saturating_sub(DIGEST_LEN as usize);
        self.context.update(&self.tail[..surplus]);
        self.tail.drain(..surplus);
    }

    fn check(self) -> std::result::Result<(), String> {
        if self.length < DIGEST_LEN || self.length % 512 != DIGEST_LEN {
            return Err(format!("{} bytes arrived, which is no whole file with its checksum", self.length));
        }
        if self.context.finish().as_ref() == self.tail.as_slice() {
            Ok(())
        } else {
            Err("its SHA-256 does not fit".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digested(bytes: &[u8], pieces: usize) -> std::result::Result<(), String> {
        let mut digest = TrailingDigest::new();
        bytes.chunks(pieces).for_each(|piece| digest.update(piece));
        digest.check()
    }

    #[test]
    fn a_snapshot_is_believed_only_with_its_checksum() {
        let body = vec![7; 1024];
        let whole = [&body[..], digest::digest(&digest::SHA256, &body).as_ref()].concat();
        for pieces in [1, 31, 100, 5000] {
            assert_eq!(digested(&whole, pieces), Ok(()));
        }
        let mut flipped = whole.clone();
        flipped[100] ^= 1;
        assert!(digested(&flipped, 100).is_err());
        assert!(digested(&whole[..1024], 100).is_err());
        assert!(digested(&whole[..10], 100).is_err());
        assert!(digested(&[], 1).is_err());
    }
}
