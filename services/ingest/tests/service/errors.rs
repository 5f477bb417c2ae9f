//! Every error names what is wrong, with `google.rpc` details.

use std::sync::Arc;
use std::time::Duration;

use tidegauge_ingest::{IngestOptions, Quota};
use tidegauge_proto::ingest::v1::{Event, PublishRequest};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::world::{NOW_NS, ScriptedLog, TENANT, World, event, rows};

/// Code, reason and the fields of an error.
fn told(status: &Status) -> (Code, String, Vec<String>) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    let fields = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    (status.code(), reason, fields.into_iter().map(|violation| violation.field).collect())
}

fn wrong(change: impl FnOnce(&mut Event)) -> Event {
    let mut wrong = event("cpu");
    change(&mut wrong);
    wrong
}

/// Issue 2, point 5: each wrong event gets the error that names it: as the error of a call that holds nothing else, and as
/// a verdict beside accepted neighbours.
#[tokio::test]
async fn wrong_events_are_named() {
    let log = ScriptedLog::open();
    let world = World::start(log.clone(), IngestOptions::default()).await;
    let mut client = world.client().await;
    let year_9999 = prost_types::Timestamp { seconds: 253_370_764_800, nanos: 0 };
    let dimensions = (0..65).map(|n| (format!("k{n}"), String::new())).collect();
    let later = prost_types::Timestamp { seconds: NOW_NS / 1_000_000_000 + 601, nanos: 0 };
    let cases = [
        (wrong(|e| e.metric_value = f64::NAN), "metric_value", "VALUE_NOT_FINITE"),
        (wrong(|e| e.timestamp = Some(year_9999)), "timestamp", "TIMESTAMP_OUT_OF_RANGE"),
        (wrong(|e| e.timestamp = Some(later)), "timestamp", "TIMESTAMP_IN_FUTURE"),
        (wrong(|e| e.timestamp = None), "timestamp", "TIMESTAMP_MISSING"),
        (wrong(|e| e.metric_name.clear()), "metric_name", "METRIC_NAME_EMPTY"),
        (wrong(|e| e.metric_name = "m".repeat(300)), "metric_name", "METRIC_NAME_TOO_LONG"),
        (wrong(|e| e.dimensions = dimensions), "dimensions", "TOO_MANY_DIMENSIONS"),
        (wrong(|e| e.tenant_id = "tenant-002".to_owned()), "tenant_id", "TENANT_MISMATCH"),
    ];
    for (wrong, field, reason) in &cases {
        let status = client.publish(rows(vec![wrong.clone()])).await.expect_err("it is refused");
        assert_eq!(told(&status), (Code::InvalidArgument, (*reason).to_owned(), vec![format!("events[0].{field}")]));
    }
    assert!(log.batches().is_empty());

    let mut events: Vec<Event> = cases.iter().map(|(wrong, ..)| wrong.clone()).collect();
    events.insert(3, event("good"));
    let answer = client.publish(rows(events)).await.unwrap().into_inner();
    let verdicts: Vec<_> = answer.rejected.iter().map(|r| (r.index, r.field.as_str(), r.reason.as_str())).collect();
    let expected: Vec<_> =
        (0..9).filter(|at| *at != 3).zip(&cases).map(|(at, (_, field, reason))| (at, *field, *reason)).collect();
    assert_eq!((answer.accepted, verdicts), (1, expected));
    let batches = log.batches();
    assert_eq!((batches.len(), batches[0].columns.metrics.as_slice()), (1, &["good".to_owned()][..]));
    assert_eq!((batches[0].indexes[0].first, batches[0].tenant.as_str()), (3, TENANT));
    assert!(answer.rejected[1].message.contains("year 9999"), "{}", answer.rejected[1].message);
}

/// Nothing in the answer to an event of another tenant tells whether that tenant exists.
#[tokio::test]
async fn a_foreign_tenant_is_not_given_away() {
    let world = World::start(ScriptedLog::open(), IngestOptions::default()).await;
    let mut client = world.client().await;
    let mut answers = Vec::new();
    for tenant in ["tenant-002", "no-such-tenant"] {
        let status = client.publish(rows(vec![wrong(|e| e.tenant_id = tenant.to_owned())])).await.expect_err("refused");
        answers.push((status.message().to_owned(), status.details().to_vec()));
    }
    assert_eq!(answers[0], answers[1]);
}

/// 10,000 events in one request work; one more, a request of 100 MB and bytes that are no request are refused by name,
/// and the connection goes on.
#[tokio::test]
async fn sizes_are_limited() {
    let log = ScriptedLog::open();
    let world = World::start(log.clone(), IngestOptions::default()).await;
    let mut client = world.client().await;
    let events: Vec<Event> = (0..10_000).map(|n| event(&format!("m{}", n % 20))).collect();
    let answer = client.publish(rows(events.clone())).await.unwrap().into_inner();
    assert_eq!((answer.accepted, log.batches().iter().map(|b| b.columns.len()).sum::<usize>()), (10_000, 10_000));

    let more = [events, vec![event("one more")]].concat();
    let status = client.publish(rows(more)).await.expect_err("too many");
    assert_eq!(told(&status), (Code::InvalidArgument, "TOO_MANY_EVENTS".to_owned(), vec!["events".to_owned()]));

    let huge = rows(vec![wrong(|e| e.source = "x".repeat(100_000_000))]);
    let status = client.publish(huge).await.expect_err("too large");
    let (code, reason, _) = told(&status);
    assert!(matches!(code, Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument), "{status:?}");
    assert!(!reason.is_empty() && status.message().contains("16777"), "{status:?}");

    assert_eq!(client.publish(rows(vec![event("cpu")])).await.unwrap().into_inner().accepted, 1);
}

