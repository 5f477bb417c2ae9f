//! `emit` and `load` read the same file: each line is taken by both, as the same event, or refused by both, for the same
//! reason; and both agree with a reader that is written as plainly as the rules.

mod lines;
mod oracle;

use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::load::chunk::Chunk;
use crate::load::event::Place;
use crate::load::reader::{self, Format, Resume, Step};
use oracle::Verdict;

/// What a reader says of the lines of a file, blank ones left out.
type Read = Vec<(u64, Verdict)>;

fn refused(told: &str) -> Verdict {
    let (field, _) = told.split_once(": ").unwrap_or_else(|| panic!("{told}"));
    Verdict::Refused {
        field: if field == "not an event" { String::new() } else { field.to_owned() },
        told: told.to_owned(),
    }
}

fn by_emit(text: &[u8]) -> Read {
    let mut read = Read::new();
    read_lines(text, |one| {
        read.push(match one {
            Incoming::Event { line, event, .. } => (line, Verdict::taken(&event)),
            Incoming::Refused { line, refusal } => (line, refused(&refusal.to_string())),
        });
        true
    })
    .unwrap();
    read
}

fn by_load(text: &[u8]) -> Read {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    let mut read = Read::new();
    let sink = |step: Step| {
        match step {
            Step::Chunk(chunk) => read.extend(events(&chunk)),
            Step::Bad { place, reason } => read.push((place.line, refused(&reason))),
            Step::Segment(_) => {}
        }
        true
    };
    let format = Format::Ndjson { tenant: None };
    reader::read(file.path(), &format, &Resume::default(), text.len() as u64, |_| {}, sink).unwrap();
    read.sort_by_key(|(line, _)| *line);
    read
}

/// The events of a chunk with their lines.
fn events(chunk: &Chunk) -> impl Iterator<Item = (u64, Verdict)> {
    let columns = &chunk.columns;
    chunk.places.iter().enumerate().map(move |(at, Place { line, .. })| {
        let set = &columns.dimension_sets[columns.dimension_set_ids[at] as usize];
        let event = Event {
            tenant_id: chunk.tenant.to_string(),
            event_type: columns.event_types[columns.event_type_ids[at] as usize].clone(),
            timestamp: Some(timestamp(columns.times_unix_nano[at])),
            metric_name: columns.metrics[columns.metric_ids[at] as usize].clone(),
            metric_value: columns.values[at],
            dimensions: set.dimensions.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect(),
            source: columns.sources[columns.source_ids[at] as usize].clone(),
            version: columns.versions[columns.version_ids[at] as usize].clone(),
        };
        (*line, Verdict::taken(&event))
    })
}

/// Both readers and the plain one on these lines.
fn check(lines: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let text = lines.join(&b'\n');
    let (emit, load) = (by_emit(&text), by_load(&text));
    let shown = |line: u64| String::from_utf8_lossy(&lines[line as usize - 1]).into_owned();
    for (emit, load) in emit.iter().zip(&load) {
        prop_assert_eq!(emit, load, "emit, load: {}", shown(emit.0));
    }
    prop_assert_eq!(emit.len(), load.len());
    let mut emit = emit.into_iter().peekable();
    for (at, line) in lines.iter().enumerate() {
        let found = emit.next_if(|(number, _)| *number == at as u64 + 1).map(|(_, verdict)| verdict);
        let expected = oracle::read(line);
        prop_assert!(
            oracle::agrees(found.as_ref(), expected.as_ref()),
            "{:?}\n{:?}\n{}",
            found,
            expected,
            shown(at as u64 + 1)
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn emit_and_load_take_the_same_lines(lines in proptest::collection::vec(lines::line(), 1..40)) {
        check(&lines)?;
    }
}

/// Every known kind of line, each alone in an otherwise good one.
#[test]
fn known_lines() {
    let lines = lines::known();
    check(&lines).unwrap();
    let verdicts: Vec<_> = lines.iter().filter_map(|line| oracle::read(line)).collect();
    let taken = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Taken { .. })).count();
    assert!(taken > 100 && verdicts.len() - taken > 500, "{taken} of {}", verdicts.len());
}

