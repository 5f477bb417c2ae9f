//! Times, dates, and spans of time. Every number of a column has a text, also where no calendar reaches.

use std::fmt::Write as _;

use arrow::array::{Array, AsArray as _};
use arrow::datatypes::*;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidegauge_core::time::Day;

use super::{Shape, Writer, shown};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Writes the numbers of an array as they are kept, by the unit of their type.
macro_rules! values {
    ($array:expr, $of:expr, $write:expr, $($unit:ident => $kind:ty),+) => {
        match $of {
            $(TimeUnit::$unit => {
                let (values, per_second) = ($array.as_primitive::<$kind>().values(), per_second(TimeUnit::$unit));
                Box::new(move |row, out: &mut String| {
                    $write(i64::from(values[row]), per_second, out);
                    Shape::Quoted
                })
            })+
            #[allow(unreachable_patterns, reason = "not every type has every unit")]
            unit => return Err(ArrowError::NotYetImplemented(format!("a time of {unit:?}"))),
        }
    };
}

pub(super) fn writer(array: &dyn Array) -> Result<Writer<'_>, ArrowError> {
    let writer: Writer<'_> = match array.data_type() {
        DataType::Timestamp(unit, zone) => {
            let utc: Writer<'_> = values!(array, unit, utc, Second => TimestampSecondType,
                Millisecond => TimestampMillisecondType, Microsecond => TimestampMicrosecondType,
                Nanosecond => TimestampNanosecondType);
            match zone.as_deref() {
                None | Some("UTC" | "+00:00") => utc,
                Some(_) => zoned(array, utc),
            }
        }
        DataType::Date32 => {
            let values = array.as_primitive::<Date32Type>().values();
            Box::new(move |row, out| {
                date(i64::from(values[row]), out);
                Shape::Quoted
            })
        }
        DataType::Date64 => {
            let values = array.as_primitive::<Date64Type>().values();
            Box::new(move |row, out| {
                let milliseconds = values[row];
                date(milliseconds.div_euclid(DAY * 1_000), out);
                if milliseconds.rem_euclid(DAY * 1_000) != 0 {
                    out.push('T');
                    clock(milliseconds.rem_euclid(DAY * 1_000), 1_000, out);
                }
                Shape::Quoted
            })
        }
        DataType::Time32(unit) => {
            values!(array, unit, clock, Second => Time32SecondType, Millisecond => Time32MillisecondType)
        }
        DataType::Time64(unit) => {
            values!(array, unit, clock, Microsecond => Time64MicrosecondType, Nanosecond => Time64NanosecondType)
        }
        DataType::Duration(unit) => {
            values!(array, unit, duration, Second => DurationSecondType, Millisecond => DurationMillisecondType,
                Microsecond => DurationMicrosecondType, Nanosecond => DurationNanosecondType)
        }
        DataType::Interval(IntervalUnit::YearMonth) => {
            let values = array.as_primitive::<IntervalYearMonthType>().values();
            Box::new(move |row, out| {
                let _ = write!(out, "{} mons", values[row]);
                Shape::Quoted
            })
        }
        _ => shown(array, Shape::Quoted)?,
    };
    Ok(writer)
}

/// In the zone of the column, with its offset; in UTC where the zone is not known here, or no calendar reaches.
fn zoned<'a>(array: &'a dyn Array, utc: Writer<'a>) -> Writer<'a> {
    const OPTIONS: FormatOptions<'static> = FormatOptions::new().with_display_error(false);
    let Ok(formatter) = ArrayFormatter::try_new(array, &OPTIONS) else { return utc };
    Box::new(move |row, out| match formatter.value(row).try_to_string() {
        Ok(text) => {
            out.push_str(&text);
            Shape::Quoted
        }
        Err(_) => utc(row, out),
    })
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

fn utc(value: i64, per_second: i64, out: &mut String) {
    let second = value.div_euclid(per_second);
    date(second.div_euclid(DAY), out);
    out.push('T');
    clock(second.rem_euclid(DAY) * per_second + value.rem_euclid(per_second), per_second, out);
    out.push('Z');
}

/// `2026-03-02`; a year beyond four digits has a sign.
fn date(day: i64, out: &mut String) {
    /// The calendar repeats.
    const DAYS_OF_400_YEARS: i64 = 146_097;
    let (year, month, day_of_month) = Day(day.rem_euclid(DAYS_OF_400_YEARS)).civil();
    let year = i64::from(year) + day.div_euclid(DAYS_OF_400_YEARS) * 400;
    let _ = match year {
        0..=9_999 => write!(out, "{year:04}-{month:02}-{day_of_month:02}"),
        _ => write!(out, "{year:+05}-{month:02}-{day_of_month:02}"),
    };
}

/// `07:08:09.125`: a fraction of 3, 6 or 9 digits where there is one.
fn clock(value: i64, per_second: i64, out: &mut String) {
    if value < 0 {
        out.push('-');
    }
    let value = value.unsigned_abs();
    let (second, rest) = (value / per_second as u64, value % per_second as u64);
    let _ = write!(out, "{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60);
    fraction(rest, per_second, out);
}

/// `PT90.5S`, ISO 8601.
fn duration(value: i64, per_second: i64, out: &mut String) {
    if value < 0 {
        out.push('-');
    }
    let value = value.unsigned_abs();
    let _ = write!(out, "PT{}", value / per_second as u64);
    fraction(value % per_second as u64, per_second, out);
    out.push('S');
}

fn fraction(rest: u64, per_second: i64, out: &mut String) {
    let ns = rest * (1_000_000_000 / per_second as u64);
    let _ = match ns {
        0 => Ok(()),
        ns if ns.is_multiple_of(1_000_000) => write!(out, ".{:03}", ns / 1_000_000),
        ns if ns.is_multiple_of(1_000) => write!(out, ".{:06}", ns / 1_000),
        ns => write!(out, ".{ns:09}"),
    };
}
