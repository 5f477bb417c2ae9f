//! Hot-metric: current values and live windows, under one second from event to display.
//!
//! [`HotMetric::start`] takes the hot store and gives back the services to mount. The only writer of the store is
//! `ApplyUpdates`, called by aggregation; the same calls feed the watchers, after the store has made them durable.

use std::sync::Arc;

use tidegauge_core::clock::Clock;
use tidegauge_core::hot::HotStore;
use tidegauge_core::scope::SystemAuthority;
use tidegauge_rpc::Mount;

/// Settings of the service.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HotMetricOptions {}

/// The service before it runs.
#[derive(Debug)]
pub struct HotMetric;

impl HotMetric {
    /// Starts the service over a store.
    pub fn start(
        _options: HotMetricOptions,
        _store: Arc<dyn HotStore>,
        _clock: Arc<dyn Clock>,
        _authority: SystemAuthority,
    ) -> HotMetricHandle {
        HotMetricHandle {}
    }
}

/// The running service.
#[derive(Debug)]
pub struct HotMetricHandle {}

impl HotMetricHandle {
    /// The gRPC services to mount, each method with its permission.
    pub fn mounts(&self) -> Vec<Mount> {
        Vec::new()
    }

    /// Ends all streams and waits until what was taken is durable.
    pub async fn drain(self) {}
}
