//! The ledger: what each ordinal of a shard means, by the log itself.
//!
//! It reads the log when no server is left, record by record, and counts naively: an event counts once for its tenant,
//! producer, sequence and index. Nothing of ingest, aggregation, hot-metric or query takes part in it; only the log's own
//! reader and the decoding of a record do.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegauge_core::ShardId;
use tidegauge_core::clock::SystemClock;
use tidegauge_core::log::{EventLog as _, Position};
use tidegauge_embedded::data_dir::{DataDir, Part};
use tidegauge_embedded::files::DiskFiles;
use tidegauge_embedded::log::{EmbeddedLog, LogOptions};
use tidegauge_proto::convert::batch::decode;

/// Bytes to ask the log for at once.
const READ_BYTES: usize = 1 << 20;

/// What the log says of one tenant.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Shard of the tenant's key.
    pub(super) shard: u32,
    /// Ordinal of each of its records and the events counted up to it, in order.
    steps: Vec<(u64, u64)>,
    /// Events on the log that had stood there before.
    pub(super) duplicates: u64,
    /// Events per request, by producer (its first byte) and sequence.
    pub(super) requests: BTreeMap<(u8, u64), u64>,
}

impl Account {
    /// Events counted by the first `ordinal` records of the shard.
    pub(super) fn at(&self, ordinal: u64) -> u64 {
        let passed = self.steps.partition_point(|(at, _)| *at <= ordinal);
        passed.checked_sub(1).map_or(0, |last| self.steps[last].1)
    }

    /// Events counted by the whole log.
    pub(super) fn total(&self) -> u64 {
        self.steps.last().map_or(0, |(_, counted)| *counted)
    }
}

/// The accounts of all tenants.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By tenant.
    pub(super) accounts: BTreeMap<String, Account>,
    /// Records of each shard: its last ordinal.
    pub(super) records: Vec<u64>,
}

impl Ledger {
    /// Reads the log of a data directory that no server has open.
    pub(super) async fn read(data_dir: &Path) -> Self {
        let root = DataDir::open(data_dir).expect("a data directory");
        let _lock = root.lock(Part::Log).expect("the server has ended");
        let log = EmbeddedLog::open(
            LogOptions::new(root.path(Part::Log)),
            Arc::new(DiskFiles),
            Arc::new(SystemClock::default()),
        );
        let log = log.expect("a log");
        let mut ledger = Self::default();
        for shard in 0..log.shards() {
            let mut at = Position::start();
            let mut ordinal = 0;
            let mut counted = HashSet::new();
            loop {
                let read = log.read(ShardId(shard), &at, READ_BYTES, Duration::ZERO).await.expect("records");
                let Some(last) = read.records.last() else { break };
                at = last.position.clone();
                for record in read.records {
                    ordinal += 1;
                    let batch = decode(record.payload).expect("every record of this test is a batch");
                    assert_eq!(batch.tenant, record.key.tenant, "record {ordinal} of shard {shard}");
                    let request = batch.request.expect("every producer of this test numbers its requests");
                    let producer = request.producer.to_bytes();
                    let account = ledger.accounts.entry(batch.tenant.as_str().to_owned()).or_default();
                    account.shard = shard;
                    let mut sum = account.total();
                    for range in &batch.indexes {
                        for index in range.first..range.first + range.count {
                            if counted.insert((batch.tenant.clone(), producer, request.sequence, index)) {
                                sum += 1;
                                *account.requests.entry((producer[0], request.sequence)).or_default() += 1;
                            } else {
                                account.duplicates += 1;
                            }
                        }
                    }
                    account.steps.push((ordinal, sum));
                }
            }
            ledger.records.push(ordinal);
        }
        ledger
    }
}
