//! Dead letters: what was refused after it was durable, kept with its bytes and the reason.
//!
//! One Parquet object an epoch and shard for each tenant ([`crate::paths::dead_letter_object`]), written once, outside
//! the tables, readable by any tool. A letter is one event, or a whole record where `event_index` is null.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, AsArray, BinaryBuilder, Int32Array, Int64Array, RecordBatch, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::KeyValue;
use parquet::schema::types::ColumnPath;
use tidegauge_core::ids::{Ordinal, ShardId, TenantId};
use tidegauge_core::lake::{Expected, LakeStore, StoreError};

use crate::footer::key_value;
use crate::object::{self, ObjectError};

/// Key of the format in the key-value metadata.
const FORMAT_KEY: &str = "tidegauge.dead_letters";

/// The format written, and the highest read.
const FORMAT: u32 = 1;

/// Letters of one row group: with payloads of up to a megabyte a group stays well below a gigabyte.
const GROUP_LETTERS: usize = 512;

/// One refused record or event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// The tenant; `None` where the record does not tell.
    pub tenant: Option<TenantId>,
    /// The shard on whose log it stands.
    pub shard: ShardId,
    /// Ordinal of its record.
    pub ordinal: Ordinal,
    /// Index of the event in its request; `None` for a whole record.
    pub event_index: Option<u32>,
    /// UPPER_SNAKE reason.
    pub reason: Cow<'static, str>,
    /// For people: the rule and the value.
    pub detail: String,
    /// When the log took the record, Unix nanoseconds; kept in microseconds.
    pub arrival_ns: i64,
    /// The record's bytes, or the event as a record of its own.
    pub payload: Bytes,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("tenant_id", DataType::Utf8, true),
        Field::new("shard", DataType::Int32, false),
        Field::new("ordinal", DataType::Int64, false),
        Field::new("event_index", DataType::Int32, true),
        Field::new("reason", DataType::Utf8, false),
        Field::new("detail", DataType::Utf8, false),
        Field::new("arrival", DataType::Timestamp(TimeUnit::Microsecond, None), false),
        Field::new("payload", DataType::Binary, false),
    ]))
});

/// The columns of a dead-letter object.
pub fn schema() -> SchemaRef {
    SCHEMA.clone()
}

/// Encodes letters in their order.
///
/// # Errors
/// [`ObjectError::Invalid`] for a number beyond its column's type.
pub fn encode(letters: &[DeadLetter]) -> Result<Bytes, ObjectError> {
    let format = KeyValue::new(FORMAT_KEY.to_owned(), FORMAT.to_string());
    let properties = object::properties()
        .set_max_row_group_row_count(Some(GROUP_LETTERS))
        .set_column_dictionary_enabled(ColumnPath::from("tenant_id"), true)
        .set_column_dictionary_enabled(ColumnPath::from("reason"), true)
        .set_key_value_metadata(Some(vec![format]))
        .build();
    let payload_bytes: usize = letters.iter().map(|letter| letter.payload.len()).sum();
    let batches = letters.chunks(GROUP_LETTERS).map(batch_of);
    object::write_file(schema(), properties, payload_bytes / 2 + letters.len() * 64 + (8 << 10), batches)
}

/// Decodes an object wholly and checks its hash.
///
/// # Errors
/// [`ObjectError`].
pub fn decode(content: Bytes) -> Result<Vec<DeadLetter>, ObjectError> {
    object::check(&content)?;
    let metadata = ArrowReaderMetadata::load(&content, ArrowReaderOptions::new())?;
    let format = key_value(metadata.metadata(), FORMAT_KEY).and_then(|text| text.parse().ok());
    match format {
        Some(format) if format <= FORMAT => {}
        Some(found) => return Err(ObjectError::Newer { what: "dead letter format", found, known: FORMAT }),
        None => return Err(ObjectError::Footer(format!("has no {FORMAT_KEY}"))),
    }
    let reader =
        ParquetRecordBatchReaderBuilder::new_with_metadata(content, metadata).with_batch_size(GROUP_LETTERS).build()?;
    let mut letters = Vec::new();
    for batch in reader {
        letters.append(&mut letters_of(&batch?)?);
    }
    Ok(letters)
}

