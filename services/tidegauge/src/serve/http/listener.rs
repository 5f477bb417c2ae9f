//! Takes connections and serves HTTP/1 on them, each for a bounded time.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tidegauge_rpc::doors::{DoorLimits, Doors};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One address may have one of so many.
const ADDRESS_SHARE: usize = 2;
/// Pause after a failed accept: mostly there are no file descriptors left, and the next try would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// For the head of a request, the wait for it included: a scraper that asks later connects again.
    pub(super) head: Duration,
    /// In all; then it ends with the answer under way.
    pub(super) life: Duration,
    /// For that answer.
    pub(super) last: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { head: seconds(10), life: seconds(60), last: seconds(10) }
    }
}

/// Serves until it ends, and then until the answers under way have been sent.
pub(super) async fn serve(
    listener: TcpListener,
    app: Router,
    connections_max: usize,
    times: Times,
    ending: CancellationToken,
) {
    // Nobody is known here, so whoever comes gets in, and the one that came first goes.
    let per_address = (connections_max / ADDRESS_SHARE).max(1);
    let doors = Doors::new(DoorLimits { all: connections_max, per_address });
    let tasks = TaskTracker::new();
    loop {
        let (io, peer) = tokio::select! {
            biased;
            () = ending.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection for HTTP could not be taken");
                    let _ = tokio::time::timeout(ACCEPT_PAUSE, ending.cancelled()).await;
                    continue;
                }
            },
        };
        let Some(visit) = doors.arrive(peer.ip()) else { continue };
        let (app, ending) = (app.clone(), ending.clone());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = visit.shown_out().cancelled_owned() => {}
                () = serve_one(io, app, times, &ending) => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn serve_one(io: TcpStream, app: Router, times: Times, ending: &CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(times.head)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(app));
    let mut connection = pin!(connection);
    tokio::select! {
        // Whoever it was has gone, or took too long.
        _ = connection.as_mut() => return,
        _ = tokio::time::timeout(times.life, ending.cancelled()) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(times.last, connection).await;
}
