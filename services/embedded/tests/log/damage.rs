//! Damaged files: noticed, or harmless; never a wrong or missing record.

use std::path::Path;

use tidegauge_core::log::{EventLog, Position, StoreError};
use tidegauge_embedded::files::MemoryFiles;
use tidegauge_embedded::log::LogOptions;

use super::support::{
    DIR, SHARD, append, noise, offset, open, options, payloads, read_all, record, remembering_hook, run, scrubbed,
    segments,
};

/// A log of one shard with some records in commits of their own; their payloads and positions.
fn small_log(options: LogOptions) -> (MemoryFiles, Vec<Vec<u8>>, Vec<Position>) {
    let mut sparse = vec![0; 600];
    sparse[300] = 1;
    log_of(options, vec![noise(10, 1), vec![0; 700], noise(300, 2), sparse, vec![], noise(40, 3)])
}

fn log_of(options: LogOptions, contents: Vec<Vec<u8>>) -> (MemoryFiles, Vec<Vec<u8>>, Vec<Position>) {
    let files = MemoryFiles::default();
    let positions = run(async {
        let log = open(options, &files).unwrap();
        let mut positions = Vec::new();
        for content in &contents {
            positions.push(append(&log, record("tenant", content.clone())).await.unwrap());
        }
        positions
    });
    (files, contents, positions)
}

fn pad(files: &MemoryFiles, path: &Path, zeros: usize) {
    let mut content = files.content(path).unwrap();
    content.resize(content.len() + zeros, 0);
    files.replace(path, content);
}

/// Any one bit of any file of the log, changed: the start is refused with file, offset and advice, or the bit was
/// behind the end of the log and every record is there.
#[test]
fn every_bit_of_the_last_segment() {
    let (files, contents, positions) = small_log(options(1));
    let segment = segments(&files, SHARD).remove(0);
    pad(&files, &segment, 1_024);
    let end = offset(&segment, positions.last().unwrap());
    for path in files.paths() {
        let pristine = files.content(&path).unwrap();
        for bit in 0..pristine.len() * 8 {
            let mut changed = pristine.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let damaged = files.copy();
            damaged.replace(&path, changed);
            match open(options(1), &damaged) {
                Err(StoreError::Corrupt(text)) => assert_names(&text, &path),
                Err(other) => panic!("{} bit {bit}: {other}", path.display()),
                Ok(log) => {
                    assert!(path == segment && bit / 8 >= end, "{} bit {bit} went unnoticed", path.display());
                    let all = run(read_all(&log, SHARD, 1 << 20)).unwrap();
                    assert_eq!(payloads(&all), contents, "bit {bit}");
                }
            }
        }
    }
}

/// Any one bit of any segment of a chain, changed: the start is refused with file, offset and advice. If it has no time for
/// sealed segments, the scrub finds it, and reading gives every record before it and then refuses. Only behind the end of the log a bit may change nothing.
#[test]
fn every_bit_of_a_chain() {
    let small = || LogOptions { segment_bytes: 300, scrub_bytes_per_second: u64::MAX, ..options(1) };
    let contents = vec![noise(10, 1), vec![0; 520], noise(60, 2), vec![], noise(200, 3), noise(40, 4)];
    let (files, contents, positions) = log_of(small(), contents);
    let chain = segments(&files, SHARD);
    assert_eq!(chain.len(), 5, "{chain:?}");
    let (last, sealed) = chain.split_last().unwrap();
    let end = offset(last, positions.last().unwrap());
    pad(&files, last, 64);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for path in &chain {
        let pristine = files.content(path).unwrap();
        for bit in 0..pristine.len() * 8 {
            let mut changed = pristine.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let damaged = files.copy();
            damaged.replace(path, changed);
            match open(small(), &damaged) {
                Err(StoreError::Corrupt(text)) => assert_names(&text, path),
                Err(other) => panic!("{} bit {bit}: {other}", path.display()),
                Ok(_) => assert!(path == last && bit / 8 >= end, "{} bit {bit} went unnoticed", path.display()),
            }
            // One bit of each byte is enough here: the check is the same, and each one takes four threads.
            if !sealed.contains(path) || bit % 8 != bit / 8 % 8 {
                continue;
            }
            let log = match open(LogOptions { start_check_bytes: 0, ..small() }, &damaged) {
                Ok(log) => log,
                Err(StoreError::Corrupt(_)) => continue,
                Err(other) => panic!("bit {bit}: {other}"),
            };
            let found = runtime.block_on(scrubbed(&log)).unwrap_or_else(|| panic!("{} bit {bit}", path.display()));
            assert_eq!(found.segments, 1);
            assert_names(&found.first, path);
            let mut from = Position::start();
            let mut seen = Vec::new();
            let refused = loop {
                match runtime.block_on(log.read(SHARD, &from, 1 << 20, std::time::Duration::ZERO)) {
                    Ok(batch) if batch.records.is_empty() => break None,
                    Ok(batch) => {
                        from = batch.records.last().unwrap().position.clone();
                        seen.extend(payloads(&batch.records));
                    }
                    Err(error) => break Some(error),
                }
            };
            assert!(matches!(&refused, Some(StoreError::Corrupt(_))), "bit {bit} of {}: {refused:?}", path.display());
            assert!(seen.len() < contents.len() && contents.starts_with(&seen), "bit {bit}");
        }
    }
}

