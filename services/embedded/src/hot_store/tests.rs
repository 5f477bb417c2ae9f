//! Folds that fail: nothing is lost, memory and files stay bounded, and it goes on when the cause has gone.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tidegauge_core::Sum;
use tidegauge_core::hot::{HotVersion, LiveWindow, WindowRow};
use tidegauge_core::time::MINUTE_NS;

use super::layers::Layer;
use super::*;

const WORKING: u32 = 0;
const FULL: u32 = 1;
const BROKEN: u32 = 2;
const PANICKING: u32 = 3;

/// What becomes of folds, and how many were tried.
#[derive(Debug, Default)]
struct Fate {
    now: AtomicU32,
    tries: AtomicU32,
}

/// A fold that does what its fate says.
struct Faulty {
    folder: Folder,
    fate: Arc<Fate>,
}

impl Fold for Faulty {
    fn fold(&mut self, layer: &Layer) -> Result<(), StoreError> {
        self.fate.tries.fetch_add(1, Ordering::SeqCst);
        match self.fate.now.load(Ordering::SeqCst) {
            WORKING => self.folder.fold(layer),
            FULL => Err(StoreError::Full("told so".to_owned())),
            BROKEN => Err(StoreError::io("a fold", std::io::Error::other("told so"))),
            _ => panic!("told so"),
        }
    }
}

fn open(dir: &Path, options: HotStoreOptions, fate: &Arc<Fate>) -> FjallHotStore {
    let around = |folder| -> Arc<Mutex<dyn Fold>> { Arc::new(Mutex::new(Faulty { folder, fate: Arc::clone(fate) })) };
    FjallHotStore::open_folding(dir, options, 64, around).expect("opens")
}

#[expect(clippy::disallowed_methods, reason = "tests compose their own process")]
fn authority() -> SystemAuthority {
    SystemAuthority::for_worker("test")
}

fn key() -> Key {
    Key::parse("tenant").expect("valid")
}

/// Ten values and ten windows of names that begin at `first`; all of them carry the ordinal.
fn update(ordinal: u64, first: u64) -> KeyUpdate {
    let names = (first..first + 10).map(|n| MetricName::parse(&format!("m{n:06}")).expect("valid"));
    let row = WindowRow { count: ordinal, sum: Sum::ZERO, min: 0.0, max: 0.0, last: 0.0, last_time_ns: 0, late: 0 };
    let (mut currents, mut windows) = (Vec::new(), Vec::new());
    for metric in names {
        windows.push(LiveWindow { start_ns: 0, end_ns: MINUTE_NS, metric: metric.clone(), row: row.clone() });
        currents.push(CurrentValue {
            metric,
            last_value: 0.0,
            last_time_ns: 0,
            updated_at_ns: 0,
            event_count: ordinal,
        });
    }
    let version = HotVersion { generation: 1, ordinal, push: 0 };
    let meta = KeyMeta { version, counted: ordinal, ..KeyMeta::default() };
    KeyUpdate { key: key(), meta, replaces_windows: ordinal == 1, currents, windows }
}

/// That the store shows what was acknowledged, and nothing else.
async fn expect_shown(store: &FjallHotStore, acknowledged: &[KeyUpdate]) {
    let mut expected = std::collections::BTreeMap::new();
    for update in acknowledged {
        expected.extend(update.currents.iter().map(|value| (value.metric.to_string(), value.event_count)));
    }
    let tenant = authority().tenant(&key().tenant);
    let listed = store.list(&tenant, None, usize::MAX >> 1).await.expect("list");
    let listed: Vec<_> = listed.into_iter().map(|value| (value.metric.to_string(), value.event_count)).collect();
    assert_eq!(listed, expected.clone().into_iter().collect::<Vec<_>>());
    let (_, live) = store.live(&tenant).await.expect("live").remove(0);
    assert!(live.complete);
    assert_eq!(live.meta.version.ordinal, acknowledged.len() as u64);
    let rows = live.windows.into_iter().map(|window| (window.metric.to_string(), window.row.count));
    assert_eq!(rows.collect::<std::collections::BTreeMap<_, _>>(), expected);
}

fn files(dir: &Path) -> u64 {
    let bytes = |path: &Path| path.metadata().expect("there").len();
    wal::list(dir).expect("lists").iter().map(|(_, path)| bytes(path)).sum()
}

