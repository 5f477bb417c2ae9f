//! Verdicts over rows and columns, and the records that come of them.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use tidegauge_core::ServiceError;
use tidegauge_core::event::{EventBatch, Mode, RequestId};
use tidegauge_core::ids::{Key, Producer};
use tidegauge_proto::convert::time::timestamp;
use tidegauge_proto::ingest::v1::{Event, PublishRequest};
use tidegauge_proto::raw::{ColumnsView, RequestView, decode_batch};
use tidegauge_proto::stream::v1 as pb;

use super::super::records::{self, Labels};
use super::super::rules::Rules;
use super::super::{Accepted, columns, request, rows};
use super::oracle::{EARLIEST_NS, LATEST_NS, Logged, NOW_NS, TENANT, judge, logged};
use super::tenant;

/// A text, seldom a wrong one; `max` is its limit.
fn text(max: usize) -> impl Strategy<Value = String> {
    prop_oneof![
        20 => "[a-d]{1,2}",
        1 => Just(String::new()),
        1 => Just("ä".repeat(max / 2)),
        1 => Just("x".repeat(max + 1)),
        1 => Just("a\nb".to_owned()),
    ]
}

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![
        20 => EARLIEST_NS..=LATEST_NS,
        1 => prop::sample::select(vec![EARLIEST_NS - 1, EARLIEST_NS, LATEST_NS, LATEST_NS + 1, i64::MIN, i64::MAX]),
    ]
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![20 => -1e6..1e6, 1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, -0.0, f64::MAX])]
}

