//! Reading log records.

use std::borrow::Cow;

use tidegauge_core::event::{Dimensions, EventBatch, EventColumns, IndexRange, RequestId};
use tidegauge_core::ids::{Producer, TenantId};
use tidegauge_core::limits;

use super::columns::{ColumnsError, ColumnsView, Dictionary};
use super::wire::{Fields, Malformed, join};
use crate::convert::batch::{BatchError, FORMAT_VERSION, field, mode};

/// The fields of an encoded `EventBatch`.
#[derive(Default)]
struct Parts<'a> {
    tenant_id: &'a str,
    producer_id: &'a [u8],
    sequence: u64,
    indexes: Vec<(u32, u32)>,
    digest: &'a [u8],
    mode: i32,
    arrival_ns: i64,
    format_version: u32,
    columns: Option<Cow<'a, [u8]>>,
}

impl<'a> Parts<'a> {
    fn parse(record: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = Self::default();
        let mut fields = Fields::of(record);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => parts.tenant_id = value.text()?,
                2 => parts.producer_id = value.bytes()?,
                3 => parts.sequence = value.varint()?,
                4 => parts.indexes.push(range(value.bytes()?)?),
                5 => parts.digest = value.bytes()?,
                6 => parts.mode = value.varint()? as i32,
                7 => parts.arrival_ns = i64::from_le_bytes(value.fixed64()?),
                8 => parts.format_version = value.varint()? as u32,
                9 => join(&mut parts.columns, value.bytes()?)?,
                _ => {}
            }
        }
        Ok(parts)
    }
}

fn range(message: &[u8]) -> Result<(u32, u32), Malformed> {
    let (mut first, mut count) = (0, 0);
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => first = value.varint()? as u32,
            2 => count = value.varint()? as u32,
            _ => {}
        }
    }
    Ok((first, count))
}

/// Reads a log record; the same as [`crate::convert::batch::decode`].
///
/// # Errors
/// [`BatchError`] when it is no batch, of another version, or breaks its own rules.
pub fn decode_batch(record: &[u8]) -> Result<EventBatch, BatchError> {
    let parts = Parts::parse(record)?;
    if parts.format_version != FORMAT_VERSION {
        return Err(BatchError::Version(parts.format_version));
    }
    let tenant = TenantId::parse(parts.tenant_id).map_err(|e| field("tenant_id", e.to_string()))?;
    let request = request_id(&parts)?;
    let mode = mode(parts.mode).ok_or_else(|| field("mode", format!("{} is unknown", parts.mode)))?;
    let columns = columns(parts.columns.as_deref().unwrap_or_default())?;
    let indexes = indexes(&parts.indexes, columns.len())?;
    // Without a branch per value, so that the compiler uses vectors.
    if !columns.values.iter().fold(true, |finite, value| finite & value.is_finite()) {
        return Err(field("values", "one is not finite"));
    }
    Ok(EventBatch { tenant, request, indexes, mode, arrival_ns: parts.arrival_ns, columns })
}

fn request_id(parts: &Parts<'_>) -> Result<Option<RequestId>, BatchError> {
    if parts.producer_id.is_empty() {
        return Ok(None);
    }
    let producer = <[u8; 16]>::try_from(parts.producer_id).map_err(|_| field("producer_id", "is not 16 bytes long"))?;
    let digest = <[u8; 16]>::try_from(parts.digest).map_err(|_| field("digest", "is not 16 bytes long"))?;
    Ok(Some(RequestId {
        producer: Producer::from_bytes(producer),
        sequence: parts.sequence,
        digest: u128::from_be_bytes(digest),
    }))
}

