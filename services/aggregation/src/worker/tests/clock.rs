//! Steps of the wall clock, seen through the worker.

use std::time::Duration;

use tidegauge_core::clock::{Clock, ManualClock};
use tidegauge_core::event::Mode;
use tidegauge_core::log::{EventLog, NewRecord};
use tidegauge_core::time::{HOUR_NS, MINUTE_NS, SECOND_NS};

use super::backends::Fuse;
use super::world::{World, options};
use crate::decide::tests::{T0, batch, key, raw};

/// However the wall clock steps under a running worker, a silent key's watermark follows the time that has passed: never
/// back, never ahead of it by more than a step is slewed, and not behind for longer than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_worker_does_not_jump() {
    const LATENESS_NS: i64 = 120 * SECOND_NS;
    let world = World::standing_still();
    let clock: &ManualClock = &world.clock;
    let record = batch(&key("a"), Mode::Live, T0, &[(0, T0, 1.0)]);
    world.log.append(vec![NewRecord { key: key("a"), payload: raw(&record) }]).await.unwrap();
    let (handle, _) = world.start(Fuse::never(), options());
    let mut last = i64::MIN;
    for step in [0, 2 * HOUR_NS, -2 * HOUR_NS, 5 * MINUTE_NS, -5 * MINUTE_NS, -3 * HOUR_NS, 3 * HOUR_NS, 9 * MINUTE_NS]
    {
        clock.step_wall(step);
        clock.advance(4 * MINUTE_NS);
        let followed = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                clock.advance(SECOND_NS / 10);
                let watermark = handle.status().await.keys.first().and_then(|key| key.watermark_ns);
                let elapsed = clock.monotonic_ns().cast_signed();
                if let Some(watermark) = watermark {
                    assert!(watermark >= last, "{step}: the watermark went back");
                    assert!(watermark <= T0 + elapsed / 10 * 11 - LATENESS_NS, "{step}: the watermark is ahead");
                    last = watermark;
                    if watermark >= T0 + elapsed / 10 * 9 - LATENESS_NS - MINUTE_NS {
                        return;
                    }
                }
                tokio::task::yield_now().await;
            }
        });
        assert!(followed.await.is_ok(), "{step}: the watermark stays behind at {last}");
    }
    let key = handle.status().await.keys.remove(0);
    assert_eq!((key.counters.on_time, key.counters.late, key.counters.dead), (1, 0, 0));
    handle.drain().await;
}

/// Processes that find another wall clock than the one before left, and clocks that step while records come: every
/// answer is right, and in the end so are the rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_between_and_within_lives_change_no_count() {
    let mut world = World::new();
    let steps = [0, 40 * MINUTE_NS, -50 * MINUTE_NS, 5 * MINUTE_NS, -9 * MINUTE_NS, HOUR_NS, -20 * MINUTE_NS, HOUR_NS];
    for (round, step) in steps.into_iter().enumerate() {
        let (handle, _) = world.start(Fuse::never(), options());
        world.send(2 * round as u64).await;
        for _ in 0..50 {
            world.read();
            tokio::task::yield_now().await;
        }
        world.clock.step_wall(step);
        world.send(2 * round as u64 + 1).await;
        if round % 2 == 0 {
            world.rest(&handle).await;
        }
        drop(handle);
        world.clock.step_wall(-step / 3);
    }
    let (last, _) = world.start(Fuse::never(), options());
    world.rest(&last).await;
    world.compare();
    last.drain().await;
    world.verify().await;
}
