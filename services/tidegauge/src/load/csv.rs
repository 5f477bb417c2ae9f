//! CSV (RFC 4180, also with `\n` line ends and another delimiter): one event a row and value column.

use std::borrow::Cow;
use std::io::{Read, Seek};

use super::event::{Place, RawDimensions, RawEvent};
use super::lines::{Line, Lines, too_long, without_marks};
use super::refusal::shown;
use super::time_format::TimeFormat;
use crate::units::{Size, counted};

/// Bytes of one record, over several lines where quotes hold line ends.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// What the columns mean, as given on the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CsvOptions {
    /// Column of the event time.
    pub(crate) time_column: String,
    /// How it is written.
    pub(crate) time_format: TimeFormat,
    /// Columns of values; each gives one event a row.
    pub(crate) value_columns: Vec<String>,
    /// Metric of the events; without it the value column's name.
    pub(crate) metric: Option<String>,
    /// Dimensions: name, and a column's name or a constant.
    pub(crate) dimensions: Vec<(String, String)>,
    /// Tenant of all events.
    pub(crate) tenant: String,
    /// Event type of all events.
    pub(crate) event_type: String,
    /// Emitter of all events.
    pub(crate) source: String,
    /// Between two fields.
    pub(crate) delimiter: u8,
}

/// The options, with the columns found in a header.
#[derive(Debug)]
pub(crate) struct CsvPlan<'o> {
    options: &'o CsvOptions,
    columns: usize,
    time: usize,
    /// Metric and column.
    values: Vec<(String, usize)>,
    /// Key, and a column or a constant.
    dimensions: Vec<(&'o str, Result<usize, &'o str>)>,
}

impl<'o> CsvPlan<'o> {
    /// Finds the columns.
    ///
    /// # Errors
    /// The column that is not there, with those that are.
    pub(crate) fn new(options: &'o CsvOptions, header: &[Cow<'_, str>]) -> Result<Self, String> {
        let find = |name: &str| header.iter().position(|column| column == name);
        let need = |name: &str| {
            find(name).ok_or_else(|| format!("there is no column {name:?}; the header has {}", header.join(", ")))
        };
        let values = options.value_columns.iter().map(|column| {
            let metric = options.metric.as_ref().unwrap_or(column).clone();
            Ok((metric, need(column)?))
        });
        let dimensions = options.dimensions.iter().map(|(key, value)| {
            let column = match value.split_once(':') {
                Some(("column", name)) => Ok(need(name)?),
                Some(("value", text)) => Err(text),
                _ => find(value).ok_or(value.as_str()),
            };
            Ok((key.as_str(), column))
        });
        Ok(Self {
            options,
            columns: header.len(),
            time: need(&options.time_column)?,
            values: values.collect::<Result<_, String>>()?,
            dimensions: dimensions.collect::<Result<_, String>>()?,
        })
    }

    /// Between two fields.
    pub(crate) fn delimiter(&self) -> u8 {
        self.options.delimiter
    }

    /// What was understood, one line a part, so that a wrong guess is seen.
    pub(crate) fn describe(&self) -> String {
        let values = self.values.iter().map(|(metric, _)| format!("metric {metric:?}"));
        let dimensions = self.dimensions.iter().map(|(key, value)| match value {
            Ok(column) => format!("dimension {key} from column {}", column + 1),
            Err(text) => format!("dimension {key} = {text:?}"),
        });
        values.chain(dimensions).collect::<Vec<_>>().join(", ")
    }

    /// Whether a record has as many fields as the header.
    pub(crate) fn fits(&self, fields: &[Cow<'_, str>]) -> Result<(), String> {
        if fields.len() == self.columns {
            return Ok(());
        }
        let record = shown(&fields.join(&*String::from(self.options.delimiter as char)));
        Err(format!("has {}, the header has {}: {record}", counted(fields.len() as u64, "field"), self.columns))
    }

    /// The events of a record that fits: one a value column.
    pub(crate) fn events<'a>(
        &'a self,
        fields: &'a [Cow<'a, str>],
    ) -> Result<impl Iterator<Item = Result<RawEvent<'a>, String>>, String> {
        let time = fields[self.time].trim();
        let time_ns = self.options.time_format.parse(time).ok_or_else(|| {
            let CsvOptions { time_column, time_format, .. } = &self.options;
            let time = shown(time);
            format!("column {time_column}: {time} is no time of the format {time_format}; --time-format names another")
        })?;
        let dimensions: Vec<(Cow<'_, str>, Cow<'_, str>)> = self
            .dimensions
            .iter()
            .map(|(key, value)| {
                let value = match value {
                    Ok(column) => &*fields[*column],
                    Err(text) => text,
                };
                (Cow::Borrowed(*key), Cow::Borrowed(value))
            })
            .collect();
        Ok(self.values.iter().zip(&self.options.value_columns).map(move |((metric, column), name)| {
            let text = fields[*column].trim();
            let value = text.parse::<f64>().ok().filter(|value| value.is_finite());
            Ok(RawEvent {
                tenant: Cow::Borrowed(&self.options.tenant),
                event_type: Cow::Borrowed(&self.options.event_type),
                source: Cow::Borrowed(&self.options.source),
                version: Cow::Borrowed(""),
                metric: Cow::Borrowed(metric),
                value: value.ok_or_else(|| format!("column {name}: {} is no finite number", shown(text)))?,
                time_ns,
                dimensions: match dimensions.is_empty() {
                    true => RawDimensions::Absent,
                    false => RawDimensions::Pairs(dimensions.clone()),
                },
            })
        }))
    }
}

