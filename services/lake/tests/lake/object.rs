//! Objects: round trip, damage, versions, size.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};
use parquet::file::properties::WriterProperties;
use tidegauge_core::event::IndexRange;
use tidegauge_core::ids::{ShardId, TenantId};
use tidegauge_lake::dead_letter::{self, DeadLetter};
use tidegauge_lake::object::{self, CHECK_KEY, ObjectError, ROW_GROUP_ROWS, decode, encode};
use tidegauge_lake::{SCHEMA_VERSION, schema};

use crate::support::{event_row, footer, hour_rows};

/// What is encoded is decoded, to the nanosecond; the file has one row group, page indexes, statistics and the footer.
#[test]
fn objects_read_what_they_write() {
    let rows = hour_rows(20);
    let content = encode(&rows, &footer(7)).expect("encodes");
    assert_eq!(decode(content.clone()).expect("decodes"), (rows.clone(), footer(7)));

    let mut reader = ParquetMetaDataReader::new().with_page_index_policy(true.into());
    reader.try_parse(&content).expect("parses");
    let metadata = reader.finish().expect("metadata");
    assert_eq!(object::footer_of(&metadata).expect("a footer"), footer(7));
    assert_eq!(metadata.num_row_groups(), 1);
    assert!(metadata.column_index().is_some() && metadata.offset_index().is_some());
    let sorted = metadata.row_group(0).sorting_columns().expect("sorted");
    assert_eq!(sorted.iter().map(|column| column.column_idx).collect::<Vec<_>>(), [2, 0]);
    assert!(metadata.row_group(0).columns().iter().take(12).all(|column| column.statistics().is_some()));
    // 1,200 rows of 16 columns; their JSON would be about 300 bytes each.
    assert!(content.len() < 60_000, "{} bytes", content.len());

    let builder = ParquetRecordBatchReaderBuilder::try_new(content).expect("opens");
    let stored = builder.schema().clone();
    assert_eq!(stored.fields(), schema::stored_file().fields(), "without an embedded Arrow schema");
    assert_eq!(&stored.fields()[..13], &schema::aggregated_file().fields()[..]);
}

/// No rows at all, and more rows than a row group holds.
#[test]
fn small_and_large_objects() {
    assert_eq!(decode(encode(&[], &footer(1)).expect("encodes")).expect("decodes").0, []);
    let rows = hour_rows(ROW_GROUP_ROWS / 60 + 1);
    let content = encode(&rows, &footer(1)).expect("encodes");
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&content).expect("metadata");
    assert_eq!(metadata.num_row_groups(), 2);
    assert!(decode(content).expect("decodes").0 == rows);
}

/// Rows that no object can hold are refused when they are written.
#[test]
fn bad_rows_are_refused() {
    let (a, b) = (event_row(0, "a", 1.0, 0, false), event_row(1, "a", 1.0, 0, false));
    for unsorted in [vec![b.clone(), a.clone()], vec![a.clone(), a.clone()]] {
        assert!(matches!(encode(&unsorted, &footer(1)), Err(ObjectError::Unsorted(_))));
    }
    let mut empty = a.clone();
    empty.row.count = 0;
    let mut large = a;
    large.row.late = u64::MAX;
    for bad in [empty, large] {
        assert!(matches!(encode(&[bad], &footer(1)), Err(ObjectError::Invalid(_))));
    }
}

/// A file with a bit flipped in any byte is refused, and so is one that was cut anywhere.
#[test]
fn damage_is_noticed() {
    let rows = hour_rows(1);
    let content = encode(&rows, &footer(7)).expect("encodes");
    for at in 0..content.len() {
        let mut damaged = content.to_vec();
        damaged[at] ^= 1 << (at % 8);
        assert!(decode(damaged.into()).is_err(), "byte {at}");
    }
    for length in 0..content.len() {
        assert!(decode(content.slice(..length)).is_err(), "cut to {length}");
    }
}

/// A file of a later schema is not decoded: rewriting it would drop what this version does not know.
#[test]
fn a_later_schema_is_refused() {
    let mut later = footer(1);
    later.schema_version = SCHEMA_VERSION + 1;
    let content = encode(&hour_rows(1), &later).expect("encodes");
    assert!(matches!(decode(content), Err(ObjectError::Newer { found, .. }) if found == SCHEMA_VERSION + 1));
}

/// Writes a batch as a file that has a footer but lacks columns, as an older version might have left it.
fn file_of(batch: &RecordBatch) -> Bytes {
    let footer_text = r#"{"format":1,"tenant":"tenant-001","bucket":0,"lineage":"01","epoch":1,"ordinal":1,"generation":1,"schema_version":0}"#;
    let footer = KeyValue::new("tidegauge.footer".to_owned(), footer_text.to_owned());
    let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![footer])).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("writer");
    writer.write(batch).expect("writes");
    let zeros = "0".repeat(32);
    writer.append_key_value_metadata(KeyValue::new(CHECK_KEY.to_owned(), format!("xxh3-128:{zeros}")));
    let mut content = writer.into_inner().expect("closes");
    let check = format!("{:032x}", twox_hash::XxHash3_128::oneshot(&content));
    let at = content.windows(32).rposition(|window| window == zeros.as_bytes()).expect("the placeholder");
    content[at..at + 32].copy_from_slice(check.as_bytes());
    content.into()
}

