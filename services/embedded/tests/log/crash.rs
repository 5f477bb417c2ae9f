//! Power cuts: every unsynced sector, length and name may be lost or kept, in any order.

use std::sync::Arc;

use tidegauge_core::log::EventLog;
use tidegauge_embedded::files::MemoryFiles;
use tidegauge_embedded::log::LogOptions;

use super::support::{SHARD, append, noise, open, options, payloads, read_all, record, run};

fn options_of(seed: u64) -> LogOptions {
    let write_ahead_bytes = [0, 2_048, 16_384][(seed % 3) as usize];
    LogOptions { segment_bytes: 6_000 + (seed % 7) * 1_000, write_ahead_bytes, ..options(1) }
}

/// A power cut in the middle of a commit loses no acknowledged record, needs no operator, and leaves of the unfinished
/// commit a run of whole records from its beginning. The log goes on from there, through further cuts.
#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    for seed in 0..400_u64 {
        run(async {
            let mut files = MemoryFiles::default();
            let mut expected: Vec<Vec<u8>> = Vec::new();
            for round in 0..4_u64 {
                let log =
                    Arc::new(open(options_of(seed), &files).unwrap_or_else(|e| panic!("seed {seed}.{round}: {e}")));
                assert_eq!(payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap()), expected, "seed {seed}.{round}");
                for index in 0..(seed + round) % 5 {
                    let content = noise(((seed + 1) * (index + 3) * 131 % 1_500) as usize, seed + index);
                    append(&log, record("tenant", content.clone())).await.unwrap();
                    expected.push(content);
                }
                files.faults(|faults| faults.syncs_held = true);
                let unfinished: Vec<Vec<u8>> = (0..1 + seed % 4)
                    .map(|index| noise((seed * 17 + index * 977) as usize % 2_500, seed * 31 + index))
                    .collect();
                let records = unfinished.iter().map(|content| record("tenant", content.clone())).collect();
                let writing = Arc::clone(&log);
                let append = tokio::spawn(async move { writing.append(records).await });
                let held = files.clone();
                tokio::task::spawn_blocking(move || held.await_held_sync()).await.unwrap();
                let after = files.power_cut(seed * 4 + round);
                files.faults(|faults| faults.syncs_held = false);
                append.await.unwrap().unwrap();
                drop(log);

                files = after;
                let log = open(options_of(seed), &files).unwrap_or_else(|e| panic!("seed {seed}.{round}: {e}"));
                let all = payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap());
                assert!(all.starts_with(&expected), "seed {seed}.{round}: an acknowledged record is missing");
                assert!(unfinished.starts_with(&all[expected.len()..]), "seed {seed}.{round}: not what was written");
                // Once a reader may have seen them they stay, whatever comes.
                expected = all;
                if round % 2 == 0 {
                    files = files.power_cut(seed);
                }
            }
        });
    }
}

/// A power cut while logs are made and segments begun under load: whatever was acknowledged before it is there.
#[test]
fn a_power_cut_at_any_moment() {
    for seed in 0..60_u64 {
        run(async {
            let files = MemoryFiles::default();
            let options = || LogOptions { segment_bytes: 700, ..options_of(seed) };
            let log = open(options(), &files).unwrap();
            let mut expected = Vec::new();
            for index in 0..12 {
                let content = noise((seed * 97 + index * 131) as usize % 900, index);
                let appending = append(&log, record("tenant", content.clone()));
                let racing = files.clone();
                let cutting = tokio::task::spawn_blocking(move || racing.power_cut(seed * 100 + index));
                let (appended, cut) = tokio::join!(appending, cutting);
                appended.unwrap();
                let after = open(options(), &cut.unwrap()).unwrap_or_else(|e| panic!("seed {seed}.{index}: {e}"));
                let all = payloads(&read_all(&after, SHARD, 1 << 20).await.unwrap());
                assert!(all.starts_with(&expected), "seed {seed}.{index}: an acknowledged record is missing");
                expected.push(content);
                assert!(expected.starts_with(&all), "seed {seed}.{index}: not what was written");
            }
        });
    }
}
