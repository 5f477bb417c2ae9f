//! Conformance of an event log.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::ids::{Key, ShardId, TenantId};
use crate::limits::RECORD_BYTES_MAX;
use crate::log::{EventLog, LogRecord, NewRecord, Position, StoreError};

/// Makes the logs that the suite tests.
#[async_trait]
pub trait Backend: Send + Sync {
    /// A log without records, with at least two shards, apart from all others.
    async fn empty(&self) -> Arc<dyn EventLog>;

    /// The same log after a restart. The suite holds no other reference to it.
    async fn reopen(&self, log: Arc<dyn EventLog>) -> Arc<dyn EventLog>;

    /// A log that can be told to refuse appends as busy or full; `None` where the storage cannot be made to.
    async fn refusing(&self) -> Option<Refusing>;
}

/// A log with a switch.
#[expect(missing_debug_implementations, reason = "the switch is a closure of a test")]
pub struct Refusing {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// With true, appends are refused from now on.
    pub refuse: Box<dyn Fn(bool) + Send + Sync>,
}

/// Longest wait for something that must come.
const LONG: Duration = Duration::from_secs(60);
/// Bytes to ask for where the amount does not matter.
const PLENTY: usize = 8 << 20;

/// Runs every test of the suite.
pub async fn all(backend: &dyn Backend) {
    what_is_appended_is_read(&*backend.empty().await).await;
    keys_keep_their_order(&*backend.empty().await).await;
    payloads_of_every_kind(&*backend.empty().await).await;
    reads_are_bounded(&*backend.empty().await).await;
    positions_resume(&*backend.empty().await).await;
    readers_wait(&*backend.empty().await).await;
    readers_are_independent(&*backend.empty().await).await;
    oversize_leaves_nothing(&*backend.empty().await).await;
    acknowledging_deletes_nothing_unread(&*backend.empty().await).await;
    a_restart_loses_nothing(backend).await;
    if let Some(refusing) = backend.refusing().await {
        refused_leaves_nothing(refusing).await;
    }
}

/// An append gives each record's shard and position, in the order of the call; each shard then holds exactly its records.
async fn what_is_appended_is_read(log: &dyn EventLog) {
    assert!(log.shards() >= 2, "the suite needs several shards");
    assert_eq!(log.append(Vec::new()).await.expect("an empty call is fine"), Vec::new());
    let records: Vec<NewRecord> = (0..40).map(|index| record(&format!("tenant-{}", index % 7), index)).collect();
    let places = log.append(records.clone()).await.expect("append");
    assert_eq!(places.len(), records.len());
    let mut expected: BTreeMap<u32, Vec<(NewRecord, Position)>> = BTreeMap::new();
    for (record, (shard, position)) in records.into_iter().zip(places) {
        assert!(shard.0 < log.shards(), "shard {shard}");
        assert!(!position.is_start(), "a record stands after the start");
        expected.entry(shard.0).or_default().push((record, position));
    }
    for shard in 0..log.shards() {
        let read = drain(log, ShardId(shard), &Position::start()).await;
        let mut expected = expected.remove(&shard).unwrap_or_default();
        assert_eq!(read.len(), expected.len(), "records of shard {shard}");
        // One call may order records of different keys as it likes.
        for found in read {
            let at = expected.iter().position(|(record, position)| is(&found, record) && *position == found.position);
            expected.remove(at.unwrap_or_else(|| panic!("not appended: {found:?}")));
        }
    }
}

/// Records of one key keep the order of calls and of records in a call, on one shard, while other keys are written.
async fn keys_keep_their_order(log: &dyn EventLog) {
    for round in 0..10 {
        let noise = log.append((0..5).map(|index| record("noise", round * 5 + index)).collect());
        let ours = log.append((0..5).map(|index| record("ordered", round * 5 + index)).collect());
        let (noise, ours) = both(noise, ours).await;
        noise.expect("append");
        ours.expect("append");
    }
    for tenant in ["ordered", "noise"] {
        let shard = key(tenant).shard(log.shards());
        let all = drain(log, shard, &Position::start()).await;
        let ours = all.iter().filter(|found| found.key == key(tenant));
        let payloads: Vec<&Bytes> = ours.map(|found| &found.payload).collect();
        let expected: Vec<Bytes> = (0..50).map(|index| record(tenant, index).payload).collect();
        assert_eq!(payloads, expected.iter().collect::<Vec<_>>(), "{tenant}");
    }
}

/// Payloads are opaque: empty, all zero, all ones, as large as allowed; buckets are part of the key.
async fn payloads_of_every_kind(log: &dyn EventLog) {
    let mut bucket = key("payloads");
    bucket.bucket = 3;
    let room = RECORD_BYTES_MAX - bucket.to_string().len();
    let payloads = [vec![], vec![0; 5_000], vec![0xFF; 5_000], vec![1], vec![0; room], vec![0xA5; room]];
    for payload in payloads {
        let record = NewRecord { key: bucket.clone(), payload: payload.into() };
        let places = log.append(vec![record.clone()]).await.expect("append");
        let (shard, _) = places[0];
        let found = drain(log, shard, &Position::start()).await.pop().expect("the record just appended");
        assert!(is(&found, &record), "a payload of {} bytes came back changed", record.payload.len());
    }
}

