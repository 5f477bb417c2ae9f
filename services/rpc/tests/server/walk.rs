//! Every method of the merged descriptor set with credentials that must not suffice.

use std::collections::BTreeSet;
use std::time::Duration;

use tidegauge_core::scope::Role;
use tidegauge_rpc::merged_descriptor_set;
use tidegauge_rpc::walk::{Credentials, paths, walk};

use crate::world::{HOT, SECOND_NS, UPDATE, World};

fn credentials(world: &World) -> Credentials {
    let expired = world.token_for("late", &["t1"], Role::Admin, Duration::from_secs(5));
    world.clock.advance(6 * SECOND_NS);
    let admin = world.token("admin", &["t1"], Role::Admin);
    let mut tampered = admin.clone();
    let last = tampered.pop().unwrap();
    tampered.insert(tampered.len() / 2, last);
    let key = world.key("bot", &["t1"], Role::Admin);
    let wrong_secret = format!("{}0", &key[..key.len() - 1]);
    let stranger = World::new().token("admin", &["t1"], Role::Admin);
    let bare = admin.trim_start_matches("Bearer ").to_owned();
    Credentials {
        garbage: vec![
            String::new(),
            "Bearer".into(),
            "Bearer x.y.z".into(),
            "Basic Og==".into(),
            format!("Digest {bare}"),
            bare,
            tampered,
            if wrong_secret == key { format!("{}1", &key[..key.len() - 1]) } else { wrong_secret },
            stranger,
        ],
        expired,
        writer: world.token("writer", &["t1"], Role::Writer),
        reader: world.token("reader", &["t1"], Role::Reader),
        admin,
        own_tenant: "t1".into(),
        other_tenant: "t2".into(),
    }
}

/// Proves that no method of the descriptor set can be called without a credential that covers it: nobody, garbage,
/// expired, another tenant (the same answer as one that does not exist), a role without the permission.
#[tokio::test]
async fn no_method_is_open() {
    let world = World::new();
    let credentials = credentials(&world);
    let server = world.start().await;
    let report = walk(server.channel().await, &merged_descriptor_set(), &credentials).await;
    assert!(report.findings.is_empty(), "{:#?}", report.findings);

    let ours: BTreeSet<String> = HOT
        .iter()
        .map(|(name, _)| format!("/tidegauge.hotmetric.v1.HotMetricService/{name}"))
        .chain(UPDATE.iter().map(|(name, _)| format!("/tidegauge.hotmetric.v1.HotMetricUpdateService/{name}")))
        .collect();
    let health: BTreeSet<String> =
        ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"].map(str::to_owned).into();
    let reflection: BTreeSet<String> = ["v1", "v1alpha"]
        .map(|version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"))
        .into();
    let served: BTreeSet<String> = ours.union(&health).chain(&reflection).cloned().collect();
    assert_eq!(report.served, served);
    assert_eq!(report.public.into_iter().collect::<Vec<_>>(), ["/grpc.health.v1.Health/Check"]);
    let authenticated: BTreeSet<String> =
        reflection.into_iter().chain(["/grpc.health.v1.Health/Watch".to_owned()]).collect();
    assert_eq!(report.authenticated, authenticated);
    // The set has every method there is; those of services that are not mounted are unknown here.
    let all = paths(&merged_descriptor_set());
    assert_eq!(report.absent, all.difference(&served).cloned().collect());
    assert!(all.contains("/arrow.flight.protocol.FlightService/DoGet") && report.absent.len() >= 10);
    // Only calls that were let in reached a handler: admin and reader on t1, per Read or Query method.
    assert_eq!(world.probe.reached(), 2 * HOT.len() as u64);
}
