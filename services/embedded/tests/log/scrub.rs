//! Sealed segments that the start had no time for are checked while the log runs.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegauge_core::ShardId;
use tidegauge_core::clock::ManualClock;
use tidegauge_core::log::{EventLog, Position, StoreError};
use tidegauge_embedded::files::{Faults, MemoryFiles};
use tidegauge_embedded::log::{EmbeddedLog, LogOptions};

use super::support::{SHARD, append, key, noise, open, options, payloads, read_all, record, run, scrubbed, segments};

const DAY_NS: i64 = 24 * 3_600 * 1_000_000_000;
/// Bytes of the records of a sealed segment of [`chain`].
const SEGMENT_BYTES: u64 = 4 * 432;

fn small() -> LogOptions {
    LogOptions { segment_bytes: 2_000, scrub_bytes_per_second: u64::MAX, ..options(1) }
}

/// A log of four sealed segments and one more; its payloads and positions.
async fn chain() -> (MemoryFiles, Vec<Vec<u8>>, Vec<Position>) {
    let files = MemoryFiles::default();
    let contents: Vec<Vec<u8>> = (0..17).map(|seed| noise(400, seed)).collect();
    let log = open(small(), &files).unwrap();
    let mut positions = Vec::new();
    for content in &contents {
        positions.push(append(&log, record("tenant", content.clone())).await.unwrap());
    }
    assert_eq!(segments(&files, SHARD).len(), 5);
    (files, contents, positions)
}

fn flip(files: &MemoryFiles, path: &Path) {
    let mut content = files.content(path).unwrap();
    // In the last record.
    let at = content.len() - 100;
    content[at] ^= 1;
    files.replace(path, content);
}

/// Waits until what is asked is so.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !is() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

/// The budget of a start goes to the newest segments, over all shards, whole ones only; the rest is left to the scrub, which
/// finds what the start did not, in every segment, and nothing where there is nothing.
#[test]
fn the_start_checks_the_newest_and_the_scrub_the_rest() {
    let (files, contents, _) = run(chain());
    let sealed = segments(&files, SHARD).split_last().unwrap().1.to_vec();
    for budget in [0, SEGMENT_BYTES - 1, SEGMENT_BYTES, 2 * SEGMENT_BYTES, 3 * SEGMENT_BYTES, u64::MAX] {
        let checked_at_start = (budget / SEGMENT_BYTES).min(4) as usize;
        let options = || LogOptions { start_check_bytes: budget, ..small() };
        assert_eq!(run(scrubbed(&open(options(), &files).unwrap())), None);
        for (index, path) in sealed.iter().enumerate() {
            let damaged = files.copy();
            flip(&damaged, path);
            let opened = open(options(), &damaged);
            if index >= sealed.len() - checked_at_start {
                let refused = opened.unwrap_err();
                assert!(
                    matches!(&refused, StoreError::Corrupt(text) if text.contains(path.to_str().unwrap())),
                    "{refused}"
                );
                continue;
            }
            run(async {
                let log = opened.unwrap();
                let found = scrubbed(&log).await.unwrap();
                assert!(found.segments == 1 && found.first.contains(path.to_str().unwrap()), "{found:?}");
                assert_eq!(log.damaged_shards(), [SHARD]);
                append(&log, record("tenant", "the log goes on")).await.unwrap();
            });
        }
    }
    let damaged = files.copy();
    sealed.iter().for_each(|path| flip(&damaged, path));
    let log = open(LogOptions { start_check_bytes: 0, ..small() }, &damaged).unwrap();
    let found = run(scrubbed(&log)).unwrap();
    assert!(found.segments == 4 && found.first.contains(sealed[0].to_str().unwrap()), "the oldest first: {found:?}");
    drop(log);
    let log = open(small(), &files).unwrap();
    assert_eq!(payloads(&run(read_all(&log, SHARD, 1 << 20)).unwrap()), contents);
}

/// Damage is told of the shard that has it, and the newest segments are those of all shards together.
#[test]
fn several_shards() {
    run(async {
        let files = MemoryFiles::default();
        let clock = Arc::new(ManualClock::at(1_772_434_800_000_000_000));
        let shards = || LogOptions { segment_bytes: 500, scrub_bytes_per_second: u64::MAX, ..options(2) };
        let open = |start_check_bytes| {
            let options = LogOptions { start_check_bytes, ..shards() };
            EmbeddedLog::open(options, Arc::new(files.clone()), Arc::clone(&clock) as _)
        };
        let tenant = |shard: u32| (0..).map(|n| format!("t-{n}")).find(|name| key(name).shard(2) == ShardId(shard));
        let names = [tenant(0).unwrap(), tenant(1).unwrap()];
        let log = open(0).unwrap();
        // Shard 0 is the older one.
        for name in &names {
            for seed in 0..3 {
                append(&log, record(name, noise(400, seed))).await.unwrap();
                clock.advance(1_000_000_000);
            }
        }
        drop(log);
        flip(&files, &segments(&files, ShardId(0))[0]);
        let log = open(3 * 500).unwrap();
        until("all is checked", || log.unchecked_bytes() == 0).await;
        assert_eq!(log.damaged_shards(), [ShardId(0)]);
        assert_eq!(log.status(ShardId(1)).await.unwrap().damage, None);
        drop(log);
        flip(&files, &segments(&files, ShardId(1))[1]);
        let refused = open(3 * 500).unwrap_err().to_string();
        assert!(refused.contains("shard-0001"), "{refused}");
    });
}

