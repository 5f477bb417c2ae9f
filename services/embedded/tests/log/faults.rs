//! Full disks, short writes, failing syncs, full queues.

use std::io::ErrorKind;
use std::time::Duration;

use tidegauge_core::ShardId;
use tidegauge_core::log::{EventLog, Position, StoreError};
use tidegauge_embedded::files::MemoryFiles;
use tidegauge_embedded::log::LogOptions;

use super::support::{SHARD, append, key, noise, open, options, payloads, read_all, record, remembering_hook, run};

/// A disk of any size fills up: what was acknowledged is there, what was refused is not, also after a power cut; with
/// more room the log goes on.
#[test]
fn a_full_disk_refuses_and_the_log_goes_on() {
    for capacity in (3_000..12_000).step_by(61) {
        run(async {
            let write_ahead_bytes = if capacity % 2 == 0 { 0 } else { 1_024 };
            let options = || LogOptions { segment_bytes: 2_000, write_ahead_bytes, ..options(1) };
            let files = MemoryFiles::default();
            files.faults(|faults| faults.capacity = Some(capacity));
            let log = open(options(), &files).unwrap();
            let mut expected = Vec::new();
            let mut refused = 0;
            for index in 0..40 {
                let content = noise(40 + (index * 97) % 700, index as u64);
                match append(&log, record("tenant", content.clone())).await {
                    Ok(_) => expected.push(content),
                    Err(StoreError::Full(_)) => refused += 1,
                    Err(other) => panic!("capacity {capacity}: {other}"),
                }
            }
            assert!(refused > 0, "a disk of {capacity} bytes held everything");
            assert_eq!(payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap()), expected);
            let cut = open(options(), &files.power_cut(capacity)).unwrap();
            assert_eq!(payloads(&read_all(&cut, SHARD, 1 << 20).await.unwrap()), expected, "capacity {capacity}");

            files.faults(|faults| faults.capacity = None);
            for index in 0..10 {
                let content = noise(500, index);
                append(&log, record("tenant", content.clone())).await.unwrap();
                expected.push(content);
            }
            drop(log);
            let again = open(options(), &files).unwrap();
            assert_eq!(payloads(&read_all(&again, SHARD, 1 << 20).await.unwrap()), expected, "capacity {capacity}");
        });
    }
}

/// Writes that take less than they were given are continued; a write that fails is cut back and refused.
#[test]
fn short_and_failing_writes() {
    run(async {
        let files = MemoryFiles::default();
        let log = open(options(1), &files).unwrap();
        files.faults(|faults| faults.write_bytes_max = Some(7));
        let large = noise(9_000, 1);
        append(&log, record("tenant", large.clone())).await.unwrap();
        files.faults(|faults| faults.write_error = Some(ErrorKind::ResourceBusy));
        let refused = append(&log, record("tenant", "refused")).await;
        assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
        files.faults(|faults| *faults = Default::default());
        append(&log, record("tenant", "after")).await.unwrap();
        drop(log);
        let again = open(options(1), &files).unwrap();
        assert_eq!(payloads(&read_all(&again, SHARD, 1 << 20).await.unwrap()), [large, b"after".to_vec()]);
    });
}

/// A failed sync calls the abort hook; nobody is told that the record is durable, no reader sees it, and nothing more is
/// taken.
#[test]
fn a_failed_sync_ends_it() {
    run(async {
        let files = MemoryFiles::default();
        let (abort, reasons) = remembering_hook();
        let log = open(LogOptions { abort, ..options(1) }, &files).unwrap();
        append(&log, record("tenant", "before")).await.unwrap();
        files.faults(|faults| faults.sync_error = Some(ErrorKind::Other));
        let lost = append(&log, record("tenant", "lost")).await;
        assert!(matches!(lost, Err(StoreError::Unavailable(_))), "{lost:?}");
        assert!(reasons.lock().unwrap()[0].contains("sync of"), "{reasons:?}");
        files.faults(|faults| faults.sync_error = None);
        let after = append(&log, record("tenant", "after")).await;
        assert!(matches!(after, Err(StoreError::Unavailable(_))), "{after:?}");
        assert_eq!(payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap()), [b"before".to_vec()]);
        assert_eq!(reasons.lock().unwrap().len(), 1);
    });
}

