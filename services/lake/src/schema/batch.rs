//! Rows to record batches and back.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use tidegauge_core::Sum;
use tidegauge_core::hot::WindowRow;
use tidegauge_core::ids::{MetricName, TenantId};
use tidegauge_core::sum::SumParts;
use tidegauge_core::time::Hour;

use crate::object::ObjectError;
use crate::row::AggregatedRow;
use crate::schema;

const MICROSECOND_NS: i64 = 1_000;

/// Rows as a batch of [`schema::aggregated_file`]. Times are cut to microseconds.
///
/// # Errors
/// [`ObjectError::Invalid`] for a row without events or with numbers beyond the column's type.
pub fn batch_of(rows: &[AggregatedRow]) -> Result<RecordBatch, ObjectError> {
    Ok(RecordBatch::try_new(schema::aggregated_file(), columns_of(rows)?)?)
}

/// Rows of a tenant as a batch of [`schema::dashboard_metrics`]; the partition columns follow the window's start.
///
/// # Errors
/// As [`batch_of`].
pub fn dashboard_batch(tenant: &TenantId, rows: &[AggregatedRow]) -> Result<RecordBatch, ObjectError> {
    let mut columns = columns_of(rows)?;
    let mut tenants = StringBuilder::with_capacity(rows.len(), rows.len() * tenant.as_str().len());
    let mut parts: [Vec<i32>; 4] = std::array::from_fn(|_| Vec::with_capacity(rows.len()));
    for row in rows {
        tenants.append_value(tenant.as_str());
        let hour = Hour::of(row.start_ns);
        let (year, month, day) = hour.day().civil();
        for (part, value) in parts.iter_mut().zip([year, month as i32, day as i32, hour.hour_of_day() as i32]) {
            part.push(value);
        }
    }
    columns.push(Arc::new(tenants.finish()));
    columns.extend(parts.map(|part| Arc::new(Int32Array::from(part)) as ArrayRef));
    Ok(RecordBatch::try_new(schema::dashboard_metrics(), columns)?)
}

/// Rows as a batch of [`schema::stored_file`].
pub(crate) fn stored_batch(rows: &[AggregatedRow]) -> Result<RecordBatch, ObjectError> {
    let mut columns = columns_of(rows)?;
    let rest = rows.iter().map(|row| row.row.last_time_ns.rem_euclid(MICROSECOND_NS) as i16);
    columns.push(Arc::new(Int16Array::from_iter_values(rest)));
    let sums: Vec<SumParts> = rows.iter().map(|row| row.row.sum.parts()).collect();
    columns.push(Arc::new(Float64Array::from_iter_values(sums.iter().map(|sum| sum.low))));
    columns.push(Arc::new(BinaryArray::from_iter_values(sums.iter().map(|sum| &sum.rest))));
    Ok(RecordBatch::try_new(schema::stored_file(), columns)?)
}

fn columns_of(rows: &[AggregatedRow]) -> Result<Vec<ArrayRef>, ObjectError> {
    let name_bytes = rows.iter().map(|row| row.metric.as_str().len()).sum();
    let mut names = StringBuilder::with_capacity(rows.len(), name_bytes);
    let mut counts = Vec::with_capacity(rows.len());
    let mut lates = Vec::with_capacity(rows.len());
    let mut revisions = Vec::with_capacity(rows.len());
    for row in rows {
        names.append_value(row.metric.as_str());
        counts.push(count(row)?);
        lates.push(i64::try_from(row.row.late).map_err(|_| too_large(row, "late_count"))?);
        revisions.push(i32::try_from(row.revision).map_err(|_| too_large(row, "revision"))?);
    }
    let floats = |value: fn(&WindowRow) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| value(&row.row))))
    };
    let times = |time_ns: fn(&AggregatedRow) -> i64| -> ArrayRef {
        let micros = rows.iter().map(|row| time_ns(row).div_euclid(MICROSECOND_NS));
        Arc::new(TimestampMicrosecondArray::from_iter_values(micros))
    };
    Ok(vec![
        times(|row| row.start_ns),
        times(|row| row.end_ns),
        Arc::new(names.finish()),
        Arc::new(Int64Array::from(counts)),
        floats(WindowRow::average),
        floats(|row| row.sum.value()),
        floats(|row| row.min),
        floats(|row| row.max),
        floats(|row| row.last),
        times(|row| row.row.last_time_ns),
        Arc::new(Int64Array::from(lates)),
        Arc::new(Int32Array::from(revisions)),
        Arc::new(BinaryArray::new_null(rows.len())),
    ])
}

fn count(row: &AggregatedRow) -> Result<i64, ObjectError> {
    match i64::try_from(row.row.count) {
        Ok(0) => Err(ObjectError::Invalid(format!("row {:?} has no events", row.order()))),
        Ok(count) => Ok(count),
        Err(_) => Err(too_large(row, "event_count")),
    }
}

