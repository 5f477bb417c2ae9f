//! Publish streams: order, bounds, retries, ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidegauge_client::{Client, ClientOptions, ProducerOptions};
use tidegauge_core::log::StoreError;
use tidegauge_ingest::{IngestOptions, Quota};
use tidegauge_proto::ingest::v1::PublishRequest;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::world::{ScriptedLog, World, numbered, rows, until};

const KEPT: u8 = 0xFF;

fn busy() -> Option<StoreError> {
    Some(StoreError::Busy { what: "shard 0".to_owned(), retry_after: Duration::from_millis(50) })
}

/// Many requests are at the log at once, no more than the limit; they stand on it, and are answered, in their order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_pipelined_in_order() {
    let log = ScriptedLog::gated();
    let options = IngestOptions { stream_requests_max: 8, ..IngestOptions::default() };
    let world = World::start(log.clone(), options).await;
    let mut stream = world.stream().await;
    for sequence in 1..=100 {
        stream.send(numbered(1, sequence)).await;
    }
    until("eight appends wait", || log.most_waiting() == 8).await;
    log.gate.add_permits(100);
    for sequence in 1..=100 {
        assert_eq!(stream.answer().await, (sequence, Ok(1)));
    }
    assert_eq!(log.most_waiting(), 8, "reading pauses at the limit");
    let sequences: Vec<u64> = log.batches().iter().map(|batch| batch.request.unwrap().sequence).collect();
    assert_eq!(sequences, (1..=100).collect::<Vec<_>>());

    drop(stream.requests);
    assert!(stream.answers.message().await.unwrap().is_none(), "the stream ends when the requests do");
}

/// A request that is refused as a whole is answered in its place, and the stream goes on. Where every event was refused the
/// verdicts are the answer.
#[tokio::test]
async fn a_refused_request_does_not_end_the_stream() {
    let log = ScriptedLog::open();
    let quota = Quota { events_per_second: 3, ..Quota::default() };
    let world = World::start(log.clone(), IngestOptions { quota, ..IngestOptions::default() }).await;
    let mut stream = world.stream().await;
    let mut nameless = numbered(1, 3);
    nameless.events[0].metric_name.clear();
    log.failures.lock().unwrap().extend([None, busy()]);
    stream.send(numbered(1, 1)).await;
    stream.send(PublishRequest { mode: 0, ..numbered(1, 2) }).await;
    stream.send(nameless).await;
    stream.send(numbered(1, 4)).await;
    stream.send(numbered(1, 5)).await;
    assert_eq!(stream.answer().await, (1, Ok(1)));
    assert_eq!(stream.answer().await, (2, Err("MODE_UNSPECIFIED".to_owned())));
    assert_eq!(stream.answer().await, (3, Ok(0)));
    assert_eq!(stream.answer().await, (4, Err("QUEUE_FULL".to_owned())));
    assert_eq!(stream.answer().await, (5, Err("QUOTA_EXCEEDED".to_owned())));
    world.clock.advance(1_000_000_000);
    stream.send(numbered(1, 5)).await;
    assert_eq!(stream.answer().await, (5, Ok(1)));
}

/// Of a kept producer nothing reaches the log behind a request that was refused for now, however many were sent ahead.
#[tokio::test]
async fn a_kept_producer_is_never_overtaken() {
    let log = ScriptedLog::open();
    let world = World::start(log.clone(), IngestOptions::default()).await;
    let mut stream = world.stream().await;
    log.failures.lock().unwrap().extend([None, busy()]);
    for sequence in 1..=4 {
        stream.send(numbered(KEPT, sequence)).await;
    }
    assert_eq!(stream.answer().await, (1, Ok(1)));
    assert_eq!(stream.answer().await, (2, Err("QUEUE_FULL".to_owned())));
    assert_eq!(stream.answer().await, (3, Err("PRECEDING_REFUSED".to_owned())));
    assert_eq!(stream.answer().await, (4, Err("PRECEDING_REFUSED".to_owned())));
    for sequence in 2..=4 {
        stream.send(numbered(KEPT, sequence)).await;
        assert_eq!(stream.answer().await, (sequence, Ok(1)));
    }
    let sequences: Vec<u64> = log.batches().iter().map(|batch| batch.request.unwrap().sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4]);
    assert_eq!(log.most_waiting(), 1, "one append of a kept producer at a time");
}

