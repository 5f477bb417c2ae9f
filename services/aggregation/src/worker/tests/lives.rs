//! Lives and deaths of a worker.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tidegauge_core::Key;
use tidegauge_core::event::IndexRange;
use tidegauge_core::log::{EventLog, NewRecord};
use tidegauge_core::time::MINUTE_NS;
use tidegauge_lake::paths;

use super::backends::Fuse;
use super::world::{World, options};
use crate::decide::tests::key;
use crate::options::AggregationOptions;
use crate::service::AggregationHandle;

/// Waits for what has to come.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("comes soon")
}

/// How far hot-metric has heard, key by key.
fn ordinals(world: &World) -> BTreeMap<Key, u64> {
    let held = world.hot.held.lock().unwrap();
    held.iter().map(|(key, held)| (key.clone(), held.version.ordinal)).collect()
}

/// Reads while the process lives, until it has died or come to rest.
async fn live_until_dead(world: &mut World, handle: &AggregationHandle, fuse: &Fuse) -> bool {
    for _ in 0..100_000 {
        if fuse.is_blown() {
            return true;
        }
        world.read();
        let status = handle.status().await;
        if status.quiescent && status.keys.len() == 2 && status.keys.iter().all(|key| key.state_rows == 0) {
            return false;
        }
        tokio::task::yield_now().await;
    }
    panic!("neither dead nor at rest");
}

/// The process dies at every operation on checkpoint store and lake, once before and once after it is done; each time
/// another process takes over, gets more records, and in the end rows, counts and every answer on the way are right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_at_any_operation_loses_and_doubles_nothing() {
    let mut deaths = 0;
    for half_operations in 2.. {
        let mut world = World::new();
        world.send(0).await;
        let fuse = Fuse::after(half_operations);
        let (first, _) = world.start(fuse.clone(), options());
        let died = live_until_dead(&mut world, &first, &fuse).await;
        drop(first);
        // Whatever the moment of its death: what it left behind adds up.
        world.verify().await;
        world.send(1).await;
        let (second, _) = world.start(Fuse::never(), options());
        world.rest(&second).await;
        world.compare();
        second.drain().await;
        world.compare();
        world.verify().await;
        assert!(world.answers > 0);
        deaths += u32::from(died);
        if !died {
            break;
        }
    }
    assert!(deaths > 40, "{deaths} deaths");
}

/// Killed again and again while records keep coming, with a hot-metric that drops its streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_series_of_deaths_under_load() {
    let mut world = World::new();
    world.hot.batches_per_stream = Some(3);
    // Every object is made as a large one is.
    let large = AggregationOptions { large_key_series: 0, ..options() };
    for round in 0..40 {
        let fuse = Fuse::after(3 + (round as i64 * 37) % 90);
        let (handle, _) = world.start(fuse.clone(), large.clone());
        for part in 0..3 {
            world.send(3 * round + part).await;
            for _ in 0..20 {
                world.read();
                tokio::task::yield_now().await;
            }
        }
        drop(handle);
    }
    let (last, _) = world.start(Fuse::never(), options());
    world.rest(&last).await;
    world.compare();
    last.drain().await;
    world.verify().await;
}

