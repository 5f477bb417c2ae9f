//! The service from outside: over a real server, with a store in memory.
#![allow(clippy::disallowed_methods, reason = "tests compose a process of their own")]

mod harness;
mod memory_store;
mod watch;

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegauge_core::time::MINUTE_NS;
use tidegauge_hot_metric::HotMetricOptions;
use tidegauge_proto::convert::time::timestamp;
use tidegauge_proto::hotmetric::v1 as pb;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use self::harness::{START, World, metric, soon, update, window};
use self::memory_store::MemoryStore;

/// Code and reason of an error.
fn reason(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}

async fn live(world: &World, tenants: &[&str]) -> Result<Vec<pb::ListLiveWindowsResponse>, Status> {
    let parts = soon(world.reader(tenants).list_live_windows(pb::ListLiveWindowsRequest {})).await?.into_inner();
    soon(parts.collect::<Result<Vec<_>, _>>()).await
}

async fn get(world: &World, tenant: &str, name: &str) -> Result<pb::GetMetricResponse, Status> {
    let request = pb::GetMetricRequest { metric_name: name.to_owned() };
    Ok(soon(world.reader(&[tenant]).get_metric(request)).await?.into_inner())
}

/// What was acknowledged is in every kind of answer, with its freshness, and only in those of its tenant.
#[tokio::test]
async fn acknowledged_updates_are_in_every_answer() {
    let world = World::new(MemoryStore::new()).await;
    let mut stream = world.taken_over(0, 1, 7).await;
    let names: Vec<String> = (0..250).map(|n| format!("m{n:03}")).collect();
    let currents = names.iter().map(|name| metric(name, 5)).collect();
    let windows = vec![window(0, "m000", 3), window(1, "m000", 2)];
    stream.apply(vec![pb::KeyUpdate { windows, ..update("a", 7, 10, currents) }]).await;
    stream.apply(vec![update("b", 7, 11, vec![metric("m000", 9)])]).await;

    let found = get(&world, "a", "m007").await.expect("found");
    assert_eq!(found.metric, Some(metric("m007", 5)));
    let freshness = found.freshness.expect("I9");
    assert_eq!(freshness.complete_through, Some(timestamp(START)));
    let key = &freshness.keys[0];
    assert_eq!((key.as_of_ordinal, key.generation, key.counted_events, freshness.keys.len()), (10, 7, 10, 1));

    let missing = get(&world, "b", "m007").await.expect_err("another tenant's");
    assert_eq!(reason(&missing), (Code::NotFound, "METRIC_NOT_FOUND".to_owned()));
    assert!(missing.message().contains("m007"));
    let bad = get(&world, "b", "").await.expect_err("no name");
    assert_eq!(reason(&bad), (Code::InvalidArgument, "METRIC_NAME_INVALID".to_owned()));

    let request = pb::BatchGetMetricsRequest { metric_names: ["m9", "m003", "m001"].map(String::from).to_vec() };
    let batch = soon(world.reader(&["a"]).batch_get_metrics(request)).await.expect("found").into_inner();
    assert_eq!(batch.metrics, [metric("m003", 5), metric("m001", 5)]);
    assert_eq!((batch.missing_metric_names, batch.freshness.is_some()), (vec!["m9".to_owned()], true));

    let mut listed = Vec::new();
    let mut request = pb::ListMetricsRequest { page_size: 125, page_token: String::new() };
    loop {
        let page = soon(world.reader(&["a"]).list_metrics(request.clone())).await.expect("page").into_inner();
        assert_eq!((page.metrics.len(), page.freshness.is_some()), (125, true));
        listed.extend(page.metrics.into_iter().map(|metric| metric.metric_name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        let foreign = soon(world.reader(&["b"]).list_metrics(request.clone())).await.expect_err("another tenant's");
        assert_eq!(reason(&foreign), (Code::InvalidArgument, "PAGE_TOKEN_INVALID".to_owned()));
    }
    assert_eq!(listed, names);

    let parts = live(&world, &["a"]).await.expect("live");
    assert_eq!(parts.len(), 1);
    assert!(parts[0].complete && parts[0].last_part && parts[0].index_version == 4 && parts[0].index_open);
    assert_eq!(parts[0].windows.len(), 2);
    assert_eq!(parts[0].freshness.as_ref().map(|key| key.as_of_ordinal), Some(10));
    let tenants = |parts: Vec<pb::ListLiveWindowsResponse>| parts.into_iter().map(|p| p.tenant_id).collect::<Vec<_>>();
    assert_eq!(tenants(live(&world, &["b", "a", "none"]).await.expect("live")), ["a", "b"]);
    assert_eq!(tenants(live(&world, &[]).await.expect("live")), ["a", "b"], "a scope over all tenants");

    let several = soon(world.reader(&["a", "b"]).list_metrics(pb::ListMetricsRequest::default())).await;
    assert_eq!(reason(&several.expect_err("one tenant")).1, "TENANT_NOT_CHOSEN");
}

/// I8, I7: what asks for too much is refused by name and at once, and a token of another's list gives nothing of it.
#[tokio::test]
async fn hostile_reads_are_refused() {
    let world = World::new(MemoryStore::new()).await;
    let mut stream = world.taken_over(0, 1, 1).await;
    let names = |range: std::ops::Range<u32>| range.map(|n| n.to_string()).collect::<Vec<_>>();
    let secrets = (0..30).map(|n| metric(&format!("secret-{n}"), 1)).collect();
    stream.apply(vec![update("a", 1, 1, secrets), update("b", 1, 1, vec![metric("m", 1)])]).await;

    let mut reader = world.reader(&["b"]);
    let request = pb::BatchGetMetricsRequest { metric_names: names(0..1_000_000) };
    let refused = soon(reader.batch_get_metrics(request)).await.expect_err("a million names");
    assert_eq!(reason(&refused), (Code::InvalidArgument, "TOO_MANY_METRICS".to_owned()));
    let request = pb::WatchMetricsRequest { metric_names: names(0..1_000_000) };
    let refused = soon(reader.watch_metrics(request)).await.expect_err("a million names");
    assert_eq!(reason(&refused), (Code::InvalidArgument, "TOO_MANY_METRICS".to_owned()));
    let request = pb::BatchGetMetricsRequest { metric_names: vec!["\u{7}".repeat(10_000); 1_000] };
    let refused = soon(reader.batch_get_metrics(request)).await.expect_err("a thousand bad names");
    assert_eq!(reason(&refused), (Code::InvalidArgument, "METRIC_NAME_INVALID".to_owned()));
    let request = pb::BatchGetMetricsRequest { metric_names: vec!["m".to_owned(); 1_000] };
    let same = soon(reader.batch_get_metrics(request)).await.expect("a thousand times the same").into_inner();
    assert_eq!(same.metrics, vec![metric("m", 1); 1_000]);

    let first = pb::ListMetricsRequest { page_size: 10, page_token: String::new() };
    let page = soon(world.reader(&["a"]).list_metrics(first.clone())).await.expect("a page").into_inner();
    for page_token in [page.next_page_token, "A".repeat(1_000_000), "\0".to_owned(), "==".to_owned()] {
        let request = pb::ListMetricsRequest { page_token, ..first.clone() };
        let refused = soon(reader.list_metrics(request)).await.expect_err("no token of this list");
        assert_eq!(reason(&refused), (Code::InvalidArgument, "PAGE_TOKEN_INVALID".to_owned()));
        assert!(!refused.message().contains("secret"));
    }
    let request = pb::ListMetricsRequest { page_size: u32::MAX, ..first };
    let refused = soon(reader.list_metrics(request)).await.expect_err("a page without end");
    assert_eq!(reason(&refused), (Code::InvalidArgument, "PAGE_SIZE_TOO_LARGE".to_owned()));
}

/// I6: many windows come in parts that make one state; windows of published minutes go with the boundary.
#[tokio::test]
async fn live_windows_come_in_parts_of_one_state() {
    let world = World::new(MemoryStore::new()).await;
    let mut stream = world.taken_over(0, 1, 1).await;
    let part = |minutes: std::ops::Range<i64>, last_part| pb::KeyUpdate {
        windows: minutes.map(|minute| window(minute, "m", 1)).collect(),
        last_part,
        ..update("a", 1, 1, Vec::new())
    };
    for (minutes, last_part) in [(0..4_000, false), (4_000..9_000, false), (9_000..10_000, true)] {
        stream.apply(vec![part(minutes, last_part)]).await;
        let parts = live(&world, &["a"]).await.expect("live");
        let windows: usize = parts.iter().map(|part| part.windows.len()).sum();
        assert_eq!(windows, if last_part { 10_000 } else { 0 }, "nothing of a key shows before its last part");
    }
    let parts = live(&world, &["a"]).await.expect("live");
    assert_eq!(parts.iter().map(|part| part.last_part).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(parts.iter().filter(|part| part.freshness.is_some()).count(), 1);

    let boundary_unix_nano = START + 9_998 * MINUTE_NS;
    let delta = pb::KeyUpdate { replaces_windows: false, boundary_unix_nano, ..update("a", 1, 2, Vec::new()) };
    stream.apply(vec![delta]).await;
    assert_eq!(live(&world, &["a"]).await.expect("live")[0].windows.len(), 2);
}

/// A store that lost its content says so, for every tenant, until a takeover of every shard has ended; then, and after
/// a restart, what it does not hold does not exist.
#[tokio::test]
async fn an_empty_store_never_answers_short() {
    let store = MemoryStore::new();
    let short = HotMetricOptions { takeover_wait: Duration::from_millis(20), ..HotMetricOptions::default() };
    let world = World::with(short.clone(), store.clone()).await;
    let incomplete = (Code::Unavailable, "HOT_STORE_INCOMPLETE".to_owned());
    let expect_incomplete = async |world: &World| {
        let error = get(world, "a", "m").await.expect_err("not known");
        assert_eq!(reason(&error), incomplete);
        assert!(error.get_details_retry_info().is_some());
        let list = soon(world.reader(&["a"]).list_metrics(pb::ListMetricsRequest::default())).await;
        assert_eq!(reason(&list.expect_err("not known")), incomplete);
        let watch = soon(world.reader(&["a"]).watch_metrics(pb::WatchMetricsRequest::default())).await;
        assert_eq!(reason(&watch.expect_err("not known")), incomplete);
        assert_eq!(reason(&live(world, &[]).await.expect_err("all tenants")), incomplete);
    };
    expect_incomplete(&world).await;
    let parts = live(&world, &["a"]).await.expect("live");
    assert_eq!((parts.len(), parts[0].complete, parts[0].last_part), (1, false, true));
    assert!(parts[0].freshness.is_some());

    let mut first = world.stream(0, 2, 1).await.expect("opens");
    let mut second = world.stream(1, 2, 1).await.expect("opens");
    let of_first = if key_is_of_shard_0("a") { &mut first } else { &mut second };
    of_first.apply(vec![update("a", 1, 1, vec![metric("m", 1)])]).await;
    get(&world, "a", "m").await.expect("what is held is answered");
    assert_eq!(reason(&get(&world, "a", "n").await.expect_err("not known")), incomplete);
    assert!(!live(&world, &["a"]).await.expect("live")[0].complete, "another bucket may be missing");

    for stream in [&mut first, &mut second] {
        let sequence = stream.send(Vec::new(), true).await;
        stream.acknowledged(sequence).await;
    }
    assert!(live(&world, &["a"]).await.expect("live")[0].complete);
    assert_eq!(get(&world, "a", "n").await.expect_err("known").code(), Code::NotFound);
    assert!(live(&world, &["none"]).await.expect("live").is_empty());

    let restarted = World::with(short.clone(), store.clone()).await;
    assert_eq!(get(&restarted, "a", "n").await.expect_err("known").code(), Code::NotFound);
    assert!(live(&restarted, &["a"]).await.expect("live")[0].complete);
    // With another number of shards keys lie otherwise: all is to be taken over again.
    restarted.stream(0, 4, 2).await.expect("opens");
    assert_eq!(reason(&get(&restarted, "a", "n").await.expect_err("not known")), incomplete);
}

fn key_is_of_shard_0(tenant: &str) -> bool {
    tidegauge_core::Key::parse(tenant).expect("valid").shard(2).0 == 0
}

/// A read that comes during a takeover waits for it.
#[tokio::test]
async fn reads_wait_for_a_takeover() {
    let world = World::new(MemoryStore::new()).await;
    let mut stream = world.stream(0, 1, 1).await.expect("opens");
    let reader = async { get(&world, "a", "m").await.expect("waits") };
    let takeover = async {
        stream.send(vec![update("a", 1, 1, vec![metric("m", 1)])], true).await;
        stream.acknowledged(1).await;
    };
    tokio::join!(reader, takeover);
}

/// One stream a shard: a newer generation ends an older one, an older one gets nowhere, also after a restart.
#[tokio::test]
async fn older_streams_end() {
    let store = MemoryStore::new();
    let world = World::new(store.clone()).await;
    let mut old = world.taken_over(0, 1, 5).await;
    old.apply(vec![update("a", 5, 10, Vec::new())]).await;
    let superseded = (Code::Aborted, "STREAM_SUPERSEDED".to_owned());

    let again = world.stream(0, 1, 5).await.expect("a new connection of the same owner");
    assert_eq!(reason(&old.answer().await.expect_err("ended")), superseded);
    let version = pb::Version { generation: 5, ordinal: 10, push: 0 };
    let boundary_unix_nano = update("a", 5, 10, Vec::new()).boundary_unix_nano;
    let held = pb::KeyVersion { tenant_id: "a".to_owned(), bucket: 0, version: Some(version), boundary_unix_nano };
    assert_eq!(again.versions, [held]);

    let mut new = world.stream(0, 1, 6).await.expect("opens");
    let mut again = again;
    assert_eq!(reason(&again.answer().await.expect_err("ended")), superseded);
    assert_eq!(reason(&world.stream(0, 1, 5).await.err().expect("older")), superseded);
    new.apply(vec![update("a", 6, 3, Vec::new())]).await;

    let restarted = World::new(store).await;
    assert_eq!(reason(&restarted.stream(0, 1, 5).await.err().expect("the store knows generation 6")), superseded);
    restarted.stream(0, 1, 6).await.expect("opens");
}

/// A successor is told what is held only when nothing of its predecessor can be applied any more: the commit under way
/// is waited for, what was read behind it and what is sent afterwards is dropped.
#[tokio::test]
async fn nothing_of_an_older_stream_is_applied_after_a_newer_one_was_answered() {
    let store = MemoryStore::new();
    let world = World::new(store.clone()).await;
    let mut old = world.taken_over(0, 1, 5).await;
    let gate = store.gate.acquire().await.expect("open");
    let mut begun = store.begun.subscribe();
    begun.mark_unchanged();
    old.send(vec![update("a", 5, 1, vec![metric("m", 1)])], false).await;
    soon(begun.changed()).await.expect("the commit begins");
    old.send(vec![update("a", 5, 2, vec![metric("m", 2)])], false).await;

    let mut successor = pin!(world.stream(0, 1, 6));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut successor).await;
    assert!(early.is_err(), "answered while a commit of its predecessor is under way");
    drop(gate);
    let mut new = successor.await.expect("opens");
    let ordinals = |stream: &harness::Stream| -> Vec<u64> {
        stream.versions.iter().map(|held| held.version.as_ref().expect("set").ordinal).collect()
    };
    assert_eq!(ordinals(&new), [1]);

    old.send(vec![update("a", 5, 3, vec![metric("m", 3)])], false).await;
    let end = loop {
        if let Err(end) = old.answer().await {
            break end;
        }
    };
    assert_eq!(reason(&end), (Code::Aborted, "STREAM_SUPERSEDED".to_owned()));
    new.send(Vec::new(), true).await;
    new.acknowledged(1).await;
    assert_eq!(get(&world, "a", "m").await.expect("held").metric, Some(metric("m", 1)));
    assert_eq!(ordinals(&world.stream(0, 1, 7).await.expect("opens")), [1]);
}

/// A stream that breaks the contract is ended, and what it sent in good faith stands.
#[tokio::test]
async fn broken_streams_are_refused() {
    let world = World::new(MemoryStore::new()).await;
    for (shard, shards) in [(1, 1), (0, 0), (0, 1 << 20)] {
        let refused = world.stream(shard, shards, 1).await.err().expect("no such shard");
        assert_eq!(refused.code(), Code::InvalidArgument, "{shard} of {shards}");
    }
    let mut stream = world.taken_over(0, 1, 1).await;
    stream.send(vec![update("a", 1, 1, vec![metric("m", 1)])], false).await;
    stream.send(vec![update("a", 9, 2, vec![metric("m", 2)])], false).await;
    stream.acknowledged(2).await;
    let refused = stream.answer().await.expect_err("a generation above the stream's");
    assert_eq!(reason(&refused), (Code::InvalidArgument, "UPDATE_REFUSED".to_owned()));
    assert_eq!(get(&world, "a", "m").await.expect("held").metric, Some(metric("m", 1)));
}

/// Nothing is acknowledged before it is durable; what comes during a commit goes into the next one together.
#[tokio::test]
async fn batches_share_commits() {
    let store = MemoryStore::new();
    let world = World::new(store.clone()).await;
    let mut stream = world.taken_over(0, 1, 1).await;
    let held_up = store.gate.acquire().await.expect("open");
    for ordinal in 1..=20 {
        stream.send(vec![update("a", 1, ordinal, vec![metric("m", ordinal)])], false).await;
    }
    // The takeover's batch had the first sequence.
    let early = tokio::time::timeout(Duration::from_millis(50), stream.answer()).await;
    assert!(early.is_err(), "acknowledged before it was durable: {early:?}");
    drop(held_up);
    for sequence in 2..=21 {
        stream.acknowledged(sequence).await;
    }
    let commits = store.commits.load(Ordering::SeqCst);
    assert!(commits <= 10, "{commits} commits for 20 batches");
    assert_eq!(get(&world, "a", "m").await.expect("held").metric, Some(metric("m", 20)));
}

/// When the server begins to drain, watchers are told at once that they may come again, those of a busy tenant too, and
/// no read waits for a takeover any more; aggregation's last updates are still taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_server_lets_its_readers_go() {
    let options = HotMetricOptions { takeover_wait: Duration::from_secs(3_600), ..HotMetricOptions::default() };
    let mut world = World::with(options, MemoryStore::new()).await;
    let mut stream = world.taken_over(0, 2, 1).await;
    let mut waiting = world.reader(&["a"]);
    let waiting = tokio::spawn(async move { waiting.list_metrics(pb::ListMetricsRequest::default()).await });
    let mut other = world.taken_over(1, 2, 1).await;
    soon(waiting).await.expect("no panic").expect("the takeover is over");
    let stream = if key_is_of_shard_0("a") { &mut stream } else { &mut other };
    let mut watches = Vec::new();
    for tenant in ["a", "b"] {
        let watch = soon(world.reader(&[tenant]).watch_metrics(pb::WatchMetricsRequest::default())).await;
        let mut watch = watch.expect("opens").into_inner();
        assert!(soon(watch.message()).await.expect("open").expect("initial").initial_state_complete);
        watches.push(watch);
    }
    // More shards than were taken over: a read waits again.
    let hello = world.stream(2, 3, 1).await.expect("opens");
    let mut waiting = world.reader(&["c"]);
    let waiting = tokio::spawn(async move { waiting.list_metrics(pb::ListMetricsRequest::default()).await });

    stream.apply(vec![update("a", 1, 1, vec![metric("m", 1)])]).await;
    soon(world.server.take().expect("running").drain(Duration::from_secs(3_600))).await;
    stream.apply(vec![update("a", 1, 2, vec![metric("m", 2)])]).await;
    let draining = (Code::Unavailable, "DRAINING".to_owned());
    for mut watch in watches {
        let end = loop {
            if let Err(end) = soon(watch.message()).await {
                break end;
            }
        };
        assert_eq!(reason(&end), draining);
    }
    let refused = soon(waiting).await.expect("no panic").expect_err("nobody waits");
    assert_eq!(reason(&refused), draining);
    drop(hello);
}

/// A drain ends the streams, makes durable what they took, and says to watchers that they may come again.
#[tokio::test]
async fn a_drain_keeps_what_was_taken() {
    let store = MemoryStore::new();
    let mut world = World::new(store.clone()).await;
    let mut stream = world.taken_over(0, 1, 1).await;
    let request = pb::WatchMetricsRequest::default();
    let mut watch = soon(world.reader(&["a"]).watch_metrics(request)).await.expect("opens").into_inner();
    assert!(soon(watch.message()).await.expect("open").expect("initial").initial_state_complete);
    let held_up = store.gate.acquire().await.expect("open");
    stream.send(vec![update("a", 1, 1, vec![metric("m", 1)])], false).await;
    // The commit has begun once the next batch waits behind it; no event tells that, so the drain may come before.
    let drain = tokio::spawn(world.handle.take().expect("running").drain());
    drop(held_up);
    soon(drain).await.expect("drains");
    let mut acknowledged = false;
    let end = loop {
        match stream.answer().await {
            Ok(_) => acknowledged = true,
            Err(end) => break end,
        }
    };
    assert_eq!(reason(&end), (Code::Unavailable, "DRAINING".to_owned()));
    let durable = store.commits.load(Ordering::SeqCst) == 1;
    assert_eq!(durable, acknowledged, "what is durable was acknowledged, and only that");
    let end = loop {
        match soon(watch.message()).await {
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    assert_eq!(reason(&end), (Code::Unavailable, "DRAINING".to_owned()));
}
