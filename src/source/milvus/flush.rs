//! Asks a Milvus to write what it has in memory and in its message queue to the bucket.
//!
//! Each collection by itself, and then their states, as every client does. `FlushAll` asks for the same: on
//! Milvus 2.3.5 its state comes true after a minute, when the checkpoints of idle channels move on; that of
//! the same collections one by one after three seconds.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use data_encoding::BASE64;
use prost::Message;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::context::{Cancel, Interrupted};
use crate::fault::chain;

/// A request that is not answered in this time is given up.
const ANSWER: Duration = Duration::from_secs(20);
/// What is not flushed after this time is left as it is.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);

/// Where a Milvus is, and how to be let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Where clients connect: `http://host:19530`.
    pub url: String,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// A PEM file of certificate authorities.
    pub ca: Option<PathBuf>,
}

/// What was flushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Databases.
    pub databases: u64,
    /// Collections.
    pub collections: u64,
}

/// Why it was not flushed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection or a request.
    #[error("cannot {0} Milvus at {1}: {2}")]
    Request(&'static str, String, String),
    /// It takes too long.
    #[error("Milvus at {0} had not flushed collection {1:?} after {limit} seconds", limit = PATIENCE.as_secs())]
    Slow(String, String),
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// `commonpb.Status`.
#[derive(Clone, PartialEq, Message)]
struct State {
    #[prost(int32, tag = "1")]
    old_code: i32,
    #[prost(string, tag = "2")]
    reason: String,
    #[prost(int32, tag = "3")]
    code: i32,
    #[prost(bool, tag = "4")]
    retriable: bool,
}

impl State {
    /// Whether the collection or its database is not there any more.
    fn is_gone(&self) -> bool {
        const OLD_COLLECTION_NOT_EXISTS: i32 = 4;
        const COLLECTION_NOT_FOUND: i32 = 100;
        const DATABASE_NOT_FOUND: i32 = 800;
        self.old_code == OLD_COLLECTION_NOT_EXISTS
            || [COLLECTION_NOT_FOUND, DATABASE_NOT_FOUND].contains(&self.code)
    }
}

/// Nothing is asked for beyond the question itself.
#[derive(Clone, PartialEq, Message)]
struct ListDatabases {}

/// `milvuspb.ListDatabasesResponse`.
#[derive(Clone, PartialEq, Message)]
struct Databases {
    #[prost(message, optional, tag = "1")]
    state: Option<State>,
    #[prost(string, repeated, tag = "2")]
    names: Vec<String>,
}

/// `milvuspb.ShowCollectionsRequest`.
#[derive(Clone, PartialEq, Message)]
struct ShowCollections {
    #[prost(string, tag = "2")]
    database: String,
}

/// `milvuspb.ShowCollectionsResponse`.
#[derive(Clone, PartialEq, Message)]
struct Collections {
    #[prost(message, optional, tag = "1")]
    state: Option<State>,
    #[prost(string, repeated, tag = "2")]
    names: Vec<String>,
}

/// `milvuspb.FlushRequest`.
#[derive(Clone, PartialEq, Message)]
struct FlushOne {
    #[prost(string, tag = "2")]
    database: String,
    #[prost(string, repeated, tag = "3")]
    collections: Vec<String>,
}

/// `schemapb.LongArray`.
#[derive(Clone, PartialEq, Message)]
struct Ids {
    #[prost(int64, repeated, tag = "1")]
    ids: Vec<i64>,
}

/// `milvuspb.FlushResponse`.
#[derive(Clone, PartialEq, Message)]
struct Begun {
    #[prost(message, optional, tag = "1")]
    state: Option<State>,
    #[prost(map = "string, message", tag = "3")]
    segments: HashMap<String, Ids>,
    /// Since 2.3: the checkpoints of its channels must have come this far.
    #[prost(map = "string, uint64", tag = "6")]
    timestamps: HashMap<String, u64>,
}

/// `milvuspb.GetFlushStateRequest`.
#[derive(Clone, PartialEq, Message)]
struct GetFlushState {
    #[prost(int64, repeated, tag = "1")]
    segments: Vec<i64>,
    #[prost(uint64, tag = "2")]
    timestamp: u64,
    #[prost(string, tag = "3")]
    database: String,
    #[prost(string, tag = "4")]
    collection: String,
}

/// `milvuspb.GetFlushStateResponse`.
#[derive(Clone, PartialEq, Message)]
struct FlushState {
    #[prost(message, optional, tag = "1")]
    state: Option<State>,
    #[prost(bool, tag = "2")]
    flushed: bool,
}

/// An answer that may say that it is none.
trait Answer: Message + Default + 'static {
    fn state(&mut self) -> State;
}

macro_rules! answers {
    ($($answer:ty),*) => {$(
        impl Answer for $answer {
            fn state(&mut self) -> State {
                self.state.take().unwrap_or_default()
            }
        }
    )*};
}

answers!(Databases, Collections, Begun, FlushState);

/// Flushes every collection and waits until it is done.
pub fn flush(runtime: &Handle, access: &Access, cancel: &Cancel) -> Result<Flushed, Error> {
    runtime.block_on(async {
        let mut client = Client::connect(access, cancel).await?;
        let databases = client.databases().await?;
        let mut flushed = Flushed { databases: databases.len() as u64, collections: 0 };
        let mut waiting = Vec::new();
        for database in databases {
            for collection in client.collections(&database).await? {
                waiting.extend(client.begin(&database, collection).await?);
            }
        }
        for state in waiting {
            client.wait(state).await?;
            flushed.collections += 1;
        }
        Ok(flushed)
    })
}

