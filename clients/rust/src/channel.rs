//! The connection: address, credentials, HTTP/2 settings.

use std::time::Duration;

use tidegauge_proto::limits;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::error::ClientError;

/// Where the server is and who calls.
#[derive(Clone)]
pub struct ClientOptions {
    /// Address of the server, `http://127.0.0.1:7171` or `https://…`.
    pub endpoint: String,
    /// Token or API key, sent as `authorization: Bearer …`.
    pub token: Option<String>,
    /// Tenant to act for, sent as `x-tenant-id`; needed where the credential covers several.
    pub tenant: Option<String>,
    /// Certificate authority (PEM) that signed the server's certificate; for `https` addresses.
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
                let mut tls = ClientTlsConfig::new();
                if let Some(pem) = &self.ca_pem {
                    tls = tls.ca_certificate(Certificate::from_pem(pem));
                }
                endpoint = endpoint.tls_config(tls).map_err(|e| bad(e.to_string()))?;
            }
            _ => return Err(bad(format!("{:?} must start with http:// or https://", self.endpoint))),
        }
        Ok(endpoint)
    }

    /// Connects now, so that a wrong address is an error here; later breaks are reconnected by the channel.
    pub(crate) async fn open(&self) -> Result<Authorized, ClientError> {
        let credentials = self.credentials()?;
        let channel = self
            .endpoint()?
            .connect()
            .await
            .map_err(|error| ClientError::Connect { endpoint: self.endpoint.clone(), problem: innermost(&error) })?;
        Ok(InterceptedService::new(channel, credentials))
    }

    /// Connects with the first call.
    pub(crate) fn open_lazily(&self) -> Result<Authorized, ClientError> {
        Ok(InterceptedService::new(self.endpoint()?.connect_lazy(), self.credentials()?))
    }
}

/// The text of the innermost cause: `connection refused` instead of `transport error`.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
