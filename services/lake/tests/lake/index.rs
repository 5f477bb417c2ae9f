//! The hour index: idempotent, never short, made again when it is lost.

use std::sync::atomic::Ordering;

use tidegauge_core::ids::Key;
use tidegauge_core::time::{Day, Hour, MINUTE_NS};
use tidegauge_lake::apply::{Part, Target, apply_parts};
use tidegauge_lake::index::{self, DayIndex, IndexEntry, IndexError, Updated};
use tidegauge_lake::paths;

use crate::support::{HOUR, MemoryStore, event_row, footer, tenant};

const TENANT: &str = "tenant-001";

/// Writes an hour object of a bucket, without the index.
async fn write(store: &MemoryStore, bucket: u32, hour: Hour, epoch: u64) -> IndexEntry {
    let (tenant, mut footer) = (tenant(TENANT), footer(epoch));
    footer.key.bucket = bucket;
    let mut row = event_row(0, "m", 1.0, 0, false);
    row.start_ns = hour.start_ns();
    row.end_ns = hour.start_ns() + MINUTE_NS;
    let rows = [row];
    let target = Target { tenant: &tenant, bucket, hour };
    apply_parts(store, None, &target, &[Part { epoch, rows: &rows }], &footer).await.expect("applies").entry
}

async fn update(store: &MemoryStore, entries: &[IndexEntry]) -> Result<Updated, IndexError> {
    index::update(store, &tenant(TENANT), 0, HOUR.day(), entries).await
}

async fn load(store: &MemoryStore) -> Result<Option<DayIndex>, IndexError> {
    index::load(store, &tenant(TENANT), 0, HOUR.day()).await
}

fn index_path() -> String {
    paths::aggregated_index(&tenant(TENANT), 0, HOUR.day())
}

fn later(hours: i64) -> Hour {
    Hour(HOUR.0 + hours)
}

fn without_versions(index: &DayIndex) -> Vec<IndexEntry> {
    index.entries.iter().map(|entry| IndexEntry { version: None, ..entry.clone() }).collect()
}

/// Entries are added and replaced by later epochs, in the order of hours; repeating an update writes nothing.
#[tokio::test]
async fn updates_are_idempotent() {
    let store = MemoryStore::default();
    assert_eq!(load(&store).await.expect("loads"), None);
    let second = write(&store, 0, later(1), 1).await;
    let first = write(&store, 0, HOUR, 1).await;
    assert!(update(&store, &[second.clone(), first.clone()]).await.expect("updates").changed);
    let writes = store.replaces.load(Ordering::SeqCst);
    let again = update(&store, &[first.clone(), second.clone()]).await.expect("updates");
    assert_eq!(again, Updated { changed: false, rebuilt: false });
    assert_eq!(store.replaces.load(Ordering::SeqCst), writes);
    let index = load(&store).await.expect("loads").expect("an index");
    assert_eq!((index.key, index.entries), (Key::parse(TENANT).expect("a key"), vec![first.clone(), second.clone()]));

    let corrected = write(&store, 0, HOUR, 2).await;
    assert!(update(&store, std::slice::from_ref(&corrected)).await.expect("updates").changed);
    assert!(!update(&store, &[first]).await.expect("updates").changed, "an earlier epoch changes nothing");
    assert_eq!(load(&store).await.expect("loads").expect("an index").entries, [corrected, second]);
}

/// An index that was lost or damaged is made from the lake at the next update, with all hours of the day.
#[tokio::test]
async fn a_lost_or_damaged_index_is_never_short() {
    let store = MemoryStore::default();
    let mut entries = Vec::new();
    for hour in 0..3 {
        entries.push(write(&store, 0, later(hour), 1).await);
        write(&store, 1, later(hour), 1).await;
        update(&store, &entries[entries.len() - 1..]).await.expect("updates");
    }
    let whole = load(&store).await.expect("loads").expect("an index");
    let content = store.content(&index_path()).expect("content");
    for at in 0..content.len() {
        let mut damaged = content.to_vec();
        damaged[at] ^= 1;
        store.put(&index_path(), damaged);
        let found = load(&store).await;
        assert!(matches!(found, Err(IndexError::Damaged { .. } | IndexError::Newer { .. })), "byte {at}: {found:?}");
    }
    for lost in [true, false] {
        store.put(&index_path(), "{");
        if lost {
            store.remove(&index_path());
        }
        let updated = update(&store, &entries[..1]).await.expect("updates");
        assert_eq!(updated, Updated { changed: true, rebuilt: true });
        let found = load(&store).await.expect("loads").expect("an index");
        assert_eq!(without_versions(&found), without_versions(&whole));
    }
}

