//! Patterns of strptime, of our own reading: a library that reads what it can and forgets the rest would give rows the wrong
//! time. A pattern is taken apart once; what it has no whole date or time of day for is refused then. Reading a text
//! allocates nothing.

mod fields;
mod plan;

use std::fmt;
use std::str::FromStr;

use tidegauge_core::time::{DAY_NS, Day, HOUR_NS, MINUTE_NS, SECOND_NS, WallTime};

use super::Problem;
use super::calendar;
use super::zone::Zone;
use fields::{Part, Parts};
use plan::DateBy;

/// A pattern that is understood.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: String,
    items: Vec<Item>,
    date: DateBy,
}

/// A piece of a pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Item {
    /// As it stands.
    Text(String),
    /// White space, any amount of it.
    Space,
    /// Digits.
    Number {
        part: Part,
        /// Digits: as many, or fewer where nothing stands beside them that could be taken for them.
        digits: usize,
        is_whole: bool,
        /// Blanks before it are its own.
        is_padded: bool,
    },
    /// Number of a weekday; which one is Sunday. Monday is 1.
    WeekdayNumber { sunday: i64 },
    /// Name of a month, in English.
    Month,
    /// Name of a weekday, in English.
    Weekday,
    /// AM or PM.
    HalfDay,
    /// Fraction of the second.
    Fraction(Fraction),
    /// Offset from UTC.
    Offset,
    /// Name of a zone. Beside an offset it says nothing more.
    ZoneName { is_only_name: bool },
    /// Seconds since 1970.
    Unix,
}

/// How a fraction is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fraction {
    /// A point and digits, or nothing.
    Point,
    /// Digits.
    Digits,
    /// So many digits.
    Exactly(usize),
}

/// The text is all of it.
impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl FromStr for Pattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |problem| format!("{text:?}: {problem}");
        let items = plan::items(text).map_err(refused)?;
        let date = plan::check(&items).map_err(refused)?;
        Ok(Self { text: text.to_owned(), items, date })
    }
}

impl Pattern {
    /// As it was given.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether its times are moments, in whatever zone.
    pub(super) fn gives_moments(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Offset | Item::Unix | Item::ZoneName { .. }))
    }

    /// Whether each of its times names its zone.
    pub(super) fn names_zones(&self) -> bool {
        self.items.contains(&Item::ZoneName { is_only_name: true })
    }

    /// Reads a time, and the zone that it names instead of an offset.
    pub(super) fn parse(&self, text: &str) -> Result<(WallTime, Option<Zone>), Problem> {
        let mut parts = Parts::default();
        let mut rest = text;
        for item in &self.items {
            rest = item.take(rest, &mut parts)?;
        }
        if !rest.is_empty() {
            return Err(Problem::Form);
        }
        let time = match parts.unix_seconds {
            Some(seconds) => {
                // Whether the fraction of a negative number goes up or down, writers do not agree.
                if seconds < 0 && parts.fraction_ns > 0 {
                    return Err(Problem::NoSuchTime);
                }
                let wall_ns = i128::from(seconds) * i128::from(SECOND_NS) + i128::from(parts.fraction_ns);
                WallTime { wall_ns, is_leap: false, offset_ns: Some(0) }
            }
            None => {
                let (in_day, is_leap) = parts.time_of_day()?;
                let wall_ns = i128::from(self.day(&parts)?.0) * i128::from(DAY_NS) + i128::from(in_day);
                WallTime { wall_ns, is_leap, offset_ns: parts.offset_ns }
            }
        };
        Ok((time, parts.zone))
    }

    /// The day; whatever else is said of it must be true.
    fn day(&self, parts: &Parts) -> Result<Day, Problem> {
        let get = |part| parts.get(part).unwrap_or_default();
        let year = parts.year();
        let day = match self.date {
            DateBy::Moment => None,
            DateBy::Month => Day::from_civil(year as i32, get(Part::Month) as u32, get(Part::Day) as u32),
            DateBy::DayOfYear => calendar::from_day_of_year(year as i32, get(Part::DayOfYear)),
            DateBy::IsoWeek => calendar::from_iso_week(parts.iso_year() as i32, get(Part::IsoWeek), get(Part::Weekday)),
            DateBy::WeekFromSunday => {
                calendar::from_week(year as i32, get(Part::WeekFromSunday), SUNDAY, get(Part::Weekday))
            }
            DateBy::WeekFromMonday => {
                calendar::from_week(year as i32, get(Part::WeekFromMonday), MONDAY, get(Part::Weekday))
            }
        };
        let day = day.ok_or(Problem::NoSuchTime)?;
        match parts.agrees_with(day) {
            true => Ok(day),
            false => Err(Problem::Contradiction),
        }
    }
}

/// As [`calendar::weekday`] counts.
const MONDAY: i64 = 0;
const SUNDAY: i64 = 6;

impl Parts {
    /// Years of two digits are 1969 to 2068, as in POSIX.
    fn of_two_digits(short: i64) -> i64 {
        short + if short < 69 { 2000 } else { 1900 }
    }

    fn year(&self) -> i64 {
        let short = self.get(Part::ShortYear);
        match (self.get(Part::Year), self.get(Part::Century), short) {
            (Some(year), ..) => year,
            (None, Some(century), Some(short)) => century * 100 + short,
            (None, _, short) => Self::of_two_digits(short.unwrap_or_default()),
        }
    }

