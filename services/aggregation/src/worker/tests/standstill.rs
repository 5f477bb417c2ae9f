//! What stands still, and what must not for its sake.

use std::time::Duration;

use tidegauge_core::ShardId;
use tidegauge_core::clock::Clock;
use tidegauge_core::event::Mode;
use tidegauge_core::log::{EventLog, NewRecord};
use tidegauge_core::time::MINUTE_NS;

use super::backends::Fuse;
use super::world::{World, options};
use crate::decide::tests::{T0, batch, key, raw};
use crate::options::AggregationOptions;
use crate::service::AggregationHandle;
use crate::status::{KeyReport, WorkerState};

/// One object that cannot be written holds up its own key: the other's boundary moves, the parked rows stay visible as
/// live windows, and when the object can be written again everything is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_object_parks_its_key_alone() {
    let mut world = World::new();
    let (handle, stores) = world.start(Fuse::never(), options());
    *stores.broken.lock().unwrap() = Some("aggregated/tenant_id=a/".to_owned());
    world.send(0).await;
    let parked = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            world.read();
            let status = handle.status().await;
            let of = |name: &str| status.keys.iter().find(|k| k.key == key(name)).cloned();
            if let (Some(a), Some(b)) = (of("a"), of("b"))
                && !a.parked.is_empty()
                && b.state_rows == 0
                && b.boundary_ns > a.boundary_ns
            {
                return a;
            }
            tokio::task::yield_now().await;
        }
    });
    let parked = parked.await.unwrap();
    assert!(parked.parked[0].contains("tenant_id=a"), "{parked:?}");
    world.send(1).await;
    // A process that restarts meanwhile parks again.
    handle.drain().await;
    let (handle, _) = world.start(Fuse::never(), options());
    world.rest(&handle).await;
    world.compare();
    handle.drain().await;
}

/// I6: two objects of one epoch, of which the second cannot be written. The index has a new hour of the first: readers are
/// told of it before, and again when no more is written, with the boundary where it was. Whoever has kept the index and
/// whoever reads it for the first time see the same, at every moment (`World::read`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_changed_is_told_although_its_epoch_is_parked() {
    let mut world = World::new();
    let (handle, stores) = world.start(Fuse::never(), options());
    world.send(0).await;
    world.rest(&handle).await;
    let before = world.hot.held.lock().unwrap()[&key("a")].clone();
    let paths = |world: &World| {
        let objects = world.disk.objects.lock().unwrap();
        objects.keys().filter(|path| path.starts_with("_index/aggregated/a/")).cloned().collect::<Vec<_>>()
    };
    let indexes = paths(&world);

    let days = |days: i64| T0 - days * 24 * 60 * MINUTE_NS;
    let unwritable = tidegauge_core::time::Day::of(days(40)).to_string();
    let (year_month, day) = unwritable.rsplit_once('-').unwrap();
    let (year, month) = year_month.split_once('-').unwrap();
    *stores.broken.lock().unwrap() = Some(format!("aggregated/tenant_id=a/year={year}/month={month}/day={day}/"));
    let history = batch(&key("a"), Mode::Backfill, T0, &[(0, days(30), 1.0), (0, days(40), 1.0)]);
    world.oracle.take(&key("a"), &history);
    world.log.append(vec![NewRecord { key: key("a"), payload: raw(&history) }]).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            world.read();
            let hot = world.hot.held.lock().unwrap()[&key("a")].clone();
            if !hot.index_open && hot.index_version > before.index_version && paths(&world).len() > indexes.len() {
                return hot;
            }
            tokio::task::yield_now().await;
        }
    });
    let told = told.await.expect("readers are told while the second object is parked");
    assert_eq!(told.pending, 2, "nothing of the epoch is published");

    *stores.broken.lock().unwrap() = None;
    world.rest(&handle).await;
    world.compare();
    handle.drain().await;
    world.verify().await;
}

