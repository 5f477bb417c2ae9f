//! Taking events in: verdicts, limits, errors that name field and value, deduplication.

use tempfile::TempDir;
use tidegauge_client::{Client, ClientError};
use tidegauge_core::time::SECOND_NS;
use tidegauge_proto::ingest::v1::{Event, PublishRequest, PublishResponse};
use tidegauge_tests::events::{event, live, series};
use tidegauge_tests::{Server, ServerOptions, client};
use tonic::Code;

use crate::{counted, now_ns, published};

struct Setup {
    _folder: TempDir,
    server: Server,
    client: Client,
}

async fn setup() -> Setup {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001", "tenant-002"]);
    let client = client(&server, &token, Some("tenant-001")).await;
    Setup { _folder: folder, server, client }
}

/// A request of which one event is good, and the answer to it.
async fn with_one_bad(client: &Client, sequence: u64, bad: Event) -> PublishResponse {
    let request = live(1, sequence, vec![event("good", 1.0, now_ns()), bad]);
    client.publish(request).await.unwrap_or_else(|e| panic!("a good neighbour is taken: {e}"))
}

/// Each kind of bad event is refused by itself, with field, reason and value; its neighbour is taken. Alone in its
/// request it makes the call fail with the same details.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_events_are_named_and_good_neighbours_taken() {
    let setup = setup().await;
    let now = now_ns();
    let year_9999 = {
        let mut bad = event("m", 1.0, now);
        bad.timestamp = Some(prost_types::Timestamp { seconds: 253_370_764_800, nanos: 0 });
        bad
    };
    let many_dimensions = {
        let mut bad = event("m", 1.0, now);
        bad.dimensions = (0..65).map(|i| (format!("k{i}"), "v".to_owned())).collect();
        bad
    };
    let other_tenant = Event { tenant_id: "tenant-002".to_owned(), ..event("m", 1.0, now) };
    let no_tenant = Event { tenant_id: "no-such-tenant".to_owned(), ..event("m", 1.0, now) };
    let no_time = Event { timestamp: None, ..event("m", 1.0, now) };
    let cases = [
        (event("m", f64::NAN, now), "metric_value", "NaN"),
        (event("m", f64::INFINITY, now), "metric_value", "inf"),
        (year_9999, "timestamp", "9999"),
        (no_time, "timestamp", ""),
        (event("m", 1.0, now + 3_600 * SECOND_NS), "timestamp", ""),
        (event("", 1.0, now), "metric_name", "empty"),
        (event(&"x".repeat(300), 1.0, now), "metric_name", "300"),
        (event("a\u{7}b", 1.0, now), "metric_name", ""),
        (many_dimensions, "dimensions", "65"),
        (other_tenant, "tenant_id", ""),
        (no_tenant, "tenant_id", ""),
    ];
    let mut sequence = 0;
    let mut tenant_answers = Vec::new();
    for (bad, field, value) in cases {
        sequence += 1;
        let answer = with_one_bad(&setup.client, sequence, bad.clone()).await;
        assert_eq!((answer.accepted, answer.rejected.len()), (1, 1), "{field}: {answer:?}");
        let verdict = &answer.rejected[0];
        assert_eq!(verdict.index, 1);
        assert!(verdict.field.starts_with(field), "{field}: {verdict:?}");
        assert!(verdict.message.contains(value), "{field} names {value}: {verdict:?}");
        assert!(
            !verdict.reason.is_empty() && verdict.reason.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'),
            "{verdict:?}"
        );
        if field == "tenant_id" {
            tenant_answers.push((verdict.reason.clone(), verdict.message.replace(&bad.tenant_id, "")));
        }

        sequence += 1;
        let alone = setup.client.publish(live(1, sequence, vec![bad])).await.expect_err("nothing to take");
        let said = alone.server().unwrap_or_else(|| panic!("{alone}"));
        assert_eq!(said.code, Code::InvalidArgument, "{said:?}");
        assert!(said.fields[0].field.starts_with(&format!("events[0].{field}")), "{said:?}");
        assert!(!said.reason.is_empty(), "{said:?}");
    }
    assert_eq!(tenant_answers[0], tenant_answers[1], "the answer must not tell whether a tenant exists");
    published(&setup.client).await;
    assert_eq!(counted(&setup.client).await.expect("an answer").sum, 11);
}

