//! Pruning against brute force.

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use tidegauge_core::hot::WindowRow;
use tidegauge_core::ids::{MetricName, TenantId};
use tidegauge_core::time::MINUTE_NS;
use tidegauge_lake::AggregatedRow;

use super::*;

const TENANTS: [&str; 3] = ["a", "b", "tenant-001"];

fn start_of(text: &str) -> i64 {
    tidegauge_core::time::parse_rfc3339(text).expect("a time")
}

/// Hours around the ends of days, months and years, where arithmetic goes wrong.
fn hours() -> Vec<Hour> {
    ["2025-12-31T22:00", "2025-12-31T23:00", "2026-01-01T00:00", "2026-02-28T23:00", "2026-03-01T00:00"]
        .into_iter()
        .chain(["2026-03-02T00:00", "2026-03-02T05:00", "2026-03-02T23:00", "2026-03-03T00:00", "2028-02-29T12:00"])
        .map(|text| Hour::of(start_of(text)))
        .collect()
}

fn batch(tenant: &str, hour: Hour) -> RecordBatch {
    let rows: Vec<_> = [0, 1, 30, 59]
        .map(|minute| AggregatedRow {
            start_ns: hour.start_ns() + minute * MINUTE_NS,
            end_ns: hour.start_ns() + (minute + 1) * MINUTE_NS,
            metric: MetricName::parse("m").expect("a name"),
            row: WindowRow { count: 1, sum: 1.0.into(), min: 1.0, max: 1.0, last: 1.0, last_time_ns: 0, late: 0 },
            revision: 1,
        })
        .into();
    schema::dashboard_batch(&TenantId::parse(tenant).expect("a tenant"), &rows).expect("a batch")
}

fn time_literal() -> impl Strategy<Value = Expr> {
    let hours = hours();
    (prop::sample::select(hours), -90_i64..90, 0..3).prop_map(|(hour, minutes, unit)| {
        let ns = hour.start_ns() + minutes * MINUTE_NS;
        lit(match unit {
            0 => ScalarValue::TimestampMicrosecond(Some(ns / 1_000), None),
            1 => ScalarValue::TimestampNanosecond(Some(ns), None),
            _ => ScalarValue::TimestampSecond(Some(ns / 1_000_000_000), None),
        })
    })
}

fn operator() -> impl Strategy<Value = Operator> {
    prop::sample::select(vec![
        Operator::Eq,
        Operator::NotEq,
        Operator::Lt,
        Operator::LtEq,
        Operator::Gt,
        Operator::GtEq,
    ])
}

/// A comparison on one of the columns that pruning knows, either way round, with casts, nulls, BETWEEN and IN.
fn leaf() -> impl Strategy<Value = Expr> {
    let binary = |left: Expr, op, right: Expr, swapped: bool| {
        let (left, right) = if swapped { (right, left) } else { (left, right) };
        Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
    };
    let number = || {
        prop::sample::select(vec![
            (schema::YEAR, 2025..2029),
            (schema::MONTH, 0..14),
            (schema::DAY, 0..33),
            (schema::HOUR, -1..25),
        ])
        .prop_flat_map(|(name, range)| (Just(name), range.clone(), range))
    };
    let integers =
        (number(), operator(), any::<bool>(), any::<bool>()).prop_map(move |((name, n, _), op, swap, wide)| {
            let column = if wide { datafusion::logical_expr::cast(col(name), DataType::Int64) } else { col(name) };
            let literal = if wide { lit(i64::from(n)) } else { lit(n) };
            binary(column, op, literal, swap)
        });
    let lists = (number(), any::<bool>(), any::<bool>()).prop_map(|((name, a, b), negated, null)| {
        let third = if null { lit(ScalarValue::Int32(None)) } else { lit(b) };
        col(name).in_list(vec![lit(a), lit(b), third], negated)
    });
    let ranges = (number(), any::<bool>()).prop_map(|((name, a, b), negated)| {
        let between = if negated { Expr::not_between } else { Expr::between };
        between(col(name), lit(a), lit(b))
    });
    let tenants = (prop::sample::select(vec!["a", "b", "c", "tenant-001"]), operator(), any::<bool>())
        .prop_map(move |(tenant, op, swap)| binary(col(schema::TENANT_ID), op, lit(tenant), swap));
    let times = (
        prop::sample::select(vec![schema::WINDOW_START, schema::WINDOW_END]),
        operator(),
        time_literal(),
        any::<bool>(),
    )
        .prop_map(move |(name, op, time, swap)| {
            let column = datafusion::logical_expr::cast(col(name), DataType::Timestamp(TimeUnit::Nanosecond, None));
            let time = datafusion::logical_expr::cast(time, DataType::Timestamp(TimeUnit::Nanosecond, None));
            binary(column, op, time, swap)
        });
    let dates = (operator(), 20_400_i32..20_600, any::<bool>()).prop_map(move |(op, day, swap)| {
        let column = datafusion::logical_expr::cast(col(schema::WINDOW_START), DataType::Date32);
        binary(column, op, lit(ScalarValue::Date32(Some(day))), swap)
    });
    let others = prop::sample::select(vec![
        lit(true),
        lit(false),
        lit(ScalarValue::Boolean(None)),
        col(schema::EVENT_COUNT).eq(lit(1_i64)),
        col(schema::HOUR).eq(lit(ScalarValue::Int32(None))),
        col(schema::SKETCH).is_null(),
    ]);
    prop_oneof![4 => integers, 2 => lists, 1 => ranges, 2 => tenants, 3 => times, 1 => dates, 1 => others]
}

