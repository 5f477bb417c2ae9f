//! The checkpoint store passes the conformance suite, stays whole through a crash between any two file operations, and
//! refuses every damage.

mod memory_files;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use tidegauge_core::checkpoint::{Acquired, Change, CheckpointStore, StoreError};
use tidegauge_core::conformance::checkpoint::{self, Backend};
use tidegauge_core::ids::ShardId;
use tidegauge_core::limits::CHECKPOINT_FILES_AT_ONCE;
use tidegauge_core::log::Position;
use tidegauge_embedded::checkpoint::files::DiskFiles;
use tidegauge_embedded::checkpoint::{Compaction, FileCheckpointStore};

use self::memory_files::{Leftovers, MemoryFiles};

const SHARD: ShardId = ShardId(0);
/// Merges soon, and always at the same point.
const EAGER: Compaction = Compaction { deltas_max: 3, bytes_min: 1 << 20, inline: true };

/// Stores in directories of one temporary folder.
struct Embedded {
    folder: tempfile::TempDir,
    made: Mutex<u32>,
    compaction: Compaction,
}

impl Embedded {
    fn store(&self) -> Arc<dyn CheckpointStore> {
        let dir = self.folder.path().join(self.made.lock().expect("lock").to_string());
        Arc::new(FileCheckpointStore::with_files(&dir, Arc::new(DiskFiles), self.compaction).expect("opens"))
    }
}

#[async_trait]
impl Backend for Embedded {
    async fn empty(&self) -> Arc<dyn CheckpointStore> {
        *self.made.lock().expect("lock") += 1;
        self.store()
    }

    async fn reopen(&self, store: Arc<dyn CheckpointStore>) -> Arc<dyn CheckpointStore> {
        drop(store);
        self.store()
    }
}

/// On disk, with merges aside, as late as in production and much sooner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    for compaction in [Compaction::default(), Compaction { inline: false, ..EAGER }] {
        let folder = tempfile::tempdir().expect("folder");
        checkpoint::all(&Embedded { folder, made: Mutex::new(0), compaction }).await;
    }
}

type Model = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

fn change(keyspace: u8, key: &str, value: Option<&str>) -> Change {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Change { keyspace, key: bytes(key), value: value.map(bytes) }
}

fn position(epoch: u64) -> Position {
    Position(Bytes::from(epoch.to_string()))
}

fn apply(model: &mut Model, changes: &[Change]) {
    for change in changes {
        let key = (change.keyspace, change.key.to_vec());
        match &change.value {
            Some(value) => model.insert(key, value.to_vec()),
            None => model.remove(&key),
        };
    }
}

/// What `acquire` hands over, comparable.
#[derive(Clone, PartialEq, Debug)]
struct State {
    prepared: u64,
    completed: u64,
    position: Position,
    ordinal: u64,
    entries: Model,
}

impl State {
    fn new() -> Self {
        Self { prepared: 0, completed: 0, position: Position::start(), ordinal: 0, entries: Model::new() }
    }

    fn of(acquired: Acquired) -> Self {
        let count = acquired.entries.len();
        let entries: Model =
            acquired.entries.into_iter().map(|(s, key, value)| ((s, key.to_vec()), value.to_vec())).collect();
        assert_eq!(entries.len(), count, "no key twice");
        let progress = acquired.progress;
        Self {
            prepared: progress.prepared,
            completed: progress.completed,
            position: progress.position,
            ordinal: progress.ordinal,
            entries,
        }
    }

    fn prepare(&mut self, changes: &[Change]) {
        self.prepared += 1;
        self.position = position(self.prepared);
        self.ordinal = self.prepared * 10;
        apply(&mut self.entries, changes);
    }
}

fn open(files: &MemoryFiles) -> Result<FileCheckpointStore, StoreError> {
    FileCheckpointStore::with_files(Path::new("/state"), Arc::new(files.clone()), EAGER)
}

