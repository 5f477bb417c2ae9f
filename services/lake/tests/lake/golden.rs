//! Persisted formats against files in `tests/golden`. A format that changes on purpose gets a new file beside the old one,
//! and the old one must still be read. `TIDEGAUGE_WRITE_GOLDEN=1` writes files that are missing.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidegauge_core::event::IndexRange;
use tidegauge_core::ids::{LineageId, ShardId};
use tidegauge_core::lake::ObjectVersion;
use tidegauge_core::time::Hour;
use tidegauge_lake::dead_letter::{self, DeadLetter};
use tidegauge_lake::index::{self, IndexEntry};
use tidegauge_lake::object::{decode, encode};
use tidegauge_lake::{Footer, paths};

use crate::support::{HOUR, MemoryStore, footer, hour_rows, tenant};

/// The golden file's content; written first if it is missing and writing is asked for.
fn golden(name: &str, now: &[u8]) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if !path.exists() && std::env::var_os("TIDEGAUGE_WRITE_GOLDEN").is_some() {
        fs::write(&path, now).expect("writes");
    }
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).into()
}

/// Paths are what they always were.
#[test]
fn paths_v1() {
    let (small, large) = (tenant("tenant-001"), tenant("a_b-c"));
    let lines = [
        paths::aggregated_object(&small, 0, HOUR),
        paths::aggregated_object(&large, 12_345, Hour(262_968)),
        paths::aggregated_prefix(&small),
        paths::aggregated_day_prefix(&small, HOUR.day()),
        paths::aggregated_index(&small, 0, HOUR.day()),
        paths::aggregated_index(&large, 7, Hour(262_968).day()),
        paths::index_prefix(&small),
        paths::dead_letter_object(Some(&small), ShardId(3), LineageId(0xabc), 17),
        paths::dead_letter_object(None, ShardId(0), LineageId(u128::MAX), u64::MAX),
        paths::dead_letter_prefix(Some(&small)),
        paths::dead_letter_prefix(None),
    ];
    let now = lines.join("\n") + "\n";
    assert_eq!(golden("paths-v1.txt", now.as_bytes()), now);
}

/// The index is written byte for byte as ever, and read.
#[tokio::test]
async fn index_v1() {
    let (store, tenant) = (MemoryStore::default(), tenant("tenant-001"));
    let entry = |hour: Hour, version: Option<&str>| IndexEntry {
        hour,
        path: paths::aggregated_object(&tenant, 0, hour),
        bytes: 51_234,
        rows: 1_200,
        epoch: 17,
        version: version.map(|version| ObjectVersion(version.to_owned())),
    };
    let entries = [entry(HOUR, Some("c822-00ff")), entry(Hour(HOUR.0 + 1), None)];
    index::update(&store, &tenant, 0, HOUR.day(), &entries).await.expect("updates");
    let path = paths::aggregated_index(&tenant, 0, HOUR.day());
    let now = store.content(&path).expect("content");
    let kept = golden("index-v1.json", &now);
    assert_eq!(kept, now);
    store.put(&path, kept);
    let read = index::load(&store, &tenant, 0, HOUR.day()).await.expect("loads").expect("an index");
    assert_eq!(read.entries, entries);
}

/// An hour object of the first version is read.
#[test]
fn hour_object_v1() {
    let rows = hour_rows(2);
    let kept = golden("hour-v1.parquet", &[]);
    assert_eq!(decode(kept.clone()).expect("decodes"), (rows, Footer { schema_version: 1, ..footer(7) }));
    let columns = ParquetRecordBatchReaderBuilder::try_new(kept).expect("opens").schema().fields().len();
    assert_eq!(columns, 14);
}

/// The second version keeps exact sums. It has the columns it had; its bytes may differ with the library.
#[test]
fn hour_object_v2() {
    let mut rows = hour_rows(2);
    [0.1, 1.7e308, 1e-300].into_iter().for_each(|value| rows[0].row.sum.add(value));
    [1.7e308, 1.7e308].into_iter().for_each(|value| rows[1].row.sum.add(value));
    rows[2].row.sum.add(1e-20);
    let now = encode(&rows, &footer(7)).expect("encodes");
    let kept = golden("hour-v2.parquet", &now);
    assert_eq!(decode(kept.clone()).expect("decodes"), (rows, footer(7)));
    let schema = |content: Bytes| {
        let builder = ParquetRecordBatchReaderBuilder::try_new(content).expect("opens");
        format!("{:#?}", builder.parquet_schema().root_schema())
    };
    assert_eq!(schema(kept.clone()), schema(now));
    let columns = ParquetRecordBatchReaderBuilder::try_new(kept).expect("opens").schema().fields().len();
    assert_eq!(columns, 16);
}

/// A dead-letter object of the second version is read.
#[test]
fn dead_letters_v2() {
    let letter = |indexes| DeadLetter {
        tenant: Some(tenant("tenant-001").id().clone()),
        shard: ShardId(1),
        ordinal: 42,
        events: 2,
        indexes,
        reason: "TOO_OLD".into(),
        detail: "event time is 25 h behind the watermark, 24 h are allowed".to_owned(),
        arrival_ns: HOUR.start_ns(),
        payload: Bytes::from_static(b"\x00bytes\xff"),
    };
    let letters = [letter(Vec::new()), letter(vec![IndexRange { first: 3, count: 2 }])];
    let now = dead_letter::encode(&letters).expect("encodes");
    assert_eq!(dead_letter::decode(golden("dead-letters-v2.parquet", &now)).expect("decodes"), letters);
}