/// A read gives at least one record, however small the bound, and never many bytes more than asked for.
async fn reads_are_bounded(log: &dyn EventLog) {
    let records = (0..100).map(|_| NewRecord { key: key("bounded"), payload: vec![7; 1_000].into() }).collect();
    log.append(records).await.expect("append");
    let shard = key("bounded").shard(log.shards());
    let mut from = Position::start();
    let mut seen = 0;
    while seen < 100 {
        let bytes_max = 1 + seen * 100;
        let batch = log.read(shard, &from, bytes_max, LONG).await.expect("read");
        let bytes: usize = batch.records.iter().map(|found| found.payload.len()).sum();
        assert!(!batch.records.is_empty(), "at least one record, with a bound of {bytes_max}");
        assert!(bytes <= bytes_max.max(1_000), "{bytes} bytes for a bound of {bytes_max}");
        seen += batch.records.len();
        assert!(!batch.at_tip || seen == 100, "the tip is where nothing more is durable");
        from = batch.records[batch.records.len() - 1].position.clone();
    }
    assert_eq!(seen, 100);
}

/// Reading from any record's position gives exactly the records after it, again and again; a shard that does not exist
/// is an error.
async fn positions_resume(log: &dyn EventLog) {
    for index in 0..20 {
        log.append(vec![record("resume", index)]).await.expect("append");
    }
    let shard = key("resume").shard(log.shards());
    let all = drain(log, shard, &Position::start()).await;
    assert_eq!(all.len(), 20);
    for (index, found) in all.iter().enumerate() {
        let rest = drain(log, shard, &found.position).await;
        let again = drain(log, shard, &found.position).await;
        let expected: Vec<&Bytes> = all[index + 1..].iter().map(|found| &found.payload).collect();
        assert_eq!(rest.iter().map(|found| &found.payload).collect::<Vec<_>>(), expected, "after record {index}");
        assert_eq!(again.iter().map(|found| &found.payload).collect::<Vec<_>>(), expected, "after record {index}");
    }
    assert!(log.read(ShardId(log.shards()), &Position::start(), PLENTY, Duration::ZERO).await.is_err());
    assert!(log.status(ShardId(log.shards())).await.is_err());
}

/// A reader at the tip gets nothing within its time, or the next record as soon as that is durable.
async fn readers_wait(log: &dyn EventLog) {
    let shard = key("waiting").shard(log.shards());
    let nothing = log.read(shard, &Position::start(), PLENTY, Duration::ZERO).await.expect("read");
    assert!(nothing.records.is_empty() && nothing.at_tip, "{nothing:?}");
    let brief = log.read(shard, &Position::start(), PLENTY, Duration::from_millis(1)).await.expect("read");
    assert!(brief.records.is_empty() && brief.at_tip, "{brief:?}");
    let mut from = Position::start();
    for index in 0..5 {
        let reading = log.read(shard, &from, PLENTY, LONG);
        let (batch, appended) = both(reading, log.append(vec![record("waiting", index)])).await;
        appended.expect("append");
        let batch = batch.expect("read");
        assert_eq!(batch.records.len(), 1);
        assert!(is(&batch.records[0], &record("waiting", index)) && batch.at_tip);
        from = batch.records[0].position.clone();
    }
}

/// Two readers of one shard both see everything.
async fn readers_are_independent(log: &dyn EventLog) {
    let shard = key("shared").shard(log.shards());
    let start = Position::start();
    let readers = both(read_count(log, shard, 30), read_count(log, shard, 30));
    let writer = async {
        for index in 0..30 {
            log.append(vec![record("shared", index)]).await.expect("append");
        }
    };
    let ((first, second), ()) = both(readers, writer).await;
    let all = drain(log, shard, &start).await;
    for seen in [first, second] {
        assert!(seen.iter().zip(&all).all(|(seen, found)| seen.position == found.position), "both see the same");
        assert_eq!(seen.len(), all.len());
    }
}

/// A record over its limit is invalid, and nothing of its call is on the log.
async fn oversize_leaves_nothing(log: &dyn EventLog) {
    let fine = record("oversize", 0);
    let too_large = NewRecord { key: key("oversize"), payload: vec![1; RECORD_BYTES_MAX].into() };
    let refused = log.append(vec![fine.clone(), record("other", 1), too_large]).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    log.append(vec![fine]).await.expect("append");
    let mut all = 0;
    for shard in (0..log.shards()).map(ShardId) {
        all += drain(log, shard, &Position::start()).await.len();
    }
    assert_eq!(all, 1, "only the call that was accepted");
}

