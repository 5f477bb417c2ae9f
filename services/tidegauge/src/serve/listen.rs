//! The listeners of a server.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::failure::{Failure, Outcome};

/// Bound listeners.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// For gRPC.
    pub(crate) grpc: TcpListener,
    /// For HTTP.
    pub(crate) http: TcpListener,
}

impl Listeners {
    /// Binds both addresses; port 0 picks a free one.
    ///
    /// # Errors
    /// A busy or unusable address, with the flag that changes it.
    pub(crate) async fn bind(grpc: &str, http: &str) -> Outcome<Self> {
        Ok(Self { grpc: bind(grpc, "--grpc").await?, http: bind(http, "--http").await? })
    }

    /// Binds both addresses, or other ports of the same host where they are busy.
    ///
    /// # Errors
    /// An unusable address.
    pub(crate) async fn bind_or_other(grpc: &str, http: &str) -> Outcome<Self> {
        Ok(Self { grpc: bind_or_other(grpc, "--grpc").await?, http: bind_or_other(http, "--http").await? })
    }
}

async fn bind(address: &str, flag: &'static str) -> Outcome<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let failure = Failure::new(format!("cannot listen on {address} ({flag}): {error}"));
        match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                failure.hint(format!("another process has this port: stop it, or choose another address with {flag}"))
            }
            std::io::ErrorKind::PermissionDenied => {
                failure.hint(format!("ports below 1024 need privileges: choose another one with {flag}"))
            }
            std::io::ErrorKind::AddrNotAvailable => {
                failure.hint(format!("this machine has no such address: choose another one with {flag}"))
            }
            // No address by its form, or a name that nobody knows: not the operating system's word.
            _ if error.raw_os_error().is_none() => {
                failure.hint(format!("write host and port, for example {flag} 127.0.0.1:7171"))
            }
            _ => failure,
        }
    })
}

/// Ports tried after a busy one, before any free one is taken.
const NEXT_PORTS: u16 = 20;

async fn bind_or_other(address: &str, flag: &'static str) -> Outcome<TcpListener> {
    let wanted: SocketAddr = address
        .parse()
        .map_err(|_| Failure::usage(format!("{flag} {address:?} is no address such as 127.0.0.1:7171")))?;
    // The neighbour of the default gRPC port is the default HTTP port: steps of two keep the pairs apart.
    let next = (1..NEXT_PORTS).filter_map(|step| wanted.port().checked_add(step * 2));
    let ports = std::iter::once(wanted.port()).chain(next).chain(std::iter::once(0));
    for port in ports {
        match TcpListener::bind(SocketAddr::new(wanted.ip(), port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(Failure::new(format!("cannot listen on {address} ({flag}): {error}"))),
        }
    }
    Err(Failure::new(format!("no port of {} is free", wanted.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A busy port is an error that names address and flag; the other way goes round it.
    #[tokio::test]
    async fn a_busy_port_is_named() {
        let first = Listeners::bind("127.0.0.1:0", "127.0.0.1:0").await.unwrap();
        let busy = first.grpc.local_addr().unwrap().to_string();
        let error = Listeners::bind(&busy, "127.0.0.1:0").await.unwrap_err().to_string();
        assert!(error.contains(&busy) && error.contains("--grpc"), "{error}");
        let other = Listeners::bind_or_other(&busy, "127.0.0.1:0").await.unwrap();
        assert_ne!(other.grpc.local_addr().unwrap().to_string(), busy);
        assert_eq!(Listeners::bind("nonsense", "127.0.0.1:0").await.unwrap_err().code(), 1);
    }
}