fn indexes(ranges: &[(u32, u32)], events: usize) -> Result<Vec<IndexRange>, BatchError> {
    let mut indexes = Vec::with_capacity(ranges.len());
    let mut next = 0_u32;
    let mut covered = 0_u64;
    for (first, count) in ranges.iter().copied() {
        let end = first.checked_add(count).ok_or_else(|| field("indexes", "overflow"))?;
        if count == 0 || first < next || end as usize > limits::EVENTS_PER_REQUEST_MAX {
            return Err(field("indexes", format!("the range {first}+{count} is out of order or too large")));
        }
        next = end;
        covered += u64::from(count);
        indexes.push(IndexRange { first, count });
    }
    if covered != events as u64 {
        return Err(field("indexes", format!("cover {covered} events, but there are {events}")));
    }
    Ok(indexes)
}

/// Reads encoded columns and checks their *shape*: equal lengths, ids inside their dictionaries, unique dimension keys.
/// Left-out id arrays are filled, empty dictionaries of sources, versions and dimension sets get their empty entry. Names,
/// values and times are not checked here: that is ingest's verdict per event.
///
/// # Errors
/// [`BatchError`] with the array's name.
pub fn columns(message: &[u8]) -> Result<EventColumns, BatchError> {
    let view = ColumnsView::parse(message).map_err(|error| match error {
        ColumnsError::Malformed(malformed) => malformed.into(),
        ColumnsError::TooManyEntries { field: name } => field(name, "has too many entries"),
    })?;
    let events = view.len();
    if view.values_len() != events {
        return Err(field("values", format!("has {} entries, but there are {events} events", view.values_len())));
    }
    let mut sets = Vec::with_capacity(view.sets.len().max(1));
    for at in 0..view.sets.len() {
        if view.sets.sent(at) > limits::DIMENSIONS_MAX {
            return Err(field("dimension_sets", format!("a set has {} dimensions", view.sets.sent(at))));
        }
        let pairs = view.sets.pairs(at).iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let set = Dimensions::from_pairs(pairs.collect())
            .map_err(|key| field("dimension_sets", format!("the key {key:?} stands twice in one set")))?;
        sets.push(set);
    }
    let ids = |dictionary| ids(&view, dictionary);
    let columns = EventColumns {
        times: view.times().collect(),
        values: view.values().collect(),
        event_type_ids: ids(Dictionary::EventTypes)?,
        metric_ids: ids(Dictionary::Metrics)?,
        source_ids: ids(Dictionary::Sources)?,
        version_ids: ids(Dictionary::Versions)?,
        dimension_set_ids: ids(Dictionary::DimensionSets)?,
        event_types: owned(&view.texts[0]),
        metrics: owned(&view.texts[1]),
        sources: or_default(owned(&view.texts[2])),
        versions: or_default(owned(&view.texts[3])),
        dimension_sets: or_default(sets),
    };
    Ok(columns)
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// An empty dictionary stands for one empty entry.
fn or_default<T: Default>(entries: Vec<T>) -> Vec<T> {
    if entries.is_empty() { vec![T::default()] } else { entries }
}

/// The ids of a dictionary; left-out ones are filled.
fn ids(view: &ColumnsView<'_>, dictionary: Dictionary) -> Result<Vec<u32>, BatchError> {
    let name = dictionary.ids_field();
    let events = view.len();
    let may_be_empty = !matches!(dictionary, Dictionary::EventTypes | Dictionary::Metrics);
    let entries = match view.entries(dictionary) {
        0 if may_be_empty => 1,
        entries => entries,
    };
    let ids = view.ids(dictionary)?;
    if ids.is_empty() && entries <= 1 {
        return if entries == 0 && events > 0 {
            Err(field(name, "its dictionary is empty"))
        } else {
            Ok(vec![0; events])
        };
    }
    if ids.len() != events {
        return Err(field(name, format!("has {} entries, but there are {events} events", ids.len())));
    }
    let largest = ids.iter().copied().max().unwrap_or(0);
    if largest as usize >= entries {
        return Err(field(name, format!("holds {largest}, but its dictionary has {entries} entries")));
    }
    Ok(ids)
}
