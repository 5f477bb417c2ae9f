//! Writing columns and log records from borrowed parts, arrays in bulk. The bytes are those prost would write.

use bytes::Bytes;
use tidegauge_core::event::{Dimensions, EventColumns, IndexRange, Mode, RequestId};
use tidegauge_core::ids::TenantId;

use crate::convert::batch::{FORMAT_VERSION, mode_to_proto};
use crate::ingest::v1::PublishRequest;
use crate::raw::RawPublishStreamRequest;
use crate::stream::v1 as pb;

/// Anything that is a list of key-value pairs.
pub trait PairSet {
    /// The pairs, in the order they are written.
    fn pairs(&self) -> impl Iterator<Item = (&str, &str)>;
}

impl PairSet for Dimensions {
    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs().iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl PairSet for pb::DimensionSet {
    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.dimensions.iter().map(|d| (d.key.as_str(), d.value.as_str()))
    }
}

impl PairSet for &[(&str, &str)] {
    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().copied()
    }
}

/// Parts of an `EventColumns` message. Id arrays are in the order of the dictionaries; they are left out where the
/// dictionary has at most one entry.
#[derive(Clone, Copy, Debug)]
pub struct ColumnParts<'a, T, S> {
    /// Dictionaries of texts: event types, metrics, sources, versions.
    pub texts: [&'a [T]; 4],
    /// Dimension sets.
    pub sets: &'a [S],
    /// Event times.
    pub times: &'a [i64],
    /// Values.
    pub values: &'a [f64],
    /// Ids per dictionary.
    pub ids: [&'a [u32]; 5],
}

macro_rules! parts_of {
    ($(#[$doc:meta])* $columns:ty, $set:ty, $times:ident) => {
        $(#[$doc])*
        impl<'a> From<&'a $columns> for ColumnParts<'a, String, $set> {
            fn from(columns: &'a $columns) -> Self {
                Self {
                    texts: [&columns.event_types, &columns.metrics, &columns.sources, &columns.versions],
                    sets: &columns.dimension_sets,
                    times: &columns.$times,
                    values: &columns.values,
                    ids: [
                        &columns.event_type_ids,
                        &columns.metric_ids,
                        &columns.source_ids,
                        &columns.version_ids,
                        &columns.dimension_set_ids,
                    ],
                }
            }
        }
    };
}
parts_of!(
    /// Parts of the generated type.
    pb::EventColumns, pb::DimensionSet, times_unix_nano
);
parts_of!(
    /// Parts of the core's type.
    EventColumns, Dimensions, times
);

impl<T: AsRef<str>, S: PairSet> ColumnParts<'_, T, S> {
    /// Length of the encoded message.
    pub fn encoded_len(&self) -> usize {
        let texts = self.texts.iter().flat_map(|texts| texts.iter());
        let mut bytes: usize = texts.map(|text| field_len(text.as_ref().len())).sum();
        bytes += self.sets.iter().map(|set| field_len(set_len(set))).sum::<usize>();
        bytes +=
            [self.times.len(), self.values.len()].iter().filter(|n| **n > 0).map(|n| field_len(n * 8)).sum::<usize>();
        for (at, ids) in self.ids.iter().enumerate() {
            if self.has_ids(at) {
                bytes += field_len(ids_len(ids));
            }
        }
        bytes
    }

    /// Appends the encoded message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (number, texts) in (1..).zip(self.texts) {
            for text in texts {
                put_bytes(out, number, text.as_ref().as_bytes());
            }
        }
        for set in self.sets {
            put_tag(out, 5);
            put_varint(out, set_len(set) as u64);
            for (key, value) in set.pairs() {
                put_tag(out, 1);
                put_varint(out, pair_len(key, value) as u64);
                if !key.is_empty() {
                    put_bytes(out, 1, key.as_bytes());
                }
                if !value.is_empty() {
                    put_bytes(out, 2, value.as_bytes());
                }
            }
        }
        put_words(out, 6, self.times, |time| time.to_le_bytes());
        put_words(out, 7, self.values, |value| value.to_le_bytes());
        for (at, ids) in self.ids.iter().enumerate() {
            if self.has_ids(at) {
                put_ids(out, 8 + at as u32, ids);
            }
        }
    }

    fn has_ids(&self, at: usize) -> bool {
        let entries = if at == 4 { self.sets.len() } else { self.texts[at].len() };
        entries > 1 && !self.ids[at].is_empty()
    }
}

fn pair_len(key: &str, value: &str) -> usize {
    let len = |text: &str| if text.is_empty() { 0 } else { field_len(text.len()) };
    len(key) + len(value)
}

