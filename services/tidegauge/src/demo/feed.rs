//! What the feeds share: one batch of measurements through the public client.

use tidegauge_client::{ColumnsBuilder, EventRef, Producer};

use crate::failure::Outcome;

/// One measurement of a feed.
#[derive(Clone, Debug)]
pub(super) struct Measurement {
    /// What was measured.
    pub(super) metric: String,
    /// The value.
    pub(super) value: f64,
    /// When, Unix nanoseconds.
    pub(super) time_ns: i64,
    /// Dimensions.
    pub(super) dimensions: Vec<(&'static str, String)>,
}

/// Sends measurements as one batch; returns when it is on its way. A batch that the server refuses as a whole is told on
/// standard error: a demo that is behind goes on with the next one.
///
/// # Errors
/// When the producer has failed for good.
pub(super) async fn send(
    producer: &mut Producer,
    builder: &mut ColumnsBuilder,
    source: &str,
    measurements: &[Measurement],
) -> Outcome {
    for measurement in measurements.iter().filter(|m| m.value.is_finite()) {
        let dimensions: Vec<(&str, &str)> = measurement.dimensions.iter().map(|(k, v)| (*k, v.as_str())).collect();
        builder.push(EventRef {
            event_type: "measurement",
            metric: &measurement.metric,
            time_ns: measurement.time_ns,
            value: measurement.value,
            dimensions: &dimensions,
            source,
            version: env!("CARGO_PKG_VERSION"),
        });
    }
    if !builder.is_empty() {
        producer.send(builder.take()).await?;
    }
    Ok(())
}
