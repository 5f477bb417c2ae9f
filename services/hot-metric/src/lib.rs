//! Hot-metric: current values and live windows, under one second from event to display.
//!
//! [`HotMetric::start`] takes the hot store and gives back the services to mount. The only writer of the store is
//! `ApplyUpdates`, called by aggregation; the same calls feed the watchers, after the store has made them durable. So
//! from the arrival of an update to its watchers there is one commit of the store and no poll.
//!
//! **What is not held.** A store that lost its content must not be taken for one whose tenants have no metrics. It
//! notes, per shard, that a takeover has brought every key once ([`HotStore::hold_shard`]). While a shard has no note,
//! what is held is answered, but nothing is said to be missing: reads wait a moment for the takeover and then are
//! UNAVAILABLE, live windows say `complete = false`. With all notes, which survive restarts, a key that is not held
//! does not exist. A key by itself is complete from its first snapshot on.
//!
//! Not here: windows, watermarks and counting (aggregation), and history (the lake and historical-query).

mod assembly;
mod known;
mod meters;
mod options;
mod page;
mod places;
mod seats;
mod service;
mod watch;

use std::sync::Arc;

use tidegauge_core::clock::Clock;
use tidegauge_core::hot::{HotStore, StoreError};
use tidegauge_core::scope::{Permission, SystemAuthority};
use tidegauge_core::{ErrorKind, ServiceError, limits};
use tidegauge_proto::hotmetric::v1::hot_metric_service_server::HotMetricServiceServer;
use tidegauge_proto::hotmetric::v1::hot_metric_update_service_server::HotMetricUpdateServiceServer;
use tidegauge_rpc::Mount;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::options::{HotMetricOptions, assembly_items};

use self::known::Known;
use self::places::Places;
use self::seats::Seats;
use self::service::{Reads, Updates};
use self::watch::Hub;

const READ_METHODS: &[(&str, Permission)] = &[
    ("GetMetric", Permission::Read),
    ("BatchGetMetrics", Permission::Read),
    ("ListMetrics", Permission::Read),
    ("WatchMetrics", Permission::Read),
    ("ListLiveWindows", Permission::Read),
];
const UPDATE_METHODS: &[(&str, Permission)] = &[("ApplyUpdates", Permission::Internal)];

/// The service before it runs.
#[derive(Debug)]
pub struct HotMetric;

impl HotMetric {
    /// Starts the service over a store. Call within a tokio runtime.
    ///
    /// When `server_draining` is cancelled, watches end and reads no longer wait for a takeover; updates are taken until
    /// [`HotMetricHandle::drain`], because aggregation pushes its last ones in between.
    pub fn start(
        options: HotMetricOptions,
        store: Arc<dyn HotStore>,
        clock: Arc<dyn Clock>,
        authority: SystemAuthority,
        server_draining: &CancellationToken,
    ) -> HotMetricHandle {
        meters::describe();
        let state = State {
            hub: Arc::new(Hub::new(options.watch_changes, options.watchers_per_tenant)),
            live_reads: Arc::new(Places::new(options.live_reads_per_tenant)),
            options,
            store,
            clock,
            authority,
            known: OnceCell::new(),
            seats: Seats::default(),
            reads_end: server_draining.child_token(),
            draining: CancellationToken::new(),
            streams: TaskTracker::new(),
        };
        HotMetricHandle { state: Arc::new(state) }
    }
}

/// The running service.
#[derive(Debug)]
pub struct HotMetricHandle {
    state: Arc<State>,
}

impl HotMetricHandle {
    /// The gRPC services to mount, each method with its permission.
    pub fn mounts(&self) -> Vec<Mount> {
        let reads = HotMetricServiceServer::new(Reads::new(Arc::clone(&self.state)))
            .max_decoding_message_size(limits::REQUEST_BYTES_MAX)
            .max_encoding_message_size(limits::RESPONSE_BYTES_MAX);
        let updates = HotMetricUpdateServiceServer::new(Updates::new(Arc::clone(&self.state)))
            .max_decoding_message_size(limits::REQUEST_BYTES_MAX)
            .max_encoding_message_size(limits::RESPONSE_BYTES_MAX);
        vec![Mount::new(reads, READ_METHODS), Mount::new(updates, UPDATE_METHODS)]
    }

    /// Ends all streams and waits, within [`limits::DRAIN_TIME_MAX`], until what was taken is durable.
    pub async fn drain(self) {
        self.state.reads_end.cancel();
        self.state.draining.cancel();
        self.state.streams.close();
        let waited = tokio::time::timeout(limits::DRAIN_TIME_MAX, self.state.streams.wait()).await;
        if waited.is_err() {
            tracing::warn!(streams = self.state.streams.len(), "update streams did not end in time");
        }
    }
}

/// What the methods share.
#[derive(Debug)]
struct State {
    options: HotMetricOptions,
    store: Arc<dyn HotStore>,
    clock: Arc<dyn Clock>,
    authority: SystemAuthority,
    /// Read from the store by the first call that needs it.
    known: OnceCell<Known>,
    seats: Seats,
    hub: Arc<Hub>,
    live_reads: Arc<Places>,
    /// Ends watches, and waits of reads.
    reads_end: CancellationToken,
    /// Ends update streams.
    draining: CancellationToken,
    /// The tasks of update streams.
    streams: TaskTracker,
}

impl State {
    async fn known(&self) -> Result<&Known, StoreError> {
        self.known
            .get_or_try_init(|| async {
                let keys = self.store.keys(&self.authority).await?;
                let held = self.store.held_shards(&self.authority).await?;
                Ok(Known::new(keys, held))
            })
            .await
    }

    /// Waits until what is not held is known not to exist.
    ///
    /// # Errors
    /// UNAVAILABLE when the takeover takes longer than [`HotMetricOptions::takeover_wait`], or the server drains.
    async fn whole(&self) -> Result<&Known, ServiceError> {
        let known = self.known().await?;
        match self.is_whole(known).await {
            true => Ok(known),
            false if self.reads_end.is_cancelled() => Err(draining()),
            false => Err(incomplete()),
        }
    }

    /// Waits for the takeover, but not while the server drains; whether everything is held.
    async fn is_whole(&self, known: &Known) -> bool {
        let waiting = known.wait_whole(self.options.takeover_wait);
        self.reads_end.run_until_cancelled(waiting).await.unwrap_or_else(|| known.is_whole())
    }
}

fn incomplete() -> ServiceError {
    let message = "current values are being taken over and are not all here yet";
    ServiceError::new(ErrorKind::Unavailable, "HOT_STORE_INCOMPLETE", message)
}

fn draining() -> ServiceError {
    ServiceError::new(ErrorKind::Unavailable, "DRAINING", "the server is shutting down")
}
