//! What the server refuses to start with.

use tidegauge_core::Permission::{self, Public, Query, Read};
use tidegauge_rpc::{Mount, ServerOptions, StartError, TlsFiles};

use crate::world::{HOT, World, listener};

type Permissions = &'static [(&'static str, Permission)];

/// Proves that a server with exactly the declared permissions starts, and that removing any single one of them stops
/// the start and names the method.
#[tokio::test]
async fn a_method_without_a_permission_stops_the_start() {
    let world = World::new();
    world.try_start(HOT).await.unwrap();
    for (left_out, (name, _)) in HOT.iter().enumerate() {
        let rest: Vec<_> = HOT.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, one)| *one).collect();
        let error = world.try_start(rest.leak()).await.expect_err(name);
        let path = format!("/tidegauge.hotmetric.v1.HotMetricService/{name}");
        assert!(matches!(&error, StartError::UndeclaredMethod { method } if *method == path), "{error}");
    }
}

/// Proves that permissions beyond the contract, double ones, public ones and double mounts stop the start too.
#[tokio::test]
async fn other_wrong_declarations_stop_the_start() {
    let world = World::new();
    let more: Permissions = [HOT, &[("DropTable", Read)]].concat().leak();
    assert!(matches!(world.try_start(more).await, Err(StartError::UnknownMethod { .. })));
    let twice: Permissions = [HOT, &[("GetMetric", Query)]].concat().leak();
    assert!(matches!(world.try_start(twice).await, Err(StartError::DeclaredTwice { .. })));
    let public: Permissions = [&[("GetMetric", Public)], &HOT[1..]].concat().leak();
    assert!(matches!(world.try_start(public).await, Err(StartError::PublicMethod { .. })));
    let mounts = || Mount::new(world.probe.hot(), HOT);
    let result = world.builder(ServerOptions::default()).mount(mounts()).mount(mounts()).serve(listener().await);
    assert!(matches!(result, Err(StartError::MountedTwice { .. })));
}

/// Proves that plaintext stays on loopback unless the operator says otherwise, and that a broken identity is named.
#[tokio::test]
async fn plaintext_and_broken_tls_stop_the_start() {
    let world = World::new();
    let anywhere = || async { tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap() };
    let refused = world.builder(ServerOptions::default()).serve(anywhere().await);
    assert!(matches!(refused, Err(StartError::Plaintext { addr }) if addr.ip().is_unspecified()));
    let insecure = ServerOptions { insecure_plaintext: true, ..ServerOptions::default() };
    world.builder(insecure).serve(anywhere().await).unwrap();

    let certificate = world.folder.path().join("certificate.pem");
    std::fs::write(&certificate, "not PEM").unwrap();
    let tls = Some(TlsFiles { certificate: certificate.clone(), key: certificate.clone() });
    let broken = world.builder(ServerOptions { tls, ..ServerOptions::default() }).serve(listener().await);
    assert!(matches!(broken, Err(StartError::Tls { path, .. }) if path == certificate));
}
