//! Taking a pattern apart, and what it must have to name a time.

use super::fields::Part;
use super::{Fraction, Item};

/// What the day of a time follows from; the rest that a pattern has of it is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DateBy {
    /// Seconds since 1970.
    Moment,
    /// Year, month and day.
    Month,
    /// Year and day of the year.
    DayOfYear,
    /// Year, week and weekday of ISO 8601.
    IsoWeek,
    /// Year, week that begins on Sunday, and weekday.
    WeekFromSunday,
    /// Year, week that begins on Monday, and weekday.
    WeekFromMonday,
}

/// The pieces of a pattern.
///
/// # Errors
/// The field that is not known.
pub(super) fn items(pattern: &str) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    // The text of a column is trimmed, too.
    add_items(pattern.trim(), &mut items)?;
    let has_offset = items.contains(&Item::Offset);
    for item in &mut items {
        if let Item::ZoneName { is_only_name } = item {
            *is_only_name = !has_offset;
        }
    }
    // Beside other digits a number has all of its own.
    for at in 0..items.len() {
        let before = at.checked_sub(1).is_some_and(|before| items[before].ends_with_digits());
        let after = items.get(at + 1).is_some_and(Item::begins_with_digits);
        match &mut items[at] {
            Item::Number { is_whole, .. } => *is_whole |= before || after,
            Item::Fraction(Fraction::Exactly(_)) => {}
            item @ (Item::Fraction(_) | Item::Offset | Item::Unix) if after => {
                return Err(format!("{} must not stand before digits, because it takes them", item.name()));
            }
            _ => {}
        }
    }
    Ok(items)
}

fn add_items(pattern: &str, items: &mut Vec<Item>) -> Result<(), String> {
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = rest.trim_start();
            add_space(items);
        } else if let Some(field) = rest.strip_prefix('%') {
            rest = add_field(field, items)?;
        } else {
            let end = rest.find(|c: char| c == '%' || c.is_whitespace()).unwrap_or(rest.len());
            add_text(&rest[..end], items);
            rest = &rest[end..];
        }
    }
    Ok(())
}

fn add_space(items: &mut Vec<Item>) {
    if items.last() != Some(&Item::Space) {
        items.push(Item::Space);
    }
}

fn add_text(text: &str, items: &mut Vec<Item>) {
    match items.last_mut() {
        Some(Item::Text(before)) => before.push_str(text),
        _ => items.push(Item::Text(text.to_owned())),
    }
}

/// Adds what follows a `%`; the pattern behind it.
fn add_field<'p>(field: &'p str, items: &mut Vec<Item>) -> Result<&'p str, String> {
    // How it is written out in strftime: with zeros, blanks, nothing or in capitals. Reading takes all of them.
    let spec = field.trim_start_matches(['-', '_', '0', '^', '#']);
    let after_colons = spec.trim_start_matches(':');
    if after_colons.len() < spec.len() {
        let rest = after_colons.strip_prefix('z').ok_or_else(|| unknown(field))?;
        items.push(Item::Offset);
        return Ok(rest);
    }
    for (written, form) in [
        (".3f", Fraction::Point),
        (".6f", Fraction::Point),
        (".9f", Fraction::Point),
        (".f", Fraction::Point),
        ("3f", Fraction::Exactly(3)),
        ("6f", Fraction::Exactly(6)),
        ("9f", Fraction::Exactly(9)),
        ("f", Fraction::Digits),
    ] {
        if let Some(rest) = spec.strip_prefix(written) {
            items.push(Item::Fraction(form));
            return Ok(rest);
        }
    }
    let name = spec.chars().next().ok_or_else(|| unknown(field))?;
    let rest = &spec[name.len_utf8()..];
    let number = |part, digits| {
        let is_whole =
            matches!(part, Part::Year | Part::IsoYear | Part::Century | Part::ShortYear | Part::ShortIsoYear);
        Item::Number { part, digits, is_whole, is_padded: matches!(name, 'e' | 'k' | 'l') }
    };
    items.push(match name {
        'Y' => number(Part::Year, 4),
        'C' => number(Part::Century, 2),
        'y' => number(Part::ShortYear, 2),
        'm' => number(Part::Month, 2),
        'd' | 'e' => number(Part::Day, 2),
        'j' => number(Part::DayOfYear, 3),
        'U' => number(Part::WeekFromSunday, 2),
        'W' => number(Part::WeekFromMonday, 2),
        'G' => number(Part::IsoYear, 4),
        'g' => number(Part::ShortIsoYear, 2),
        'V' => number(Part::IsoWeek, 2),
        'H' | 'k' => number(Part::Hour, 2),
        'I' | 'l' => number(Part::HalfDayHour, 2),
        'M' => number(Part::Minute, 2),
        'S' => number(Part::Second, 2),
        'u' => Item::WeekdayNumber { sunday: 7 },
        'w' => Item::WeekdayNumber { sunday: 0 },
        'b' | 'B' | 'h' => Item::Month,
        'a' | 'A' => Item::Weekday,
        'p' | 'P' => Item::HalfDay,
        'z' => Item::Offset,
        'Z' => Item::ZoneName { is_only_name: true },
        's' => Item::Unix,
        'n' | 't' => {
            add_space(items);
            return Ok(rest);
        }
        '%' => {
            add_text("%", items);
            return Ok(rest);
        }
        other => {
            let same_as = match other {
                'F' => "%Y-%m-%d",
                'T' | 'X' => "%H:%M:%S",
                'R' => "%H:%M",
                'D' | 'x' => "%m/%d/%y",
                'r' => "%I:%M:%S %p",
                'c' => "%a %b %e %H:%M:%S %Y",
                'v' => "%e-%b-%Y",
                '+' => "%Y-%m-%dT%H:%M:%S%.f%z",
                _ => return Err(unknown(field)),
            };
            add_items(same_as, items)?;
            return Ok(rest);
        }
    });
    Ok(rest)
}

