//! `AT TIME ZONE`.

use std::str::FromStr as _;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array as _, ArrayRef, AsArray as _, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use chrono::{DateTime, LocalResult, NaiveDateTime, Offset as _, TimeDelta, TimeZone};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

/// The function: a timestamp, and a zone as a literal.
///
/// A timestamp without a zone is a local time of the zone. Of a local time that occurs twice, when clocks are set back, it
/// is the later one, in standard time; one that does not occur, when they are set forward, is as much later as the clocks:
/// as in PostgreSQL. A timestamp with a zone is the same instant, shown in the other zone.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct AtTimeZone {
    signature: Signature,
}

impl Default for AtTimeZone {
    fn default() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for AtTimeZone {
    fn name(&self) -> &str {
        super::AT_TIME_ZONE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Err(DataFusionError::Internal("the type depends on the zone".to_owned()))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let zone = args.scalar_arguments.get(1).copied().flatten().and_then(|zone| zone.try_as_str().flatten());
        let Some(zone) = zone else {
            return Err(DataFusionError::Plan("AT TIME ZONE needs the zone as a text literal".to_owned()));
        };
        zone_of(zone)?;
        let unit = match args.arg_fields.first().map(|field| field.data_type()) {
            Some(DataType::Timestamp(unit, _)) => *unit,
            _ => TimeUnit::Nanosecond,
        };
        Ok(Arc::new(Field::new(self.name(), DataType::Timestamp(unit, Some(zone.into())), true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let DataType::Timestamp(unit, Some(zone)) = args.return_field.data_type() else {
            return Err(DataFusionError::Internal("AT TIME ZONE gives a timestamp".to_owned()));
        };
        let Some(time) = args.args.first() else {
            return Err(DataFusionError::Internal("AT TIME ZONE needs a time".to_owned()));
        };
        match time {
            ColumnarValue::Array(times) => Ok(ColumnarValue::Array(shown(times, *unit, zone)?)),
            ColumnarValue::Scalar(time) => {
                let made = shown(&time.to_array()?, *unit, zone)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&made, 0)?))
            }
        }
    }
}

fn zone_of(zone: &str) -> Result<Tz> {
    Tz::from_str(zone).map_err(|_| {
        DataFusionError::Plan(format!("'{zone}' is not a time zone: use a name such as Europe/Berlin, or +01:00"))
    })
}

fn shown(times: &ArrayRef, unit: TimeUnit, zone: &Arc<str>) -> Result<ArrayRef> {
    let wanted = DataType::Timestamp(unit, Some(Arc::clone(zone)));
    if matches!(times.data_type(), DataType::Timestamp(_, Some(_))) {
        return Ok(cast(times, &wanted)?);
    }
    let tz = zone_of(zone)?;
    let times = cast(times, &DataType::Timestamp(unit, None))?;
    Ok(match unit {
        TimeUnit::Second => local::<TimestampSecondType>(&times, 1, &tz)?.with_timezone(Arc::clone(zone)).into_ref(),
        TimeUnit::Millisecond => {
            local::<TimestampMillisecondType>(&times, 1_000, &tz)?.with_timezone(Arc::clone(zone)).into_ref()
        }
        TimeUnit::Microsecond => {
            local::<TimestampMicrosecondType>(&times, 1_000_000, &tz)?.with_timezone(Arc::clone(zone)).into_ref()
        }
        TimeUnit::Nanosecond => {
            local::<TimestampNanosecondType>(&times, 1_000_000_000, &tz)?.with_timezone(Arc::clone(zone)).into_ref()
        }
    })
}

trait IntoRef {
    fn into_ref(self) -> ArrayRef;
}

impl<T: ArrowPrimitiveType> IntoRef for PrimitiveArray<T> {
    fn into_ref(self) -> ArrayRef {
        Arc::new(self)
    }
}

/// Instants of local times, in units of which `per_second` make a second.
fn local<T: ArrowPrimitiveType<Native = i64>>(
    times: &ArrayRef,
    per_second: i64,
    zone: &impl TimeZone,
) -> Result<PrimitiveArray<T>> {
    times.as_primitive::<T>().try_unary(|time| {
        let second = DateTime::from_timestamp(time.div_euclid(per_second), 0).map(|utc| utc.naive_utc());
        second
            .and_then(|local| offset_seconds(local, zone))
            .and_then(|offset| time.checked_sub(offset * per_second))
            .ok_or_else(|| DataFusionError::Execution(format!("the timestamp {time} is out of range for AT TIME ZONE")))
    })
}

/// How far local time is ahead of UTC.
fn offset_seconds(local: NaiveDateTime, zone: &impl TimeZone) -> Option<i64> {
    /// Longest time that clocks were ever set forward, in hours: a day, at the date line.
    const SKIPPED_HOURS_MAX: i64 = 25;
    let seconds = |offset: i32| Some(i64::from(offset));
    match zone.offset_from_local_datetime(&local) {
        LocalResult::Single(offset) => seconds(offset.fix().local_minus_utc()),
        LocalResult::Ambiguous(one, other) => seconds(one.fix().local_minus_utc().min(other.fix().local_minus_utc())),
        // The offset before the change: the result is as much later as the clocks were set forward.
        LocalResult::None => (1..=SKIPPED_HOURS_MAX).find_map(|hours| {
            let before = local.checked_sub_signed(TimeDelta::hours(hours))?;
            zone.offset_from_local_datetime(&before).latest().and_then(|o| seconds(o.fix().local_minus_utc()))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every local quarter of an hour of three years has an instant: the one that a naive search over all instants finds,
    /// the last of them if there are several, and for a skipped one the instant after the change by as much as it was
    /// skipped.
    #[test]
    fn local_times_agree_with_a_search() {
        const QUARTER: i64 = 900;
        for name in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "UTC", "+05:30"] {
            let zone = zone_of(name).expect("a zone");
            let start = DateTime::parse_from_rfc3339("2010-12-28T00:00:00Z").expect("a time").timestamp();
            let mut instants = std::collections::BTreeMap::new();
            for utc in (start..start + 3 * 366 * 86_400).step_by(QUARTER as usize) {
                let at = DateTime::from_timestamp(utc, 0).expect("in range").naive_utc();
                let local = utc + i64::from(zone.offset_from_utc_datetime(&at).fix().local_minus_utc());
                instants.insert(local, utc);
            }
            let first = *instants.keys().next().expect("instants");
            let last = *instants.keys().last().expect("instants");
            for local in (first + 90_000..last).step_by(QUARTER as usize) {
                let naive = DateTime::from_timestamp(local, 0).expect("in range").naive_utc();
                let utc = local - offset_seconds(naive, &zone).expect("an offset");
                let expected = instants.get(&local).copied().unwrap_or_else(|| {
                    let (before, at) = instants.range(..local).next_back().expect("a time before");
                    at + (local - before)
                });
                assert_eq!(utc, expected, "{name} {naive}");
            }
        }
    }
}
