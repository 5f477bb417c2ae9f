//! The raw forms against the generated types: they must accept, refuse and read the same bytes in the same way.

use std::collections::HashMap;

use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use tidegauge_core::event::{Dimensions, EventBatch, EventColumns, IndexRange, Mode, RequestId};
use tidegauge_core::ids::{Producer, TenantId};

use super::*;
use crate::convert::batch as convert;
use crate::ingest::v1::{Event, PublishRequest, PublishStreamRequest};
use crate::stream::v1 as pb;

fn short_text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-c]{1,3}", "\\PC{0,4}"]
}

fn timestamp() -> impl Strategy<Value = prost_types::Timestamp> {
    (any::<i64>(), any::<i32>()).prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos })
}

fn event() -> impl Strategy<Value = Event> {
    let names = (short_text(), short_text(), short_text(), short_text(), short_text());
    let dimensions = hash_map(short_text(), short_text(), 0..5);
    (names, proptest::option::of(timestamp()), any::<f64>(), dimensions).prop_map(
        |(names, timestamp, value, dimensions)| Event {
            tenant_id: names.0,
            event_type: names.1,
            timestamp,
            metric_name: names.2,
            metric_value: value,
            dimensions,
            source: names.3,
            version: names.4,
        },
    )
}

fn dimension_set() -> impl Strategy<Value = pb::DimensionSet> {
    vec((short_text(), short_text()), 0..4).prop_map(|pairs| pb::DimensionSet {
        dimensions: pairs.into_iter().map(|(key, value)| pb::Dimension { key, value }).collect(),
    })
}

fn columns() -> impl Strategy<Value = pb::EventColumns> {
    let texts = || vec(short_text(), 0..4);
    let ids = || vec(prop_oneof![0_u32..4, any::<u32>(), 100_u32..20_000], 0..6);
    let dictionaries = (texts(), texts(), texts(), texts(), vec(dimension_set(), 0..4));
    let arrays = (vec(any::<i64>(), 0..6), vec(any::<f64>(), 0..6), ids(), ids(), ids(), ids(), ids());
    (dictionaries, arrays).prop_map(|(dictionaries, arrays)| pb::EventColumns {
        event_types: dictionaries.0,
        metrics: dictionaries.1,
        sources: dictionaries.2,
        versions: dictionaries.3,
        dimension_sets: dictionaries.4,
        times_unix_nano: arrays.0,
        values: arrays.1,
        event_type_ids: arrays.2,
        metric_ids: arrays.3,
        source_ids: arrays.4,
        version_ids: arrays.5,
        dimension_set_ids: arrays.6,
    })
}

fn request() -> impl Strategy<Value = PublishRequest> {
    let head = (vec(any::<u8>(), 0..17), any::<u64>(), any::<i32>());
    (head, vec(event(), 0..4), proptest::option::of(columns())).prop_map(
        |((producer, sequence, mode), events, columns)| PublishRequest {
            producer_id: producer.into(),
            sequence,
            mode,
            events,
            columns,
        },
    )
}

/// A field as any encoder may write it: known numbers with right and wrong wire types, unknown ones, groups.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        any::<u64>().prop_map(|value| (0, value, Vec::new())),
        any::<[u8; 8]>().prop_map(|word| (1, 0, word.to_vec())),
        vec(any::<u8>(), 0..12).prop_map(|bytes| (2, 0, bytes)),
        vec(prop_oneof![Just(0x0A_u8), Just(0x12), Just(1), Just(b'a')], 0..8).prop_map(|bytes| (2, 0, bytes)),
        Just((3, 0, Vec::new())),
        any::<[u8; 4]>().prop_map(|word| (5, 0, word.to_vec())),
    ];
    (1_u32..15, payload).prop_map(|(number, (wire_type, value, bytes))| {
        let mut out = Vec::new();
        encode::put_varint(&mut out, u64::from(number << 3 | wire_type));
        match wire_type {
            0 => encode::put_varint(&mut out, value),
            2 => {
                encode::put_varint(&mut out, bytes.len() as u64);
                out.extend(bytes);
            }
            3 => {
                // A group with one field in it.
                out.extend([0x08, 0x01]);
                encode::put_varint(&mut out, u64::from(number << 3 | 4));
            }
            _ => out.extend(bytes),
        }
        out
    })
}

