//! Over the embedded log, with the public client: what is acknowledged is there after the log is opened again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegauge_client::{Client, ClientOptions, ColumnsBuilder, EventRef, Mode, ProducerOptions};
use tidegauge_core::clock::SystemClock;
use tidegauge_core::log::{EventLog, Position};
use tidegauge_core::{Key, ShardId, TenantId};
use tidegauge_embedded::files::DiskFiles;
use tidegauge_embedded::log::{DiskReserve, EmbeddedLog, LogOptions};
use tidegauge_ingest::IngestOptions;
use tidegauge_proto::raw::decode_batch;

use super::world::{NOW_NS, TENANT, World, event};

fn open(dir: &std::path::Path) -> Arc<EmbeddedLog> {
    let options = LogOptions { reserve: DiskReserve::NONE, ..LogOptions::new(dir) };
    Arc::new(EmbeddedLog::open(options, Arc::new(DiskFiles), Arc::new(SystemClock::default())).unwrap())
}

/// Columns and rows of one producer, half of them refused in part: the log holds each accepted event once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_events_are_on_the_log() {
    const BATCHES: u64 = 40;
    const EVENTS: usize = 500;

    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let world = World::start(log.clone(), IngestOptions { record_bytes_max: 5_000, ..IngestOptions::default() }).await;
    let options = ClientOptions { endpoint: world.endpoint(), token: Some(world.token()), ..ClientOptions::default() };
    let client = Client::connect(options).await.unwrap();
    let mut producer = client.producer(ProducerOptions { mode: Mode::Backfill, ..ProducerOptions::default() });
    let mut builder = ColumnsBuilder::new();
    let mut tickets = Vec::new();
    for batch in 0..BATCHES {
        let refused = |n: usize| batch % 2 == 1 && n.is_multiple_of(5);
        let metric = |n: usize| if refused(n) { String::new() } else { format!("metric.{}", n % 7) };
        let ticket = if batch % 4 < 2 {
            for n in 0..EVENTS {
                let host = format!("host-{}", n % 130);
                builder.push(EventRef {
                    event_type: "sample",
                    metric: &metric(n),
                    time_ns: NOW_NS + n as i64,
                    value: batch as f64,
                    dimensions: &[("host", &host), ("az", "1")],
                    source: "test",
                    version: "",
                });
            }
            producer.send_from(&mut builder).await.unwrap()
        } else {
            let rows = (0..EVENTS).map(|n| {
                let mut row = event(&metric(n));
                row.metric_value = batch as f64;
                row
            });
            producer.send(rows.collect::<Vec<_>>()).await.unwrap()
        };
        tickets.push(ticket);
    }
    let mut accepted = 0;
    for (ticket, batch) in tickets.into_iter().zip(0_u64..) {
        let ack = ticket.ack().await.unwrap();
        assert_eq!(
            (ack.sequence, ack.events, ack.rejected().len()),
            (batch + 1, EVENTS, if batch % 2 == 1 { 100 } else { 0 })
        );
        accepted += u64::from(ack.accepted());
    }
    let totals = producer.close().await.unwrap();
    assert_eq!((totals.batches, totals.accepted, totals.rejected), (BATCHES, accepted, 20 * 100));

    let World { server, ingest, .. } = world;
    ingest.drain().await;
    server.drain(Duration::from_secs(5)).await;
    drop(client);
    drop(log);
    let log = open(dir.path());
    let shard = Key::of(TenantId::parse(TENANT).unwrap()).shard(log.shards());
    let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for other in (0..log.shards()).map(ShardId) {
        let mut from = Position::start();
        loop {
            let read = log.read(other, &from, 1 << 20, Duration::ZERO).await.unwrap();
            for record in &read.records {
                assert_eq!(other, shard);
                let batch = decode_batch(&record.payload).unwrap();
                let id = batch.request.unwrap();
                assert_eq!(id.producer.to_bytes(), producer_id(&record.payload));
                assert!(found.last_key_value().is_none_or(|(last, _)| id.sequence >= *last), "in the order of sending");
                assert!(batch.columns.values.iter().all(|value| *value == (id.sequence - 1) as f64));
                let indexes = batch.indexes.iter().flat_map(|range| range.first..range.first + range.count);
                found.entry(id.sequence).or_default().extend(indexes);
                from = record.position.clone();
            }
            if read.at_tip {
                break;
            }
        }
    }
    assert_eq!(found.len() as u64, BATCHES);
    for (sequence, indexes) in found {
        let expected: Vec<u32> = (0..EVENTS as u32).filter(|n| sequence % 2 == 1 || !n.is_multiple_of(5)).collect();
        assert_eq!(indexes, expected, "sequence {sequence}");
    }
}

/// The id as the record itself says.
fn producer_id(payload: &[u8]) -> [u8; 16] {
    use prost::Message as _;
    let batch = tidegauge_proto::stream::v1::EventBatch::decode(payload).unwrap();
    batch.producer_id.as_ref().try_into().unwrap()
}