/// Changes of an epoch: each writes its number, so that states differ, and deletes something older.
fn changes_of(epoch: u64) -> Vec<Change> {
    let number = epoch.to_string();
    vec![
        change(1, "always", Some(&number)),
        change(2, &format!("once-{epoch}"), Some(&number)),
        change(2, &format!("once-{}", epoch.saturating_sub(2)), None),
    ]
}

/// Runs epochs until something fails. Returns the states that a restart may find: the last acknowledged one and, if an
/// operation failed, the one that it would have made.
async fn run_until_crash(files: &MemoryFiles, epochs: u64) -> (State, State) {
    let mut state = State::new();
    let Ok(store) = open(files) else { return (state.clone(), state) };
    let Ok(acquired) = store.acquire(SHARD).await else { return (state.clone(), state) };
    let lease = acquired.lease;
    for epoch in 1..=epochs {
        let mut next = state.clone();
        next.prepare(&changes_of(epoch));
        let changes = changes_of(epoch);
        if store.prepare(&lease, epoch, &position(epoch), epoch * 10, changes).await.is_err() {
            return (state, next);
        }
        state = next.clone();
        next.completed = epoch;
        if store.complete(&lease, epoch).await.is_err() {
            return (state, next);
        }
        state = next;
    }
    (state.clone(), state)
}

/// I1 for the checkpoint: crashed between any two file operations, whatever of the unsynced survives, a restart finds
/// the last acknowledged state or the one in the making, and goes on from there.
#[tokio::test]
async fn a_crash_between_any_two_operations_leaves_before_or_after() {
    const EPOCHS: u64 = 9;
    let whole = MemoryFiles::default();
    run_until_crash(&whole, EPOCHS).await;
    let operations = whole.operations();
    assert!(operations > 100, "only {operations} operations");
    let bases = whole.contents().into_keys().filter(|path| path.to_string_lossy().contains("base-")).count();
    assert_eq!(bases, 1, "the epochs came with merges");

    for crash_at in 0..=operations {
        let files = MemoryFiles::default();
        files.crash_at(crash_at);
        let (before, after) = run_until_crash(&files, EPOCHS).await;
        for leftovers in [Leftovers::Nothing, Leftovers::Everything, Leftovers::HalfTheBytes] {
            let survived = files.after_crash(leftovers);
            let store = open(&survived).expect("opens");
            let acquired = store.acquire(SHARD).await;
            let acquired = acquired.unwrap_or_else(|e| panic!("crash at {crash_at}, {leftovers:?}: {e}"));
            let lease = acquired.lease;
            let mut found = State::of(acquired);
            assert!(found == before || found == after, "crash at {crash_at}, {leftovers:?}: {found:?}");

            // Only what the manifest names is left, and the history goes on.
            let names = survived.contents().into_keys().filter(|path| !path.ends_with("manifest")).count();
            assert!(names <= 5, "crash at {crash_at}: {:?}", survived.contents().keys());
            store.complete(&lease, found.prepared).await.expect("complete");
            let epoch = found.prepared + 1;
            store.prepare(&lease, epoch, &position(epoch), epoch * 10, changes_of(epoch)).await.expect("goes on");
            found.completed = found.prepared;
            found.prepare(&changes_of(epoch));
            assert_eq!(State::of(store.acquire(SHARD).await.expect("acquire")), found);
        }
    }
}