fn set_len(set: &impl PairSet) -> usize {
    set.pairs().map(|(key, value)| field_len(pair_len(key, value))).sum()
}

fn ids_len(ids: &[u32]) -> usize {
    ids.iter().map(|id| varint_len(u64::from(*id))).sum()
}

/// Length of a length-delimited field with a number below 16.
const fn field_len(bytes: usize) -> usize {
    1 + varint_len(bytes as u64) + bytes
}

/// Length of a varint.
pub(crate) const fn varint_len(value: u64) -> usize {
    // Seven bits a byte: (bits * 9 + 73) / 64 is the quotient without a division, as protobuf's own libraries do it.
    ((63 - (value | 1).leading_zeros() as usize) * 9 + 73) / 64
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The tag of a length-delimited field.
pub(crate) fn put_tag(out: &mut Vec<u8>, number: u32) {
    put_varint(out, u64::from(number << 3 | 2));
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_words<T: Copy>(out: &mut Vec<u8>, number: u32, words: &[T], bytes: impl Fn(T) -> [u8; 8]) {
    if words.is_empty() {
        return;
    }
    put_tag(out, number);
    put_varint(out, words.len() as u64 * 8);
    let start = out.len();
    out.resize(start + words.len() * 8, 0);
    for (place, word) in out[start..].chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&bytes(*word));
    }
}

fn put_ids(out: &mut Vec<u8>, number: u32, ids: &[u32]) {
    put_tag(out, number);
    put_varint(out, ids_len(ids) as u64);
    if ids.iter().fold(0, |or, id| or | id) < 0x80 {
        out.extend(ids.iter().map(|id| *id as u8));
    } else {
        ids.iter().for_each(|id| put_varint(out, u64::from(*id)));
    }
}

/// A request of a publish stream: `head` without events, and columns.
pub fn publish_stream_request<T: AsRef<str>, S: PairSet>(
    head: &PublishRequest,
    columns: &ColumnParts<'_, T, S>,
) -> RawPublishStreamRequest {
    use prost::Message as _;

    let columns_len = columns.encoded_len();
    let request_len = head.encoded_len() + field_len(columns_len);
    let mut out = Vec::with_capacity(field_len(request_len));
    put_tag(&mut out, 1);
    put_varint(&mut out, request_len as u64);
    head.encode_raw(&mut out);
    put_tag(&mut out, 5);
    put_varint(&mut out, columns_len as u64);
    columns.encode(&mut out);
    debug_assert_eq!(out.len(), field_len(request_len), "the columns are as long as announced");
    RawPublishStreamRequest(out.into())
}

/// What a log record says beside its columns.
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader<'a> {
    /// The tenant of every event.
    pub tenant: &'a TenantId,
    /// Who sent it.
    pub request: Option<RequestId>,
    /// Indexes in the request.
    pub indexes: &'a [IndexRange],
    /// How the events take part in event time.
    pub mode: Mode,
    /// When the log took the batch, Unix nanoseconds.
    pub arrival_ns: i64,
}

impl RecordHeader<'_> {
    fn fields(&self) -> pb::EventBatch {
        let (producer_id, sequence, digest) = match self.request {
            Some(id) => (
                Bytes::copy_from_slice(&id.producer.to_bytes()),
                id.sequence,
                Bytes::copy_from_slice(&id.digest.to_be_bytes()),
            ),
            None => (Bytes::new(), 0, Bytes::new()),
        };
        pb::EventBatch {
            tenant_id: self.tenant.as_str().to_owned(),
            producer_id,
            sequence,
            indexes: self.indexes.iter().map(|r| pb::IndexRange { first: r.first, count: r.count }).collect(),
            digest,
            mode: mode_to_proto(self.mode) as i32,
            arrival_unix_nano: self.arrival_ns,
            format_version: FORMAT_VERSION,
            columns: None,
        }
    }

    /// Encodes a record around columns of `columns_len` bytes, which `columns` appends. `None`, without calling it, if
    /// the record would be longer than `bytes_max`.
    pub fn encode(&self, columns_len: usize, bytes_max: usize, columns: impl FnOnce(&mut Vec<u8>)) -> Option<Bytes> {
        use prost::Message as _;

        let header = self.fields();
        let total = header.encoded_len() + field_len(columns_len);
        if total > bytes_max {
            return None;
        }
        let mut out = Vec::with_capacity(total);
        header.encode_raw(&mut out);
        put_tag(&mut out, 9);
        put_varint(&mut out, columns_len as u64);
        columns(&mut out);
        debug_assert_eq!(out.len(), total, "the columns are as long as announced");
        Some(out.into())
    }
}
