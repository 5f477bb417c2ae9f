//! The durable form of a shard: entries of the checkpoint store, one keyspace per kind.
//!
//! Every value starts with its format's version. Numbers in keys are big-endian, so that entries sort by key, window,
//! block; times have their sign bit flipped for the same reason.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | [`keyspace::KEYS`] | key number | name, counters, watermark, boundary, … |
//! | [`keyspace::NAMES`] | key number, block | names of 64 series |
//! | [`keyspace::SERIES`] | key number, block | counts and last values of 64 series |
//! | [`keyspace::ROWS`], [`keyspace::WAITING`] | key number, start, block | rows of one window and 64 series |
//! | [`keyspace::PRODUCERS`] | key number, producer | floor |
//! | [`keyspace::SEQUENCES`] | key number, producer, block | 256 sequences |
//! | [`keyspace::OUTPUTS`] | key number, epoch | header of a cut; and with hour and chunk: its rows |
//! | [`keyspace::DEAD`] | epoch, key number, count | a dead letter |
//! | [`keyspace::SHARD`] | a name | window length; the epoch's decisions |

mod codec;
mod restore;
mod store;

use bytes::Bytes;
use tidegauge_core::time::Hour;

use super::cut::Outbox;

/// Keyspaces of the checkpoint store. Never reuse a number.
pub mod keyspace {
    use tidegauge_core::checkpoint::Keyspace;

    /// Meta of keys.
    pub const KEYS: Keyspace = 1;
    /// Names of series.
    pub const NAMES: Keyspace = 2;
    /// Counts of series.
    pub const SERIES: Keyspace = 3;
    /// Rows of windows that are not cut.
    pub const ROWS: Keyspace = 4;
    /// Rows of corrections and sums that wait.
    pub const WAITING: Keyspace = 5;
    /// Floors of producers.
    pub const PRODUCERS: Keyspace = 6;
    /// Sequences of producers.
    pub const SEQUENCES: Keyspace = 7;
    /// Outputs on their way into the lake.
    pub const OUTPUTS: Keyspace = 8;
    /// Dead letters on their way into the lake.
    pub const DEAD: Keyspace = 9;
    /// What the shard has once.
    pub const SHARD: Keyspace = 10;
}

/// Stored state that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// An entry is not what was written.
    #[error("entry {key} of keyspace {keyspace} is damaged: {problem}")]
    Damaged {
        /// Its keyspace.
        keyspace: u8,
        /// Its key, in hexadecimal.
        key: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The state was made with another window length.
    #[error(
        "the state was made with windows of {stored_ns} ns, the setting says {wanted_ns} ns; the length cannot change"
    )]
    Window {
        /// As stored.
        stored_ns: i64,
        /// As set.
        wanted_ns: i64,
    },
}

/// Version of every value's format.
const VERSION: u8 = 2;
/// Rows of one output entry: keeps values below a megabyte.
const OUTPUT_CHUNK: usize = 8_192;
/// Name of the entry with the shard's fixed settings.
const HEAD: &[u8] = b"head";
/// Name of the entry with the decisions of the last epoch.
const DECISIONS: &[u8] = b"decisions";

fn key_number(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn block_key(number: u32, block: u32) -> Bytes {
    [number.to_be_bytes(), block.to_be_bytes()].concat().into()
}

fn row_key(number: u32, start: i64, block: u32) -> Bytes {
    let mut key = Vec::with_capacity(16);
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(&ordered(start));
    key.extend_from_slice(&block.to_be_bytes());
    key.into()
}

fn producer_key(number: u32, producer: u128) -> Bytes {
    let mut key = Vec::with_capacity(28);
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(&producer.to_be_bytes());
    key.into()
}

fn sequences_key(number: u32, producer: u128, block: u64) -> Bytes {
    let mut key = producer_key(number, producer).to_vec();
    key.extend_from_slice(&block.to_be_bytes());
    key.into()
}

fn outbox_key(number: u32, epoch: u64) -> Bytes {
    let mut key = number.to_be_bytes().to_vec();
    key.extend_from_slice(&epoch.to_be_bytes());
    key.into()
}

fn output_key(number: u32, epoch: u64, hour: Hour, chunk: u32) -> Bytes {
    let mut key = outbox_key(number, epoch).to_vec();
    key.extend_from_slice(&ordered(hour.0));
    key.extend_from_slice(&chunk.to_be_bytes());
    key.into()
}

fn dead_key(epoch: u64, number: u32, count: u32) -> Bytes {
    let mut key = epoch.to_be_bytes().to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(&count.to_be_bytes());
    key.into()
}

fn ordered(time: i64) -> [u8; 8] {
    (time.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn from_ordered(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()
}

/// Keys of all entries of an outbox.
pub(super) fn outbox_entries(number: u32, outbox: &Outbox, entries: &mut Vec<Bytes>) {
    entries.push(outbox_key(number, outbox.epoch));
    for hour in &outbox.hours {
        let chunks = hour.rows.len().div_ceil(OUTPUT_CHUNK) as u32;
        entries.extend((0..chunks).map(|chunk| output_key(number, outbox.epoch, hour.hour, chunk)));
    }
}