/// A record: a line, or several where quotes hold line ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    /// Where it stands.
    pub(crate) place: Place,
    /// Where its first line stands.
    pub(crate) first: Place,
    /// Offset of the line after its first one.
    pub(crate) second_offset: u64,
    /// Why it cannot be used, if it cannot.
    pub(crate) refusal: Option<String>,
}

/// Reads the next record, its text into `text`. `None` at the end. A record that is too long is passed as a whole; where a
/// quote is not closed up to the end, only its first line is passed: a stray quote must not take all that follows along.
///
/// # Errors
/// I/O errors.
pub(crate) fn next_record<R: Read + Seek>(lines: &mut Lines<R>, text: &mut Vec<u8>) -> std::io::Result<Option<Record>> {
    let too_large = |begins: &[u8]| {
        let begins = shown(&String::from_utf8_lossy(begins));
        format!("the record is longer than {}: {begins}", Size(RECORD_BYTES_MAX as u64))
    };
    text.clear();
    let Some((first, line)) = lines.next()? else { return Ok(None) };
    let mut quotes = 0;
    let refusal = match line {
        Line::TooLong => Some(too_long().to_string()),
        Line::Whole(line) => {
            let line = without_marks(line);
            text.extend_from_slice(&line[..line.len().min(RECORD_BYTES_MAX)]);
            quotes = memchr::memchr_iter(b'"', line).count();
            (line.len() > RECORD_BYTES_MAX).then(|| too_large(text))
        }
    };
    let first_length = text.len();
    let mut record = Record { place: first, first, second_offset: lines.offset(), refusal };
    if quotes.is_multiple_of(2) {
        return Ok(Some(record));
    }
    while let Some((at, Line::Whole(line))) = lines.next()? {
        if text.len() + line.len() >= RECORD_BYTES_MAX {
            record.refusal.get_or_insert_with(|| too_large(text));
        } else if record.refusal.is_none() {
            text.push(b'\n');
            text.extend_from_slice(line);
        }
        quotes += memchr::memchr_iter(b'"', line).count();
        if quotes.is_multiple_of(2) {
            let bytes = at.offset + u64::from(at.bytes) - first.offset;
            record.place.bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            if let Some(refusal) = &mut record.refusal {
                refusal.insert_str(0, &format!("up to line {}, ", at.line));
            }
            return Ok(Some(record));
        }
    }
    text.truncate(first_length);
    record.refusal = Some(format!("a quoted field is not closed: {}", shown(&String::from_utf8_lossy(text))));
    record.go_back(lines)?;
    Ok(Some(record))
}

impl Record {
    /// Whether it holds line ends.
    pub(crate) fn spans_lines(&self) -> bool {
        self.place != self.first
    }

    /// Leaves only the first line of it; the others are read again, each for itself.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn go_back<R: Read + Seek>(&mut self, lines: &mut Lines<R>) -> std::io::Result<()> {
        self.place = self.first;
        lines.go_back(self.second_offset, self.first.line)
    }
}

