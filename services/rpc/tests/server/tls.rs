//! TLS, and reflection over it.

use std::path::PathBuf;

use tidegauge_core::scope::Role;
use tidegauge_proto::hotmetric::v1::hot_metric_service_client::HotMetricServiceClient;
use tidegauge_rpc::{ServerOptions, TlsFiles};
use tokio_stream::StreamExt as _;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::world::{World, get, soon, with};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Proves that calls work over TLS with the configured identity, that a client which does not trust it does not
/// connect, and that plaintext gets nothing from a TLS port.
#[tokio::test]
async fn calls_work_over_tls_only() {
    let world = World::new();
    let tls = Some(TlsFiles { certificate: data("server.pem"), key: data("server.key") });
    let server = world.start_with(ServerOptions { tls, ..ServerOptions::default() }).await;
    let url = format!("https://localhost:{}", server.handle.local_addr().port());
    let ca = Certificate::from_pem(std::fs::read(data("ca.pem")).unwrap());
    let trusting = ClientTlsConfig::new().ca_certificate(ca);
    let endpoint = Endpoint::from_shared(url.clone()).unwrap();
    let channel = soon(endpoint.clone().tls_config(trusting).unwrap().connect()).await.unwrap();
    let reader = world.token("reader", &["t1"], Role::Reader);
    HotMetricServiceClient::new(channel).get_metric(with(get("x"), &reader, None)).await.unwrap();

    assert!(soon(endpoint.tls_config(ClientTlsConfig::new()).unwrap().connect()).await.is_err());
    let plain = Endpoint::from_shared(url.replace("https", "http")).unwrap().connect_lazy();
    let refused = soon(HotMetricServiceClient::new(plain).get_metric(with(get("x"), &reader, None))).await;
    assert!(refused.is_err());
    assert_eq!(world.probe.reached(), 1);
}

/// Proves that reflection lists what is served and describes every contract, Arrow Flight's included.
#[tokio::test]
async fn reflection_lists_and_describes() {
    let world = World::new();
    let server = world.start().await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let asked = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("tidegauge.hotmetric.v1.HotMetricService".into()),
        MessageRequest::FileContainingSymbol("arrow.flight.protocol.FlightService".into()),
        MessageRequest::FileContainingSymbol("grpc.reflection.v1alpha.ServerReflection".into()),
        MessageRequest::FileContainingSymbol("grpc.health.v1.Health".into()),
    ];
    let requests = asked.map(|message| ServerReflectionRequest { host: String::new(), message_request: Some(message) });
    let anyone = world.token("ann", &[], Role::Reader);
    let answers = client.server_reflection_info(with(tokio_stream::iter(requests), &anyone, None)).await.unwrap();
    let answers: Vec<ServerReflectionResponse> = answers.into_inner().map(Result::unwrap).collect().await;
    assert_eq!(answers.len(), 5);
    let Some(MessageResponse::ListServicesResponse(list)) = &answers[0].message_response else {
        panic!("{answers:?}");
    };
    let mut names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "tidegauge.hotmetric.v1.HotMetricService",
            "tidegauge.hotmetric.v1.HotMetricUpdateService",
        ]
    );
    for answer in &answers[1..] {
        assert!(matches!(answer.message_response, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
    }
}
