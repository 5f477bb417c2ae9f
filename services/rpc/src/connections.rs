//! Takes connections and serves HTTP/2 on them.

mod spoken;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tidegauge_core::limits;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::Service as _;

use crate::layers::{Line, Stack};
use spoken::Spoken;

/// Time for a call that was told to end, and for the last bytes of a connection.
const LAST_BYTES_TIME: Duration = Duration::from_secs(2);
/// Pause after a failed accept: mostly there are no file descriptors left, and the next try would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection may live.
#[derive(Clone, Copy, Debug)]
struct Age {
    /// Time for the client to begin with HTTP/2; one that says nothing holds no place.
    silence: Duration,
    /// When it gets GOAWAY.
    max: Duration,
    /// How long after that its open calls may go on.
    grace: Duration,
}

/// Of connections from outside; the in-memory one has no load to spread.
const AGE: Age = Age {
    silence: limits::TLS_HANDSHAKE_TIME_MAX,
    max: limits::CONNECTION_AGE_MAX,
    grace: limits::CONNECTION_AGE_GRACE,
};

/// The steps of the end, each cancelled in its turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    /// No new connections; open ones get GOAWAY and live until their calls have ended.
    pub(crate) closing: CancellationToken,
    /// Open calls are ended with UNAVAILABLE.
    pub(crate) ending: CancellationToken,
    /// Connections are dropped.
    pub(crate) dropping: CancellationToken,
}

impl Ending {
    pub(crate) fn drop_all(&self) {
        self.closing.cancel();
        self.ending.cancel();
        self.dropping.cancel();
    }
}

/// Takes TCP connections, so many at once, until it is closing.
pub(crate) async fn take_tcp(
    listener: TcpListener,
    connections_max: usize,
    tls: Option<TlsAcceptor>,
    stack: Stack,
    ending: Ending,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    loop {
        let (io, peer) = tokio::select! {
            biased;
            () = ending.closing.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    let _ = tokio::time::timeout(ACCEPT_PAUSE, ending.closing.cancelled()).await;
                    continue;
                }
            },
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            metrics::counter!("tidegauge_rpc_connections_refused_total").increment(1);
            continue;
        };
        let (tls, stack, ending) = (tls.clone(), stack.clone(), ending.clone());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = ending.dropping.cancelled() => {}
                () = serve_tcp(io, peer, tls, stack, &ending) => {}
            }
            drop(place);
        });
    }
}

async fn serve_tcp(io: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>, stack: Stack, ending: &Ending) {
    // Small answers must not wait for more. It fails only for a socket that is gone already.
    let _ = io.set_nodelay(true);
    // Each connection can be ended by itself, and all with the server.
    let line = Line { peer: Some(peer), internal: false, ending: ending.ending.child_token() };
    let Some(tls) = tls else {
        return serve(io, line, stack, ending, Some(AGE), None).await;
    };
    let handshake = tokio::time::timeout(limits::TLS_HANDSHAKE_TIME_MAX, tls.accept(io));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        // Nothing has been asked yet.
        () = ending.closing.cancelled() => return,
    };
    match shaken {
        Ok(Ok(io)) => serve(io, line, stack, ending, Some(AGE), None).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}

/// Takes in-memory connections until the channel is closed or its last clone is gone.
pub(crate) async fn take_internal(
    mut connections: mpsc::Receiver<DuplexStream>,
    calls: Arc<AtomicU64>,
    stack: Stack,
    ending: Ending,
) {
    loop {
        let io = tokio::select! {
            biased;
            () = ending.closing.cancelled() => return,
            io = connections.recv() => match io {
                Some(io) => io,
                None => return,
            },
        };
        let line = Line { peer: None, internal: true, ending: ending.ending.child_token() };
        let (stack, ending, calls) = (stack.clone(), ending.clone(), Arc::clone(&calls));
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = ending.dropping.cancelled() => {}
                () = serve(io, line, stack, &ending, None, Some(calls)) => {}
            }
        });
    }
}

