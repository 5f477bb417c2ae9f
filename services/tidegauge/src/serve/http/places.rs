//! A listener whose connections are bounded in number and in time.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Life of a connection: one that says nothing holds no place for ever, and a scraper just opens the next.
const LIFE: Duration = Duration::from_secs(5 * 60);
/// Time for the oldest connection to give its place up; it does so as soon as it is looked at.
const GIVE_UP_TIME: Duration = Duration::from_secs(1);

/// Takes connections while there are places. One more takes the place of the oldest: whoever holds all of them keeps no
/// probe out, because a probe is asked and answered at once.
pub(super) struct Places {
    listener: TcpListener,
    places: Arc<Semaphore>,
    count: usize,
    life: Duration,
    /// Connections that may still be open, oldest first.
    open: VecDeque<Weak<CancellationToken>>,
}

impl Places {
    /// With so many places and the life of this server's connections.
    pub(super) fn bound(listener: TcpListener, count: usize) -> Self {
        Self::new(listener, count, LIFE)
    }

    pub(super) fn new(listener: TcpListener, count: usize, life: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(count)), count, life, open: VecDeque::new() }
    }

    /// A place: a free one, or that of the oldest connection.
    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        while let Some(oldest) = self.open.pop_front() {
            if let Some(oldest) = oldest.upgrade() {
                oldest.cancel();
                break;
            }
        }
        let place = Arc::clone(&self.places).acquire_owned();
        tokio::time::timeout(GIVE_UP_TIME, place).await.ok()?.ok()
    }
}

impl Listener for Places {
    type Io = Placed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Placed, SocketAddr) {
        loop {
            let (io, peer) = Listener::accept(&mut self.listener).await;
            let Some(place) = self.place().await else { continue };
            if self.open.len() >= 2 * self.count {
                self.open.retain(|open| open.strong_count() > 0);
            }
            let ending = Arc::new(CancellationToken::new());
            self.open.push_back(Arc::downgrade(&ending));
            let over = (*ending).clone().cancelled_owned();
            let end = tokio::time::timeout(self.life, over).map(drop).boxed();
            return (Placed { io, end: Some(end), _ending: ending, _place: place }, peer);
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
    /// Whether it is still open is told by this.
    _ending: Arc<CancellationToken>,
    _place: OwnedSemaphorePermit,
}

impl Placed {
    /// Whether it is over; otherwise the task is woken when it is.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let Some(end) = &mut self.end else { return true };
        if end.poll_unpin(context).is_ready() {
            self.end = None;
        }
        self.end.is_none()
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // At its end it looks as if the client had no more to ask.
        if self.is_over(context) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_write(context, bytes) {
            // A client that does not read its answer keeps its place no longer than one that does not ask.
            Poll::Pending if self.is_over(context) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            written => written,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
