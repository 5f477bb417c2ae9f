//! What can be set.

use std::time::Duration;

use tidegauge_core::limits;

/// Settings of the service.
#[derive(Clone, Debug)]
pub struct HotMetricOptions {
    /// Changes kept for the watchers of a tenant; a watcher that falls behind further is told what it missed.
    pub watch_changes: usize,
    /// Watchers of one tenant; one more is refused with RESOURCE_EXHAUSTED.
    pub watchers_per_tenant: usize,
    /// Calls from outside that hold the live windows of one tenant in memory; one more is refused.
    pub live_reads_per_tenant: usize,
    /// Windows and values of updates that wait for their last part, in one stream.
    pub assembly_items: usize,
    /// Windows and values that wait in one update stream while a commit is under way; then reading pauses.
    pub waiting_items: usize,
    /// How long a read waits for a takeover before it is UNAVAILABLE.
    pub takeover_wait: Duration,
    /// How long an update stream may take until its hello.
    pub hello_wait: Duration,
}

impl Default for HotMetricOptions {
    fn default() -> Self {
        Self {
            watch_changes: limits::WATCH_CHANGES,
            watchers_per_tenant: limits::WATCHERS_PER_TENANT,
            live_reads_per_tenant: limits::LIVE_READS_PER_TENANT,
            assembly_items: limits::STATE_ROWS_MAX + limits::SERIES_PER_TENANT_MAX,
            waiting_items: 65_536,
            takeover_wait: Duration::from_secs(5),
            hello_wait: Duration::from_secs(10),
        }
    }
}
