//! What may be deleted, and when.

use std::sync::Arc;
use std::time::Duration;

use tidegauge_core::clock::ManualClock;
use tidegauge_core::log::{EventLog, Position, StoreError};
use tidegauge_embedded::files::MemoryFiles;
use tidegauge_embedded::log::{EmbeddedLog, LogOptions};

use super::support::{SHARD, append, noise, options, payloads, read_all, record, run, segments};

const HOUR_NS: i64 = 3_600 * 1_000_000_000;
const DAY_NS: i64 = 24 * HOUR_NS;

/// Whole segments go when they are acknowledged and old, and no sooner; a position before what is kept is not found;
/// the rest stays, through a restart too.
#[test]
fn only_what_is_acknowledged_and_old_goes() {
    run(async {
        let files = MemoryFiles::default();
        let clock = Arc::new(ManualClock::at(1_772_434_800_000_000_000));
        let options = || LogOptions { segment_bytes: 2_000, retention: Duration::from_secs(24 * 3_600), ..options(1) };
        let open = || EmbeddedLog::open(options(), Arc::new(files.clone()), Arc::clone(&clock) as _).unwrap();
        let log = open();
        let contents: Vec<Vec<u8>> = (0..20).map(|seed| noise(400, seed)).collect();
        let mut positions = Vec::new();
        for content in &contents {
            positions.push(append(&log, record("tenant", content.clone())).await.unwrap());
        }
        let made = segments(&files, SHARD).len();
        assert_eq!(made, 5, "four records a segment");

        log.acknowledge(SHARD, &positions[9]).await.unwrap();
        assert_eq!(segments(&files, SHARD).len(), made, "acknowledged, but young");
        clock.advance(DAY_NS - 1);
        log.acknowledge(SHARD, &positions[9]).await.unwrap();
        assert_eq!(segments(&files, SHARD).len(), made, "still young");
        clock.advance(1);
        log.acknowledge(SHARD, &positions[2]).await.unwrap();
        assert_eq!(segments(&files, SHARD).len(), made - 2, "the two segments that were acknowledged whole");

        let status = log.status(SHARD).await.unwrap();
        assert_eq!((&status.oldest, &status.end), (&positions[7], &positions[19]));
        assert_eq!(payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap()), contents[8..]);
        let passed = log.read(SHARD, &positions[3], 1 << 20, Duration::ZERO).await;
        assert!(matches!(passed, Err(StoreError::NotFound(_))), "{passed:?}");

        drop(log);
        let log = open();
        log.acknowledge(SHARD, &Position::start()).await.unwrap();
        assert_eq!(
            payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap()),
            contents[8..],
            "a restart forgets what was acknowledged, not what was not"
        );
        log.acknowledge(SHARD, &positions[19]).await.unwrap();
        assert_eq!(segments(&files, SHARD).len(), 1, "the segment that is written stays");
        assert_eq!(payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap()), contents[16..]);
        append(&log, record("tenant", "after")).await.unwrap();
        let beyond = log.acknowledge(SHARD, &Position(u64::MAX.to_be_bytes().to_vec().into())).await;
        assert!(matches!(beyond, Err(StoreError::Invalid(_))), "{beyond:?}");
    });
}

/// Waits until the shard has this many segments.
async fn until_segments(files: &MemoryFiles, count: usize) {
    let waiting = async {
        while segments(files, SHARD).len() != count {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "{} segments, not {count}", segments(files, SHARD).len());
}

/// The records of a shard that falls silent go too, an eighth of the retention time later at most, and the shard goes on.
/// Without records nothing is begun anew.
#[test]
fn what_a_silent_shard_holds_goes_too() {
    run(async {
        let files = MemoryFiles::default();
        let clock = Arc::new(ManualClock::at(1_772_434_800_000_000_000));
        let options = LogOptions { idle: Duration::from_millis(1), ..options(1) };
        let log = EmbeddedLog::open(options, Arc::new(files.clone()), Arc::clone(&clock) as _).unwrap();
        let position = append(&log, record("tenant", "last")).await.unwrap();
        log.acknowledge(SHARD, &position).await.unwrap();
        clock.advance(3 * HOUR_NS);
        until_segments(&files, 2).await;
        clock.advance(DAY_NS - 1);
        assert_eq!(payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap()), [b"last"], "kept for a day at least");
        clock.advance(1);
        until_segments(&files, 1).await;
        let status = log.status(SHARD).await.unwrap();
        assert_eq!((&status.oldest, &status.end, status.bytes), (&position, &position, 0));
        clock.advance(10 * DAY_NS);
        append(&log, record("tenant", "again")).await.unwrap();
        assert_eq!(payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap()), [b"again"]);
        assert_eq!(segments(&files, SHARD).len(), 1, "an empty segment is not ended");
    });
}

/// A shard that takes a record now and then, and so is never idle for long, keeps no more than retention says either.
#[test]
fn what_a_slow_shard_holds_goes_too() {
    run(async {
        let files = MemoryFiles::default();
        let clock = Arc::new(ManualClock::at(1_772_434_800_000_000_000));
        let log = EmbeddedLog::open(options(1), Arc::new(files.clone()), Arc::clone(&clock) as _).unwrap();
        for hour in 0..100_u8 {
            let position = append(&log, record("tenant", vec![hour])).await.unwrap();
            log.acknowledge(SHARD, &position).await.unwrap();
            clock.advance(HOUR_NS);
        }
        let kept = payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap());
        assert_eq!(kept.last().unwrap(), &[99]);
        assert!((24..=24 + 2 * 3).contains(&kept.len()), "{} hours are kept", kept.len());
    });
}