fn assert_names(text: &str, path: &Path) {
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    let advised = ["from a backup", "put this file back"].iter().any(|advice| text.contains(advice));
    assert!(text.contains("at offset") && advised, "{text}");
}

/// The last segment, cut at any byte: every whole record before the cut stays, and appending goes on from there. A
/// sealed segment that was cut refuses the start.
#[test]
fn cut_at_every_byte() {
    let (files, contents, positions) = small_log(options(1));
    let segment = segments(&files, SHARD).remove(0);
    let pristine = files.content(&segment).unwrap();
    for bytes in 0..pristine.len() {
        let cut = files.copy();
        cut.replace(&segment, pristine[..bytes].to_vec());
        let whole = positions.iter().take_while(|position| offset(&segment, position) <= bytes).count();
        let mut expected = contents[..whole].to_vec();
        run(async {
            let log = open(options(1), &cut).unwrap_or_else(|error| panic!("cut at {bytes}: {error}"));
            assert_eq!(payloads(&read_all(&log, SHARD, 1 << 20).await.unwrap()), expected, "cut at {bytes}");
            append(&log, record("tenant", "after")).await.unwrap();
            expected.push(b"after".to_vec());
            drop(log);
            let again = open(options(1), &cut).unwrap();
            assert_eq!(payloads(&read_all(&again, SHARD, 1 << 20).await.unwrap()), expected, "cut at {bytes}");
        });
    }

    let small = || LogOptions { segment_bytes: 900, ..options(1) };
    let (files, ..) = small_log(small());
    let sealed = segments(&files, SHARD).remove(0);
    let pristine = files.content(&sealed).unwrap();
    for bytes in 0..pristine.len() {
        let cut = files.copy();
        cut.replace(&sealed, pristine[..bytes].to_vec());
        assert!(matches!(open(small(), &cut), Err(StoreError::Corrupt(_))), "cut at {bytes}");
    }
}

/// A sector that is zero is a torn tail only in the last commit: anywhere before, a later record proves that it was
/// durable, and the start is refused. The sector in which the last commit begins holds that proof itself: if it is lost,
/// only positions that others know can tell.
#[test]
fn a_lost_sector_is_torn_only_at_the_end() {
    let files = MemoryFiles::default();
    let contents: Vec<Vec<u8>> = (0..4).map(|seed| noise(2_000, seed)).collect();
    let positions = run(async {
        let log = open(options(1), &files).unwrap();
        let mut positions = Vec::new();
        for content in &contents {
            positions.push(append(&log, record("tenant", content.clone())).await.unwrap());
        }
        positions
    });
    let segment = segments(&files, SHARD).remove(0);
    pad(&files, &segment, 4_096);
    let pristine = files.content(&segment).unwrap();
    let (last_start, end) = (offset(&segment, &positions[2]), offset(&segment, &positions[3]));
    for start in (512..end).step_by(512) {
        let mut changed = pristine.clone();
        changed[start..start + 512].fill(0);
        let lost = files.copy();
        lost.replace(&segment, changed);
        let opened = open(options(1), &lost.copy());
        if (start..start + 512).contains(&last_start) {
            drop(opened.unwrap());
            let known = vec![(SHARD, positions[3].clone())];
            assert!(matches!(open(LogOptions { known, ..options(1) }, &lost), Err(StoreError::Corrupt(_))));
        } else if start < last_start {
            assert!(matches!(opened, Err(StoreError::Corrupt(_))), "sector at {start}");
        } else {
            let all = run(read_all(&opened.unwrap(), SHARD, 1 << 20)).unwrap();
            assert_eq!(payloads(&all), contents[..3], "sector at {start}");
        }
    }
    // Only part of a sector: no disk loses that.
    let mut changed = pristine;
    changed[last_start + 100..last_start + 120].fill(0);
    files.replace(&segment, changed);
    assert!(matches!(open(options(1), &files), Err(StoreError::Corrupt(_))));
}

