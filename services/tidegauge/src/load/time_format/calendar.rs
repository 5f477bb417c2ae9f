//! Days from what patterns name them by: a day of the year, a week and a weekday.

use tidegauge_core::time::Day;

/// Days since the last Monday.
pub(super) fn weekday(day: Day) -> i64 {
    // 1970-01-01 was a Thursday.
    (day.0 + 3).rem_euclid(7)
}

/// The first day of a year.
fn new_year(year: i32) -> Option<Day> {
    Day::from_civil(year, 1, 1)
}

/// Number of a day in its year, from 1.
pub(super) fn day_of_year(day: Day) -> i64 {
    new_year(day.civil().0).map_or(0, |first| day.0 - first.0 + 1)
}

/// The day with this number in the year.
pub(super) fn from_day_of_year(year: i32, number: i64) -> Option<Day> {
    let day = Day(new_year(year)?.0 + number - 1);
    (number >= 1 && day.civil().0 == year).then_some(day)
}

/// Year and week of a day by ISO 8601: the week belongs to the year of its Thursday.
pub(super) fn iso_week(day: Day) -> (i32, i64) {
    let thursday = Day(day.0 - weekday(day) + 3);
    (thursday.civil().0, (day_of_year(thursday) - 1) / 7 + 1)
}

/// The weekday (0 for Monday) of a week by ISO 8601.
pub(super) fn from_iso_week(year: i32, week: i64, weekday_from_monday: i64) -> Option<Day> {
    // The fourth of January is always in week 1.
    let fourth = Day::from_civil(year, 1, 4)?;
    let day = Day(fourth.0 - weekday(fourth) + (week - 1) * 7 + weekday_from_monday);
    (iso_week(day) == (year, week)).then_some(day)
}

/// Week of a day where weeks begin on a weekday (0 for Monday) and the first one with it is week 1.
pub(super) fn week_from(day: Day, begins: i64) -> i64 {
    let since_begin = (weekday(day) - begins).rem_euclid(7);
    (day_of_year(day) + 6 - since_begin) / 7
}

/// The weekday (0 for Monday) of such a week.
pub(super) fn from_week(year: i32, week: i64, begins: i64, weekday_from_monday: i64) -> Option<Day> {
    let first = new_year(year)?;
    let week_1 = first.0 + (begins - weekday(first)).rem_euclid(7);
    let day = Day(week_1 + (week - 1) * 7 + (weekday_from_monday - begins).rem_euclid(7));
    (day.civil().0 == year).then_some(day)
}