/// Requests of a kept producer that take several records, of which a failed append leaves the first ones: what is sent again
/// completes them. Each event is on the log, what is there twice carries the same index under the same digest, and no
/// request stands behind one that is not whole, so that the floor never passes a gap.
#[tokio::test]
async fn a_request_in_several_records_is_completed() {
    const EVENTS: usize = 400;
    let log = ScriptedLog::open();
    let world = World::start(log.clone(), IngestOptions { record_bytes_max: 2_000, ..IngestOptions::default() }).await;
    log.partly.lock().unwrap().extend([None, Some(1), Some(3), None, None, Some(0), None, Some(2)]);
    let options = ClientOptions { endpoint: world.endpoint(), token: Some(world.token()), ..ClientOptions::default() };
    let client = Client::connect(options).await.unwrap();
    let mut producer =
        client.producer(ProducerOptions { producer_id: Some([KEPT; 16]), in_flight: 4, ..ProducerOptions::default() });
    for sequence in 1..=6 {
        // Now and then one is refused, so that the indexes have gaps.
        let name = |n: usize| if n % 7 == 3 { String::new() } else { format!("metric.{sequence}.{n}") };
        producer.send((0..EVENTS).map(|n| super::world::event(&name(n))).collect::<Vec<_>>()).await.unwrap();
    }
    assert_eq!(producer.close().await.unwrap().batches, 6);

    let good: Vec<u32> = (0..EVENTS as u32).filter(|n| n % 7 != 3).collect();
    let mut found: BTreeMap<u64, (u128, BTreeSet<u32>)> = BTreeMap::new();
    let (mut repeated, mut records) = (0, 0);
    for batch in log.batches() {
        let id = batch.request.unwrap();
        let before = found.range(..id.sequence).all(|(_, (_, indexes))| indexes.iter().eq(&good));
        assert!(before, "sequence {} stands behind one that is not whole", id.sequence);
        let (digest, indexes) = found.entry(id.sequence).or_insert((id.digest, BTreeSet::new()));
        assert_eq!(*digest, id.digest, "sequence {}", id.sequence);
        records += 1;
        for index in batch.indexes.iter().flat_map(|range| range.first..range.first + range.count) {
            repeated += usize::from(!indexes.insert(index));
        }
    }
    assert!(found.len() == 6 && found.values().all(|(_, indexes)| indexes.iter().eq(&good)));
    assert!(records > 6 * 5 && repeated > 0, "{records} records, {repeated} events twice");
}

/// The second of two equal requests carries the hint; another content under the same sequence does not.
#[tokio::test]
async fn duplicates_are_hinted() {
    let world = World::start(ScriptedLog::open(), IngestOptions::default()).await;
    let mut client = world.client().await;
    let other = PublishRequest { events: numbered(1, 2).events, ..numbered(1, 1) };
    for (request, hint) in [(numbered(1, 1), false), (numbered(1, 1), true), (other, false), (numbered(2, 1), false)] {
        assert_eq!(client.publish(request).await.unwrap().into_inner().duplicate_hint, hint);
    }
}

/// A drain answers what is in flight, ends the stream with UNAVAILABLE and takes nothing new; it returns when all is done.
#[tokio::test]
async fn a_drain_answers_what_is_in_flight() {
    let log = ScriptedLog::gated();
    let world = World::start(log.clone(), IngestOptions::default()).await;
    let mut client = world.client().await;
    let mut stream = world.stream().await;
    stream.send(numbered(1, 1)).await;
    stream.send(numbered(1, 2)).await;
    until("both wait for the log", || log.most_waiting() == 2).await;

    let drain = tokio::spawn(world.ingest.drain());
    // The drain is under way when new work is refused.
    let refused = loop {
        let call =
            tokio::time::timeout(Duration::from_millis(20), client.publish(rows(vec![super::world::event("m")])));
        match call.await {
            Ok(Err(status)) => break status,
            Ok(Ok(_)) => panic!("nothing is acknowledged before the log has it"),
            Err(_) => {}
        }
    };
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.get_error_details().error_info().unwrap().reason, "DRAINING");
    assert!(!drain.is_finished());
    log.gate.add_permits(100);
    assert_eq!((stream.answer().await, stream.answer().await), ((1, Ok(1)), (2, Ok(1))));
    let end = stream.answers.message().await.expect_err("the stream is ended");
    assert_eq!(
        (end.code(), end.get_error_details().error_info().unwrap().reason.as_str()),
        (Code::Unavailable, "DRAINING")
    );
    drop((stream, client));
    drain.await.unwrap();
}

/// A stream whose token has expired takes no further request.
#[tokio::test]
async fn an_expired_token_ends_the_stream() {
    let log = ScriptedLog::open();
    let world = World::start(log.clone(), IngestOptions::default()).await;
    let mut stream = world.stream().await;
    stream.send(numbered(1, 1)).await;
    assert_eq!(stream.answer().await, (1, Ok(1)));
    world.clock.advance(3_601_000_000_000);
    stream.send(numbered(1, 2)).await;
    let end = stream.answers.message().await.expect_err("the stream is ended");
    assert_eq!(end.code(), Code::Unauthenticated);
    assert_eq!(log.batches().len(), 1);
}

/// The public client with a kept producer against a log that refuses now and then: all batches are acknowledged, and stand
/// on the log once and in order.
#[tokio::test]
async fn a_kept_producer_gets_through() {
    let log = ScriptedLog::open();
    let world = World::start(log.clone(), IngestOptions::default()).await;
    let short = || Some(StoreError::Busy { what: "shard 0".to_owned(), retry_after: Duration::from_millis(2) });
    log.failures.lock().unwrap().extend([None, short(), short(), None, None, None, short(), None, short()]);
    let options = ClientOptions { endpoint: world.endpoint(), token: Some(world.token()), ..ClientOptions::default() };
    let client = Client::connect(options).await.unwrap();
    let mut producer = client.producer(ProducerOptions {
        producer_id: Some([KEPT; 16]),
        first_sequence: 5,
        in_flight: 6,
        ..ProducerOptions::default()
    });
    for sequence in 5..25 {
        assert_eq!(producer.send(numbered(KEPT, sequence).events).await.unwrap().sequence(), sequence);
    }
    let totals = producer.close().await.unwrap();
    assert_eq!((totals.batches, totals.accepted), (20, 20));
    let sequences: Vec<u64> = log.batches().iter().map(|batch| batch.request.unwrap().sequence).collect();
    assert_eq!(sequences, (5..25).collect::<Vec<_>>());
}
