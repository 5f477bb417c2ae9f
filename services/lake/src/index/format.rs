//! The index as JSON.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegauge_core::ids::{Epoch, Key, TenantId};
use tidegauge_core::lake::ObjectVersion;
use tidegauge_core::time::{Day, Hour};

use super::{DayIndex, IndexEntry, IndexError};
use crate::paths;

/// The format written. Read: this one and earlier ones.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    table: String,
    tenant: TenantId,
    bucket: u32,
    day: String,
    entries: Vec<StoredEntry>,
    /// xxh3-64 of this object as it is written with an empty check.
    check: String,
}

#[derive(Serialize, Deserialize)]
struct StoredEntry {
    /// Hour of the day.
    hour: u32,
    path: String,
    bytes: u64,
    rows: u64,
    epoch: Epoch,
    version: Option<String>,
}

/// Writes the index.
pub(super) fn write(index: &DayIndex) -> Bytes {
    let mut stored = Stored {
        format: FORMAT,
        table: paths::AGGREGATED.to_owned(),
        tenant: index.key.tenant.clone(),
        bucket: index.key.bucket,
        day: index.day.to_string(),
        entries: index.entries.iter().map(stored_entry).collect(),
        check: String::new(),
    };
    stored.check = check(&stored);
    to_json(&stored).into()
}

/// Reads the index that should be that of the key and day.
pub(super) fn read(path: &str, content: &[u8], key: &Key, day: Day) -> Result<DayIndex, IndexError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let damaged = |why: String| IndexError::Damaged { path: path.to_owned(), why };
    let head: Head = serde_json::from_slice(content).map_err(|e| damaged(e.to_string()))?;
    if head.format > FORMAT {
        return Err(IndexError::Newer { path: path.to_owned(), found: head.format, known: FORMAT });
    }
    let mut stored: Stored = serde_json::from_slice(content).map_err(|e| damaged(e.to_string()))?;
    let expected = std::mem::take(&mut stored.check);
    if check(&stored) != expected {
        return Err(damaged("its check does not fit its content".to_owned()));
    }
    if stored.table != paths::AGGREGATED || stored.tenant != key.tenant || stored.bucket != key.bucket {
        return Err(damaged(format!("it is of {} {}#{}", stored.table, stored.tenant, stored.bucket)));
    }
    if paths::parse_day(&stored.day) != Some(day) {
        return Err(damaged(format!("it is of the day {}", stored.day)));
    }
    let entries = stored.entries.into_iter().map(|entry| index_entry(entry, day)).collect();
    Ok(DayIndex { key: key.clone(), day, entries })
}

fn stored_entry(entry: &IndexEntry) -> StoredEntry {
    StoredEntry {
        hour: entry.hour.hour_of_day(),
        path: entry.path.clone(),
        bytes: entry.bytes,
        rows: entry.rows,
        epoch: entry.epoch,
        version: entry.version.as_ref().map(|version| version.0.clone()),
    }
}

fn index_entry(entry: StoredEntry, day: Day) -> IndexEntry {
    IndexEntry {
        hour: Hour(Hour::of(day.start_ns()).0 + i64::from(entry.hour)),
        path: entry.path,
        bytes: entry.bytes,
        rows: entry.rows,
        epoch: entry.epoch,
        version: entry.version.map(ObjectVersion),
    }
}

fn check(stored: &Stored) -> String {
    format!("{:016x}", twox_hash::XxHash3_64::oneshot(&to_json(stored)))
}

fn to_json(stored: &Stored) -> Vec<u8> {
    serde_json::to_vec(stored).expect("a struct of texts and numbers has a JSON form")
}
