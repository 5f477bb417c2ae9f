//! Times in CSV columns.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use tidegauge_core::time::parse_rfc3339;

/// How a time column is written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum TimeFormat {
    /// ISO 8601, without an offset UTC.
    #[default]
    Iso,
    /// A number of units since 1970; so many nanoseconds each. Fractions are allowed.
    Unix(i64),
    /// A pattern of strftime; without an offset UTC.
    Pattern(String),
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
            Self::Pattern(pattern) => pattern,
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
            pattern if pattern.contains('%') => {
                let items = chrono::format::StrftimeItems::new(pattern);
                if items.into_iter().any(|item| matches!(item, chrono::format::Item::Error)) {
                    return Err(format!("{pattern:?} is no strftime pattern"));
                }
                Ok(Self::Pattern(pattern.to_owned()))
            }
            other => Err(format!(
                "{other:?} is no time format; use iso, unix, unix_ms, unix_us, unix_ns or a strftime pattern such as \
                 \"%d.%m.%Y %H:%M:%S\""
            )),
        }
    }
}

impl TimeFormat {
    /// Reads a time as Unix nanoseconds.
    pub(crate) fn parse(&self, text: &str) -> Option<i64> {
        match self {
            Self::Iso => parse_rfc3339(text),
            Self::Unix(unit_ns) => unix(text, *unit_ns),
            Self::Pattern(pattern) => {
                let offset = DateTime::parse_from_str(text, pattern).map(|time| time.timestamp_nanos_opt());
                let naive = || NaiveDateTime::parse_from_str(text, pattern).map(|t| t.and_utc().timestamp_nanos_opt());
                let date = || {
                    let date = NaiveDate::parse_from_str(text, pattern).ok()?;
                    date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_nanos_opt()
                };
                offset.or_else(|_| naive()).unwrap_or_else(|_| date())
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every format reads the same moment, and none guesses.
    #[test]
    fn all_formats_agree() {
        let moment = 1_772_435_289_500_000_000;
        for (format, text) in [
            ("iso", "2026-03-02T07:08:09.5Z"),
            ("iso", "2026-03-02 08:08:09.5+01:00"),
            ("unix", "1772435289.5"),
            ("unix_ms", "1772435289500"),
            ("unix_us", "1772435289500000.0"),
            ("unix_ns", "1772435289500000000"),
            ("%d.%m.%Y %H:%M:%S%.f", "02.03.2026 07:08:09.5"),
            ("%Y-%m-%dT%H:%M:%S%.f%z", "2026-03-02T09:08:09.5+0200"),
        ] {
            assert_eq!(format.parse::<TimeFormat>().unwrap().parse(text), Some(moment), "{format} {text}");
        }
        assert_eq!("%Y/%m/%d".parse::<TimeFormat>().unwrap().parse("1970/01/02"), Some(86_400_000_000_000));
        assert_eq!("unix".parse::<TimeFormat>().unwrap().parse("-1.25"), Some(-1_250_000_000));
        for (format, text) in [("iso", "1772435289"), ("unix", "1e9"), ("unix", ""), ("unix", "."), ("%Y", "x")] {
            assert_eq!(format.parse::<TimeFormat>().unwrap().parse(text), None, "{format} {text}");
        }
        assert!("yesterday".parse::<TimeFormat>().is_err());
        assert!("%Q".parse::<TimeFormat>().is_err());
    }
}
