//! Values of the stored items: a version byte, numbers in little-endian order, then the metric's name, since a key may
//! hold only its hash.

use tidegauge_core::Sum;
use tidegauge_core::hot::{CurrentValue, HotVersion, KeyMeta, LiveWindow, StoreError, WindowRow};
use tidegauge_core::ids::MetricName;
use tidegauge_core::sum::SumParts;

/// Version of all layouts in this file and of write-ahead entries.
pub(super) const VERSION: u8 = 2;

/// What to do about damage.
pub(super) const ADVICE: &str = "move the directory away, aggregation fills an empty one from its state";

/// What is stored of a key besides its values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Known {
    pub(super) meta: KeyMeta,
    /// Whether an update has replaced all windows since the key was first seen.
    pub(super) complete: bool,
}

/// Bits of the last byte of a key's state.
const COMPLETE: u8 = 1;
const INDEX_OPEN: u8 = 2;

/// version, ordinal, push, generation, boundary, watermark, counted, pending, index version, complete and index open.
pub(super) fn encode_known(known: &Known, bytes: &mut Vec<u8>) {
    let KeyMeta { version, boundary_ns, watermark_ns, counted, pending, index_version, index_open } = &known.meta;
    bytes.push(VERSION);
    for number in [version.generation, version.ordinal, version.push] {
        bytes.extend(number.to_le_bytes());
    }
    for number in [boundary_ns, watermark_ns] {
        bytes.extend(number.to_le_bytes());
    }
    for number in [counted, pending, index_version] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.push(if known.complete { COMPLETE } else { 0 } | if *index_open { INDEX_OPEN } else { 0 });
}

/// last value, last time, updated at, count, name.
pub(super) fn encode_current(current: &CurrentValue, bytes: &mut Vec<u8>) {
    bytes.push(VERSION);
    bytes.extend(current.last_value.to_le_bytes());
    bytes.extend(current.last_time_ns.to_le_bytes());
    bytes.extend(current.updated_at_ns.to_le_bytes());
    bytes.extend(current.event_count.to_le_bytes());
    bytes.extend(current.metric.as_str().as_bytes());
}

/// end, start, count, value and low of the sum, min, max, last, last time, late, length and bytes of the sum's rest, name.
pub(super) fn encode_window(window: &LiveWindow, bytes: &mut Vec<u8>) {
    let WindowRow { count, sum, min, max, last, last_time_ns, late } = &window.row;
    let SumParts { value, low, rest } = sum.parts();
    bytes.push(VERSION);
    bytes.extend(window.end_ns.to_le_bytes());
    bytes.extend(window.start_ns.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    for number in [value, low, *min, *max, *last] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(last_time_ns.to_le_bytes());
    bytes.extend(late.to_le_bytes());
    bytes.extend((rest.len() as u16).to_le_bytes());
    bytes.extend(rest);
    bytes.extend(window.metric.as_str().as_bytes());
}

pub(super) fn encode_shards(shards: u32) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(shards.to_le_bytes());
    bytes
}

/// Reads numbers from the front of a value.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Result<Self, StoreError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(Self { rest, what }),
            Some((other, _)) => Err(StoreError::Corrupt(format!(
                "a stored {what} has the unknown version {other}; this program reads version {VERSION}"
            ))),
            None => Err(StoreError::Corrupt(format!("a stored {what} is empty"))),
        }
    }

    pub(super) fn damaged(&self) -> StoreError {
        StoreError::Corrupt(format!("a stored {} cannot be read", self.what))
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next so many bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], StoreError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(head)
    }

    /// What was not read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn u64(&mut self) -> Result<u64, StoreError> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, StoreError> {
        self.bytes().map(i64::from_le_bytes)
    }

    fn f64(&mut self) -> Result<f64, StoreError> {
        self.bytes().map(f64::from_le_bytes)
    }

    fn metric(self) -> Result<MetricName, StoreError> {
        let name = std::str::from_utf8(self.rest).ok().and_then(|text| MetricName::parse(text).ok());
        name.ok_or_else(|| self.damaged())
    }

    fn end(self) -> Result<(), StoreError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.damaged()) }
    }
}