/// However few descriptors are left when a segment is full, nothing aborts: the append is refused as one to repeat, or done; a
/// power cut then finds what was acknowledged and no more, and with descriptors the log goes on.
#[test]
fn want_of_descriptors_refuses_and_the_log_goes_on() {
    let mut refusals = 0;
    for opens in 0..4 {
        run(async {
            let (abort, reasons) = remembering_hook();
            let files = MemoryFiles::default();
            let log = open(LogOptions { segment_bytes: 1_000, abort, ..options(1) }, &files).unwrap();
            append(&log, record("tenant", noise(900, 1))).await.unwrap();
            let mut expected = vec![noise(900, 1)];
            files.faults(|faults| faults.opens_left = Some(opens));
            match append(&log, record("tenant", noise(900, 2))).await {
                Ok(_) => expected.push(noise(900, 2)),
                Err(StoreError::Unavailable(_)) => refusals += 1,
                Err(other) => panic!("{opens} opens: {other}"),
            }
            let cut = open(options(1), &files.power_cut(opens as u64)).unwrap();
            assert_eq!(payloads(&read_all(&cut, SHARD, 1 << 20).await.unwrap()), expected, "{opens} opens");
            files.faults(|faults| faults.opens_left = None);
            append(&log, record("tenant", noise(900, 3))).await.unwrap();
            expected.push(noise(900, 3));
            assert_eq!(payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap()), expected, "{opens} opens");
            assert!(reasons.lock().unwrap().is_empty(), "{opens} opens: {reasons:?}");
        });
    }
    assert_eq!(refusals, 2, "a new segment takes two descriptors: its own and that of its directory");
}

/// While a sync has not returned, no reader sees its records, the queue fills up to its bound and then refuses; later
/// everything taken is answered, in order, and closing waits for it.
#[test]
fn nothing_is_seen_before_it_is_durable() {
    run(async {
        let files = MemoryFiles::default();
        let log = open(LogOptions { queue_bytes: 12_000, ..options(2) }, &files).unwrap();
        let shard = key("tenant").shard(2);
        files.faults(|faults| faults.syncs_held = true);
        let mut taken: Vec<_> =
            (0..3_u8).map(|index| Box::pin(append(&log, record("tenant", vec![index; 1_000])))).collect();
        for append in &mut taken {
            assert!(futures::poll!(append).is_pending());
        }
        let held = files.clone();
        tokio::task::spawn_blocking(move || held.await_held_sync()).await.unwrap();
        // No room for the first record, so nothing of the others either.
        let call = vec![record("tenant", vec![9; 1_000]), record("other-1", "x"), record("other-2", "y")];
        let refused = log.append(call).await;
        let Err(StoreError::Busy { retry_after: busy, .. }) = refused else { panic!("{refused:?}") };
        assert!(!busy.is_zero());
        let early = log.read(shard, &Position::start(), 1 << 20, Duration::ZERO).await.unwrap();
        assert!(early.records.is_empty() && early.at_tip, "{early:?}");
        let release = async { files.faults(|faults| faults.syncs_held = false) };
        tokio::join!(log.close(), release);
        for append in taken {
            append.await.unwrap();
        }
        let all = payloads(&read_all(&log, shard, 1 << 20).await.unwrap());
        assert_eq!(all, [0, 1, 2].map(|index| vec![index; 1_000]));
        let closed = append(&log, record("tenant", "late")).await;
        assert!(matches!(closed, Err(StoreError::Unavailable(_))), "{closed:?}");
        drop(log);
        let again = open(options(2), &files).unwrap();
        let mut all = read_all(&again, SHARD, 1 << 20).await.unwrap();
        all.extend(read_all(&again, ShardId(1), 1 << 20).await.unwrap());
        assert_eq!(all.len(), 3, "nothing of the busy call");
    });
}

