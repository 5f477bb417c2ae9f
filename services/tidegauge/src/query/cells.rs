//! The text of a value, for every form that is text: a table, CSV and JSON show the same one. JSON puts it in quotes unless
//! it is a number, a truth value, a list or an object; a list or an object is JSON in the other forms, too.
//!
//! Numbers are the shortest text that reads back as the same number; those that are none are `Infinity`, `-Infinity` and
//! `NaN`. Times are RFC 3339 and carry their zone, UTC where the column names none. Bytes are hexadecimal digits.

mod time;

use std::fmt::Write as _;

use arrow::array::{Array, ArrayRef, AsArray as _, OffsetSizeTrait, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::*;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::output::{Float, quote};

/// What a text is to JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// Nothing was written.
    Null,
    /// It stands as it is.
    Bare,
    /// It stands in quotes.
    Quoted,
}

/// Writes the text of a row that has one.
type Writer<'a> = Box<dyn Fn(usize, &mut String) -> Shape + 'a>;

/// A column of a batch.
pub(super) struct Column<'a> {
    nulls: Option<NullBuffer>,
    writer: Writer<'a>,
}

impl<'a> Column<'a> {
    /// A column of this array.
    ///
    /// # Errors
    /// For a type that nobody can show.
    pub(super) fn new(array: &'a dyn Array) -> Result<Self, ArrowError> {
        Ok(Self { nulls: array.logical_nulls(), writer: writer(array)? })
    }

    /// Adds the text of a row.
    pub(super) fn text(&self, row: usize, out: &mut String) -> Shape {
        match &self.nulls {
            Some(nulls) if nulls.is_null(row) => Shape::Null,
            _ => (self.writer)(row, out),
        }
    }

    /// Adds the value of a row as JSON.
    pub(super) fn json(&self, row: usize, out: &mut String) {
        let from = out.len();
        match self.text(row, out) {
            Shape::Null => out.push_str("null"),
            Shape::Bare => {}
            Shape::Quoted => quote(out, from),
        }
    }

    /// Adds the value of a row as a field of CSV, as PostgreSQL does: nothing for null, and quotes around an empty text.
    pub(super) fn csv(&self, row: usize, out: &mut String) {
        let from = out.len();
        let shape = self.text(row, out);
        csv_field(shape, out, from);
    }
}

/// Puts what stands from there on in the quotes of CSV, if it needs them.
pub(super) fn csv_field(shape: Shape, out: &mut String, from: usize) {
    let text = &out[from..];
    let is_empty_text = shape != Shape::Null && text.is_empty();
    if is_empty_text || text.contains([',', '"', '\n', '\r']) {
        let quoted = text.replace('"', "\"\"");
        out.truncate(from);
        out.extend(["\"", &quoted, "\""]);
    }
}

/// Names as JSON needs them: an object that has a name twice loses a value with many readers. Of several columns of one name
/// the second becomes `name_2`, the third `name_3`, or what is free after it.
pub(super) fn unique_names<'n>(names: impl Iterator<Item = &'n String> + Clone) -> Vec<String> {
    let mut unique: Vec<String> = Vec::new();
    for name in names.clone() {
        let mut wanted = name.clone();
        let mut number = 1;
        // A name that stands alone keeps it: what is made up must give way to it.
        while unique.contains(&wanted) || (number > 1 && names.clone().any(|name| *name == wanted)) {
            number += 1;
            wanted = format!("{name}_{number}");
        }
        unique.push(wanted);
    }
    unique
}

/// Adds a number; infinities and NaN are words.
fn float(value: f64, out: &mut String) -> Shape {
    let _ = write!(out, "{}", Float(value));
    if value.is_finite() { Shape::Bare } else { Shape::Quoted }
}

fn hex(bytes: &[u8], out: &mut String) -> Shape {
    bytes.iter().for_each(|byte| {
        let _ = write!(out, "{byte:02x}");
    });
    Shape::Quoted
}

