//! Local times: the clocks of the tz database.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Days, MappedLocalTime, NaiveDateTime, Offset as _, TimeZone as _};
use chrono_tz::Tz;
use tidegauge_core::time::SECOND_NS;

use super::Problem;

/// A zone of the tz database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Zone(Tz);

/// Which of the two moments a local time stands for that comes twice, or never: where the clock goes forward, these are the
/// moments that the clocks before and after it give.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Fold {
    /// The first one
    Earlier,
    /// The second one
    Later,
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl FromStr for Zone {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("{text:?} is no zone of the tz database, which has names such as Europe/Berlin, America/New_York and UTC")
        })
    }
}

impl Zone {
    /// A zone that a time names: abbreviations, which several zones share or which mean only half of the year, are none.
    pub(super) fn named(text: &str) -> Option<Self> {
        match text {
            "UTC" | "GMT" | "UT" | "Z" | "z" => Some(Self(Tz::UTC)),
            name if name.contains('/') => name.parse().ok().map(Self),
            _ => None,
        }
    }

    /// Offset from UTC of a clock in the zone that shows this time.
    ///
    /// # Errors
    /// When it shows the time twice or never, and nothing is said about that.
    pub(super) fn offset_ns(self, wall_ns: i128, fold: Option<Fold>) -> Result<i64, Problem> {
        let seconds = wall_ns.div_euclid(i128::from(SECOND_NS));
        let wall = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        let wall = wall.ok_or(Problem::Range)?.naive_utc();
        let (first, second, problem) = match self.0.offset_from_local_datetime(&wall) {
            MappedLocalTime::Single(offset) => return Ok(nanos(offset.fix())),
            MappedLocalTime::Ambiguous(one, other) => (nanos(one.fix()), nanos(other.fix()), Problem::Twice),
            MappedLocalTime::None => {
                let at = |utc: Option<NaiveDateTime>| {
                    utc.map(|utc| nanos(self.0.offset_from_utc_datetime(&utc).fix())).ok_or(Problem::Range)
                };
                // No clock is a day away from UTC: a day on either side is before and after the change.
                let day = Days::new(1);
                (at(wall.checked_sub_days(day))?, at(wall.checked_add_days(day))?, Problem::Never)
            }
        };
        // The larger offset is the earlier moment.
        match fold {
            None => Err(problem),
            Some(Fold::Earlier) => Ok(first.max(second)),
            Some(Fold::Later) => Ok(first.min(second)),
        }
    }
}

fn nanos(offset: chrono::FixedOffset) -> i64 {
    i64::from(offset.local_minus_utc()) * SECOND_NS
}
