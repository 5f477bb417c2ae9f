//! The hot store passes the conformance suite, and an acknowledged update outlives kill -9.
#![allow(clippy::disallowed_methods, reason = "tests compose their own process")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use proptest::prelude::*;
use tidegauge_core::Sum;
use tidegauge_core::conformance::hot::{self, Backend};
use tidegauge_core::hot::{CurrentValue, HotStore, HotVersion, KeyMeta, KeyUpdate, LiveWindow, StoreError, WindowRow};
use tidegauge_core::ids::{Key, MetricName};
use tidegauge_core::scope::SystemAuthority;
use tidegauge_core::time::MINUTE_NS;
use tidegauge_embedded::hot_store::{FjallHotStore, HotStoreOptions};

const START: i64 = 1_772_434_800_000_000_000;

/// Stores in directories of one temporary folder.
struct Embedded {
    folder: tempfile::TempDir,
    made: std::sync::Mutex<u32>,
    options: HotStoreOptions,
}

/// Folds after nearly every commit, so that every read goes through layers and database.
const FOLDING: HotStoreOptions = HotStoreOptions { fold_rows: 2, fold_bytes: u64::MAX };

impl Embedded {
    fn dir(&self) -> std::path::PathBuf {
        self.folder.path().join(self.made.lock().expect("lock").to_string())
    }
}

#[async_trait]
impl Backend for Embedded {
    async fn empty(&self) -> Arc<dyn HotStore> {
        *self.made.lock().expect("lock") += 1;
        Arc::new(FjallHotStore::open_with(&self.dir(), self.options).expect("opens"))
    }

