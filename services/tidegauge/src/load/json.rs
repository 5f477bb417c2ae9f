//! The general path of NDJSON: any JSON with the members of the event contract, in any order, with any escapes.
//!
//! `{"event_type", "timestamp", "source", "version", "payload": {"tenant_id", "metric_name", "metric_value",
//! "dimensions"}}`. `source`, `version` and `dimensions` may be absent or null; `dimensions` may be an object of strings,
//! or one string, which becomes the dimension `dimensions`. Other members are ignored.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use super::event::{RawDimensions, RawEvent};
use super::explain::{explain, value_text};
use super::refusal::{Refusal, shown};
use super::scan::TimeCache;

/// Openings of objects and lists in a line that the quick library reads: it needs stack for each. The contract nests by three.
const OPENINGS_MAX: usize = 128;

#[derive(Deserialize)]
#[serde(transparent)]
struct Whole<'a> {
    #[serde(borrow, deserialize_with = "object")]
    event: Event<'a>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    event_type: Text<'a>,
    #[serde(borrow)]
    timestamp: Text<'a>,
    #[serde(borrow, default)]
    source: Option<Text<'a>>,
    #[serde(borrow, default)]
    version: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    payload: Payload<'a>,
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    tenant_id: Text<'a>,
    #[serde(borrow)]
    metric_name: Text<'a>,
    metric_value: f64,
    #[serde(borrow, default)]
    dimensions: DimensionsText<'a>,
}

/// Reads a struct from an object alone: serde would take a list of its values, too.
fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Object<D>(D);
    impl<'de, D: Deserializer<'de>> Deserializer<'de> for Object<D> {
        type Error = D::Error;
        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.deserialize_map(visitor)
        }
        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
        }
    }
    T::deserialize(Object(deserializer))
}

/// A string, borrowed where it has no escapes. (`Cow` alone is always owned with serde inside an `Option` or a map.)
#[derive(Default)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(TextVisitor).map(Text)
    }
}

#[derive(Default)]
struct DimensionsText<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'de: 'a, 'a> Deserialize<'de> for DimensionsText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DimensionsVisitor;
        impl<'de> Visitor<'de> for DimensionsVisitor {
            type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings, a string or null")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Vec::new())
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(single(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(single(Cow::Owned(text.to_owned())))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::with_capacity(map.size_hint().unwrap_or(4).min(64));
                while let Some(Text(key)) = map.next_key()? {
                    let Text(value) = map.next_value()?;
                    pairs.push((key, value));
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_any(DimensionsVisitor).map(DimensionsText)
    }
}

fn single(text: Cow<'_, str>) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    if text.is_empty() { Vec::new() } else { vec![(Cow::Borrowed("dimensions"), text)] }
}

/// Reads a line in any JSON form.
///
/// # Errors
/// What is wrong with it: the field, its value and the rule.
pub(crate) fn parse<'a>(line: &'a str, times: &mut TimeCache) -> Result<RawEvent<'a>, Refusal> {
    let (mut whole, is_exact) = match quick(line) {
        Some(whole) => {
            // It loses the sign of some zeros.
            let is_exact = whole.event.payload.metric_value != 0.0 || !may_hold_minus_zero(line);
            (whole, is_exact)
        }
        // The slower parser has the last word; what is told comes from a walk through the line.
        None => match serde_json::from_str::<Whole<'a>>(line) {
            // It rounds some numbers to the wrong side.
            Ok(whole) => (whole, false),
            Err(error) => return Err(explain(line).unwrap_or_else(|| Refusal::line(error.to_string()))),
        },
    };
    if !is_exact && let Some(value) = value_text(line).and_then(|text| text.parse().ok()) {
        whole.event.payload.metric_value = value;
    }
    convert(whole.event, times)
}

/// Whether `-0` stands anywhere in it, other than before a digit, as in dates.
fn may_hold_minus_zero(line: &str) -> bool {
    let line = line.as_bytes();
    memchr::memchr_iter(b'-', line).any(|at| matches!(line[at..], [b'-', b'0', next, ..] if !next.is_ascii_digit()))
}