/// I7: an object that nobody can read stops its key. However much that key is sent, the others of its shard go on, and
/// what it has no room for is kept as dead letters. Mended, it goes on too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_key_does_not_fill_its_shard() {
    const WINDOWS: i64 = 200;
    let world = World::new();
    let tight = AggregationOptions { state_rows_max: 60, ..options() };
    let (handle, stores) = world.start(Fuse::never(), tight);
    *stores.unreadable.lock().unwrap() = Some("aggregated/tenant_id=a/".to_owned());
    let log = world.log.clone();
    let append = async |name: &str, minutes: i64| {
        let record = batch(&key(name), Mode::Backfill, T0, &[(0, T0 - minutes * MINUTE_NS, 1.0)]);
        log.append(vec![NewRecord { key: key(name), payload: raw(&record) }]).await.unwrap();
    };
    let reached = async |what: &str, done: &dyn Fn(&KeyReport, &KeyReport) -> bool| {
        let reached = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let keys = handle.status().await.keys;
                if let [a, b] = keys.as_slice()
                    && done(a, b)
                {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        if reached.await.is_err() {
            panic!("{what}: {:#?}", handle.status().await);
        }
    };
    append("b", 10).await;
    append("a", 10).await;
    reached("the key stops", &|a, _| a.stopped_because.is_some()).await;
    // It is held with the next epoch; until then it takes room like any other key.
    append("b", 10).await;
    reached("an epoch more", &|_, b| b.counters.backfilled == 2 && b.state_rows == 0).await;
    for window in 0..WINDOWS {
        append("a", 10 + window).await;
        append("b", 10 + window).await;
    }
    let all = WINDOWS as u64 + 1;
    reached("the other key is published", &|_, b| b.counters.backfilled == all + 1 && b.state_rows == 0).await;
    reached("all is processed", &|a, _| a.counters.on_log == all && a.counters.dead > 0).await;
    reached("the room is kept", &|a, _| a.state_rows <= 30).await;

    *stores.unreadable.lock().unwrap() = None;
    reached("the key goes on", &|a, _| a.stopped_because.is_none() && a.state_rows == 0).await;
    append("a", 1_000).await;
    reached("it counts again", &|a, _| a.counters.on_log == all + 1 && a.state_rows == 0).await;
    handle.drain().await;
    world.verify().await;
}

/// Waits until the status is as it should be.
async fn until(handle: &AggregationHandle, what: &str, done: impl Fn(&[KeyReport]) -> bool) {
    let reached = tokio::time::timeout(Duration::from_secs(30), async {
        while !done(&handle.status().await.keys) {
            tokio::task::yield_now().await;
        }
    });
    if reached.await.is_err() {
        panic!("{what}: {:#?}", handle.status().await);
    }
}

fn of<'a>(keys: &'a [KeyReport], name: &str) -> Option<&'a KeyReport> {
    keys.iter().find(|found| found.key == key(name))
}

/// Loads an hour of history into one key, so that it alone has something to write, and more than its shard holds.
async fn load_one_key(world: &World, handle: &AggregationHandle, windows: i64) {
    let append = async |minutes: i64| {
        let record = batch(&key("a"), Mode::Backfill, T0, &[(0, T0 - minutes * MINUTE_NS, 1.0)]);
        world.log.append(vec![NewRecord { key: key("a"), payload: raw(&record) }]).await.unwrap();
    };
    append(10).await;
    until(handle, "the object fails", |keys| of(keys, "a").is_some_and(|a| !a.parked.is_empty())).await;
    for window in 1..windows {
        append(10 + window).await;
    }
}