/// Serves one connection until it ends: by itself, of age, or with the server.
async fn serve<IO>(io: IO, line: Line, stack: Stack, ending: &Ending, age: Option<Age>, calls: Option<Arc<AtomicU64>>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let calls_end = line.ending.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(line.clone());
        if let Some(calls) = &calls {
            calls.fetch_add(1, Ordering::Relaxed);
        }
        // A stack is always ready: what may have to wait or be refused is decided in the call.
        stack.clone().call(request)
    });
    let (io, spoken) = Spoken::watch(io);
    let mut connection = std::pin::pin!(protocol().serve_connection(TokioIo::new(io), service));

    let silent = async {
        match age {
            Some(age) if tokio::time::timeout(age.silence, spoken.cancelled()).await.is_err() => {}
            _ => std::future::pending().await,
        }
    };
    let aged = async {
        match age {
            Some(age) => {
                let _ = tokio::time::timeout(age.max, std::future::pending::<()>()).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = connection.as_mut() => return,
        () = silent => return,
        () = aged => {}
        () = ending.closing.cancelled() => {}
    }
    if !spoken.is_cancelled() {
        return;
    }
    connection.as_mut().graceful_shutdown();
    let grace = age.map_or(limits::CONNECTION_AGE_GRACE, |age| age.grace);
    let grace = tokio::time::timeout(grace, calls_end.cancelled());
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = grace => {}
    }
    calls_end.cancel();
    let _ = tokio::time::timeout(LAST_BYTES_TIME, connection).await;
}

/// HTTP/2 with every limit set; the library's defaults leave most of them open.
fn protocol() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::CONCURRENT_STREAMS)
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::HTTP2_FRAME_BYTES)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
    builder
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::Response;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt as _;
    use tonic::Code;

    use super::*;
    use crate::layers::attend_only;

    /// Proves that a connection of age lets an open stream go on, and at the end of its grace tells it UNAVAILABLE with
    /// RetryInfo rather than cutting it off.
    #[tokio::test]
    async fn an_aged_connection_tells_its_streams() {
        let endless = tower::service_fn(|_: Request<Body>| async {
            let frames = futures::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"first")))]);
            let body = StreamBody::new(futures::StreamExt::chain(frames, futures::stream::pending()));
            Ok::<_, Infallible>(Response::new(Body::new(body)))
        });
        let (near, far) = tokio::io::duplex(1 << 16);
        let ending = Ending::default();
        let line = Line { peer: None, internal: false, ending: ending.ending.child_token() };
        let silence = Duration::from_secs(20);
        let age = Age { silence, max: Duration::from_millis(20), grace: Duration::from_millis(200) };
        let served =
            tokio::spawn(async move { serve(far, line, attend_only(endless), &ending, Some(age), None).await });

        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.expect("handshake");
        let connection = tokio::spawn(connection);
        let request = Request::post("http://test/x").body(Body::empty()).expect("valid");
        let mut body = client.send_request(request).await.expect("answered").into_body();
        let first = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(first.into_data().expect("data"), "first");
        let last = body.frame().await.expect("a frame").expect("no error");
        let status = tonic::Status::from_header_map(&last.into_trailers().expect("trailers")).expect("a status");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some());
        served.await.expect("the connection has ended");
        let _ = connection.await.expect("no panic");
    }

    /// Proves that a client that says nothing, or begins and stops, loses its place, and one that has begun does not.
    #[tokio::test]
    async fn a_silent_connection_is_dropped() {
        let never = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let serve_with = |far| {
            let ending = Ending::default();
            let line = Line { peer: None, internal: false, ending: ending.ending.child_token() };
            let long = Duration::from_secs(3600);
            let age = Age { silence: Duration::from_millis(50), max: long, grace: long };
            tokio::spawn(async move { serve(far, line, attend_only(never), &ending, Some(age), None).await })
        };
        for beginning in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let (mut near, far) = tokio::io::duplex(1 << 16);
            near.write_all(beginning).await.expect("room");
            let served = tokio::time::timeout(Duration::from_secs(20), serve_with(far)).await;
            served.expect("it must be dropped soon").expect("no panic");
        }
        let (near, far) = tokio::io::duplex(1 << 16);
        let served = serve_with(far);
        let (client, connection) =
            hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(near))
                .await
                .expect("handshake");
        let connection = tokio::spawn(connection);
        assert!(tokio::time::timeout(Duration::from_millis(300), served).await.is_err(), "it has begun and stays");
        drop(client);
        connection.abort();
    }
}
