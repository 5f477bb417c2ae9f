//! The bytes of a connection: what was read and written, and whether the other side takes what is written.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What passed over a connection.
#[derive(Debug, Default)]
pub(super) struct Passed {
    read: AtomicU64,
    written: AtomicU64,
    /// Whether the operating system takes no more bytes, because the other side reads none.
    blocked: AtomicBool,
}

impl Passed {
    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }
}

/// A connection that notes what passes. Who does not read is not read: answers to what came in would only pile up.
pub(super) struct LineIo<IO> {
    io: IO,
    passed: Arc<Passed>,
    /// Who waits to read until something can be written.
    reader: Option<Waker>,
}

impl<IO> LineIo<IO> {
    pub(super) fn new(io: IO) -> (Self, Arc<Passed>) {
        let passed = Arc::<Passed>::default();
        (Self { io, passed: Arc::clone(&passed), reader: None }, passed)
    }

    fn note_write(&mut self, polled: &Poll<io::Result<usize>>) {
        self.passed.blocked.store(polled.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(written) = polled {
            let written = written.as_ref().map_or(0, |written| *written as u64);
            self.passed.written.fetch_add(written, Ordering::Relaxed);
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for LineIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.passed.is_blocked() {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        self.passed.read.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for LineIo<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        self.note_write(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.note_write(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// While the other side takes nothing, nothing of it is read; once it does, reading goes on by itself.
    #[tokio::test]
    async fn who_does_not_read_is_not_read() {
        let (near, mut far) = tokio::io::duplex(4);
        let (mut io, passed) = LineIo::new(near);
        far.write_all(b"ask").await.expect("room");
        assert!(poll!(std::pin::pin!(io.write_all(b"answers"))).is_pending());
        assert!(passed.is_blocked());
        let mut heard = [0; 3];
        {
            let (mut reading, mut writing) = tokio::io::split(io);
            let mut read = std::pin::pin!(reading.read_exact(&mut heard));
            assert!(poll!(read.as_mut()).is_pending());
            let mut told = [0; 4];
            far.read_exact(&mut told).await.expect("written before");
            writing.write_all(b"x").await.expect("room again");
            read.await.expect("it goes on");
        }
        assert_eq!((&heard, passed.read(), passed.written()), (b"ask", 3, 5));
    }
}
