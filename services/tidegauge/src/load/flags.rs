//! The flags of `load` that say what a file holds, and what they make of it.

use std::io::Read as _;
use std::path::Path;

use clap::{Args, ValueEnum};

use super::csv::{CsvOptions, Delimiter, Metric, Numbers, is_delimiter};
use super::reader::Format;
use super::source::{BACK_IN_ORDER, Source};
use super::time_format::{Fold, TimeFormat, TimeReader, Zone};
use crate::failure::{Doing as _, Failure, Outcome};

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Kind {
    /// A table, with commas unless --delimiter is given
    Csv,
    /// A table with tabs
    Tsv,
    /// One JSON event a line
    Ndjson,
}

/// Flags for tables.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tables (CSV, TSV)")]
pub(super) struct TableArgs {
    /// What the files are [default: tables if named .csv, .tsv or .tab, or if a flag of tables is given; otherwise ndjson]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Kind>,
    /// Column of the event time [default: timestamp]
    #[arg(long, value_name = "COLUMN")]
    time_column: Option<String>,
    /// iso, unix, unix_ms, unix_us, unix_ns or a strptime pattern [default: iso]
    #[arg(long, value_name = "FORMAT")]
    time_format: Option<TimeFormat>,
    /// Zone of times without an offset, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<Zone>,
    /// Moment of a local time that comes twice, or never, because clocks change [default: refuse the row]
    #[arg(long, value_enum, value_name = "WHICH")]
    time_fold: Option<Fold>,
    /// Column of the value; several give several events a row, an empty cell gives none [default: value]
    #[arg(long, value_name = "COLUMN")]
    value_column: Vec<String>,
    /// Decimal mark, . or , [default: .]
    #[arg(long, value_name = "CHARACTER")]
    decimal: Option<char>,
    /// Between thousands; without it, a number that has separators is refused
    #[arg(long, value_name = "CHARACTER")]
    thousands: Option<char>,
    /// Metric of the events [default: the value column's name]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["metric_name", "metric_column"])]
    metric: Option<String>,
    /// The same, also where a column has this name
    #[arg(long, value_name = "NAME", conflicts_with = "metric_column")]
    metric_name: Option<String>,
    /// Column of the metric's name, one measurement a row
    #[arg(long, value_name = "COLUMN")]
    metric_column: Option<String>,
    /// Column of the tenant; --tenant then takes only one of them
    #[arg(long, value_name = "COLUMN")]
    tenant_column: Option<String>,
    /// Dimension from a column (k=column) or fixed (k=text); k=column:… and k=value:… where it is unclear
    #[arg(long, value_name = "K=V")]
    dimension: Vec<String>,
    /// Event type of the events [default: measurement]
    #[arg(long, value_name = "TYPE")]
    event_type: Option<String>,
    /// Name of the emitter
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Between two fields, \t for a tab [default: as the file's first line says (sep=;), otherwise a comma; ; with --decimal ,]
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    delimiter: Option<u8>,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if is_delimiter(*byte) => Ok(*byte),
        _ => Err("must be one ASCII character, but no letter, digit or quote; \\t is a tab".to_owned()),
    }
}

/// The endings of names that say that a file is packed: what it holds is named before them.
const PACKED: [&str; 4] = ["gz", "gzip", "zst", "zstd"];

/// What a name says that a file is.
fn kind_by_name(file: &Path) -> Option<Kind> {
    let ending = |file: &Path| file.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    let mut file = file.to_owned();
    while ending(&file).is_some_and(|ending| PACKED.contains(&&*ending)) {
        file.set_extension("");
    }
    match ending(&file)?.as_str() {
        "csv" => Some(Kind::Csv),
        "tsv" | "tab" => Some(Kind::Tsv),
        _ => None,
    }
}

/// Bytes of a file in which the first character of a JSON object would be.
const BEGINNING_BYTES: u64 = 4 << 10;

/// Whether a file begins as NDJSON does.
fn looks_like_json(file: &Path) -> Outcome<bool> {
    let mut beginning = Vec::new();
    let source = Source::open(file, BACK_IN_ORDER).doing(file.display())?;
    source.take(BEGINNING_BYTES).read_to_end(&mut beginning).doing(file.display())?;
    let mut text = &beginning[..];
    while let Some(rest) = text.strip_prefix("\u{feff}".as_bytes()) {
        text = rest;
    }
    Ok(text.trim_ascii_start().starts_with(b"{"))
}