/// How many refused tries a test makes.
const REFUSED: u32 = 400;

/// Applies until the store refuses, goes on trying, lets folds work again, and expects that all goes on.
async fn outlive(fate_is: u32, options: HotStoreOptions, spread: u64) {
    let folder = tempfile::tempdir().expect("folder");
    let fate = Arc::new(Fate::default());
    let mut store = open(folder.path(), options, &fate);
    let mut acknowledged = Vec::new();
    let next = |acknowledged: &Vec<KeyUpdate>| {
        let ordinal = acknowledged.len() as u64 + 1;
        update(ordinal, ordinal % spread * 10)
    };
    // Some of it is in the database, with names that the fold remembers.
    for _ in 0..20 {
        acknowledged.push(next(&acknowledged));
        let last = acknowledged.last().expect("one").clone();
        assert_eq!(store.apply(&authority(), vec![last]).await.expect("works"), [true]);
    }

    fate.now.store(fate_is, Ordering::SeqCst);
    let error = loop {
        let update = next(&acknowledged);
        match store.apply(&authority(), vec![update.clone()]).await {
            Ok(applied) => assert_eq!(applied, [true]),
            Err(error) => break error,
        }
        acknowledged.push(update);
        assert!(acknowledged.len() < 1_000, "never refused");
    };
    match fate_is {
        FULL => assert!(matches!(error, StoreError::Full(_)), "{error}"),
        _ => assert!(matches!(&error, StoreError::Unavailable(what) if what.contains("told so")), "{error}"),
    }
    let (held, on_disk) = (store.reader.shared.read().active.rows, files(folder.path()));
    fate.tries.store(0, Ordering::SeqCst);
    for _ in 0..REFUSED {
        store.apply(&authority(), vec![next(&acknowledged)]).await.expect_err("still refused");
    }
    assert_eq!(store.reader.shared.read().active.rows, held, "memory stays as it is");
    assert_eq!(files(folder.path()), on_disk, "files stay as they are");
    let tries = fate.tries.load(Ordering::SeqCst);
    assert!((1..REFUSED / 4).contains(&tries), "{tries} tries of a whole layer for {REFUSED} refused updates");
    expect_shown(&store, &acknowledged).await;

    // A restart in the middle of it loses nothing either, and refuses as before.
    drop(store);
    store = open(folder.path(), options, &fate);
    expect_shown(&store, &acknowledged).await;
    let refused = async |store: &FjallHotStore, acknowledged: &mut Vec<KeyUpdate>| {
        let update = next(acknowledged);
        let answer = store.apply(&authority(), vec![update.clone()]).await;
        if answer.is_ok() {
            acknowledged.push(update);
        }
        answer.is_err()
    };
    let mut refusals = 0;
    for _ in 0..50 {
        refusals += u32::from(refused(&store, &mut acknowledged).await);
    }
    assert!(refusals > 0, "a restart gives no room without end");

    fate.now.store(WORKING, Ordering::SeqCst);
    let mut refusals = 0;
    for _ in 0..100 {
        refusals += u32::from(refused(&store, &mut acknowledged).await);
    }
    assert!(refusals <= 32, "{refusals} updates were refused after folds worked again");
    expect_shown(&store, &acknowledged).await;
    drop(store);
    let files = wal::list(folder.path()).expect("lists").len();
    assert!(files <= 2, "{files} write-ahead files were kept");
    expect_shown(&open(folder.path(), options, &fate), &acknowledged).await;
}

/// I8 and I1 for the hot store on a full disk: many rows, and few rows that change again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_outlived() {
    outlive(FULL, HotStoreOptions { fold_rows: 200, fold_bytes: u64::MAX }, u64::MAX).await;
    outlive(FULL, HotStoreOptions { fold_rows: usize::MAX, fold_bytes: 20_000 }, 3).await;
}

/// The same for an error that names no full disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_disk_is_outlived() {
    outlive(BROKEN, HotStoreOptions { fold_rows: 200, fold_bytes: u64::MAX }, u64::MAX).await;
}

/// Whether an answer is the one waited for.
type Until<'a> = &'a dyn Fn(&Result<Vec<bool>, StoreError>) -> bool;

