//! Dead letters: what was refused after it was durable, kept with its bytes and the reason.
//!
//! One Parquet object an epoch and shard for each tenant ([`crate::paths::dead_letter_object`]), written once, outside
//! the tables, readable by any tool. A letter is one row: a record of the log, or those of its events that were refused for
//! one reason, together as they stood there. Nothing expands, so an object is about as large as what it keeps.
//!
//! | column | meaning |
//! |---|---|
//! | `tenant_id` | the tenant; null where the record does not tell |
//! | `shard`, `ordinal` | where the record stood |
//! | `reason`, `detail` | UPPER_SNAKE reason; text for people, may be empty |
//! | `arrival` | when the log took the record |
//! | `events` | events that the letter counts for: their sum is what the counters call dead |
//! | `event_indexes` | their indexes in the request, ascending; null for a whole record |
//! | `payload` | the record's bytes, or an `EventBatch` of these events alone |

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, AsArray, BinaryBuilder, Int32Array, Int32Builder, Int64Array, ListBuilder, RecordBatch, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::KeyValue;
use parquet::schema::types::ColumnPath;
use tidegauge_core::event::IndexRange;
use tidegauge_core::ids::{Ordinal, ShardId, TenantId};
use tidegauge_core::lake::{Expected, LakeStore, StoreError};

use crate::footer::key_value;
use crate::object::{self, ObjectError};

/// Key of the format in the key-value metadata.
const FORMAT_KEY: &str = "tidegauge.dead_letters";

/// The format written, and the highest read.
const FORMAT: u32 = 2;

/// Letters of one row group.
const GROUP_LETTERS: usize = 512;

/// Bytes of payloads and indexes from which on a row group takes no further letter: what a writer holds besides the
/// letters, and what a reader that takes one group at a time needs.
const GROUP_BYTES: usize = 4 << 20;

/// A refused record, or the events of one that were refused together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// The tenant; `None` where the record does not tell.
    pub tenant: Option<TenantId>,
    /// The shard on whose log it stands.
    pub shard: ShardId,
    /// Ordinal of its record.
    pub ordinal: Ordinal,
    /// Events it counts for; at least 1.
    pub events: u64,
    /// Their indexes in the request; empty for a whole record.
    pub indexes: Vec<IndexRange>,
    /// UPPER_SNAKE reason.
    pub reason: Cow<'static, str>,
    /// For people: the rule and the value.
    pub detail: String,
    /// When the log took the record, Unix nanoseconds; kept in microseconds.
    pub arrival_ns: i64,
    /// The record's bytes, or the events as a record of their own.
    pub payload: Bytes,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("tenant_id", DataType::Utf8, true),
        Field::new("shard", DataType::Int32, false),
        Field::new("ordinal", DataType::Int64, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("detail", DataType::Utf8, false),
        Field::new("arrival", DataType::Timestamp(TimeUnit::Microsecond, None), false),
        Field::new("events", DataType::Int64, false),
        Field::new("event_indexes", DataType::List(index_field()), true),
        Field::new("payload", DataType::Binary, false),
    ]))
});

fn index_field() -> Arc<Field> {
    Arc::new(Field::new("element", DataType::Int32, false))
}

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
    let batches = groups(letters).into_iter().map(batch_of);
    object::write_file(schema(), properties, payload_bytes / 2 + letters.len() * 64 + (8 << 10), batches)
}

