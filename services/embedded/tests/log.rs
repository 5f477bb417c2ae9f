//! The embedded log: conformance, crashes, damage, full disks, failed syncs, retention, room.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

mod log {
    mod crash;
    mod damage;
    mod faults;
    mod kill;
    mod model;
    mod retention;
    mod room;
    mod scrub;
    pub(crate) mod support;
}

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tidegauge_core::conformance::log::{Backend, Refusing, all};
use tidegauge_core::log::EventLog;
use tidegauge_embedded::files::{DiskFiles, Files, MemoryFiles};
use tidegauge_embedded::log::{DiskReserve, EmbeddedLog, LogOptions};

use crate::log::support::{DIR, clock, options};

/// Logs on the real file system or in memory.
struct Logs {
    root: Option<tempfile::TempDir>,
    /// Where each open log lives, by its address.
    places: Mutex<HashMap<usize, Place>>,
}

type Place = (Arc<dyn Files>, PathBuf);

impl Logs {
    fn open(&self, files: Arc<dyn Files>, dir: PathBuf) -> Arc<dyn EventLog> {
        // Small segments, so that the suite crosses their ends too.
        let options = LogOptions { dir: dir.clone(), ..options(4) };
        let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(options, Arc::clone(&files), clock()).unwrap());
        self.places.lock().unwrap().insert(Arc::as_ptr(&log).addr(), (files, dir));
        log
    }
}

#[async_trait]
impl Backend for Logs {
    async fn empty(&self) -> Arc<dyn EventLog> {
        match &self.root {
            Some(root) => self.open(Arc::new(DiskFiles), tempfile::tempdir_in(root.path()).unwrap().keep()),
            None => self.open(Arc::new(MemoryFiles::default()), DIR.into()),
        }
    }

    async fn reopen(&self, log: Arc<dyn EventLog>) -> Arc<dyn EventLog> {
        let (files, dir) = self.places.lock().unwrap().remove(&Arc::as_ptr(&log).addr()).unwrap();
        drop(log);
        self.open(files, dir)
    }

    async fn refusing(&self) -> Option<Refusing> {
        let files = MemoryFiles::default();
        let reserve = DiskReserve { percent: 0, bytes: 1_000_000 };
        let log = EmbeddedLog::open(LogOptions { reserve, ..options(4) }, Arc::new(files.clone()), clock()).unwrap();
        let refuse = move |refuse: bool| files.faults(|faults| faults.available = refuse.then_some(1_000_000));
        Some(Refusing { log: Arc::new(log), refuse: Box::new(refuse) })
    }
}

/// The log passes the suite of every event log, on disk and in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let root = Some(tempfile::tempdir().unwrap());
    all(&Logs { root, places: Mutex::default() }).await;
    all(&Logs { root: None, places: Mutex::default() }).await;
}