/// An answer with as many verdicts as there can be, each with as long a text and field as there can be, fits what a gRPC
/// client takes when it is not told otherwise.
#[tokio::test]
async fn verdicts_fit_a_common_client() {
    const CLIENT_BYTES_MAX: usize = 4 << 20;
    let world = World::start(ScriptedLog::open(), IngestOptions::default()).await;
    let mut client = world.client().await.max_decoding_message_size(CLIENT_BYTES_MAX);
    let key = "\u{10FFFF}".repeat(200);
    let mut events = vec![wrong(|e| e.dimensions = [(key, String::new())].into()); 9_999];
    events.push(event("good"));
    let answer = client.publish(rows(events)).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.rejected.len()), (1, 9_999));
    assert!(answer.rejected[0].message.contains("800 bytes") && answer.rejected[9_998].message.is_empty());
    assert!(
        answer.rejected.iter().all(|r| r.reason == "DIMENSION_KEY_TOO_LONG" && r.field == answer.rejected[0].field)
    );
}

/// What is wrong with a request as a whole is named by field.
#[tokio::test]
async fn wrong_requests_are_named() {
    let world = World::start(ScriptedLog::open(), IngestOptions::default()).await;
    let mut client = world.client().await;
    let good = rows(vec![event("cpu")]);
    let cases = [
        (PublishRequest { mode: 0, ..good.clone() }, "mode", "MODE_UNSPECIFIED"),
        (PublishRequest { producer_id: vec![1; 3].into(), ..good.clone() }, "producer_id", "PRODUCER_ID_LENGTH"),
        (PublishRequest { producer_id: vec![1; 16].into(), ..good.clone() }, "sequence", "SEQUENCE_MISSING"),
        (PublishRequest { columns: Some(Default::default()), ..good.clone() }, "columns", "ROWS_AND_COLUMNS"),
        (PublishRequest { events: Vec::new(), ..good.clone() }, "events", "NO_EVENTS"),
    ];
    for (request, field, reason) in cases {
        let status = client.publish(request).await.expect_err(reason);
        assert_eq!(told(&status), (Code::InvalidArgument, reason.to_owned(), vec![field.to_owned()]));
    }
}

/// A request over the quota is refused with the exact time to wait, before anything is stored; after that time it passes.
#[tokio::test]
async fn quotas_are_told() {
    let log = ScriptedLog::open();
    let quota = Quota { events_per_second: 10, ..Quota::default() };
    let world = World::start(log.clone(), IngestOptions { quota, ..IngestOptions::default() }).await;
    let mut client = world.client().await;
    let four = || rows(vec![event("cpu"); 4]);
    for _ in 0..2 {
        client.publish(four()).await.unwrap();
    }
    let status = client.publish(four()).await.expect_err("the quota is used up");
    assert_eq!((told(&status).0, told(&status).1.as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    let details = status.get_error_details();
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(200)));
    let violation = &details.quota_failure().unwrap().violations[0];
    assert_eq!(
        (violation.subject.as_str(), violation.description.as_str()),
        ("tenant:tenant-001", "10 events a second")
    );
    assert_eq!(log.batches().len(), 2);

    world.clock.advance(200_000_000);
    client.publish(four()).await.unwrap();
}

/// Requests that are refused unread cost their bytes: nobody can send them without limit.
#[tokio::test]
async fn wrong_requests_are_charged() {
    let quota = Quota { bytes_per_second: 600, ..Quota::default() };
    let world = World::start(ScriptedLog::open(), IngestOptions { quota, ..IngestOptions::default() }).await;
    let mut client = world.client().await;
    let mut reasons = Vec::new();
    for _ in 0..3 {
        let modeless = PublishRequest { mode: 0, ..rows(vec![wrong(|e| e.source = "x".repeat(230))]) };
        reasons.push(told(&client.publish(modeless).await.expect_err("refused")).1);
    }
    assert_eq!(reasons, ["MODE_UNSPECIFIED", "MODE_UNSPECIFIED", "QUOTA_EXCEEDED"]);
}

/// What the log refuses is told with the time for a retry; its inner errors are not shown.
#[tokio::test]
async fn a_log_that_refuses_is_told() {
    use tidegauge_core::log::StoreError;

    let log = ScriptedLog::open();
    let world = World::start(Arc::clone(&log) as _, IngestOptions::default()).await;
    let mut client = world.client().await;
    let busy = StoreError::Busy { what: "shard 0".to_owned(), retry_after: Duration::from_millis(50) };
    let cases = [
        (busy, Code::ResourceExhausted, "QUEUE_FULL", Some(Duration::from_millis(50))),
        (StoreError::Full("x".to_owned()), Code::ResourceExhausted, "DISK_FULL", Some(Duration::from_secs(1))),
        (StoreError::Unavailable("closing".to_owned()), Code::Unavailable, "UNAVAILABLE", Some(Duration::from_secs(1))),
        (
            StoreError::Io { doing: "write secret path".to_owned(), source: std::io::ErrorKind::Other.into() },
            Code::Unavailable,
            "LOG_WRITE_FAILED",
            Some(Duration::from_secs(1)),
        ),
        (StoreError::Invalid("secret path".to_owned()), Code::Internal, "CONTRACT_BROKEN", None),
    ];
    for (failure, code, reason, retry_after) in cases {
        log.failures.lock().unwrap().push_back(Some(failure));
        let status = client.publish(rows(vec![event("cpu")])).await.expect_err(reason);
        assert_eq!((told(&status).0, told(&status).1.as_str()), (code, reason));
        let retry = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
        assert_eq!(retry, retry_after);
        assert!(!status.message().contains("secret"));
    }
}