/// A file without the columns that came later is read with defaults; without one that every version has it is refused.
#[test]
fn older_files_are_read() {
    let rows = hour_rows(2);
    let batch = schema::batch_of(&rows).expect("a batch");
    let without = |dropped: &[&str]| {
        let kept: Vec<usize> = (0..batch.num_columns())
            .filter(|column| !dropped.contains(&batch.schema().field(*column).name().as_str()))
            .collect();
        file_of(&batch.project(&kept).expect("projects"))
    };
    let (found, _) = decode(without(&["late_count", "revision", "sketch", "sum_value"])).expect("decodes");
    assert_eq!(found.len(), rows.len());
    for (found, row) in found.iter().zip(&rows) {
        assert_eq!((found.order(), found.row.count, found.revision), (row.order(), row.row.count, 1));
        let (sum, expected) = (found.row.sum.value(), row.row.average() * row.row.count as f64);
        assert!((sum - expected).abs() <= 1e-9 * expected.abs());
        assert_eq!(found.row.last_time_ns, row.row.last_time_ns / 1_000 * 1_000);
    }
    let missing = decode(without(&["min_value"]));
    assert!(matches!(missing, Err(ObjectError::MissingColumn { column: "min_value" })), "{missing:?}");
    assert!(matches!(decode(Bytes::from_static(b"PAR1 no parquet PAR1")), Err(ObjectError::Footer(_))));
}

/// The table's batch has the partition columns of each row's own hour.
#[test]
fn dashboard_rows_have_their_partitions() {
    let tenant = TenantId::parse("tenant-001").expect("a tenant");
    let batch = schema::dashboard_batch(&tenant, &[event_row(0, "m", 2.5, 1_999, false)]).expect("a batch");
    assert_eq!(batch.schema(), schema::dashboard_metrics());
    let part = |name: &str| batch.column_by_name(name).expect("a column").as_primitive::<Int32Type>().value(0);
    assert_eq!(["year", "month", "day", "hour"].map(part), [2026, 3, 2, 7]);
    assert_eq!(batch.column_by_name("tenant_id").expect("a column").as_string::<i32>().value(0), "tenant-001");
    let last = batch.column_by_name("last_time").expect("a column").as_primitive::<TimestampMicrosecondType>().value(0);
    assert_eq!(last, crate::support::HOUR.start_ns() / 1_000 + 1, "cut, not rounded");
    assert!(Arc::ptr_eq(&schema::dashboard_metrics(), &schema::dashboard_metrics()));
}

/// Dead letters keep bytes, reason and place.
#[test]
fn dead_letters_read_what_they_write() {
    let letter = |ordinal: u64| DeadLetter {
        tenant: (!ordinal.is_multiple_of(3)).then(|| TenantId::parse("tenant-001").expect("a tenant")),
        shard: ShardId(2),
        ordinal,
        events: ordinal + 1,
        indexes: match ordinal % 2 {
            0 => vec![IndexRange { first: 3, count: 4 }, IndexRange { first: ordinal as u32 + 9, count: 1 }],
            _ => Vec::new(),
        },
        reason: "TOO_OLD".into(),
        detail: format!("event time is {ordinal} s behind the horizon"),
        arrival_ns: 1_772_434_800_000_000_000 + ordinal as i64 * 1_000,
        payload: vec![ordinal as u8; ordinal as usize % 4 * 1_000].into(),
    };
    let letters: Vec<DeadLetter> = (0..1_500).map(letter).collect();
    let content = dead_letter::encode(&letters).expect("encodes");
    assert!(dead_letter::decode(content.clone()).expect("decodes") == letters);
    let mut damaged = content.to_vec();
    damaged[content.len() / 2] ^= 1;
    assert!(dead_letter::decode(damaged.into()).is_err());
    assert!(dead_letter::decode(encode(&[], &footer(1)).expect("encodes")).is_err(), "an object of another kind");
}

/// A row group is bounded by the bytes of its letters as well as by their number, and nothing in an object is there twice:
/// it is never much larger than what it keeps.
#[test]
fn dead_letters_stand_in_bounded_row_groups() {
    let letter = |ordinal: u64| DeadLetter {
        tenant: Some(TenantId::parse("tenant-001").expect("a tenant")),
        shard: ShardId(2),
        ordinal,
        events: 10_000,
        indexes: vec![IndexRange { first: 0, count: 10_000 }],
        reason: "TOO_OLD".into(),
        detail: String::new(),
        arrival_ns: 0,
        // Bytes that no compression makes smaller.
        payload: (0..60_000_u64)
            .map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15 ^ (ordinal << 32)) >> 56) as u8)
            .collect(),
    };
    let letters: Vec<DeadLetter> = (0..200).map(letter).collect();
    let kept: usize = letters.iter().map(|letter| letter.payload.len() + 40_000).sum();
    let content = dead_letter::encode(&letters).expect("encodes");
    assert!(content.len() < kept + kept / 20, "{} bytes for {kept}", content.len());
    let groups = ParquetRecordBatchReaderBuilder::try_new(content.clone()).expect("opens");
    let largest = groups.metadata().row_groups().iter().map(|group| group.total_byte_size()).max();
    assert!(largest.is_some_and(|bytes| bytes < 6 << 20), "{largest:?}");
    assert!(dead_letter::decode(content).expect("decodes") == letters);
}
