//! A connection to one member of an etcd cluster, and what is read through it.

mod auth;
mod keys;
mod leases;
mod rights;

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, ResponseHeader, TlsOptions, Txn,
};
use tokio::runtime::Handle;

use crate::fault::{Kind, chain};

pub use auth::Auth;
pub use keys::{Counted, Keys, Present, Span};
pub use leases::LeaseTime;
pub use rights::Rights;

/// A member that does not answer within this time is given up.
pub const ANSWER: Duration = Duration::from_secs(20);
/// A hash of all its records may take a member this long.
const HASH: Duration = Duration::from_secs(600);

/// Where an etcd is, and how to be let in.
#[derive(Clone, Default)]
pub struct Access {
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
    /// Its version; empty where the user may not know it.
    pub version: String,
    /// Its newest revision.
    pub revision: i64,
    /// The size of its file in bytes; 0 where the user may not know it.
    pub db_size: u64,
}

impl Status {
    fn of(header: Option<&ResponseHeader>) -> Status {
        Status {
            cluster_id: header.map_or(0, |h| h.cluster_id()),
            member_id: header.map_or(0, |h| h.member_id()),
            version: String::new(),
            revision: header.map_or(0, |h| h.revision()),
            db_size: 0,
        }
    }
}

/// A member's answer to `HashKV`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    /// CRC-32C.
    pub hash: u32,
    /// The compaction point that it depends on; 0 for none.
    pub compact_revision: i64,
    /// The revision it is of; etcd 3.6 and later say it.
    pub revision: Option<i64>,
}

/// Why a member could not be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A request failed.
    #[error("cannot {action} etcd at {endpoint}: {why}")]
    Request {
        /// The request, as a verb.
        action: &'static str,
        /// The member.
        endpoint: String,
        /// The kind of failure.
        kind: Kind,
        /// What the server or the connection said.
        why: String,
    },
    /// A certificate or key file.
    #[error("cannot read {0}: {1}")]
    File(String, String),
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Request { kind, .. } => *kind,
            Error::File(..) => Kind::Usage,
        }
    }

    fn says(&self, what: &str) -> bool {
        matches!(self, Error::Request { why, .. } if why.contains(what))
    }

    /// Whether the revision that was asked for is compacted.
    pub fn is_compacted(&self) -> bool {
        self.says("required revision has been compacted")
    }

    /// Whether the member has nothing of the revision that was asked for: it is compacted, or not there yet.
    pub fn is_out_of_reach(&self) -> bool {
        self.is_compacted() || self.says("required revision is a future revision")
    }

    /// Whether the answer was larger than it may be.
    fn is_too_large(&self) -> bool {
        self.says("message length too large")
    }
}

/// A connection to one member.
pub struct Etcd {
    client: Client,
    endpoint: String,
    /// Name and password, where they were given.
    user: Option<(String, String)>,
    tls: Option<TlsOptions>,
    runtime: Handle,
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::File(path.display().to_string(), e.to_string()))
}

fn options(access: &Access, endpoint: &str) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_keep_alive(Duration::from_secs(10), Duration::from_secs(20));
    if let Some((name, password)) = &access.user {
        options = options.with_user(name, password).with_auto_token_refresh(true);
    }
    if let Some(tls) = tls_options(access, endpoint)? {
        options = options.with_tls(tls);
    }
    Ok(options)
}

