//! A listener whose connections are bounded in number and in time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections open at once: probes and a scraper need a few.
const CONNECTIONS_MAX: usize = 256;
/// Life of a connection: one that says nothing holds no place for ever, and a scraper just opens the next.
const LIFE: Duration = Duration::from_secs(5 * 60);

/// Takes connections while there are places; one too many is closed at once.
pub(super) struct Places {
    listener: TcpListener,
    places: Arc<Semaphore>,
    life: Duration,
}

impl Places {
    /// With the limits of this server.
    pub(super) fn bound(listener: TcpListener) -> Self {
        Self::new(listener, CONNECTIONS_MAX, LIFE)
    }

    pub(super) fn new(listener: TcpListener, count: usize, life: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(count)), life }
    }
}

impl Listener for Places {
    type Io = Placed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Placed, SocketAddr) {
        loop {
            let (io, peer) = Listener::accept(&mut self.listener).await;
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                let end = tokio::time::timeout(self.life, std::future::pending::<()>()).map(drop).boxed();
                return (Placed { io, end: Some(end), _place: place }, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection in its place.
pub(super) struct Placed {
    io: TcpStream,
    /// None when it is over.
    end: Option<BoxFuture<'static, ()>>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // At its end it looks as if the client had no more to ask.
        let Some(end) = &mut self.end else { return Poll::Ready(Ok(())) };
        if end.poll_unpin(context).is_ready() {
            self.end = None;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
