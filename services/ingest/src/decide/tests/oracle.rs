//! The rules once more, as plainly as they can be said, over the generated type.

use std::collections::BTreeMap;

use tidegauge_core::event::EventBatch;
use tidegauge_proto::ingest::v1::Event;

pub(super) const NOW_NS: i64 = 1_772_434_800_123_456_789;
pub(super) const LATEST_NS: i64 = NOW_NS + 600_000_000_000;
pub(super) const EARLIEST_NS: i64 = 946_684_800_000_000_000;
pub(super) const TENANT: &str = "tenant-001";

/// An event as it stands on the log.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Logged {
    pub(super) index: u32,
    pub(super) event_type: String,
    pub(super) time_ns: i64,
    pub(super) metric: String,
    pub(super) value: f64,
    pub(super) dimensions: BTreeMap<String, String>,
    pub(super) source: String,
    pub(super) version: String,
}

fn text(name: &str, text: &str, max: usize, may_be_empty: bool) -> Result<(), String> {
    if text.is_empty() && !may_be_empty {
        return Err(format!("{name}_EMPTY"));
    }
    if text.len() > max {
        return Err(format!("{name}_TOO_LONG"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{name}_CHARACTER"));
    }
    Ok(())
}

/// The event as it stands on the log, or the reason for which it is refused.
pub(super) fn judge(index: u32, event: &Event) -> Result<Logged, String> {
    if !event.tenant_id.is_empty() && event.tenant_id != TENANT {
        return Err("TENANT_MISMATCH".to_owned());
    }
    text("EVENT_TYPE", &event.event_type, 255, false)?;
    let time = event.timestamp.as_ref().ok_or("TIMESTAMP_MISSING")?;
    let time = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let time_ns = i64::try_from(time).map_err(|_| "TIMESTAMP_OUT_OF_RANGE")?;
    if time_ns < EARLIEST_NS {
        return Err("TIMESTAMP_TOO_EARLY".to_owned());
    }
    if time_ns > LATEST_NS {
        return Err("TIMESTAMP_IN_FUTURE".to_owned());
    }
    text("METRIC_NAME", &event.metric_name, 255, false)?;
    if !event.metric_value.is_finite() {
        return Err("VALUE_NOT_FINITE".to_owned());
    }
    let dimensions: BTreeMap<String, String> = event.dimensions.clone().into_iter().collect();
    if dimensions.len() > 64 {
        return Err("TOO_MANY_DIMENSIONS".to_owned());
    }
    for (key, value) in &dimensions {
        text("DIMENSION_KEY", key, 128, false)?;
        text("DIMENSION_VALUE", value, 256, true)?;
    }
    text("SOURCE", &event.source, 255, true)?;
    text("VERSION", &event.version, 255, true)?;
    Ok(Logged {
        index,
        event_type: event.event_type.clone(),
        time_ns,
        metric: event.metric_name.clone(),
        value: event.metric_value,
        dimensions,
        source: event.source.clone(),
        version: event.version.clone(),
    })
}

/// The events of a log record.
pub(super) fn logged(batch: &EventBatch) -> Vec<Logged> {
    let columns = &batch.columns;
    let indexes = batch.indexes.iter().flat_map(|range| range.first..range.first + range.count);
    let event = |(at, index): (usize, u32)| Logged {
        index,
        event_type: columns.event_types[columns.event_type_ids[at] as usize].clone(),
        time_ns: columns.times[at],
        metric: columns.metrics[columns.metric_ids[at] as usize].clone(),
        value: columns.values[at],
        dimensions: columns.dimension_sets[columns.dimension_set_ids[at] as usize].pairs().iter().cloned().collect(),
        source: columns.sources[columns.source_ids[at] as usize].clone(),
        version: columns.versions[columns.version_ids[at] as usize].clone(),
    };
    indexes.enumerate().map(event).collect()
}
