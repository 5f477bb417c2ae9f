//! The same over the embedded backends: log, checkpoints and lake on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegauge_core::clock::{Clock, ManualClock, SteadyClock};
use tidegauge_core::event::Mode;
use tidegauge_core::log::NewRecord;
use tidegauge_core::time::{HOUR_NS, MINUTE_NS, SECOND_NS};
use tidegauge_embedded::checkpoint::FileCheckpointStore;
use tidegauge_embedded::files::DiskFiles;
use tidegauge_embedded::lake_store::LocalLakeStore;
use tidegauge_embedded::log::{DiskReserve, EmbeddedLog, LogOptions};
use tidegauge_lake::{object, paths};

use super::hot::MemoryHot;
use super::world::{authority, options};
use crate::decide::tests::oracle::Oracle;
use crate::decide::tests::{T0, batch, key, raw, request};
use crate::options::Backends;
use crate::service::Aggregation;
use crate::verify::verify;

fn open(root: &Path, clock: &Arc<ManualClock>) -> Backends {
    // How full the machine's disk is, is of no interest here.
    let reserve = DiskReserve { percent: 0, bytes: 0 };
    let log = LogOptions { shards: 3, reserve, ..LogOptions::new(root.join("log")) };
    Backends {
        log: Arc::new(EmbeddedLog::open(log, Arc::new(DiskFiles), clock.clone()).unwrap()),
        checkpoints: Arc::new(FileCheckpointStore::open(&root.join("state")).unwrap()),
        lake: Arc::new(LocalLakeStore::open(root.join("lake")).unwrap()),
    }
}

/// Several shards, several lives, an index that gets lost: rows in the files equal the oracle, and `verify` agrees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lives_on_disk() {
    let root = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(T0));
    let hot = Arc::new(MemoryHot::default());
    let mut oracle = Oracle::new(options().settings().unwrap());
    for life in 0..4_u64 {
        let backends = open(root.path(), &clock);
        let handle = Aggregation::start_with(
            options(),
            backends.clone(),
            hot.clone(),
            SteadyClock::start(clock.clone()),
            authority(),
        )
        .unwrap();
        for round in 0..20_u64 {
            clock.advance(20 * SECOND_NS);
            let now = clock.wall_ns();
            for tenant in 0..5 {
                let key = key(&format!("t{tenant}"));
                let times = [now, now - MINUTE_NS, now - 10 * MINUTE_NS, now - HOUR_NS / 2];
                let events: Vec<_> = times.iter().enumerate().map(|(i, t)| (i as u32, *t, round as f64)).collect();
                let mut record = batch(&key, Mode::Live, now, &events);
                // Every third request is sent twice.
                let sequence = life * 20 + round - u64::from(round % 3 == 2) + 1;
                record.request = request(tenant, false, sequence, 0);
                oracle.take(&key, &record);
                let payload = raw(&record);
                backends.log.append(vec![NewRecord { key, payload }]).await.unwrap();
            }
        }
        if life % 2 == 0 {
            // Dies somewhere in the middle.
            tokio::time::timeout(Duration::from_millis(3 + 5 * life), std::future::pending::<()>()).await.unwrap_err();
            drop(handle);
        } else {
            handle.drain().await;
        }
        drop(backends);
        if life == 2 {
            let index = root.path().join("lake/_index");
            if index.is_dir() {
                std::fs::remove_dir_all(index).unwrap();
            }
        }
    }
    let backends = open(root.path(), &clock);
    let handle =
        Aggregation::start_with(options(), backends.clone(), hot, SteadyClock::start(clock.clone()), authority())
            .unwrap();
    let rest = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let status = handle.status().await;
            let published = status.keys.len() == 5 && status.keys.iter().all(|key| key.state_rows == 0);
            if published && status.quiescent {
                return;
            }
            // Once all is published time stands still: every minute would move the boundaries again.
            if !published {
                clock.advance(SECOND_NS);
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(rest.await.is_ok(), "{:#?}", handle.status().await);
    handle.drain().await;
    for (key, expected) in &oracle.keys {
        let tenant = authority().tenant(&key.tenant);
        let mut rows = BTreeMap::new();
        for meta in backends.lake.list(&paths::aggregated_prefix(&tenant)).await.unwrap() {
            let (content, _) = backends.lake.get(&meta.path).await.unwrap().unwrap();
            for row in object::decode(content).unwrap().0 {
                rows.insert((row.start_ns, row.metric), (row.row.count, row.row.sum.clone(), row.row.last));
            }
        }
        let expected: BTreeMap<_, _> =
            expected.rows.iter().map(|(place, row)| (place.clone(), (row.count, row.sum.clone(), row.last))).collect();
        assert_eq!(rows, expected, "{key}");
    }
    let report = verify(&options(), &backends, &authority()).await.unwrap();
    assert_eq!(report.findings, []);
    let duplicates: u64 = oracle.keys.values().map(|key| key.duplicates).sum();
    assert!(duplicates > 0);
}
