//! The revision of users and roles, which the client does not ask for.

use std::str::FromStr;

use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{Etcd, Result};

/// `etcdserverpb.AuthenticateRequest`.
#[derive(Clone, PartialEq, Message)]
struct Authenticate {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    password: String,
}

/// `etcdserverpb.AuthenticateResponse`.
#[derive(Clone, PartialEq, Message)]
struct Authenticated {
    #[prost(string, tag = "2")]
    token: String,
}

/// `etcdserverpb.AuthStatusRequest`.
#[derive(Clone, PartialEq, Message)]
struct Ask {}

/// `etcdserverpb.AuthStatusResponse`.
#[derive(Clone, PartialEq, Message)]
struct AuthStatus {
    #[prost(bool, tag = "2")]
    enabled: bool,
    #[prost(uint64, tag = "3")]
    revision: u64,
}

/// Whether authentication is on, and the revision of users and roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth {
    /// It is on.
    pub enabled: bool,
    /// It grows with every change.
    pub revision: u64,
}

impl Etcd {
    /// The state of authentication; `None` from servers before 3.5, which do not tell.
    pub fn auth(&self) -> Result<Option<Auth>> {
        let answer = self.answered("ask for the authentication of", async {
            match self.ask_auth().await {
                Ok(status) => Ok(Some(Auth { enabled: status.enabled, revision: status.revision })),
                Err(status) if status.code() == Code::Unimplemented => Ok(None),
                Err(status) => Err(etcd_client::Error::GRpcStatus(status)),
            }
        })?;
        Ok(answer)
    }

    async fn ask_auth(&self) -> std::result::Result<AuthStatus, Status> {
        let mut channel = Grpc::new(self.channel().await?);
        let mut ask = Request::new(Ask {});
        if let Some((name, password)) = self.user.clone() {
            let login = Request::new(Authenticate { name, password });
            let answer: Authenticated = call(&mut channel, "Authenticate", login).await?;
            let token = MetadataValue::from_str(&answer.token);
            let token = token.map_err(|e| Status::internal(format!("the token is no text: {e}")))?;
            ask.metadata_mut().insert("token", token);
        }
        call(&mut channel, "AuthStatus", ask).await
    }

    async fn channel(&self) -> std::result::Result<Channel, Status> {
        let failed = |error: tonic::transport::Error| Status::unavailable(crate::fault::chain(&error));
        let scheme = if self.tls.is_some() { "https://" } else { "http://" };
        let address = match self.endpoint.contains("://") {
            true => self.endpoint.clone(),
            false => format!("{scheme}{}", self.endpoint),
        };
        let mut endpoint = Endpoint::from_shared(address).map_err(failed)?;
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.clone()).map_err(failed)?;
        }
        endpoint.connect().await.map_err(failed)
    }
}

async fn call<A: Message + 'static, B: Message + Default + 'static>(
    channel: &mut Grpc<Channel>,
    method: &'static str,
    request: Request<A>,
) -> std::result::Result<B, Status> {
    channel.ready().await.map_err(|e| Status::unavailable(crate::fault::chain(&e)))?;
    let path = PathAndQuery::try_from(format!("/etcdserverpb.Auth/{method}"));
    let path = path.map_err(|e| Status::internal(e.to_string()))?;
    Ok(channel.unary(request, path, ProstCodec::<A, B>::default()).await?.into_inner())
}
