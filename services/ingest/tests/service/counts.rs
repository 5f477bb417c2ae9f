//! I3: received = accepted + rejected, over the life of a process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tidegauge_client::{ColumnsBuilder, EventRef};
use tidegauge_core::log::StoreError;
use tidegauge_ingest::{IngestOptions, Quota};
use tidegauge_proto::ingest::v1::{Event, PublishRequest};
use tidegauge_proto::stream::v1::{EventColumns, Mode};

use super::world::{NOW_NS, ScriptedLog, World, event, numbered, rows, until};

/// Counters by name.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Counts {
    fn cell(&self, name: &str) -> Arc<AtomicU64> {
        Arc::clone(self.0.lock().unwrap().entry(name.to_owned()).or_default())
    }

    /// Events received, accepted, rejected.
    fn events(&self) -> [u64; 3] {
        ["received", "accepted", "rejected"]
            .map(|what| self.cell(&format!("tidegauge_ingest_events_{what}_total")).load(Ordering::SeqCst))
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key.name()))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// So many good events and so many without a metric.
fn mixed(good: usize, bad: usize) -> Vec<Event> {
    (0..good + bad).map(|n| event(if n < good { "m" } else { "" })).collect()
}

fn as_columns(events: &[Event]) -> EventColumns {
    let mut builder = ColumnsBuilder::new();
    for event in events {
        builder.push(EventRef {
            event_type: &event.event_type,
            metric: &event.metric_name,
            time_ns: NOW_NS,
            value: event.metric_value,
            dimensions: &[],
            source: "",
            version: "",
        });
    }
    builder.take()
}

fn busy() -> Option<StoreError> {
    Some(StoreError::Busy { what: "shard 0".to_owned(), retry_after: Duration::from_millis(50) })
}

/// Each event of a request that could be read is received once and then accepted or rejected once: as rows and as columns,
/// by calls and by streams, refused one by one, as a whole by a rule, by the quota, by the log, or left by its caller.
#[tokio::test]
async fn received_is_accepted_and_rejected() {
    let counts = Counts::default();
    let _recorded = metrics::set_default_local_recorder(&counts);
    let log = ScriptedLog::open();
    let quota = Quota { events_per_second: 200, ..Quota::default() };
    let world = World::start(log.clone(), IngestOptions { quota, ..IngestOptions::default() }).await;
    let mut client = world.client().await;
    let columns = |good, bad| {
        let columns = Some(as_columns(&mixed(good, bad)));
        PublishRequest { mode: Mode::Live as i32, columns, ..PublishRequest::default() }
    };
    let mut expected = [0, 0, 0];
    let mut expect = |received: u64, accepted: u64| {
        expected = [expected[0] + received, expected[1] + accepted, expected[2] + received - accepted];
        assert_eq!(counts.events(), expected);
    };

    client.publish(rows(mixed(5, 2))).await.unwrap();
    expect(7, 5);
    client.publish(columns(11, 3)).await.unwrap();
    expect(14, 11);
    client.publish(columns(4, 0)).await.unwrap();
    expect(4, 4);
    client.publish(rows(mixed(0, 6))).await.unwrap_err();
    expect(6, 0);
    client.publish(PublishRequest { mode: 0, ..columns(3, 0) }).await.unwrap_err();
    expect(3, 0);
    client.publish(PublishRequest { events: mixed(2, 0), ..columns(3, 0) }).await.unwrap_err();
    expect(5, 0);
    let mut misshapen = as_columns(&mixed(8, 0));
    misshapen.values.pop();
    client.publish(PublishRequest { columns: Some(misshapen), ..columns(1, 0) }).await.unwrap_err();
    expect(8, 0);
    log.failures.lock().unwrap().push_back(busy());
    client.publish(rows(mixed(9, 1))).await.unwrap_err();
    expect(10, 0);
    client.publish(rows(mixed(200, 0))).await.unwrap_err();
    expect(200, 0);

    let mut stream = world.stream().await;
    log.failures.lock().unwrap().extend([None, busy()]);
    stream.send(PublishRequest { events: mixed(3, 1), ..numbered(1, 1) }).await;
    stream.send(PublishRequest { events: Vec::new(), columns: Some(as_columns(&mixed(6, 2))), ..numbered(1, 2) }).await;
    stream.send(PublishRequest { mode: 0, ..numbered(1, 3) }).await;
    stream.send(PublishRequest { events: mixed(300, 0), ..numbered(1, 4) }).await;
    stream.send(PublishRequest { events: mixed(0, 3), ..numbered(1, 5) }).await;
    for sequence in 1..=5 {
        assert_eq!(stream.answer().await.0, sequence);
    }
    expect(4 + 8 + 1 + 300 + 3, 3);
}

/// What is at the log when its caller goes away was not acknowledged: it counts as rejected, though it may be durable.
#[tokio::test]
async fn what_nobody_waits_for_is_settled_too() {
    let counts = Counts::default();
    let _recorded = metrics::set_default_local_recorder(&counts);
    let log = ScriptedLog::gated();
    let world = World::start(log.clone(), IngestOptions::default()).await;
    let stream = world.stream().await;
    for sequence in 1..=3 {
        stream.send(numbered(1, sequence)).await;
    }
    until("three wait for the log", || log.most_waiting() == 3).await;
    assert_eq!(counts.events(), [3, 0, 0]);
    drop(stream);
    until("the stream has gone", || counts.events() == [3, 0, 3]).await;
}

/// A caller that sends and reads no answer is not read from any further: verdicts that wait are bounded in bytes, not only
/// in number. When it reads, everything is answered.
#[tokio::test]
async fn answers_that_nobody_reads_are_bounded() {
    const REQUESTS: u64 = 40;
    const EVENTS: u64 = 2_000;
    let counts = Counts::default();
    let _recorded = metrics::set_default_local_recorder(&counts);
    let options = IngestOptions { stream_bytes_max: 10_000, ..IngestOptions::default() };
    let world = World::start(ScriptedLog::open(), options).await;
    let mut stream = world.stream().await;
    for sequence in 1..=REQUESTS {
        // Verdicts of some 300 kB: a few of them fit what the connection carries unread.
        let events = vec![event(&"x".repeat(256)); EVENTS as usize];
        stream.send(PublishRequest { events, ..numbered(1, sequence) }).await;
    }
    // Time enough for the server to read on, if it would.
    let mut client = world.client().await;
    for _ in 0..50 {
        client.publish(rows(mixed(1, 0))).await.unwrap();
    }
    let received = counts.events()[0] - 50;
    assert!(received <= REQUESTS / 2 * EVENTS, "{received} events are in hand");
    for sequence in 1..=REQUESTS {
        assert_eq!(stream.answer().await, (sequence, Ok(0)));
    }
    assert_eq!(counts.events(), [REQUESTS * EVENTS + 50, 50, REQUESTS * EVENTS]);
}
