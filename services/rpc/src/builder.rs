//! The server: made of mounts, started on a listener, drained at the end.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegauge_auth::Authenticator;
use tidegauge_core::Permission;
use tidegauge_core::clock::Clock;
use tidegauge_core::limits;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::connections::{self, Ending, Shares};
use crate::health::Board;
use crate::methods::Methods;
use crate::{InternalChannel, Mount, StartError, descriptors, layers, meters, tls};

/// What reflection needs: a credential, because names of services are nobody else's business.
const REFLECTION: &[(&str, Permission)] = &[("ServerReflectionInfo", Permission::Authenticated)];

/// How the server is reached.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// TLS; without it the server listens on loopback only.
    pub tls: Option<TlsFiles>,
    /// Lets the server listen on other addresses without TLS: the operator says that something else protects the line.
    pub insecure_plaintext: bool,
    /// Connections from one address; 0 for half of all. Behind a proxy, all come from its address.
    pub connections_per_address: usize,
    /// Connections of one principal; 0 for a quarter of all.
    pub connections_per_principal: usize,
    /// Connections open at once; [`limits::CONNECTIONS_MAX`] if not given, and never more. It is the server's share of the
    /// files that the process may open ([`tidegauge_core::descriptors`]).
    pub connections_max: Option<usize>,
}

/// PEM files of the server's identity.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Collects what the server serves. `ServerBuilder::new(…).mount(…).mount(…).serve(listener)`.
pub struct ServerBuilder {
    options: ServerOptions,
    authenticator: Arc<Authenticator>,
    clock: Arc<dyn Clock>,
    mounts: Vec<Mount>,
    internal: InternalChannel,
    connections: mpsc::Receiver<DuplexStream>,
    draining: CancellationToken,
}

impl ServerBuilder {
    /// A server without services yet. Call within a tokio runtime.
    pub fn new(options: ServerOptions, authenticator: Arc<Authenticator>, clock: Arc<dyn Clock>) -> Self {
        meters::describe();
        let (internal, connections) = InternalChannel::new(Arc::clone(&authenticator), Arc::clone(&clock));
        let draining = CancellationToken::new();
        Self { options, authenticator, clock, mounts: Vec::new(), internal, connections, draining }
    }

    /// Adds a service. Health and reflection are mounted by the builder itself.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// The channel over which services of this process call each other; can be handed out before the start.
    pub fn internal(&self) -> InternalChannel {
        self.internal.clone()
    }

    /// Cancelled when the server begins to drain: a handler ends its long streams then. One that does not is ended by
    /// the server, with UNAVAILABLE, before the time of the drain is over.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Starts to serve. Call within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing is served then.
    pub fn serve(mut self, listener: TcpListener) -> Result<ServerHandle, StartError> {
        let addr = listener.local_addr()?;
        let tls = self.options.tls.as_ref().map(tls::acceptor).transpose()?;
        if tls.is_none() && !addr.ip().is_loopback() && !self.options.insecure_plaintext {
            return Err(StartError::Plaintext { addr });
        }
        let board = Board::new(self.mounts.iter().map(Mount::service));
        self.mounts.push(board.mount());
        self.mount_reflection()?;
        let methods = Methods::declared(&self.mounts, &descriptors::methods())?;
        let mut routes = Routes::builder();
        for mount in self.mounts {
            mount.add_to(&mut routes);
        }
        let routes = routes.routes().prepare();
        let stack = layers::stack(routes, Arc::new(methods), self.authenticator, self.clock);

        let calls = self.internal.calls_counter();
        let inside = self.internal.ending();
        tokio::spawn(connections::take_internal(self.connections, calls, stack.clone(), inside.clone()));
        let (ending, tasks) = (Ending::default(), TaskTracker::new());
        let shares = Shares {
            all: self.options.connections_max.unwrap_or(usize::MAX).min(limits::CONNECTIONS_MAX),
            per_address: self.options.connections_per_address,
            per_principal: self.options.connections_per_principal,
        };
        tasks.spawn(connections::take_tcp(listener, shares, tls, stack, ending.clone(), tasks.clone()));
        tracing::info!(%addr, "serving gRPC");
        Ok(ServerHandle { addr, draining: self.draining, board, ending, inside, tasks, drained: false })
    }

    /// Reflection describes everything that could be served and lists what is.
    fn mount_reflection(&mut self) -> Result<(), StartError> {
        let failed = |error: tonic_reflection::server::Error| StartError::Reflection(error.to_string());
        let builder = || {
            let mut builder = tonic_reflection::server::Builder::configure().include_reflection_service(false);
            for set in descriptors::encoded_sets() {
                builder = builder.register_encoded_file_descriptor_set(set);
            }
            for name in self.mounts.iter().map(Mount::service) {
                builder = builder.with_service_name(name);
            }
            builder
                .with_service_name("grpc.reflection.v1.ServerReflection")
                .with_service_name("grpc.reflection.v1alpha.ServerReflection")
        };
        let v1 = Mount::new(builder().build_v1().map_err(failed)?, REFLECTION);
        let v1alpha = Mount::new(builder().build_v1alpha().map_err(failed)?, REFLECTION);
        self.mounts.extend([v1, v1alpha]);
        Ok(())
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder").field("mounts", &self.mounts).finish_non_exhaustive()
    }
}

/// A running server. Dropped without a drain, it stops at once, the in-memory channel too.
#[derive(Debug)]
pub struct ServerHandle {
    addr: SocketAddr,
    draining: CancellationToken,
    board: Board,
    ending: Ending,
    inside: Ending,
    tasks: TaskTracker,
    drained: bool,
}

impl ServerHandle {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Cancelled when the server begins to drain.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Sets what `grpc.health.v1` answers for a service; the empty name is the server as a whole.
    pub fn set_serving(&self, service: &str, serving: bool) {
        self.board.set(service, serving);
    }

    /// Stops taking calls from outside, lets those in flight finish, and returns when all have ended or `within` is
    /// over.
    ///
    /// Health says NOT_SERVING, its watches end, and [`ServerHandle::draining`] is cancelled; the listener closes and
    /// connections get GOAWAY; after three quarters of the time open calls end with UNAVAILABLE and RetryInfo; at its end
    /// connections are dropped. The in-memory channel stays, because services drain after this, over it:
    /// [`InternalChannel::close`] ends it.
    pub async fn drain(mut self, within: Duration) {
        self.board.end();
        self.draining.cancel();
        self.ending.closing.cancel();
        self.tasks.close();
        let patience = within / 4 * 3;
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_ok() {
            self.drained = true;
            return;
        }
        self.ending.ending.cancel();
        if tokio::time::timeout(within - patience, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "connections did not end in time and are dropped");
            self.ending.dropping.cancel();
            self.tasks.wait().await;
        }
        self.drained = true;
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        if !self.drained {
            self.draining.cancel();
            self.ending.drop_all();
            self.inside.drop_all();
        }
    }
}