/// I7: an object that cannot be written, of the only key with something to write, whose rows are all that the shard may
/// have. Nothing else is written that would show that the lake is there: the worker's probe is. So the key is held, and
/// another's new events are processed and published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_fails_alone_does_not_stop_its_shard() {
    const WINDOWS: i64 = 200;
    let world = World::new();
    let tight = AggregationOptions { state_rows_max: 60, ..options() };
    let (handle, stores) = world.start(Fuse::never(), tight);
    *stores.broken.lock().unwrap() = Some("aggregated/tenant_id=a/".to_owned());
    load_one_key(&world, &handle, WINDOWS).await;
    let record = batch(&key("b"), Mode::Backfill, T0, &[(0, T0 - 10 * MINUTE_NS, 1.0)]);
    world.log.append(vec![NewRecord { key: key("b"), payload: raw(&record) }]).await.unwrap();
    let published = |keys: &[KeyReport]| of(keys, "b").is_some_and(|b| b.counters.backfilled == 1 && b.state_rows == 0);
    until(&handle, "the other key is published", published).await;
    let all = WINDOWS as u64;
    let held = |keys: &[KeyReport]| of(keys, "a").is_some_and(|a| a.counters.on_log == all && a.counters.dead > 0);
    until(&handle, "the key is held", held).await;

    *stores.broken.lock().unwrap() = None;
    until(&handle, "the key goes on", |keys| of(keys, "a").is_some_and(|a| a.state_rows == 0)).await;
    handle.drain().await;
    world.verify().await;
}

/// A lake that cannot be written at all holds nobody, also when one key alone has something to write: reading pauses, no
/// event becomes a dead letter, and when the lake is back everything is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_that_is_away_holds_nobody() {
    const WINDOWS: i64 = 200;
    let world = World::new();
    let tight = AggregationOptions { state_rows_max: 60, ..options() };
    let (handle, stores) = world.start(Fuse::never(), tight);
    *stores.broken.lock().unwrap() = Some(String::new());
    load_one_key(&world, &handle, WINDOWS).await;
    until(&handle, "the room is full", |keys| of(keys, "a").is_some_and(|a| a.state_rows >= 60)).await;
    // Long enough for more tries than it takes to hold a key.
    let long_after = world.clock.wall_ns() + 20 * MINUTE_NS;
    until(&handle, "time passes", |_| world.clock.wall_ns() > long_after).await;
    let a = of(&handle.status().await.keys, "a").unwrap().clone();
    assert!(a.counters.dead == 0 && a.counters.on_log < WINDOWS as u64, "{a:?}");

    *stores.broken.lock().unwrap() = None;
    let counted = |keys: &[KeyReport]| {
        of(keys, "a")
            .is_some_and(|a| a.counters.backfilled == WINDOWS as u64 && a.counters.dead == 0 && a.state_rows == 0)
    };
    until(&handle, "everything is counted", counted).await;
    handle.drain().await;
    world.verify().await;
}

/// A worker that cannot go on says so, with the reason, to whoever asks and to probes; one that lost its disk for a moment
/// begins again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stopped_says_why() {
    let mut world = World::new();
    world.send(0).await;
    let (first, _) = world.start(Fuse::never(), options());
    world.rest(&first).await;
    assert_eq!(first.status().await.shards[0].1.state, WorkerState::Running);
    assert_eq!(first.stopped_shards()(), []);
    first.drain().await;
    let state = async |handle: &AggregationHandle, state: WorkerState| {
        let reached = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let report = handle.status().await.shards.remove(0).1;
                if report.state == state {
                    return report;
                }
                tokio::task::yield_now().await;
            }
        });
        reached.await.unwrap()
    };

    let (cut_off, _) = world.start(Fuse::after(0), options());
    let report = state(&cut_off, WorkerState::Retrying).await;
    assert!(report.stopped_because.unwrap().contains("the process is dead"));
    drop(cut_off);

    // The state of another window length: nothing that time would mend.
    let longer = AggregationOptions { window: Duration::from_secs(120), ..options() };
    let (stopped, _) = world.start(Fuse::never(), longer);
    let report = state(&stopped, WorkerState::Stopped).await;
    assert!(report.stopped_because.unwrap().contains("the length cannot change"));
    assert!(!report.quiescent);
    assert_eq!(stopped.stopped_shards()(), [ShardId(0)]);
    stopped.drain().await;
}
