//! Event time, windows and the calendar of the lake's paths. Everything is UTC; times are Unix nanoseconds in an i64.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Nanoseconds in one second.
pub const SECOND_NS: i64 = 1_000_000_000;
/// Nanoseconds in one minute.
pub const MINUTE_NS: i64 = 60 * SECOND_NS;
/// Nanoseconds in one hour.
pub const HOUR_NS: i64 = 60 * MINUTE_NS;
/// Nanoseconds in one day.
pub const DAY_NS: i64 = 24 * HOUR_NS;

/// Rounds `time_ns` down to a multiple of `step_ns` (also for times before 1970).
pub const fn floor_ns(time_ns: i64, step_ns: i64) -> i64 {
    time_ns - time_ns.rem_euclid(step_ns)
}

/// Length of a tumbling window; it divides an hour, so that a window never spans two lake objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WindowLength(i64);

impl WindowLength {
    /// One minute, the default.
    pub const MINUTE: Self = Self(MINUTE_NS);

    /// A length in nanoseconds.
    ///
    /// Returns `None` unless it is a whole number of seconds that divides an hour.
    pub fn from_ns(ns: i64) -> Option<Self> {
        (ns > 0 && ns % SECOND_NS == 0 && HOUR_NS % ns == 0).then_some(Self(ns))
    }

    /// The length in nanoseconds.
    pub const fn ns(self) -> i64 {
        self.0
    }

    /// Start of the window that holds `time_ns`: `[start, start + length)`.
    pub const fn start_of(self, time_ns: i64) -> i64 {
        floor_ns(time_ns, self.0)
    }
}

/// One UTC hour: the span of a lake object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hour(pub i64);

impl Hour {
    /// The hour that holds `time_ns`.
    pub const fn of(time_ns: i64) -> Self {
        Self(time_ns.div_euclid(HOUR_NS))
    }

    /// Its start, Unix nanoseconds.
    pub const fn start_ns(self) -> i64 {
        self.0 * HOUR_NS
    }

    /// The UTC day that holds it.
    pub const fn day(self) -> Day {
        Day(self.0.div_euclid(24))
    }

    /// Hour of the day, 0 to 23.
    pub const fn hour_of_day(self) -> u32 {
        self.0.rem_euclid(24) as u32
    }
}

/// One UTC day, counted from 1970-01-01: the span of a hour index object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Day(pub i64);

impl Day {
    /// The day that holds `time_ns`.
    pub const fn of(time_ns: i64) -> Self {
        Self(time_ns.div_euclid(DAY_NS))
    }

    /// Its start, Unix nanoseconds.
    pub const fn start_ns(self) -> i64 {
        self.0 * DAY_NS
    }

    /// Year, month (1 to 12) and day (1 to 31) in the proleptic Gregorian calendar.
    ///
    /// Algorithm: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    pub const fn civil(self) -> (i32, u32, u32) {
        let z = self.0 + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
        let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
        let year = yoe + era * 400 + if month <= 2 { 1 } else { 0 };
        (year as i32, month, day)
    }

    /// The day with this date; `None` if there is none (month 13, 30 February).
    ///
    /// Algorithm: Howard Hinnant, `days_from_civil`; checked by the way back.
    pub fn from_civil(year: i32, month: u32, day: u32) -> Option<Self> {
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let y = i64::from(year) - i64::from(month <= 2);
        let era = y.div_euclid(400);
        let yoe = y.rem_euclid(400);
        let mp = i64::from(if month > 2 { month - 3 } else { month + 9 });
        let doy = (153 * mp + 2) / 5 + i64::from(day) - 1;
        let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
        let found = Self(era * 146_097 + doe - 719_468);
        (found.civil() == (year, month, day)).then_some(found)
    }
}

impl fmt::Debug for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// `2026-03-02T07`.
impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}T{:02}", self.day(), self.hour_of_day())
    }
}

impl fmt::Debug for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// `2026-03-02`.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// Writes Unix nanoseconds as RFC 3339, UTC, with as many fractional digits as needed (none, 3, 6 or 9).
pub fn rfc3339(time_ns: i64) -> String {
    let day = Day::of(time_ns);
    let rest = time_ns.rem_euclid(DAY_NS);
    let (h, m, s, ns) = (rest / HOUR_NS, rest / MINUTE_NS % 60, rest / SECOND_NS % 60, rest % SECOND_NS);
    let head = format!("{day}T{h:02}:{m:02}:{s:02}");
    match ns {
        0 => format!("{head}Z"),
        ns if ns % 1_000_000 == 0 => format!("{head}.{:03}Z", ns / 1_000_000),
        ns if ns % 1_000 == 0 => format!("{head}.{:06}Z", ns / 1_000),
        ns => format!("{head}.{ns:09}Z"),
    }
}

/// Reads an ISO 8601 / RFC 3339 time: `YYYY-MM-DD`, then `T` or a space, `HH:MM[:SS[.fraction]]`, then `Z`, an offset
/// `±HH[:MM]` or nothing (UTC). A date alone is midnight. Returns Unix nanoseconds; digits past nanoseconds are cut.
///
/// A leap second (`23:59:60` before the first of a month, UTC) is the second that follows it, as in Unix time.
///
/// Returns `None` when the text is no such time or lies outside the range of an i64 of nanoseconds.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let time = WallTime::parse_iso(text)?;
    time.at_offset(time.offset_ns.unwrap_or(0))
}

