//! Conformance of a checkpoint store.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::checkpoint::{Acquired, Change, CheckpointStore, Lease, StoreError};
use crate::ids::ShardId;
use crate::log::Position;

/// Makes the stores that the suite tests.
#[async_trait]
pub trait Backend: Send + Sync {
    /// A store without content, apart from all others.
    async fn empty(&self) -> Arc<dyn CheckpointStore>;
    /// The same content after a restart. The suite holds no other reference to the store.
    async fn reopen(&self, store: Arc<dyn CheckpointStore>) -> Arc<dyn CheckpointStore>;
}

/// Runs every test of the suite.
pub async fn all(backend: &dyn Backend) {
    a_new_shard_is_empty(backend).await;
    an_epoch_is_kept(backend).await;
    epochs_come_in_order(&*backend.empty().await).await;
    older_leases_are_fenced(&*backend.empty().await).await;
    broken_requests_change_nothing(&*backend.empty().await).await;
    long_histories_stay_whole(backend).await;
}

const SHARD: ShardId = ShardId(3);

fn position(text: &str) -> Position {
    Position(Bytes::copy_from_slice(text.as_bytes()))
}

fn put(keyspace: u8, key: &str, value: &str) -> Change {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    Change { keyspace, key: Bytes::copy_from_slice(key.as_bytes()), value }
}

fn delete(keyspace: u8, key: &str) -> Change {
    Change { keyspace, key: Bytes::copy_from_slice(key.as_bytes()), value: None }
}

/// Entries as text.
fn entries(acquired: &Acquired) -> Vec<(u8, String, String)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
    acquired.entries.iter().map(|(keyspace, key, value)| (*keyspace, text(key), text(value))).collect()
}

fn expect_entries(acquired: &Acquired, expected: &[(u8, &str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(s, k, v)| (*s, (*k).to_owned(), (*v).to_owned())).collect();
    assert_eq!(entries(acquired), expected);
}

/// A shard never seen has a lineage of its own, which stays, and nothing else.
async fn a_new_shard_is_empty(backend: &dyn Backend) {
    let store = backend.empty().await;
    let first = store.acquire(SHARD).await.expect("acquire");
    assert_eq!((first.progress.prepared, first.progress.completed, first.progress.ordinal), (0, 0, 0));
    assert!(first.progress.position.is_start() && first.entries.is_empty() && first.lease.generation > 0);
    let other = store.acquire(ShardId(4)).await.expect("acquire");
    assert_ne!(other.progress.lineage, first.progress.lineage);

    let store = backend.reopen(store).await;
    let again = store.acquire(SHARD).await.expect("acquire");
    assert_eq!(again.progress, first.progress);
    assert!(again.lease.generation > first.lease.generation, "the generation survives a restart");
}

/// `acquire` finds the last prepared epoch, completed or not, sorted and with the deletions done.
async fn an_epoch_is_kept(backend: &dyn Backend) {
    let store = backend.empty().await;
    let lease = store.acquire(SHARD).await.expect("acquire").lease;
    let changes = vec![put(2, "b", "1"), put(1, "z", ""), put(2, "a", "2"), delete(2, "never"), put(255, "a", "3")];
    store.prepare(&lease, 1, &position("p1"), 10, changes).await.expect("prepare");

    let store = backend.reopen(store).await;
    let found = store.acquire(SHARD).await.expect("acquire");
    let progress = &found.progress;
    assert_eq!((progress.prepared, progress.completed, progress.ordinal), (1, 0, 10));
    assert_eq!(progress.position, position("p1"));
    expect_entries(&found, &[(1, "z", ""), (2, "a", "2"), (2, "b", "1"), (255, "a", "3")]);

    store.complete(&found.lease, 1).await.expect("complete");
    store.complete(&found.lease, 1).await.expect("complete again");
    let changes = vec![delete(1, "z"), put(2, "a", "4"), delete(255, "a"), put(255, "a", "5"), put(0, "new", "6")];
    store.prepare(&found.lease, 2, &position("p2"), 12, changes).await.expect("prepare");
    store.complete(&found.lease, 2).await.expect("complete");

    let store = backend.reopen(store).await;
    let found = store.acquire(SHARD).await.expect("acquire");
    assert_eq!((found.progress.prepared, found.progress.completed, found.progress.ordinal), (2, 2, 12));
    expect_entries(&found, &[(0, "new", "6"), (2, "a", "4"), (2, "b", "1"), (255, "a", "5")]);
}

/// One epoch in flight at a time, each one above the last.
async fn epochs_come_in_order(store: &dyn CheckpointStore) {
    let lease = store.acquire(SHARD).await.expect("acquire").lease;
    let prepare =
        async |epoch, value| store.prepare(&lease, epoch, &position("p"), epoch, vec![put(1, "k", value)]).await;
    let conflicts = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Conflict(_)));

    assert!(conflicts(prepare(2, "x").await), "epoch 1 comes first");
    assert!(conflicts(prepare(0, "x").await));
    assert!(conflicts(store.complete(&lease, 1).await), "nothing is prepared");
    prepare(1, "one").await.expect("prepare");
    assert!(conflicts(prepare(1, "x").await), "epoch 1 is there");
    assert!(conflicts(prepare(2, "x").await), "epoch 1 is not complete");
    assert!(conflicts(store.complete(&lease, 2).await));
    store.complete(&lease, 1).await.expect("complete");
    prepare(2, "two").await.expect("prepare");
    store.complete(&lease, 1).await.expect("an older epoch is complete already");

    let found = store.acquire(SHARD).await.expect("acquire");
    assert_eq!((found.progress.prepared, found.progress.completed), (2, 1));
    expect_entries(&found, &[(1, "k", "two")]);
}

