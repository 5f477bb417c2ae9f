//! Times in the columns of tables: which format, and what a time without an offset means.
//!
//! A format is understood before the first row is read, or refused. A row whose time is not wholly understood is refused
//! with what is wrong; nothing is guessed.

mod calendar;
mod pattern;
#[cfg(test)]
mod tests;
mod zone;

use std::fmt;
use std::str::FromStr;

use tidegauge_core::time::WallTime;

use pattern::Pattern;
pub(crate) use zone::{Fold, Zone};

/// How a time column is written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum TimeFormat {
    /// ISO 8601.
    #[default]
    Iso,
    /// A number of units since 1970; so many nanoseconds each. Fractions are allowed.
    Unix(i64),
    /// A pattern of strptime.
    Pattern(Pattern),
}

/// As it is asked for on the command line.
impl fmt::Display for TimeFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iso => "iso",
            Self::Unix(1) => "unix_ns",
            Self::Unix(1_000) => "unix_us",
            Self::Unix(1_000_000) => "unix_ms",
            Self::Unix(_) => "unix",
            Self::Pattern(pattern) => pattern.text(),
        })
    }
}

impl FromStr for TimeFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "iso" | "iso8601" | "rfc3339" => Ok(Self::Iso),
            "unix" | "unix_s" => Ok(Self::Unix(1_000_000_000)),
            "unix_ms" => Ok(Self::Unix(1_000_000)),
            "unix_us" => Ok(Self::Unix(1_000)),
            "unix_ns" => Ok(Self::Unix(1)),
            pattern if pattern.contains('%') => pattern.parse().map(Self::Pattern),
            other => Err(format!(
                "{other:?} is no time format; use iso, unix, unix_ms, unix_us, unix_ns or a strptime pattern such as \
                 \"%d.%m.%Y %H:%M:%S\""
            )),
        }
    }
}

/// Why a text gives no time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Problem {
    /// It is not written in the format.
    Form,
    /// A part is out of its range, or the day is in no calendar.
    NoSuchTime,
    /// Two parts say different things: 3 o'clock and PM with `%H`, a Monday that is none.
    Contradiction,
    /// An offset that no clock has: `+2400`.
    Offset,
    /// The name of a zone that does not say its offset: `CET`, `EST`.
    ZoneName,
    /// A clock in the zone shows this time twice.
    Twice,
    /// No clock in the zone shows this time.
    Never,
    /// A second 60 that no leap second can be.
    LeapSecond,
    /// Outside what nanoseconds since 1970 can count.
    Range,
}

/// Reads the times of a column.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct TimeReader {
    format: TimeFormat,
    /// What a time without an offset means; UTC if nothing.
    zone: Option<Zone>,
    /// Which moment is meant where the clock goes back or forward.
    fold: Option<Fold>,
}

impl TimeReader {
    /// A reader of a format; times without an offset are of the zone.
    ///
    /// # Errors
    /// When the format leaves a zone no meaning, or nothing a fold.
    pub(crate) fn new(format: TimeFormat, zone: Option<Zone>, fold: Option<Fold>) -> Result<Self, String> {
        let (has_moment, names_zones) = match &format {
            TimeFormat::Iso => (false, false),
            TimeFormat::Unix(_) => (true, false),
            TimeFormat::Pattern(pattern) => (pattern.gives_moments(), pattern.names_zones()),
        };
        if zone.is_some() && has_moment {
            return Err(format!("--time-zone does not apply: times of the format {format} are of no zone"));
        }
        if fold.is_some() && (has_moment || zone.is_none()) && !names_zones {
            return Err("--time-fold does not apply: it needs the clock of a zone, which --time-zone names".to_owned());
        }
        Ok(Self { format, zone, fold })
    }

    /// The zone of times without an offset.
    pub(crate) fn zone(&self) -> Option<Zone> {
        self.zone
    }

    /// Reads a time as Unix nanoseconds.
    ///
    /// # Errors
    /// Why it is none.
    #[inline]
    pub(crate) fn parse(&self, text: &str) -> Result<i64, Problem> {
        let (time, zone) = match &self.format {
            TimeFormat::Unix(unit_ns) => return unix(text, *unit_ns).ok_or(Problem::Form),
            TimeFormat::Iso => (WallTime::parse_iso(text).ok_or(Problem::Form)?, None),
            TimeFormat::Pattern(pattern) => pattern.parse(text)?,
        };
        let offset_ns = match (time.offset_ns, zone.or(self.zone)) {
            (Some(offset_ns), _) => offset_ns,
            (None, None) => 0,
            (None, Some(zone)) => zone.offset_ns(time.wall_ns, self.fold)?,
        };
        time.at_offset(offset_ns).ok_or(if time.is_leap { Problem::LeapSecond } else { Problem::Range })
    }

    /// What is wrong with a text that gave no time, for whoever wrote it.
    pub(crate) fn explain(&self, problem: Problem) -> String {
        let format = &self.format;
        match problem {
            Problem::Form => format!("is no time of the format {format}; --time-format names another"),
            Problem::NoSuchTime => format!("is no time that exists, read as {format}"),
            Problem::Contradiction => format!("contradicts itself, read as {format}"),
            Problem::Offset => "has an offset that no clock has: hours are 00 to 23, minutes 00 to 59".to_owned(),
            Problem::ZoneName => "has the name of a zone that does not say which one it is: %Z reads UTC, GMT, Z and names \
                                  such as Europe/Berlin, %z offsets; for another name write it as it stands into the \
                                  pattern, and give --time-zone"
                .to_owned(),
            Problem::Twice => format!(
                "comes twice{}, because the clock goes back; --time-fold earlier or later chooses",
                self.in_zone()
            ),
            Problem::Never => format!(
                "does not exist{}, because the clock goes forward; --time-fold earlier or later chooses",
                self.in_zone()
            ),
            Problem::LeapSecond => {
                "is no leap second: 23:59:60 UTC can only be before the first of a month, and counts as the second after it"
                    .to_owned()
            }
            Problem::Range => "is not between the years 1677 and 2262".to_owned(),
        }
    }

    fn in_zone(&self) -> String {
        self.zone.map(|zone| format!(" in {zone}")).unwrap_or_default()
    }
}

impl fmt::Display for TimeReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.format.fmt(f)
    }
}

/// Reads a decimal number of units exactly; digits past nanoseconds are cut.
fn unix(text: &str, unit_ns: i64) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let mut time_ns = i128::from(whole.parse::<i64>().ok()?) * i128::from(unit_ns);
    let mut scale = unit_ns;
    for digit in fraction.bytes() {
        scale /= 10;
        time_ns += i128::from(digit - b'0') * i128::from(scale);
    }
    i64::try_from(if negative { -time_ns } else { time_ns }).ok()
}