/// A disk with a base, deltas and a manifest, and what is on it.
/// However few descriptors are left, an epoch is done or can be tried again under the same lease; a merge that finds none is
/// only late.
#[tokio::test]
async fn want_of_descriptors_can_be_tried_again() {
    let mut refusals = 0;
    for opens in 0..14 {
        let files = MemoryFiles::default();
        let store = open(&files).expect("opens");
        let acquired = store.acquire(SHARD).await.expect("acquires");
        let lease = acquired.lease;
        let mut state = State::of(acquired);
        for epoch in 1..=6 {
            if epoch == 3 {
                files.opens_left(Some(opens));
            }
            let prepare = async || store.prepare(&lease, epoch, &position(epoch), epoch * 10, changes_of(epoch)).await;
            if let Err(error) = prepare().await {
                assert!(matches!(error, StoreError::Io { .. }), "{opens} opens: {error}");
                refusals += 1;
                files.opens_left(None);
                prepare().await.expect("again");
            }
            state.prepare(&changes_of(epoch));
            if let Err(error) = store.complete(&lease, epoch).await {
                assert!(matches!(error, StoreError::Io { .. }), "{opens} opens: {error}");
                refusals += 1;
                files.opens_left(None);
                store.complete(&lease, epoch).await.expect("again");
            }
            state.completed = epoch;
        }
        drop(store);
        files.opens_left(None);
        let found = State::of(open(&files).expect("opens").acquire(SHARD).await.expect("acquires"));
        assert_eq!(found, state, "{opens} opens");
    }
    assert!(refusals > 5, "{refusals} refusals");
}

/// A shard with more files than are read at once is read in rounds, and is the same.
#[tokio::test]
async fn many_files_are_read_in_rounds() {
    const EPOCHS: u64 = 3 * CHECKPOINT_FILES_AT_ONCE as u64;
    let files = MemoryFiles::default();
    let never = Compaction { deltas_max: usize::MAX / 4, bytes_min: u64::MAX, inline: true };
    let store = FileCheckpointStore::with_files(Path::new("/state"), Arc::new(files.clone()), never).expect("opens");
    let acquired = store.acquire(SHARD).await.expect("acquires");
    let lease = acquired.lease;
    let mut state = State::of(acquired);
    for epoch in 1..=EPOCHS {
        store.prepare(&lease, epoch, &position(epoch), epoch * 10, changes_of(epoch)).await.expect("prepares");
        store.complete(&lease, epoch).await.expect("completes");
        state.prepare(&changes_of(epoch));
        state.completed = epoch;
    }
    drop(store);
    assert_eq!(files.contents().len() as u64, EPOCHS + 1, "nothing was merged");
    // Merging takes them in rounds too.
    let store = open(&files).expect("opens");
    let acquired = store.acquire(SHARD).await.expect("acquires");
    let lease = acquired.lease;
    assert_eq!(State::of(acquired), state);
    for epoch in EPOCHS + 1..EPOCHS + 12 {
        store.prepare(&lease, epoch, &position(epoch), epoch * 10, changes_of(epoch)).await.expect("prepares");
        store.complete(&lease, epoch).await.expect("completes");
        state.prepare(&changes_of(epoch));
        state.completed = epoch;
    }
    drop(store);
    assert!(files.contents().len() < 12, "{:?}", files.contents().keys());
    assert_eq!(State::of(open(&files).expect("opens").acquire(SHARD).await.expect("acquires")), state);
}

async fn written() -> (MemoryFiles, State) {
    let files = MemoryFiles::default();
    let (state, _) = run_until_crash(&files, 5).await;
    let names: Vec<PathBuf> = files.contents().into_keys().collect();
    assert!(names.iter().any(|path| path.to_string_lossy().contains("base-")), "{names:?}");
    assert!(names.iter().any(|path| path.to_string_lossy().contains("delta-")), "{names:?}");
    (files, state)
}

async fn expect_refused(files: &MemoryFiles, path: &Path, what: &str) {
    let before = files.contents();
    let acquired = open(files).expect("opens").acquire(SHARD).await;
    match acquired {
        Err(StoreError::Corrupt(text)) => {
            assert!(text.contains(path.to_str().expect("text")), "{what}: {text:?} does not name {path:?}");
            assert!(text.contains("restore"), "{what}: {text:?} gives no advice");
        }
        other => panic!("{what}: {other:?}"),
    }
    assert_eq!(files.contents(), before, "{what}: a refused start changes nothing");
}

