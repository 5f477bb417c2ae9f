//! Watching: initial state, changes, slow and fast watchers.

use std::collections::HashMap;

use tidegauge_hot_metric::HotMetricOptions;
use tidegauge_proto::hotmetric::v1 as pb;
use tonic::{Code, Streaming};

use super::harness::{World, metric, soon, update};
use super::memory_store::MemoryStore;
use super::reason;

async fn watch(world: &World, names: &[&str]) -> Streaming<pb::WatchMetricsResponse> {
    let metric_names = names.iter().map(|name| (*name).to_owned()).collect();
    let mut reader = world.reader(&["a"]);
    soon(reader.watch_metrics(pb::WatchMetricsRequest { metric_names })).await.expect("opens").into_inner()
}

async fn next(watch: &mut Streaming<pb::WatchMetricsResponse>) -> pb::WatchMetricsResponse {
    soon(watch.message()).await.expect("no error").expect("goes on")
}

/// A watcher gets what is there, then a mark, then each change of what it watches, as soon as it is durable.
#[tokio::test]
async fn a_watch_begins_with_the_state_and_follows() {
    let world = World::new(MemoryStore::new()).await;
    let mut stream = world.taken_over(0, 1, 1).await;
    let names: Vec<String> = (0..2_500).map(|n| format!("m{n:04}")).collect();
    stream.apply(vec![update("a", 1, 1, names.iter().map(|name| metric(name, 1)).collect())]).await;

    let mut all = watch(&world, &[]).await;
    let mut initial = Vec::new();
    loop {
        let message = next(&mut all).await;
        initial.extend(message.metrics.into_iter().map(|metric| metric.metric_name));
        if message.initial_state_complete {
            break;
        }
    }
    assert_eq!(initial, names, "in pages, each once");
    let mut some = watch(&world, &["m0007", "later"]).await;
    let message = next(&mut some).await;
    assert_eq!((message.metrics, message.initial_state_complete), (vec![metric("m0007", 1)], true));

    stream.apply(vec![update("b", 1, 2, vec![metric("m0007", 99)])]).await;
    stream.apply(vec![update("a", 1, 3, vec![metric("m0001", 2), metric("m0007", 2)])]).await;
    stream.apply(vec![update("a", 1, 3, vec![metric("m0001", 7)])]).await; // Not newer: changes nothing.
    stream.apply(vec![update("a", 1, 4, vec![metric("later", 1)])]).await;
    let mut changes = Vec::new();
    while changes.len() < 3 {
        changes.extend(next(&mut all).await.metrics);
    }
    assert_eq!(changes, [metric("m0001", 2), metric("m0007", 2), metric("later", 1)]);
    let mut changes = Vec::new();
    while changes.len() < 2 {
        let message = next(&mut some).await;
        assert_eq!((message.missed_updates, message.initial_state_complete), (0, false));
        changes.extend(message.metrics);
    }
    assert_eq!(changes, [metric("m0007", 2), metric("later", 1)]);
}

/// One commit may change more than a message can carry: it is sent in parts, each change once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_commit_comes_in_parts() {
    const SERIES: usize = 65_000;
    let world = World::new(MemoryStore::new()).await;
    let mut stream = world.taken_over(0, 1, 1).await;
    let mut watch = watch(&world, &[]).await;
    assert!(next(&mut watch).await.initial_state_complete);
    for first in (0..SERIES).step_by(5_000) {
        let currents = (first..first + 5_000).map(|n| metric(&format!("{n:0255}"), 1)).collect();
        let last_part = first + 5_000 == SERIES;
        stream.apply(vec![pb::KeyUpdate { last_part, ..update("a", 1, 1, currents) }]).await;
    }
    let mut seen = 0;
    while seen < SERIES {
        let message = next(&mut watch).await;
        assert!(message.metrics.len() <= 1_000 && message.missed_updates == 0);
        for metric in message.metrics {
            assert!(metric.metric_name.ends_with(&seen.to_string()), "{} is not change {seen}", metric.metric_name);
            seen += 1;
        }
    }
}

/// A series of a tenant with several buckets is shown as a whole, in every answer and in every change.
#[tokio::test]
async fn buckets_are_watched_as_one() {
    let world = World::new(MemoryStore::new()).await;
    let mut stream = world.taken_over(0, 1, 1).await;
    stream.apply(vec![update("a", 1, 1, vec![metric("m", 10)])]).await;
    let mut watch = watch(&world, &["m"]).await;
    assert_eq!(next(&mut watch).await.metrics, [metric("m", 10)]);
    stream.apply(vec![pb::KeyUpdate { bucket: 1, ..update("a", 1, 2, vec![metric("m", 1)]) }]).await;
    let changed = next(&mut watch).await.metrics.remove(0);
    assert_eq!((changed.event_count, changed.last_value), (11, 10.0));
}