/// Bytes of a message, with further fields inserted and bytes replaced or cut off.
fn mangled(message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let cut = proptest::option::weighted(0.1, any::<prop::sample::Index>());
    (vec(field(), 0..3), message, vec(field(), 0..3), changes, cut).prop_map(
        |(before, message, after, changes, cut)| {
            let mut bytes = [before.concat(), message, after.concat()].concat();
            if !bytes.is_empty() {
                for (at, byte) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                if let Some(cut) = cut {
                    bytes.truncate(cut.index(bytes.len()));
                }
            }
            bytes
        },
    )
}

/// NaN is unequal to itself; for comparing, one number stands for all of them.
fn comparable(value: f64) -> f64 {
    if value.is_nan() { 123.456 } else { value }
}

/// The generated type, read through the raw form.
fn read_columns(message: &[u8]) -> Result<pb::EventColumns, ColumnsError> {
    let view = ColumnsView::parse(message)?;
    let owned = |at: usize| view.texts[at].iter().map(|text| (*text).to_owned()).collect();
    let ids = |dictionary| {
        let ids = view.ids(dictionary)?;
        let summary = view.id_summary(dictionary)?;
        assert_eq!(summary, IdSummary { count: ids.len(), max: ids.iter().copied().max().unwrap_or(0) });
        Ok::<_, Malformed>(ids)
    };
    let set = |at: usize| pb::DimensionSet {
        dimensions: view
            .sets
            .pairs(at)
            .iter()
            .map(|(k, v)| pb::Dimension { key: (*k).into(), value: (*v).into() })
            .collect(),
    };
    Ok(pb::EventColumns {
        event_types: owned(0),
        metrics: owned(1),
        sources: owned(2),
        versions: owned(3),
        dimension_sets: (0..view.sets.len()).map(set).collect(),
        times_unix_nano: view.times().collect(),
        values: view.values().map(comparable).collect(),
        event_type_ids: ids(Dictionary::EventTypes)?,
        metric_ids: ids(Dictionary::Metrics)?,
        source_ids: ids(Dictionary::Sources)?,
        version_ids: ids(Dictionary::Versions)?,
        dimension_set_ids: ids(Dictionary::DimensionSets)?,
    })
}

fn read_row(row: Row<'_>) -> Result<Event, Malformed> {
    let text = |bytes| Row::text(bytes).map(str::to_owned);
    let mut dimensions = HashMap::new();
    for entry in row.dimensions.entries() {
        let (key, value) = entry?;
        dimensions.insert(key.to_owned(), value.to_owned());
    }
    Ok(Event {
        tenant_id: text(row.tenant_id)?,
        event_type: text(row.event_type)?,
        timestamp: row.timestamp.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }),
        metric_name: text(row.metric_name)?,
        metric_value: comparable(row.metric_value),
        dimensions,
        source: text(row.source)?,
        version: text(row.version)?,
    })
}

fn read_request(message: &[u8]) -> Result<PublishRequest, ColumnsError> {
    let view = RequestView::parse(message)?;
    let events = view.rows().map(|row| read_row(row?)).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(events.len(), view.rows);
    Ok(PublishRequest {
        producer_id: Bytes::copy_from_slice(view.producer_id),
        sequence: view.sequence,
        mode: view.mode,
        events,
        columns: view.columns.map(|columns| read_columns(&columns)).transpose()?,
    })
}

fn comparable_columns(mut columns: pb::EventColumns) -> pb::EventColumns {
    columns.values.iter_mut().for_each(|value| *value = comparable(*value));
    columns
}

fn comparable_request(mut request: PublishRequest) -> PublishRequest {
    request.events.iter_mut().for_each(|event| event.metric_value = comparable(event.metric_value));
    request.columns = request.columns.map(comparable_columns);
    request
}

/// Time, value, texts in the order of their dictionaries, and dimensions of an event.
type PlainEvent = (i64, f64, [String; 4], Vec<(String, String)>);