impl TableArgs {
    /// The flags that say what a table means, as far as they were given.
    fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--time-column", self.time_column.is_some()),
            ("--time-format", self.time_format.is_some()),
            ("--time-zone", self.time_zone.is_some()),
            ("--time-fold", self.time_fold.is_some()),
            ("--value-column", !self.value_column.is_empty()),
            ("--decimal", self.decimal.is_some()),
            ("--thousands", self.thousands.is_some()),
            ("--metric", self.metric.is_some()),
            ("--metric-name", self.metric_name.is_some()),
            ("--metric-column", self.metric_column.is_some()),
            ("--tenant-column", self.tenant_column.is_some()),
            ("--dimension", !self.dimension.is_empty()),
            ("--event-type", self.event_type.is_some()),
            ("--source", self.source.is_some()),
            ("--delimiter", self.delimiter.is_some()),
        ];
        flags.into_iter().find_map(|(flag, is_given)| is_given.then_some(flag))
    }

    /// How a file is to be read.
    ///
    /// # Errors
    /// Flags that do not apply to it, or not to one another.
    pub(super) fn format(&self, file: &Path, tenant: Option<&str>) -> Outcome<Format> {
        let tenant = tenant.map(str::to_owned);
        let (given, by_name) = (self.given(), kind_by_name(file));
        let does_not_apply = |flag: &str, why: &str| {
            let problem =
                format!("{}: {flag} does not apply: {why}, each event of which says itself what it is", file.display());
            Err(Failure::usage(problem).hint("--format csv reads it as a table"))
        };
        let kind = match (self.format, given) {
            (Some(Kind::Ndjson), Some(flag)) => return does_not_apply(flag, "--format says that it is NDJSON"),
            (Some(kind), _) => kind,
            (None, Some(flag)) if by_name.is_none() && looks_like_json(file)? => {
                return does_not_apply(flag, "the file looks like NDJSON");
            }
            (None, Some(_)) => by_name.unwrap_or(Kind::Csv),
            (None, None) => by_name.unwrap_or(Kind::Ndjson),
        };
        match kind {
            Kind::Ndjson => Ok(Format::Ndjson { tenant }),
            Kind::Csv => self.table(tenant, b',').map(|table| Format::Csv(Box::new(table))),
            Kind::Tsv => self.table(tenant, b'\t').map(|table| Format::Csv(Box::new(table))),
        }
    }

    fn table(&self, tenant: Option<String>, usual: u8) -> Outcome<CsvOptions> {
        if tenant.is_none() && self.tenant_column.is_none() {
            return Err(Failure::usage(
                "a table names no tenants: choose one with --tenant, or their column with --tenant-column",
            ));
        }
        let dimension = |text: &String| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Failure::usage(format!("--dimension {text:?} is not of the form key=value"))),
        };
        let value_columns = match &self.value_column[..] {
            [] => vec!["value".to_owned()],
            columns => columns.to_vec(),
        };
        let metric = match (&self.metric, &self.metric_name, &self.metric_column) {
            (Some(name), ..) => Metric::Unclear(name.clone()),
            (_, Some(name), _) => Metric::Name(name.clone()),
            (.., Some(column)) => Metric::Column(column.clone()),
            (None, None, None) => Metric::ValueColumn,
        };
        if value_columns.len() > 1 && metric != Metric::ValueColumn {
            let flag = if self.metric_column.is_some() { "--metric-column" } else { "--metric" };
            return Err(Failure::usage(format!(
                "{flag} gives each row one metric, but there are several value columns"
            ))
            .hint(format!("leave {flag} out: each value column's name becomes a metric")));
        }
        let numbers = Numbers::new(self.decimal.unwrap_or('.'), self.thousands).map_err(Failure::usage)?;
        // Who writes decimal commas writes semicolons between the fields.
        let usual = if usual == b',' && numbers.decimal() == ',' { b';' } else { usual };
        let format = self.time_format.clone().unwrap_or_default();
        let options = CsvOptions {
            time_column: self.time_column.clone().unwrap_or_else(|| "timestamp".to_owned()),
            times: TimeReader::new(format, self.time_zone, self.time_fold).map_err(Failure::usage)?,
            value_columns,
            numbers,
            metric,
            dimensions: self.dimension.iter().map(dimension).collect::<Outcome<_>>()?,
            tenant,
            tenant_column: self.tenant_column.clone(),
            event_type: self.event_type.clone().unwrap_or_else(|| "measurement".to_owned()),
            source: self.source.clone().unwrap_or_default(),
            delimiter: self.delimiter.map_or(Delimiter::Usual(usual), Delimiter::Given),
        };
        options.delimiter(None).map_err(Failure::usage)?;
        Ok(options)
    }
}
