//! Reading records back: whole blocks, from which payloads are sliced without copying.

use std::io;
use std::str;

use bytes::Bytes;
use tidegauge_core::Key;
use tidegauge_core::log::{LogRecord, StoreError};

use super::format::{self, Found, RECORD_HEADER_BYTES, RecordHeader};
use super::position;
use super::segment::{Segment, damaged, failed};
use super::shard::Shard;
use crate::files::read_full;

/// Bytes read at once at most: payloads keep the block alive that they were sliced from.
const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Bytes read at once at least, where there are as many.
const BLOCK_BYTES_MIN: usize = 16 << 10;

impl Shard {
    /// Reads records from `from`, at least one, none that ends after `durable`; `from` must be before `durable`.
    /// Blocks.
    pub(super) fn read_block(&self, from: u64, durable: u64, bytes_max: usize) -> Result<Vec<LogRecord>, StoreError> {
        let Some((segment, next)) = self.segment_at(from) else {
            return Err(self.passed(from));
        };
        let offset = segment.offset(from);
        let available = next.unwrap_or(durable) - from;
        let wanted = bytes_max.clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
        let mut block = self.read_bytes(&segment, from, wanted, available)?;
        let mut records: Vec<LogRecord> = Vec::new();
        let mut at = 0;
        while at < block.len() {
            let place = offset + at as u64;
            let header = match format::examine(&block[at..], from + at as u64, place) {
                Found::Record(header) => header,
                // A record that goes on behind the block, or is damaged, is the first one of the next read.
                _ if !records.is_empty() => break,
                Found::Needs(needed) if block.len() < needed && (needed as u64) <= available => {
                    block = self.read_bytes(&segment, from, needed, available)?;
                    continue;
                }
                fault => return Err(damaged(&segment.path, place, fault.fault().unwrap_or_default())),
            };
            let end = at + header.stored_bytes();
            if end > bytes_max && !records.is_empty() {
                break;
            }
            let record = slice_record(&block, at, header, position(from + end as u64), records.last());
            records.push(record.map_err(|what| damaged(&segment.path, place, &what))?);
            at = end;
        }
        Ok(records)
    }

    /// A position that is not kept any more.
    pub(super) fn passed(&self, from: u64) -> StoreError {
        let oldest = self.oldest();
        StoreError::NotFound(format!("position {from} of shard {}: the log begins at {oldest}", self.id))
    }

    fn read_bytes(&self, segment: &Segment, from: u64, wanted: usize, available: u64) -> Result<Bytes, StoreError> {
        let bytes = available.min(wanted as u64) as usize;
        let file = match &segment.active {
            Some(file) => std::sync::Arc::clone(file),
            None => match self.files.open(&segment.path) {
                Ok(file) => file,
                // Retention was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_deleted(segment.base) => {
                    return Err(self.passed(from));
                }
                Err(error) => return Err(failed("open", &segment.path, error)),
            },
        };
        let mut block = vec![0; bytes];
        let read = read_full(&*file, &mut block, segment.offset(from));
        block.truncate(read.map_err(|error| failed("read", &segment.path, error))?);
        match block.len() == bytes {
            true => Ok(block.into()),
            false => Err(damaged(&segment.path, segment.offset(from), "the file is shorter than the log")),
        }
    }
}

fn slice_record(
    block: &Bytes,
    at: usize,
    header: RecordHeader,
    position: tidegauge_core::log::Position,
    previous: Option<&LogRecord>,
) -> Result<LogRecord, String> {
    let key_at = at + RECORD_HEADER_BYTES;
    let payload_at = key_at + header.key_bytes;
    let text = str::from_utf8(&block[key_at..payload_at]).map_err(|_| "the key is not text".to_owned())?;
    let key = match previous {
        // Runs of one key share its allocation.
        Some(previous) if previous.key.bucket == 0 && previous.key.tenant.as_str() == text => previous.key.clone(),
        _ => Key::parse(text).map_err(|error| format!("the key {text:?} is not valid: {error}"))?,
    };
    Ok(LogRecord { position, key, payload: block.slice(payload_at..payload_at + header.payload_bytes) })
}
