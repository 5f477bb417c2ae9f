//! Settings of the ingest service.

use std::collections::HashMap;
use std::time::Duration;

use tidegauge_core::ids::TenantId;
use tidegauge_core::limits;

use crate::decide::quota::Quota;

/// Settings of the ingest service; the defaults are the platform's limits.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// What a tenant may publish.
    pub quota: Quota,
    /// Tenants with another quota.
    pub tenant_quotas: HashMap<TenantId, Quota>,
    /// Tenants whose quota is being counted at once; over it, tenants that come anew are told to wait.
    pub quota_accounts_max: usize,
    /// Requests of one stream that wait for the log; reading pauses while there are as many.
    pub stream_requests_max: usize,
    /// Bytes of one stream's requests that wait for the log or for their answer to be read; reading pauses while there are
    /// more.
    pub stream_bytes_max: usize,
    /// Acknowledged requests remembered for the duplicate hint.
    pub recent_requests_max: usize,
    /// Bytes of a log record with its key.
    pub record_bytes_max: usize,
    /// Time a drain waits for what is in flight.
    pub drain_time_max: Duration,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            quota: Quota::default(),
            tenant_quotas: HashMap::new(),
            quota_accounts_max: 100_000,
            stream_requests_max: 64,
            // Several streams of a tenant pause before they use up its share of a queue.
            stream_bytes_max: limits::INGEST_QUEUE_BYTES / 8,
            recent_requests_max: 65_536,
            record_bytes_max: limits::RECORD_BYTES_MAX,
            drain_time_max: limits::DRAIN_TIME_MAX,
        }
    }
}
