//! Tables: CSV (RFC 4180, also with `\n` line ends and other delimiters) and TSV. A row gives one event for each value
//! column that has a value; an empty cell is no measurement.

mod number;
mod record;

use std::borrow::Cow;

use super::event::{Cells, RawDimensions, RawEvent};
use super::refusal::shown;
use super::time_format::TimeReader;
use crate::units::counted;
pub(crate) use number::Numbers;
pub(crate) use record::{Record, next_record, split};

/// What the columns mean, as given on the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CsvOptions {
    /// Column of the event time.
    pub(crate) time_column: String,
    /// How it is written.
    pub(crate) times: TimeReader,
    /// Columns of values; each gives one event a row.
    pub(crate) value_columns: Vec<String>,
    /// How numbers are written.
    pub(crate) numbers: Numbers,
    /// Metric of the events.
    pub(crate) metric: Metric,
    /// Dimensions: name, and a column's name or a constant.
    pub(crate) dimensions: Vec<(String, String)>,
    /// Tenant of all events; with a column of tenants the only one wanted.
    pub(crate) tenant: Option<String>,
    /// Column of the tenant.
    pub(crate) tenant_column: Option<String>,
    /// Event type of all events.
    pub(crate) event_type: String,
    /// Emitter of all events.
    pub(crate) source: String,
    /// Between two fields.
    pub(crate) delimiter: Delimiter,
}

/// Where the metric of an event comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Metric {
    /// The name of its value column.
    ValueColumn,
    /// This text, unless a column is called so: then it is not clear what is meant.
    Unclear(String),
    /// This text.
    Name(String),
    /// The cell of this column.
    Column(String),
}

/// What stands between two fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Delimiter {
    /// What files of this kind have, unless the file says otherwise (`sep=;`).
    Usual(u8),
    /// This one.
    Given(u8),
}

impl CsvOptions {
    /// The options of a table of one tenant where nothing is said about it.
    #[cfg(test)]
    pub(crate) fn of_tenant(tenant: &str) -> Self {
        Self {
            time_column: "timestamp".to_owned(),
            times: TimeReader::default(),
            value_columns: vec!["value".to_owned()],
            numbers: Numbers::default(),
            metric: Metric::ValueColumn,
            dimensions: Vec::new(),
            tenant: Some(tenant.to_owned()),
            tenant_column: None,
            event_type: "measurement".to_owned(),
            source: String::new(),
            delimiter: Delimiter::Usual(b','),
        }
    }

    /// Everything that makes other events of the same file.
    pub(crate) fn mapping(&self) -> String {
        let mut options = self.clone();
        if self.tenant_column.is_some() {
            // Whether one tenant or all are wanted changes no tenant's chunks.
            options.tenant = None;
        }
        format!("{options:?}")
    }

    /// The only tenant whose events are wanted, where the rows name tenants.
    pub(crate) fn only(&self) -> Option<&str> {
        self.tenant_column.as_ref().and(self.tenant.as_deref())
    }

    /// What stands between two fields of a file that tells this about it.
    ///
    /// # Errors
    /// When it tells something else than what was given.
    pub(crate) fn delimiter(&self, told: Option<u8>) -> Result<u8, String> {
        let delimiter = match (self.delimiter, told) {
            (Delimiter::Given(given), Some(told)) if given != told => {
                let (given, told) = (given as char, told as char);
                return Err(format!("its first line says sep={told}, but --delimiter is {given:?}"));
            }
            (Delimiter::Given(usual) | Delimiter::Usual(usual), told) => told.unwrap_or(usual),
        };
        match char::from(delimiter) == self.numbers.decimal() {
            true => Err(format!("{:?} cannot be the delimiter and the --decimal mark", delimiter as char)),
            false => Ok(delimiter),
        }
    }

    /// Options that mean the same however they were given, for a file whose header is known.
    pub(crate) fn settle(&mut self, delimiter: u8) {
        self.delimiter = Delimiter::Given(delimiter);
        if let Metric::Unclear(name) = &mut self.metric {
            self.metric = Metric::Name(std::mem::take(name));
        }
    }
}

