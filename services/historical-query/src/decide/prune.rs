//! Pruning: which tenants, days and hours a predicate can match at all, decided without reading anything.
//!
//! A predicate is evaluated over *ranges* of its columns ([`Facts`]): what is known of every row of an hour, a day, a
//! month, a year or a tenant. The answer says whether some row *may* satisfy it. Whatever is not understood may be true,
//! so pruning never loses a row.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, Operator, TryCast};
use tidegauge_core::time::{DAY_NS, Day, HOUR_NS, Hour, floor_ns};
use tidegauge_lake::schema;

/// Days that are tried one by one; over it the index is listed.
pub const DAYS_ENUMERATED_MAX: usize = 400;
/// First year with events: earlier times are refused as unset clocks.
const FIRST_YEAR: i32 = 2000;
/// Last year of an i64 of nanoseconds.
const LAST_YEAR: i32 = 2262;

/// What holds for every row in question: inclusive ranges of the partition columns and of `window_start` in
/// nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts<'a> {
    tenant: Option<&'a str>,
    year: (i64, i64),
    month: (i64, i64),
    day: (i64, i64),
    hour: (i64, i64),
    start_ns: (i64, i64),
}

impl<'a> Facts<'a> {
    /// Rows of a tenant.
    pub fn tenant(tenant: &'a str) -> Self {
        Self {
            tenant: Some(tenant),
            year: (i64::MIN, i64::MAX),
            month: (1, 12),
            day: (1, 31),
            hour: (0, 23),
            start_ns: (i64::MIN, i64::MAX),
        }
    }

    /// Rows of a tenant and year.
    fn year(self, year: i32) -> Self {
        let first = Day::from_civil(year, 1, 1).map_or(i64::MIN, day_start);
        let next = Day::from_civil(year + 1, 1, 1).map_or(i64::MAX, day_start);
        Self { year: (year.into(), year.into()), start_ns: (first, next.saturating_sub(1)), ..self }
    }

    /// Of these rows those of a month; they are of its year already.
    fn month_of_year(self, year: i32, month: u32) -> Self {
        let first = Day::from_civil(year, month, 1).map_or(i64::MIN, day_start);
        let next = if month == 12 { Day::from_civil(year + 1, 1, 1) } else { Day::from_civil(year, month + 1, 1) };
        let next = next.map_or(i64::MAX, day_start);
        Self { month: (month.into(), month.into()), start_ns: (first, next.saturating_sub(1)), ..self }
    }

    /// Of these rows those of a day; they are of its month already.
    fn day_of_month(self, day: Day, of_month: u32) -> Self {
        let start = day_start(day);
        let of_month = i64::from(of_month);
        Self { day: (of_month, of_month), start_ns: (start, start.saturating_add(DAY_NS - 1)), ..self }
    }

    /// Rows of a tenant and day.
    pub fn day(self, day: Day) -> Self {
        let (year, month, of_month) = day.civil();
        let month = (month.into(), month.into());
        Self { year: (year.into(), year.into()), month, ..self }.day_of_month(day, of_month)
    }

    /// Rows of a tenant and hour.
    pub fn hour(self, hour: Hour) -> Self {
        let of_day = i64::from(hour.hour_of_day());
        let start = hour.start_ns();
        Self { hour: (of_day, of_day), start_ns: (start, start.saturating_add(HOUR_NS - 1)), ..self.day(hour.day()) }
    }
}

fn day_start(day: Day) -> i64 {
    day.0.saturating_mul(DAY_NS)
}

/// Whether a row with these facts may satisfy all filters.
pub fn may_match(filters: &[Expr], facts: &Facts<'_>) -> bool {
    filters.iter().all(|filter| truth(filter, facts).may_be_true)
}