fn writer(array: &dyn Array) -> Result<Writer<'_>, ArrowError> {
    macro_rules! plain {
        ($array:expr) => {{
            let array = $array;
            Box::new(move |row, out: &mut String| {
                let _ = write!(out, "{}", array.value(row));
                Shape::Bare
            })
        }};
    }
    macro_rules! texts {
        ($array:expr) => {{
            let array = $array;
            Box::new(move |row, out: &mut String| {
                out.push_str(array.value(row));
                Shape::Quoted
            })
        }};
    }
    macro_rules! bytes {
        ($array:expr) => {{
            let array = $array;
            Box::new(move |row, out: &mut String| hex(array.value(row), out))
        }};
    }
    macro_rules! indirect {
        ($array:expr, $at:expr) => {{
            let array = $array;
            let values = Column::new(array.values().as_ref())?;
            Box::new(move |row, out: &mut String| values.text($at(array, row), out))
        }};
    }
    let writer: Writer<'_> = match array.data_type() {
        DataType::Null => Box::new(|_, _| Shape::Null),
        DataType::Boolean => plain!(array.as_boolean()),
        DataType::Int8 => plain!(array.as_primitive::<Int8Type>()),
        DataType::Int16 => plain!(array.as_primitive::<Int16Type>()),
        DataType::Int32 => plain!(array.as_primitive::<Int32Type>()),
        DataType::Int64 => plain!(array.as_primitive::<Int64Type>()),
        DataType::UInt8 => plain!(array.as_primitive::<UInt8Type>()),
        DataType::UInt16 => plain!(array.as_primitive::<UInt16Type>()),
        DataType::UInt32 => plain!(array.as_primitive::<UInt32Type>()),
        DataType::UInt64 => plain!(array.as_primitive::<UInt64Type>()),
        DataType::Float16 => {
            let array = array.as_primitive::<Float16Type>();
            Box::new(move |row, out| small_float(array.value(row).to_f32(), out))
        }
        DataType::Float32 => {
            let array = array.as_primitive::<Float32Type>();
            Box::new(move |row, out| small_float(array.value(row), out))
        }
        DataType::Float64 => {
            let array = array.as_primitive::<Float64Type>();
            Box::new(move |row, out| float(array.value(row), out))
        }
        DataType::Utf8 => texts!(array.as_string::<i32>()),
        DataType::LargeUtf8 => texts!(array.as_string::<i64>()),
        DataType::Utf8View => texts!(array.as_string_view()),
        DataType::Binary => bytes!(array.as_binary::<i32>()),
        DataType::LargeBinary => bytes!(array.as_binary::<i64>()),
        DataType::BinaryView => bytes!(array.as_binary_view()),
        DataType::FixedSizeBinary(_) => bytes!(array.as_fixed_size_binary()),
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            shown(array, Shape::Bare)?
        }
        DataType::List(_) => list(array.as_list::<i32>().values(), offsets(array.as_list::<i32>().value_offsets()))?,
        DataType::LargeList(_) => {
            list(array.as_list::<i64>().values(), offsets(array.as_list::<i64>().value_offsets()))?
        }
        DataType::ListView(_) => list_view::<i32>(array)?,
        DataType::LargeListView(_) => list_view::<i64>(array)?,
        DataType::FixedSizeList(..) => {
            let array = array.as_fixed_size_list();
            let length = usize::try_from(array.value_length()).unwrap_or(0);
            list(array.values(), move |row| row * length..(row + 1) * length)?
        }
        DataType::Struct(_) => object(array.as_struct())?,
        DataType::Map(..) => map(array)?,
        DataType::Dictionary(..) => {
            let array = array.as_any_dictionary();
            if array.values().is_empty() {
                return Ok(Box::new(|_, _| Shape::Null));
            }
            let (keys, values) = (array.normalized_keys(), Column::new(array.values().as_ref())?);
            Box::new(move |row, out| values.text(keys[row], out))
        }
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => indirect!(array.as_run::<Int16Type>(), arrow::array::RunArray::get_physical_index),
            DataType::Int32 => indirect!(array.as_run::<Int32Type>(), arrow::array::RunArray::get_physical_index),
            _ => indirect!(array.as_run::<Int64Type>(), arrow::array::RunArray::get_physical_index),
        },
        DataType::Timestamp(..)
        | DataType::Date32
        | DataType::Date64
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Duration(_)
        | DataType::Interval(_) => time::writer(array)?,
        DataType::Union(..) => shown(array, Shape::Quoted)?,
    };
    Ok(writer)
}