/// What readers have seen counted is not made to wait again by a cut while the records are replayed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_takes_nothing_back() {
    let mut world = World::new();
    let never = Duration::from_secs(1 << 24);
    let lazy = AggregationOptions { checkpoint_interval: never, publish_interval: never, ..options() };
    let (first, _) = world.start(Fuse::never(), lazy);
    for round in 0..30 {
        world.send(round).await;
        world.clock.advance(MINUTE_NS);
    }
    let all = world.oracle.keys.values().flat_map(|key| key.ledger.last()).map(|(ordinal, _)| *ordinal).max().unwrap();
    soon(async {
        while ordinals(&world).values().all(|ordinal| *ordinal < all) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    world.read();
    drop(first);
    // Record by record, while epochs are due all the time and do not wait for hot-metric: then readers may have to.
    world.waits = true;
    world.log.slow.store(true, std::sync::atomic::Ordering::SeqCst);
    let hasty = AggregationOptions { read_bytes: 1, hot_wait_max: Duration::from_millis(1), ..options() };
    let (second, _) = world.start(Fuse::never(), hasty);
    world.rest(&second).await;
    world.compare();
    second.drain().await;
}

/// A process dies with a cut prepared of which hot-metric has not heard. The next one replaces no object of it before
/// hot-metric has: readers could not reach its footer, and every query on the key would have to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_is_announced_before_it_is_applied_also_after_a_takeover() {
    let mut world = World::new();
    // No boundary moves without rows, not by the clock alone and not over a minute without events: an epoch for that
    // waits for hot-metric too, and the cut would have to wait behind it.
    let events_only = AggregationOptions { idle_timeout: Duration::from_secs(1 << 24), ..options() };
    let (first, _) = world.start(Fuse::never(), events_only);
    world.send(0).await;
    soon(async { while !first.status().await.quiescent {} }).await;
    let before = ordinals(&world);
    world.hot.stuck.send_replace(true);
    world.clock.advance(5 * MINUTE_NS);
    world.send(1).await;
    soon(async {
        while world.disk.checkpoint.lock().unwrap().rows_on_their_way() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(first);
    soon(world.hot.deserted()).await;
    assert_eq!(ordinals(&world), before, "hot-metric has heard of the cut");
    world.hot.stuck.send_replace(false);
    // Record by record: the replay takes its time.
    world.log.slow.store(true, std::sync::atomic::Ordering::SeqCst);
    let (second, _) = world.start(Fuse::never(), options());
    world.rest(&second).await;
    world.compare();
    second.drain().await;
    world.verify().await;
}

/// A record that is no record is one dead letter; it stands in the lake with its bytes, and so do dead events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_stand_in_the_lake() {
    let mut world = World::new();
    world.send(0).await;
    let garbage = Bytes::from_static(b"\xFFnonsense");
    world.log.append(vec![NewRecord { key: key("a"), payload: garbage.clone() }]).await.unwrap();
    let (handle, _) = world.start(Fuse::never(), options());
    world.rest(&handle).await;
    let status = handle.status().await;
    let counters = status.keys.iter().find(|k| k.key == key("a")).unwrap().counters;
    assert_eq!(counters.dead, world.oracle.keys[&key("a")].dead + 1);
    assert!(counters.conserved());
    handle.drain().await;
    world.verify().await;
    let mut letters = Vec::new();
    for (path, (content, _)) in world.disk.objects.lock().unwrap().iter() {
        if paths::parse_dead_letter_object(path).is_some_and(|p| p.tenant == Some(key("a").tenant)) {
            letters.extend(tidegauge_lake::dead_letter::decode(content.clone()).unwrap());
        }
    }
    assert_eq!(letters.iter().map(|letter| letter.events).sum::<u64>(), counters.dead);
    assert!(letters.iter().any(|letter| letter.payload == garbage && letter.reason == "UNDECODABLE"));
    let third = [IndexRange { first: 2, count: 1 }];
    assert!(letters.iter().any(|letter| letter.reason == "TOO_FAR_IN_FUTURE" && letter.indexes == third));
}

/// With room for few rows cuts are forced and watermarks pressed, and still nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_room_forces_cuts() {
    let mut world = World::new();
    let tight = AggregationOptions {
        state_rows_max: 5,
        publish_interval: Duration::from_secs(3_600),
        idle_timeout: Duration::from_secs(100_000),
        checkpoint_interval: Duration::from_millis(4),
        ..options()
    };
    let (handle, _) = world.start(Fuse::never(), tight);
    for round in 0..10 {
        world.send(round).await;
        world.read();
    }
    let total: u64 = world.oracle.keys.values().map(|key| key.counted).sum();
    soon(async {
        loop {
            world.read();
            let status = handle.status().await;
            if status.keys.iter().map(|key| key.counters.counted()).sum::<u64>() == total {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(handle);
    let (handle, _) = world.start(Fuse::never(), options());
    world.rest(&handle).await;
    world.compare();
    handle.drain().await;
}