/// The scrub reads as fast as it may, and no faster, by the clock it was given: here a segment a second.
#[test]
fn the_scrub_keeps_its_pace() {
    run(async {
        let (files, ..) = chain().await;
        let clock = Arc::new(ManualClock::at(1_772_434_800_000_000_000));
        let options = LogOptions { start_check_bytes: 0, scrub_bytes_per_second: SEGMENT_BYTES, ..small() };
        let log = EmbeddedLog::open(options, Arc::new(files), Arc::clone(&clock) as _).unwrap();
        let mut quarters = 0;
        loop {
            // Longer than it takes the scrub to look at the clock again, so that one that does not wait is seen.
            let looked = tokio::time::timeout(Duration::from_millis(80), std::future::pending::<()>());
            looked.await.unwrap_err();
            let checked = 4 - log.unchecked_bytes() / SEGMENT_BYTES;
            assert!(checked * 4 <= quarters, "{checked} segments in {quarters} quarters of a second");
            if checked == 4 {
                break;
            }
            clock.advance(250_000_000);
            quarters += 1;
            assert!(quarters < 100, "{checked} segments");
        }
    });
}

/// A segment that retention deletes while it waits to be checked, or is being checked, is no damage; damage that was found
/// before is forgotten with its segment.
#[test]
fn retention_beside_the_scrub() {
    run(async {
        let (files, _, positions) = chain().await;
        let sealed = segments(&files, SHARD);
        sealed[..3].iter().for_each(|path| flip(&files, path));
        let clock = Arc::new(ManualClock::at(1_772_434_800_000_000_000));
        let options = LogOptions { start_check_bytes: 0, scrub_bytes_per_second: 1, ..small() };
        let log = EmbeddedLog::open(options, Arc::new(files.clone()), Arc::clone(&clock) as _).unwrap();
        // Damage needs no rest: those segments are through at once, and the fourth is being checked.
        until("three are found", || log.unchecked_bytes() == SEGMENT_BYTES).await;
        assert_eq!(log.status(SHARD).await.unwrap().damage.unwrap().segments, 3);
        // The wall clock alone: the scrub goes by the other one.
        clock.step_wall(DAY_NS);
        log.acknowledge(SHARD, &positions[7]).await.unwrap();
        let left = log.status(SHARD).await.unwrap().damage.unwrap();
        assert!(left.segments == 1 && left.first.contains(sealed[2].to_str().unwrap()), "{left:?}");
        log.acknowledge(SHARD, &positions[16]).await.unwrap();
        assert_eq!(segments(&files, SHARD).len(), 1);
        assert_eq!(log.status(SHARD).await.unwrap().damage, None);
        assert_eq!(log.damaged_shards(), []);
        clock.advance(DAY_NS);
        assert_eq!(scrubbed(&log).await, None);
    });
    run(async {
        // Deleted in the middle of its check: the scrub waits with bad bytes in its hands, and they are no damage any more.
        let (files, _, positions) = chain().await;
        let second = segments(&files, SHARD).remove(1);
        flip(&files, &second);
        let clock = Arc::new(ManualClock::at(1_772_434_800_000_000_000));
        let options = LogOptions { start_check_bytes: 0, scrub_bytes_per_second: SEGMENT_BYTES, ..small() };
        let log = EmbeddedLog::open(options, Arc::new(files.clone()), Arc::clone(&clock) as _).unwrap();
        // The scrub rests after the first segment: the clock stands.
        files.faults(|faults| faults.reads_held = Some(second));
        until("the second is read", || {
            clock.advance(100_000_000);
            log.unchecked_bytes() == 3 * SEGMENT_BYTES
        })
        .await;
        files.await_held_read();
        clock.step_wall(DAY_NS);
        log.acknowledge(SHARD, &positions[7]).await.unwrap();
        assert_eq!(segments(&files, SHARD).len(), 3);
        files.faults(|faults| faults.reads_held = None);
        until("all are through", || {
            clock.advance(1_000_000_000);
            log.unchecked_bytes() == 0
        })
        .await;
        assert_eq!(scrubbed(&log).await, None);
    });
    run(async {
        // Deleted before it is its turn.
        let (files, _, positions) = chain().await;
        flip(&files, &segments(&files, SHARD)[2]);
        let clock = Arc::new(ManualClock::at(1_772_434_800_000_000_000));
        let options = LogOptions { start_check_bytes: 0, scrub_bytes_per_second: 1, ..small() };
        let log = EmbeddedLog::open(options, Arc::new(files.clone()), Arc::clone(&clock) as _).unwrap();
        clock.step_wall(DAY_NS);
        log.acknowledge(SHARD, &positions[16]).await.unwrap();
        until("all are through", || {
            clock.advance(DAY_NS);
            log.unchecked_bytes() == 0
        })
        .await;
        assert_eq!(log.status(SHARD).await.unwrap().damage, None);
    });
}