fn too_large(row: &AggregatedRow, column: &str) -> ObjectError {
    ObjectError::Invalid(format!("row {:?} has a {column} beyond its column's type", row.order()))
}

/// Reads rows of a batch that has the columns of [`schema::aggregated_file`], found by name; further columns are ignored
/// except [`schema::LAST_TIME_REST_NS`], [`schema::SUM_LOW`] and [`schema::SUM_REST`]. `late_count`, `revision` and
/// `sum_value` may be absent and become 0, 1 and average times count.
///
/// # Errors
/// [`ObjectError`] naming the column that is missing, of another type, null or out of range.
pub fn rows_of(batch: &RecordBatch) -> Result<Vec<AggregatedRow>, ObjectError> {
    let starts = required::<TimestampMicrosecondArray>(batch, schema::WINDOW_START)?.values();
    let ends = required::<TimestampMicrosecondArray>(batch, schema::WINDOW_END)?.values();
    let names = required::<StringArray>(batch, schema::METRIC_NAME)?;
    let counts = required::<Int64Array>(batch, schema::EVENT_COUNT)?.values();
    let averages = required::<Float64Array>(batch, schema::AVG_VALUE)?.values();
    let sums = optional::<Float64Array>(batch, schema::SUM_VALUE)?;
    let mins = required::<Float64Array>(batch, schema::MIN_VALUE)?.values();
    let maxs = required::<Float64Array>(batch, schema::MAX_VALUE)?.values();
    let lasts = required::<Float64Array>(batch, schema::LAST_VALUE)?.values();
    let last_times = required::<TimestampMicrosecondArray>(batch, schema::LAST_TIME)?.values();
    let rests = optional::<Int16Array>(batch, schema::LAST_TIME_REST_NS)?;
    let sum_lows = optional::<Float64Array>(batch, schema::SUM_LOW)?;
    let sum_rests = optional::<BinaryArray>(batch, schema::SUM_REST)?;
    let lates = optional::<Int64Array>(batch, schema::LATE_COUNT)?;
    let revisions = optional::<Int32Array>(batch, schema::REVISION)?;

    let mut rows: Vec<AggregatedRow> = Vec::with_capacity(batch.num_rows());
    for i in 0..batch.num_rows() {
        let out_of_range = |column: &'static str| ObjectError::Value { column, row: i };
        let nanos = |micros: i64, column| micros.checked_mul(MICROSECOND_NS).ok_or_else(|| out_of_range(column));
        let name = names.value(i);
        // Rows are sorted by metric: one allocation a metric, not one a row.
        let metric = match rows.last() {
            Some(previous) if previous.metric.as_str() == name => previous.metric.clone(),
            _ => MetricName::parse(name).map_err(|_| out_of_range(schema::METRIC_NAME))?,
        };
        let count = u64::try_from(counts[i]).ok().filter(|count| *count > 0);
        let count = count.ok_or_else(|| out_of_range(schema::EVENT_COUNT))?;
        let late = lates.map_or(0, |lates| lates.value(i));
        let revision = revisions.map_or(1, |revisions| revisions.value(i));
        let rest = i64::from(rests.map_or(0, |rests| rests.value(i)));
        let sum = sums.map_or(averages[i] * count as f64, |sums| sums.value(i));
        let sum_low = sum_lows.map_or(0.0, |lows| lows.value(i));
        let sum = Sum::from_parts(sum, sum_low, sum_rests.map_or(&[], |rests| rests.value(i)));
        rows.push(AggregatedRow {
            start_ns: nanos(starts[i], schema::WINDOW_START)?,
            end_ns: nanos(ends[i], schema::WINDOW_END)?,
            metric,
            row: WindowRow {
                count,
                sum: sum.ok_or_else(|| out_of_range(schema::SUM_VALUE))?,
                min: mins[i],
                max: maxs[i],
                last: lasts[i],
                last_time_ns: nanos(last_times[i], schema::LAST_TIME)?.saturating_add(rest),
                late: u64::try_from(late).map_err(|_| out_of_range(schema::LATE_COUNT))?,
            },
            revision: u32::try_from(revision).map_err(|_| out_of_range(schema::REVISION))?,
        });
    }
    Ok(rows)
}

fn optional<'a, A: Array + 'static>(
    batch: &'a RecordBatch,
    column: &'static str,
) -> Result<Option<&'a A>, ObjectError> {
    let Some(array) = batch.column_by_name(column) else {
        return Ok(None);
    };
    let typed = array
        .as_any()
        .downcast_ref::<A>()
        .ok_or_else(|| ObjectError::ColumnType { column, found: array.data_type().clone() })?;
    if typed.null_count() > 0 {
        return Err(ObjectError::Null { column });
    }
    Ok(Some(typed))
}

fn required<'a, A: Array + 'static>(batch: &'a RecordBatch, column: &'static str) -> Result<&'a A, ObjectError> {
    optional(batch, column)?.ok_or(ObjectError::MissingColumn { column })
}
