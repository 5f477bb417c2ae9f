//! One hour's object: rows to Parquet bytes and back.
//!
//! zstd level 1; dictionaries for the columns that repeat (names, window bounds, counts of rare things); statistics and
//! page index on; one row group up to [`ROW_GROUP_ROWS`] rows. Besides the [`Footer`] the key-value metadata holds a hash
//! of the whole file, because Parquet itself does not notice a flipped bit, and a rewrite would make it ours.

use std::ops::Range;
use std::sync::LazyLock;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use tidegauge_core::lake::{PinnedObject, StoreError};

use crate::footer::{Footer, key_value};
use crate::row::AggregatedRow;
use crate::{SCHEMA_VERSION, schema};

/// Rows of one row group: an hour of 2,000 metrics; bounds the memory of writer and reader.
pub const ROW_GROUP_ROWS: usize = 128 << 10;

/// Key of the file's hash in the key-value metadata: `xxh3-128:` and 32 hexadecimal digits, of the file with 32 zeros in
/// their place.
pub const CHECK_KEY: &str = "tidegauge.check";

/// What stands before the digits; the last place in the file where it stands is the one that counts.
const CHECK_PREFIX: &str = "xxh3-128:";

/// Digits of the hash.
const CHECK_DIGITS: usize = 32;

/// Rows decoded at once.
const BATCH_ROWS: usize = 16 << 10;

/// What a Parquet reader fetches first: the metadata of an ordinary object is a few KiB.
const TAIL_BYTES: u64 = 64 << 10;

/// Why an object could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Not a Parquet file, or a damaged one.
    #[error("parquet: {0}")]
    Parquet(#[from] ParquetError),
    /// Arrow refused.
    #[error("arrow: {0}")]
    Arrow(#[from] ArrowError),
    /// The footer is missing or unreadable.
    #[error("footer {0}")]
    Footer(String),
    /// The bytes are not those that were written.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Written by a later version of the software, which may keep what this one would drop.
    #[error("{what} is {found}, this version knows up to {known}: upgrade before writing to it")]
    Newer {
        /// What is newer.
        what: &'static str,
        /// Its version.
        found: u32,
        /// The highest known version.
        known: u32,
    },
    /// A column that every version has is not there.
    #[error("column {column} is missing")]
    MissingColumn {
        /// The column.
        column: &'static str,
    },
    /// A column has another type.
    #[error("column {column} has the type {found}")]
    ColumnType {
        /// The column.
        column: &'static str,
        /// The type found.
        found: DataType,
    },
    /// A null where none can be.
    #[error("column {column} has a null")]
    Null {
        /// The column.
        column: &'static str,
    },
    /// A value that no writer makes.
    #[error("column {column}, row {row} of its batch: value out of range")]
    Value {
        /// The column.
        column: &'static str,
        /// The row in its batch.
        row: usize,
    },
    /// Rows out of order or twice.
    #[error("rows are not sorted by metric and window, at {0}")]
    Unsorted(String),
    /// What was to be encoded breaks the contract.
    #[error("invalid: {0}")]
    Invalid(String),
}

/// Encodes the rows of one hour of a key.
///
/// # Errors
/// [`ObjectError::Unsorted`] unless the rows are sorted by [`AggregatedRow::order`] without doubles;
/// [`ObjectError::Invalid`] for a row without events or with numbers beyond their columns' types.
pub fn encode(rows: &[AggregatedRow], footer: &Footer) -> Result<Bytes, ObjectError> {
    check_order(rows)?;
    let properties = AGGREGATED_PROPERTIES.clone().set_key_value_metadata(Some(vec![footer.to_key_value()?])).build();
    let batches = rows.chunks(ROW_GROUP_ROWS).map(schema::stored_batch);
    // A little more than what is needed: about 50 bytes a row, and the metadata of 16 columns.
    write_file(schema::stored_file(), properties, rows.len() * 64 + (8 << 10), batches)
}

/// Decodes an object wholly and checks its hash, order and version.
///
/// # Errors
/// [`ObjectError`]; [`ObjectError::Newer`] for an object whose schema this version must not rewrite.
pub fn decode(content: Bytes) -> Result<(Vec<AggregatedRow>, Footer), ObjectError> {
    check(&content)?;
    let metadata = ArrowReaderMetadata::load(&content, ArrowReaderOptions::new())?;
    let footer = Footer::of(metadata.metadata())?;
    if footer.schema_version > SCHEMA_VERSION {
        return Err(ObjectError::Newer { what: "schema version", found: footer.schema_version, known: SCHEMA_VERSION });
    }
    let known = schema::stored_file();
    let names = known.fields().iter().map(|field| field.name().as_str());
    let mask = ProjectionMask::columns(metadata.parquet_schema(), names);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(content, metadata)
        .with_batch_size(BATCH_ROWS)
        .with_projection(mask)
        .build()?;
    let mut rows = Vec::new();
    for batch in reader {
        rows.append(&mut schema::rows_of(&batch?)?);
    }
    check_order(&rows)?;
    Ok((rows, footer))
}

/// Reads the footer of a Parquet file that is open already.
///
/// # Errors
/// As [`Footer::of`].
pub fn footer_of(metadata: &ParquetMetaData) -> Result<Footer, ObjectError> {
    Footer::of(metadata)
}

/// Reads the Parquet metadata at the end of an object, without page index: one read, rarely two.
///
/// # Errors
/// The outer error is the store's, the inner one says why the content cannot be read.
pub async fn read_metadata(object: &dyn PinnedObject) -> Result<Result<ParquetMetaData, ObjectError>, StoreError> {
    const FRAME_BYTES: u64 = 8;
    let total = object.bytes();
    if total < FRAME_BYTES {
        return Ok(Err(ObjectError::Damaged(format!("{total} bytes are too few for a parquet file"))));
    }
    let tail = object.read(total.saturating_sub(TAIL_BYTES)..total).await?;
    let frame = &tail[tail.len() - FRAME_BYTES as usize..];
    if &frame[4..] != b"PAR1" {
        return Ok(Err(ObjectError::Damaged("does not end like a parquet file".to_owned())));
    }
    let length = u64::from(u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]));
    if length + FRAME_BYTES > total {
        return Ok(Err(ObjectError::Damaged(format!("metadata of {length} bytes in a file of {total}"))));
    }
    let metadata = if length + FRAME_BYTES <= tail.len() as u64 {
        let start = tail.len() - (length + FRAME_BYTES) as usize;
        tail.slice(start..start + length as usize)
    } else {
        object.read(total - FRAME_BYTES - length..total - FRAME_BYTES).await?
    };
    Ok(ParquetMetaDataReader::decode_metadata(&metadata).map_err(ObjectError::from))
}

