//! Entries of write-ahead records.
//!
//! ```text
//! update  1 u8, version u8, key and state, then counts of values and windows u32 each, then these
//! hold    2 u8, version u8, shard u32, shards u32
//! ```
//! Key, state, values and windows are length u16 and what [`super::values`] makes of them (the key: its text).

use tidegauge_core::hot::{KeyUpdate, StoreError};
use tidegauge_core::ids::{Key, ShardId};

use super::values::{self, Known, Reader, VERSION};

const UPDATE: u8 = 1;
const HOLD: u8 = 2;

/// What one call changed.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Entry {
    Update(KeyUpdate),
    Hold(ShardId, u32),
}

/// Writes a value behind its length.
fn sized(bytes: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = bytes.len();
    bytes.extend([0, 0]);
    write(bytes);
    // Names have at most 255 bytes, so a value is far shorter than its length could say.
    let length = (bytes.len() - at - 2) as u16;
    bytes[at..at + 2].copy_from_slice(&length.to_le_bytes());
}

pub(super) fn encode_update(update: &KeyUpdate, bytes: &mut Vec<u8>) {
    bytes.extend([UPDATE, VERSION]);
    sized(bytes, |bytes| bytes.extend(update.key.to_string().as_bytes()));
    let state = Known { meta: update.meta.clone(), complete: update.replaces_windows };
    sized(bytes, |bytes| values::encode_known(&state, bytes));
    bytes.extend((update.currents.len() as u32).to_le_bytes());
    bytes.extend((update.windows.len() as u32).to_le_bytes());
    for current in &update.currents {
        sized(bytes, |bytes| values::encode_current(current, bytes));
    }
    for window in &update.windows {
        sized(bytes, |bytes| values::encode_window(window, bytes));
    }
}

pub(super) fn encode_hold(shard: ShardId, shards: u32, bytes: &mut Vec<u8>) {
    bytes.extend([HOLD, VERSION]);
    bytes.extend(shard.0.to_le_bytes());
    bytes.extend(shards.to_le_bytes());
}

/// Reads all entries of a record, whose checksum was found right.
pub(super) fn decode(payload: &[u8], take: &mut impl FnMut(Entry)) -> Result<(), StoreError> {
    let mut rest = payload;
    while let Some((kind, entry)) = rest.split_first() {
        let mut read = Reader::new(entry, "write-ahead entry")?;
        let entry = match *kind {
            UPDATE => Entry::Update(decode_update(&mut read)?),
            HOLD => Entry::Hold(ShardId(u32::from_le_bytes(read.bytes()?)), u32::from_le_bytes(read.bytes()?)),
            _ => return Err(read.damaged()),
        };
        rest = read.rest();
        take(entry);
    }
    Ok(())
}

fn sized_value<'a>(read: &mut Reader<'a>) -> Result<&'a [u8], StoreError> {
    let length = u16::from_le_bytes(read.bytes()?);
    read.take(usize::from(length))
}

fn decode_update(read: &mut Reader<'_>) -> Result<KeyUpdate, StoreError> {
    let key = std::str::from_utf8(sized_value(read)?).ok().and_then(|text| Key::parse(text).ok());
    let key = key.ok_or_else(|| read.damaged())?;
    let Known { meta, complete: replaces_windows } = values::decode_known(sized_value(read)?)?;
    let (currents, windows) = (u32::from_le_bytes(read.bytes()?), u32::from_le_bytes(read.bytes()?));
    let currents = (0..currents).map(|_| values::decode_current(sized_value(read)?)).collect::<Result<_, _>>()?;
    let windows = (0..windows).map(|_| values::decode_window(sized_value(read)?)).collect::<Result<_, _>>()?;
    Ok(KeyUpdate { key, meta, replaces_windows, currents, windows })
}