/// 10,000 events in one request work, as rows and again as a retry that counts nothing; one more is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_requests_and_retries() {
    let setup = setup().await;
    let request = live(1, 1, series("m", 10_000, now_ns()));
    let answer = setup.client.publish(request.clone()).await.expect("10,000 events are taken");
    assert_eq!(answer.accepted, 10_000);
    assert!(!answer.positions.is_empty());
    let again = setup.client.publish(request.clone()).await.expect("a retry is taken");
    assert!(again.duplicate_hint, "{again:?}");

    let mut more = live(1, 2, series("m", 10_001, now_ns()));
    let refused = setup.client.publish(more.clone()).await.expect_err("too many");
    assert_eq!(refused.code(), Some(Code::InvalidArgument), "{refused}");
    assert!(refused.to_string().contains("10001") || refused.to_string().contains("10,001"), "{refused}");

    // Other content under a used sequence is neither counted nor dropped: it becomes a dead letter.
    more.events.truncate(5);
    more.sequence = 1;
    setup.client.publish(more).await.expect("durable first");
    published(&setup.client).await;
    assert_eq!(counted(&setup.client).await.expect("an answer").sum, 10_000);
    let status = setup.client.status().await.expect("a status");
    let counters = status.keys[0].counters.unwrap_or_default();
    assert_eq!((counters.on_log, counters.duplicates, counters.dead), (20_005, 10_000, 5), "{counters:?}");
    drop(setup.server);
}

/// A request beyond the limit of the wire is refused with details, and the server goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_100_mb_request_is_refused() {
    use tidegauge_proto::ingest::v1::ingest_service_client::IngestServiceClient;
    use tonic_types::StatusExt as _;

    let setup = setup().await;
    let token = setup.server.token("w", "writer", &["tenant-001"]);
    let channel = tonic::transport::Endpoint::from_shared(setup.server.endpoint()).expect("an address").connect().await;
    let mut raw = IngestServiceClient::new(channel.expect("the server accepts")).max_encoding_message_size(usize::MAX);
    let mut events = series("m", 2, now_ns());
    events[1].source = "x".repeat(100 << 20);
    let mut request = tonic::Request::new(live(1, 1, events));
    let value = format!("Bearer {token}").parse().expect("a token is ASCII");
    request.metadata_mut().insert("authorization", value);
    let refused = raw.publish(request).await.expect_err("too large");
    assert!(
        matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument),
        "{refused:?}"
    );
    let info = refused.get_details_error_info();
    assert!(info.is_some_and(|info| !info.reason.is_empty()), "{refused:?}");

    let answer = setup.client.publish(live(2, 1, series("m", 3, now_ns()))).await.expect("the server goes on");
    assert_eq!(answer.accepted, 3);
}

/// Requests that can never be right name the field.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_name_the_field() {
    let setup = setup().await;
    let good = live(1, 1, series("m", 1, now_ns()));
    let cases: [(&str, PublishRequest); 4] = [
        ("mode", PublishRequest { mode: 0, ..good.clone() }),
        ("producer_id", PublishRequest { producer_id: vec![1; 5].into(), ..good.clone() }),
        ("sequence", PublishRequest { sequence: 0, ..good.clone() }),
        ("events", PublishRequest { events: Vec::new(), ..good }),
    ];
    for (field, request) in cases {
        let refused: ClientError = setup.client.publish(request).await.expect_err(field);
        let said = refused.server().expect("the server's answer");
        assert_eq!(said.code, Code::InvalidArgument, "{field}: {said:?}");
        assert!(said.fields.iter().any(|f| f.field.starts_with(field)), "{field}: {said:?}");
    }
}