pub(super) fn decode_known(bytes: &[u8]) -> Result<Known, StoreError> {
    let mut read = Reader::new(bytes, "key state")?;
    let version = HotVersion { generation: read.u64()?, ordinal: read.u64()?, push: read.u64()? };
    let mut meta = KeyMeta {
        version,
        boundary_ns: read.i64()?,
        watermark_ns: read.i64()?,
        counted: read.u64()?,
        pending: read.u64()?,
        index_version: read.u64()?,
        index_open: false,
    };
    let [flags] = read.bytes()?;
    read.end()?;
    meta.index_open = flags & INDEX_OPEN != 0;
    Ok(Known { meta, complete: flags & COMPLETE != 0 })
}

pub(super) fn decode_current(bytes: &[u8]) -> Result<CurrentValue, StoreError> {
    let mut read = Reader::new(bytes, "current value")?;
    Ok(CurrentValue {
        last_value: read.f64()?,
        last_time_ns: read.i64()?,
        updated_at_ns: read.i64()?,
        event_count: read.u64()?,
        metric: read.metric()?,
    })
}

pub(super) fn decode_window(bytes: &[u8]) -> Result<LiveWindow, StoreError> {
    let mut read = Reader::new(bytes, "window")?;
    let (end_ns, start_ns) = (read.i64()?, read.i64()?);
    let count = read.u64()?;
    let (value, low) = (read.f64()?, read.f64()?);
    let (min, max, last) = (read.f64()?, read.f64()?, read.f64()?);
    let (last_time_ns, late) = (read.i64()?, read.u64()?);
    let rest = usize::from(u16::from_le_bytes(read.bytes()?));
    let rest = read.take(rest)?;
    let sum = Sum::from_parts(value, low, rest).ok_or_else(|| read.damaged())?;
    let row = WindowRow { count, sum, min, max, last, last_time_ns, late };
    Ok(LiveWindow { start_ns, end_ns, row, metric: read.metric()? })
}

/// The end of a stored window, without the rest.
pub(super) fn window_end_ns(bytes: &[u8]) -> Result<i64, StoreError> {
    Reader::new(bytes, "window")?.i64()
}

pub(super) fn decode_shards(bytes: &[u8]) -> Result<u32, StoreError> {
    let mut read = Reader::new(bytes, "shard note")?;
    let shards = u32::from_le_bytes(read.bytes()?);
    read.end()?;
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> LiveWindow {
        let mut sum = Sum::from(-1.5);
        // Wider than two numbers hold: the sum has a rest.
        [1e300, 1e-300].into_iter().for_each(|value| sum.add(value));
        let row = WindowRow { count: 3, sum, min: -2.0, max: f64::MAX, last: 0.25, last_time_ns: -7, late: u64::MAX };
        LiveWindow { start_ns: 60, end_ns: 120, metric: MetricName::parse("Größe#%").expect("valid"), row }
    }

    #[test]
    fn values_are_read_back_and_cut_ones_refused() {
        let known = Known {
            meta: KeyMeta {
                version: HotVersion { generation: 1, ordinal: 2, push: 3 },
                boundary_ns: -4,
                watermark_ns: 5,
                counted: 6,
                pending: 7,
                index_version: 8,
                index_open: true,
            },
            complete: true,
        };
        let mut bytes = Vec::new();
        encode_known(&known, &mut bytes);
        assert_eq!(decode_known(&bytes).expect("reads"), known);
        let current = CurrentValue {
            metric: MetricName::parse("m").expect("valid"),
            last_value: 1.0,
            last_time_ns: 2,
            updated_at_ns: 3,
            event_count: 4,
        };
        let mut stored = Vec::new();
        encode_current(&current, &mut stored);
        assert_eq!(decode_current(&stored).expect("reads"), current);
        stored.clear();
        encode_window(&window(), &mut stored);
        assert_eq!(decode_window(&stored).expect("reads"), window());
        assert_eq!(window_end_ns(&stored).expect("reads"), 120);
        for cut in 0..bytes.len() {
            assert!(decode_known(&bytes[..cut]).is_err());
        }
        for cut in 0..=stored.len() - window().metric.as_str().len() {
            assert!(decode_window(&stored[..cut]).is_err(), "without a name it is not whole");
        }
        assert!(decode_shards(&[9, 0, 0, 0, 0]).is_err(), "unknown version");
    }

    /// Golden: stored values must not change.
    #[test]
    fn the_layout_stays() {
        let mut bytes = Vec::new();
        encode_window(&window(), &mut bytes);
        let rest = window().row.sum.parts().rest.len();
        assert!(rest > 2);
        assert_eq!(bytes.len(), 83 + rest + "Größe#%".len());
        assert_eq!(bytes[..18], [2, 120, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 3]);
    }
}
