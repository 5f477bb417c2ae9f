//! The end of a server.

use std::time::Duration;

use tidegauge_core::scope::Role;
use tidegauge_proto::hotmetric::v1::hot_metric_service_client::HotMetricServiceClient;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::world::{World, get, reason, soon, watch, with};

fn service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: name.to_owned() }
}

/// Proves that health is per service, that a watch of it needs a credential and sees changes, and that names that are
/// not there are told so.
#[tokio::test]
async fn health_is_per_service() {
    let world = World::new();
    let server = world.start().await;
    let mut health = HealthClient::new(server.channel().await);
    let hot = "tidegauge.hotmetric.v1.HotMetricService";
    for name in ["", hot, "tidegauge.hotmetric.v1.HotMetricUpdateService"] {
        let answer = health.check(service(name)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{name}");
    }
    let unknown = health.check(service("nothing")).await.unwrap_err();
    assert_eq!(reason(&unknown), (Code::NotFound, "SERVICE_UNKNOWN".into()));
    let nobody = health.watch(Request::new(service(hot))).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);

    let anyone = world.token("ann", &[], Role::Reader);
    let mut watch = health.watch(with(service(hot), &anyone, None)).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.handle.set_serving(hot, false);
    assert_eq!(soon(watch.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let whole = health.check(service("")).await.unwrap().into_inner();
    assert_eq!(whole.status(), ServingStatus::Serving);
}

/// Proves that a drain says NOT_SERVING, tells the handlers, lets a call in flight finish, ends a stubborn stream with
/// UNAVAILABLE and RetryInfo within its time, and takes no new connection.
#[tokio::test]
async fn a_drain_ends_everything_in_time() {
    let world = World::new();
    let server = world.start().await;
    let addr = server.handle.local_addr();
    let reader = world.token("reader", &["t1"], Role::Reader);
    let channel = server.channel().await;
    let mut client = HotMetricServiceClient::new(channel.clone());
    let mut polite = client.watch_metrics(with(watch("polite"), &reader, None)).await.unwrap().into_inner();
    let mut stubborn = client.watch_metrics(with(watch("stubborn"), &reader, None)).await.unwrap().into_inner();
    let mut health = HealthClient::new(channel).watch(with(service(""), &reader, None)).await.unwrap().into_inner();
    for stream in [&mut polite, &mut stubborn] {
        assert!(stream.message().await.unwrap().is_some());
    }
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    let draining = server.handle.draining();
    let drain = tokio::spawn(server.handle.drain(Duration::from_secs(2)));
    soon(draining.cancelled()).await;
    assert_eq!(soon(health.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(soon(health.message()).await.unwrap().is_none(), "a watch of health does not hold up the drain");
    assert!(soon(polite.message()).await.unwrap().is_none(), "ended by its handler, with OK");
    let ended = soon(stubborn.message()).await.unwrap_err();
    assert_eq!(reason(&ended), (Code::Unavailable, "CONNECTION_ENDING".into()));
    assert!(ended.get_details_retry_info().is_some());
    soon(drain).await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "the port is free");
}

/// Proves that a client that reads nothing holds up a drain no longer than its time, and that an idle server drains at
/// once.
#[tokio::test]
async fn a_drain_is_bounded() {
    let world = World::new();
    let server = world.start().await;
    // A connection that never speaks HTTP/2.
    let silent = tokio::net::TcpStream::connect(server.handle.local_addr()).await.unwrap();
    soon(server.handle.drain(Duration::from_millis(400))).await;
    drop(silent);

    let server = world.start().await;
    let mut client = HotMetricServiceClient::new(server.channel().await);
    client.get_metric(with(get("x"), &world.token("a", &["t1"], Role::Reader), None)).await.unwrap();
    soon(server.handle.drain(Duration::from_secs(3600))).await;
}
