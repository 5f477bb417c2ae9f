//! Applying epochs: once, in order, and only to what belongs to the writer.

use std::sync::atomic::Ordering;

use tidegauge_core::ids::{Key, LineageId};
use tidegauge_core::lake::StoreError;
use tidegauge_core::time::{Hour, MINUTE_NS};
use tidegauge_lake::apply::{Applied, ApplyError, Part, RowCache, Target, apply_hour, apply_parts};
use tidegauge_lake::object::{decode, encode};
use tidegauge_lake::{AggregatedRow, Footer};

use crate::support::{HOUR, MemoryStore, event_row, footer, hour_rows, tenant};

const PATH: &str = "aggregated/tenant_id=tenant-001/year=2026/month=03/day=02/hour=07/part-00000.parquet";

fn event(minute: i64, value: f64) -> Vec<AggregatedRow> {
    vec![event_row(minute, "m", value, 7, false)]
}

async fn apply(store: &MemoryStore, rows: &[AggregatedRow], footer: &Footer) -> Result<Applied, ApplyError> {
    apply_hour(store, &tenant("tenant-001"), 0, HOUR, rows, footer).await
}

async fn apply_cached(
    store: &MemoryStore,
    cache: &RowCache,
    parts: &[Part<'_>],
    footer: &Footer,
) -> Result<Applied, ApplyError> {
    let tenant = tenant("tenant-001");
    apply_parts(store, Some(cache), &Target { tenant: &tenant, bucket: 0, hour: HOUR }, parts, footer).await
}

fn stored(store: &MemoryStore) -> (Vec<AggregatedRow>, Footer) {
    decode(store.content(PATH).expect("an object")).expect("decodes")
}

fn events_in(store: &MemoryStore) -> u64 {
    stored(store).0.iter().map(|row| row.row.count).sum()
}

/// Each epoch is in the object once, however often it is applied; a repeated one is not written and answers alike.
#[tokio::test]
async fn an_epoch_is_applied_once() {
    let store = MemoryStore::default();
    for epoch in 1..=3 {
        let first = apply(&store, &event(0, epoch as f64), &footer(epoch)).await.expect("applies");
        assert!(!first.skipped);
        let again = apply(&store, &event(0, epoch as f64), &footer(epoch)).await.expect("applies again");
        assert!(again.skipped);
        assert_eq!(again.entry, first.entry);
        assert_eq!((first.entry.path.as_str(), first.entry.rows, first.entry.epoch), (PATH, 1, epoch));
        assert_eq!(first.entry.bytes, store.content(PATH).expect("an object").len() as u64);
    }
    let (rows, found) = stored(&store);
    assert_eq!((rows[0].row.count, rows[0].row.sum.value(), rows[0].row.last, rows[0].revision), (3, 6.0, 3.0, 3));
    assert_eq!(found, footer(3));
    assert_eq!(store.replaces.load(Ordering::SeqCst), 3);
}

/// An answer that was lost after the replace happened: the repeated application finds its own work.
#[tokio::test]
async fn a_lost_answer_is_repeated_safely() {
    for cache in [RowCache::new(0), RowCache::new(1 << 20)] {
        let store = MemoryStore::default();
        for epoch in 1..=3 {
            *store.fail_after.lock().expect("lock") = true;
            let (rows, footer) = (event(0, 1.0), footer(epoch));
            let parts = [Part { epoch, rows: &rows }];
            let lost = apply_cached(&store, &cache, &parts, &footer).await;
            assert!(matches!(lost, Err(ApplyError::Store(StoreError::Unavailable(_)))), "{lost:?}");
            assert!(apply_cached(&store, &cache, &parts, &footer).await.expect("applies").skipped);
            assert_eq!(events_in(&store), epoch);
        }
    }
}

/// Parked rows keep the epoch that first carried them: only what is above the footer is merged.
#[tokio::test]
async fn parked_rows_are_applied_once() {
    let store = MemoryStore::default();
    let (five, seven) = (event(0, 5.0), event(1, 7.0));
    apply(&store, &event(2, 3.0), &footer(3)).await.expect("applies");
    let cache = RowCache::new(1 << 20);
    let parts = [Part { epoch: 7, rows: &seven }, Part { epoch: 5, rows: &five }];
    // The rows of epoch 5 failed and were parked; they go in with epoch 7, and again after a crash.
    for round in 0..3 {
        let applied = apply_cached(&store, &cache, &parts, &footer(7)).await.expect("applies");
        assert_eq!(applied.skipped, round > 0);
        assert_eq!(events_in(&store), 3);
    }
    // Had epoch 5 gone in after all, only epoch 7 would be merged.
    let store = MemoryStore::default();
    apply(&store, &five, &footer(5)).await.expect("applies");
    apply_cached(&store, &RowCache::new(0), &parts, &footer(7)).await.expect("applies");
    assert_eq!(events_in(&store), 2);
}

/// An object that this worker wrote last is not read again; one that another writer changed meanwhile is.
#[tokio::test]
async fn the_cache_saves_reads_and_never_decides_wrongly() {
    let (store, cache) = (MemoryStore::default(), RowCache::new(1 << 20));
    for epoch in 1..=4 {
        let rows = event(0, 1.0);
        apply_cached(&store, &cache, &[Part { epoch, rows: &rows }], &footer(epoch)).await.expect("applies");
    }
    assert_eq!(store.gets.load(Ordering::SeqCst), 1, "the first application looks, later ones know");
    assert!(cache.bytes() > 0);

    // Somebody else wrote epoch 5: the cached rows are of epoch 4, the conditional replace fails, the object is read.
    store.put(PATH, encode(&hour_rows(1), &footer(5)).expect("encodes"));
    let rows = event(0, 1.0);
    let applied = apply_cached(&store, &cache, &[Part { epoch: 5, rows: &rows }], &footer(5)).await.expect("applies");
    assert!(applied.skipped);
    assert_eq!(stored(&store).0, hour_rows(1));

    // The cached object is of epoch 5, which would be ahead; what stands there now is of epoch 3.
    store.put(PATH, encode(&event(0, 1.0), &footer(3)).expect("encodes"));
    apply_cached(&store, &cache, &[Part { epoch: 4, rows: &rows }], &footer(4)).await.expect("applies");
    assert_eq!(events_in(&store), 2);
    cache.clear();
    assert_eq!(cache.bytes(), 0);
}

/// The cache holds no more than its bytes; the object used longest ago leaves first.
#[tokio::test]
async fn the_cache_is_bounded() {
    let (store, tenant) = (MemoryStore::default(), tenant("tenant-001"));
    let cache = RowCache::new(8_000);
    let target = |hour: i64| Target { tenant: &tenant, bucket: 0, hour: Hour(HOUR.0 + hour) };
    for hour in 0..40 {
        let mut rows = event(0, 1.0);
        rows[0].start_ns += hour * 60 * MINUTE_NS;
        rows[0].end_ns += hour * 60 * MINUTE_NS;
        let parts = [Part { epoch: 1, rows: &rows }];
        apply_parts(&store, Some(&cache), &target(hour), &parts, &footer(1)).await.expect("applies");
        assert!(cache.bytes() <= 8_000 && cache.bytes() > 0);
    }
    assert!(cache.take(&target(0).path()).is_none());
    assert!(cache.take(&target(39).path()).is_some());
}

/// A writer that finds the object changed by others repeats a bounded number of times.
#[tokio::test]
async fn conflicts_are_retried_within_bounds() {
    let store = MemoryStore::default();
    let other = |epoch| encode(&event(5, 1.0), &footer(epoch)).expect("encodes");
    store.intruders.lock().expect("lock").push(other(1));
    let applied = apply(&store, &event(0, 1.0), &footer(2)).await.expect("applies on the second try");
    assert!(!applied.skipped);
    assert_eq!(events_in(&store), 2);

    store.intruders.lock().expect("lock").extend((0..10).map(|_| other(2)));
    let contended = apply(&store, &event(0, 1.0), &footer(3)).await;
    assert!(matches!(contended, Err(ApplyError::Contended { .. })), "{contended:?}");
    assert!(!contended.expect_err("contended").stops_key());
}

/// Objects of another history, ahead of the checkpoint, of another key, or unreadable are left alone, with advice.
#[tokio::test]
async fn what_does_not_belong_stops_the_key() {
    let ours = footer(10);
    let changed = |change: fn(&mut Footer)| {
        let mut footer = footer(10);
        change(&mut footer);
        encode(&event(0, 1.0), &footer).expect("encodes")
    };
    type Check = fn(&ApplyError) -> bool;
    let ahead: Check = |error| matches!(error, ApplyError::Ahead { .. });
    let cases: Vec<(&str, bytes::Bytes, Check)> = vec![
        ("lineage", changed(|f| f.lineage = LineageId(9)), |e| matches!(e, ApplyError::ForeignLineage { .. })),
        ("key", changed(|f| f.key = Key::parse("other").expect("a key")), |e| matches!(e, ApplyError::WrongKey { .. })),
        ("bucket", changed(|f| f.key.bucket = 1), |e| matches!(e, ApplyError::WrongKey { .. })),
        ("later epoch", changed(|f| f.epoch = 11), ahead),
        ("later lease", changed(|f| (f.epoch, f.generation) = (9, 4)), ahead),
        ("earlier epoch at a later ordinal", changed(|f| (f.epoch, f.ordinal) = (9, 1_001)), ahead),
        ("same epoch at another ordinal", changed(|f| f.ordinal = 999), ahead),
        ("later schema", changed(|f| f.schema_version += 1), |e| matches!(e, ApplyError::Unreadable { .. })),
        ("no parquet", "garbage".into(), |e| matches!(e, ApplyError::Unreadable { .. })),
    ];
    for (name, content, check) in cases {
        let store = MemoryStore::default();
        store.put(PATH, content.clone());
        let refused = apply(&store, &event(0, 1.0), &ours).await.expect_err(name);
        assert!(check(&refused) && refused.stops_key(), "{name}: {refused:?}");
        assert!(refused.to_string().contains(PATH), "{refused}");
        assert_eq!(store.content(PATH), Some(content), "{name}");
        assert_eq!(store.replaces.load(Ordering::SeqCst), 0, "{name}");
    }
}

/// Rows outside the hour, of a later epoch than the footer or for another key are refused before anything is read.
#[tokio::test]
async fn the_callers_mistakes_are_refused() {
    let store = MemoryStore::default();
    let mut spanning = event(59, 1.0);
    spanning[0].end_ns += MINUTE_NS;
    for rows in [event(60, 1.0), event(-1, 1.0), spanning, Vec::new()] {
        let refused = apply(&store, &rows, &footer(1)).await;
        assert!(matches!(refused, Err(ApplyError::Invalid { .. })), "{refused:?}");
    }
    let mut other = footer(1);
    other.key.bucket = 1;
    assert!(matches!(apply(&store, &event(0, 1.0), &other).await, Err(ApplyError::Invalid { .. })));
    let rows = event(0, 1.0);
    let later = apply_cached(&store, &RowCache::new(0), &[Part { epoch: 2, rows: &rows }], &footer(1)).await;
    assert!(matches!(later, Err(ApplyError::Invalid { .. })), "{later:?}");
    assert!(store.content(PATH).is_none());
}
