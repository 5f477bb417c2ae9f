//! The connection: address, credentials, TLS and HTTP/2 settings.

use std::error::Error as _;
use std::time::Duration;

use tidegauge_proto::limits;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::error::{ClientError, Obstacle, innermost};

/// Where the server is and who calls.
#[derive(Clone)]
pub struct ClientOptions {
    /// Address of the server, `http://127.0.0.1:7171` or `https://…`.
    pub endpoint: String,
    /// Token or API key, sent as `authorization: Bearer …`.
    pub token: Option<String>,
    /// Tenant to act for, sent as `x-tenant-id`; needed where the credential covers several.
    pub tenant: Option<String>,
    /// Certificate authorities (PEM) that the server's certificate may be signed by, for `https` addresses; without it
    /// those that this machine trusts.
    pub ca_pem: Option<Vec<u8>>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { endpoint: "http://127.0.0.1:7171".to_owned(), token: None, tenant: None, ca_pem: None }
    }
}

/// Without the token: options end up in logs.
impl std::fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "(secret)");
        f.debug_struct("ClientOptions")
            .field("endpoint", &self.endpoint)
            .field("token", &token)
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

/// Time to establish a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Interval of HTTP/2 pings; a connection whose peer vanished is noticed after this and [`PING_ANSWER_TIME_MAX`].
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Time to answer a ping.
const PING_ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Answered by every server without a credential.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Variable with the certificate authorities of this machine, as other programs read it.
const AUTHORITIES_VARIABLE: &str = "SSL_CERT_FILE";
/// Where systems keep them: Debian, Fedora, openSUSE, RHEL, Alpine and macOS.
const AUTHORITIES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A channel that adds the credentials to every call.
pub(crate) type Authorized = InterceptedService<Channel, Credentials>;

/// Adds credentials to calls.
#[derive(Clone)]
pub(crate) struct Credentials {
    bearer: Option<MetadataValue<Ascii>>,
    tenant: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(bearer) = &self.bearer {
            metadata.insert("authorization", bearer.clone());
        }
        if let Some(tenant) = &self.tenant {
            metadata.insert("x-tenant-id", tenant.clone());
        }
        Ok(request)
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl ClientOptions {
    fn credentials(&self) -> Result<Credentials, ClientError> {
        let header = |name: &str, value: String, secret: bool| {
            let mut value = MetadataValue::<Ascii>::try_from(value).map_err(|_| ClientError::Option {
                option: name.to_owned(),
                problem: "has a character that no header can carry".to_owned(),
            })?;
            value.set_sensitive(secret);
            Ok::<_, ClientError>(value)
        };
        Ok(Credentials {
            bearer: self.token.as_ref().map(|t| header("token", format!("Bearer {t}"), true)).transpose()?,
            tenant: self.tenant.as_ref().map(|t| header("tenant", t.clone(), false)).transpose()?,
        })
    }

    fn endpoint(&self) -> Result<Endpoint, ClientError> {
        let bad = |problem: String| ClientError::Option { option: "endpoint".to_owned(), problem };
        let mut endpoint = Endpoint::from_shared(self.endpoint.clone())
            .map_err(|e| bad(format!("{:?} is no address: {e}", self.endpoint)))?
            .connect_timeout(CONNECT_TIME_MAX)
            .tcp_nodelay(true)
            .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_ANSWER_TIME_MAX)
            .keep_alive_while_idle(true)
            .user_agent(concat!("tidegauge-client/", env!("CARGO_PKG_VERSION")))
            .map_err(|e| bad(e.to_string()))?;
        match endpoint.uri().scheme_str() {
            Some("http") => {}
            Some("https") => {
                let tls = self.tls(endpoint.uri().host().unwrap_or_default())?;
                endpoint = endpoint.tls_config(tls).map_err(|e| bad(innermost(&e)))?;
            }
            _ => return Err(bad(format!("{:?} must start with http:// or https://", self.endpoint))),
        }
        Ok(endpoint)
    }

    fn tls(&self, host: &str) -> Result<ClientTlsConfig, ClientError> {
        let bad = |problem: &str| ClientError::Option { option: "ca".to_owned(), problem: problem.to_owned() };
        let pem = match &self.ca_pem {
            Some(pem) => pem.clone(),
            None => authorities().ok_or_else(|| bad("must be named: this machine has no list of them"))?,
        };
        // The library takes what it can read and would go on with nothing.
        if !pem.windows(PEM_BEGIN.len()).any(|window| window == PEM_BEGIN) {
            return Err(bad("has no certificate in PEM form"));
        }
        // An address of IPv6 stands in brackets there and without them in a certificate.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)).domain_name(name))
    }

    /// Connects now, so that a wrong address is an error here; later breaks are reconnected by the channel.
    pub(crate) async fn open(&self) -> Result<Authorized, ClientError> {
        let credentials = self.credentials()?;
        let unconnected =
            |problem, obstacle| ClientError::Connect { endpoint: self.endpoint.clone(), problem, obstacle };
        let opened = self.endpoint()?.connect().await;
        let channel = opened.map_err(|error| unconnected(innermost(&error), Obstacle::of(&error)))?;
        match tokio::time::timeout(CONNECT_TIME_MAX, greet(&channel)).await {
            Err(_) => Err(unconnected("no answer".to_owned(), Obstacle::NoHttp2)),
            Ok(Err((problem, obstacle))) => Err(unconnected(problem, obstacle)),
            Ok(Ok(())) => Ok(InterceptedService::new(channel, credentials)),
        }
    }

    /// Connects with the first call.
    pub(crate) fn open_lazily(&self) -> Result<Authorized, ClientError> {
        Ok(InterceptedService::new(self.endpoint()?.connect_lazy(), self.credentials()?))
    }
}

/// Start of a certificate in a PEM file.
const PEM_BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The certificate authorities that this machine trusts.
fn authorities() -> Option<Vec<u8>> {
    let named = std::env::var_os(AUTHORITIES_VARIABLE).filter(|path| !path.is_empty());
    match named {
        Some(path) => std::fs::read(path).ok(),
        None => AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok()),
    }
}

/// Asks for the server's health. In HTTP/2 the client may speak first, so that a connection to a port that speaks
/// something else looks well until the first answer. What the answer says does not matter; the error is that none came.
async fn greet(channel: &Channel) -> Result<(), (String, Obstacle)> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| (innermost(&error), Obstacle::of_greeting(&error)))?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    match grpc.unary(Request::new(()), PathAndQuery::from_static(HEALTH_CHECK), codec).await {
        Err(status) => match status.source() {
            Some(cause) => Err((innermost(cause), Obstacle::of_greeting(cause))),
            None => Ok(()),
        },
        Ok(_) => Ok(()),
    }
}