static AGGREGATED_PROPERTIES: LazyLock<WriterPropertiesBuilder> = LazyLock::new(|| {
    let repeating = [
        schema::WINDOW_START,
        schema::WINDOW_END,
        schema::METRIC_NAME,
        schema::LATE_COUNT,
        schema::REVISION,
        schema::LAST_TIME_REST_NS,
        schema::SUM_REST,
    ];
    let sorted_by = [schema::METRIC_NAME, schema::WINDOW_START].map(|name| SortingColumn {
        column_idx: schema::stored_file().index_of(name).map_or(0, |at| at as i32),
        descending: false,
        nulls_first: false,
    });
    repeating
        .into_iter()
        .fold(properties(), |builder, name| builder.set_column_dictionary_enabled(ColumnPath::from(name), true))
        .set_sorting_columns(Some(sorted_by.to_vec()))
});

/// What all our Parquet files have in common.
pub(crate) fn properties() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_created_by(concat!("tidegauge ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
}

/// Writes batches as a Parquet file, a row group each, with its hash.
pub(crate) fn write_file(
    schema: SchemaRef,
    properties: WriterProperties,
    bytes_expected: usize,
    batches: impl Iterator<Item = Result<RecordBatch, ObjectError>>,
) -> Result<Bytes, ObjectError> {
    // The types map one to one: the embedded Arrow schema would only repeat them.
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::with_capacity(bytes_expected), schema, options)?;
    for batch in batches {
        writer.write(&batch?)?;
        writer.flush()?;
    }
    let placeholder = format!("{CHECK_PREFIX}{}", "0".repeat(CHECK_DIGITS));
    writer.append_key_value_metadata(KeyValue::new(CHECK_KEY.to_owned(), placeholder));
    let mut content = writer.into_inner()?;
    let digits =
        check_place(&content).ok_or_else(|| ObjectError::Invalid("the file has no place for its hash".to_owned()))?;
    let check = check_of(&content, &digits);
    content[digits].copy_from_slice(check.as_bytes());
    Ok(content.into())
}

/// Compares a whole file with its hash, before or after it is parsed.
///
/// # Errors
/// [`ObjectError::Damaged`] when they differ, [`ObjectError::Footer`] when there is no hash.
pub fn check(content: &[u8]) -> Result<(), ObjectError> {
    let digits = check_place(content).ok_or_else(|| ObjectError::Footer(format!("has no {CHECK_KEY}")))?;
    let found = check_of(content, &digits);
    if content[digits.clone()] == *found.as_bytes() {
        return Ok(());
    }
    let expected = String::from_utf8_lossy(&content[digits]).into_owned();
    Err(ObjectError::Damaged(format!("its hash is {found}, {expected} was written")))
}

/// [`check`] for a file that is open already.
///
/// # Errors
/// As [`check`].
pub fn check_data(content: &[u8], metadata: &ParquetMetaData) -> Result<(), ObjectError> {
    match key_value(metadata, CHECK_KEY) {
        Some(_) => check(content),
        None => Err(ObjectError::Footer(format!("has no {CHECK_KEY}"))),
    }
}

/// Where the digits of the hash stand. The key-value metadata is among the last things in a file.
fn check_place(content: &[u8]) -> Option<Range<usize>> {
    let prefix = CHECK_PREFIX.as_bytes();
    let start = content.windows(prefix.len()).rposition(|window| window == prefix)? + prefix.len();
    (start + CHECK_DIGITS <= content.len()).then_some(start..start + CHECK_DIGITS)
}

fn check_of(content: &[u8], digits: &Range<usize>) -> String {
    let mut hasher = twox_hash::XxHash3_128::new();
    hasher.write(&content[..digits.start]);
    hasher.write(&[b'0'; CHECK_DIGITS]);
    hasher.write(&content[digits.end..]);
    format!("{:032x}", hasher.finish_128())
}

fn check_order(rows: &[AggregatedRow]) -> Result<(), ObjectError> {
    match rows.windows(2).find(|pair| pair[0].order() >= pair[1].order()) {
        Some(pair) => Err(ObjectError::Unsorted(format!("{:?}", pair[1].order()))),
        None => Ok(()),
    }
}