    fn iso_year(&self) -> i64 {
        let short = || Self::of_two_digits(self.get(Part::ShortIsoYear).unwrap_or_default());
        self.get(Part::IsoYear).unwrap_or_else(short)
    }

    /// Nanoseconds since midnight, and whether it is second 60.
    fn time_of_day(&self) -> Result<(i64, bool), Problem> {
        let of_half = match (self.get(Part::HalfDayHour), self.get(Part::HalfDay)) {
            (Some(hour), Some(half)) => Some(hour % 12 + 12 * half),
            _ => None,
        };
        let hour = self.get(Part::Hour).or(of_half).unwrap_or_default();
        let agrees = of_half.is_none_or(|of_half| of_half == hour)
            && self.get(Part::HalfDay).is_none_or(|half| half == hour / 12)
            && self.get(Part::HalfDayHour).is_none_or(|short| short % 12 == hour % 12);
        if !agrees {
            return Err(Problem::Contradiction);
        }
        let (minute, second) = (self.get(Part::Minute).unwrap_or_default(), self.get(Part::Second).unwrap_or_default());
        let in_day = hour * HOUR_NS + minute * MINUTE_NS + second * SECOND_NS + self.fraction_ns;
        Ok((in_day, second == 60))
    }

    fn agrees_with(&self, day: Day) -> bool {
        let (year, month, in_month) = day.civil();
        let year = i64::from(year);
        let is = |part, value: i64| self.get(part).is_none_or(|said| said == value);
        let is_iso = || {
            let (iso_year, week) = calendar::iso_week(day);
            let iso_year = i64::from(iso_year);
            is(Part::IsoYear, iso_year) && is(Part::ShortIsoYear, iso_year % 100) && is(Part::IsoWeek, week)
        };
        is(Part::Year, year)
            && is(Part::Century, year / 100)
            && is(Part::ShortYear, year % 100)
            && is(Part::Month, i64::from(month))
            && is(Part::Day, i64::from(in_month))
            && (!self.names_day_otherwise()
                || (is(Part::DayOfYear, calendar::day_of_year(day))
                    && is(Part::Weekday, calendar::weekday(day))
                    && is(Part::WeekFromSunday, calendar::week_from(day, SUNDAY))
                    && is(Part::WeekFromMonday, calendar::week_from(day, MONDAY))
                    && is_iso()))
    }
}

impl Item {
    /// Takes the piece from the beginning of a text; what is left of it.
    fn take<'t>(&self, text: &'t str, parts: &mut Parts) -> Result<&'t str, Problem> {
        match self {
            Self::Text(expected) => text.strip_prefix(expected.as_str()).ok_or(Problem::Form),
            Self::Space => {
                let rest = text.trim_start();
                if rest.len() < text.len() { Ok(rest) } else { Err(Problem::Form) }
            }
            Self::Number { part, digits, is_whole, is_padded } => {
                let text = if *is_padded { text.trim_start_matches(' ') } else { text };
                let (value, taken) = number(text, *digits);
                if taken == 0 || (*is_whole && taken < *digits) {
                    return Err(Problem::Form);
                }
                parts.put(*part, value)?;
                Ok(&text[taken..])
            }
            Self::WeekdayNumber { sunday } => {
                let (value, taken) = number(text, 1);
                if taken == 0 || !(1..=6).contains(&value) && value != *sunday {
                    return Err(Problem::Form);
                }
                parts.put(Part::Weekday, if value == *sunday { SUNDAY } else { value - 1 })?;
                Ok(&text[taken..])
            }
            Self::Month => {
                let (at, rest) = fields::name(text, &fields::MONTHS)?;
                parts.put(Part::Month, at + 1)?;
                Ok(rest)
            }
            Self::Weekday => {
                let (at, rest) = fields::name(text, &fields::WEEKDAYS)?;
                parts.put(Part::Weekday, at)?;
                Ok(rest)
            }
            Self::HalfDay => {
                let (half, rest) = text.split_at_checked(2).ok_or(Problem::Form)?;
                let at = ["am", "pm"].iter().position(|known| half.eq_ignore_ascii_case(known));
                parts.put(Part::HalfDay, at.ok_or(Problem::Form)? as i64)?;
                Ok(rest)
            }
            Self::Fraction(Fraction::Point) => match text.strip_prefix('.') {
                Some(digits) => fields::fraction(digits, None, parts),
                None => Ok(text),
            },
            Self::Fraction(Fraction::Digits) => fields::fraction(text, None, parts),
            Self::Fraction(Fraction::Exactly(count)) => fields::fraction(text, Some(*count), parts),
            Self::Offset => fields::offset(text, parts),
            Self::ZoneName { is_only_name } => fields::zone_name(text, *is_only_name, parts),
            Self::Unix => fields::unix_seconds(text, parts),
        }
    }
}

/// Reads at most so many digits; their value and number.
fn number(text: &str, digits_max: usize) -> (i64, usize) {
    let digits = text.bytes().take(digits_max).take_while(u8::is_ascii_digit);
    digits.fold((0, 0), |(value, count), digit| (value * 10 + i64::from(digit - b'0'), count + 1))
}