/// A read error at the start refuses it. To the scrub one that passes is nothing; one that stays is told like damage for as
/// long as it stays, and the segment counts as unchecked.
#[test]
fn read_errors() {
    let (files, ..) = run(chain());
    let unreadable = segments(&files, SHARD).remove(1);
    let fault = Some((unreadable.clone(), ErrorKind::Other));
    files.faults(|faults| faults.read_error = fault.clone());
    assert!(matches!(open(small(), &files), Err(StoreError::Io { doing, .. }) if doing.contains("0001728.seg")));
    for passes in [true, false] {
        run(async {
            files.faults(|faults| *faults = Faults::default());
            let clock = Arc::new(ManualClock::at(1_772_434_800_000_000_000));
            let options = LogOptions { start_check_bytes: 0, scrub_bytes_per_second: SEGMENT_BYTES, ..small() };
            let log = EmbeddedLog::open(options, Arc::new(files.clone()), Arc::clone(&clock) as _).unwrap();
            // The scrub rests after the first segment: the clock stands.
            files.faults(|faults| faults.read_error = fault.clone());
            clock.advance(1_000_000_000);
            let failed = || {
                let mut failed = 0;
                files.faults(|faults| failed = faults.reads_failed);
                failed
            };
            until("the first try", || {
                clock.advance(1_000_000);
                failed() > 0
            })
            .await;
            if !passes {
                until("it is told", || {
                    clock.advance(1_000_000_000);
                    !log.damaged_shards().is_empty()
                })
                .await;
                let damage = log.status(SHARD).await.unwrap().damage.unwrap();
                assert!(damage.segments == 1 && failed() >= 3, "{damage:?}");
                assert!(damage.first.contains(unreadable.to_str().unwrap()), "{damage:?}");
                assert!(damage.first.contains("tried again") && !damage.first.contains("backup"), "{damage:?}");
                assert_eq!(log.unchecked_bytes(), SEGMENT_BYTES, "the others are checked before it is tried again");
            }
            files.faults(|faults| faults.read_error = None);
            until("all are through", || {
                clock.advance(1_000_000_000);
                log.unchecked_bytes() == 0
            })
            .await;
            assert_eq!(log.status(SHARD).await.unwrap().damage, None);
        });
    }
}

/// Damage names what to do about it: in a sealed segment that is rarely the way back to a backup.
#[test]
fn the_advice_fits() {
    let (files, ..) = run(chain());
    flip(&files, &segments(&files, SHARD)[0]);
    let refused = open(small(), &files).unwrap_err().to_string();
    assert!(refused.contains("log.start_check_bytes = 0") && !refused.contains("backup"), "{refused}");
    let log = open(LogOptions { start_check_bytes: 0, ..small() }, &files).unwrap();
    let told = run(scrubbed(&log)).unwrap().first;
    assert!(told.contains("leave the server running until retention") && !told.contains("backup"), "{told}");
}

/// Where a later deletion fails, the segments that are gone are gone.
#[test]
fn a_deletion_fails() {
    run(async {
        let (files, _, positions) = chain().await;
        let sealed = segments(&files, SHARD);
        flip(&files, &sealed[0]);
        let clock = Arc::new(ManualClock::at(1_772_434_800_000_000_000));
        let options = LogOptions { start_check_bytes: 0, ..small() };
        let log = EmbeddedLog::open(options, Arc::new(files.clone()), Arc::clone(&clock) as _).unwrap();
        assert_eq!(scrubbed(&log).await.unwrap().segments, 1);
        files.faults(|faults| faults.remove_error = Some((sealed[1].clone(), ErrorKind::Other)));
        clock.step_wall(DAY_NS);
        log.acknowledge(SHARD, &positions[16]).await.unwrap_err();
        assert_eq!(segments(&files, SHARD)[0], sealed[1]);
        assert_eq!(log.status(SHARD).await.unwrap().damage, None);
        files.faults(|faults| faults.remove_error = None);
        log.acknowledge(SHARD, &positions[16]).await.unwrap();
        assert_eq!(segments(&files, SHARD).len(), 1);
    });
}
