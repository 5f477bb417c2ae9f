//! Events for tests.

use tidegauge_core::time::SECOND_NS;
use tidegauge_proto::convert::time::timestamp;
use tidegauge_proto::ingest::v1::{Event, PublishRequest};
use tidegauge_proto::stream::v1::Mode;

/// An event that is in order, now as given.
pub fn event(metric: &str, value: f64, time_ns: i64) -> Event {
    Event {
        tenant_id: String::new(),
        event_type: "measurement".to_owned(),
        timestamp: Some(timestamp(time_ns)),
        metric_name: metric.to_owned(),
        metric_value: value,
        dimensions: [("host".to_owned(), "h1".to_owned())].into(),
        source: "test".to_owned(),
        version: "1".to_owned(),
    }
}

/// A LIVE request of rows.
pub fn live(producer: u8, sequence: u64, events: Vec<Event>) -> PublishRequest {
    PublishRequest { producer_id: vec![producer; 16].into(), sequence, mode: Mode::Live as i32, events, columns: None }
}

/// `count` events of one metric, one second apart, up to `end_ns`.
pub fn series(metric: &str, count: i64, end_ns: i64) -> Vec<Event> {
    (0..count).map(|i| event(metric, i as f64, end_ns - (count - 1 - i) * SECOND_NS)).collect()
}
