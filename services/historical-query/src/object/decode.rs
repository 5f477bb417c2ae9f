//! Parquet bytes to batches of the table.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::compute::kernels::cmp;
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use tidegauge_core::time::Hour;
use tidegauge_lake::{Footer, ObjectError, schema};

use super::{Rows, Wanted};
use crate::decide::seam::Part;
use crate::error::Abort;

/// Bytes that a decoded row takes, about: eleven numbers, two names and offsets.
pub(super) const ROW_BYTES: usize = 180;
/// Rows decoded at once.
pub(super) const BATCH_ROWS: usize = 8 << 10;

/// How the rows of an object become rows of a scan: cut at the boundary, the wanted columns, and the partition columns
/// from the path.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Positions in the table's schema.
    columns: Arc<[usize]>,
    schema: SchemaRef,
    /// Rows from here on are cut away, microseconds.
    boundary_us: Option<i64>,
    tenant: Arc<str>,
    hour: Hour,
}

impl Shape {
    pub(super) fn new(wanted: &Wanted, columns: Arc<[usize]>) -> Self {
        let boundary_ns = wanted.key.meta.boundary_ns;
        // Rounded up: a row that starts below the boundary stays.
        let boundary_us = boundary_ns.div_euclid(1_000) + i64::from(boundary_ns.rem_euclid(1_000) > 0);
        Self {
            schema: projected(&columns),
            columns,
            boundary_us: (wanted.part == Part::BelowBoundary).then_some(boundary_us),
            tenant: wanted.key.key.tenant.as_str().into(),
            hour: wanted.entry.hour,
        }
    }

    /// The same object with all columns and all rows, as it is cached.
    fn whole(&self) -> Self {
        let columns: Arc<[usize]> = (0..schema::dashboard_metrics().fields().len()).collect();
        Self { schema: projected(&columns), columns, boundary_us: None, ..self.clone() }
    }

    /// From a batch with all columns of the table.
    pub(super) fn of_table(&self, batch: &RecordBatch) -> Result<RecordBatch, Abort> {
        let shaped = self.cut(batch.clone()).and_then(|batch| batch.project(&self.columns));
        shaped.map_err(|error| crate::error::of_engine(&error.into()))
    }

    /// From a batch of the file; columns are found by name, those that an older file lacks are null.
    pub(super) fn of_file(&self, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let batch = self.cut(batch)?;
        let rows = batch.num_rows();
        let table = schema::dashboard_metrics();
        let (year, month, day) = self.hour.day().civil();
        let number = |value: i32| -> ArrayRef { Arc::new(Int32Array::from_value(value, rows)) };
        let column = |at: &usize| -> Result<ArrayRef, ArrowError> {
            let field = table.field(*at);
            Ok(match field.name().as_str() {
                schema::TENANT_ID => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&*self.tenant, rows))),
                schema::YEAR => number(year),
                schema::MONTH => number(month as i32),
                schema::DAY => number(day as i32),
                schema::HOUR => number(self.hour.hour_of_day() as i32),
                name => match batch.column_by_name(name) {
                    Some(found) if found.data_type() == field.data_type() => Arc::clone(found),
                    Some(found) => cast(found, field.data_type())?,
                    None => new_null_array(field.data_type(), rows),
                },
            })
        };
        let columns = self.columns.iter().map(column).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }

    fn cut(&self, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let Some(boundary_us) = self.boundary_us else { return Ok(batch) };
        let missing = || ArrowError::SchemaError(format!("column {} is missing", schema::WINDOW_START));
        let starts = batch.column_by_name(schema::WINDOW_START).ok_or_else(missing)?;
        let below: BooleanArray = cmp::lt(starts, &TimestampMicrosecondArray::new_scalar(boundary_us))?;
        filter_record_batch(&batch, &below)
    }

    /// The columns to decode: those that are wanted and in the file, and what the cut needs.
    pub(super) fn mask(&self, metadata: &ArrowReaderMetadata) -> ProjectionMask {
        let table = schema::dashboard_metrics();
        let wanted = self.columns.iter().map(|at| table.field(*at).name().as_str());
        let cut = self.boundary_us.map(|_| schema::WINDOW_START);
        let names: Vec<&str> = wanted.chain(cut).collect();
        ProjectionMask::columns(metadata.parquet_schema(), names)
    }
}

/// The table's schema with some of its columns.
pub(crate) fn projected(columns: &[usize]) -> SchemaRef {
    let table = schema::dashboard_metrics();
    Arc::new(arrow::datatypes::Schema::new(columns.iter().map(|at| table.field(*at).clone()).collect::<Vec<_>>()))
}

/// Reads metadata and footer and checks that the data are the bytes that were written.
pub(super) fn open(content: &Bytes) -> Result<(ArrowReaderMetadata, Footer), ObjectError> {
    let metadata = ArrowReaderMetadata::load(content, ArrowReaderOptions::new())?;
    let footer = tidegauge_lake::object::footer_of(metadata.metadata())?;
    tidegauge_lake::object::check_data(content, metadata.metadata())?;
    Ok((metadata, footer))
}

/// Decodes a small object wholly.
pub(super) fn decode_all(
    content: Bytes,
    metadata: ArrowReaderMetadata,
    wanted: &Wanted,
) -> Result<Arc<[RecordBatch]>, ObjectError> {
    let shape = Shape::new(wanted, Arc::default()).whole();
    let mask = shape.mask(&metadata);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(content, metadata)
        .with_batch_size(BATCH_ROWS)
        .with_projection(mask)
        .build()?;
    reader.map(|batch| Ok(shape.of_file(batch?)?)).collect()
}

/// Decodes the wanted columns of an object, batch by batch.
pub(super) fn decode_some(
    content: Bytes,
    metadata: ArrowReaderMetadata,
    shape: Shape,
    wanted: Wanted,
) -> Result<Rows, Abort> {
    let mask = shape.mask(&metadata);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(content, metadata)
        .with_batch_size(BATCH_ROWS)
        .with_projection(mask)
        .build()
        .map_err(|error| wanted.unreadable(&error))?;
    let batches = reader
        .map(move |batch| batch.and_then(|batch| shape.of_file(batch)).map_err(|error| wanted.unreadable(&error)));
    Ok(stream::iter(batches).boxed())
}
