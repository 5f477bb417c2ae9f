//! The HTTP side: `/livez`, `/readyz`, `/metrics`.

mod listener;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::descriptors;
use crate::failure::{Doing as _, Outcome};
use listener::Times;

/// Time between two turns of the metrics' housekeeping.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The running HTTP server.
#[derive(Debug)]
pub(super) struct Http {
    ready: Arc<Ready>,
    ending: CancellationToken,
    task: JoinHandle<()>,
}

/// Whether requests should come here.
#[derive(Default)]
struct Ready {
    is_up: AtomicBool,
    /// Names what is broken for good.
    broken: OnceLock<Trouble>,
    /// Names what somebody should look at, though requests are served.
    noted: OnceLock<Trouble>,
}

/// Names what is wrong, if anything is.
type Trouble = Box<dyn Fn() -> Option<String> + Send + Sync>;

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready").field("is_up", &self.is_up).finish_non_exhaustive()
    }
}

/// Installs the recorder of metrics; once a process.
///
/// # Errors
/// When there is one already.
pub(super) fn recorder() -> Outcome<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().doing("metrics")
}

impl Http {
    /// Serves so many connections at once; not ready yet.
    pub(super) fn start(listener: TcpListener, connections_max: usize, metrics: PrometheusHandle) -> Self {
        let ready = Arc::<Ready>::default();
        let ending = CancellationToken::new();
        let is_ready = Arc::clone(&ready);
        let upkeep = metrics.clone();
        let app = Router::new()
            .route("/livez", get(|| async { "live\n" }))
            .route("/readyz", get(move || std::future::ready(readiness(&is_ready))))
            .route("/metrics", get(move || std::future::ready(exposition(&metrics))));
        let until = ending.clone();
        let task = tokio::spawn(async move {
            let serving = listener::serve(listener, app, connections_max, Times::default(), until);
            let mut turns = tokio::time::interval(UPKEEP_INTERVAL);
            let keeping = async {
                loop {
                    turns.tick().await;
                    upkeep.run_upkeep();
                    descriptors::count();
                }
            };
            tokio::select! {
                () = serving => {}
                () = keeping => {}
            }
        });
        Self { ready, ending, task }
    }

    /// Says whether requests should come here.
    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.is_up.store(ready, Ordering::Release);
    }

    /// Asks, at every probe, whether something is broken for good: then requests should go elsewhere, and somebody look.
    pub(super) fn not_ready_if(&self, broken: impl Fn() -> Option<String> + Send + Sync + 'static) {
        // Said once, by the composition.
        let _ = self.ready.broken.set(Box::new(broken));
    }

    /// Asks, at every probe, whether there is something that somebody should look at. Requests should come here all the same:
    /// they are served, and elsewhere may be nobody.
    pub(super) fn note_if(&self, noted: impl Fn() -> Option<String> + Send + Sync + 'static) {
        // Said once, by the composition.
        let _ = self.ready.noted.set(Box::new(noted));
    }

    /// Stops; open requests may end within the time.
    pub(super) async fn stop(mut self, within: Duration) {
        self.ending.cancel();
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

fn readiness(ready: &Ready) -> impl IntoResponse + use<> {
    if !ready.is_up.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned());
    }
    match ready.broken.get().and_then(|broken| broken()) {
        None => match ready.noted.get().and_then(|noted| noted()) {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(what) => (StatusCode::OK, format!("ready, but {what}\n")),
        },
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {what}\n")),
    }
}

fn exposition(metrics: &PrometheusHandle) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}

