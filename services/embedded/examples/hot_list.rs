//! How long pages of `ListMetrics` and batches take with many series, in the hot store of this machine's disk.
//!
//! ```text
//! cargo run --release -p tidegauge-embedded --example hot_list [series]
//! ```
#![allow(clippy::disallowed_methods, reason = "an example composes its own process and measures time")]

use std::path::Path;
use std::time::Instant;

use tidegauge_core::hot::{CurrentValue, HotStore, HotVersion, KeyMeta, KeyUpdate};
use tidegauge_core::ids::{Key, MetricName};
use tidegauge_core::scope::SystemAuthority;
use tidegauge_embedded::hot_store::FjallHotStore;

const PAGE: usize = 1_000;

fn value(number: usize, event_count: u64) -> CurrentValue {
    let metric = MetricName::parse(&format!("service.{:04}.requests.{number:07}", number % 97)).expect("valid");
    CurrentValue { metric, last_value: 1.0, last_time_ns: 1, updated_at_ns: 1, event_count }
}

#[tokio::main]
async fn main() {
    let series: usize = std::env::args().nth(1).map_or(100_000, |text| text.parse().expect("a number of series"));
    let folder = tempfile::tempdir_in(Path::new(".")).expect("a temporary folder");
    let store = FjallHotStore::open(folder.path()).expect("opens");
    let authority = SystemAuthority::for_worker("example");
    let key = Key::parse("tenant").expect("valid");
    let tenant = authority.tenant(&key.tenant);
    // Two rounds: the second one overwrites, so that there are several runs and a layer in memory.
    let mut ordinal = 0;
    for round in 1..=2 {
        for first in (0..series).step_by(4_000) {
            ordinal += 1;
            let version = HotVersion { generation: 1, ordinal, push: 0 };
            let currents = (first..series.min(first + 4_000)).map(|number| value(number, round)).collect();
            let meta = KeyMeta { version, ..KeyMeta::default() };
            let update = KeyUpdate { key: key.clone(), meta, replaces_windows: false, currents, windows: Vec::new() };
            store.apply(&authority, vec![update]).await.expect("apply");
        }
    }

    let mut times = Vec::new();
    let mut names: Vec<MetricName> = Vec::new();
    loop {
        let from = Instant::now();
        let page = store.list(&tenant, names.last(), PAGE).await.expect("list");
        times.push(from.elapsed());
        let last = page.len() < PAGE;
        names.extend(page.into_iter().map(|value| value.metric));
        if last {
            break;
        }
    }
    assert_eq!(names.len(), series);
    report("page of 1,000", times);
    let mut times = Vec::new();
    for first in 0..50 {
        let batch: Vec<MetricName> = (0..PAGE).map(|n| names[(first + n * 7_919) % series].clone()).collect();
        let from = Instant::now();
        let found = store.currents(&tenant, &batch).await.expect("currents");
        times.push(from.elapsed());
        assert!(found.iter().all(Option::is_some));
    }
    report("batch of 1,000 scattered names", times);
}

fn report(what: &str, mut times: Vec<std::time::Duration>) {
    times.sort();
    let (p50, max) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: p50 {p50:?}, max {max:?}, {} times", times.len());
}
