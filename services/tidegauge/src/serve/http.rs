//! The HTTP side: `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::failure::{Doing as _, Outcome};

/// Time between two turns of the metrics' housekeeping.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The running HTTP server.
#[derive(Debug)]
pub(super) struct Http {
    ready: Arc<AtomicBool>,
    ending: CancellationToken,
    task: JoinHandle<()>,
}

/// Installs the recorder of metrics; once a process.
///
/// # Errors
/// When there is one already.
pub(super) fn recorder() -> Outcome<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().doing("metrics")
}

impl Http {
    /// Serves; not ready yet.
    pub(super) fn start(listener: TcpListener, metrics: PrometheusHandle) -> Self {
        let ready = Arc::new(AtomicBool::new(false));
        let ending = CancellationToken::new();
        let is_ready = Arc::clone(&ready);
        let upkeep = metrics.clone();
        let app = Router::new()
            .route("/livez", get(|| async { "live\n" }))
            .route("/readyz", get(move || std::future::ready(readiness(is_ready.load(Ordering::Acquire)))))
            .route("/metrics", get(move || std::future::ready(exposition(&metrics))));
        let (until, housekeeping) = (ending.clone(), ending.clone());
        let task = tokio::spawn(async move {
            let serving = axum::serve(listener, app).with_graceful_shutdown(until.cancelled_owned());
            let mut turns = tokio::time::interval(UPKEEP_INTERVAL);
            let keeping = async {
                loop {
                    turns.tick().await;
                    upkeep.run_upkeep();
                }
            };
            tokio::select! {
                served = serving => if let Err(error) = served {
                    tracing::error!(%error, "the HTTP server failed");
                },
                () = keeping => {}
            }
            drop(housekeeping);
        });
        Self { ready, ending, task }
    }

    /// Says whether requests should come here.
    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Stops; open requests may end within the time.
    pub(super) async fn stop(mut self, within: Duration) {
        self.ending.cancel();
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

fn readiness(ready: bool) -> impl IntoResponse {
    if ready { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

fn exposition(metrics: &PrometheusHandle) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}
