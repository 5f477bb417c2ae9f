//! What the fields of a pattern take from a text.

use tidegauge_core::time::{HOUR_NS, MINUTE_NS, SECOND_NS};

use super::{Problem, Zone, number};

/// What a field tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Year,
    Century,
    ShortYear,
    Month,
    Day,
    DayOfYear,
    /// 0 is Monday.
    Weekday,
    WeekFromSunday,
    WeekFromMonday,
    IsoYear,
    ShortIsoYear,
    IsoWeek,
    Hour,
    HalfDayHour,
    /// 0 is AM.
    HalfDay,
    Minute,
    Second,
}

/// Number of [`Part`]s.
const PARTS: usize = Part::Second as usize + 1;

/// What a text has told so far.
#[derive(Debug, Default)]
pub(super) struct Parts {
    told: u32,
    values: [i64; PARTS],
    pub(super) fraction_ns: i64,
    pub(super) offset_ns: Option<i64>,
    pub(super) zone: Option<Zone>,
    pub(super) unix_seconds: Option<i64>,
}

impl Parts {
    /// Notes a part; one that was told before must be the same.
    pub(super) fn put(&mut self, part: Part, value: i64) -> Result<(), Problem> {
        let (least, most) = part.range();
        if !(least..=most).contains(&value) {
            return Err(Problem::NoSuchTime);
        }
        match self.get(part).is_some_and(|before| before != value) {
            true => Err(Problem::Contradiction),
            false => {
                self.told |= 1 << part as u32;
                self.values[part as usize] = value;
                Ok(())
            }
        }
    }

    /// A part, if it was told.
    pub(super) fn get(&self, part: Part) -> Option<i64> {
        (self.told & (1 << part as u32) != 0).then_some(self.values[part as usize])
    }

    /// Whether weeks, weekdays or days of the year were told.
    pub(super) fn names_day_otherwise(&self) -> bool {
        use Part::*;
        let parts = [DayOfYear, Weekday, WeekFromSunday, WeekFromMonday, IsoYear, ShortIsoYear, IsoWeek];
        parts.iter().any(|part| self.told & (1 << *part as u32) != 0)
    }
}

impl Part {
    fn range(self) -> (i64, i64) {
        match self {
            Self::Year | Self::IsoYear => (0, 9999),
            Self::Century | Self::ShortYear | Self::ShortIsoYear => (0, 99),
            Self::Month => (1, 12),
            Self::Day => (1, 31),
            Self::DayOfYear => (1, 366),
            Self::Weekday => (0, 6),
            Self::WeekFromSunday | Self::WeekFromMonday => (0, 53),
            Self::IsoWeek => (1, 53),
            Self::Hour => (0, 23),
            Self::HalfDayHour => (1, 12),
            Self::HalfDay => (0, 1),
            Self::Minute => (0, 59),
            Self::Second => (0, 60),
        }
    }
}

/// Letters of a name's short form.
const SHORT: usize = 3;

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

pub(super) const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Takes one of the names, whole or by its first three letters, in any case.
pub(super) fn name<'t>(text: &'t str, names: &[&str]) -> Result<(i64, &'t str), Problem> {
    let begins_with = |name: &str| text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let at = names.iter().position(|name| begins_with(&name[..SHORT])).ok_or(Problem::Form)?;
    let length = if begins_with(names[at]) { names[at].len() } else { SHORT };
    Ok((at as i64, &text[length..]))
}

/// Takes the digits of a fraction, all that stand there or so many; those past nanoseconds are cut.
pub(super) fn fraction<'t>(text: &'t str, count: Option<usize>, parts: &mut Parts) -> Result<&'t str, Problem> {
    let standing = text.bytes().take_while(u8::is_ascii_digit).count();
    let taken = count.unwrap_or(standing);
    if taken == 0 || taken > standing {
        return Err(Problem::Form);
    }
    let (value, used) = number(text, taken.min(9));
    parts.fraction_ns = value * SECOND_NS / 10_i64.pow(used as u32);
    Ok(&text[taken..])
}

/// Takes `Z`, `±hh`, `±hhmm` or `±hh:mm`.
pub(super) fn offset<'t>(text: &'t str, parts: &mut Parts) -> Result<&'t str, Problem> {
    let (offset_ns, rest) = match text.as_bytes() {
        [b'Z' | b'z', ..] => (0, &text[1..]),
        [sign @ (b'+' | b'-'), ..] => {
            let (hours, taken) = number(&text[1..], 2);
            if taken < 2 {
                return Err(Problem::Form);
            }
            let rest = &text[3..];
            let after_colon = rest.strip_prefix(':');
            let (minutes, taken) = number(after_colon.unwrap_or(rest), 2);
            let (minutes, rest) = match (taken, after_colon) {
                (2, Some(after)) => (minutes, &after[2..]),
                (2, None) => (minutes, &rest[2..]),
                (0, None) => (0, rest),
                _ => return Err(Problem::Form),
            };
            if hours > 23 || minutes > 59 {
                return Err(Problem::Offset);
            }
            let offset = hours * HOUR_NS + minutes * MINUTE_NS;
            (if *sign == b'+' { offset } else { -offset }, rest)
        }
        _ => return Err(Problem::Form),
    };
    match parts.offset_ns.replace(offset_ns).is_some_and(|before| before != offset_ns) {
        true => Err(Problem::Contradiction),
        false => Ok(rest),
    }
}

/// Takes the name of a zone.
pub(super) fn zone_name<'t>(text: &'t str, is_only_name: bool, parts: &mut Parts) -> Result<&'t str, Problem> {
    let is_part = |byte: u8| match byte {
        b'/' | b'_' => true,
        // `Etc/GMT+5`, `America/Port-au-Prince`; beside an offset these are its sign and its digits.
        b'0'..=b'9' | b'+' | b'-' => is_only_name,
        letter => letter.is_ascii_alphabetic(),
    };
    let length = text.bytes().take_while(|byte| is_part(*byte)).count();
    let (name, rest) = text.split_at(length);
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return Err(Problem::Form);
    }
    if is_only_name {
        parts.zone = Some(Zone::named(name).ok_or(Problem::ZoneName)?);
    }
    Ok(rest)
}

/// Takes seconds since 1970.
pub(super) fn unix_seconds<'t>(text: &'t str, parts: &mut Parts) -> Result<&'t str, Problem> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let length = text.len() - digits.len() + digits.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(length);
    let seconds = number.parse().map_err(|_| Problem::Form)?;
    match parts.unix_seconds.replace(seconds).is_some_and(|before| before != seconds) {
        true => Err(Problem::Contradiction),
        false => Ok(rest),
    }
}