/// A rebuild finds every object of the key and of no other, removes what is not there, and changes nothing when right.
#[tokio::test]
async fn a_rebuild_equals_the_lake() {
    let (store, tenant) = (MemoryStore::default(), tenant(TENANT));
    let mut entries = Vec::new();
    for hour in [0, 1, 24, 24 * 40] {
        entries.push(write(&store, 0, later(hour), 1).await);
    }
    write(&store, 1, HOUR, 1).await;
    for foreign in ["notes.txt", "aggregated/tenant_id=tenant-001/x.parquet", "aggregated/tenant_id=tenant-0011/x"] {
        store.put(foreign, "not ours");
    }
    // A day that has an index and no objects, and an object that cannot be read.
    let empty_day = Day(HOUR.day().0 - 5);
    let gone = write(&store, 0, Hour::of(empty_day.start_ns()), 1).await;
    index::update(&store, &tenant, 0, empty_day, std::slice::from_ref(&gone)).await.expect("updates");
    store.remove(&gone.path);
    let broken = paths::aggregated_object(&tenant, 0, later(2));
    store.put(&broken, "garbage that is long enough");

    let rebuilt = index::rebuild(&store, &tenant, 0).await.expect("rebuilds");
    let days = [HOUR.day(), later(24).day(), later(24 * 40).day()];
    assert_eq!((rebuilt.days, rebuilt.objects), (3, 5));
    assert_eq!(rebuilt.unreadable, std::slice::from_ref(&broken));
    assert_eq!(rebuilt.changed, [empty_day, days[0], days[1], days[2]]);
    assert_eq!(index::days(&store, &tenant).await.expect("days").remove(&0), Some(days.to_vec()));
    let index = load(&store).await.expect("loads").expect("an index");
    let paths: Vec<&str> = index.entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, [entries[0].path.as_str(), &entries[1].path, &broken], "queries must find out that it is broken");
    assert_eq!(index.entries[2].epoch, 0);

    let again = index::rebuild(&store, &tenant, 0).await.expect("rebuilds");
    assert_eq!(again.changed, []);
    // What the owner writes afterwards replaces what a rebuild entered.
    assert!(update(&store, &entries[..1]).await.expect("updates").changed);
    assert!(index::rebuild(&store, &tenant, 0).await.expect("rebuilds").changed.is_empty());
}

/// A key whose index was lost gets it back, whatever part of it is left; one whose index is whole is left alone, and so
/// is a key without objects on a day that other keys of the tenant have.
#[tokio::test]
async fn a_lost_index_is_restored() {
    let (store, tenant) = (MemoryStore::default(), tenant(TENANT));
    for (bucket, hour) in [(0, 0), (0, 24), (1, 0)] {
        write(&store, bucket, later(hour), 1).await;
    }
    store.put("aggregated/tenant_id=tenant-001/year=2026/month=3/day=2/hour=00/part-00000.parquet", "not ours");
    let days = [HOUR.day(), later(24).day()];
    assert_eq!(index::lake_days(&store, &tenant).await.expect("days"), days);
    assert_eq!(index::restore(&store, &tenant, 0).await.expect("restores"), days);
    assert_eq!(index::restore(&store, &tenant, 0).await.expect("restores"), []);
    assert_eq!(index::restore(&store, &tenant, 1).await.expect("restores"), days[..1]);
    assert_eq!(index::restore(&store, &tenant, 2).await.expect("restores"), [], "it never had one");
    assert_eq!(index::days(&store, &tenant).await.expect("days").len(), 2);

    // One day is left: of a rebuild that a crash ended, or because the worker wrote it before it looked.
    store.remove(&index_path());
    assert_eq!(index::restore(&store, &tenant, 0).await.expect("restores"), days[..1]);
    assert_eq!(index::restore(&store, &tenant, 0).await.expect("restores"), []);
}

/// An entry of another day, bucket or tenant is refused.
#[tokio::test]
async fn entries_stay_in_their_place() {
    let store = MemoryStore::default();
    let misplaced = [write(&store, 0, later(24), 1).await, write(&store, 1, HOUR, 1).await];
    for entry in misplaced {
        let refused = update(&store, &[entry]).await;
        assert!(matches!(refused, Err(IndexError::Misplaced { .. })), "{refused:?}");
    }
}
