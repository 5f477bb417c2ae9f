//! Results in their forms. All but the table are written as they come.

use std::io::{BufWriter, IsTerminal as _, Write as _};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};

use super::Form;
use super::cells::{self, Column, Shape};
use crate::failure::{Doing as _, Outcome};
use crate::stdout::{self, Out};
use crate::tell::tell;
use crate::text_table::{Align, TextTable, printable};

/// Rows that a table shows: it is held in memory, and nobody reads more.
const TABLE_ROWS_MAX: usize = 10_000;

/// Writes batches to standard output.
pub(super) struct Writer {
    sink: Sink,
    rows: u64,
}

enum Sink {
    Table { table: TextTable, cut: bool },
    Text { form: TextRows, out: BufWriter<Out> },
    Arrow(Box<arrow::ipc::writer::StreamWriter<BufWriter<Out>>>),
}

/// Forms that are lines of text.
enum TextRows {
    /// Fields as in RFC 4180 and PostgreSQL. `shown`: to a terminal, which must not be steered by data.
    Csv { shown: bool },
    /// Objects with these names.
    Json { names: Vec<String> },
}

impl Writer {
    /// A writer of the form for results with the schema.
    pub(super) fn new(form: Form, schema: &SchemaRef) -> Outcome<Self> {
        let mut out = BufWriter::with_capacity(1 << 16, Out::default());
        let sink = match form {
            Form::Table => Sink::Table { table: table(schema), cut: false },
            Form::Csv => {
                let form = TextRows::Csv { shown: std::io::stdout().is_terminal() };
                // A header also where there are no rows.
                out.write_all(form.header(schema).as_bytes()).doing("standard output")?;
                Sink::Text { form, out }
            }
            Form::Json => {
                let form = TextRows::json(schema);
                form.told(schema).into_iter().for_each(tell);
                Sink::Text { form, out }
            }
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
            Sink::Text { form, out } => {
                form.rows(batch, |row| out.write_all(row.as_bytes()).doing("standard output"))?;
            }
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
            Sink::Text { mut out, .. } => out.flush().doing("standard output")?,
            Sink::Arrow(mut writer) => {
                writer.finish().doing("standard output")?;
                writer.get_mut().flush().doing("standard output")?;
            }
        }
        Ok(self.rows)
    }
}

impl TextRows {
    fn json(schema: &Schema) -> Self {
        Self::Json { names: cells::unique_names(schema.fields().iter().map(|field| field.name())) }
    }

    /// What whoever reads the objects should know of their names.
    fn told(&self, schema: &Schema) -> Vec<String> {
        let Self::Json { names } = self else { return Vec::new() };
        let renamed = schema.fields().iter().zip(names).filter(|(field, name)| field.name() != *name);
        renamed
            .map(|(field, name)| {
                format!(
                    "note: the result has the column {:?} more than once; JSON calls a later one {name:?}",
                    field.name()
                )
            })
            .collect()
    }

    /// The line of names; empty where each row has them.
    fn header(&self, schema: &Schema) -> String {
        let mut line = String::new();
        if let Self::Csv { shown } = self {
            for (at, field) in schema.fields().iter().enumerate() {
                if at > 0 {
                    line.push(',');
                }
                let from = line.len();
                line.push_str(field.name());
                cells::csv_field(Shape::Quoted, &mut line, from);
            }
            line = end_line(line, *shown);
        }
        line
    }

    /// The lines of the rows, one by one.
    fn rows(&self, batch: &RecordBatch, mut take: impl FnMut(&str) -> Outcome) -> Outcome {
        let mut line = String::new();
        match self {
            Self::Csv { shown } => {
                let columns = columns(batch)?;
                for row in 0..batch.num_rows() {
                    line.clear();
                    for (at, column) in columns.iter().enumerate() {
                        if at > 0 {
                            line.push(',');
                        }
                        column.csv(row, &mut line);
                    }
                    line = end_line(line, *shown);
                    take(&line)?;
                }
            }
            Self::Json { names } => {
                let members = cells::members(names, batch.columns()).doing("the result")?;
                for row in 0..batch.num_rows() {
                    line.clear();
                    cells::write_object(&members, row, &mut line);
                    line.push('\n');
                    take(&line)?;
                }
            }
        }
        Ok(())
    }
}

/// Ends a record of CSV. What goes to a terminal loses what would steer it: CSV has no escapes. A file gets every byte.
fn end_line(mut line: String, shown: bool) -> String {
    if shown {
        line = line.split('\n').map(printable).collect::<Vec<_>>().join("\n");
    }
    line.push('\n');
    line
}

fn columns(batch: &RecordBatch) -> Outcome<Vec<Column<'_>>> {
    batch.columns().iter().map(|column| Column::new(column.as_ref())).collect::<Result<_, _>>().doing("the result")
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
    let columns = columns(batch)?;
    let room = TABLE_ROWS_MAX.saturating_sub(table.len());
    for row in 0..batch.num_rows().min(room) {
        // A plan of EXPLAIN is a text of many lines.
        table.row_of_lines(columns.iter().map(|column| {
            let mut text = String::new();
            column.text(row, &mut text);
            text
        }));
    }
    Ok(batch.num_rows() <= room)
}

#[cfg(test)]
mod tests;