fn tls_options(access: &Access, endpoint: &str) -> Result<Option<TlsOptions>> {
    if !endpoint.starts_with("https://") && access.ca.is_none() && access.identity.is_none() {
        return Ok(None);
    }
    let mut tls = TlsOptions::new().with_native_roots();
    if let Some(ca) = &access.ca {
        tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    if let Some((certificate, key)) = &access.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(Some(tls))
}

/// What was said, and the last of its causes.
fn last_of(said: &str, cause: &(dyn std::error::Error + 'static)) -> String {
    let mut last = cause;
    while let Some(deeper) = last.source() {
        last = deeper;
    }
    let last = last.to_string();
    match said.is_empty() {
        true => last,
        false if said.contains(&last) => said.to_owned(),
        false => format!("{said}: {last}"),
    }
}

/// Whether what etcd says is that the user may not.
fn is_denial(why: &str) -> bool {
    let why = why.to_lowercase();
    let denied = ["permission denied", "authentication failed", "user name is empty", "invalid auth token"];
    denied.iter().any(|word| why.contains(word))
}

/// The kind of failure behind etcd-client's error.
fn kind_of(error: &etcd_client::Error, why: &str) -> Kind {
    let lower = why.to_lowercase();
    let tls = ["certificate", "tls", "handshake", "corrupt message", "invalidcontenttype"];
    if tls.iter().any(|word| lower.contains(word)) {
        return Kind::Tls;
    }
    if is_denial(why) {
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
    pub fn connect(runtime: &Handle, access: &Access) -> Result<(Etcd, Status)> {
        let mut failure = Error::Request {
            action: "reach",
            endpoint: String::new(),
            kind: Kind::Usage,
            why: "no endpoint was given".into(),
        };
        for endpoint in &access.endpoints {
            let answer = Etcd::connect_one(runtime, access, endpoint).and_then(|etcd| {
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

    /// Connects to each of the endpoints, whether it answers or not.
    pub fn connect_each(runtime: &Handle, access: &Access) -> Vec<(String, Result<(Etcd, Status)>)> {
        let connect = |endpoint: &String| {
            let one = Access { endpoints: vec![endpoint.clone()], ..access.clone() };
            (endpoint.clone(), Etcd::connect(runtime, &one))
        };
        access.endpoints.iter().map(connect).collect()
    }

    fn connect_one(runtime: &Handle, access: &Access, endpoint: &str) -> Result<Etcd> {
        let options = options(access, endpoint)?;
        let connected = runtime.block_on(async {
            tokio::time::timeout(ANSWER, Client::connect([endpoint], Some(options))).await
        });
        let (user, tls) = (access.user.clone(), tls_options(access, endpoint)?);
        let etcd = |client| Etcd { client, endpoint: endpoint.into(), user, tls, runtime: runtime.clone() };
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

    /// The runtime that drives requests.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The error of a request that got no answer in time.
    pub fn silent(&self, action: &'static str) -> Error {
        silent(action, &self.endpoint)
    }

    /// The error of a connection that ended, or of what was said in it.
    pub fn broken(&self, action: &'static str, why: &str) -> Error {
        let kind = if is_denial(why) { Kind::Denied } else { Kind::Unreachable };
        Error::Request { action, endpoint: self.endpoint.clone(), kind, why: why.into() }
    }

    /// What went wrong with `action`.
    pub fn fail(&self, action: &'static str, error: &etcd_client::Error) -> Error {
        failure(action, &self.endpoint, error)
    }

    /// The answer to a request that is given up when it does not come in time.
    fn answered<T>(
        &self,
        action: &'static str,
        request: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
    ) -> Result<T> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(ANSWER, request).await });
        answer.map_err(|_| self.silent(action))?.map_err(|e| self.fail(action, &e))
    }

    /// The newest revision of the cluster, which the member has caught up with once it answers. `key` is
    /// one that the user may read.
    pub fn catch_up(&self, key: &[u8]) -> Result<i64> {
        let mut client = self.client();
        let options = GetOptions::new().with_count_only();
        let answer = self.answered("read", client.get(key, Some(options)))?;
        Ok(answer.header().map_or(0, |header| header.revision()))
    }

    /// Whether the member still has `revision`. `key` is one that the user may read.
    pub fn keeps(&self, key: &[u8], revision: i64) -> Result<bool> {
        let mut client = self.client();
        let options = GetOptions::new().with_count_only().with_revision(revision);
        match self.answered("read", client.get(key, Some(options))) {
            Err(error) if error.is_compacted() => Ok(false),
            answer => answer.map(|_| true),
        }
    }

    /// Asks the member about itself.
    pub fn status(&self) -> Result<Status> {
        let mut client = self.client();
        match self.answered("reach", client.status()) {
            Ok(answer) => Ok(Status {
                version: answer.version().to_owned(),
                db_size: answer.db_size().try_into().unwrap_or_default(),
                ..Status::of(answer.header())
            }),
            // From 3.6 on it is for the role root only. A transaction of nothing is for everyone.
            Err(error) if error.kind() == Kind::Denied => {
                let answer = self.answered("reach", client.txn(Txn::new()))?;
                Ok(Status::of(answer.header()))
            }
            Err(error) => Err(error),
        }
    }
}

impl Etcd {
    /// Asks for the member's hash of all its records up to `revision`.
    pub fn hash_kv(&self, revision: i64) -> Result<Hashed> {
        let mut client = self.client();
        let answer =
            self.runtime.block_on(async { tokio::time::timeout(HASH, client.hash_kv(revision)).await });
        let answer = answer.map_err(|_| silent("hash", &self.endpoint))?;
        let answer = answer.map_err(|e| self.fail("hash", &e))?;
        Ok(Hashed {
            hash: answer.hash(),
            compact_revision: answer.compact_version().max(0),
            revision: Some(answer.hash_revision()).filter(|&revision| revision > 0),
        })
    }
}

fn failure(action: &'static str, endpoint: &str, error: &etcd_client::Error) -> Error {
    let whole = chain(error);
    // Its own words hold the cause as a programmer sees it.
    let why = match error {
        etcd_client::Error::GRpcStatus(status) => match (status.message(), status.source()) {
            ("", None) => whole.clone(),
            (said, None) => said.to_owned(),
            (said, Some(cause)) => last_of(said, cause),
        },
        _ => whole.clone(),
    };
    Error::Request { action, endpoint: endpoint.into(), kind: kind_of(error, &whole), why }
}

fn silent(action: &'static str, endpoint: &str) -> Error {
    let why = format!("no answer within {} seconds", ANSWER.as_secs());
    Error::Request { action, endpoint: endpoint.into(), kind: Kind::Unreachable, why }
}