struct Client<'a> {
    url: &'a str,
    grpc: Grpc<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    cancel: &'a Cancel,
    deadline: Instant,
}

impl<'a> Client<'a> {
    async fn connect(access: &'a Access, cancel: &'a Cancel) -> Result<Client<'a>, Error> {
        let failed = |why: String| Error::Request("connect to", access.url.clone(), why);
        let mut endpoint = Endpoint::from_shared(access.url.clone()).map_err(|e| failed(chain(&e)))?;
        if access.url.starts_with("https://") {
            let mut tls = ClientTlsConfig::new().with_native_roots();
            if let Some(ca) = &access.ca {
                let pem = std::fs::read(ca).map_err(|e| failed(format!("{}: {e}", ca.display())))?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls).map_err(|e| failed(chain(&e)))?;
        }
        let channel = endpoint.connect_timeout(ANSWER).connect().await.map_err(|e| failed(chain(&e)))?;
        let authorization = match &access.user {
            Some((name, password)) => {
                let text = BASE64.encode(format!("{name}:{password}").as_bytes());
                Some(MetadataValue::from_str(&text).map_err(|e| failed(e.to_string()))?)
            }
            None => None,
        };
        let deadline = Instant::now() + PATIENCE;
        Ok(Client { url: &access.url, grpc: Grpc::new(channel), authorization, cancel, deadline })
    }

    fn failed(&self, action: &'static str, why: impl Into<String>) -> Error {
        Error::Request(action, self.url.to_owned(), why.into())
    }

    /// One request; the state is the server's own verdict of it.
    async fn call<B: Answer>(
        &mut self,
        method: &str,
        ask: impl Message + 'static,
    ) -> Result<(State, B), Status> {
        let mut request = Request::new(ask);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        let path = PathAndQuery::try_from(format!("/milvus.proto.milvus.MilvusService/{method}"));
        let path = path.map_err(|e| Status::internal(e.to_string()))?;
        let grpc = &mut self.grpc;
        let exchange = async {
            grpc.ready().await.map_err(|e| Status::unavailable(chain(&e)))?;
            grpc.unary(request, path, ProstCodec::default()).await
        };
        let answer = timeout(ANSWER, exchange).await;
        let mut answer: B =
            answer.map_err(|_| Status::deadline_exceeded("it does not answer"))??.into_inner();
        Ok((answer.state(), answer))
    }

    /// The answer; `None` where what was asked for is gone. Asked again where the server wants that.
    async fn ask<B: Answer>(
        &mut self,
        action: &'static str,
        method: &str,
        ask: impl Message + Clone + 'static,
    ) -> Result<Option<B>, Error> {
        loop {
            self.cancel.check()?;
            let (state, answer) =
                self.call(method, ask.clone()).await.map_err(|s| self.failed(action, said(&s)))?;
            match state {
                State { old_code: 0, code: 0, .. } => return Ok(Some(answer)),
                gone if gone.is_gone() => return Ok(None),
                // Milvus limits how often a collection is flushed.
                again if again.retriable && Instant::now() < self.deadline => sleep(5 * PAUSE).await,
                refused => return Err(self.failed(action, refused.reason)),
            }
        }
    }

    /// Names of databases; of a Milvus that has none the one that needs no name.
    async fn databases(&mut self) -> Result<Vec<String>, Error> {
        const ACTION: &str = "list the databases of";
        match self.call::<Databases>("ListDatabases", ListDatabases {}).await {
            Ok((State { old_code: 0, code: 0, .. }, found)) => Ok(found.names),
            Ok((refused, _)) => Err(self.failed(ACTION, refused.reason)),
            Err(status) if status.code() == Code::Unimplemented => Ok(vec![String::new()]),
            Err(status) => Err(self.failed(ACTION, said(&status))),
        }
    }

    async fn collections(&mut self, database: &str) -> Result<Vec<String>, Error> {
        let ask = ShowCollections { database: database.to_owned() };
        let found: Option<Collections> = self.ask("list the collections of", "ShowCollections", ask).await?;
        Ok(found.map_or_else(Vec::new, |found| found.names))
    }

    /// Begins to flush; gives what to ask whether it is done.
    async fn begin(&mut self, database: &str, collection: String) -> Result<Option<GetFlushState>, Error> {
        let ask = FlushOne { database: database.to_owned(), collections: vec![collection.clone()] };
        let begun: Option<Begun> = self.ask("flush", "Flush", ask).await?;
        Ok(begun.map(|mut begun| GetFlushState {
            segments: begun.segments.remove(&collection).unwrap_or_default().ids,
            timestamp: begun.timestamps.remove(&collection).unwrap_or_default(),
            database: database.to_owned(),
            collection,
        }))
    }

    async fn wait(&mut self, state: GetFlushState) -> Result<(), Error> {
        loop {
            let answer: Option<FlushState> =
                self.ask("ask for the flushing of", "GetFlushState", state.clone()).await?;
            match answer {
                Some(FlushState { flushed: false, .. }) if Instant::now() < self.deadline => {
                    sleep(PAUSE).await;
                }
                Some(FlushState { flushed: false, .. }) => {
                    return Err(Error::Slow(self.url.to_owned(), state.collection));
                }
                Some(_) | None => return Ok(()),
            }
        }
    }
}

/// What a server or the connection said.
fn said(status: &Status) -> String {
    match status.code() {
        Code::Unauthenticated => format!("{} (a user and his password are needed)", status.message()),
        Code::Unimplemented => "it does not know this request".to_owned(),
        _ => status.message().to_owned(),
    }
}
