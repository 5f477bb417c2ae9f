//! Conformance of a hot store.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use async_trait::async_trait;

use crate::Sum;
use crate::hot::{CurrentValue, HotStore, HotVersion, KeyMeta, KeyUpdate, LiveSnapshot, LiveWindow, WindowRow};
use crate::ids::{Key, MetricName, ShardId};
use crate::scope::{ScopedTenant, SystemAuthority};
use crate::time::MINUTE_NS;

/// Makes the stores that the suite tests.
#[async_trait]
pub trait Backend: Send + Sync {
    /// A store without content, apart from all others.
    async fn empty(&self) -> Arc<dyn HotStore>;
    /// The same content after a restart. The suite holds no other reference to the store.
    async fn reopen(&self, store: Arc<dyn HotStore>) -> Arc<dyn HotStore>;
}

/// Runs every test of the suite.
pub async fn all(backend: &dyn Backend) {
    versions_decide(&*backend.empty().await).await;
    windows_follow_the_boundary(&*backend.empty().await).await;
    names_are_listed_in_order(&*backend.empty().await).await;
    tenants_and_buckets_stay_apart(&*backend.empty().await).await;
    readers_see_whole_updates(&*backend.empty().await).await;
    a_restart_loses_nothing(backend).await;
}

const START: i64 = 1_772_434_800_000_000_000;

#[expect(clippy::disallowed_methods, reason = "the suite composes its own process")]
fn authority() -> SystemAuthority {
    SystemAuthority::for_worker("conformance")
}

fn key(text: &str) -> Key {
    Key::parse(text).expect("a key of the suite")
}

fn metric(text: &str) -> MetricName {
    MetricName::parse(text).expect("a metric of the suite")
}

fn scoped(text: &str) -> ScopedTenant {
    authority().tenant(&key(text).tenant)
}

fn version(generation: u64, ordinal: u64, push: u64) -> HotVersion {
    HotVersion { generation, ordinal, push }
}

/// A sum that spans more digits than two numbers hold.
fn sum() -> Sum {
    let mut sum = Sum::from(1e300);
    [1.5, 1e-300].into_iter().for_each(|value| sum.add(value));
    sum
}

fn window(minute: i64, name: &str, count: u64) -> LiveWindow {
    let start_ns = START + minute * MINUTE_NS;
    let row = WindowRow { count, sum: sum(), min: -1.0, max: 2.5, last: 0.5, last_time_ns: start_ns + 1, late: 1 };
    LiveWindow { start_ns, end_ns: start_ns + MINUTE_NS, metric: metric(name), row }
}

fn current(name: &str, count: u64) -> CurrentValue {
    let last_time_ns = START + count as i64;
    let updated_at_ns = last_time_ns + 5;
    CurrentValue {
        metric: metric(name),
        last_value: count as f64 / 3.0,
        last_time_ns,
        updated_at_ns,
        event_count: count,
    }
}

fn update(of: &str, version: HotVersion, boundary_minute: i64) -> KeyUpdate {
    let boundary_ns = START + boundary_minute * MINUTE_NS;
    let meta = KeyMeta {
        version,
        boundary_ns,
        watermark_ns: boundary_ns + 7,
        counted: 3,
        pending: 2,
        index_version: 1,
        index_open: true,
    };
    KeyUpdate { key: key(of), meta, replaces_windows: false, currents: Vec::new(), windows: Vec::new() }
}

async fn live_of(store: &dyn HotStore, of: &str) -> Option<LiveSnapshot> {
    let live = store.live(&scoped(of)).await.expect("live");
    live.into_iter().find(|(found, _)| *found == key(of)).map(|(_, snapshot)| snapshot)
}

/// The live windows of a key as (minute, metric) → count.
async fn rows_of(store: &dyn HotStore, of: &str) -> BTreeMap<(i64, String), u64> {
    let windows = live_of(store, of).await.map(|live| live.windows).unwrap_or_default();
    let row = |w: LiveWindow| (((w.start_ns - START) / MINUTE_NS, w.metric.to_string()), w.row.count);
    windows.into_iter().map(row).collect()
}

