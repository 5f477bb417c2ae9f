//! Current values: point, batch, list, watch; running counts survive kill -9.

use futures::StreamExt as _;
use tempfile::TempDir;
use tidegauge_tests::events::{event, live, series};
use tidegauge_tests::{Server, ServerOptions, client, wait};
use tonic::Code;

use crate::now_ns;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_read_listed_and_watched() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let other = server.token("other", "admin", &["tenant-002"]);
    let ours = client(&server, &token, Some("tenant-001")).await;
    let theirs = client(&server, &other, Some("tenant-002")).await;

    let mut watch = ours.watch(vec!["cpu".to_owned()]).await.expect("a watch");
    let first = watch.next().await.expect("an open stream").expect("a step");
    assert!(first.metrics.is_empty() && first.initial_state_complete, "{first:?}");

    theirs.publish(live(9, 1, vec![event("cpu", 99.0, now_ns())])).await.expect("taken");
    ours.publish(live(1, 1, vec![event("memory", 1.0, now_ns())])).await.expect("taken");
    let now = now_ns();
    ours.publish(live(1, 2, vec![event("cpu", 7.0, now), event("cpu", 5.0, now - 1_000_000)])).await.expect("taken");
    let step = watch.next().await.expect("an open stream").expect("a step");
    assert_eq!(step.metrics.len(), 1, "{step:?}");
    let cpu = &step.metrics[0];
    assert_eq!(
        (cpu.metric_name.as_str(), cpu.last_value, cpu.event_count),
        ("cpu", 7.0, 2),
        "the latest event time wins"
    );

    let got = ours.get_metric("cpu").await.expect("cpu exists");
    assert_eq!(got.metric.as_ref(), Some(cpu));
    assert_eq!(got.freshness.expect("freshness is part of the answer").keys.len(), 1);
    let missing = ours.get_metric("no such metric").await.expect_err("it does not exist");
    assert_eq!(missing.code(), Some(Code::NotFound), "{missing}");
    assert!(missing.to_string().contains("no such metric"), "{missing}");
    let batch = ours.batch_get_metrics(vec!["memory".to_owned(), "nope".to_owned()]).await.expect("an answer");
    assert_eq!((batch.metrics.len(), batch.missing_metric_names), (1, vec!["nope".to_owned()]));

    let many: Vec<_> = (0..25).map(|i| event(&format!("m{i:02}"), f64::from(i), now_ns())).collect();
    ours.publish(live(1, 3, many)).await.expect("taken");
    wait::until("27 metrics", || async {
        let all = ours.list_metrics(1_000, "").await.map_err(|e| e.to_string())?;
        if all.metrics.len() == 27 { Ok(()) } else { Err(format!("{}", all.metrics.len())) }
    })
    .await;
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = ours.list_metrics(10, &token).await.expect("a page");
        assert!(page.metrics.len() <= 10);
        names.extend(page.metrics.into_iter().map(|m| m.metric_name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names.len(), 27);
    assert!(names.is_sorted(), "{names:?}");
    assert!(names.windows(2).all(|w| w[0] != w[1]));
    let bad = ours.list_metrics(10, "not a token").await.expect_err("a bad token");
    assert_eq!(bad.code(), Some(Code::InvalidArgument), "{bad}");
    let theirs = theirs.list_metrics(10, "").await.expect("a page");
    assert_eq!(theirs.metrics.len(), 1, "a tenant sees its own metrics only");
}

/// A watcher that does not read slows nobody and is told what it missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_is_told_what_it_missed() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("admin", "admin", &["tenant-001"]);
    let ours = client(&server, &token, Some("tenant-001")).await;
    let mut slow = ours.watch(Vec::new()).await.expect("a watch");

    // More changed bytes than all buffers between server and watcher hold: the HTTP/2 window of a stream is 8 MiB.
    let rounds = 60;
    let names: Vec<String> = (0..2_000).map(|i| format!("{}-{i:04}", "long-metric-name-".repeat(10))).collect();
    for round in 0..rounds {
        for (part, names) in names.chunks(1_000).enumerate() {
            let events = names.iter().map(|n| event(n, f64::from(round), now_ns())).collect();
            let sequence = u64::from(round as u32) * 2 + part as u64 + 1;
            ours.publish(live(1, sequence, events)).await.expect("nobody is slowed");
        }
        let expected = round as u64 + 1;
        wait::until("the values of a round", || async {
            let got = ours.get_metric(&names[0]).await.map_err(|e| e.to_string())?;
            let count = got.metric.map_or(0, |m| m.event_count);
            if count >= expected { Ok(()) } else { Err(format!("{count}")) }
        })
        .await;
    }
    let last = f64::from(rounds - 1);
    let mut missed = 0;
    let mut newest = std::collections::HashMap::new();
    wait::until("the newest values", || {
        let step = slow.next();
        let (missed, newest) = (&mut missed, &mut newest);
        let outcome = futures::executor::block_on(step).expect("an open stream").expect("a step");
        *missed += outcome.missed_updates;
        for metric in outcome.metrics {
            newest.insert(metric.metric_name, metric.last_value);
        }
        let done = newest.len() == 2_000 && newest.values().all(|v| *v == last);
        std::future::ready(if done { Ok(()) } else { Err(format!("{} metrics, {missed} missed", newest.len())) })
    })
    .await;
    assert!(missed > 0, "the watcher was slow and must be told");
}

/// Running counts are durable: kill -9 and a restart go on where they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_counts_survive_kills() {
    let folder = TempDir::new().expect("a temporary folder");
    let mut expected = 0;
    for round in 1..=3_u8 {
        let server = Server::start(folder.path(), &ServerOptions::quick());
        let token = server.token("admin", "admin", &["tenant-001"]);
        let ours = client(&server, &token, Some("tenant-001")).await;
        if expected > 0 {
            let got = ours.get_metric("cpu").await.expect("the value survived");
            assert_eq!(got.metric.map(|m| m.event_count), Some(expected), "round {round}");
        }
        ours.publish(live(round, 1, series("cpu", 500, now_ns()))).await.expect("taken");
        expected += 500;
        wait::until("the count", || async {
            let count = ours.get_metric("cpu").await.map_err(|e| e.to_string())?.metric.map_or(0, |m| m.event_count);
            if count == expected { Ok(()) } else { Err(format!("{count} of {expected}")) }
        })
        .await;
        server.kill();
    }
}
