use std::io::Write as _;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;
use crate::failure::EXIT_USAGE;
use crate::load::reader::{self, Format, Resume, Step};

fn options() -> CsvOptions {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    CsvOptions {
        time_column: "when".to_owned(),
        value_columns: vec!["cpu".to_owned(), "mem".to_owned()],
        dimensions: vec![pair("host", "host"), pair("region", "eu"), pair("kind", "value:host")],
        ..CsvOptions::of_tenant("t")
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Columns, constants and several values a row.
#[test]
fn rows_become_events() {
    let options = options();
    let header = ["when", "host", "cpu", "mem"].map(Cow::Borrowed);
    let plan = CsvPlan::new(&options, &header, b',').unwrap();
    assert!(plan.describe().contains("dimension host from column 2, dimension region = \"eu\""));
    let (mut fields, mut row) = (Vec::new(), Row::default());
    split("1970-01-01T00:00:01Z,\"a,\"\"b\"\"\",1.5, ", b',', &mut fields).unwrap();
    plan.read(&fields, &mut row).unwrap();
    assert_eq!((row.events(), row.empty_cells), (1, 1), "the empty cell is no measurement");
    let event = plan.event(&fields, &row, 0);
    assert_eq!((&*event.metric, event.value, event.time_ns), ("cpu", 1.5, 1_000_000_000));
    assert_eq!(event.dimensions.pairs(), pairs(&[("host", "a,\"b\""), ("region", "eu"), ("kind", "host")]));
    let short = plan.fits(&fields[1..]).unwrap_err();
    assert_eq!(short, "has 3 fields, the header has 4: \"a,\\\"b\\\",1.5, \"");
}

/// Columns that are missing, stand twice or have no name, and names that may mean two things, are told before any row.
#[test]
fn headers_are_understood_or_refused() {
    let told = |change: fn(&mut CsvOptions), header: &[&'static str]| {
        let mut options = CsvOptions::of_tenant("t");
        change(&mut options);
        let header: Vec<_> = header.iter().map(|name| Cow::Borrowed(*name)).collect();
        CsvPlan::new(&options, &header, b',').map(|plan| plan.describe()).unwrap_or_else(|problem| problem)
    };
    let two_values = ["timestamp", "host", "value", "value"];
    assert!(told(|_| {}, &two_values).contains("\"value\" stands twice in the header, as column 3 and as column 4"));
    assert_eq!(told(|o| o.value_columns = vec!["host".to_owned()], &two_values), "metric \"host\"", "not asked for");
    let header = ["timestamp", "host", "value", "metric", "", ""];
    assert!(told(|o| o.value_columns = vec!["value".to_owned(); 2], &header).contains("stands twice"));
    assert!(
        told(|o| o.time_column = "ts".to_owned(), &header).contains("no column \"ts\"; the header has timestamp, ")
    );
    assert!(told(|o| o.value_columns = vec![String::new()], &header).contains("without a name"));
    assert!(told(|o| o.dimensions = pairs(&[("a", "column:")]), &header).contains("without a name"));
    assert!(
        told(|o| o.dimensions = pairs(&[("a", "b"), ("a", "c")]), &header).contains("--dimension a=… stands twice")
    );
    assert!(told(|o| o.dimensions = pairs(&[("a", "")]), &header).ends_with("dimension a = \"\""));
    let unclear = told(|o| o.metric = Metric::Unclear("metric".to_owned()), &header);
    assert!(unclear.contains("--metric-column metric") && unclear.contains("--metric-name metric"), "{unclear}");
    for clear in [Metric::Unclear("value".to_owned()), Metric::Name("value".to_owned())] {
        let mut options = CsvOptions::of_tenant("t");
        options.metric = clear;
        assert!(
            CsvPlan::new(&options, &header.map(Cow::Borrowed), b',').is_ok_and(|p| p.describe() == "metric \"value\"")
        );
    }
    assert_eq!(told(|o| o.metric = Metric::Name("metric".to_owned()), &header), "metric \"metric\"");
    let column = told(|o| o.metric = Metric::Column("metric".to_owned()), &header);
    assert_eq!(column, "metric from column 4");
}

/// What cannot be an event is told with its column and value.
#[test]
fn columns_and_values_are_named() {
    let options = CsvOptions { value_columns: vec!["cpu".to_owned()], ..options() };
    let header = ["when", "host", "cpu"].map(Cow::Borrowed);
    let plan = CsvPlan::new(&options, &header, b',').unwrap();
    let long = format!("1970-01-01,a,{}", "9x".repeat(1_000));
    for (row, expected) in [
        ("1970-01-01,a,abc", "column cpu: \"abc\" is no finite number"),
        ("1970-01-01,a,NaN", "column cpu: \"NaN\" is no finite number"),
        ("1970-01-01,a,1e999", "column cpu: \"1e999\" is no finite number"),
        ("1970-01-01,a,1;5", "column cpu: \"1;5\" is no finite number"),
        ("1970-01-01,a,\"1,5\"", "column cpu: \"1,5\" is no finite number; --decimal , reads a comma"),
        ("yesterday,a,1", "column when: \"yesterday\" is no time of the format iso; --time-format names another"),
        ("1970-13-01,a,1", "column when: \"1970-13-01\" is no time of the format iso"),
        (",a,1", "column when: \"\" is no time of the format iso"),
        (",a,", "column when: \"\" is no time of the format iso"),
        ("1970-01-01,a", "has 2 fields, the header has 3: \"1970-01-01,a\""),
        ("1970-01-01,a,1,2", "has 4 fields, the header has 3"),
        ("1970-01-01,\"a\"b,1", "field 2 goes on after its closing quote, with \"b,1\""),
        ("1970-01-01,\"a,1", "a quoted field is not closed: \"a,1\""),
        (&long, "9x9x9x…\" is no finite number"),
    ] {
        let (mut fields, mut read) = (Vec::new(), Row::default());
        let told = split(row, b',', &mut fields)
            .and_then(|()| plan.fits(&fields))
            .and_then(|()| plan.read(&fields, &mut read));
        let told = told.expect_err(row);
        assert!(told.contains(expected), "{row}: {told}");
    }
}

/// An event as the server gets it: tenant, metric, value, time, dimensions.
type Flat = (String, String, f64, i64, Vec<(String, String)>);

/// What a file gives: its events, the reasons of its refused rows, and its empty cells.
fn load(text: &[u8], options: &CsvOptions) -> Result<(Vec<Flat>, Vec<String>, u64), String> {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    let mut format = Format::Csv(Box::new(options.clone()));
    let refused = |failure: crate::failure::Failure| {
        assert_eq!(failure.code(), EXIT_USAGE, "{failure}");
        failure.message().to_owned()
    };
    reader::settle(file.path(), &mut format).map_err(refused)?;
    let (mut events, mut bad, mut empty_cells) = (Vec::new(), Vec::new(), 0);
    reader::read(file.path(), &format, &Resume::default(), text.len() as u64, drop, |step| {
        match step {
            Step::Bad { reason, .. } => bad.push(reason),
            Step::Segment(resume) => empty_cells = resume.empty_cells,
            Step::Chunk(chunk) => {
                let columns = &chunk.columns;
                for at in 0..columns.values.len() {
                    let set = &columns.dimension_sets[columns.dimension_set_ids[at] as usize];
                    let mut pairs: Vec<_> =
                        set.dimensions.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect();
                    pairs.sort();
                    events.push((
                        chunk.tenant.to_string(),
                        columns.metrics[columns.metric_ids[at] as usize].clone(),
                        columns.values[at],
                        columns.times_unix_nano[at],
                        pairs,
                    ));
                }
            }
        }
        true
    })
    .unwrap();
    Ok((events, bad, empty_cells))
}

/// A name for each row: metrics and tenants from columns; a file that tells its delimiter, or another one.
#[test]
fn long_tables_and_files_that_tell_their_delimiter() {
    let options = CsvOptions {
        metric: Metric::Column("metric".to_owned()),
        tenant: None,
        tenant_column: Some("who".to_owned()),
        ..CsvOptions::of_tenant("t")
    };
    let text = b"sep=;\r\ntimestamp;who;metric;value\r\n1970-01-01;a;cpu;10\r\n1970-01-01;b;mem;2000\r\n1970-01-01;B;mem;1\r\n\
                 1970-01-01;b;;1\r\n;;;\r\n";
    let (events, bad, _) = load(text, &options).unwrap();
    let found: Vec<_> =
        events.iter().map(|(tenant, metric, value, ..)| (tenant.as_str(), metric.as_str(), *value)).collect();
    assert_eq!(found, [("a", "cpu", 10.0), ("b", "mem", 2000.0)]);
    assert!(
        bad[0].starts_with("column who: \"B\"") && bad[1].starts_with("column metric: \"\" must not be"),
        "{bad:?}"
    );
    assert_eq!(bad.len(), 2, "the row that nobody filled in is none");
    let one = CsvOptions { tenant: Some("b".to_owned()), ..options.clone() };
    let (events, bad, _) = load(text, &one).unwrap();
    assert_eq!((events.len(), bad.len()), (1, 3));
    assert_eq!(one.mapping(), options.mapping(), "the chunks of a tenant are the same");

    let comma = CsvOptions { delimiter: Delimiter::Given(b','), ..options };
    assert!(load(text, &comma).is_err_and(|e| e.contains("says sep=;, but --delimiter is ','")));
    let german = CsvOptions {
        numbers: Numbers::new(',', None).unwrap(),
        delimiter: Delimiter::Usual(b';'),
        ..CsvOptions::of_tenant("t")
    };
    let text = "timestamp;value\n1970-01-01;19,5\n1970-01-01;1.234,56\n1970-01-01;20\n";
    let (events, bad, _) = load(text.as_bytes(), &german).unwrap();
    assert_eq!(events.iter().map(|event| event.2).collect::<Vec<_>>(), [19.5, 20.0]);
    assert_eq!(
        bad,
        ["column value: \"1.234,56\" is no finite number; --thousands names what stands between its thousands"]
    );
    assert!(load(b"sep=,\ntimestamp,value\n", &german).is_err_and(|e| e.contains("cannot be the delimiter")));
    for (line, told) in
        [("sep=\t", Some(b'\t')), ("\"SEP=;\"", Some(b';')), ("sep=", None), ("sep=a", None), ("sep=;;", None)]
    {
        assert_eq!(told_delimiter(line), told, "{line}");
    }
}

/// A cell of the property's tables.
#[derive(Clone, Debug)]
enum Cell {
    Empty,
    Number(f64),
    Wrong,
}

fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        2 => Just(Cell::Empty),
        6 => (-100_000_000_i64..100_000_000, 0..4_i32).prop_map(|(n, e)| Cell::Number(n as f64 / 10_f64.powi(e))),
        1 => Just(Cell::Wrong),
    ]
}