/// A call that one queue can never hold is invalid rather than busy for ever.
#[test]
fn a_call_larger_than_the_queue() {
    run(async {
        let log = open(LogOptions { queue_bytes: 4_000, ..options(1) }, &MemoryFiles::default()).unwrap();
        let refused = append(&log, record("tenant", vec![1; 5_000])).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
        append(&log, record("tenant", vec![1; 2_500])).await.unwrap();
    });
}

/// A tenant that sends as much as it can is refused while there is still room for others (I7, I8): they are taken, and
/// written with its next commit rather than behind all that it has sent.
#[test]
fn a_noisy_tenant_leaves_room_for_a_quiet_one() {
    run(async {
        let files = MemoryFiles::default();
        let log = open(LogOptions { queue_bytes: 2 << 20, ..options(1) }, &files).unwrap();
        files.faults(|faults| faults.syncs_held = true);
        // The writer is busy with one record while all the others come.
        let mut first = Box::pin(append(&log, record("noisy", "first")));
        assert!(futures::poll!(&mut first).is_pending());
        let held = files.clone();
        tokio::task::spawn_blocking(move || held.await_held_sync()).await.unwrap();
        let mut taken = vec![first];
        let refused = loop {
            let content = [(taken.len() as u32).to_be_bytes().to_vec(), vec![7; 2_000]].concat();
            let mut next = Box::pin(append(&log, record("noisy", content)));
            match futures::poll!(&mut next) {
                std::task::Poll::Pending => taken.push(next),
                std::task::Poll::Ready(refused) => break refused,
            }
        };
        assert!(matches!(refused, Err(StoreError::Busy { .. })), "{refused:?}");
        assert!(taken.len() > 300, "half of the queue, not {} records", taken.len());
        let mut quiet = Box::pin(append(&log, record("quiet", "quiet")));
        assert!(futures::poll!(&mut quiet).is_pending(), "there is room for the quiet one");
        files.faults(|faults| faults.syncs_held = false);
        let quiet = quiet.await.unwrap();
        let mut positions = Vec::new();
        for append in taken {
            positions.push(append.await.unwrap());
        }
        let all = read_all(&log, SHARD, 1 << 20).await.unwrap();
        let before = all.iter().take_while(|found| found.position != quiet).count();
        assert!(before <= 1 + (64 << 10) / 2_000, "{before} of {} were written before it", all.len());
        let noisy = all.iter().filter(|found| found.key == key("noisy")).map(|found| &found.position);
        assert!(noisy.eq(&positions), "in order");
    });
}

/// A call that takes several commits is refused as full only if nothing of it is on the log.
#[test]
fn a_call_of_several_commits_on_a_full_disk() {
    let (mut full, mut partly) = (0, 0);
    for capacity in (3_000..9_000).step_by(53) {
        run(async {
            let files = MemoryFiles::default();
            files.faults(|faults| faults.capacity = Some(capacity));
            let log = open(LogOptions { group_commit_bytes: 700, ..options(1) }, &files).unwrap();
            let mut calls = Vec::new();
            for call in 0..8_u8 {
                let records = (0..3_u8).map(|part| record("tenant", [vec![call, part], noise(600, 1)].concat()));
                calls.push(log.append(records.collect()).await);
            }
            let all = payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap());
            for (call, result) in calls.iter().enumerate() {
                let found: Vec<u8> = all.iter().filter(|p| p[0] == call as u8).map(|p| p[1]).collect();
                match result {
                    Ok(positions) => assert_eq!((positions.len(), found), (3, vec![0, 1, 2])),
                    Err(StoreError::Full(_)) => {
                        full += 1;
                        assert_eq!(found, [0_u8; 0], "capacity {capacity}");
                    }
                    Err(StoreError::Unavailable(why)) => {
                        partly += 1;
                        assert!(!why.contains('/'), "paths are the operator's business: {why}");
                        assert!(!found.is_empty() && found.len() < 3, "capacity {capacity}: {found:?}");
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    assert!(full > 0 && partly > 0, "{full} full, {partly} partly written");
}