/// The database itself fails: its folder takes no files for a while. It is told as what it is, no damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_database_is_outlived() {
    let folder = tempfile::tempdir().expect("folder");
    let options = HotStoreOptions { fold_rows: 200, fold_bytes: u64::MAX };
    let store = FjallHotStore::open_with(folder.path(), options).expect("opens");
    let tables = tables(&folder.path().join("db")).expect("the database has a folder of tables");
    let away = tables.with_extension("away");
    std::fs::rename(&tables, &away).expect("renames");
    std::fs::write(&tables, "no folder").expect("writes");

    let mut acknowledged = Vec::new();
    let mut apply = async |until: Until<'_>| {
        for _ in 0..1_000 {
            let ordinal = acknowledged.len() as u64 + 1;
            let update = update(ordinal, ordinal * 10);
            let answer = store.apply(&authority(), vec![update.clone()]).await;
            if answer.is_ok() {
                acknowledged.push(update);
            }
            expect_shown(&store, &acknowledged).await;
            if until(&answer) {
                return;
            }
        }
        panic!("nothing has changed");
    };
    apply(&|answer| matches!(answer, Err(StoreError::Unavailable(what)) if what.contains("working on"))).await;
    std::fs::remove_file(&tables).expect("removes");
    std::fs::rename(&away, &tables).expect("renames");
    apply(&Result::is_ok).await;
    let first = wal::list(folder.path()).expect("lists")[0].0;
    apply(&|_| wal::list(folder.path()).expect("lists")[0].0 > first + 1).await;
}

/// The one folder called `tables` below a folder.
fn tables(below: &Path) -> Option<PathBuf> {
    let folders = std::fs::read_dir(below).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    folders.filter(|path| path.is_dir()).find_map(|path| {
        let is_it = path.file_name().is_some_and(|name| name == "tables") && path.parent()?.ends_with("1");
        if is_it { Some(path) } else { tables(&path) }
    })
}

/// A write-ahead file that cannot be made: updates go into the old one until that is too large, and no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_made_is_outlived() {
    let folder = tempfile::tempdir().expect("folder");
    let options = HotStoreOptions { fold_rows: 200, fold_bytes: u64::MAX };
    let store = FjallHotStore::open_with(folder.path(), options).expect("opens");
    let next = folder.path().join(format!("wal-{:020}", 2));
    std::fs::create_dir(&next).expect("makes");
    let mut acknowledged = Vec::new();
    for ordinal in 1.. {
        let update = update(ordinal, ordinal * 10);
        match store.apply(&authority(), vec![update.clone()]).await {
            Ok(_) => acknowledged.push(update),
            Err(_) => break,
        }
        assert!(ordinal < 1_000, "memory has no bound");
    }
    expect_shown(&store, &acknowledged).await;
    std::fs::remove_dir(&next).expect("removes");
    let ordinal = acknowledged.len() as u64 + 1;
    acknowledged.push(update(ordinal, ordinal * 10));
    let last = acknowledged.last().expect("one").clone();
    assert_eq!(store.apply(&authority(), vec![last]).await.expect("goes on"), [true]);
    expect_shown(&store, &acknowledged).await;
}

const CHILD: &str = "TIDEGAUGE_TEST_HOT_STORE_PANIC";

/// Not a test by itself: the process that the next one starts.
#[tokio::test]
async fn child_whose_fold_panics() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let fate = Arc::new(Fate { now: AtomicU32::new(PANICKING), ..Fate::default() });
    let store = open(Path::new(&dir), HotStoreOptions { fold_rows: 1, fold_bytes: u64::MAX }, &fate);
    for ordinal in 1..1_000 {
        let _ = store.apply(&authority(), vec![update(ordinal, 0)]).await;
    }
}

/// A defect in the fold ends the process instead of leaving a store that takes nothing any more; a restart has it all.
#[tokio::test]
async fn a_fold_that_panics_ends_the_process() {
    let folder = tempfile::tempdir().expect("folder");
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args(["hot_store::tests::child_whose_fold_panics", "--exact"])
        .env(CHILD, folder.path())
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), None, "ended by a signal: {output:?}");
    let store = FjallHotStore::open(folder.path()).expect("opens");
    let tenant = authority().tenant(&key().tenant);
    let (_, live) = store.live(&tenant).await.expect("live").remove(0);
    assert!(live.meta.version.ordinal >= 1);
    assert!(live.windows.iter().all(|window| window.row.count == live.meta.version.ordinal));
}
