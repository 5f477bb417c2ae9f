//! Room on the disk: what goes before its time, in which order, and what never does.

use std::sync::Arc;
use std::time::Duration;

use tidegauge_core::ShardId;
use tidegauge_core::clock::ManualClock;
use tidegauge_core::log::{EventLog, Position, StoreError};
use tidegauge_embedded::files::MemoryFiles;
use tidegauge_embedded::log::{DiskReserve, EmbeddedLog, LogOptions};

use super::support::{SHARD, append, key, noise, open, options, payloads, read_all, record, run, scrubbed, segments};

const CAPACITY: u64 = 100_000;

/// Segments of four records of about 500 bytes, on a disk of a hundred thousand.
fn small(shards: u32) -> (MemoryFiles, LogOptions) {
    let files = MemoryFiles::default();
    files.faults(|faults| faults.capacity = Some(CAPACITY));
    let reserve = DiskReserve { percent: 0, bytes: 10_000 };
    (files, LogOptions { segment_bytes: 2_000, reserve, ..options(shards) })
}

/// Ten times what the disk holds is written by a tenant whose records are acknowledged some commits later: none is refused,
/// the newest are all there, and what is not acknowledged is never touched.
#[test]
fn what_nothing_needs_makes_room() {
    run(async {
        let (files, options) = small(1);
        let log = open(options.clone(), &files).unwrap();
        let mut positions: Vec<Position> = Vec::new();
        let mut contents = Vec::new();
        for seed in 0..2_000 {
            let content = noise(450, seed);
            positions.push(append(&log, record("loud", content.clone())).await.expect("there is room to be made"));
            contents.push(content);
            if seed % 10 == 9 {
                log.acknowledge(SHARD, &positions[seed as usize - 9]).await.unwrap();
            }
        }
        let status = log.status(SHARD).await.unwrap();
        assert!(status.dropped_early_bytes > 8 * CAPACITY, "{status:?}");
        assert!(status.bytes > CAPACITY / 2, "no more goes than must: {status:?}");
        assert!(status.unneeded_bytes + 15_000 > status.bytes && status.unneeded_bytes < status.bytes, "{status:?}");
        let kept = payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap());
        assert_eq!(kept, contents[contents.len() - kept.len()..]);
        let passed = log.read(SHARD, &positions[0], 1 << 20, Duration::ZERO).await;
        assert!(matches!(passed, Err(StoreError::NotFound(_))), "{passed:?}");
        drop(log);
        let again = open(options, &files.power_cut(7)).unwrap();
        let found = payloads(&read_all(&again, SHARD, 1 << 20).await.unwrap());
        assert!(found.ends_with(&kept), "a power cut loses nothing that was kept");
    });
}

/// Without an acknowledgement nothing goes and the disk is full; the acknowledgement itself makes the room.
#[test]
fn an_acknowledgement_makes_room() {
    run(async {
        let (files, options) = small(1);
        let log = open(options, &files).unwrap();
        let mut last = Position::start();
        let mut taken = Vec::new();
        let refused = loop {
            let content = noise(450, taken.len() as u64);
            match append(&log, record("loud", content.clone())).await {
                Ok(position) => last = position,
                Err(refused) => break refused,
            }
            taken.push(content);
        };
        assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
        assert_eq!(payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap()), taken);
        assert!(matches!(append(&log, record("quiet", noise(450, 1))).await, Err(StoreError::Full(_))));

        log.acknowledge(SHARD, &last).await.unwrap();
        append(&log, record("quiet", noise(450, 1))).await.expect("nobody waits for retention");
        let status = log.status(SHARD).await.unwrap();
        assert!(status.dropped_early_bytes > 0 && status.bytes > CAPACITY / 2, "{status:?}");
    });
}

/// Tenants on two shards: the one that has used up its share gives its segments first, although the other's are older; when
/// it has no more than its share, the oldest goes, whose ever it is. A restart knows whose the segments are.
#[test]
fn who_is_over_the_share_gives_first() {
    for restarted in [false, true] {
        run(async {
            let (quiet, loud) =
                ("quiet", (0..).map(|n| format!("loud-{n}")).find(|t| key(t).shard(2) != key("quiet").shard(2)));
            let loud = loud.unwrap();
            let (quiet_shard, loud_shard) = (key(quiet).shard(2), key(&loud).shard(2));
            let (files, options) = small(2);
            let options = LogOptions {
                tenant_share_percent: 40,
                start_check_bytes: 20_000,
                scrub_bytes_per_second: u64::MAX,
                ..options
            };
            let clock = Arc::new(ManualClock::at(1_772_434_800_000_000_000));
            let open = || EmbeddedLog::open(options.clone(), Arc::new(files.clone()), Arc::clone(&clock) as _).unwrap();
            let mut log = open();
            let send = async |log: &EmbeddedLog, tenant: &str, shard: ShardId, count: usize| {
                for seed in 0..count {
                    clock.advance(1_000_000);
                    let position = append(log, record(tenant, noise(450, seed as u64))).await.unwrap();
                    log.acknowledge(shard, &position).await.unwrap();
                }
            };
            send(&log, quiet, quiet_shard, 40).await;
            send(&log, &loud, loud_shard, 120).await;
            let before = segments(&files, quiet_shard).len();
            if restarted {
                drop(log);
                log = open();
                scrubbed(&log).await;
                let end = log.status(quiet_shard).await.unwrap().end;
                log.acknowledge(quiet_shard, &end).await.unwrap();
            }
            send(&log, &loud, loud_shard, 400).await;
            let status = log.status(loud_shard).await.unwrap();
            assert!(status.dropped_early_bytes > 100_000, "{status:?}");
            let (of, bytes) = status.unneeded_by_key.first().expect("the loud one is counted");
            assert_eq!((of, *bytes > status.unneeded_bytes / 10 * 9), (&key(&loud), true), "{status:?}");
            let quiet_status = log.status(quiet_shard).await.unwrap();
            assert_eq!(
                (segments(&files, quiet_shard).len(), quiet_status.dropped_early_bytes),
                (before, 0),
                "{restarted}"
            );

            // Others' files leave less room than a share: now the oldest goes.
            files.faults(|faults| faults.capacity = Some(CAPACITY / 2));
            send(&log, &loud, loud_shard, 1).await;
            let quiet_status = log.status(quiet_shard).await.unwrap();
            assert!(quiet_status.dropped_early_bytes > 0, "{quiet_status:?}");
        });
    }
}

/// A segment that cannot be deleted is no reason to stop: the append is refused as on a full disk, and taken later.
#[test]
fn what_cannot_be_deleted_makes_no_room() {
    run(async {
        let (files, options) = small(1);
        let log = open(options, &files).unwrap();
        let oldest = segments(&files, SHARD).remove(0);
        files.faults(|faults| faults.remove_error = Some((oldest, std::io::ErrorKind::PermissionDenied)));
        let refused = loop {
            match append(&log, record("loud", noise(450, 1))).await {
                Ok(position) => log.acknowledge(SHARD, &position).await.unwrap(),
                Err(refused) => break refused,
            }
        };
        assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
        files.faults(|faults| faults.remove_error = None);
        let end = log.status(SHARD).await.unwrap().end;
        log.acknowledge(SHARD, &end).await.unwrap();
        append(&log, record("loud", noise(450, 1))).await.expect("there is room now");
    });
}