/// Every cut, every flipped bit, every missing and every longer file is refused by name; nothing is ever read wrongly.
#[tokio::test]
async fn every_damage_is_refused() {
    let (files, _) = written().await;
    for (path, bytes) in files.contents() {
        for cut in 0..bytes.len() {
            let damaged = files.copy();
            damaged.put(&path, bytes[..cut].to_vec());
            expect_refused(&damaged, &path, &format!("cut at {cut}")).await;
        }
        for bit in 0..bytes.len() * 8 {
            let damaged = files.copy();
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            damaged.put(&path, flipped);
            expect_refused(&damaged, &path, &format!("bit {bit}")).await;
        }
        let longer = files.copy();
        longer.put(&path, [bytes.as_slice(), b"\0"].concat());
        expect_refused(&longer, &path, "a byte more").await;
    }
    for path in files.contents().into_keys() {
        use tidegauge_embedded::checkpoint::files::StateFiles as _;
        let missing = files.copy();
        missing.remove(&path).expect("removed");
        let dir = path.parent().expect("inside");
        expect_refused(&missing, if path.ends_with("manifest") { dir } else { &path }, "missing").await;
    }
}

/// A data file of an older state under the right name is refused too: the manifest knows its checksum.
#[tokio::test]
async fn a_swapped_file_is_refused() {
    let (files, _) = written().await;
    let deltas = files.contents().into_iter().filter(|(path, _)| path.to_string_lossy().contains("delta-"));
    let deltas: Vec<_> = deltas.collect();
    assert!(deltas.len() >= 2);
    let damaged = files.copy();
    damaged.put(&deltas[0].0, deltas[1].1.clone());
    expect_refused(&damaged, &deltas[0].0, "swapped").await;
}

/// A step of the random history.
#[derive(Clone, Debug)]
enum Step {
    Prepare(Vec<(u8, u8, Option<Vec<u8>>)>),
    Reopen,
    Acquire,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = proptest::option::weighted(0.7, proptest::collection::vec(any::<u8>(), 0..40));
    let changes = proptest::collection::vec((0_u8..3, 0_u8..20, value), 0..12);
    let step = prop_oneof![8 => changes.prop_map(Step::Prepare), 1 => Just(Step::Reopen), 1 => Just(Step::Acquire)];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is prepared, merged and reopened, the entries are those of a map.
    #[test]
    fn a_history_equals_a_map(steps in steps(), deltas_max in 1_usize..6, bytes_min in 0_u64..2_000) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let files = MemoryFiles::default();
            let compaction = Compaction { deltas_max, bytes_min, inline: true };
            let open = || FileCheckpointStore::with_files(Path::new("/s"), Arc::new(files.clone()), compaction);
            let mut store = open().expect("opens");
            let mut state = State::new();
            let mut lease = store.acquire(SHARD).await.expect("acquire").lease;
            for step in steps.iter().chain([&Step::Reopen]) {
                match step {
                    Step::Prepare(changes) => {
                        let one = |(keyspace, key, value): &(u8, u8, Option<Vec<u8>>)| Change {
                            keyspace: *keyspace,
                            key: Bytes::copy_from_slice(&[*key]),
                            value: value.clone().map(Bytes::from),
                        };
                        let changes: Vec<Change> = changes.iter().map(one).collect();
                        state.prepare(&changes);
                        let epoch = state.prepared;
                        store.prepare(&lease, epoch, &position(epoch), epoch * 10, changes).await.expect("prepare");
                        store.complete(&lease, epoch).await.expect("complete");
                        state.completed = epoch;
                    }
                    Step::Acquire | Step::Reopen => {
                        if matches!(step, Step::Reopen) {
                            store = open().expect("opens");
                        }
                        let acquired = store.acquire(SHARD).await.expect("acquire");
                        lease = acquired.lease;
                        assert_eq!(State::of(acquired), state);
                    }
                }
            }
        });
    }
}