/// From the return of `acquire` on, an older lease writes nothing, and changes nothing by trying.
async fn older_leases_are_fenced(store: &dyn CheckpointStore) {
    let old = store.acquire(SHARD).await.expect("acquire").lease;
    store.prepare(&old, 1, &position("p1"), 1, vec![put(1, "k", "old")]).await.expect("prepare");
    let new = store.acquire(SHARD).await.expect("acquire").lease;
    let fenced = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Fenced(_)));
    assert!(fenced(store.complete(&old, 1).await));
    store.complete(&new, 1).await.expect("complete");
    assert!(fenced(store.prepare(&old, 2, &position("p2"), 2, vec![put(1, "k", "fenced")]).await));
    let foreign = Lease { shard: ShardId(9), generation: 1 };
    assert!(fenced(store.complete(&foreign, 1).await), "a shard never acquired here has no lease");
    store.prepare(&new, 2, &position("p2"), 2, vec![put(1, "k", "new")]).await.expect("prepare");

    let found = store.acquire(SHARD).await.expect("acquire");
    assert_eq!((found.progress.prepared, found.progress.completed), (2, 1));
    expect_entries(&found, &[(1, "k", "new")]);
}

/// A key without bytes, or with too many, is refused with its whole epoch; keys and values up to their limits are kept.
async fn broken_requests_change_nothing(store: &dyn CheckpointStore) {
    let lease = store.acquire(SHARD).await.expect("acquire").lease;
    let long = "k".repeat(65_536);
    for bad in ["", long.as_str()] {
        let changes = vec![put(1, "good", "x"), put(1, bad, "x")];
        let refused = store.prepare(&lease, 1, &position("p"), 1, changes).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    }
    let big = "v".repeat(3 << 20);
    let changes = vec![put(1, &long[1..], &big), put(1, "k", ""), put(2, "a", "1")];
    store.prepare(&lease, 1, &position("p"), 1, changes).await.expect("prepare");
    let found = store.acquire(SHARD).await.expect("acquire");
    expect_entries(&found, &[(1, "k", ""), (1, &long[1..], &big), (2, "a", "1")]);
}

/// Hundreds of epochs over many keys, with restarts between, end in what a map would hold.
async fn long_histories_stay_whole(backend: &dyn Backend) {
    let mut store = backend.empty().await;
    let mut lease = store.acquire(SHARD).await.expect("acquire").lease;
    let mut model = BTreeMap::new();
    let mut state = 1_u64;
    let mut random = |below: u64| {
        // xorshift64: any sequence will do, the same one each time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for epoch in 1..=120 {
        let mut changes = Vec::new();
        for _ in 0..random(40) {
            let (keyspace, key) = (random(3) as u8, format!("key-{}", random(300)));
            let value = (random(4) > 0).then(|| format!("{epoch}-{}", "x".repeat(random(200) as usize)));
            match value {
                Some(value) => {
                    changes.push(put(keyspace, &key, &value));
                    model.insert((keyspace, key), value);
                }
                None => {
                    changes.push(delete(keyspace, &key));
                    model.remove(&(keyspace, key));
                }
            }
        }
        store.prepare(&lease, epoch, &position(&format!("p{epoch}")), epoch * 7, changes).await.expect("prepare");
        store.complete(&lease, epoch).await.expect("complete");
        if epoch % 37 == 0 {
            store = backend.reopen(store).await;
            let found = store.acquire(SHARD).await.expect("acquire");
            let expected: Vec<_> = model.iter().map(|((s, k), v)| (*s, k.clone(), v.clone())).collect();
            assert_eq!(entries(&found), expected, "epoch {epoch}");
            assert_eq!(found.progress.position, position(&format!("p{epoch}")));
            lease = found.lease;
        }
    }
}