/// Writes the letters of an epoch. Idempotent: an object that stands there already is that of the same epoch.
///
/// # Errors
/// The store's; try again.
pub async fn put(store: &dyn LakeStore, path: &str, content: Bytes) -> Result<(), StoreError> {
    match store.replace(path, &Expected::Absent, content).await {
        Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
        Err(other) => Err(other),
    }
}

fn batch_of(letters: &[DeadLetter]) -> Result<RecordBatch, ObjectError> {
    let mut tenants = StringBuilder::new();
    let mut reasons = StringBuilder::new();
    let mut details = StringBuilder::new();
    let mut payloads = BinaryBuilder::new();
    let mut shards = Vec::with_capacity(letters.len());
    let mut ordinals = Vec::with_capacity(letters.len());
    let mut indexes = Vec::with_capacity(letters.len());
    for letter in letters {
        let too_large =
            |what: &str| ObjectError::Invalid(format!("{what} of the letter at ordinal {}", letter.ordinal));
        tenants.append_option(letter.tenant.as_ref().map(TenantId::as_str));
        reasons.append_value(&letter.reason);
        details.append_value(&letter.detail);
        payloads.append_value(&letter.payload);
        shards.push(i32::try_from(letter.shard.0).map_err(|_| too_large("shard"))?);
        ordinals.push(i64::try_from(letter.ordinal).map_err(|_| too_large("ordinal"))?);
        let index = letter.event_index.map(i32::try_from).transpose();
        indexes.push(index.map_err(|_| too_large("event index"))?);
    }
    let arrivals = letters.iter().map(|letter| letter.arrival_ns.div_euclid(1_000));
    Ok(RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(tenants.finish()),
            Arc::new(Int32Array::from(shards)),
            Arc::new(Int64Array::from(ordinals)),
            Arc::new(Int32Array::from(indexes)),
            Arc::new(reasons.finish()),
            Arc::new(details.finish()),
            Arc::new(TimestampMicrosecondArray::from_iter_values(arrivals)),
            Arc::new(payloads.finish()),
        ],
    )?)
}

fn letters_of(batch: &RecordBatch) -> Result<Vec<DeadLetter>, ObjectError> {
    if batch.schema_ref().fields() != SCHEMA.fields() {
        return Err(ObjectError::Footer("has other columns than dead letters have".to_owned()));
    }
    let (tenants, reasons, details) =
        (batch.column(0).as_string::<i32>(), batch.column(4).as_string::<i32>(), batch.column(5).as_string::<i32>());
    let (shards, indexes) = (batch.column(1).as_primitive::<Int32Type>(), batch.column(3).as_primitive::<Int32Type>());
    let ordinals = batch.column(2).as_primitive::<Int64Type>();
    let arrivals = batch.column(6).as_primitive::<TimestampMicrosecondType>();
    let payloads = batch.column(7).as_binary::<i32>();
    (0..batch.num_rows())
        .map(|row| {
            let bad = |column| ObjectError::Value { column, row };
            let tenant = tenants.is_valid(row).then(|| TenantId::parse(tenants.value(row))).transpose();
            let index = indexes.is_valid(row).then(|| u32::try_from(indexes.value(row))).transpose();
            Ok(DeadLetter {
                tenant: tenant.map_err(|_| bad("tenant_id"))?,
                shard: ShardId(u32::try_from(shards.value(row)).map_err(|_| bad("shard"))?),
                ordinal: u64::try_from(ordinals.value(row)).map_err(|_| bad("ordinal"))?,
                event_index: index.map_err(|_| bad("event_index"))?,
                reason: Cow::Owned(reasons.value(row).to_owned()),
                detail: details.value(row).to_owned(),
                arrival_ns: arrivals.value(row).checked_mul(1_000).ok_or_else(|| bad("arrival"))?,
                payload: Bytes::copy_from_slice(payloads.value(row)),
            })
        })
        .collect()
}