/// Bytes after the end that no unfinished write can have left refuse the start.
#[test]
fn strange_bytes_after_the_end() {
    let (files, contents, positions) = small_log(options(1));
    let segment = segments(&files, SHARD).remove(0);
    let end = offset(&segment, positions.last().unwrap());
    pad(&files, &segment, 8_192);
    let pristine = files.content(&segment).unwrap();
    for (at, bytes) in [(end, &b"garbage in place of a header"[..]), (end + 20, b"same sector"), (end + 5_000, &[64])] {
        let mut changed = pristine.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        let strange = files.copy();
        strange.replace(&segment, changed);
        assert!(matches!(open(options(1), &strange), Err(StoreError::Corrupt(_))), "{bytes:?} at {at}");
    }
    let log = open(options(1), &files).unwrap();
    assert_eq!(payloads(&run(read_all(&log, SHARD, 1 << 20)).unwrap()), contents);
}

/// A log that ends before a position that others know refuses the start; one that reaches it does not.
#[test]
fn a_log_that_lost_its_end() {
    let (files, contents, positions) = small_log(options(1));
    let knowing = |position: &Position| LogOptions { known: vec![(SHARD, position.clone())], ..options(1) };
    let segment = segments(&files, SHARD).remove(0);
    for known in positions.iter().chain([&Position::start()]) {
        drop(open(knowing(known), &files).unwrap());
    }
    let mut content = files.content(&segment).unwrap();
    content.truncate(offset(&segment, &positions[3]));
    files.replace(&segment, content);
    drop(open(knowing(&positions[3]), &files).unwrap());
    let refused = open(knowing(&positions[4]), &files).unwrap_err();
    assert!(matches!(&refused, StoreError::Corrupt(text) if text.contains("known to be durable")), "{refused}");
    let log = open(options(1), &files).unwrap();
    assert_eq!(payloads(&run(read_all(&log, SHARD, 1 << 20)).unwrap()), contents[..4]);
}

/// Files that are missing, renamed or of another log refuse the start; so does another number of shards.
#[test]
fn a_chain_with_a_wrong_link() {
    let small = || LogOptions { segment_bytes: 900, ..options(1) };
    let (files, contents, _) = small_log(small());
    let chain = segments(&files, SHARD);
    let refused = |change: &dyn Fn(&MemoryFiles)| {
        let changed = files.copy();
        change(&changed);
        matches!(open(small(), &changed), Err(StoreError::Corrupt(_)))
    };
    let remove = |files: &MemoryFiles, path: &Path| tidegauge_embedded::files::Files::remove(files, path).unwrap();
    assert!(refused(&|files| remove(files, &chain[1])), "a segment between two others is missing");
    assert!(refused(&|files| remove(files, &Path::new(DIR).join("format"))), "the description is missing");
    assert!(refused(&|files| chain.iter().for_each(|path| remove(files, path))), "all segments are missing");
    assert!(refused(&|files| files.replace(&chain[1], files.content(&chain[0]).unwrap())), "a segment is there twice");
    let three = LogOptions { shards: 3, ..small() };
    assert!(matches!(open(three, &files), Err(StoreError::Invalid(text)) if text.contains("1 shards, not 3")));
    let (abort, reasons) = remembering_hook();
    let log = open(LogOptions { abort, ..small() }, &files).unwrap();
    assert_eq!(payloads(&run(read_all(&log, SHARD, 1)).unwrap()), contents);
    assert!(reasons.lock().unwrap().is_empty());
}