/// Marks stand where files begin that were joined, and are no part of any line.
#[test]
fn marks_before_lines_are_skipped() {
    let good = String::from_utf8(lines::good()).unwrap();
    let text =
        ["\u{feff}", &good, "\n\u{feff}\u{feff}", &good, "\r\n\u{feff}\n\u{feff} \t\n", &good, "\n", "x\u{feff}"]
            .concat();
    for read in [by_emit(text.as_bytes()), by_load(text.as_bytes())] {
        let lines: Vec<_> =
            read.iter().map(|(line, verdict)| (*line, matches!(verdict, Verdict::Taken { .. }))).collect();
        assert_eq!(lines, [(1, true), (2, true), (5, true), (6, false)]);
    }
}

/// However deep or long a line is, it ends as a verdict: what is not an event's own may be as deep as a line is long.
#[test]
fn deep_and_long_lines() {
    let good = String::from_utf8(lines::good()).unwrap();
    let with = |member: &str| good.replacen('{', &format!("{{{member},"), 1).into_bytes();
    let nested = |open: &str, inside: &str, close: &str, depth: usize| {
        format!("\"x\":{}{inside}{}", open.repeat(depth), close.repeat(depth))
    };
    let longest = (16 << 20) - good.len() - 8;
    for (line, is_taken) in [
        (with(&nested("[", "", "]", 4_000_000)), true),
        (with(&nested("{\"a\":", "1", "}", 2_000_000)), true),
        (with(&nested("[", "", "", 4_000_000)), false),
        (with(&format!("\"source\":{}", "[".repeat(1_000_000))), false),
        ("[".repeat(4_000_000).into_bytes(), false),
        (good.replace("\"payload\":", &format!("\"payload\":{}", "[".repeat(1_000_000))).into_bytes(), false),
        (with(&format!("\"x\":\"{}\"", "y".repeat(300_000))), true),
        (with(&format!("\"x\":\"{}\"", "y".repeat(longest))), true),
        (with(&format!("\"x\":\"{}\"", "y".repeat(longest + 10))), false),
    ] {
        let (emit, load) = (by_emit(&line), by_load(&line));
        assert_eq!(emit, load);
        assert_eq!((emit.len(), matches!(emit[0].1, Verdict::Taken { .. })), (1, is_taken), "{} bytes", line.len());
    }
}

/// Lines become requests of one tenant each, in their order; what is no event is refused by its line.
#[test]
fn lines_become_requests() {
    let line = |tenant: &str| {
        format!(
            r#"{{"event_type":"m","timestamp":"2026-03-02T07:08:09Z","source":"","version":"","payload":{{"tenant_id":"{tenant}","metric_name":"m","metric_value":1}}}}"#
        )
    };
    let mut text = [line("a"), String::new(), line("a"), "nonsense".to_owned(), line("b"), line("a")].join("\n");
    text.push_str("\n\u{0}\n");
    let mut bytes = text.into_bytes();
    bytes.extend([0xFF, b'\n']);
    bytes.extend(line("").into_bytes());
    let mut read = Vec::new();
    read_lines(&bytes[..], |one| {
        read.push(one);
        true
    })
    .unwrap();
    let mut report = Report::default();
    let batches = batches(read.into_iter(), &mut report);
    let lines: Vec<&[u64]> = batches.iter().map(|batch| &batch.lines[..]).collect();
    assert_eq!(lines, [&[1, 3][..], &[5], &[6]]);
    assert_eq!(report.refused, 4, "nonsense, a zero byte, no UTF-8, no tenant");
    assert_eq!(batches[0].describe(), "lines 1 to 3, tenant a");
    assert_eq!(batches[1].describe(), "line 5, tenant b");
}
