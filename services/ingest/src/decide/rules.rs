//! The rules for one event's fields, each with its reason.

use tidegauge_core::ids::{NameError, TenantId, check_text};
use tidegauge_core::limits;
use tidegauge_core::time::{DAY_NS, Day, SECOND_NS, rfc3339};
use tidegauge_proto::convert::time::timestamp_ns;

/// What a request is judged by beside its own bytes.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The tenant of the scope.
    pub tenant: &'a TenantId,
    /// Earliest event time, Unix nanoseconds.
    pub earliest_ns: i64,
    /// Latest event time.
    pub latest_ns: i64,
    /// Secret of this process for the hash tables, so that nobody can prepare collisions.
    pub seed: u64,
}

impl<'a> Rules<'a> {
    /// The rules at a moment.
    pub fn at(tenant: &'a TenantId, now_ns: i64, seed: u64) -> Self {
        let tolerance_ns = limits::FUTURE_TOLERANCE.as_nanos() as i64;
        let latest_ns = now_ns.saturating_add(tolerance_ns);
        Self { tenant, earliest_ns: limits::EVENT_TIME_MIN_NS, latest_ns, seed }
    }
}

/// Why an event is refused, without its index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The field, as in `Event`.
    pub field: String,
    /// Stable word for programs.
    pub reason: &'static str,
    /// The rule and the value.
    pub message: String,
}

impl Refusal {
    fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { field: field.into(), reason, message: message.into() }
    }
}

/// Rule for a text.
#[derive(Clone, Copy, Debug)]
pub struct TextRule {
    field: &'static str,
    bytes_max: usize,
    empty: Option<&'static str>,
    too_long: &'static str,
    character: &'static str,
}

/// Rules for the texts, in the order of the dictionaries: event type, metric name, source, version.
pub const TEXTS: [TextRule; 4] = [
    TextRule {
        field: "event_type",
        bytes_max: limits::EVENT_TYPE_BYTES_MAX,
        empty: Some("EVENT_TYPE_EMPTY"),
        too_long: "EVENT_TYPE_TOO_LONG",
        character: "EVENT_TYPE_CHARACTER",
    },
    TextRule {
        field: "metric_name",
        bytes_max: limits::METRIC_NAME_BYTES_MAX,
        empty: Some("METRIC_NAME_EMPTY"),
        too_long: "METRIC_NAME_TOO_LONG",
        character: "METRIC_NAME_CHARACTER",
    },
    TextRule {
        field: "source",
        bytes_max: limits::SOURCE_BYTES_MAX,
        empty: None,
        too_long: "SOURCE_TOO_LONG",
        character: "SOURCE_CHARACTER",
    },
    TextRule {
        field: "version",
        bytes_max: limits::SOURCE_BYTES_MAX,
        empty: None,
        too_long: "VERSION_TOO_LONG",
        character: "VERSION_CHARACTER",
    },
];

const DIMENSION_KEY: TextRule = TextRule {
    field: "dimensions",
    bytes_max: limits::DIMENSION_KEY_BYTES_MAX,
    empty: Some("DIMENSION_KEY_EMPTY"),
    too_long: "DIMENSION_KEY_TOO_LONG",
    character: "DIMENSION_KEY_CHARACTER",
};

const DIMENSION_VALUE: TextRule = TextRule {
    field: "dimensions",
    bytes_max: limits::DIMENSION_VALUE_BYTES_MAX,
    empty: None,
    too_long: "DIMENSION_VALUE_TOO_LONG",
    character: "DIMENSION_VALUE_CHARACTER",
};

impl TextRule {
    /// Checks a text.
    pub fn check(&self, text: &str) -> Result<(), Refusal> {
        if let ("", Some(reason)) = (text, self.empty) {
            return Err(Refusal::new(self.field, reason, NameError::Empty.to_string()));
        }
        check_text(text, self.bytes_max).map_err(|error| {
            let reason = match error {
                NameError::TooLong { .. } | NameError::Empty => self.too_long,
                NameError::Character { .. } => self.character,
            };
            Refusal::new(self.field, reason, format!("{error}: {}", shown(text)))
        })
    }
}

