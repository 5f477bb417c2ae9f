//! The in-memory channel.

use tidegauge_core::SystemAuthority;
use tidegauge_core::scope::Role;
use tidegauge_proto::hotmetric::v1::ApplyUpdatesRequest;
use tidegauge_proto::hotmetric::v1::hot_metric_service_client::HotMetricServiceClient;
use tidegauge_proto::hotmetric::v1::hot_metric_update_service_client::HotMetricUpdateServiceClient;
use tidegauge_rpc::{Mount, ServerOptions};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::world::{HOT, SECOND_NS, World, get, listener, reason, soon, with};

/// Proves that internal calls pass the interceptor, are counted, carry the scope of the user they are for, and need
/// both the service's permission and the user's.
#[tokio::test]
async fn internal_calls_pass_the_interceptor() {
    let world = World::new();
    let server = world.start().await;
    let authority = SystemAuthority::for_worker("historical-query");
    let internal = &server.internal;

    HotMetricServiceClient::new(internal.as_service(&authority)).get_metric(get("x")).await.unwrap();
    let scope = world.probe.last_scope();
    assert_eq!((&*scope.principal().name, scope.principal().role), ("service:historical-query", Role::Service));
    assert!(scope.tenants().is_none());
    assert_eq!(internal.calls(), 1);

    // The scope of a user, as a handler got it from outside.
    let mut outside = HotMetricServiceClient::new(server.channel().await);
    let ann = world.token("ann", &["t1", "t2", "t3"], Role::Reader);
    outside.get_metric(with(get("x"), &ann, Some("t2"))).await.unwrap();
    let ann_t2 = world.probe.last_scope();
    assert_eq!(internal.calls(), 1, "calls from outside are not internal ones");

    let mut for_ann = HotMetricServiceClient::new(internal.on_behalf_of(&authority, &ann_t2));
    for_ann.get_metric(get("x")).await.unwrap();
    assert_eq!(world.probe.last_scope(), ann_t2);
    assert_eq!(internal.calls(), 2);
    // What the user may not see, the service does not see for her.
    let mut request = tonic::Request::new(get("x"));
    request.metadata_mut().insert("x-tenant-id", "t1".parse().unwrap());
    let refused = for_ann.get_metric(request).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::PermissionDenied, "TENANT_DENIED".into()));
    // Nor does it what she may not do.
    let writer = world.token("wim", &["t1"], Role::Writer);
    let refused = outside.get_metric(with(get("x"), &writer, None)).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::PermissionDenied, "PERMISSION_MISSING".into()));
    let principal = tidegauge_core::Principal { name: "wim".into(), role: Role::Writer };
    let wim = tidegauge_core::TenantScope::granted(principal, vec![crate::world::tenant("t1")]).unwrap();
    let mut for_wim = HotMetricServiceClient::new(internal.on_behalf_of(&authority, &wim));
    let refused = for_wim.get_metric(get("x")).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::PermissionDenied, "PERMISSION_MISSING".into()));
    assert_eq!(internal.calls(), 4, "refused calls passed the interceptor and count");

    // No credential, no entry: the channel itself proves nothing. Users never call internal methods.
    let admin = world.token("root", &["*"], Role::Admin);
    let mut update = HotMetricUpdateServiceClient::new(server.channel().await);
    let request = with(tokio_stream::iter([ApplyUpdatesRequest::default()]), &admin, None);
    let refused = update.apply_updates(request).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::PermissionDenied, "PERMISSION_MISSING".into()));
}

/// Proves that a call made before the start waits for it, that a stream outlives its service token, that later calls
/// get a fresh one, and that the channel works through the drain until it is closed.
#[tokio::test]
async fn the_channel_lives_from_before_the_start_until_closed() {
    let world = World::new();
    let builder = world.builder(ServerOptions::default());
    let internal = builder.internal();
    let authority = SystemAuthority::for_worker("aggregation");
    let mut client = HotMetricServiceClient::new(internal.as_service(&authority));
    let early = tokio::spawn({
        let mut client = client.clone();
        async move { client.get_metric(get("x")).await }
    });
    tokio::task::yield_now().await;
    let updates = tidegauge_proto::hotmetric::v1::hot_metric_update_service_server::HotMetricUpdateServiceServer::new(
        world.probe.clone(),
    );
    let handle = builder
        .mount(Mount::new(world.probe.hot(), HOT))
        .mount(Mount::new(updates, crate::world::UPDATE))
        .serve(listener().await)
        .unwrap();
    soon(early).await.unwrap().unwrap();

    let (sender, receiver) = mpsc::channel(1);
    let mut pushes = HotMetricUpdateServiceClient::new(internal.as_service(&authority));
    let mut acks = pushes.apply_updates(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    for _ in 0..3 {
        sender.send(ApplyUpdatesRequest::default()).await.unwrap();
        assert!(soon(acks.message()).await.unwrap().is_some());
        world.clock.advance(100 * SECOND_NS);
        client.get_metric(get("x")).await.expect("with a fresh token");
    }

    soon(handle.drain(std::time::Duration::from_secs(5))).await;
    sender.send(ApplyUpdatesRequest::default()).await.unwrap();
    assert!(soon(acks.message()).await.unwrap().is_some(), "services finish their work with each other");
    client.get_metric(get("x")).await.unwrap();

    internal.close();
    soon(acks.message()).await.expect_err("closed");
    let gone = soon(client.get_metric(get("x"))).await.unwrap_err();
    assert_eq!(gone.code(), Code::Unavailable, "{gone:?}");
}