fn unknown(field: &str) -> String {
    let Some(name) = field.chars().next() else {
        return "a % stands at its end; %% is the character itself".to_owned();
    };
    let advice = match name {
        'N' | 'L' | 'q' | 'Q' => "; a fraction of the second is %f, or %.f with a point that may be absent",
        'i' => "; minutes are %M",
        'E' | 'O' => "; forms of other languages are not read",
        _ => "",
    };
    format!("%{name} is no field that is read{advice}")
}

impl Item {
    fn begins_with_digits(&self) -> bool {
        match self {
            Self::Text(text) => text.starts_with(|c: char| c.is_ascii_digit()),
            Self::Number { .. } | Self::WeekdayNumber { .. } | Self::Unix => true,
            Self::Fraction(form) => *form != Fraction::Point,
            _ => false,
        }
    }

    fn ends_with_digits(&self) -> bool {
        match self {
            Self::Text(text) => text.ends_with(|c: char| c.is_ascii_digit()),
            Self::Fraction(_) | Self::Offset => true,
            other => other.begins_with_digits(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Fraction(_) => "a fraction",
            Self::Offset => "%z",
            _ => "%s",
        }
    }

    /// Whether it tells a part.
    fn tells(&self, wanted: Part) -> bool {
        match self {
            Self::Number { part, .. } => *part == wanted,
            Self::WeekdayNumber { .. } | Self::Weekday => wanted == Part::Weekday,
            Self::Month => wanted == Part::Month,
            Self::HalfDay => wanted == Part::HalfDay,
            _ => false,
        }
    }
}

/// How the day follows from a pattern.
///
/// # Errors
/// What is missing, or goes with nothing.
pub(super) fn check(items: &[Item]) -> Result<DateBy, String> {
    let has = |part| items.iter().any(|item| item.tells(part));
    let is_there = |wanted: fn(&Item) -> bool| items.iter().any(wanted);
    if is_there(|item| *item == Item::Unix) {
        let only_beside = items
            .iter()
            .all(|item| matches!(item, Item::Text(_) | Item::Space | Item::Fraction(_) | Item::Offset | Item::Unix));
        return match only_beside {
            true => Ok(DateBy::Moment),
            false => Err("%s is a whole time; nothing but a fraction and an offset can stand beside it".to_owned()),
        };
    }
    time_of_day(has, is_there(|item| matches!(item, Item::Fraction(_))))?;
    let has_year = has(Part::Year) || has(Part::ShortYear);
    let has_iso_year = has(Part::IsoYear) || has(Part::ShortIsoYear);
    let has_week = has(Part::WeekFromMonday) || has(Part::WeekFromSunday);
    Ok(if has_year && has(Part::Month) && has(Part::Day) {
        DateBy::Month
    } else if has_year && has(Part::DayOfYear) {
        DateBy::DayOfYear
    } else if has_iso_year && has(Part::IsoWeek) && has(Part::Weekday) {
        DateBy::IsoWeek
    } else if has_year && has(Part::WeekFromMonday) && has(Part::Weekday) {
        DateBy::WeekFromMonday
    } else if has_year && has(Part::WeekFromSunday) && has(Part::Weekday) {
        DateBy::WeekFromSunday
    } else {
        let advice = match () {
            () if has(Part::IsoWeek) => "the week %V needs its year %G and a weekday (%u or %a)",
            () if has_week => "a week needs its year %Y and a weekday (%u or %a)",
            () if has_iso_year && !has_year => "%G is the year of weeks: it goes with %V and %u; the year is %Y",
            () if has(Part::Month) && has(Part::Day) => "the year is missing (%Y, or %y)",
            () if has_year && has(Part::Month) => "the day is missing (%d)",
            () if has_year && has(Part::Day) => "the month is missing (%m)",
            () => "a date is %Y, %m and %d, or %Y and %j, or %G, %V and %u, or %s",
        };
        return Err(format!("the date is incomplete: {advice}"));
    })
}

/// A time of day has no gaps from the hour on; without any of it, it is midnight.
fn time_of_day(has: impl Fn(Part) -> bool, has_fraction: bool) -> Result<(), String> {
    let (hour, half_day_hour, half_day) = (has(Part::Hour), has(Part::HalfDayHour), has(Part::HalfDay));
    let problem = match () {
        () if half_day_hour && !half_day && !hour => {
            "%I is an hour of a clock with twelve hours, and means two times without AM or PM (%p); the hour of the day is %H"
        }
        () if half_day && !half_day_hour && !hour => "%p goes with an hour (%I)",
        () if has(Part::Minute) && !hour && !half_day_hour => {
            "%M are minutes, but there is no hour (%H); the month is %m"
        }
        () if has(Part::Second) && !has(Part::Minute) => "%S are seconds, but there are no minutes (%M)",
        () if has_fraction && !has(Part::Second) => "a fraction (%f) goes with seconds (%S)",
        () => return Ok(()),
    };
    Err(format!("the time is incomplete: {problem}"))
}
