//! Arrow schemas of `dashboard_metrics`, and rows as record batches.
//!
//! All columns but `sketch` are declared non-null: every row has them. Readers and the SQL table use the same schema, so
//! that a result announced is the result sent.

mod batch;

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

pub(crate) use batch::stored_batch;
pub use batch::{batch_of, dashboard_batch, rows_of};

/// Start of the window: timestamp in microseconds, UTC, without time zone.
pub const WINDOW_START: &str = "window_start";
/// End of the window, exclusive; as [`WINDOW_START`].
pub const WINDOW_END: &str = "window_end";
/// The metric.
pub const METRIC_NAME: &str = "metric_name";
/// Events counted, Int64.
pub const EVENT_COUNT: &str = "event_count";
/// `sum_value / event_count` of the merged row, Float64; between `min_value` and `max_value`, also where the sum is out of
/// range.
pub const AVG_VALUE: &str = "avg_value";
/// Sum of the values, Float64: the exact sum rounded once, infinite if it is out of range.
pub const SUM_VALUE: &str = "sum_value";
/// Smallest value, Float64.
pub const MIN_VALUE: &str = "min_value";
/// Largest value, Float64.
pub const MAX_VALUE: &str = "max_value";
/// Value of the latest event, Float64.
pub const LAST_VALUE: &str = "last_value";
/// Time of the latest event, cut to microseconds; as [`WINDOW_START`].
pub const LAST_TIME: &str = "last_time";
/// Events that came late, Int64.
pub const LATE_COUNT: &str = "late_count";
/// How often the row was written, Int32; 1 at first, 0 for a row that is not in the lake yet.
pub const REVISION: &str = "revision";
/// Quantile sketch, Binary; null where there is none.
pub const SKETCH: &str = "sketch";
/// The nanoseconds that [`LAST_TIME`] cuts off, 0 to 999, Int16. Only in files, after all other columns, and not a column
/// of the SQL table: it keeps merging exact.
pub const LAST_TIME_REST_NS: &str = "last_time_rest_ns";
/// What the rounding of [`SUM_VALUE`] took away, rounded in turn, Float64; only in files, as [`LAST_TIME_REST_NS`].
pub const SUM_LOW: &str = "sum_low";
/// What then remains of the exact sum, Binary, in the form of [`tidegauge_core::sum::SumParts::rest`]; empty, as nearly
/// always, for nothing. Only in files, as [`LAST_TIME_REST_NS`].
pub const SUM_REST: &str = "sum_rest";
/// Partition column, Utf8.
pub const TENANT_ID: &str = "tenant_id";
/// Partition column, Int32.
pub const YEAR: &str = "year";
/// Partition column, Int32.
pub const MONTH: &str = "month";
/// Partition column, Int32.
pub const DAY: &str = "day";
/// Partition column, Int32.
pub const HOUR: &str = "hour";

static AGGREGATED_FILE: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(Schema::new(file_fields())));
static STORED_FILE: LazyLock<SchemaRef> = LazyLock::new(|| {
    let mut fields = file_fields();
    fields.push(Field::new(LAST_TIME_REST_NS, DataType::Int16, false));
    fields.push(Field::new(SUM_LOW, DataType::Float64, false));
    fields.push(Field::new(SUM_REST, DataType::Binary, false));
    Arc::new(Schema::new(fields))
});
static DASHBOARD_METRICS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let mut fields = file_fields();
    fields.push(Field::new(TENANT_ID, DataType::Utf8, false));
    fields.extend([YEAR, MONTH, DAY, HOUR].map(|name| Field::new(name, DataType::Int32, false)));
    Arc::new(Schema::new(fields))
});

/// The columns that readers take from an hour object, in their order; without partition columns.
///
/// A file has more, [`LAST_TIME_REST_NS`], [`SUM_LOW`] and [`SUM_REST`]: read by name, or by the first positions.
pub fn aggregated_file() -> SchemaRef {
    AGGREGATED_FILE.clone()
}

/// All columns of an hour object.
pub fn stored_file() -> SchemaRef {
    STORED_FILE.clone()
}

/// The SQL table: the columns of [`aggregated_file`], then `tenant_id`, `year`, `month`, `day`, `hour`.
pub fn dashboard_metrics() -> SchemaRef {
    DASHBOARD_METRICS.clone()
}

fn file_fields() -> Vec<Field> {
    let timestamp = || DataType::Timestamp(TimeUnit::Microsecond, None);
    vec![
        Field::new(WINDOW_START, timestamp(), false),
        Field::new(WINDOW_END, timestamp(), false),
        Field::new(METRIC_NAME, DataType::Utf8, false),
        Field::new(EVENT_COUNT, DataType::Int64, false),
        Field::new(AVG_VALUE, DataType::Float64, false),
        Field::new(SUM_VALUE, DataType::Float64, false),
        Field::new(MIN_VALUE, DataType::Float64, false),
        Field::new(MAX_VALUE, DataType::Float64, false),
        Field::new(LAST_VALUE, DataType::Float64, false),
        Field::new(LAST_TIME, timestamp(), false),
        Field::new(LATE_COUNT, DataType::Int64, false),
        Field::new(REVISION, DataType::Int32, false),
        Field::new(SKETCH, DataType::Binary, true),
    ]
}
