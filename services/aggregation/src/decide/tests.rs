//! The decisions against a naive batch oracle, at every step, through crashes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod encodings;
mod examples;
mod fair;
mod golden;
mod hold;
mod imports;
pub(crate) mod oracle;
mod properties;
mod sim;

use bytes::Bytes;
use tidegauge_core::event::{Dimensions, EventBatch, EventColumns, IndexRange, Mode, RequestId};
use tidegauge_core::ids::Producer;
use tidegauge_core::time::{MINUTE_NS, SECOND_NS, WindowLength};
use tidegauge_core::{Key, TenantId};

use super::Settings;

/// 2026-03-02T00:00:00Z.
pub(crate) const T0: i64 = 1_772_409_600 * SECOND_NS;

pub(crate) fn settings() -> Settings {
    Settings {
        window: WindowLength::MINUTE,
        lateness_ns: 2 * MINUTE_NS,
        idle_ns: MINUTE_NS,
        horizon_ns: 60 * MINUTE_NS,
        future_ns: 10 * MINUTE_NS,
        publish_ns: MINUTE_NS / 2,
        ..Settings::default()
    }
}

pub(crate) fn key(name: &str) -> Key {
    Key::of(TenantId::parse(name).unwrap())
}

/// Metric, time, value.
pub(crate) type Event = (u32, i64, f64);

pub(crate) fn batch(key: &Key, mode: Mode, arrival_ns: i64, events: &[Event]) -> EventBatch {
    let zero = vec![0; events.len()];
    let indexes = match events.len() as u32 {
        0 => Vec::new(),
        count => vec![IndexRange { first: 0, count }],
    };
    EventBatch {
        tenant: key.tenant.clone(),
        request: None,
        indexes,
        mode,
        arrival_ns,
        columns: EventColumns {
            event_types: vec!["t".to_owned()],
            metrics: (0..8).map(|m| format!("m{m}")).collect(),
            sources: vec![String::new()],
            versions: vec![String::new()],
            dimension_sets: vec![Dimensions::default()],
            times: events.iter().map(|e| e.1).collect(),
            values: events.iter().map(|e| e.2).collect(),
            event_type_ids: zero.clone(),
            metric_ids: events.iter().map(|e| e.0).collect(),
            source_ids: zero.clone(),
            version_ids: zero.clone(),
            dimension_set_ids: zero,
        },
    }
}

pub(crate) fn request(producer: u8, kept: bool, sequence: u64, digest: u128) -> Option<RequestId> {
    let mut id = [producer; 16];
    id[0] = if kept { Producer::KEPT_PREFIX } else { 1 };
    Some(RequestId { producer: Producer::from_bytes(id), sequence, digest })
}

pub(crate) fn raw(batch: &EventBatch) -> Bytes {
    tidegauge_proto::convert::batch::encode(batch.clone())
}
