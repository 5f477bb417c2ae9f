//! Where live windows come from.

use std::mem::size_of;

use async_trait::async_trait;
use tidegauge_core::hot::{HotVersion, KeyMeta, LiveSnapshot, LiveWindow};
use tidegauge_core::{ErrorKind, Key, ServiceError, SystemAuthority, TenantScope, limits};
use tidegauge_proto::convert::hot::{HotMessageError, key, window_from_proto};
use tidegauge_proto::convert::time::timestamp_ns;
use tidegauge_proto::freshness::v1::KeyFreshness;
use tidegauge_proto::hotmetric::v1::hot_metric_service_client::HotMetricServiceClient;
use tidegauge_proto::hotmetric::v1::{ListLiveWindowsRequest, ListLiveWindowsResponse};
use tidegauge_rpc::InternalChannel;
use tonic::{Code, Status};

/// Tenants of one call: the service token names them, and travels in a header, which has a limit.
const TENANTS_PER_CALL: usize = 200;

/// The live side of the seam.
///
/// `live` returns every key of the scope's tenants that has records, each with one consistent state: boundary, ordinal
/// and all windows from the boundary on. A key whose windows are not all there says so (`complete`) and never answers
/// short. Reads see everything that hot-metric has acknowledged.
#[async_trait]
pub trait LiveSource: Send + Sync + std::fmt::Debug + 'static {
    /// The live state of every key of the scope.
    ///
    /// # Errors
    /// Of kind Unavailable when it cannot be told now.
    async fn live(&self, scope: &TenantScope) -> Result<Vec<(Key, LiveSnapshot)>, ServiceError>;
}

/// Asks hot-metric over the channel between services, with the scope of the user.
#[derive(Clone, Debug)]
pub struct HotMetricSource {
    hot: InternalChannel,
    authority: SystemAuthority,
    bytes_max: usize,
}

impl HotMetricSource {
    /// `bytes_max` bounds what one answer may take in memory.
    pub fn new(hot: InternalChannel, authority: SystemAuthority, bytes_max: usize) -> Self {
        Self { hot, authority, bytes_max }
    }
}

#[async_trait]
impl LiveSource for HotMetricSource {
    async fn live(&self, scope: &TenantScope) -> Result<Vec<(Key, LiveSnapshot)>, ServiceError> {
        metrics::counter!("tidegauge_query_live_calls_total").increment(1);
        let mut collected = Collected { keys: Vec::new(), open: false, bytes: 0, bytes_max: self.bytes_max };
        // Each key's state is consistent in itself, so that several calls tell as much as one.
        for scope in calls(scope)? {
            let mut client = HotMetricServiceClient::new(self.hot.on_behalf_of(&self.authority, &scope))
                .max_decoding_message_size(limits::RESPONSE_BYTES_MAX);
            let answer = client.list_live_windows(ListLiveWindowsRequest {}).await;
            let mut parts = answer.map_err(|status| unavailable(&status))?.into_inner();
            while let Some(part) = parts.message().await.map_err(|status| unavailable(&status))? {
                collected.add(&part)?;
            }
        }
        collected.finish()
    }
}

/// The scope in parts that one call can carry.
fn calls(scope: &TenantScope) -> Result<Vec<TenantScope>, ServiceError> {
    match scope.tenants() {
        Some(tenants) if tenants.len() > TENANTS_PER_CALL => {
            tenants.chunks(TENANTS_PER_CALL).map(|some| scope.narrow_to(some)).collect()
        }
        _ => Ok(vec![scope.clone()]),
    }
}

/// Parts of keys, put together.
struct Collected {
    keys: Vec<(Key, LiveSnapshot)>,
    /// Whether further parts of the last key must come.
    open: bool,
    bytes: usize,
    bytes_max: usize,
}

impl Collected {
    fn add(&mut self, part: &ListLiveWindowsResponse) -> Result<(), ServiceError> {
        let key = key(&part.tenant_id, part.bucket).map_err(broken)?;
        if self.open {
            if self.keys.last().is_none_or(|(last, _)| *last != key) {
                return Err(broken("parts of two keys are mixed"));
            }
        } else {
            let freshness = part.freshness.as_ref().ok_or_else(|| broken("the first part has no freshness"))?;
            let meta = meta(freshness, part)?;
            self.keys.push((key, LiveSnapshot { meta, windows: Vec::new(), complete: part.complete }));
        }
        self.open = !part.last_part;
        let names: usize = part.windows.iter().map(|window| window.metric_name.len()).sum();
        self.bytes += names + part.windows.len() * size_of::<LiveWindow>();
        if self.bytes > self.bytes_max {
            let message = "the live windows alone need more memory than a query may use; choose one tenant";
            return Err(ServiceError::new(ErrorKind::ResourceExhausted, "QUERY_MEMORY", message));
        }
        if let Some((_, snapshot)) = self.keys.last_mut() {
            snapshot.complete &= part.complete;
            snapshot.windows.reserve(part.windows.len());
            for window in &part.windows {
                let window = window_from_proto(window).map_err(broken)?;
                self.bytes += window.row.sum.heap_bytes();
                snapshot.windows.push(window);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<(Key, LiveSnapshot)>, ServiceError> {
        if self.open { Err(broken("the answer ends inside a key")) } else { Ok(self.keys) }
    }
}

fn meta(freshness: &KeyFreshness, part: &ListLiveWindowsResponse) -> Result<KeyMeta, ServiceError> {
    let time = |time: Option<&prost_types::Timestamp>| time.and_then(timestamp_ns);
    Ok(KeyMeta {
        version: HotVersion { generation: freshness.generation, ordinal: freshness.as_of_ordinal, push: 0 },
        boundary_ns: time(freshness.boundary.as_ref()).ok_or_else(|| broken("a key has no boundary"))?,
        watermark_ns: time(freshness.watermark.as_ref()).ok_or_else(|| broken("a key has no watermark"))?,
        counted: freshness.counted_events,
        pending: freshness.pending_events,
        index_version: part.index_version,
        index_open: part.index_open,
    })
}

trait Cause: std::fmt::Display {}
impl Cause for &str {}
impl Cause for HotMessageError {}

fn broken(cause: impl Cause) -> ServiceError {
    tracing::error!(%cause, "hot-metric sent live windows that cannot be read");
    ServiceError::new(ErrorKind::Internal, "LIVE_WINDOWS", "the live windows cannot be read")
}

fn unavailable(status: &Status) -> ServiceError {
    // What hot-metric refuses to this scope is refused to its user for the same reason.
    if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) {
        return tidegauge_core::scope::tenant_denied();
    }
    tracing::warn!(%status, "the live windows cannot be had");
    ServiceError::new(ErrorKind::Unavailable, "LIVE_UNAVAILABLE", "the live windows are not available now")
}
