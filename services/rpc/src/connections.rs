//! Takes connections and serves HTTP/2 on them.

mod exchange;
mod line_io;
mod vigil;
mod window;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use h2::{Ping, PingPong};
use tidegauge_core::limits;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::doors::{DoorLimits, Doors};
use crate::guest::{Guest, House};
use crate::layers::{Line, Stack};
use exchange::Piece;
use line_io::LineIo;
use vigil::{LOOK_INTERVAL, Seen, Verdict, Vigil};
use window::Window;

/// Time for a call that was told to end, and for the last bytes of a connection.
const LAST_BYTES_TIME: Duration = Duration::from_secs(2);
/// Pause after a failed accept: mostly there are no file descriptors left, and the next try would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// One principal may have one of so many connections, unless set.
const PRINCIPAL_SHARE: usize = 4;
/// One address may have one of so many connections, unless set.
const ADDRESS_SHARE: usize = 2;

/// How long a connection may live.
#[derive(Clone, Copy, Debug)]
struct Age {
    /// Time until its first call with a valid credential.
    first_call: Duration,
    /// When it gets GOAWAY.
    max: Duration,
    /// How long after that its open calls may go on.
    grace: Duration,
    /// Time between two looks at whether it is used.
    look: Duration,
}

/// Of connections from outside; the in-memory one has no load to spread.
const AGE: Age = Age {
    first_call: limits::FIRST_CALL_TIME_MAX,
    max: limits::CONNECTION_AGE_MAX,
    grace: limits::CONNECTION_AGE_GRACE,
    look: LOOK_INTERVAL,
};

/// How many connections a server takes: in all, and of one address and principal, where 0 stands for a share of all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shares {
    pub(crate) all: usize,
    pub(crate) per_address: usize,
    pub(crate) per_principal: usize,
}

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
    shares: Shares,
    tls: Option<TlsAcceptor>,
    stack: Stack,
    ending: Ending,
    tasks: TaskTracker,
) {
    let all = shares.all.max(1);
    let or = |set: usize, share: usize| if set == 0 { (all / share).max(1) } else { set.min(all) };
    let limits = DoorLimits { all, per_address: or(shares.per_address, ADDRESS_SHARE) };
    let doors = Doors::new(limits);
    let house = House::new(limits.known(), or(shares.per_principal, PRINCIPAL_SHARE));
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
        let Some(visit) = doors.arrive(peer.ip()) else {
            metrics::counter!("tidegauge_rpc_connections_refused_total").increment(1);
            continue;
        };
        let shown_out = visit.shown_out();
        let guest = Guest::new(Arc::clone(&house), visit);
        let (tls, stack, ending) = (tls.clone(), stack.clone(), ending.clone());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = ending.dropping.cancelled() => {}
                () = shown_out.cancelled() => metrics::counter!("tidegauge_rpc_connections_evicted_total").increment(1),
                () = serve_tcp(io, peer, guest, tls, stack, &ending) => {}
            }
        });
    }
}

async fn serve_tcp(
    io: TcpStream,
    peer: SocketAddr,
    guest: Arc<Guest>,
    tls: Option<TlsAcceptor>,
    stack: Stack,
    ending: &Ending,
) {
    // Small answers must not wait for more. It fails only for a socket that is gone already.
    let _ = io.set_nodelay(true);
    // The handshake is a part of the time until the first call.
    let first_call = after(AGE.first_call);
    // Each connection can be ended by itself, and all with the server.
    let line = Line { peer: Some(peer), internal: false, ending: ending.ending.child_token(), guest: Some(guest) };
    let Some(tls) = tls else {
        return serve(io, line, stack, ending, Some((AGE, first_call)), None).await;
    };
    let mut first_call = first_call;
    let shaken = tokio::select! {
        shaken = tls.accept(io) => shaken,
        () = &mut first_call => return tracing::debug!(%peer, "TLS handshake took too long"),
        // Nothing has been asked yet.
        () = ending.closing.cancelled() => return,
    };
    match shaken {
        Ok(io) => serve(io, line, stack, ending, Some((AGE, first_call)), None).await,
        Err(error) => tracing::debug!(%peer, %error, "TLS handshake failed"),
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
        let line = Line { peer: None, internal: true, ending: ending.ending.child_token(), guest: None };
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

/// Resolves after this time.
fn after(time: Duration) -> BoxFuture<'static, ()> {
    async move {
        let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
    }
    .boxed()
}

fn never() -> BoxFuture<'static, ()> {
    std::future::pending().boxed()
}

/// How far a connection is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// New calls are taken.
    Open,
    /// It got GOAWAY; its calls go on for a while.
    Leaving,
    /// Its calls were told to end.
    Last,
}