/// What the quick library reads, where it can be believed: it needs stack for what it ignores, and takes any escape there.
fn quick(line: &str) -> Option<Whole<'_>> {
    let (mut openings, mut has_escapes) = (0, false);
    for at in memchr::memchr3_iter(b'\\', b'[', b'{', line.as_bytes()) {
        match line.as_bytes()[at] {
            b'\\' => has_escapes = true,
            _ => openings += 1,
        }
        if openings > OPENINGS_MAX {
            return None;
        }
    }
    let whole = sonic_rs::from_str(line).ok()?;
    (!has_escapes || serde_json::from_str::<IgnoredAny>(line).is_ok()).then_some(whole)
}

fn convert<'a>(event: Event<'a>, times: &mut TimeCache) -> Result<RawEvent<'a>, Refusal> {
    let time_ns = times.parse(&event.timestamp.0).ok_or_else(|| {
        let problem = format!(
            "{} is no ISO 8601 time between 1677 and 2262, such as \"2026-03-02T07:08:09Z\"",
            shown(&event.timestamp.0)
        );
        Refusal::new("timestamp", "TIMESTAMP_INVALID", problem)
    })?;
    let value = event.payload.metric_value;
    if !value.is_finite() {
        return Err(Refusal::new("payload.metric_value", "NUMBER_OUT_OF_RANGE", format!("{value} is out of range")));
    }
    let pairs = event.payload.dimensions.0;
    Ok(RawEvent {
        tenant: event.payload.tenant_id.0,
        event_type: event.event_type.0,
        source: event.source.unwrap_or_default().0,
        version: event.version.unwrap_or_default().0,
        metric: event.payload.metric_name.0,
        value,
        time_ns,
        dimensions: if pairs.is_empty() { RawDimensions::Absent } else { RawDimensions::Pairs(pairs) },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::load::scan::Scanner;

    /// An event with its dimensions as pairs, for comparison.
    type Flat = (Vec<String>, u64, i64, Vec<(String, String)>);

    fn flat(event: &RawEvent<'_>) -> Flat {
        let texts = [&event.tenant, &event.event_type, &event.source, &event.version, &event.metric];
        let texts = texts.map(|text| text.to_string()).to_vec();
        (texts, (event.value + 0.0).to_bits(), event.time_ns, event.dimensions.pairs())
    }

    /// What serde_json and the standard library's number parser read: the referee.
    fn oracle(line: &str) -> Option<Flat> {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let or_empty = |value: &Value| if value.is_null() { Some(String::new()) } else { text(value) };
        let payload = &value["payload"];
        let texts = vec![
            text(&payload["tenant_id"])?,
            text(&value["event_type"])?,
            or_empty(&value["source"])?,
            or_empty(&value["version"])?,
            text(&payload["metric_name"])?,
        ];
        // The text of the number, because serde_json rounds some of them wrongly.
        let number = number_text(line)?;
        let metric_value: f64 = number.parse().ok().filter(|value: &f64| value.is_finite())?;
        let time = tidegauge_core::time::parse_rfc3339(value["timestamp"].as_str()?)?;
        let pairs = match &payload["dimensions"] {
            Value::Null => Vec::new(),
            Value::String(text) if text.is_empty() => Vec::new(),
            Value::String(text) => vec![("dimensions".to_owned(), text.clone())],
            Value::Object(map) => {
                map.iter().map(|(key, value)| Some((key.clone(), text(value)?))).collect::<Option<_>>()?
            }
            _ => return None,
        };
        Some((texts, (metric_value + 0.0).to_bits(), time, pairs))
    }

    fn number_text(line: &str) -> Option<&str> {
        let (_, after) = line.rsplit_once("\"metric_value\"")?;
        let after = after.trim_start().strip_prefix(':')?.trim_start();
        let end = after.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(after.len());
        Some(&after[..end])
    }

    fn read(line: &str) -> Option<Flat> {
        let mut times = TimeCache::default();
        parse(line, &mut times).ok().map(|event| sorted(flat(&event)))
    }

    fn sorted(mut flat: Flat) -> Flat {
        flat.3.sort();
        flat
    }

    fn check(line: &str) -> Result<(), TestCaseError> {
        // A dimension that stands twice: the referee keeps the last one, both ways keep both, and the chunk refuses them.
        let stands_twice = |flat: &Flat| flat.3.windows(2).any(|pair| pair[0].0 == pair[1].0);
        let expected = match read(line) {
            Some(found) if stands_twice(&found) => Some(found),
            _ => oracle(line).map(sorted),
        };
        prop_assert_eq!(&read(line), &expected, "general path, {}", line);
        if serde_json::from_str::<Whole<'_>>(line).is_err() {
            prop_assert!(explain(line).is_some(), "nothing is told of {}", line);
        }
        let mut scanner = Scanner::default();
        for _ in 0..2 {
            // The second time the minute is remembered.
            // What stands around the line must not matter.
            let around = format!("{{\"}}\n{line}\",}}");
            if let Some(scanned) = scanner.scan(&around, 4..4 + line.len()) {
                prop_assert_eq!(Some(sorted(flat(&scanned.event(&around)))), expected.clone(), "scanner, {}", line);
            }
        }
        Ok(())
    }

    fn line(value: &str, time: &str, gap: &str, dimensions: &str) -> String {
        format!(
            "{{\"event_type\":{gap}\"t\",{gap}\"timestamp\":{gap}\"{time}\",{gap}\"source\":{gap}\"s\",{gap}\"version\"{gap}:\"1\"\
             ,{gap}\"payload\":{gap}{{\"tenant_id\":{gap}\"a\",{gap}\"metric_name\":{gap}\"m\",{gap}\"metric_value\":{gap}{value}\
             {dimensions}}}}}"
        )
    }

    /// The forms that programs write do take the fast path; otherwise the property below would prove nothing.
    #[test]
    fn the_usual_forms_are_scanned() {
        let dimensions = ",\"dimensions\": {\"region\": \"eu\", \"größe\":\"1\"}";
        for (value, gap, dimensions) in
            [("1.5", "", ""), ("-0.25e-3", " ", dimensions), ("12345678901234567890", " ", ",\"dimensions\":{}")]
        {
            let line = line(value, "2026-03-02T07:08:09.25Z", gap, dimensions);
            let mut scanner = Scanner::default();
            assert!(scanner.scan(&line, 0..line.len()).is_some(), "{line}");
            check(&line).unwrap();
        }
        let python = json!({"event_type": "t", "timestamp": "2026-03-02T07:08:09Z", "source": "s", "version": "1",
            "payload": {"tenant_id": "a", "metric_name": "m", "metric_value": 1}});
        check(&python.to_string()).unwrap();
    }

    /// Lines that look right and are not, and lines that look odd and are right.
    #[test]
    fn corner_cases() {
        let good = line("1", "2026-03-02T07:08:09Z", "", "");
        for value in [
            "01",
            "1.",
            ".5",
            "-",
            "+1",
            "1e",
            "1e999",
            "-1e-999",
            "NaN",
            "\"1\"",
            "0",
            "-0",
            "1E+2",
            "1e05",
            "9007199254740993",
            "0.1000000000000000055511151231257827",
            "123456789012345678901234567890e-10",
            "1e23",
            "8.5e-23",
            "null",
        ] {
            check(&line(value, "2026-03-02T07:08:09Z", "", "")).unwrap();
        }
        for time in [
            "2026-03-02T07:08:60Z",
            "2026-03-02T07:08:09.Z",
            "2026-03-02T07:08:09.1234567891Z",
            "2026-03-02",
            "2026-03-02T07:08Z",
            "2026-03-02T07:08:09+01:00",
            "2026-03-02T07:08:9Z",
            "x026-03-02T07:08:09Z",
            "1500-03-02T07:08:09Z",
            "",
        ] {
            check(&line("1", time, " ", "")).unwrap();
        }
        for dimensions in [
            ",\"dimensions\":{\"a\":1}",
            ",\"dimensions\":\"x\"",
            ",\"dimensions\":\"\"",
            ",\"dimensions\":null",
            ",\"dimensions\":[]",
            ",\"dimensions\":{\"a\":\"}\\\"\"}",
            ",\"dimensions\":{\"a\":\"b\",}",
            ",\"x\":1",
            ",",
        ] {
            check(&line("1", "2026-03-02T07:08:09Z", "", dimensions)).unwrap();
        }
        for bad in [
            "",
            "{}",
            "[]",
            "null",
            &good[..good.len() - 1],
            &format!("{good}}}"),
            &format!("{good} "),
            &good.replace("\"s\"", "\"\t\""),
            &good.replace("\"s\"", "\"\\u00e9\\n\""),
            &good.replace("\"s\"", "null"),
            &good.replace("\"s\"", "\"\\ud800\""),
        ] {
            check(bad).unwrap();
        }
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z0-9_.-]{0,20}", any::<String>(), "[\\\\\"\\x00-\\x22é€😀]{0,12}"]
    }

    prop_compose! {
        fn event()(
            texts in proptest::collection::vec(text(), 5),
            value in prop_oneof![any::<f64>().prop_filter("finite", |v| v.is_finite()).prop_map(|v| json!(v)),
                any::<i64>().prop_map(|v| json!(v)), any::<u64>().prop_map(|v| json!(v))],
            time in any::<i64>(),
            dimensions in prop_oneof![Just(Value::Null), text().prop_map(|t| json!(t)),
                proptest::collection::btree_map(text(), text(), 0..5).prop_map(|map| json!(map))],
            absent in any::<[bool; 3]>(),
            extra in proptest::option::of(text()),
            shuffle in any::<u8>(),
        ) -> String {
            let string = |text: &str| json!(text).to_string();
            let mut payload = vec![
                format!("\"tenant_id\": {}", string(&texts[0])),
                format!("\"metric_name\":{}", string(&texts[1])),
                format!("\"metric_value\": {value}"),
            ];
            if !absent[0] {
                payload.push(format!("\"dimensions\": {dimensions}"));
            }
            if shuffle & 1 == 1 {
                let by = usize::from(shuffle >> 1) % payload.len();
                payload.rotate_left(by);
            }
            let mut members = vec![
                format!("\"event_type\": {}", string(&texts[2])),
                format!("\"timestamp\" : \"{}\"", tidegauge_core::time::rfc3339(time)),
            ];
            if !absent[1] {
                members.push(format!("\"source\": {}", string(&texts[3])));
            }
            if !absent[2] {
                members.push(format!("\"version\": {}", string(&texts[4])));
            }
            members.push(format!("\"payload\": {{{}}}", payload.join(", ")));
            if let Some(extra) = extra {
                members.push(format!("\"another\": [{}, {{\"a\": 1}}]", string(&extra)));
            }
            if shuffle & 2 == 2 {
                let by = usize::from(shuffle >> 2) % members.len();
                members.rotate_left(by);
            }
            format!("{{{}}}", members.join(" , "))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Both ways read every valid form as the referee does.
        #[test]
        fn all_forms_are_read_alike(line in event()) {
            check(&line)?;
        }

        /// Damaged lines are refused, or read, alike.
        #[test]
        fn damage_is_seen_alike(at in any::<prop::sample::Index>(), with in prop_oneof!["[ -~]", Just(String::new()), any::<char>().prop_map(String::from)]) {
            let mut text = line("-12.5", "2026-03-02T07:08:09.123Z", "", ",\"dimensions\":{\"a\":\"b\",\"c\":\"d\"}");
            let at = at.index(text.len());
            text.replace_range(at..=at, &with);
            // A key written twice is an error to us and the last one wins for the referee; a renamed optional one is absent.
            prop_assume!(number_text(&text).is_some());
            check(&text)?;
        }
    }
}
