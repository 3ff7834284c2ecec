//! A connection to one member of an etcd cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::runtime::Handle;

use crate::fault::{Kind, chain};

/// A member that does not answer within this time is given up.
pub const ANSWER: Duration = Duration::from_secs(20);

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
    /// Its version.
    pub version: String,
    /// Its newest revision.
    pub revision: i64,
    /// The size of its file in bytes.
    pub db_size: u64,
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
}

/// A connection to one member.
pub struct Etcd {
    client: Client,
    endpoint: String,
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
    if endpoint.starts_with("https://") || access.ca.is_some() || access.identity.is_some() {
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
    pub fn connect(runtime: &Handle, access: &Access) -> Result<(Etcd, Status)> {
        let mut failure = Error::Request {
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

    fn connect_one(runtime: &Handle, access: &Access, endpoint: &str) -> Result<Etcd> {
        let options = options(access, endpoint)?;
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

    /// The runtime that drives requests.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The error of a request that got no answer in time.
    pub fn silent(&self, action: &'static str) -> Error {
        silent(action, &self.endpoint)
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
}

fn failure(action: &'static str, endpoint: &str, error: &etcd_client::Error) -> Error {
    let why = chain(error);
    Error::Request { action, endpoint: endpoint.into(), kind: kind_of(error, &why), why }
}

fn silent(action: &'static str, endpoint: &str) -> Error {
    let why = format!("no answer within {} seconds", ANSWER.as_secs());
    Error::Request { action, endpoint: endpoint.into(), kind: Kind::Unreachable, why }
}
