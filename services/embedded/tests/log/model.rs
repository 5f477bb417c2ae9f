//! The log against a vector per shard, through random appends, restarts and cuts.

use proptest::prelude::*;
use tidegauge_core::ShardId;
use tidegauge_core::log::EventLog;
use tidegauge_embedded::files::MemoryFiles;
use tidegauge_embedded::log::LogOptions;

use super::support::{noise, offset, open, options, read_all, record, run, segments};

const SHARDS: u32 = 2;

#[derive(Clone, Debug)]
enum Step {
    /// Records of one call: tenant and payload bytes.
    Append(Vec<(u8, usize)>),
    Reopen,
    /// Restart after the last segment of a shard has lost this many bytes.
    Cut(u32, usize),
    /// Restart with zeros behind the last segment of a shard.
    Pad(u32, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![0..20_usize, 100..3_000_usize, 9_000..12_000_usize];
    prop_oneof![
        6 => proptest::collection::vec((0..6_u8, bytes), 1..6).prop_map(Step::Append),
        1 => Just(Step::Reopen),
        1 => (0..SHARDS, 0..4_000_usize).prop_map(|(shard, bytes)| Step::Cut(shard, bytes)),
        1 => (0..SHARDS, 0..3_000_usize).prop_map(|(shard, bytes)| Step::Pad(shard, bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// After any steps each shard holds exactly the records of the model, each key's in order, whatever the size of the
    /// reads.
    #[test]
    fn the_log_is_a_vector_per_shard(
        steps in proptest::collection::vec(step(), 1..25),
        segment_bytes in 500..20_000_u64,
        write_ahead_bytes in prop_oneof![Just(0_u64), 64..8_192_u64],
        group_commit_bytes in prop_oneof![Just(1_usize << 20), 1..20_000_usize],
        bytes_max in prop_oneof![Just(1_usize), 1..100_000_usize],
    ) {
        let options = || LogOptions { segment_bytes, write_ahead_bytes, group_commit_bytes, ..options(SHARDS) };
        let files = MemoryFiles::default();
        let mut model = vec![Vec::new(); SHARDS as usize];
        run(async {
            let mut log = Some(open(options(), &files).unwrap());
            for (index, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Append(records) => {
                        let records: Vec<_> = records
                            .into_iter()
                            .map(|(tenant, bytes)| record(&format!("tenant-{tenant}"), noise(bytes, index as u64)))
                            .collect();
                        let places = log.as_ref().unwrap().append(records.clone()).await.unwrap();
                        for (record, (shard, position)) in records.into_iter().zip(places) {
                            model[shard.0 as usize].push((record.key, record.payload, position));
                        }
                    }
                    Step::Reopen => {
                        drop(log.take());
                        log = Some(open(options(), &files).unwrap());
                    }
                    Step::Cut(shard, bytes) => {
                        drop(log.take());
                        let path = segments(&files, ShardId(shard)).pop().unwrap();
                        let mut content = files.content(&path).unwrap();
                        content.truncate(content.len().saturating_sub(bytes));
                        let kept = content.len();
                        files.replace(&path, content);
                        let base: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                        model[shard as usize].retain(|(.., position)| {
                            let end = u64::from_be_bytes(position.0[..].try_into().unwrap());
                            end <= base || offset(&path, position) <= kept
                        });
                        log = Some(open(options(), &files).unwrap());
                    }
                    Step::Pad(shard, bytes) => {
                        drop(log.take());
                        let path = segments(&files, ShardId(shard)).pop().unwrap();
                        let mut content = files.content(&path).unwrap();
                        content.resize(content.len() + bytes, 0);
                        files.replace(&path, content);
                        log = Some(open(options(), &files).unwrap());
                    }
                }
            }
            for (shard, expected) in model.iter_mut().enumerate() {
                // Keys of one call may come in any order; each of them keeps its own.
                for (index, (key, _, position)) in expected.iter().enumerate() {
                    let before = expected[..index].iter().rfind(|(other, ..)| other == key);
                    assert!(before.is_none_or(|(.., before)| before.0 < position.0), "{key} of shard {shard}");
                }
                expected.sort_by(|(.., one), (.., other)| one.0.cmp(&other.0));
                let found = read_all(log.as_ref().unwrap(), ShardId(shard as u32), bytes_max).await.unwrap();
                let found: Vec<_> = found.into_iter().map(|found| (found.key, found.payload, found.position)).collect();
                assert_eq!(&found, &*expected, "shard {shard}");
            }
        });
    }
}