/// The letters in runs of bounded size.
fn groups(letters: &[DeadLetter]) -> Vec<&[DeadLetter]> {
    let mut groups = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, letter) in letters.iter().enumerate() {
        if at - from == GROUP_LETTERS || bytes >= GROUP_BYTES {
            groups.push(&letters[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += letter.payload.len()
            + letter.detail.len()
            + letter.indexes.iter().map(|r| r.count as usize * 4).sum::<usize>();
    }
    groups.push(&letters[from..]);
    groups
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
        Some(FORMAT) => {}
        Some(old) if old < FORMAT => return Err(ObjectError::Footer(format!("has the former format {old}"))),
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
    let mut events = Vec::with_capacity(letters.len());
    let mut indexes = ListBuilder::new(Int32Builder::new()).with_field(index_field());
    for letter in letters {
        let too_large =
            |what: &str| ObjectError::Invalid(format!("{what} of the letter at ordinal {}", letter.ordinal));
        tenants.append_option(letter.tenant.as_ref().map(TenantId::as_str));
        reasons.append_value(&letter.reason);
        details.append_value(&letter.detail);
        payloads.append_value(&letter.payload);
        shards.push(i32::try_from(letter.shard.0).map_err(|_| too_large("shard"))?);
        ordinals.push(i64::try_from(letter.ordinal).map_err(|_| too_large("ordinal"))?);
        events.push(i64::try_from(letter.events).map_err(|_| too_large("number of events"))?);
        for index in letter.indexes.iter().flat_map(|range| (range.first..).take(range.count as usize)) {
            indexes.values().append_value(i32::try_from(index).map_err(|_| too_large("event index"))?);
        }
        indexes.append(!letter.indexes.is_empty());
    }
    let arrivals = letters.iter().map(|letter| letter.arrival_ns.div_euclid(1_000));
    Ok(RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(tenants.finish()),
            Arc::new(Int32Array::from(shards)),
            Arc::new(Int64Array::from(ordinals)),
            Arc::new(reasons.finish()),
            Arc::new(details.finish()),
            Arc::new(TimestampMicrosecondArray::from_iter_values(arrivals)),
            Arc::new(Int64Array::from(events)),
            Arc::new(indexes.finish()),
            Arc::new(payloads.finish()),
        ],
    )?)
}

fn letters_of(batch: &RecordBatch) -> Result<Vec<DeadLetter>, ObjectError> {
    if batch.schema_ref().fields() != SCHEMA.fields() {
        return Err(ObjectError::Footer("has other columns than dead letters have".to_owned()));
    }
    let (tenants, reasons, details) =
        (batch.column(0).as_string::<i32>(), batch.column(3).as_string::<i32>(), batch.column(4).as_string::<i32>());
    let shards = batch.column(1).as_primitive::<Int32Type>();
    let (ordinals, events) = (batch.column(2).as_primitive::<Int64Type>(), batch.column(6).as_primitive::<Int64Type>());
    let arrivals = batch.column(5).as_primitive::<TimestampMicrosecondType>();
    let indexes = batch.column(7).as_list::<i32>();
    let payloads = batch.column(8).as_binary::<i32>();
    (0..batch.num_rows())
        .map(|row| {
            let bad = |column| ObjectError::Value { column, row };
            let tenant = tenants.is_valid(row).then(|| TenantId::parse(tenants.value(row))).transpose();
            let indexes = match indexes.is_valid(row) {
                true => ranges(indexes.value(row).as_primitive::<Int32Type>().values()),
                false => Some(Vec::new()),
            };
            Ok(DeadLetter {
                tenant: tenant.map_err(|_| bad("tenant_id"))?,
                shard: ShardId(u32::try_from(shards.value(row)).map_err(|_| bad("shard"))?),
                ordinal: u64::try_from(ordinals.value(row)).map_err(|_| bad("ordinal"))?,
                reason: Cow::Owned(reasons.value(row).to_owned()),
                detail: details.value(row).to_owned(),
                arrival_ns: arrivals.value(row).checked_mul(1_000).ok_or_else(|| bad("arrival"))?,
                events: u64::try_from(events.value(row)).map_err(|_| bad("events"))?,
                indexes: indexes.ok_or_else(|| bad("event_indexes"))?,
                payload: Bytes::copy_from_slice(payloads.value(row)),
            })
        })
        .collect()
}

/// Indexes as ranges; `None` for a negative one.
fn ranges(indexes: &[i32]) -> Option<Vec<IndexRange>> {
    let mut ranges: Vec<IndexRange> = Vec::new();
    for index in indexes {
        let index = u32::try_from(*index).ok()?;
        match ranges.last_mut() {
            Some(last) if last.first.checked_add(last.count) == Some(index) => last.count += 1,
            _ => ranges.push(IndexRange { first: index, count: 1 }),
        }
    }
    Some(ranges)
}