/// A time as it was written: what a clock on the wall shows, and perhaps its offset from UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WallTime {
    /// Nanoseconds since 1970 as the wall clock counts them; second 60 is already the following one.
    pub wall_ns: i128,
    /// Whether second 60 was written.
    pub is_leap: bool,
    /// Offset from UTC, if one was written.
    pub offset_ns: Option<i64>,
}

impl WallTime {
    /// Reads a text as [`parse_rfc3339`] does, but leaves open what a time without an offset means.
    pub fn parse_iso(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, len: usize| -> Option<i64> {
            let digits = bytes.get(from..from + len)?;
            digits.iter().try_fold(0_i64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
        };
        if *bytes.get(4)? != b'-' || *bytes.get(7)? != b'-' {
            return None;
        }
        let day = Day::from_civil(number(0, 4)? as i32, number(5, 2)? as u32, number(8, 2)? as u32)?;
        let midnight = i128::from(day.0) * i128::from(DAY_NS);
        if bytes.len() == 10 {
            return Some(Self { wall_ns: midnight, is_leap: false, offset_ns: None });
        }
        if !matches!(bytes[10], b'T' | b't' | b' ') || *bytes.get(13)? != b':' {
            return None;
        }
        let (hour, minute) = (number(11, 2)?, number(14, 2)?);
        let mut at = 16;
        let mut second = 0;
        let mut fraction_ns = 0;
        if bytes.get(at) == Some(&b':') {
            second = number(at + 1, 2)?;
            at += 3;
            if matches!(bytes.get(at), Some(b'.' | b',')) {
                at += 1;
                let from = at;
                let mut scale = SECOND_NS / 10;
                while let Some(digit) = bytes.get(at).filter(|b| b.is_ascii_digit()) {
                    fraction_ns += i64::from(digit - b'0') * scale;
                    scale /= 10;
                    at += 1;
                }
                if at == from {
                    return None;
                }
            }
        }
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let offset_ns = match bytes.get(at) {
            None => None,
            Some(b'Z' | b'z') if at + 1 == bytes.len() => Some(0),
            Some(sign @ (b'+' | b'-')) => {
                let hours = number(at + 1, 2)?;
                let minutes = match bytes.len() - at {
                    3 => 0,
                    5 => number(at + 3, 2)?,
                    6 if bytes[at + 3] == b':' => number(at + 4, 2)?,
                    _ => return None,
                };
                if hours > 23 || minutes > 59 {
                    return None;
                }
                Some((if *sign == b'+' { 1 } else { -1 }) * (hours * HOUR_NS + minutes * MINUTE_NS))
            }
            Some(_) => return None,
        };
        let in_day = hour * HOUR_NS + minute * MINUTE_NS + second * SECOND_NS + fraction_ns;
        Some(Self { wall_ns: midnight + i128::from(in_day), is_leap: second == 60, offset_ns })
    }

    /// The moment at which a clock of this offset shows the time, Unix nanoseconds.
    ///
    /// `None` outside the range of an i64 of nanoseconds, and for a second 60 that no leap second can be: UTC inserts them
    /// at the end of a month.
    pub fn at_offset(self, offset_ns: i64) -> Option<i64> {
        let time = i64::try_from(self.wall_ns - i128::from(offset_ns)).ok()?;
        let after_month_end = || Day::of(time).civil().2 == 1 && time.rem_euclid(DAY_NS) < SECOND_NS;
        (!self.is_leap || after_month_end()).then_some(time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times() {
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse_rfc3339("2026-03-02T07:08:09.5+02:00"), parse_rfc3339("2026-03-02 05:08:09.500"));
        assert_eq!(parse_rfc3339("2026-03-02T07:08:09.123456789123Z").map(|t| t % SECOND_NS), Some(123_456_789));
        assert_eq!(Hour::of(1_772_434_800_000_000_000).to_string(), "2026-03-02T07");
        assert_eq!(Day::from_civil(2024, 2, 29).map(|d| d.0), Some(19_782));
        for bad in [
            "",
            "2026",
            "2026-13-01",
            "2026-02-30",
            "2026-03-02T24:00:00Z",
            "2026-03-02T07:08:09.Z",
            "9999-01-01",
            "2026-03-02T07:08:09ZZ",
            "2026-03-02T07:08:09+1",
            "2026-03-02X07:08",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    /// Second 60 is read where UTC may insert one, in any offset, and nowhere else.
    #[test]
    fn leap_seconds_are_the_second_after() {
        let after = parse_rfc3339("2017-01-01T00:00:00Z");
        for leap in ["2016-12-31T23:59:60Z", "2017-01-01T00:59:60+01:00", "2016-12-31 15:59:60-08"] {
            assert_eq!(parse_rfc3339(leap), after, "{leap}");
        }
        assert_eq!(parse_rfc3339("2016-12-31T23:59:60.25Z"), parse_rfc3339("2017-01-01T00:00:00.25Z"));
        for none in
            ["2016-12-30T23:59:60Z", "2016-12-31T22:59:60Z", "2016-12-31T23:59:60+01:00", "2016-12-31T23:59:61Z"]
        {
            assert_eq!(parse_rfc3339(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(time in any::<i64>()) {
            let text = rfc3339(time);
            // The first and last years of the range are not four digits of a positive year: 1677 and 2262 are.
            prop_assert_eq!(parse_rfc3339(&text), Some(time), "{}", text);
        }

        #[test]
        fn a_window_holds_its_time(time in any::<i64>().prop_map(|t| t / 2)) {
            let start = WindowLength::MINUTE.start_of(time);
            prop_assert!(start <= time && time < start + MINUTE_NS && start % MINUTE_NS == 0);
        }
    }
}
