//! What may be deleted, and when.

use std::sync::Arc;
use std::time::Duration;

use tidegauge_core::clock::ManualClock;
use tidegauge_core::log::{EventLog, Position, StoreError};
use tidegauge_embedded::files::MemoryFiles;
use tidegauge_embedded::log::{EmbeddedLog, LogOptions};

use super::support::{SHARD, append, noise, options, payloads, read_all, record, run, segments};

const DAY_NS: i64 = 24 * 3_600 * 1_000_000_000;

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