/// A field as a careless program writes it: quoted where it must be, and now and then where it need not.
fn write_field(out: &mut String, text: &str, delimiter: char, quote: bool) {
    if quote || text.contains([delimiter, '"', '\n', '\r']) {
        out.push('"');
        out.push_str(&text.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A table that is written with any delimiter, marks, quotes and gaps gives the cells that were written, in their order:
    /// rows with a wrong cell give nothing, empty cells are counted.
    #[test]
    fn what_is_written_is_read(
        rows in proptest::collection::vec(
            ("[a-z,;\t\"|é]{0,6}(\n[a-z\"]{0,3})?", proptest::collection::vec(cell(), 3), any::<[bool; 5]>()), 0..30),
        delimiter in proptest::sample::select(vec![',', ';', '\t', '|']),
        german: bool,
        grouped: bool,
        tells: bool,
        crlf: bool,
    ) {
        let decimal = if german { ',' } else { '.' };
        prop_assume!(decimal != delimiter);
        let separator = grouped.then_some(if german { '.' } else { ',' });
        let numbers = Numbers::new(decimal, separator).unwrap();
        let options = CsvOptions {
            value_columns: ["a", "b", "c"].map(str::to_owned).to_vec(),
            numbers,
            dimensions: pairs(&[("label", "column:label"), ("fixed", "value:x")]),
            delimiter: if tells { Delimiter::Usual(b'!') } else { Delimiter::Given(delimiter as u8) },
            ..CsvOptions::of_tenant("t")
        };
        let end = if crlf { "\r\n" } else { "\n" };
        let mut text = if tells { format!("sep={delimiter}{end}") } else { String::new() };
        text.push_str(&["c", "timestamp", "label", "a", "b"].join(&delimiter.to_string()));
        text.push_str(end);
        let (mut expected, mut wrong, mut empty) = (Vec::new(), 0, 0);
        for (at, (label, cells, quotes)) in rows.iter().enumerate() {
            let number = |value: &f64| {
                let plain = value.to_string();
                let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
                let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
                let groups = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap());
                let whole = groups.collect::<Vec<_>>().join(&separator.map(String::from).unwrap_or_default());
                if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}{decimal}{fraction}") }
            };
            let written = |cell: &Cell| match cell {
                Cell::Empty => String::new(),
                Cell::Number(value) => number(value),
                Cell::Wrong => "n/a".to_owned(),
            };
            let time = tidegauge_core::time::rfc3339(at as i64 * 1_500_000_000);
            let fields = [written(&cells[2]), time, label.clone(), written(&cells[0]), written(&cells[1])];
            for (field, quote) in fields.iter().zip(quotes) {
                write_field(&mut text, field, delimiter, *quote);
                text.push(delimiter);
            }
            text.pop();
            text.push_str(end);
            if cells.iter().any(|cell| matches!(cell, Cell::Wrong)) {
                wrong += 1;
                continue;
            }
            let is_name = !label.contains(['\n', '\t']);
            let is_measured = cells.iter().any(|cell| matches!(cell, Cell::Number(_)));
            if is_measured && !is_name {
                // Control characters are in no dimension: the whole row is refused.
                wrong += 1;
                continue;
            }
            for (cell, metric) in cells.iter().zip(["a", "b", "c"]) {
                match cell {
                    Cell::Empty => empty += 1,
                    Cell::Number(value) => expected.push((
                        "t".to_owned(),
                        metric.to_owned(),
                        *value,
                        at as i64 * 1_500_000_000,
                        pairs(&[("fixed", "x"), ("label", label)]),
                    )),
                    Cell::Wrong => unreachable!(),
                }
            }
        }
        let (events, bad, empty_cells) = load(text.as_bytes(), &options).unwrap();
        prop_assert_eq!(&events, &expected, "{:?}", text);
        prop_assert_eq!((bad.len(), empty_cells), (wrong, empty), "{:?} {:?}", text, bad);
    }
}