/// The options, with the columns found in a header.
#[derive(Debug)]
pub(crate) struct CsvPlan<'o> {
    options: &'o CsvOptions,
    delimiter: u8,
    columns: usize,
    time: usize,
    /// Name and column.
    values: Vec<(&'o str, usize)>,
    /// A column of names; otherwise the options say them.
    metric: Option<usize>,
    tenant: Option<usize>,
    /// Key, and a column or a constant.
    dimensions: Vec<(&'o str, Result<usize, &'o str>)>,
}

/// What is kept from row to row, so that a row allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Row {
    time_ns: i64,
    /// Place among the value columns, and value.
    values: Vec<(usize, f64)>,
    /// Cells without a measurement.
    pub(crate) empty_cells: u64,
    /// Text of the cells that are dimensions: the same text is the same set.
    dimensions: String,
}

/// Before the text of a row's dimensions, so that it is no JSON object's, and before each cell of it: a cell that has it
/// inside is no dimension.
const CELLS_MARK: char = '\u{1}';

impl Row {
    /// Number of its events.
    pub(crate) fn events(&self) -> usize {
        self.values.len()
    }
}

impl<'o> CsvPlan<'o> {
    /// Finds the columns of a file with this header and delimiter.
    ///
    /// # Errors
    /// The column that is not there or stands twice, and what is unclear.
    pub(crate) fn new(options: &'o CsvOptions, header: &[Cow<'_, str>], delimiter: u8) -> Result<Self, String> {
        let columns = Columns(header);
        let time = columns.need(&options.time_column)?;
        let mut values: Vec<(&str, usize)> = Vec::new();
        for name in &options.value_columns {
            if values.iter().any(|(before, _)| before == name) {
                return Err(format!("--value-column {name} stands twice: its values would count twice"));
            }
            values.push((name, columns.need(name)?));
        }
        let mut dimensions: Vec<(&str, Result<usize, &str>)> = Vec::new();
        for (key, value) in &options.dimensions {
            if dimensions.iter().any(|(before, _)| before == key) {
                return Err(format!("--dimension {key}=… stands twice"));
            }
            let from = match value.split_once(':') {
                Some(("column", name)) => Ok(columns.need(name)?),
                Some(("value", text)) => Err(text),
                _ => columns.find(value)?.ok_or(value.as_str()),
            };
            dimensions.push((key, from));
        }
        let is_value = |name: &str| options.value_columns.iter().any(|column| column == name);
        let metric = match &options.metric {
            Metric::Column(name) => Some(columns.need(name)?),
            Metric::Unclear(name) if !is_value(name) && header.iter().any(|column| column == name) => {
                return Err(format!(
                    "there is a column {name:?}: --metric-column {name} takes the metrics from it, --metric-name {name} is \
                     the name of all of them; --metric does not say which is meant"
                ));
            }
            _ => None,
        };
        Ok(Self {
            options,
            delimiter,
            columns: header.len(),
            time,
            values,
            metric,
            tenant: options.tenant_column.as_ref().map(|name| columns.need(name)).transpose()?,
            dimensions,
        })
    }

    /// Between two fields.
    pub(crate) fn delimiter(&self) -> u8 {
        self.delimiter
    }

    /// What was understood, one line a part, so that a wrong guess is seen.
    pub(crate) fn describe(&self) -> String {
        let of_column = |what: &str, column: usize| format!("{what} from column {}", column + 1);
        let mut parts: Vec<String> = match self.metric {
            Some(column) => vec![of_column("metric", column)],
            None => self.values.iter().map(|(name, _)| format!("metric {:?}", self.metric_of(name))).collect(),
        };
        parts.extend(self.tenant.map(|column| of_column("tenant", column)));
        parts.extend(self.dimensions.iter().map(|(key, value)| match value {
            Ok(column) => of_column(&format!("dimension {key}"), *column),
            Err(text) => format!("dimension {key} = {text:?}"),
        }));
        parts.extend(self.options.times.zone().map(|zone| format!("times of {zone}")));
        parts.join(", ")
    }

    fn metric_of<'a>(&'a self, value_column: &'a str) -> &'a str {
        match &self.options.metric {
            Metric::Unclear(name) | Metric::Name(name) => name,
            Metric::ValueColumn | Metric::Column(_) => value_column,
        }
    }

    /// Whether a record has as many fields as the header.
    pub(crate) fn fits(&self, fields: &[Cow<'_, str>]) -> Result<(), String> {
        if fields.len() == self.columns {
            return Ok(());
        }
        let record = shown(&fields.join(&*String::from(self.delimiter as char)));
        Err(format!("has {}, the header has {}: {record}", counted(fields.len() as u64, "field"), self.columns))
    }

    /// Reads a record that fits.
    ///
    /// # Errors
    /// What is wrong with its time or with a value: then none of its cells counts.
    pub(crate) fn read(&self, fields: &[Cow<'_, str>], row: &mut Row) -> Result<(), String> {
        row.values.clear();
        row.empty_cells = 0;
        // Spreadsheets write rows that nobody has filled in.
        if fields.iter().all(|field| field.trim().is_empty()) {
            return Ok(());
        }
        let time = fields[self.time].trim();
        row.time_ns = self.options.times.parse(time).map_err(|problem| {
            let column = &self.options.time_column;
            format!("column {column}: {} {}", shown(time), self.options.times.explain(problem))
        })?;
        for (at, (name, column)) in self.values.iter().enumerate() {
            let text = fields[*column].trim();
            if text.is_empty() {
                row.empty_cells += 1;
                continue;
            }
            let numbers = self.options.numbers;
            let value = numbers
                .parse(text)
                .ok_or_else(|| format!("column {name}: {} is no finite number{}", shown(text), numbers.advice(text)))?;
            row.values.push((at, value));
        }
        row.dimensions.clear();
        row.dimensions.push(CELLS_MARK);
        for (_, from) in &self.dimensions {
            if let Ok(column) = from {
                row.dimensions.push(CELLS_MARK);
                row.dimensions.push_str(&fields[*column]);
            }
        }
        Ok(())
    }

    /// An event of a row that was read from these fields.
    #[inline]
    pub(crate) fn event<'a>(&'a self, fields: &'a [Cow<'a, str>], row: &'a Row, at: usize) -> RawEvent<'a> {
        let (column, value) = row.values[at];
        let metric = match self.metric {
            Some(column) => fields[column].trim(),
            None => self.metric_of(self.values[column].0),
        };
        let tenant = match self.tenant {
            Some(column) => fields[column].trim(),
            None => self.options.tenant.as_deref().unwrap_or_default(),
        };
        RawEvent {
            tenant: Cow::Borrowed(tenant),
            event_type: Cow::Borrowed(&self.options.event_type),
            source: Cow::Borrowed(&self.options.source),
            version: Cow::Borrowed(""),
            metric: Cow::Borrowed(metric),
            value,
            time_ns: row.time_ns,
            dimensions: match self.dimensions.is_empty() {
                true => RawDimensions::Absent,
                false => RawDimensions::Cells(Cells { text: &row.dimensions, columns: &self.dimensions, fields }),
            },
        }
    }
}

