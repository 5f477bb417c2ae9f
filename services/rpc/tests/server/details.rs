//! Errors have `google.rpc` details, whoever made them.

use std::time::Duration;

use tidegauge_core::scope::Role;
use tidegauge_core::{ErrorKind, FieldViolation, ServiceError};
use tidegauge_proto::hotmetric::v1::BatchGetMetricsRequest;
use tidegauge_proto::hotmetric::v1::hot_metric_service_client::HotMetricServiceClient;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::world::{World, get, reason, soon, watch, with};

/// Proves that an error's fields, quota and time to retry arrive as the details of its status.
#[test]
fn a_status_has_the_details_of_its_error() {
    let fields = vec![FieldViolation {
        field: "events[17].timestamp".into(),
        reason: "TIME_TOO_EARLY",
        description: "must be after 2000".into(),
    }];
    let invalid = tidegauge_rpc::status(ServiceError::invalid_fields(fields));
    assert_eq!(reason(&invalid), (Code::InvalidArgument, "TIME_TOO_EARLY".into()));
    let violation = &invalid.get_details_bad_request().unwrap().field_violations[0];
    assert_eq!(
        (violation.field.as_str(), violation.description.as_str()),
        ("events[17].timestamp", "must be after 2000")
    );
    assert!(invalid.get_details_retry_info().is_none());

    let full = ServiceError::new(ErrorKind::ResourceExhausted, "QUOTA", "tenant t1 has no events left")
        .quota("tenant:t1", "events per second")
        .retry_after(Duration::from_millis(1500));
    let full = tidegauge_rpc::status(full);
    assert_eq!(reason(&full), (Code::ResourceExhausted, "QUOTA".into()));
    assert_eq!(full.get_details_quota_failure().unwrap().violations[0].subject, "tenant:t1");
    assert_eq!(full.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_millis(1500)));

    for kind in [ErrorKind::ResourceExhausted, ErrorKind::Unavailable] {
        let bare = ServiceError { retry_after: None, ..ServiceError::new(kind, "X", "x") };
        assert!(tidegauge_rpc::status(bare).get_details_retry_info().is_some(), "{kind:?} always says when to retry");
    }
}

/// Proves that an error fits into the 8 KiB of headers that common clients take, however much there is to say.
#[test]
fn an_error_fits_into_headers() {
    for text in ["x".repeat(100_000), "ü".repeat(50_000)] {
        let field = |at| FieldViolation { field: format!("f[{at}].{text}"), reason: "BAD", description: text.clone() };
        let error =
            ServiceError::invalid_fields((0..1_000).map(field).collect()).quota("tenant:t1", "events per second");
        let headers = tidegauge_rpc::status(error).into_http::<()>().headers().clone();
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(bytes <= 8 << 10, "{bytes} bytes");
    }
}

/// Proves that statuses made by libraries get details: at once, after a stream began, from a panic.
#[tokio::test]
async fn library_made_errors_get_details() {
    let world = World::new();
    let server = world.start().await;
    let reader = world.token("reader", &["t1"], Role::Reader);
    let mut client = HotMetricServiceClient::new(server.channel().await);

    let bare = client.get_metric(with(get("bare"), &reader, None)).await.unwrap_err();
    assert_eq!(reason(&bare), (Code::Unavailable, "UNAVAILABLE".into()));
    assert_eq!(bare.message(), "a library says so");
    assert!(bare.get_details_retry_info().is_some());

    let mut stream = client.watch_metrics(with(watch("bare"), &reader, None)).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let bare = stream.message().await.unwrap_err();
    assert_eq!(reason(&bare), (Code::ResourceExhausted, "RESOURCE_EXHAUSTED".into()));
    assert!(bare.get_details_retry_info().is_some());

    let panic = client.get_metric(with(get("panic"), &reader, None)).await.unwrap_err();
    assert_eq!(reason(&panic), (Code::Internal, "PANIC".into()));
}

/// Proves that a request of 100 MB is refused by name, with details, while it is still being sent, and that the
/// connection goes on.
#[tokio::test]
async fn a_request_of_100_mb_is_refused_cleanly() {
    let world = World::new();
    let server = world.start().await;
    let reader = world.token("reader", &["t1"], Role::Reader);
    let mut client = HotMetricServiceClient::new(server.channel().await);
    let names = || vec!["m".repeat(1_000_000); 100];
    for _ in 0..3 {
        let request = with(BatchGetMetricsRequest { metric_names: names() }, &reader, None);
        let refused = soon(client.batch_get_metrics(request)).await.unwrap_err();
        assert_eq!(reason(&refused), (Code::OutOfRange, "MESSAGE_TOO_LARGE".into()), "{refused:?}");
        assert!(refused.message().contains("16777216"), "{refused}");
        assert!(refused.get_details_retry_info().is_none(), "it would never succeed");
    }
    client.get_metric(with(get("x"), &reader, None)).await.unwrap();
    // The same from nobody: refused before a byte of it is kept.
    let refused = soon(client.batch_get_metrics(Request::new(BatchGetMetricsRequest { metric_names: names() }))).await;
    assert_eq!(reason(&refused.unwrap_err()), (Code::Unauthenticated, "CREDENTIAL_MISSING".into()));
}