/// The fields of a record.
///
/// # Errors
/// What breaks the rules of quoting.
pub(crate) fn split<'a>(record: &'a str, delimiter: u8, fields: &mut Vec<Cow<'a, str>>) -> Result<(), String> {
    fields.clear();
    let delimiter = delimiter as char;
    let mut rest = record;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = unquote(quoted)?;
            fields.push(field);
            match after.strip_prefix(delimiter) {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(()),
                None => {
                    return Err(format!(
                        "field {} goes on after its closing quote, with {}",
                        fields.len(),
                        shown(after)
                    ));
                }
            }
        } else {
            match rest.split_once(delimiter) {
                Some((field, next)) => {
                    fields.push(bare(field, fields.len())?);
                    rest = next;
                }
                None => {
                    fields.push(bare(rest, fields.len())?);
                    return Ok(());
                }
            }
        }
    }
}

/// A field without quotes around it: line ends are in it only where quotes inside have tied lines together.
fn bare(field: &str, before: usize) -> Result<Cow<'_, str>, String> {
    match field.contains('\n') {
        true => Err(format!("field {} has a quote inside, and none around it: {}", before + 1, shown(field))),
        false => Ok(Cow::Borrowed(field)),
    }
}

/// A field after its opening quote, and what follows its closing one.
fn unquote(text: &str) -> Result<(Cow<'_, str>, &str), String> {
    let mut from = 0;
    loop {
        let end =
            from + text[from..].find('"').ok_or_else(|| format!("a quoted field is not closed: {}", shown(text)))?;
        if text[end + 1..].starts_with('"') {
            from = end + 2;
            continue;
        }
        let field = &text[..end];
        let field = if from == 0 { Cow::Borrowed(field) } else { Cow::Owned(field.replace("\"\"", "\"")) };
        return Ok((field, &text[end + 1..]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> CsvOptions {
        CsvOptions {
            time_column: "when".to_owned(),
            time_format: TimeFormat::Iso,
            value_columns: vec!["cpu".to_owned(), "mem".to_owned()],
            metric: None,
            dimensions: vec![
                ("host".to_owned(), "host".to_owned()),
                ("region".to_owned(), "eu".to_owned()),
                ("kind".to_owned(), "value:host".to_owned()),
            ],
            tenant: "t".to_owned(),
            event_type: "e".to_owned(),
            source: String::new(),
            delimiter: b',',
        }
    }

    /// Columns, constants and several values a row; what is wrong is named with its column.
    #[test]
    fn rows_become_events() {
        let options = options();
        let header = ["when", "host", "cpu", "mem"].map(Cow::Borrowed);
        let plan = CsvPlan::new(&options, &header).unwrap();
        assert!(plan.describe().contains("dimension host from column 2, dimension region = \"eu\""));
        let mut fields = Vec::new();
        split("1970-01-01T00:00:01Z,\"a,\"\"b\"\"\",1.5,x", b',', &mut fields).unwrap();
        let events: Vec<_> = plan.events(&fields).unwrap().collect();
        let event = events[0].as_ref().unwrap();
        assert_eq!((&*event.metric, event.value, event.time_ns), ("cpu", 1.5, 1_000_000_000));
        let pairs = [("host", "a,\"b\""), ("region", "eu"), ("kind", "host")];
        assert_eq!(event.dimensions.pairs(), pairs.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(events[1], Err("column mem: \"x\" is no finite number".to_owned()));
        let short = plan.fits(&fields[1..]).unwrap_err();
        assert_eq!(short, "has 3 fields, the header has 4: \"a,\\\"b\\\",1.5,x\"");
        let missing = CsvOptions { time_column: "ts".to_owned(), ..options.clone() };
        assert!(CsvPlan::new(&missing, &header).is_err_and(|e| e.contains("no column \"ts\"")));
    }

    /// What cannot be an event is told with its column and value.
    #[test]
    fn columns_and_values_are_named() {
        let options =
            CsvOptions { metric: Some("load".to_owned()), value_columns: vec!["cpu".to_owned()], ..options() };
        let header = ["when", "host", "cpu"].map(Cow::Borrowed);
        let plan = CsvPlan::new(&options, &header).unwrap();
        let long = format!("1970-01-01,a,{}", "9x".repeat(1_000));
        for (row, expected) in [
            ("1970-01-01,a,abc", "column cpu: \"abc\" is no finite number"),
            ("1970-01-01,a,", "column cpu: \"\" is no finite number"),
            ("1970-01-01,a,NaN", "column cpu: \"NaN\" is no finite number"),
            ("1970-01-01,a,1e999", "column cpu: \"1e999\" is no finite number"),
            ("1970-01-01,a,1;5", "column cpu: \"1;5\" is no finite number"),
            ("yesterday,a,1", "column when: \"yesterday\" is no time of the format iso; --time-format names another"),
            ("1970-13-01,a,1", "column when: \"1970-13-01\" is no time of the format iso"),
            ("1970-01-01,a", "has 2 fields, the header has 3: \"1970-01-01,a\""),
            ("1970-01-01,a,1,2", "has 4 fields, the header has 3"),
            ("1970-01-01,\"a\"b,1", "field 2 goes on after its closing quote, with \"b,1\""),
            ("1970-01-01,\"a,1", "a quoted field is not closed: \"a,1\""),
            (&long, "9x9x9x…\" is no finite number"),
        ] {
            let mut fields = Vec::new();
            let told = split(row, b',', &mut fields)
                .and_then(|()| plan.fits(&fields))
                .and_then(|()| plan.events(&fields)?.collect::<Result<Vec<_>, _>>().map(drop));
            let told = told.expect_err(row);
            assert!(told.contains(expected), "{row}: {told}");
        }
    }

    fn records(text: &[u8]) -> Vec<(Record, Vec<u8>)> {
        let mut lines = Lines::new(std::io::Cursor::new(text), 0, 0, u64::MAX);
        let (mut found, mut record) = (Vec::new(), Vec::new());
        while let Some(read) = next_record(&mut lines, &mut record).unwrap() {
            found.push((read, record.clone()));
        }
        assert_eq!(lines.offset(), text.len() as u64);
        found
    }

    /// A record may span lines; its place is all of them as they stand in the file, and the next record's follows.
    #[test]
    fn records_span_lines() {
        let found = records(b"a,\"b\r\nc\"\r\nd,\"e\nf,g\n");
        let place = |line, offset, bytes| Place { line, offset, bytes };
        let (record, text) = &found[0];
        assert_eq!((record.place, record.first, record.second_offset), (place(1, 0, 8), place(1, 0, 4), 6));
        assert_eq!((record.refusal.as_deref(), &text[..]), (None, &b"a,\"b\nc\""[..]));
        let (record, _) = &found[1];
        assert_eq!((record.place, record.spans_lines()), (place(3, 10, 4), false));
        assert_eq!(record.refusal.as_deref(), Some("a quoted field is not closed: \"d,\\\"e\""));
        assert_eq!((found[2].0.place, &found[2].1[..]), (place(4, 15, 3), &b"f,g"[..]));
        assert_eq!(found.len(), 3);
        assert!(split("\"a\"b", b',', &mut Vec::new()).is_err());
        assert!(split("a,b\"c\nd\"e,f", b',', &mut Vec::new()).is_err_and(|e| e.starts_with("field 2 has a quote")));
        let mut fields = Vec::new();
        split(";5\" disk;", b';', &mut fields).unwrap();
        assert_eq!(fields, ["", "5\" disk", ""]);
    }

    /// A record has a largest size, in one line or in many; it is passed as a whole, so that its text becomes no rows.
    #[test]
    fn records_that_are_too_long() {
        let filler = "x".repeat(RECORD_BYTES_MAX);
        for long in [filler.clone(), format!("\"{filler}\n2,3\n\""), format!("\"\n2,3\n{filler}\"")] {
            let text = format!("{long}\n4,5\n");
            let found = records(text.as_bytes());
            assert_eq!((found.len(), found[0].0.place.bytes as usize), (2, long.len()));
            match long == filler {
                true => assert_eq!(found[0].0.refusal, None, "just as long as allowed"),
                false => {
                    let refusal = found[0].0.refusal.as_deref().unwrap();
                    assert!(refusal.starts_with("up to line 3, the record is longer than 1MB"), "{refusal}");
                }
            }
            assert_eq!(found[1].1, b"4,5");
        }
        let found = records(format!("{filler}x\n4,5\n").as_bytes());
        assert_eq!((found.len(), found[0].0.place.bytes as usize), (2, RECORD_BYTES_MAX + 1));
        assert!(found[0].0.refusal.as_deref().unwrap().starts_with("the record is longer than 1MB"));
    }
}
