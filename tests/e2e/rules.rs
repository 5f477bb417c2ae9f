//! The rules file: what it does not grant is refused, and a change takes effect while streams run.

use std::fmt::Write as _;
use std::fs;

use futures::StreamExt as _;
use tempfile::TempDir;
use tidegauge_tests::events::{event, live};
use tidegauge_tests::{Server, ServerOptions, client, wait};
use tonic::Code;

use crate::{counted, now_ns};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_reload_while_streams_run() {
    let folder = TempDir::new().expect("a temporary folder");
    let rules = folder.path().join("rules.csv");
    fs::write(&rules, "UserName,tenant_id\nann,tenant-001\nann,tenant-002\nbob,tenant-001\n").expect("writable");
    let options = ServerOptions::quick().set("TIDEGAUGE_AUTH_RULES_FILE", &rules.display().to_string());
    let server = Server::start(&folder.path().join("data"), &options);
    let ann_token = server.token("ann", "reader", &["tenant-001", "tenant-002", "tenant-003"]);
    let bob_token = server.token("bob", "reader", &["tenant-001"]);
    let eve_token = server.token("eve", "reader", &["tenant-001"]);
    let writer = client(&server, &server.token("bob", "writer", &["tenant-001"]), Some("tenant-001")).await;

    let refused = client(&server, &ann_token, Some("tenant-003")).await.list_metrics(1, "").await.expect_err("no rule");
    assert_eq!(refused.code(), Some(Code::PermissionDenied), "{refused}");
    let refused = client(&server, &eve_token, Some("tenant-001")).await.list_metrics(1, "").await.expect_err("no rule");
    assert!(matches!(refused.code(), Some(Code::PermissionDenied | Code::Unauthenticated)), "{refused}");

    let ann = client(&server, &ann_token, Some("tenant-001")).await;
    let bob = client(&server, &bob_token, Some("tenant-001")).await;
    let mut ann_watch = ann.watch(Vec::new()).await.expect("a watch");
    let mut bob_watch = bob.watch(Vec::new()).await.expect("a watch");
    for watch in [&mut ann_watch, &mut bob_watch] {
        watch.next().await.expect("an open stream").expect("the initial state");
    }

    // Ann loses the tenant that she watches: her stream ends, Bob's goes on.
    fs::write(&rules, "UserName,tenant_id\nann,tenant-002\nbob,tenant-001\n").expect("writable");
    let mut sequence = 0;
    wait::until("ann's stream to end", || {
        sequence += 1;
        let request = live(1, sequence, vec![event("cpu", sequence as f64, now_ns())]);
        let (writer, watch) = (&writer, &mut ann_watch);
        let step = async move {
            writer.publish(request).await.map_err(|e| e.to_string())?;
            match watch.next().await {
                Some(Err(end)) => Ok(end),
                Some(Ok(step)) => Err(format!("{step:?}")),
                None => Err("the stream ended without a status".to_owned()),
            }
        };
        futures::future::ready(futures::executor::block_on(step))
    })
    .await;
    let refused = ann.list_metrics(1, "").await.expect_err("the rule is gone");
    assert_eq!(refused.code(), Some(Code::PermissionDenied), "{refused}");
    let step = bob_watch.next().await.expect("an open stream").expect("bob still watches");
    assert!(!step.metrics.is_empty());

    // A broken file changes nothing.
    fs::write(&rules, "UserName,tenant_id\nbob,NOT A TENANT\n").expect("writable");
    tidegauge_tests::wait::until("the broken file to be read", || async {
        let log = server.log();
        if log.contains("a changed file is broken") { Ok(()) } else { Err(log) }
    })
    .await;
    writer.publish(live(2, 1, vec![event("cpu", 0.0, now_ns())])).await.expect("bob's rule stands");
    bob.list_metrics(1, "").await.expect("bob's rule stands");
}

/// A user of a thousand tenants, with the longest names there are, asks over all of them at once: what a service hands on in
/// her name is as large, and must not break at the limit of a header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_many_tenants_asks_over_all() {
    let folder = TempDir::new().expect("a temporary folder");
    let rules = folder.path().join("rules.csv");
    let tenants: Vec<String> = (0..1_000).map(|n| format!("{n:0>63}")).collect();
    let mut text = String::from("UserName,tenant_id\n");
    for tenant in &tenants {
        writeln!(text, "ann,{tenant}").expect("a string takes it");
    }
    fs::write(&rules, text).expect("writable");
    let options = ServerOptions::quick().set("TIDEGAUGE_AUTH_RULES_FILE", &rules.display().to_string());
    let server = Server::start(&folder.path().join("data"), &options);
    let writer = server.token("ann", "admin", &[]);
    for tenant in [&tenants[0], &tenants[500], &tenants[999]] {
        let writer = client(&server, &writer, Some(tenant)).await;
        writer.publish(live(1, 1, vec![event("cpu", 1.0, now_ns())])).await.expect("taken");
    }
    let reader = client(&server, &server.token("ann", "reader", &[]), None).await;
    wait::until("the events of all three tenants", || async {
        let found = counted(&reader).await.map_err(|error| error.to_string())?;
        if found.sum == 3 { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}