fn dimensions() -> impl Strategy<Value = HashMap<String, String>> {
    let many = |count: usize| (0..count).map(|n| (format!("k{n}"), "v".to_owned())).collect::<HashMap<_, _>>();
    prop_oneof![
        20 => proptest::collection::hash_map("[a-c]{1,2}", "[x-z]{0,2}", 0..4),
        1 => proptest::collection::hash_map(text(128), text(256), 0..4),
        1 => Just(many(64)),
        1 => Just(many(65)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let stamp = prop_oneof![
        40 => time().prop_map(|time| Some(timestamp(time))),
        1 => Just(None),
        1 => Just(Some(prost_types::Timestamp { seconds: 253_370_764_800, nanos: 0 })),
    ];
    let tenant = prop_oneof![20 => Just(""), 10 => Just(TENANT), 1 => Just("other")];
    (tenant, text(255), stamp, text(255), value(), dimensions(), prop_oneof![9 => "[s-u]?", 1 => text(255)], text(255))
        .prop_map(|(tenant, event_type, timestamp, metric_name, metric_value, dimensions, source, version)| Event {
            tenant_id: tenant.to_owned(),
            event_type,
            timestamp,
            metric_name,
            metric_value,
            dimensions,
            source,
            version,
        })
}

fn labels() -> Labels {
    Labels {
        key: Key::of(tenant(TENANT)),
        request: Some(RequestId { producer: Producer::from_bytes([7; 16]), sequence: 3, digest: 99 }),
        mode: Mode::Live,
        arrival_ns: NOW_NS,
    }
}

/// The events of all records; each record is checked against the limit and the labels.
fn read(payloads: &[Bytes], record_bytes_max: usize) -> Vec<Logged> {
    let labels = labels();
    let mut events = Vec::new();
    for payload in payloads {
        assert!(payload.len() + TENANT.len() <= record_bytes_max, "{} bytes", payload.len());
        let batch: EventBatch = decode_batch(payload).expect("what ingest writes can be read");
        assert_eq!((&batch.tenant, batch.request, batch.mode), (&labels.key.tenant, labels.request, labels.mode));
        assert_eq!(batch.arrival_ns, NOW_NS);
        events.extend(logged(&batch));
    }
    events
}

type Verdicts = (Vec<Logged>, Vec<(u32, String)>);

/// What the oracle says of events.
fn expected(events: &[Event]) -> Verdicts {
    let mut verdicts = Verdicts::default();
    for (index, event) in (0..).zip(events) {
        match judge(index, event) {
            Ok(logged) => verdicts.0.push(logged),
            Err(reason) => verdicts.1.push((index, reason)),
        }
    }
    verdicts
}

fn decide_rows(events: &[Event], record_bytes_max: usize) -> Verdicts {
    let message = PublishRequest { events: events.to_vec(), ..PublishRequest::default() }.encode_to_vec();
    let view = RequestView::parse(&message).expect("a request");
    let tenant = tenant(TENANT);
    let decision = rows::decide(&Rules::at(&tenant, NOW_NS, 5), &view).expect("rows");
    assert_eq!((decision.received as usize, view.rows), (events.len(), events.len()));
    let payloads = records::encode(&decision, &labels(), record_bytes_max).expect("every event fits");
    let accepted = read(&payloads, record_bytes_max);
    assert_eq!(decision.accepted_len() as usize, accepted.len());
    (accepted, decision.rejected.into_iter().map(|(index, refusal)| (index, refusal.reason.to_owned())).collect())
}

/// The verdicts over columns, and whether their own bytes went on.
fn decide_columns(columns: &pb::EventColumns, record_bytes_max: usize) -> Result<(Verdicts, bool), ServiceError> {
    let message = columns.encode_to_vec();
    let view = ColumnsView::parse(&message).expect("columns");
    let tenant = tenant(TENANT);
    let decision = columns::decide(&Rules::at(&tenant, NOW_NS, 5), &message, &view)?;
    let as_sent = matches!(decision.accepted, Accepted::AsSent { .. });
    let payloads = records::encode(&decision, &labels(), record_bytes_max)?;
    let accepted = read(&payloads, record_bytes_max);
    let rejected = decision.rejected.into_iter().map(|(index, refusal)| (index, refusal.reason.to_owned())).collect();
    Ok(((accepted, rejected), as_sent))
}

/// Columns of events whose dimension sets come in the given order; nothing is interned.
fn as_columns(events: &[Event], sorted: bool) -> pb::EventColumns {
    let ids: Vec<u32> = (0..events.len() as u32).collect();
    let set = |event: &Event| {
        let pairs = event.dimensions.iter();
        let mut dimensions: Vec<_> = pairs.map(|(k, v)| pb::Dimension { key: k.clone(), value: v.clone() }).collect();
        dimensions.sort_by(|a, b| if sorted { a.key.cmp(&b.key) } else { b.key.cmp(&a.key) });
        pb::DimensionSet { dimensions }
    };
    let texts = |text: fn(&Event) -> &String| events.iter().map(|event| text(event).clone()).collect();
    pb::EventColumns {
        event_types: texts(|e| &e.event_type),
        metrics: texts(|e| &e.metric_name),
        sources: texts(|e| &e.source),
        versions: texts(|e| &e.version),
        dimension_sets: events.iter().map(set).collect(),
        times_unix_nano: events
            .iter()
            .map(|e| e.timestamp.as_ref().map_or(0, |t| t.seconds * 1_000_000_000 + i64::from(t.nanos)))
            .collect(),
        values: events.iter().map(|e| e.metric_value).collect(),
        event_type_ids: ids.clone(),
        metric_ids: ids.clone(),
        source_ids: ids.clone(),
        version_ids: ids.clone(),
        dimension_set_ids: ids,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Every row gets the verdict of the plain rules, and the records hold exactly the accepted ones, in order, however
    /// they are split.
    #[test]
    fn rows(events in vec(event(), 1..60), record_bytes_max in prop_oneof![Just(1_000_000_usize), 27_000_usize..60_000]) {
        prop_assert_eq!(decide_rows(&events, record_bytes_max), expected(&events));
    }

    /// The same events as columns get the same verdicts; columns that are right and canonical go on as they came.
    #[test]
    fn the_same_as_columns(
        events in vec(event(), 1..60),
        sorted in any::<bool>(),
        record_bytes_max in prop_oneof![Just(1_000_000_usize), 27_000_usize..60_000],
    ) {
        // What columns cannot say: a tenant, a missing time, a time outside of 64 bits.
        let sayable = |event: &Event| {
            event.tenant_id != "other" && event.timestamp.as_ref().is_some_and(|t| t.seconds.abs() < 9_000_000_000)
        };
        let events: Vec<Event> = events.into_iter().filter(sayable).collect();
        prop_assume!(!events.is_empty());
        let columns = as_columns(&events, sorted);
        let (verdicts, as_sent) = decide_columns(&columns, record_bytes_max).expect("the shape is right");
        let expected = expected(&events);
        let canonical = sorted || events.iter().all(|event| event.dimensions.len() < 2);
        prop_assert_eq!(as_sent, expected.1.is_empty() && canonical);
        prop_assert_eq!(verdicts, expected);
    }
}

fn plain(metric: &str) -> Event {
    Event {
        event_type: "sample".to_owned(),
        timestamp: Some(timestamp(NOW_NS)),
        metric_name: metric.to_owned(),
        metric_value: 1.5,
        dimensions: HashMap::from([("host".to_owned(), "a".to_owned()), ("az".to_owned(), "1".to_owned())]),
        ..Event::default()
    }
}

fn fields(error: &ServiceError) -> Vec<(String, &'static str)> {
    error.fields.iter().map(|field| (field.field.clone(), field.reason)).collect()
}

/// A record made of columns as they were sent holds their very bytes.
#[test]
fn columns_stand_on_the_log_as_they_came() {
    let message = as_columns(&[plain("cpu"), plain("mem")], true).encode_to_vec();
    let view = ColumnsView::parse(&message).expect("columns");
    let tenant = tenant(TENANT);
    let decision = columns::decide(&Rules::at(&tenant, NOW_NS, 5), &message, &view).expect("right columns");
    let payloads = records::encode(&decision, &labels(), 1_000_000).expect("it fits");
    assert_eq!(payloads.len(), 1);
    assert!(payloads[0].ends_with(&message));
}

/// Columns whose events take turns with large dimension sets would need a set in every record: they are refused by name
/// before the records take many times the request's bytes; in smaller batches they pass.
#[test]
fn columns_do_not_grow_without_limit() {
    const SETS: usize = 200;
    let set = |n: usize| {
        let pairs = (0..64).map(|k| pb::Dimension { key: format!("{k:0100}"), value: format!("{n:0200}") });
        pb::DimensionSet { dimensions: pairs.collect() }
    };
    let columns = |events: usize| pb::EventColumns {
        event_types: vec!["sample".to_owned()],
        metrics: vec!["cpu".to_owned()],
        dimension_sets: (0..SETS.min(events)).map(set).collect(),
        times_unix_nano: vec![NOW_NS; events],
        values: vec![1.5; events],
        dimension_set_ids: (0..events).map(|n| (n % SETS) as u32).collect(),
        ..Default::default()
    };
    let ((accepted, _), _) = decide_columns(&columns(400), 1_000_000).expect("four to eight megabytes");
    assert_eq!(accepted.len(), 400);
    let error = decide_columns(&columns(10_000), 1_000_000).expect_err("200 megabytes");
    assert_eq!(fields(&error), [("columns".to_owned(), "COLUMNS_TOO_LARGE")]);
}

/// Arrays that do not fit together, and wrong entries that no event uses, refuse the request and are named.
#[test]
fn columns_that_do_not_fit_together_are_refused() {
    let good = as_columns(&[plain("cpu"), plain("mem")], true);
    type Change = fn(&mut pb::EventColumns);
    let cases: [(Change, &str, &str); 8] = [
        (|c| c.values.truncate(1), "columns.values", "LENGTH_MISMATCH"),
        (|c| c.metric_ids.truncate(1), "columns.metric_ids", "LENGTH_MISMATCH"),
        (|c| c.metric_ids.clear(), "columns.metric_ids", "LENGTH_MISMATCH"),
        (|c| c.metric_ids[1] = 2, "columns.metric_ids", "ID_OUT_OF_RANGE"),
        (|c| c.event_types.clear(), "columns.event_types", "DICTIONARY_EMPTY"),
        (|c| c.metrics.push(String::new()), "columns.metrics[2]", "METRIC_NAME_EMPTY"),
        (|c| c.sources.push("x".repeat(256)), "columns.sources[2]", "SOURCE_TOO_LONG"),
        (
            |c| c.dimension_sets.push(pb::DimensionSet { dimensions: vec![pb::Dimension::default()] }),
            "columns.dimension_sets[2]",
            "DIMENSION_KEY_EMPTY",
        ),
    ];
    for (change, field, reason) in cases {
        let mut columns = good.clone();
        change(&mut columns);
        let error = decide_columns(&columns, 1_000_000).expect_err(field);
        assert_eq!(fields(&error), [(field.to_owned(), reason)]);
    }
}

/// Left-out id arrays and empty dictionaries mean what the contract says; a key that stands twice refuses the events that
/// use its set.
#[test]
fn columns_may_leave_out_what_is_the_same_for_all() {
    let twin = pb::Dimension { key: "az".to_owned(), value: "2".to_owned() };
    let mut columns = as_columns(&[plain("cpu"), plain("cpu")], true);
    columns.event_types.truncate(1);
    columns.event_type_ids.clear();
    columns.sources.clear();
    columns.source_ids.clear();
    columns.dimension_sets[1].dimensions.push(twin);
    columns.dimension_sets[1].dimensions.sort_by(|a, b| a.key.cmp(&b.key));
    let ((accepted, rejected), _) = decide_columns(&columns, 1_000_000).expect("the shape is right");
    assert_eq!(accepted, expected(&[plain("cpu")]).0);
    assert_eq!(rejected, [(1, "DIMENSION_KEY_TWICE".to_owned())]);
}

/// A request that is wrong as a whole is told everything that is wrong with it.
#[test]
fn requests_are_checked_as_a_whole() {
    let good = PublishRequest {
        producer_id: vec![1; 16].into(),
        sequence: 1,
        mode: pb::Mode::Live as i32,
        events: vec![plain("cpu")],
        columns: None,
    };
    let check = |request: &PublishRequest| {
        let message = request.encode_to_vec();
        let view = RequestView::parse(&message).expect("a request");
        let columns = view.columns.as_deref().map(|c| ColumnsView::parse(c).expect("columns"));
        request::check(&view, columns.as_ref()).map_err(|error| fields(&error))
    };
    let owned = |fields: &[(&str, &'static str)]| fields.iter().map(|(f, r)| ((*f).to_owned(), *r)).collect::<Vec<_>>();
    let head = check(&good).expect("it is right");
    assert_eq!((head.events, head.mode), (1, Mode::Live));

    let wrong =
        PublishRequest { producer_id: vec![1; 15].into(), mode: 9, columns: Some(Default::default()), ..good.clone() };
    let all = [("producer_id", "PRODUCER_ID_LENGTH"), ("mode", "MODE_UNKNOWN"), ("columns", "ROWS_AND_COLUMNS")];
    assert_eq!(check(&wrong).err(), Some(owned(&all)));
    let wrong = PublishRequest { sequence: 0, mode: 0, events: Vec::new(), ..good.clone() };
    let all = [("sequence", "SEQUENCE_MISSING"), ("mode", "MODE_UNSPECIFIED"), ("events", "NO_EVENTS")];
    assert_eq!(check(&wrong).err(), Some(owned(&all)));
    let wrong = PublishRequest { events: vec![Event::default(); 10_001], ..good.clone() };
    assert_eq!(check(&wrong).err(), Some(owned(&[("events", "TOO_MANY_EVENTS")])));
    let columns = pb::EventColumns { times_unix_nano: vec![0; 10_001], ..Default::default() };
    let wrong = PublishRequest { events: Vec::new(), columns: Some(columns), ..good.clone() };
    assert_eq!(check(&wrong).err(), Some(owned(&[("columns.times_unix_nano", "TOO_MANY_EVENTS")])));
    let unnumbered =
        PublishRequest { producer_id: Bytes::new(), sequence: 0, events: vec![plain("cpu"); 10_000], ..good };
    assert!(check(&unnumbered).is_ok_and(|head| head.producer.is_none()));
}

/// The digest follows the events and nothing else.
#[test]
fn the_digest_covers_the_events_as_sent() {
    let digest = |request: &PublishRequest| {
        let message = request.encode_to_vec();
        request::digest(&RequestView::parse(&message).expect("a request"))
    };
    let rows = PublishRequest { events: vec![plain("cpu"), plain("mem")], ..PublishRequest::default() };
    let mut same = rows.clone();
    same.sequence = 9;
    same.mode = 1;
    assert_eq!(digest(&rows), digest(&same));
    let mut other = rows.clone();
    other.events[1].metric_value = 1.25;
    assert_ne!(digest(&rows), digest(&other));
    other.events.pop();
    assert_ne!(digest(&rows), digest(&other));
    let columns = PublishRequest { columns: Some(as_columns(&rows.events, true)), ..PublishRequest::default() };
    assert_ne!(digest(&rows), digest(&columns));
}

/// The year of a time that nanoseconds cannot express is named.
#[test]
fn a_year_9999_is_named() {
    let tenant = tenant(TENANT);
    let rules = Rules::at(&tenant, NOW_NS, 0);
    let told = |seconds, nanos| {
        let refusal = super::super::rules::check_timestamp(&rules, Some((seconds, nanos))).expect_err("out of range");
        (refusal.reason, refusal.message)
    };
    let (reason, message) = told(253_370_764_800, 0);
    assert_eq!(
        (reason, message.contains("9999-01-01"), message.contains("the year 9999")),
        ("TIMESTAMP_OUT_OF_RANGE", true, true)
    );
    assert!(told(i64::MAX, 0).1.contains("outside the years 1 to 9999"));
    assert!(told(0, -1).1.contains("nanos is -1"));
}
