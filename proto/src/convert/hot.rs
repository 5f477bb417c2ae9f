//! Hot values, live windows and freshness.

use tidegauge_core::hot::{CurrentValue, HotVersion, KeyMeta, LiveWindow, WindowRow};
use tidegauge_core::ids::{Key, MetricName, NameError, TenantId};
use tidegauge_core::sum::{Sum, SumParts};

use super::time::{timestamp, timestamp_ns};
use crate::freshness::v1::{Freshness, KeyFreshness};
use crate::hotmetric::v1 as pb;

/// Why an internal message cannot be read: a defect of ours or a newer version.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct HotMessageError {
    field: &'static str,
    problem: String,
}

impl HotMessageError {
    fn name(field: &'static str) -> impl Fn(NameError) -> Self {
        move |e| Self { field, problem: e.to_string() }
    }
}

/// The key of a message's `tenant_id` and `bucket`.
///
/// # Errors
/// [`HotMessageError`] when the tenant is none.
pub fn key(tenant_id: &str, bucket: u32) -> Result<Key, HotMessageError> {
    let tenant = TenantId::parse(tenant_id).map_err(HotMessageError::name("tenant_id"))?;
    Ok(Key { tenant, bucket })
}

/// A current value as it is sent.
pub fn current_to_proto(value: &CurrentValue) -> pb::Metric {
    pb::Metric {
        metric_name: value.metric.as_str().to_owned(),
        last_value: value.last_value,
        last_time: Some(timestamp(value.last_time_ns)),
        updated_at: Some(timestamp(value.updated_at_ns)),
        event_count: value.event_count,
    }
}

/// Reads a current value.
///
/// # Errors
/// [`HotMessageError`] when a name or time is none.
pub fn current_from_proto(value: &pb::Metric) -> Result<CurrentValue, HotMessageError> {
    let time = |field, time: Option<&prost_types::Timestamp>| {
        time.and_then(timestamp_ns)
            .ok_or_else(|| HotMessageError { field, problem: "missing or out of range".to_owned() })
    };
    Ok(CurrentValue {
        metric: MetricName::parse(&value.metric_name).map_err(HotMessageError::name("metric_name"))?,
        last_value: value.last_value,
        last_time_ns: time("last_time", value.last_time.as_ref())?,
        updated_at_ns: time("updated_at", value.updated_at.as_ref())?,
        event_count: value.event_count,
    })
}

/// A live window as it is sent.
pub fn window_to_proto(window: &LiveWindow) -> pb::LiveWindow {
    let SumParts { value, low, rest } = window.row.sum.parts();
    pb::LiveWindow {
        start_unix_nano: window.start_ns,
        end_unix_nano: window.end_ns,
        metric_name: window.metric.as_str().to_owned(),
        event_count: window.row.count,
        sum_value: value,
        min_value: window.row.min,
        max_value: window.row.max,
        last_value: window.row.last,
        last_time_unix_nano: window.row.last_time_ns,
        late_count: window.row.late,
        sum_low: low,
        sum_rest: rest.into(),
    }
}

/// Reads a live window.
///
/// # Errors
/// [`HotMessageError`] when the metric's name or the sum is none.
pub fn window_from_proto(window: &pb::LiveWindow) -> Result<LiveWindow, HotMessageError> {
    let sum = Sum::from_parts(window.sum_value, window.sum_low, &window.sum_rest)
        .ok_or_else(|| HotMessageError { field: "sum_value", problem: "is no number".to_owned() })?;
    Ok(LiveWindow {
        start_ns: window.start_unix_nano,
        end_ns: window.end_unix_nano,
        metric: MetricName::parse(&window.metric_name).map_err(HotMessageError::name("metric_name"))?,
        row: WindowRow {
            count: window.event_count,
            sum,
            min: window.min_value,
            max: window.max_value,
            last: window.last_value,
            last_time_ns: window.last_time_unix_nano,
            late: window.late_count,
        },
    })
}

/// A version as it is sent.
pub fn version_to_proto(version: HotVersion) -> pb::Version {
    pb::Version { generation: version.generation, ordinal: version.ordinal, push: version.push }
}

/// Reads a version; an absent one is the lowest.
pub fn version_from_proto(version: Option<&pb::Version>) -> HotVersion {
    version.map_or_else(HotVersion::default, |v| HotVersion {
        generation: v.generation,
        ordinal: v.ordinal,
        push: v.push,
    })
}

/// Freshness of one key.
pub fn key_freshness(key: &Key, meta: &KeyMeta) -> KeyFreshness {
    KeyFreshness {
        tenant_id: key.tenant.as_str().to_owned(),
        bucket: key.bucket,
        as_of_ordinal: meta.version.ordinal,
        generation: meta.version.generation,
        watermark: Some(timestamp(meta.watermark_ns)),
        boundary: Some(timestamp(meta.boundary_ns)),
        counted_events: meta.counted,
        pending_events: meta.pending,
    }
}

/// Freshness of an answer that covers the given keys.
pub fn freshness<'a>(keys: impl IntoIterator<Item = (&'a Key, &'a KeyMeta)>) -> Freshness {
    let mut complete_through: Option<i64> = None;
    let mut entries = Vec::new();
    for (key, meta) in keys {
        complete_through = Some(complete_through.map_or(meta.boundary_ns, |b| b.min(meta.boundary_ns)));
        entries.push(key_freshness(key, meta));
    }
    Freshness { keys: entries, complete_through: complete_through.map(timestamp), missing_keys: Vec::new() }
}
