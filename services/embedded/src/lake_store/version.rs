//! Versions of local objects: `<length>-<xxh3-128 of the last 64 KiB>`, both in hexadecimal.

use std::ops::Range;

use tidegauge_core::lake::{ObjectVersion, StoreError};
use twox_hash::XxHash3_128;

use super::ObjectFile;

/// Bytes at the end that are hashed: the footer of a Parquet file and more; an index object as a whole.
const TAIL_BYTES: u64 = 64 << 10;

/// Version of an object whose content is at hand.
pub(super) fn of_content(content: &[u8]) -> ObjectVersion {
    let length = content.len() as u64;
    version(length, &content[tail(length).start as usize..])
}

/// Version of an object on disk.
pub(super) fn of_file(file: &ObjectFile) -> Result<ObjectVersion, StoreError> {
    Ok(version(file.bytes, &file.read(tail(file.bytes))?))
}

fn tail(length: u64) -> Range<u64> {
    length.saturating_sub(TAIL_BYTES)..length
}

fn version(length: u64, tail: &[u8]) -> ObjectVersion {
    ObjectVersion(format!("{length:x}-{:032x}", XxHash3_128::oneshot(tail)))
}