/// The days up to `last` that the filters can match, where they are few; `None` where they are many and a listing is
/// cheaper.
pub fn days(filters: &[Expr], facts: &Facts<'_>, last: Day) -> Option<Vec<Day>> {
    let mut found = Vec::new();
    for year in FIRST_YEAR..=last.civil().0.min(LAST_YEAR) {
        let of_year = facts.year(year);
        if !may_match(filters, &of_year) {
            continue;
        }
        for month in 1..=12 {
            let of_month = of_year.month_of_year(year, month);
            if !may_match(filters, &of_month) {
                continue;
            }
            let days = (1..=31).filter_map(|of| Some((Day::from_civil(year, month, of)?, of)));
            let wanted = |&(day, of): &(Day, u32)| day <= last && may_match(filters, &of_month.day_of_month(day, of));
            found.extend(days.filter(wanted).map(|(day, _)| day));
            if found.len() > DAYS_ENUMERATED_MAX {
                return None;
            }
        }
    }
    Some(found)
}

/// What a predicate can be. Neither: it is null for every row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Truth {
    may_be_true: bool,
    may_be_false: bool,
}

const UNKNOWN: Truth = Truth { may_be_true: true, may_be_false: true };
const NULL: Truth = Truth { may_be_true: false, may_be_false: false };

impl Truth {
    fn and(self, other: Self) -> Self {
        Self {
            may_be_true: self.may_be_true && other.may_be_true,
            may_be_false: self.may_be_false || other.may_be_false,
        }
    }

    fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }

    fn not(self) -> Self {
        Self { may_be_true: self.may_be_false, may_be_false: self.may_be_true }
    }
}

fn truth(expr: &Expr, facts: &Facts<'_>) -> Truth {
    match expr {
        Expr::Literal(ScalarValue::Boolean(Some(value)), _) => Truth { may_be_true: *value, may_be_false: !value },
        Expr::Literal(value, _) if value.is_null() => NULL,
        Expr::Alias(alias) => truth(&alias.expr, facts),
        Expr::Not(inner) => truth(inner, facts).not(),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => truth(left, facts).and(truth(right, facts)),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => truth(left, facts).or(truth(right, facts)),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => compare(value(left, facts), *op, value(right, facts)),
        Expr::Between(Between { expr, negated, low, high }) => {
            let (at, low, high) = (value(expr, facts), value(low, facts), value(high, facts));
            negate_if(*negated, compare(at, Operator::GtEq, low).and(compare(at, Operator::LtEq, high)))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let at = value(expr, facts);
            let never = Truth { may_be_true: false, may_be_false: true };
            let any = list.iter().fold(never, |t, item| t.or(compare(at, Operator::Eq, value(item, facts))));
            negate_if(*negated, any)
        }
        _ => UNKNOWN,
    }
}

fn negate_if(negated: bool, truth: Truth) -> Truth {
    if negated { truth.not() } else { truth }
}

/// What is known of a value.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Known<'a> {
    Nothing,
    Null,
    Text(&'a str),
    /// Inclusive range of integers.
    Integer(i64, i64),
    /// Inclusive range of times, Unix nanoseconds; a date is its midnight.
    Time(i64, i64),
}

fn value<'a>(expr: &'a Expr, facts: &Facts<'a>) -> Known<'a> {
    match expr {
        Expr::Column(column) => match column.name.as_str() {
            schema::TENANT_ID => facts.tenant.map_or(Known::Nothing, Known::Text),
            schema::YEAR => Known::Integer(facts.year.0, facts.year.1),
            schema::MONTH => Known::Integer(facts.month.0, facts.month.1),
            schema::DAY => Known::Integer(facts.day.0, facts.day.1),
            schema::HOUR => Known::Integer(facts.hour.0, facts.hour.1),
            schema::WINDOW_START => Known::Time(facts.start_ns.0, facts.start_ns.1),
            // A window starts inside the hour and is at most an hour long.
            schema::WINDOW_END => Known::Time(facts.start_ns.0, facts.start_ns.1.saturating_add(HOUR_NS)),
            _ => Known::Nothing,
        },
        Expr::Literal(value, _) => literal(value),
        Expr::Alias(alias) => value(&alias.expr, facts),
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
            cast(value(expr, facts), field.data_type())
        }
        _ => Known::Nothing,
    }
}