/// Serves one connection until it ends: by itself, for want of calls, of age, or with the server.
async fn serve<IO>(
    io: IO,
    line: Line,
    stack: Stack,
    ending: &Ending,
    age: Option<(Age, BoxFuture<'static, ()>)>,
    calls: Option<Arc<AtomicU64>>,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (age, mut first_call) = age.map_or((None, never()), |(age, first_call)| (Some(age), first_call));
    let (io, passed) = LineIo::new(io);
    let mut connection = tokio::select! {
        biased;
        shaken = protocol(line.internal).handshake::<_, Piece>(io) => match shaken {
            Ok(connection) => connection,
            Err(_) => return,
        },
        () = &mut first_call => return,
        () = ending.closing.cancelled() => return,
    };
    let mut pings = connection.ping_pong();
    let (mut vigil, mut window) = (Vigil::default(), Window::new());
    let mut looks = tokio::time::interval(age.map_or(LOOK_INTERVAL, |age| age.look));
    // The first turn of an interval is at once.
    looks.reset();
    let mut end = age.map_or(never(), |age| after(age.max));
    let grace = age.map_or(limits::CONNECTION_AGE_GRACE, |age| age.grace);
    let calls_end = line.ending.clone();
    let (mut stage, mut in_short) = (Stage::Open, false);
    loop {
        let leave_within = tokio::select! {
            biased;
            () = calls_end.cancelled(), if stage != Stage::Last => {
                (stage, end) = (Stage::Last, after(LAST_BYTES_TIME));
                connection.graceful_shutdown();
                continue;
            }
            () = ending.closing.cancelled(), if stage == Stage::Open => grace,
            () = &mut end => match stage {
                Stage::Open => grace,
                // Somebody has called at the last moment.
                Stage::Leaving if in_short && is_called(&line) => {
                    (in_short, end) = (false, after(grace));
                    continue;
                }
                Stage::Leaving => {
                    calls_end.cancel();
                    continue;
                }
                Stage::Last => return,
            },
            () = &mut first_call => {
                first_call = never();
                if is_known(&line) || stage != Stage::Open {
                    continue;
                }
                in_short = true;
                // A probe that only asks for health connects again, as it does after every GOAWAY.
                LAST_BYTES_TIME
            }
            _ = looks.tick() => {
                let (open, begun) = line.guest.as_ref().map_or((1, 0), |guest| guest.calls());
                let (read, written, blocked) = (passed.read(), passed.written(), passed.is_blocked());
                match vigil.look(Seen { read, written, blocked, open, begun }) {
                    // The one from inside is our own, and is not pinged: a busy process is not gone.
                    _ if line.internal => continue,
                    Verdict::Stay => continue,
                    Verdict::Ping => {
                        ping(pings.as_mut());
                        continue;
                    }
                    Verdict::Gone | Verdict::Unread => return,
                    Verdict::Idle if stage != Stage::Open => continue,
                    Verdict::Idle => {
                        in_short = true;
                        LAST_BYTES_TIME
                    }
                }
            }
            accepted = poll_fn(|context| {
                if let Some(size) = line.guest.as_ref().and_then(|guest| window.grow(guest)) {
                    connection.set_target_window_size(size);
                }
                connection.poll_accept(context)
            }) => {
                let Some(Ok((request, respond))) = accepted else { return };
                if let Some(calls) = &calls {
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                exchange::begin(request, respond, line.clone(), &stack);
                continue;
            }
        };
        stage = Stage::Leaving;
        end = after(leave_within);
        connection.graceful_shutdown();
    }
}

/// Whether a call with a valid credential has come; from inside come no others.
fn is_known(line: &Line) -> bool {
    line.guest.as_ref().is_none_or(|guest| guest.is_known())
}

/// Whether such a call is under way.
fn is_called(line: &Line) -> bool {
    line.guest.as_ref().is_some_and(|guest| guest.calls().0 > 0)
}

/// Asks whether the other side is there; whatever it says shows that it is.
fn ping(pings: Option<&mut PingPong>) {
    if let Some(pings) = pings {
        // What it answered to the last one; otherwise no other could be sent.
        let _ = pings.poll_pong(&mut Context::from_waker(std::task::Waker::noop()));
        let _ = pings.send_ping(Ping::opaque());
    }
}

/// HTTP/2 with every limit set; the library's defaults leave most of them open.
fn protocol(internal: bool) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits::CONCURRENT_STREAMS)
        .initial_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
        .max_frame_size(limits::HTTP2_FRAME_BYTES)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .max_send_buffer_size(exchange::PIECE_BYTES);
    if internal {
        builder.initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES);
    }
    builder
}

#[cfg(test)]
#[path = "connections/tests.rs"]
mod tests;