/// An update applies only above the stored version: by generation, then ordinal, then push; a repeated one does nothing.
async fn versions_decide(store: &dyn HotStore) {
    assert_eq!(live_of(store, "t").await, None);
    assert_eq!(store.apply(&authority(), Vec::new()).await.expect("nothing to apply"), Vec::<bool>::new());
    let steps = [
        (version(2, 10, 0), true),
        (version(2, 10, 0), false),
        (version(2, 9, 9), false),
        (version(2, 10, 1), true),
        (version(2, 11, 0), true),
        (version(1, 99, 99), false),
        (version(3, 1, 0), true),
        (version(2, 12, 0), false),
    ];
    for (step, (version, newer)) in steps.into_iter().enumerate() {
        let count = step as u64 + 1;
        let mut update = update("t", version, 0);
        update.currents = vec![current("m", count)];
        update.windows = vec![window(0, "m", count)];
        assert_eq!(store.apply(&authority(), vec![update]).await.expect("apply"), [newer], "{version:?}");
        let held = store.currents(&scoped("t"), &[metric("m")]).await.expect("currents").remove(0);
        let rows = rows_of(store, "t").await;
        let shows = held.is_some_and(|held| held == current("m", count));
        assert_eq!((shows, rows[&(0, "m".to_owned())] == count), (newer, newer), "{version:?}");
    }
    let keys = store.keys(&authority()).await.expect("keys");
    assert_eq!(keys, [(key("t"), update("t", version(3, 1, 0), 0).meta)]);

    // Several updates of one key in one call count in their order.
    let updates = [4, 6, 5].map(|ordinal| update("t", version(3, ordinal, 0), 0)).to_vec();
    assert_eq!(store.apply(&authority(), updates).await.expect("apply"), [true, true, false]);
}

/// Windows that end at or before the boundary vanish with it; a snapshot replaces all; only a snapshot makes complete.
async fn windows_follow_the_boundary(store: &dyn HotStore) {
    let apply = async |ordinal, boundary, replaces_windows, windows: Vec<LiveWindow>| {
        let update = KeyUpdate { replaces_windows, windows, ..update("t", version(1, ordinal, 0), boundary) };
        assert_eq!(store.apply(&authority(), vec![update]).await.expect("apply"), [true]);
        let live = live_of(store, "t").await.expect("known");
        assert_eq!(live.meta.boundary_ns, START + boundary * MINUTE_NS);
        let minutes: Vec<i64> = rows_of(store, "t").await.keys().map(|(minute, _)| *minute).collect();
        (minutes, live.complete)
    };
    let windows = |minutes: &[i64]| minutes.iter().map(|minute| window(*minute, "m", 1)).collect::<Vec<_>>();

    assert_eq!(apply(1, 0, false, windows(&[0, 1, 2, 3])).await, (vec![0, 1, 2, 3], false));
    assert_eq!(apply(2, 0, true, windows(&[0, 1, 2, 5])).await, (vec![0, 1, 2, 5], true));
    assert_eq!(apply(3, 1, false, windows(&[6])).await, (vec![1, 2, 5, 6], true));
    assert_eq!(apply(4, 2, false, windows(&[0, 1, 2])).await, (vec![2, 5, 6], true), "passed windows are not added");
    assert_eq!(apply(5, 2, true, windows(&[5, 9])).await, (vec![5, 9], true));
    assert_eq!(apply(6, 500, false, Vec::new()).await, (vec![], true));
    assert_eq!(apply(7, 500, false, windows(&[501])).await, (vec![501], true));
}