    async fn reopen(&self, store: Arc<dyn HotStore>) -> Arc<dyn HotStore> {
        assert_eq!(Arc::strong_count(&store), 1);
        drop(store);
        Arc::new(FjallHotStore::open_with(&self.dir(), self.options).expect("opens again"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    for options in [HotStoreOptions::default(), FOLDING] {
        let folder = tempfile::tempdir().expect("folder");
        hot::all(&Embedded { folder, made: std::sync::Mutex::new(0), options }).await;
    }
}

/// A second process is told that the store is in use, not given a broken one.
#[tokio::test]
async fn one_process_at_a_time() {
    let folder = tempfile::tempdir().expect("folder");
    let _first = FjallHotStore::open(folder.path()).expect("opens");
    let second = FjallHotStore::open(folder.path());
    assert!(matches!(second, Err(StoreError::Unavailable(_))), "{second:?}");
}

/// Values are found in the order asked for, side by side or scattered, twice or not there, in layers and in the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_find_what_was_asked_for() {
    const SERIES: usize = 3_000;
    let folder = tempfile::tempdir().expect("folder");
    let options = HotStoreOptions { fold_rows: 1_000, fold_bytes: u64::MAX };
    let store = FjallHotStore::open_with(folder.path(), options).expect("opens");
    // Escaped characters make the order of the items another one than that of the names.
    let name =
        |n: usize| MetricName::parse(&format!("m{:03}{}{n}", n / 7, ["#", "%", "!", "x"][n % 4])).expect("valid");
    for (round, first) in (0..SERIES).step_by(250).enumerate() {
        let round = round as u64 + 1;
        let mut update = update(1, round);
        update.windows.clear();
        let value = |n| CurrentValue { metric: name(n), event_count: n as u64, ..update.currents[0].clone() };
        update.currents = (first..first + 250).map(value).collect();
        store.apply(&authority(), vec![update]).await.expect("apply");
    }
    let tenant = authority().tenant(&Key::parse("tenant-1").expect("valid").tenant);
    let scattered = |step: usize| (0..1_000).map(move |n| (n * step) % (SERIES + 40)).collect::<Vec<_>>();
    for numbers in
        [scattered(1), scattered(2), scattered(997), scattered(SERIES), vec![2_999, 0, 2_999, SERIES, 7], vec![]]
    {
        let names: Vec<MetricName> = numbers.iter().map(|n| name(*n)).collect();
        let found = store.currents(&tenant, &names).await.expect("currents");
        let found: Vec<_> =
            found.into_iter().map(|value| value.map(|value| (value.metric, value.event_count))).collect();
        let expected: Vec<_> = numbers.iter().map(|&n| (n < SERIES).then(|| (name(n), n as u64))).collect();
        assert_eq!(found, expected);
    }
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
        row: WindowRow { count: round, sum: Sum::ZERO, min: 0.0, max: 0.0, last: 0.0, last_time_ns: START, late: 0 },
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
    let store = FjallHotStore::open_with(Path::new(&dir), HotStoreOptions { fold_rows: 50, ..FOLDING }).expect("opens");
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
    for rounds in [1, 40, 3, 150, 17, 80] {
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

/// A step of a random history over a few keys, metrics and minutes.
#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Change>),
    Reopen,
}

/// Key, boundary, whether windows are replaced, metrics of values, (minute, metric) of windows.
type Change = (u8, i64, bool, Vec<u8>, Vec<(i64, u8)>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let values = proptest::collection::vec(0_u8..6, 0..4);
    let windows = proptest::collection::vec((0_i64..12, 0_u8..4), 0..6);
    let change = (0_u8..3, 0_i64..10, proptest::bool::weighted(0.2), values, windows);
    let apply = proptest::collection::vec(change, 1..4).prop_map(Step::Apply);
    proptest::collection::vec(prop_oneof![12 => apply, 1 => Just(Step::Reopen)], 1..60)
}

/// What a key should hold.
#[derive(Default)]
struct Model {
    complete: bool,
    boundary: i64,
    ordinal: u64,
    currents: BTreeMap<String, u64>,
    windows: BTreeMap<(i64, String), u64>,
}

fn metric(number: u8) -> MetricName {
    MetricName::parse(&format!("m{number}")).expect("valid")
}

async fn expect_equal(store: &FjallHotStore, models: &BTreeMap<String, Model>) {
    for (text, model) in models {
        let tenant = authority().tenant(&Key::parse(text).expect("valid").tenant);
        let (_, live) = store.live(&tenant).await.expect("live").remove(0);
        assert_eq!((live.meta.version.ordinal, live.complete), (model.ordinal, model.complete), "{text}");
        let row = |w: LiveWindow| (((w.start_ns - START) / MINUTE_NS, w.metric.to_string()), w.row.count);
        let windows: BTreeMap<_, _> = live.windows.into_iter().map(row).collect();
        assert_eq!(windows, model.windows, "{text}");
        let listed = store.list(&tenant, None, 100).await.expect("list");
        let listed: Vec<(String, u64)> = listed.into_iter().map(|c| (c.metric.to_string(), c.event_count)).collect();
        assert_eq!(listed, model.currents.clone().into_iter().collect::<Vec<_>>(), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is applied, folded and reopened, every key holds what a map would.
    #[test]
    fn a_history_equals_a_map(steps in steps(), fold_rows in 1_usize..20) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("runtime");
        runtime.block_on(async {
            let folder = tempfile::tempdir().expect("folder");
            let options = HotStoreOptions { fold_rows, fold_bytes: u64::MAX };
            let mut store = FjallHotStore::open_with(folder.path(), options).expect("opens");
            let mut models: BTreeMap<String, Model> = BTreeMap::new();
            let mut ordinal = 0;
            for step in &steps {
                let Step::Apply(changes) = step else {
                    drop(store);
                    store = FjallHotStore::open_with(folder.path(), options).expect("opens again");
                    expect_equal(&store, &models).await;
                    continue;
                };
                let mut updates = Vec::new();
                for (key, boundary, replaces, values, windows) in changes {
                    ordinal += 1;
                    let text = format!("tenant-{key}");
                    let model = models.entry(text).or_default();
                    model.boundary = model.boundary.max(*boundary);
                    model.ordinal = ordinal;
                    model.complete |= replaces;
                    if *replaces {
                        model.windows.clear();
                    }
                    let mut update = update(u32::from(*key), ordinal);
                    update.replaces_windows = *replaces;
                    update.meta.boundary_ns = START + model.boundary * MINUTE_NS;
                    let (current, window) = (update.currents[0].clone(), update.windows[0].clone());
                    update.currents = values.iter().map(|m| CurrentValue { metric: metric(*m), ..current.clone() }).collect();
                    update.windows = windows
                        .iter()
                        .map(|(minute, m)| LiveWindow {
                            start_ns: START + minute * MINUTE_NS,
                            end_ns: START + (minute + 1) * MINUTE_NS,
                            metric: metric(*m),
                            ..window.clone()
                        })
                        .collect();
                    model.currents.extend(values.iter().map(|m| (metric(*m).to_string(), ordinal)));
                    model.windows.extend(windows.iter().map(|(minute, m)| ((*minute, metric(*m).to_string()), ordinal)));
                    let open = model.boundary;
                    model.windows.retain(|(minute, _), _| minute + 1 > open);
                    updates.push(update);
                }
                store.apply(&authority(), updates).await.expect("apply");
                expect_equal(&store, &models).await;
            }
        });
    }
}
