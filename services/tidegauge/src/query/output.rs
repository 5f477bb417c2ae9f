//! Results in their forms. All but the table are written as they come.

use std::io::{BufWriter, Write as _};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::Form;
use crate::failure::{Doing as _, Outcome};
use crate::stdout::{self, Out};
use crate::tell::tell;
use crate::text_table::{Align, TextTable};

/// Rows that a table shows: it is held in memory, and nobody reads more.
const TABLE_ROWS_MAX: usize = 10_000;

/// Writes batches to standard output.
pub(super) struct Writer {
    sink: Sink,
    rows: u64,
}

enum Sink {
    Table { table: TextTable, cut: bool },
    Csv(Box<arrow::csv::Writer<BufWriter<Out>>>),
    Json(Box<arrow::json::LineDelimitedWriter<BufWriter<Out>>>),
    Arrow(Box<arrow::ipc::writer::StreamWriter<BufWriter<Out>>>),
}

impl Writer {
    /// A writer of the form for results with the schema.
    pub(super) fn new(form: Form, schema: &SchemaRef) -> Outcome<Self> {
        let out = BufWriter::with_capacity(1 << 16, Out::default());
        let sink = match form {
            Form::Table => Sink::Table { table: table(schema), cut: false },
            Form::Csv => {
                let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(out);
                // A header also where there are no rows.
                writer.write(&RecordBatch::new_empty(schema.clone())).doing("standard output")?;
                Sink::Csv(Box::new(writer))
            }
            Form::Json => Sink::Json(Box::new(json_builder().build(out))),
            Form::Arrow => {
                let writer = arrow::ipc::writer::StreamWriter::try_new(out, schema).doing("standard output")?;
                Sink::Arrow(Box::new(writer))
            }
        };
        Ok(Self { sink, rows: 0 })
    }

    /// Whether rows have gone out, so that the query cannot be run again.
    pub(super) fn has_written(&self) -> bool {
        self.rows > 0 && !matches!(self.sink, Sink::Table { .. })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Outcome {
        self.rows += batch.num_rows() as u64;
        match &mut self.sink {
            Sink::Table { table, cut } => *cut |= !fill(table, batch)?,
            Sink::Csv(writer) => writer.write(batch).doing("standard output")?,
            Sink::Json(writer) => writer.write(batch).doing("standard output")?,
            Sink::Arrow(writer) => writer.write(batch).doing("standard output")?,
        }
        Ok(())
    }

    /// Ends the output; the number of rows.
    pub(super) fn finish(self) -> Outcome<u64> {
        match self.sink {
            Sink::Table { table, cut } => {
                stdout::write(table)?;
                if cut {
                    tell(format_args!(
                        "only the first {TABLE_ROWS_MAX} rows are shown; -o csv, json or arrow gives all"
                    ));
                }
            }
            Sink::Csv(writer) => writer.into_inner().flush().doing("standard output")?,
            Sink::Json(mut writer) => {
                writer.finish().doing("standard output")?;
                writer.into_inner().flush().doing("standard output")?;
            }
            Sink::Arrow(mut writer) => {
                writer.finish().doing("standard output")?;
                writer.get_mut().flush().doing("standard output")?;
            }
        }
        Ok(self.rows)
    }
}

/// How JSON is written: times in RFC 3339. Those without a zone are UTC, and a program must see it.
fn json_builder() -> arrow::json::WriterBuilder {
    arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_timestamp_format("%Y-%m-%dT%H:%M:%S%.fZ".to_owned())
}

fn table(schema: &SchemaRef) -> TextTable {
    let columns: Vec<(&str, Align)> = schema
        .fields()
        .iter()
        .map(|field| {
            let align = if field.data_type().is_numeric() { Align::Right } else { Align::Left };
            (field.name().as_str(), align)
        })
        .collect();
    TextTable::new(&columns)
}

/// Adds a batch's rows; false when some did not fit.
fn fill(table: &mut TextTable, batch: &RecordBatch) -> Outcome<bool> {
    let options = FormatOptions::default().with_null("").with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));
    let columns = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()
        .doing("the result")?;
    let room = TABLE_ROWS_MAX.saturating_sub(table.len());
    for row in 0..batch.num_rows().min(room) {
        let cell = |(at, column): (usize, &ArrayFormatter<'_>)| {
            let text = column.value(row).to_string();
            if matches!(batch.column(at).data_type(), DataType::Float64) { rounded(text) } else { text }
        };
        // A plan of EXPLAIN is a text of many lines.
        table.row_of_lines(columns.iter().enumerate().map(cell));
    }
    Ok(batch.num_rows() <= room)
}

/// A number with at most six decimals: a table is for people.
fn rounded(text: String) -> String {
    let long = text.split_once('.').is_some_and(|(_, decimals)| decimals.len() > 6 && !decimals.contains('e'));
    match text.parse::<f64>() {
        Ok(value) if long && value.abs() >= 1e-3 => {
            let short = format!("{value:.6}");
            short.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Array as _, Float64Array, ListArray, StringArray, TimestampMillisecondArray, TimestampNanosecondArray,
        TimestampSecondArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, Schema};

    use super::*;

    /// Nulls are empty, numbers stand right and are rounded for reading only.
    #[test]
    fn a_result_is_readable() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("metric", DataType::Utf8, true),
            Field::new("value", DataType::Float64, true),
        ]));
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("cpu"), None])),
            Arc::new(Float64Array::from(vec![Some(1.0 / 3.0), Some(2e-9)])),
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let mut text = table(&schema);
        assert!(fill(&mut text, &batch).unwrap());
        assert_eq!(text.lines(), ["metric     value", "cpu     0.333333", "            2e-9"]);
    }

    /// Programs get every time with its zone, also within a list; a fraction only where there is one.
    #[test]
    fn json_times_are_utc() {
        let (second, millisecond) = (1_772_435_289, 1_772_435_289_125);
        let lasts = TimestampNanosecondArray::from(vec![second * 1_000_000_000 + 1]);
        let item = Arc::new(Field::new("item", lasts.data_type().clone(), true));
        let columns: [(&str, arrow::array::ArrayRef); 4] = [
            ("start", Arc::new(TimestampMillisecondArray::from(vec![millisecond]))),
            ("zoned", Arc::new(TimestampSecondArray::from(vec![second]).with_timezone("+00:00"))),
            ("lasts", Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([1]), Arc::new(lasts), None))),
            ("none", Arc::new(TimestampSecondArray::from(vec![None]))),
        ];
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
        let mut writer = json_builder().build::<_, arrow::json::writer::LineDelimited>(Vec::new());
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let expected = r#"{"start":"2026-03-02T07:08:09.125Z","zoned":"2026-03-02T07:08:09Z","lasts":["2026-03-02T07:08:09.000000001Z"],"none":null}"#;
        assert_eq!(String::from_utf8(writer.into_inner()).unwrap().trim_end(), expected);
    }
}