fn predicate() -> impl Strategy<Value = Expr> {
    leaf().prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a.and(b)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a.or(b)),
            inner.prop_map(|a| Expr::Not(Box::new(a))),
        ]
    })
}

fn matches(context: &SessionContext, filter: &Expr, batch: &RecordBatch) -> bool {
    let schema = DFSchema::try_from(batch.schema()).expect("a schema");
    let physical = context.create_physical_expr(filter.clone(), &schema).expect("an expression");
    let found: ArrayRef = physical.evaluate(batch).and_then(|v| v.into_array(batch.num_rows())).expect("a value");
    let found = found.as_any().downcast_ref::<BooleanArray>().expect("a boolean");
    found.iter().any(|row| row == Some(true))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Proves that an hour, a day or a tenant with a matching row is never pruned, against evaluation of the same
    /// predicate by the engine on the rows themselves.
    #[test]
    fn pruning_never_loses_a_row(filter in predicate()) {
        let context = SessionContext::new();
        let filters = [filter];
        for tenant in TENANTS {
            let facts = Facts::tenant(tenant);
            let days = days(&filters, &facts, Day::from_civil(2030, 1, 1).expect("a day"));
            for hour in hours() {
                if !matches(&context, &filters[0], &batch(tenant, hour)) {
                    continue;
                }
                prop_assert!(may_match(&filters, &facts), "tenant {tenant}: {}", filters[0]);
                prop_assert!(may_match(&filters, &facts.hour(hour)), "{hour}: {}", filters[0]);
                prop_assert!(days.as_ref().is_none_or(|d| d.contains(&hour.day())), "{hour}: {}", filters[0]);
            }
        }
    }
}

/// Proves that pruning is worth its name on the dashboard query's predicate and on ranges of time: exactly the hours
/// that can match remain, and the days are found without a listing.
#[test]
fn pruning_keeps_only_what_can_match() {
    let last = Day::from_civil(2026, 11, 22).expect("a day");
    let dashboard = [
        col("tenant_id").eq(lit("tenant-001")),
        col("year").eq(lit(2026)),
        col("month").eq(lit(3)),
        col("day").eq(lit(2)),
    ];
    let facts = Facts::tenant("tenant-001");
    assert_eq!(days(&dashboard, &facts, last), Day::from_civil(2026, 3, 2).map(|day| vec![day]));
    assert!(!may_match(&dashboard, &Facts::tenant("a")));
    let kept = hours().into_iter().filter(|hour| may_match(&dashboard, &facts.hour(*hour))).count();
    assert_eq!(kept, 3);

    let since = lit(ScalarValue::TimestampNanosecond(Some(start_of("2026-11-21T10:30:00Z")), None));
    let range = [datafusion::logical_expr::cast(col("window_start"), DataType::Timestamp(TimeUnit::Nanosecond, None))
        .gt_eq(since)];
    assert_eq!(days(&range, &facts, last).map(|days| days.len()), Some(2));
    assert!(!may_match(&range, &facts.hour(Hour::of(start_of("2026-11-21T09:00:00Z")))));
    assert!(may_match(&range, &facts.hour(Hour::of(start_of("2026-11-21T10:00:00Z")))));
    assert_eq!(days(&[], &facts, last), None, "without a predicate the index is listed");
}