/// What Excel writes into the first line of a file, so that it knows the delimiter again: `sep=;`.
pub(crate) fn told_delimiter(line: &str) -> Option<u8> {
    let line = line.trim_matches('"');
    let (name, delimiter) = line.split_at_checked(4).filter(|(_, rest)| rest.len() == 1)?;
    let delimiter = delimiter.bytes().next().filter(|byte| is_delimiter(*byte))?;
    name.eq_ignore_ascii_case("sep=").then_some(delimiter)
}

/// Whether a character can stand between two fields and be told from what is in them.
pub(crate) fn is_delimiter(byte: u8) -> bool {
    byte == b'\t' || (matches!(byte, b' '..=b'~') && !byte.is_ascii_alphanumeric() && byte != b'"')
}

/// The names of a header.
struct Columns<'h>(&'h [Cow<'h, str>]);

impl Columns<'_> {
    /// The column of a name, if there is one; a column without a name is none.
    fn find(&self, name: &str) -> Result<Option<usize>, String> {
        if name.is_empty() {
            return Ok(None);
        }
        let mut found = (0..self.0.len()).filter(|at| self.0[*at] == name);
        match (found.next(), found.next()) {
            (Some(first), Some(second)) => Err(format!(
                "the column {name:?} stands twice in the header, as column {} and as column {}",
                first + 1,
                second + 1
            )),
            (first, _) => Ok(first),
        }
    }

    fn need(&self, name: &str) -> Result<usize, String> {
        let missing = || match name {
            "" => "a column without a name cannot be chosen".to_owned(),
            name => format!("there is no column {name:?}; the header has {}", self.0.join(", ")),
        };
        self.find(name)?.ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests;
