//! SQL where the engine alone would answer wrongly: overflow, escapes of LIKE, ORDER BY, local times.

use proptest::prelude::*;
use tidegauge_core::ErrorKind;

use super::world::{World, key};

async fn world() -> World {
    let world = World::new();
    world.fill(&key("a"), 2).await;
    world
}

/// The first column of the answer as texts; `None` for null.
async fn texts(world: &World, sql: &str) -> Vec<Option<String>> {
    let batches = world.query(&["a"], sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let mut texts = Vec::new();
    for batch in batches {
        let column = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).expect("a text");
        let column = arrow::array::AsArray::as_string::<i32>(&column).clone();
        texts.extend(column.iter().map(|text| text.map(str::to_owned)));
    }
    texts
}

/// Proves that integers never wrap around: over columns, in constants, in every clause and over windows.
#[tokio::test]
async fn overflow_is_an_error() {
    let world = world().await;
    for expression in [
        "event_count * 9223372036854775807 * 2",
        "9223372036854775807 + 1",
        "-9223372036854775808 - 1",
        "9223372036854775807 * 9223372036854775807",
        "-(event_count - 9223372036854775807 - 2)",
        "-(-9223372036854775808)",
        "abs(-9223372036854775808)",
        "(-9223372036854775808) / -1",
        "CAST(event_count AS TINYINT) + CAST(127 AS TINYINT)",
        "CAST(127 AS TINYINT) * CAST(127 AS TINYINT)",
        "CAST(32767 AS SMALLINT) + CAST(1 AS SMALLINT)",
        "CAST(2147483647 AS INT) + CAST(event_count AS INT)",
        "CAST(0 AS BIGINT UNSIGNED) - CAST(1 AS BIGINT UNSIGNED)",
        "CAST(3e10 AS INT)",
        "SUM(event_count * 9223372036854775807)",
        "SUM(event_count * 9223372036854775807) OVER (ORDER BY window_start)",
        "CASE WHEN event_count > 0 THEN event_count + 9223372036854775807 ELSE 0 END",
    ] {
        let refused = world.refused(&["a"], &format!("SELECT {expression} FROM dashboard_metrics")).await;
        assert_eq!(refused.kind, ErrorKind::InvalidArgument, "{expression}: {refused:?}");
        let message = refused.message.to_lowercase();
        let names_it = ["overflow", "out of range", "can't cast", "cannot cast", "too large", "range"];
        assert!(names_it.iter().any(|word| message.contains(word)), "{expression}: {}", refused.message);
    }
    let filter = "SELECT COUNT(*) FROM dashboard_metrics WHERE event_count + 9223372036854775807 > 0";
    assert_eq!(world.refused(&["a"], filter).await.kind, ErrorKind::InvalidArgument);
    let sum = "SELECT SUM(x) FROM (VALUES (9223372036854775807), (1)) AS t(x)";
    assert!(world.refused(&["a"], sum).await.message.contains("overflow"));
    // Only the sum itself must fit.
    let sum = "SELECT SUM(x) FROM (VALUES (9223372036854775807), (1), (-1)) AS t(x)";
    assert_eq!(world.number(&["a"], sum).await, i64::MAX);
    assert_eq!(
        texts(&world, "SELECT SUM(x) FROM (SELECT event_count AS x FROM dashboard_metrics LIMIT 0)").await,
        [None]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Proves that `+`, `-`, `*` and SUM agree with wide integers: the exact number or an error, folded or over a column.
    #[test]
    fn integers_agree_with_wide_ones(
        pairs in prop::collection::vec((any::<i64>(), prop_oneof![any::<i64>(), -3_i64..4]), 1..4),
        op in prop::sample::select(vec!["+", "-", "*"]),
        folds in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let exact = |(a, b): &(i64, i64)| {
            let (a, b) = (i128::from(*a), i128::from(*b));
            match op { "+" => a + b, "-" => a - b, _ => a * b }
        };
        let fits = |value: i128| i64::try_from(value).is_ok();
        let rows: Vec<String> = pairs.iter().map(|(a, b)| format!("({a}, {b})")).collect();
        let values = format!("(VALUES {}) AS t(a, b)", rows.join(", "));
        let sql = if folds {
            format!("SELECT {} {op} ({})", pairs[0].0, pairs[0].1)
        } else {
            format!("SELECT MIN(a {op} b) FROM {values}")
        };
        let expected: Option<i128> = if folds {
            Some(exact(&pairs[0])).filter(|value| fits(*value))
        } else {
            let all: Vec<i128> = pairs.iter().map(exact).collect();
            all.iter().all(|value| fits(*value)).then(|| all.iter().copied().min().expect("a pair"))
        };
        runtime.block_on(async {
            let world = World::new();
            match (world.query(&["a"], &sql).await, expected) {
                (Ok(batches), Some(value)) => assert_eq!(i128::from(super::world::number(&batches)), value, "{sql}"),
                (Err(error), None) => assert_eq!(error.kind, ErrorKind::InvalidArgument, "{sql}: {error:?}"),
                (answer, expected) => panic!("{sql}: {answer:?}, expected {expected:?}"),
            }
            let sum = pairs.iter().map(|(a, _)| i128::from(*a)).sum::<i128>();
            let sql = format!("SELECT SUM(a) FROM {values}");
            match world.query(&["a"], &sql).await {
                Ok(batches) => assert_eq!(i128::from(super::world::number(&batches)), sum, "{sql}"),
                Err(error) => assert!(!fits(sum) && error.message.contains("overflow"), "{sql}: {error:?}"),
            }
        });
    }
}

/// A matcher that is slow and plain.
fn matches(text: &[char], pattern: &[char], escape: Option<char>) -> Option<bool> {
    let Some((first, rest)) = pattern.split_first() else { return Some(text.is_empty()) };
    if Some(*first) == escape {
        let (literal, rest) = rest.split_first()?;
        return match text.split_first() {
            Some((c, text)) if c == literal => matches(text, rest, escape),
            // The rest must still be a pattern.
            _ => matches(&[], rest, escape).map(|_| false),
        };
    }
    match first {
        '%' => {
            let mut any = false;
            for at in 0..=text.len() {
                any |= matches(&text[at..], rest, escape)?;
            }
            Some(any)
        }
        '_' => match text.split_first() {
            Some((_, text)) => matches(text, rest, escape),
            None => matches(&[], rest, escape).map(|_| false),
        },
        c => match text.split_first() {
            Some((t, text)) if t == c => matches(text, rest, escape),
            _ => matches(&[], rest, escape).map(|_| false),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Proves that LIKE with any escape, the empty one included, is what a plain matcher says; over constants and columns.
    #[test]
    fn like_agrees_with_a_plain_matcher(
        text in "[ab%_!\\\\]{0,5}",
        pattern in "[ab%_!\\\\]{0,5}",
        escape in prop::sample::select(vec![Some('!'), Some('\\'), Some('%'), Some('a'), Some('ß'), None]),
        over_columns in any::<bool>(),
        negated in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        let expected = matches(&chars(&text), &chars(&pattern), escape);
        let like = if negated { "NOT LIKE" } else { "LIKE" };
        let escape = escape.map(String::from).unwrap_or_default();
        let sql = if over_columns {
            format!("SELECT CAST(t {like} p ESCAPE '{escape}' AS BIGINT) FROM (VALUES ('{text}', '{pattern}')) AS v(t, p)")
        } else {
            format!("SELECT CAST('{text}' {like} '{pattern}' ESCAPE '{escape}' AS BIGINT)")
        };
        runtime.block_on(async {
            let world = World::new();
            match (world.query(&["a"], &sql).await, expected) {
                (Ok(batches), Some(found)) => {
                    assert_eq!(super::world::number(&batches) == 1, found != negated, "{sql}");
                }
                (Err(error), None) => assert!(error.message.contains("escape"), "{sql}: {error:?}"),
                // Whether the end of a pattern is looked at depends on the text for some matchers; ours always looks.
                (answer, expected) => panic!("{sql}: {answer:?}, expected {expected:?}"),
            }
        });
    }
}

/// Proves that BI tools' way to find a name with an underscore works, and what is refused.
#[tokio::test]
async fn like_escape_as_tools_write_it() {
    let world = world().await;
    let names = "(VALUES ('c13_total'), ('c13xtotal'), ('C13_TOTAL')) AS t(name)";
    let found = |condition: &str| format!("SELECT name FROM {names} WHERE name {condition} ORDER BY name");
    assert_eq!(texts(&world, &found("LIKE 'c13!_%' ESCAPE '!'")).await, [Some("c13_total".to_owned())]);
    assert_eq!(texts(&world, &found("ILIKE 'c13!_%' ESCAPE '!'")).await.len(), 2);
    assert_eq!(texts(&world, &found("NOT LIKE 'c13!_%' ESCAPE '!'")).await.len(), 2);
    assert_eq!(texts(&world, &found(r"LIKE 'c13\_%'")).await.len(), 1);
    let refused = world.refused(&["a"], &found("LIKE 'c13!_%' ESCAPE '!!'")).await;
    assert!(refused.message.contains("one character"), "{}", refused.message);
}

/// Proves that names in ORDER BY mean what they mean in PostgreSQL: alone a column of the result, in an expression one of
/// the input.
#[tokio::test]
async fn order_by_reads_names_as_postgresql_does() {
    let world = world().await;
    let by_sum = "SELECT metric_name, SUM(event_count) AS event_count FROM dashboard_metrics GROUP BY metric_name
                  ORDER BY SUM(event_count) DESC, metric_name";
    assert_eq!(texts(&world, by_sum).await, [Some("cpu".to_owned()), Some("mem".to_owned())]);
    let values = "(SELECT * FROM (VALUES (1, 'b'), (2, 'a'), (3, 'c')) AS v(event_count, metric_name)) AS dashboard";
    // The result's column, although the input has one of that name.
    let sql = format!("SELECT -event_count AS event_count FROM {values} ORDER BY event_count");
    assert_eq!(texts(&world, &sql).await, ["-3", "-2", "-1"].map(|n| Some(n.to_owned())));
    // The input's column, with a limit, hidden from the result.
    let sql = format!("SELECT -event_count AS event_count FROM {values} ORDER BY event_count + 0 LIMIT 2");
    assert_eq!(texts(&world, &sql).await, ["-1", "-2"].map(|n| Some(n.to_owned())));
    let batches = world.query(&["a"], &sql).await.expect("rows");
    assert_eq!(batches[0].num_columns(), 1);
    assert_eq!(batches[0].schema().field(0).name(), "event_count");
    // An expression that the result has.
    let sql = format!("SELECT DISTINCT abs(event_count) AS event_count FROM {values} ORDER BY abs(event_count) DESC");
    assert_eq!(texts(&world, &sql).await, ["3", "2", "1"].map(|n| Some(n.to_owned())));
    // An alias of its own may stand in an expression.
    let sql = format!("SELECT -event_count AS turned FROM {values} ORDER BY abs(turned)");
    assert_eq!(texts(&world, &sql).await, ["-1", "-2", "-3"].map(|n| Some(n.to_owned())));
}

/// Proves that hours around both changes of clocks stay apart in local time, come back as they were, and that a local time
/// which is skipped or repeated fails no query.
#[tokio::test]
async fn local_times_around_clock_changes() {
    let world = world().await;
    for day in ["2026-03-29", "2026-10-25"] {
        let hours: Vec<String> =
            (-2..4).map(|hour| format!("(TIMESTAMP '{day}T00:00:00' + INTERVAL '{hour} hours')")).collect();
        let values = format!("(VALUES {}) AS t(utc)", hours.join(", "));
        let local = "utc AT TIME ZONE 'UTC' AT TIME ZONE 'Europe/Berlin'";
        let sql = format!("SELECT COUNT(DISTINCT date_trunc('hour', {local})) FROM {values}");
        assert_eq!(world.number(&["a"], &sql).await, 6, "{day}");
        let sql = format!("SELECT COUNT(*) FROM {values} WHERE date_trunc('hour', {local}) = {local}");
        assert_eq!(world.number(&["a"], &sql).await, 6, "{day}");
        let back = format!("SELECT COUNT(*) FROM {values} WHERE ({local}) AT TIME ZONE 'UTC' = utc AT TIME ZONE 'UTC'");
        assert_eq!(world.number(&["a"], &back).await, 6, "{day}");
        let wall: Vec<String> = (0..20)
            .map(|quarter| format!("(TIMESTAMP '{day}T00:00:00' + INTERVAL '{} minutes')", quarter * 15))
            .collect();
        let sql =
            format!("SELECT COUNT(wall AT TIME ZONE 'Europe/Berlin') FROM (VALUES {}) AS t(wall)", wall.join(", "));
        assert_eq!(world.number(&["a"], &sql).await, 20, "{day}");
    }
    let instant = |local: &str| format!("SELECT TIMESTAMP '{local}' AT TIME ZONE 'Europe/Berlin' AT TIME ZONE 'UTC'");
    for (local, utc) in [
        ("2026-03-29T02:30:00", "2026-03-29T01:30:00Z"),
        ("2026-10-25T02:30:00", "2026-10-25T01:30:00Z"),
        ("2026-07-01T12:00:00", "2026-07-01T10:00:00Z"),
    ] {
        assert_eq!(texts(&world, &instant(local)).await, [Some(utc.to_owned())], "{local}");
    }
    let refused = world.refused(&["a"], "SELECT window_start AT TIME ZONE 'Berlin' FROM dashboard_metrics").await;
    assert!(refused.message.contains("Berlin"), "{}", refused.message);
    assert_eq!(refused.kind, ErrorKind::InvalidArgument);
}
