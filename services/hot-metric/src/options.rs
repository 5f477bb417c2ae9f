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

/// Windows and values of the largest update from a shard that may have `state_rows` rows: all of them, with the current
/// values, if one key has them all. One read of the log may go over the rows by all of its events, so half as much again
/// is allowed: an update that is refused is sent again for ever.
pub const fn assembly_items(state_rows: usize) -> usize {
    const READ_EVENTS_MAX: usize = 500_000;
    state_rows.saturating_add(state_rows / 2).saturating_add(READ_EVENTS_MAX + limits::SERIES_PER_TENANT_MAX)
}

impl Default for HotMetricOptions {
    fn default() -> Self {
        Self {
            watch_changes: limits::WATCH_CHANGES,
            watchers_per_tenant: limits::WATCHERS_PER_TENANT,
            live_reads_per_tenant: limits::LIVE_READS_PER_TENANT,
            assembly_items: assembly_items(limits::STATE_ROWS_MAX),
            waiting_items: 65_536,
            takeover_wait: Duration::from_secs(5),
            hello_wait: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many rows a shard may have, a key that has them all can be taken over: what does not fit would be sent again
    /// for ever.
    #[test]
    fn whole_keys_fit_whatever_the_setting() {
        for rows in [1, 1_000, limits::STATE_ROWS_MAX, 5_000_000, 100_000_000] {
            assert!(assembly_items(rows) > rows + limits::SERIES_PER_TENANT_MAX, "{rows}");
        }
        assert_eq!(assembly_items(usize::MAX), usize::MAX);
        assert!(HotMetricOptions::default().assembly_items >= limits::STATE_ROWS_MAX + limits::SERIES_PER_TENANT_MAX);
    }
}