/// Pages hold every name once, in the order of the names, whatever characters they have and however long they are.
async fn names_are_listed_in_order(store: &dyn HotStore) {
    let long = |last: char| "m".repeat(254) + &last.to_string();
    let mut names: Vec<String> =
        ["a", "a!", "a ", "a#", "a#b", "a$", "a%", "a%23", "a&", "a\"", "b", "Größe", "cpu.load", "~"]
            .map(String::from)
            .to_vec();
    names.extend(["1", "2"].map(|n| "%".repeat(80) + n));
    names.extend([long('a'), long('b'), long('#')]);
    let mut update = update("t", version(1, 1, 0), 0);
    update.currents = names.iter().map(|name| current(name, name.len() as u64)).collect();
    store.apply(&authority(), vec![update]).await.expect("apply");

    let mut sorted: Vec<MetricName> = names.iter().map(|name| metric(name)).collect();
    sorted.sort();
    for limit in [1, 3, 100] {
        let mut listed = Vec::new();
        loop {
            let after = listed.last();
            let page = store.list(&scoped("t"), after, limit).await.expect("list");
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            listed.extend(page.into_iter().map(|value| value.metric));
        }
        assert_eq!(listed, sorted, "pages of {limit}");
    }
    let values = store.currents(&scoped("t"), &sorted).await.expect("currents");
    assert!(values.iter().zip(&sorted).all(|(value, name)| value.as_ref().is_some_and(|v| v.metric == *name)));
    let missing = store.currents(&scoped("t"), &[metric("nope"), metric("b")]).await.expect("currents");
    assert_eq!((missing[0].is_none(), missing[1].is_some()), (true, true));
    assert!(store.list(&scoped("t"), Some(&metric("~")), 10).await.expect("list").is_empty());
}

/// Nothing of a tenant shows in another's answers; a series in two buckets is one value.
async fn tenants_and_buckets_stay_apart(store: &dyn HotStore) {
    let mut updates = Vec::new();
    for (index, of) in ["a", "a-b", "ab", "a#1", "b#7"].into_iter().enumerate() {
        let count = index as u64 + 1;
        let mut update = update(of, version(1, 1, 0), 0);
        update.currents = vec![current("shared", count), current(&format!("own{index}"), count)];
        update.windows = vec![window(index as i64, "shared", count)];
        updates.push(update);
    }
    store.apply(&authority(), updates).await.expect("apply");

    let listed = store.list(&scoped("a"), None, 100).await.expect("list");
    let names: Vec<&str> = listed.iter().map(|value| value.metric.as_str()).collect();
    assert_eq!(names, ["own0", "own3", "shared"]);
    let expected = CurrentValue { event_count: 5, ..current("shared", 4) };
    assert_eq!(listed[2], expected, "counts of buckets add up, the later value stays");

    let keys_of = |live: Vec<(Key, LiveSnapshot)>| live.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys_of(store.live(&scoped("a")).await.expect("live")), [key("a"), key("a#1")]);
    assert_eq!(keys_of(store.live(&scoped("b")).await.expect("live")), [key("b#7")]);
    assert_eq!(rows_of(store, "a#1").await, BTreeMap::from([((3, "shared".to_owned()), 4)]));
    assert!(store.live(&scoped("c")).await.expect("live").is_empty());
    assert!(store.list(&scoped("c"), None, 10).await.expect("list").is_empty());
    let all = store.keys(&authority()).await.expect("keys");
    let all: Vec<String> = all.into_iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(all, ["a", "a#1", "a-b", "ab", "b#7"]);
}