/// The events that the contract says these columns hold, looked up one by one; none if they have no right shape.
fn plain_events(columns: &pb::EventColumns) -> Option<Vec<PlainEvent>> {
    let sorted = |set: &pb::DimensionSet| {
        let pairs: std::collections::BTreeMap<_, _> =
            set.dimensions.iter().map(|d| (d.key.clone(), d.value.clone())).collect();
        (pairs.len() == set.dimensions.len()).then(|| pairs.into_iter().collect::<Vec<_>>())
    };
    let sets = columns.dimension_sets.iter().map(sorted).collect::<Option<Vec<_>>>()?;
    let events = columns.times_unix_nano.len();
    let id = |ids: &[u32], entries: usize, at: usize| match ids.get(at) {
        Some(id) => Some(*id as usize),
        None => (ids.is_empty() && entries <= 1).then_some(0),
    };
    let text = |texts: &[String], ids: &[u32], may_be_absent: bool, at: usize| match texts {
        [] if may_be_absent => (id(ids, 0, at)? == 0).then(String::new),
        texts => texts.get(id(ids, texts.len(), at)?).cloned(),
    };
    let fits = |ids: &[u32]| ids.is_empty() || ids.len() == events;
    let right = columns.values.len() == events
        && fits(&columns.event_type_ids)
        && fits(&columns.metric_ids)
        && fits(&columns.source_ids)
        && fits(&columns.version_ids)
        && fits(&columns.dimension_set_ids);
    let event = |at: usize| {
        let texts = [
            text(&columns.event_types, &columns.event_type_ids, false, at)?,
            text(&columns.metrics, &columns.metric_ids, false, at)?,
            text(&columns.sources, &columns.source_ids, true, at)?,
            text(&columns.versions, &columns.version_ids, true, at)?,
        ];
        let set = id(&columns.dimension_set_ids, sets.len(), at)?;
        let set = if sets.is_empty() { (set == 0).then(Vec::new)? } else { sets.get(set)?.clone() };
        Some((columns.times_unix_nano[at], columns.values[at], texts, set))
    };
    right.then(|| (0..events).map(event).collect::<Option<Vec<_>>>())?
}

/// The events of columns that were read.
fn events_of(columns: EventColumns) -> Vec<PlainEvent> {
    let event = |at: usize| {
        let texts = [
            &columns.event_types[columns.event_type_ids[at] as usize],
            &columns.metrics[columns.metric_ids[at] as usize],
            &columns.sources[columns.source_ids[at] as usize],
            &columns.versions[columns.version_ids[at] as usize],
        ];
        let set = columns.dimension_sets[columns.dimension_set_ids[at] as usize].pairs().to_vec();
        (columns.times[at], columns.values[at], texts.map(String::clone), set)
    };
    (0..columns.len()).map(event).collect()
}