fn literal(value: &ScalarValue) -> Known<'_> {
    let time = |count: i64, unit_ns: i64| match count.checked_mul(unit_ns) {
        Some(ns) => Known::Time(ns, ns),
        None => Known::Nothing,
    };
    let whole = |n: i64| Known::Integer(n, n);
    match value {
        v if v.is_null() => Known::Null,
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => {
            Known::Text(text)
        }
        ScalarValue::Int8(Some(n)) => whole((*n).into()),
        ScalarValue::Int16(Some(n)) => whole((*n).into()),
        ScalarValue::Int32(Some(n)) => whole((*n).into()),
        ScalarValue::Int64(Some(n)) => whole(*n),
        ScalarValue::UInt8(Some(n)) => whole((*n).into()),
        ScalarValue::UInt16(Some(n)) => whole((*n).into()),
        ScalarValue::UInt32(Some(n)) => whole((*n).into()),
        ScalarValue::UInt64(Some(n)) => i64::try_from(*n).map_or(Known::Nothing, whole),
        ScalarValue::TimestampNanosecond(Some(t), _) => time(*t, 1),
        ScalarValue::TimestampMicrosecond(Some(t), _) => time(*t, 1_000),
        ScalarValue::TimestampMillisecond(Some(t), _) => time(*t, 1_000_000),
        ScalarValue::TimestampSecond(Some(t), _) => time(*t, 1_000_000_000),
        ScalarValue::Date32(Some(days)) => time((*days).into(), DAY_NS),
        _ => Known::Nothing,
    }
}

/// A cast that keeps the order of what is known; any other makes it unknown.
fn cast<'a>(known: Known<'a>, to: &DataType) -> Known<'a> {
    match (known, to) {
        (Known::Null, _) => Known::Null,
        (Known::Integer(low, high), DataType::Int32 | DataType::Int64)
            if (i64::from(i32::MIN)..=i64::from(i32::MAX)).contains(&low)
                && (i64::from(i32::MIN)..=i64::from(i32::MAX)).contains(&high) =>
        {
            known
        }
        (Known::Text(_), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => known,
        // A time zone changes how a time is shown, and for a cast from none how it is read: only its absence is safe.
        (Known::Time(..), DataType::Timestamp(TimeUnit::Nanosecond | TimeUnit::Microsecond, None)) => known,
        (Known::Time(low, high), DataType::Date32) if low > i64::MIN && high < i64::MAX => {
            Known::Time(floor_ns(low.max(i64::MIN + DAY_NS), DAY_NS), floor_ns(high, DAY_NS))
        }
        _ => Known::Nothing,
    }
}

fn compare(left: Known<'_>, op: Operator, right: Known<'_>) -> Truth {
    let ((a, b), (c, d)) = match (left, right) {
        (Known::Null, _) | (_, Known::Null) if is_comparison(op) => return NULL,
        (Known::Text(a), Known::Text(b)) => return exact(op, a.cmp(b)),
        (Known::Integer(a, b), Known::Integer(c, d)) | (Known::Time(a, b), Known::Time(c, d)) => ((a, b), (c, d)),
        _ => return UNKNOWN,
    };
    let equal = Truth { may_be_true: a <= d && c <= b, may_be_false: !(a == b && c == d && a == c) };
    let less = Truth { may_be_true: a < d, may_be_false: b >= c };
    let greater = Truth { may_be_true: b > c, may_be_false: a <= d };
    match op {
        Operator::Eq | Operator::IsNotDistinctFrom => equal,
        Operator::NotEq | Operator::IsDistinctFrom => equal.not(),
        Operator::Lt => less,
        Operator::GtEq => less.not(),
        Operator::Gt => greater,
        Operator::LtEq => greater.not(),
        _ => UNKNOWN,
    }
}

fn is_comparison(op: Operator) -> bool {
    matches!(op, Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq)
}

fn exact(op: Operator, order: std::cmp::Ordering) -> Truth {
    let is = match op {
        Operator::Eq | Operator::IsNotDistinctFrom => order.is_eq(),
        Operator::NotEq | Operator::IsDistinctFrom => order.is_ne(),
        Operator::Lt => order.is_lt(),
        Operator::LtEq => order.is_le(),
        Operator::Gt => order.is_gt(),
        Operator::GtEq => order.is_ge(),
        _ => return UNKNOWN,
    };
    Truth { may_be_true: is, may_be_false: !is }
}

#[cfg(test)]
mod tests;