/// Checks a set of dimensions, of which `sent` were sent. Keys are unique where they come from a map.
pub fn check_dimensions(pairs: &[(&str, &str)], sent: usize) -> Result<(), Refusal> {
    if sent > limits::DIMENSIONS_MAX {
        let message = format!("has {sent} dimensions, at most {} are allowed", limits::DIMENSIONS_MAX);
        return Err(Refusal::new("dimensions", "TOO_MANY_DIMENSIONS", message));
    }
    let named = |refusal: Refusal, key: &str| Refusal { field: format!("dimensions[{}]", cut(key)), ..refusal };
    for (key, value) in pairs {
        DIMENSION_KEY.check(key).map_err(|refusal| named(refusal, key))?;
        DIMENSION_VALUE.check(value).map_err(|refusal| named(refusal, key))?;
    }
    Ok(())
}

/// Checks that no key stands twice in pairs sorted by key.
pub fn check_unique(sorted: &[(&str, &str)]) -> Result<(), Refusal> {
    match sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => {
            let field = format!("dimensions[{}]", cut(pair[0].0));
            Err(Refusal::new(field, "DIMENSION_KEY_TWICE", "stands twice in one set"))
        }
        None => Ok(()),
    }
}

/// Checks a value.
pub fn check_value(value: f64) -> Result<(), Refusal> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Refusal::new("metric_value", "VALUE_NOT_FINITE", format!("{value} is not a finite number")))
}

/// Checks the tenant that an event names. The answer is the same whether or not the named one exists.
pub fn check_tenant(rules: &Rules<'_>, named: &[u8]) -> Result<(), Refusal> {
    if named.is_empty() || named == rules.tenant.as_str().as_bytes() {
        return Ok(());
    }
    let message = "is not the tenant of this request; leave it empty or name the tenant you act for";
    Err(Refusal::new("tenant_id", "TENANT_MISMATCH", message))
}

/// Checks an event time in nanoseconds.
pub fn check_time(rules: &Rules<'_>, time_ns: i64) -> Result<i64, Refusal> {
    if time_ns < rules.earliest_ns {
        let message = format!("{} is before {}", rfc3339(time_ns), rfc3339(rules.earliest_ns));
        return Err(Refusal::new("timestamp", "TIMESTAMP_TOO_EARLY", message));
    }
    if time_ns > rules.latest_ns {
        let message = format!(
            "{} is more than {} minutes ahead of the server's clock",
            rfc3339(time_ns),
            limits::FUTURE_TOLERANCE.as_secs() / 60
        );
        return Err(Refusal::new("timestamp", "TIMESTAMP_IN_FUTURE", message));
    }
    Ok(time_ns)
}

/// Checks an event time as seconds and nanos, and gives it in nanoseconds.
pub fn check_timestamp(rules: &Rules<'_>, timestamp: Option<(i64, i32)>) -> Result<i64, Refusal> {
    let Some((seconds, nanos)) = timestamp else {
        return Err(Refusal::new("timestamp", "TIMESTAMP_MISSING", "is missing"));
    };
    match timestamp_ns(&prost_types::Timestamp { seconds, nanos }) {
        Some(time_ns) => check_time(rules, time_ns),
        None => Err(Refusal::new("timestamp", "TIMESTAMP_OUT_OF_RANGE", out_of_range(seconds, nanos))),
    }
}

fn out_of_range(seconds: i64, nanos: i32) -> String {
    if !(0..SECOND_NS as i32).contains(&nanos) {
        return format!("nanos is {nanos}, but must be from 0 to 999999999");
    }
    // What google.protobuf.Timestamp itself allows; beyond it there is no year to name.
    const YEARS: std::ops::Range<i64> = -62_135_596_800..253_402_300_800;
    if !YEARS.contains(&seconds) {
        return format!("{seconds} seconds are outside the years 1 to 9999");
    }
    let (year, month, day) = Day(seconds.div_euclid(DAY_NS / SECOND_NS)).civil();
    format!(
        "{year:04}-{month:02}-{day:02} is in the year {year}, outside the years 1677 to 2262 that nanoseconds can express"
    )
}

/// A text for a message: quoted, escaped, at most some 64 characters of it.
fn shown(text: &str) -> String {
    format!("{:?}", cut(text))
}

fn cut(text: &str) -> String {
    const CHARACTERS: usize = 64;
    let mut kept: String = text.chars().take(CHARACTERS).map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    if kept.len() < text.len() {
        kept.push('…');
    }
    kept
}
