//! Calls between the services of one process.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper_util::rt::TokioIo;
use tidegauge_auth::Authenticator;
use tidegauge_core::clock::Clock;
use tidegauge_core::scope::{SystemAuthority, TenantScope};
use tidegauge_core::{ErrorKind, ServiceError, limits};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::connections::Ending;
use crate::status;

/// Bytes that stand in the in-memory pipe each way: a few frames, so that neither end waits for the other's turn.
const PIPE_BYTES: usize = 4 * limits::HTTP2_FRAME_BYTES as usize;

/// Connections waiting to be taken by the server; a channel opens one and keeps it.
const CONNECTIONS_WAITING: usize = 16;

/// A generated client takes this: `HotMetricServiceClient::new(internal.as_service(&authority))`.
pub type InternalClient = InterceptedService<Channel, InternalCredentials>;

/// The in-memory transport to the services of this process.
///
/// Made before the server starts and connected at the first call; calls made earlier wait for the server. They pass the
/// same layers as calls from outside: there is no special path. It outlives the drain of the server, so that services
/// can finish their work with each other, and ends with [`InternalChannel::close`].
#[derive(Clone)]
pub struct InternalChannel {
    channel: Channel,
    authenticator: Arc<Authenticator>,
    clock: Arc<dyn Clock>,
    calls: Arc<AtomicU64>,
    ending: Ending,
}

impl InternalChannel {
    /// A client that calls as the service itself, for every tenant.
    pub fn as_service(&self, authority: &SystemAuthority) -> InternalClient {
        self.client(authority, None)
    }

    /// A client that calls for the scope's principal and tenants, and no others.
    pub fn on_behalf_of(&self, authority: &SystemAuthority, scope: &TenantScope) -> InternalClient {
        self.client(authority, Some(scope.clone()))
    }

    /// Calls that reached the server over this transport, whatever the interceptor decided.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Ends the in-memory server and its open calls: the last step of a shutdown, after the services have drained. It
    /// also lets go of the services themselves, and so of what they hold.
    pub fn close(&self) {
        self.ending.drop_all();
    }

    pub(crate) fn calls_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.calls)
    }

    pub(crate) fn ending(&self) -> Ending {
        self.ending.clone()
    }

    fn client(&self, authority: &SystemAuthority, scope: Option<TenantScope>) -> InternalClient {
        let credentials = InternalCredentials {
            authenticator: Arc::clone(&self.authenticator),
            clock: Arc::clone(&self.clock),
            authority: authority.clone(),
            scope,
            token: Arc::default(),
        };
        InterceptedService::new(self.channel.clone(), credentials)
    }

    /// Makes the channel and the receiver from which the server takes its connections.
    pub(crate) fn new(
        authenticator: Arc<Authenticator>,
        clock: Arc<dyn Clock>,
    ) -> (Self, mpsc::Receiver<DuplexStream>) {
        let (sender, receiver) = mpsc::channel(CONNECTIONS_WAITING);
        let connector = tower::service_fn(move |_: http::Uri| {
            let sender = sender.clone();
            async move {
                let (near, far) = tokio::io::duplex(PIPE_BYTES);
                let gone = |_| std::io::Error::new(std::io::ErrorKind::NotConnected, "the server has stopped");
                sender.send(far).await.map_err(gone)?;
                Ok::<_, std::io::Error>(TokioIo::new(near))
            }
        });
        let channel = Endpoint::from_static("http://internal.tidegauge")
            .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
            .max_frame_size(limits::HTTP2_FRAME_BYTES)
            .http2_max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
            .connect_with_connector_lazy(connector);
        (Self { channel, authenticator, clock, calls: Arc::default(), ending: Ending::default() }, receiver)
    }
}

impl fmt::Debug for InternalChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InternalChannel").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

/// Gives each internal call a service token; a token serves many calls and is replaced before it expires.
#[derive(Clone)]
pub struct InternalCredentials {
    authenticator: Arc<Authenticator>,
    clock: Arc<dyn Clock>,
    authority: SystemAuthority,
    scope: Option<TenantScope>,
    token: Arc<Mutex<Option<(AsciiMetadataValue, i64)>>>,
}

impl InternalCredentials {
    fn bearer(&self) -> Result<AsciiMetadataValue, ServiceError> {
        let mut held = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, refresh_at_ns)) = &*held
            && self.clock.wall_ns() < *refresh_at_ns
        {
            return Ok(value.clone());
        }
        let failed = || ServiceError::new(ErrorKind::Internal, "SERVICE_TOKEN", "cannot make a service token");
        let token = self.authenticator.service_token(&self.authority, self.scope.as_ref()).map_err(|error| {
            tracing::error!(%error, "a service token could not be made");
            failed()
        })?;
        let mut value = AsciiMetadataValue::try_from(token.authorization).map_err(|_| failed())?;
        value.set_sensitive(true);
        *held = Some((value.clone(), token.refresh_at_ns));
        Ok(value)
    }
}

impl Interceptor for InternalCredentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = self.bearer().map_err(status)?;
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

impl fmt::Debug for InternalCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InternalCredentials")
            .field("authority", &self.authority)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}