/// The shortest text of a number of single precision.
fn small_float(value: f32, out: &mut String) -> Shape {
    if !value.is_finite() {
        return float(f64::from(value), out);
    }
    let _ = write!(out, "{value:?}");
    Shape::Bare
}

/// As Arrow shows it.
fn shown(array: &dyn Array, shape: Shape) -> Result<Writer<'_>, ArrowError> {
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::new().with_display_error(true))?;
    Ok(Box::new(move |row, out| {
        let _ = write!(out, "{}", formatter.value(row));
        shape
    }))
}

fn offsets<O: OffsetSizeTrait>(offsets: &[O]) -> impl Fn(usize) -> std::ops::Range<usize> {
    move |row| offsets[row].as_usize()..offsets[row + 1].as_usize()
}

fn list_view<O: OffsetSizeTrait>(array: &dyn Array) -> Result<Writer<'_>, ArrowError> {
    let array = array.as_list_view::<O>();
    list(array.values(), move |row| {
        let from = array.value_offset(row).as_usize();
        from..from + array.value_size(row).as_usize()
    })
}

fn list<'a>(
    values: &'a ArrayRef,
    range: impl Fn(usize) -> std::ops::Range<usize> + 'a,
) -> Result<Writer<'a>, ArrowError> {
    let values = Column::new(values.as_ref())?;
    Ok(Box::new(move |row, out| {
        out.push('[');
        for (at, item) in range(row).enumerate() {
            if at > 0 {
                out.push(',');
            }
            values.json(item, out);
        }
        out.push(']');
        Shape::Bare
    }))
}

/// Columns with their names in quotes, as members of objects.
pub(super) fn members<'a>(names: &[String], columns: &'a [ArrayRef]) -> Result<Vec<(String, Column<'a>)>, ArrowError> {
    let member = |(name, column): (&String, &'a ArrayRef)| {
        let mut quoted = name.clone();
        quote(&mut quoted, 0);
        Ok((quoted, Column::new(column.as_ref())?))
    };
    names.iter().zip(columns).map(member).collect()
}

/// Adds an object.
pub(super) fn write_object(members: &[(String, Column<'_>)], row: usize, out: &mut String) {
    out.push('{');
    for (at, (name, column)) in members.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(name);
        out.push(':');
        column.json(row, out);
    }
    out.push('}');
}

fn object(array: &StructArray) -> Result<Writer<'_>, ArrowError> {
    let members = members(&unique_names(array.fields().iter().map(|field| field.name())), array.columns())?;
    Ok(Box::new(move |row, out| {
        write_object(&members, row, out);
        Shape::Bare
    }))
}

/// A map is an object where its keys are texts, otherwise a list of keys with their values. Its keys are unique.
fn map(array: &dyn Array) -> Result<Writer<'_>, ArrowError> {
    let array = array.as_map();
    let (keys, values) = (Column::new(array.keys().as_ref())?, Column::new(array.values().as_ref())?);
    let range = offsets(array.value_offsets());
    let is_object = matches!(array.key_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let (opens, between, closes) = if is_object { ("", ":", "") } else { ("{\"key\":", ",\"value\":", "}") };
    Ok(Box::new(move |row, out| {
        out.push(if is_object { '{' } else { '[' });
        for (at, item) in range(row).enumerate() {
            out.push_str(if at > 0 { "," } else { "" });
            out.push_str(opens);
            keys.json(item, out);
            out.push_str(between);
            values.json(item, out);
            out.push_str(closes);
        }
        out.push(if is_object { '}' } else { ']' });
        Shape::Bare
    }))
}

#[cfg(test)]
mod tests;