fn batch() -> impl Strategy<Value = EventBatch> {
    let texts = || vec("[a-z]{1,4}", 1..200);
    let sets = vec(hash_map("[a-z]{1,3}", "[a-z]{0,3}", 0..4), 1..200).prop_map(|sets| {
        sets.into_iter()
            .map(|s| Dimensions::from_pairs(s.into_iter().collect()).expect("keys of a map"))
            .collect::<Vec<_>>()
    });
    let events = vec((any::<i64>(), -1e9..1e9, any::<[u16; 5]>()), 1..50);
    let request = proptest::option::of((any::<[u8; 16]>(), any::<u64>(), any::<u128>()));
    ((texts(), texts(), texts(), texts(), sets), events, request, any::<bool>(), any::<i64>()).prop_map(
        |((event_types, metrics, sources, versions, dimension_sets), events, request, live, arrival_ns)| {
            let ids = |at: usize, entries: usize| {
                events.iter().map(|(_, _, ids)| u32::from(ids[at]) % entries as u32).collect::<Vec<_>>()
            };
            let columns = EventColumns {
                times: events.iter().map(|e| e.0).collect(),
                values: events.iter().map(|e| e.1).collect(),
                event_type_ids: ids(0, event_types.len()),
                metric_ids: ids(1, metrics.len()),
                source_ids: ids(2, sources.len()),
                version_ids: ids(3, versions.len()),
                dimension_set_ids: ids(4, dimension_sets.len()),
                event_types,
                metrics,
                sources,
                versions,
                dimension_sets,
            };
            EventBatch {
                tenant: TenantId::parse("tenant-001").expect("a tenant id"),
                request: request.map(|(id, sequence, digest)| RequestId {
                    producer: Producer::from_bytes(id),
                    sequence,
                    digest,
                }),
                indexes: vec![IndexRange { first: 7, count: columns.times.len() as u32 }],
                mode: if live { Mode::Live } else { Mode::Backfill },
                arrival_ns,
                columns,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn requests_are_read_as_prost_reads_them(bytes in mangled(request().prop_map(|r| r.encode_to_vec()))) {
        let expected = PublishRequest::decode(&bytes[..]).ok().map(comparable_request);
        prop_assert_eq!(read_request(&bytes).ok(), expected);
    }

    #[test]
    fn columns_are_read_as_prost_reads_them(bytes in mangled(columns().prop_map(|c| c.encode_to_vec()))) {
        let generated = pb::EventColumns::decode(&bytes[..]);
        prop_assert_eq!(read_columns(&bytes).ok(), generated.clone().ok().map(comparable_columns));

        // Bytes that count as sent say nothing more than the view.
        if let (Ok(view), Ok(generated)) = (ColumnsView::parse(&bytes), &generated) && view.is_as_sent() {
            prop_assert_eq!(generated.encoded_len() <= bytes.len(), true);
        }

        // NaN compares through the text.
        let expected = generated.ok().and_then(|columns| plain_events(&columns));
        prop_assert_eq!(format!("{:?}", batch::columns(&bytes).ok().map(events_of)), format!("{expected:?}"));
    }

    #[test]
    fn requests_of_a_stream_are_found(bytes in mangled(request().prop_map(|r| {
        PublishStreamRequest { request: Some(r) }.encode_to_vec()
    }))) {
        let expected = PublishStreamRequest::decode(&bytes[..]).ok().map(|s| comparable_request(s.request.unwrap_or_default()));
        let found = RequestView::of_stream(&bytes).ok().and_then(|request| read_request(&request).ok());
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn columns_are_written_as_prost_writes_them(mut columns in columns()) {
        let sizes = [
            columns.event_types.len(),
            columns.metrics.len(),
            columns.sources.len(),
            columns.versions.len(),
            columns.dimension_sets.len(),
        ];
        let parts = encode::ColumnParts::from(&columns);
        let mut written = Vec::new();
        parts.encode(&mut written);
        prop_assert_eq!(written.len(), parts.encoded_len());

        // What the format leaves out.
        let ids = [
            &mut columns.event_type_ids,
            &mut columns.metric_ids,
            &mut columns.source_ids,
            &mut columns.version_ids,
            &mut columns.dimension_set_ids,
        ];
        for (ids, entries) in ids.into_iter().zip(sizes) {
            if entries <= 1 {
                ids.clear();
            }
        }
        prop_assert_eq!(written, columns.encode_to_vec());
    }

    #[test]
    fn raw_messages_keep_their_bytes(bytes in vec(any::<u8>(), 0..64)) {
        let message = RawPublishRequest::decode(&bytes[..]).expect("anything is taken");
        prop_assert_eq!(&message.encode_to_vec(), &bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn records_read_what_they_write(batch in batch()) {
        let record = convert::encode(batch.clone());
        let generated = pb::EventBatch::decode(record.clone()).expect("a message");
        prop_assert_eq!(&generated.encode_to_vec()[..], &record[..], "the bytes are those prost writes");
        prop_assert_eq!(decode_batch(&record).expect("a batch"), batch);
    }
}

#[test]
fn memory_is_bounded_by_the_number_of_events() {
    let many = pb::EventColumns { metrics: vec![String::new(); 10_001], ..Default::default() };
    let found = ColumnsView::parse(&many.encode_to_vec()).map(|_| ());
    assert_eq!(found, Err(ColumnsError::TooManyEntries { field: "metrics" }));

    let dimensions = vec![pb::Dimension::default(); 100_000];
    let set = pb::EventColumns { dimension_sets: vec![pb::DimensionSet { dimensions }], ..Default::default() };
    let bytes = set.encode_to_vec();
    let view = ColumnsView::parse(&bytes).expect("the message is right");
    assert_eq!((view.sets.sent(0), view.sets.pairs(0).len()), (100_000, 65));
}