#[cfg(test)]
mod tests {
    use metrics::Recorder as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(io: &mut TcpStream, verb: &str, path: &str) -> String {
        let request = format!("{verb} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        io.write_all(request.as_bytes()).await.expect("open");
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.expect("text");
        answer
    }

    /// The status codes that probes go by, before, while and after the server is ready; and the metrics' text.
    #[tokio::test]
    async fn probes_get_their_codes() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metadata = metrics::Metadata::new("x", metrics::Level::INFO, None);
        recorder.register_counter(&"tidegauge_test_total".into(), &metadata).increment(7);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let http = Http::start(listener, 256, recorder.handle());
        let get = async |verb: &str, path: &str| {
            ask(&mut TcpStream::connect(address).await.expect("it listens"), verb, path).await
        };
        for (ready, code) in [(false, "503"), (true, "200"), (false, "503")] {
            http.set_ready(ready);
            assert!(get("GET", "/readyz").await.starts_with(&format!("HTTP/1.1 {code} ")), "ready: {ready}");
            assert!(get("GET", "/livez").await.starts_with("HTTP/1.1 200 "));
        }
        http.set_ready(true);
        http.note_if(|| Some("the log of shard 2 is damaged".to_owned()));
        let noted = get("GET", "/readyz").await;
        assert!(noted.starts_with("HTTP/1.1 200 ") && noted.ends_with("ready, but the log of shard 2 is damaged\n"));
        http.not_ready_if(|| Some("shard 2 is stopped".to_owned()));
        let broken = get("GET", "/readyz").await;
        assert!(broken.starts_with("HTTP/1.1 503 ") && broken.ends_with("not ready: shard 2 is stopped\n"), "{broken}");
        assert!(get("GET", "/metrics").await.contains("tidegauge_test_total 7"));
        assert!(get("POST", "/livez").await.starts_with("HTTP/1.1 405 "));
        assert!(get("GET", "/").await.starts_with("HTTP/1.1 404 "));
        http.stop(Duration::from_secs(20)).await;
        assert!(TcpStream::connect(address).await.is_err(), "the port is free");
    }

    /// Connections that say nothing, say it slowly or read nothing hold no place: each ends after its time, and before that
    /// makes room for who comes later. A probe is answered in a house full of them.
    #[tokio::test]
    async fn a_probe_is_answered_in_a_full_house() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let large = "x".repeat(16 << 20);
        let app = Router::new().route("/livez", get(|| async { "live\n" })).route("/large", get(|| async { large }));
        let (times, ending) = (Times { head: Duration::from_secs(20), ..Times::default() }, CancellationToken::new());
        let served = tokio::spawn(listener::serve(listener, app.clone(), 8, times, ending.clone()));
        let mut crowd = Vec::new();
        for beginning in ["", "GET /livez HTTP/1.1\r\nHost: x\r\nA: ", "GET /large HTTP/1.1\r\nHost: x\r\n\r\n"] {
            for _ in 0..20 {
                let mut io = TcpStream::connect(address).await.expect("it listens");
                io.write_all(beginning.as_bytes()).await.expect("open");
                crowd.push(io);
            }
            let mut probe = TcpStream::connect(address).await.expect("it listens");
            assert!(ask(&mut probe, "GET", "/livez").await.ends_with("live\n"));
        }
        ending.cancel();
        served.abort();

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let times = Times { head: Duration::from_millis(50), life: Duration::from_millis(100), last: Duration::ZERO };
        let served = tokio::spawn(listener::serve(listener, app, 8, times, CancellationToken::new()));
        for beginning in ["", "GET /livez HTTP/1.1\r\nHost: x\r\nA: ", "GET /large HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut io = TcpStream::connect(address).await.expect("it listens");
            io.write_all(beginning.as_bytes()).await.expect("open");
            if beginning.contains("large") {
                // Nothing is read until the connection has been dropped with what waits for it.
                let gone = async { while io.write_all(b"GET /livez HTTP/1.1\r\n\r\n").await.is_ok() {} };
                tokio::time::timeout(Duration::from_secs(20), gone).await.expect("dropped after its time");
            } else {
                let mut rest = Vec::new();
                let closed = tokio::time::timeout(Duration::from_secs(20), io.read_to_end(&mut rest));
                let _ = closed.await.expect("closed after its time");
            }
        }
        served.abort();
    }
}