/// Acknowledging is idempotent and never goes back; what is not acknowledged stays readable; status spans the log.
async fn acknowledging_deletes_nothing_unread(log: &dyn EventLog) {
    for index in 0..20 {
        log.append(vec![record("acknowledged", index)]).await.expect("append");
    }
    let shard = key("acknowledged").shard(log.shards());
    let all = drain(log, shard, &Position::start()).await;
    let status = log.status(shard).await.expect("status");
    assert_eq!((status.shard, status.end.clone()), (shard, all[19].position.clone()));
    let from_oldest = drain(log, shard, &status.oldest).await;
    assert_eq!(from_oldest.len(), 20, "the oldest position stands before the first record");
    log.acknowledge(shard, &Position::start()).await.expect("acknowledging nothing is fine");
    for index in [9, 9, 4] {
        log.acknowledge(shard, &all[index].position).await.expect("acknowledge");
    }
    let rest = drain(log, shard, &all[9].position).await;
    let payloads: Vec<&Bytes> = rest.iter().map(|found| &found.payload).collect();
    assert_eq!(payloads, all[10..].iter().map(|found| &found.payload).collect::<Vec<_>>());
}

/// After a restart every acknowledged record is there, at the same position, and appending goes on behind it.
async fn a_restart_loses_nothing(backend: &dyn Backend) {
    let mut log = backend.empty().await;
    let shard = key("restart").shard(log.shards());
    let mut expected: Vec<(Bytes, Position)> = Vec::new();
    for round in 0..3 {
        for index in 0..10 {
            let record = record("restart", round * 10 + index);
            let places = log.append(vec![record.clone()]).await.expect("append");
            expected.push((record.payload, places[0].1.clone()));
        }
        log = backend.reopen(log).await;
        let all = drain(&*log, shard, &Position::start()).await;
        let found: Vec<(Bytes, Position)> = all.into_iter().map(|found| (found.payload, found.position)).collect();
        assert_eq!(found, expected, "after restart {round}");
    }
}

/// Busy and Full mean that nothing of the call is on the log; afterwards it goes on.
async fn refused_leaves_nothing(refusing: Refusing) {
    let Refusing { log, refuse } = refusing;
    log.append(vec![record("refused", 0)]).await.expect("append");
    let shard = key("refused").shard(log.shards());
    refuse(true);
    for index in 1..5 {
        let refused = log.append(vec![record("refused", index), record("other", index)]).await;
        assert!(matches!(refused, Err(StoreError::Full(_) | StoreError::Busy { .. })), "{refused:?}");
    }
    assert_eq!(drain(&*log, shard, &Position::start()).await.len(), 1, "reading goes on");
    refuse(false);
    log.append(vec![record("refused", 5)]).await.expect("append after the refusals");
    let all = drain(&*log, shard, &Position::start()).await;
    let payloads: Vec<Bytes> = all.into_iter().map(|found| found.payload).collect();
    assert_eq!(payloads, [record("refused", 0).payload, record("refused", 5).payload]);
}

fn key(tenant: &str) -> Key {
    Key::of(TenantId::parse(tenant).expect("a valid name"))
}

fn record(tenant: &str, index: usize) -> NewRecord {
    let payload = format!("{tenant} {index} ").repeat(index % 50 + 1);
    NewRecord { key: key(tenant), payload: payload.into() }
}

fn is(found: &LogRecord, record: &NewRecord) -> bool {
    found.key == record.key && found.payload == record.payload
}

/// Everything after `from` that is durable now.
pub async fn drain(log: &dyn EventLog, shard: ShardId, from: &Position) -> Vec<LogRecord> {
    let mut from = from.clone();
    let mut all = Vec::new();
    loop {
        let batch = log.read(shard, &from, PLENTY, Duration::ZERO).await.expect("read");
        match batch.records.last() {
            Some(last) => from = last.position.clone(),
            None => assert!(batch.at_tip, "nothing to read, but not at the tip"),
        }
        all.extend(batch.records);
        if batch.at_tip {
            return all;
        }
    }
}

/// The first `count` records of a shard, waiting for them.
async fn read_count(log: &dyn EventLog, shard: ShardId, count: usize) -> Vec<LogRecord> {
    let mut from = Position::start();
    let mut all = Vec::new();
    while all.len() < count {
        let batch = log.read(shard, &from, PLENTY, LONG).await.expect("read");
        let last = batch.records.last().expect("a record within the time given");
        from = last.position.clone();
        all.extend(batch.records);
    }
    all
}

/// Runs two futures to their ends beside each other.
async fn both<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> (A, B) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut first_done, mut second_done) = (None, None);
    poll_fn(|context| {
        if first_done.is_none()
            && let Poll::Ready(value) = first.as_mut().poll(context)
        {
            first_done = Some(value);
        }
        if second_done.is_none()
            && let Poll::Ready(value) = second.as_mut().poll(context)
        {
            second_done = Some(value);
        }
        match (first_done.take(), second_done.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            (first, second) => {
                first_done = first;
                second_done = second;
                Poll::Pending
            }
        }
    })
    .await
}