/// I6: while windows fill, pass into the lake and are replaced, every reader finds what was counted = what is published
/// (below the boundary) + what is live, and never less than it found before.
async fn readers_see_whole_updates(store: &dyn HotStore) {
    const EVENTS: u64 = 600;
    const PER_MINUTE: u64 = 7;
    let done = AtomicBool::new(false);

    let writer = async {
        for event in 0..EVENTS {
            let minute = event / PER_MINUTE;
            let boundary = minute.saturating_sub(2);
            let count_of = |m: u64| if m == minute { event % PER_MINUTE + 1 } else { PER_MINUTE };
            let mut update = update("t", version(1, event + 1, 0), boundary as i64);
            update.meta.counted = event + 1;
            update.replaces_windows = event % 11 == 0;
            let first = if update.replaces_windows { boundary } else { minute };
            update.windows = (first..=minute).map(|m| window(m as i64, "m", count_of(m))).collect();
            update.currents = vec![current("m", event + 1)];
            assert_eq!(store.apply(&authority(), vec![update]).await.expect("apply"), [true]);
            let seen = live_of(store, "t").await.expect("known").meta.counted;
            assert_eq!(seen, event + 1, "a read sees what was applied before it");
        }
        done.store(true, Ordering::SeqCst);
    };
    let reader = || async {
        let mut before = 0;
        let mut reads = 0_u32;
        while !done.load(Ordering::SeqCst) {
            if let Some(live) = live_of(store, "t").await {
                let published = ((live.meta.boundary_ns - START) / MINUTE_NS) as u64 * PER_MINUTE;
                let sum: u64 = live.windows.iter().map(|window| window.row.count).sum();
                assert_eq!(published + sum, live.meta.counted, "{live:?}");
                assert!(live.meta.counted >= before);
                before = live.meta.counted;
                reads += 1;
            }
            step_aside().await;
        }
        assert!(reads > 0, "the reader never came to read");
    };
    together(vec![Box::pin(writer), Box::pin(reader()), Box::pin(reader())]).await;
}

/// What was applied before a restart is there after it, versions and notes included.
async fn a_restart_loses_nothing(backend: &dyn Backend) {
    let store = backend.empty().await;
    assert_eq!(store.held_shards(&authority()).await.expect("notes"), []);
    let mut first = update("t", version(1, 5, 2), 1);
    first.replaces_windows = true;
    first.currents = vec![current("a", 1), current("b", 2)];
    first.windows = vec![window(1, "a", 1), window(2, "b", 2)];
    let second = KeyUpdate { windows: vec![window(3, "c", 3)], ..update("u#4", version(2, 1, 0), 0) };
    store.apply(&authority(), vec![first.clone(), second]).await.expect("apply");
    for shard in [1, 0] {
        store.hold_shard(&authority(), ShardId(shard), 2).await.expect("note");
    }
    let before = (store.keys(&authority()).await.expect("keys"), store.live(&scoped("t")).await.expect("live"));
    let listed = store.list(&scoped("t"), None, 10).await.expect("list");

    let store = backend.reopen(store).await;
    let after = (store.keys(&authority()).await.expect("keys"), store.live(&scoped("t")).await.expect("live"));
    assert_eq!(before.0, after.0);
    let sorted = |mut live: Vec<(Key, LiveSnapshot)>| {
        live.iter_mut().for_each(|(_, snapshot)| snapshot.windows.sort_by_key(|window| window.start_ns));
        live
    };
    assert_eq!(sorted(before.1), sorted(after.1));
    assert_eq!(store.list(&scoped("t"), None, 10).await.expect("list"), listed);
    assert!(!live_of(&*store, "u#4").await.expect("known").complete, "a delta made no key complete");
    assert_eq!(store.apply(&authority(), vec![first]).await.expect("apply"), [false], "versions are kept");
    assert_eq!(store.held_shards(&authority()).await.expect("notes"), [(ShardId(0), 2), (ShardId(1), 2)]);

    // With another number of shards keys lie otherwise: what was noted before is void.
    store.hold_shard(&authority(), ShardId(3), 8).await.expect("note");
    let store = backend.reopen(store).await;
    assert_eq!(store.held_shards(&authority()).await.expect("notes"), [(ShardId(3), 8)]);
}

/// Runs futures of one task side by side until all are done.
async fn together(mut futures: Vec<Pin<Box<dyn Future<Output = ()> + '_>>>) {
    poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Lets the other futures of the task run.
async fn step_aside() {
    let mut stepped = false;
    let aside = poll_fn(|context| {
        if stepped {
            return Poll::Ready(());
        }
        stepped = true;
        context.waker().wake_by_ref();
        Poll::Pending
    });
    pin!(aside).await;
}
