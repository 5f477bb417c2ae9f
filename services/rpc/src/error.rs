//! Why the server does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

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
