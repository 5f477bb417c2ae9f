//! Events of the benchmarks: 20 metrics, three dimensions, times that move.

use tidegauge_client::proto::convert::time::timestamp;
use tidegauge_client::proto::ingest::v1::Event;
use tidegauge_client::proto::stream::v1::EventColumns;
use tidegauge_client::{ColumnsBuilder, EventRef};

/// Metrics of the benchmark.
pub(super) const METRICS: usize = 20;
/// How the data is described in results.
pub(super) const DESCRIPTION: &str = "20 metrics, 3 dimensions (5 regions, 40 hosts, 3 builds), one tenant";

/// Name of a metric.
pub(super) fn metric(index: usize) -> String {
    format!("metric_{:02}", index % METRICS)
}

fn dimensions(index: usize) -> [(&'static str, String); 3] {
    [
        ("region", format!("region-{}", index % 5)),
        ("host", format!("host-{:03}", index % 40)),
        ("build", format!("b{}", index % 3)),
    ]
}

/// A batch as columns; event `i` has the value `i`.
pub(super) fn columns(events: usize, time_ns: i64) -> EventColumns {
    let mut builder = ColumnsBuilder::new();
    for i in 0..events {
        let dimensions = dimensions(i);
        let pairs: Vec<(&str, &str)> = dimensions.iter().map(|(k, v)| (*k, v.as_str())).collect();
        builder.push(EventRef {
            event_type: "measurement",
            metric: &metric(i / 7),
            time_ns: time_ns + i as i64,
            value: i as f64,
            dimensions: &pairs,
            source: "bench",
            version: "1",
        });
    }
    builder.take()
}

/// A batch as rows, with the same content.
pub(super) fn rows(events: usize, time_ns: i64) -> Vec<Event> {
    let one = |i: usize| Event {
        tenant_id: String::new(),
        event_type: "measurement".to_owned(),
        timestamp: Some(timestamp(time_ns + i as i64)),
        metric_name: metric(i / 7),
        metric_value: i as f64,
        dimensions: dimensions(i).into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        source: "bench".to_owned(),
        version: "1".to_owned(),
    };
    (0..events).map(one).collect()
}
