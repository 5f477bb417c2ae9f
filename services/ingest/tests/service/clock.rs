//! Steps of the wall clock, seen by those who publish.

use tidegauge_core::clock::Clock as _;
use tidegauge_core::event::Mode;
use tidegauge_core::time::{DAY_NS, MINUTE_NS, SECOND_NS};
use tidegauge_ingest::IngestOptions;
use tidegauge_proto::convert::time::timestamp;
use tidegauge_proto::ingest::v1::PublishRequest;
use tidegauge_proto::stream::v1::Mode as WireMode;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::world::{NOW_NS, ScriptedLog, World, event, rows};

/// A request with one event at this time.
fn at(time_ns: i64) -> PublishRequest {
    let mut event = event("cpu");
    event.timestamp = Some(timestamp(time_ns));
    rows(vec![event])
}

fn told(status: &Status) -> (Code, String) {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    (status.code(), reason)
}

/// The wall clock steps two days, either way, for a minute: meanwhile LIVE is refused with a time to try again, whatever time
/// its events claim; history is taken, with the time that it really is; afterwards everything is as before. Nothing that
/// went on the log carries the wrong time, so nothing later is too old.
#[tokio::test]
async fn a_step_of_two_days_for_a_minute() {
    for step in [2 * DAY_NS, -2 * DAY_NS] {
        let log = ScriptedLog::open();
        let world = World::start(log.clone(), IngestOptions::default()).await;
        let mut client = world.lasting_client().await;
        client.publish(at(NOW_NS)).await.expect("before");
        world.clock.step_wall(step);
        for second in [1, 30, 59] {
            let now = NOW_NS + second * SECOND_NS;
            world.clock.advance(now + step - world.clock.wall_ns());
            for claimed in [now, now + step] {
                let refused = client.publish(at(claimed)).await.expect_err("the clock is not believed");
                assert_eq!(told(&refused), (Code::Unavailable, "CLOCK_STEPPED".to_owned()), "{step}");
                assert!(refused.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
                assert!(refused.message().contains("172800 s"), "{}", refused.message());
            }
            let history = PublishRequest { mode: WireMode::Backfill as i32, ..at(NOW_NS - 30 * DAY_NS) };
            client.publish(history).await.expect("history is taken");
            let batch = log.batches().pop().expect("a record");
            assert_eq!((batch.mode, batch.arrival_ns), (Mode::Backfill, now));
            let ahead = PublishRequest { mode: WireMode::Backfill as i32, ..at(now + 2 * DAY_NS) };
            let refused = client.publish(ahead).await.expect_err("two days ahead are the future in every mode");
            assert_eq!(told(&refused), (Code::InvalidArgument, "TIMESTAMP_IN_FUTURE".to_owned()));
        }
        world.clock.step_wall(-step);
        client.publish(at(NOW_NS + 59 * SECOND_NS)).await.expect("after");
        let batch = log.batches().pop().expect("a record");
        assert_eq!((batch.mode, batch.arrival_ns), (Mode::Live, NOW_NS + 59 * SECOND_NS));
    }
}

/// A step of five minutes is taken over slowly: LIVE goes on, and arrivals never go back, nor run ahead by more than a tenth
/// of the time that passes.
#[tokio::test]
async fn a_small_step_is_taken_over_slowly() {
    for step in [5 * MINUTE_NS, -5 * MINUTE_NS] {
        let log = ScriptedLog::open();
        let world = World::start(log.clone(), IngestOptions::default()).await;
        let mut client = world.lasting_client().await;
        world.clock.step_wall(step);
        let mut last = NOW_NS;
        for minute in 1..=60 {
            world.clock.advance(MINUTE_NS);
            client.publish(at(NOW_NS + minute * MINUTE_NS)).await.expect("LIVE goes on");
            let arrival = log.batches().pop().expect("a record").arrival_ns;
            let passed = arrival - last;
            assert!((MINUTE_NS / 10 * 9..=MINUTE_NS / 10 * 11).contains(&passed), "{step}, minute {minute}: {passed}");
            last = arrival;
        }
        assert_eq!(last, NOW_NS + 60 * MINUTE_NS + step, "and in the end it is taken over");
    }
}

/// A laptop that wakes up is no step: LIVE is taken, with the time that the wall shows.
#[tokio::test]
async fn a_machine_that_slept_goes_on() {
    let log = ScriptedLog::open();
    let world = World::start(log.clone(), IngestOptions::default()).await;
    let mut client = world.lasting_client().await;
    client.publish(at(NOW_NS)).await.expect("before");
    world.clock.suspend(2 * DAY_NS);
    client.publish(at(NOW_NS + 2 * DAY_NS)).await.expect("after");
    assert_eq!(log.batches().pop().expect("a record").arrival_ns, NOW_NS + 2 * DAY_NS);
}
