//! The hot store passes the conformance suite, and an acknowledged update outlives kill -9.
#![allow(clippy::disallowed_methods, reason = "tests compose their own process")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use tidegauge_core::conformance::hot::{self, Backend};
use tidegauge_core::hot::{CurrentValue, HotStore, HotVersion, KeyMeta, KeyUpdate, LiveWindow, StoreError, WindowRow};
use tidegauge_core::ids::{Key, MetricName};
use tidegauge_core::scope::SystemAuthority;
use tidegauge_core::time::MINUTE_NS;
use tidegauge_embedded::hot_store::FjallHotStore;

const START: i64 = 1_772_434_800_000_000_000;

/// Stores in directories of one temporary folder.
struct Embedded {
    folder: tempfile::TempDir,
    made: std::sync::Mutex<u32>,
}

impl Embedded {
    fn dir(&self) -> std::path::PathBuf {
        self.folder.path().join(self.made.lock().expect("lock").to_string())
    }
}

#[async_trait]
impl Backend for Embedded {
    async fn empty(&self) -> Arc<dyn HotStore> {
        *self.made.lock().expect("lock") += 1;
        Arc::new(FjallHotStore::open(&self.dir()).expect("opens"))
    }

    async fn reopen(&self, store: Arc<dyn HotStore>) -> Arc<dyn HotStore> {
        assert_eq!(Arc::strong_count(&store), 1);
        drop(store);
        Arc::new(FjallHotStore::open(&self.dir()).expect("opens again"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let folder = tempfile::tempdir().expect("folder");
    hot::all(&Embedded { folder, made: std::sync::Mutex::new(0) }).await;
}

/// A second process is told that the store is in use, not given a broken one.
#[tokio::test]
async fn one_process_at_a_time() {
    let folder = tempfile::tempdir().expect("folder");
    let _first = FjallHotStore::open(folder.path()).expect("opens");
    let second = FjallHotStore::open(folder.path());
    assert!(matches!(second, Err(StoreError::Unavailable(_))), "{second:?}");
}

fn authority() -> SystemAuthority {
    SystemAuthority::for_worker("test")
}

/// Round `round` of a key: two rows and a value that all carry the round.
fn update(key: u32, round: u64) -> KeyUpdate {
    let metric = MetricName::parse("m").expect("valid");
    let window = |minute: i64| LiveWindow {
        start_ns: START + minute * MINUTE_NS,
        end_ns: START + (minute + 1) * MINUTE_NS,
        metric: metric.clone(),
        row: WindowRow { count: round, sum: 0.0, min: 0.0, max: 0.0, last: 0.0, last_time_ns: START, late: 0 },
    };
    let current = CurrentValue {
        metric: metric.clone(),
        last_value: 0.0,
        last_time_ns: START,
        updated_at_ns: START,
        event_count: round,
    };
    KeyUpdate {
        key: Key::parse(&format!("tenant-{key}")).expect("valid"),
        meta: KeyMeta {
            version: HotVersion { generation: 1, ordinal: round, push: 0 },
            boundary_ns: START,
            counted: 2 * round,
            ..KeyMeta::default()
        },
        replaces_windows: round == 1,
        currents: vec![current],
        windows: vec![window(0), window(1)],
    }
}

const KEYS: u32 = 5;
const CHILD: &str = "TIDEGAUGE_TEST_HOT_STORE_DIR";

/// Not a test by itself: the process that the next one kills. Says each round after it was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_applies_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let store = FjallHotStore::open(Path::new(&dir)).expect("opens");
    let first = store.keys(&authority()).await.expect("keys").iter().map(|(_, m)| m.version.ordinal).max().unwrap_or(0);
    for round in first + 1.. {
        let updates = (0..KEYS).map(|key| update(key, round)).collect();
        assert_eq!(store.apply(&authority(), updates).await.expect("apply"), [true; KEYS as usize]);
        println!("acknowledged {round}");
    }
}

/// I1 for the hot store: killed at any moment, it holds every acknowledged update, and each key's update whole.
#[tokio::test]
async fn kill_9_loses_no_acknowledged_update() {
    let folder = tempfile::tempdir().expect("folder");
    let mut last = 0;
    for rounds in [1, 40, 3, 150] {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["child_applies_until_it_is_killed", "--exact", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let acknowledged = lines.filter_map(|line| {
            line.expect("text").split_once("acknowledged ").and_then(|(_, round)| round.trim().parse::<u64>().ok())
        });
        last = acknowledged.take(rounds).last().expect("the child acknowledged rounds").max(last);
        child.kill().expect("killed");
        child.wait().expect("gone");

        let store = FjallHotStore::open(folder.path()).expect("opens after kill -9");
        for key in 0..KEYS {
            let tenant = authority().tenant(&Key::parse(&format!("tenant-{key}")).expect("valid").tenant);
            let (_, live) = store.live(&tenant).await.expect("live").remove(0);
            let round = live.meta.version.ordinal;
            assert!(round >= last, "tenant-{key} is at {round}, but {last} was acknowledged");
            assert!(live.complete && live.windows.len() == 2);
            assert!(live.windows.iter().all(|window| window.row.count == round), "{live:?}");
            let current = store.list(&tenant, None, 10).await.expect("list");
            assert_eq!(current.iter().map(|c| c.event_count).collect::<Vec<_>>(), [round]);
        }
    }
}