/// I7, I8: a watcher that does not read slows nobody; when it reads again it is told how much it missed, and what it has
/// got together with what it missed is all there was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_misses_and_catches_up() {
    const ROUNDS: u64 = 150;
    const NAMES: usize = 1_000;
    let options = HotMetricOptions { watch_changes: 3_000, ..HotMetricOptions::default() };
    let world = World::with(options, MemoryStore::new()).await;
    let mut stream = world.taken_over(0, 1, 1).await;
    // Long names fill the connection's buffers sooner.
    let names: Vec<String> = (0..NAMES).map(|n| format!("{n:0255}")).collect();
    let mut slow = watch(&world, &[]).await;
    assert!(next(&mut slow).await.initial_state_complete);
    let mut fast = watch(&world, &[names[5].as_str()]).await;
    assert!(next(&mut fast).await.initial_state_complete);

    for round in 1..=ROUNDS {
        let currents = names.iter().map(|name| metric(name, round)).collect();
        stream.apply(vec![update("a", 1, round, currents)]).await;
        let change = next(&mut fast).await;
        assert_eq!((change.metrics, change.missed_updates), (vec![metric(&names[5], round)], 0));
    }

    let mut got: HashMap<String, u64> = HashMap::new();
    let (mut changes, mut missed) = (0, 0);
    while got.len() < NAMES || got.values().any(|count| *count < ROUNDS) {
        let message = next(&mut slow).await;
        missed += message.missed_updates;
        for metric in message.metrics {
            changes += 1;
            let before = got.insert(metric.metric_name, metric.event_count);
            assert!(before.is_none_or(|before| before <= metric.event_count), "values never go back");
        }
    }
    let all = ROUNDS * NAMES as u64;
    assert!(missed > 0, "150 rounds fit into the buffers of the connection");
    assert!(changes < all);
    assert!(changes + missed >= all, "got {changes}, missed {missed} of {all}");
}

/// Watchers that come in the middle of updates never see a value fall back, and all see the last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_never_go_back() {
    const LAST: u64 = 400;
    let world = World::new(MemoryStore::new()).await;
    let mut stream = world.taken_over(0, 1, 1).await;
    let watcher = async |delay: u64| {
        for _ in 0..delay * 3 {
            tokio::task::yield_now().await;
        }
        let names: &[&str] = if delay.is_multiple_of(2) { &["m"] } else { &[] };
        let mut watch = watch(&world, names).await;
        let mut last = 0;
        while last < LAST {
            for metric in next(&mut watch).await.metrics {
                assert!(metric.event_count >= last, "{} after {last}", metric.event_count);
                last = metric.event_count;
            }
        }
    };
    let updates = async {
        for ordinal in 1..=LAST {
            stream.send(vec![update("a", 1, ordinal, vec![metric("m", ordinal)])], false).await;
            if ordinal % 8 == 0 {
                for sequence in ordinal - 6..=ordinal + 1 {
                    stream.acknowledged(sequence).await;
                }
            }
        }
    };
    tokio::join!(updates, futures::future::join_all((0..12).map(watcher)));
}

#[tokio::test]
async fn too_many_watchers_are_refused() {
    let options = HotMetricOptions { watchers_per_tenant: 1, ..HotMetricOptions::default() };
    let world = World::with(options, MemoryStore::new()).await;
    let _stream = world.taken_over(0, 1, 1).await;
    let mut first = watch(&world, &[]).await;
    next(&mut first).await;
    let second = soon(world.reader(&["a"]).watch_metrics(pb::WatchMetricsRequest::default())).await;
    let refused = second.expect_err("one too many");
    assert_eq!(reason(&refused), (Code::ResourceExhausted, "TOO_MANY_WATCHERS".to_owned()));
    let other = soon(world.reader(&["b"]).watch_metrics(pb::WatchMetricsRequest::default())).await;
    other.expect("another tenant has room");
    let many = (0..1_001).map(|n| n.to_string()).collect();
    let request = pb::WatchMetricsRequest { metric_names: many };
    let refused = soon(world.reader(&["a"]).watch_metrics(request)).await.expect_err("too many names");
    assert_eq!(reason(&refused), (Code::InvalidArgument, "TOO_MANY_METRICS".to_owned()));
}
