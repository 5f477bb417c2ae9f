//! Says why a line is no event, in words about its fields and values. Only lines that the JSON libraries have refused come
//! here, so it is written for its messages, not for speed: it walks the line once and stops at the first thing that is
//! wrong, as a reader would.

use serde::de::IgnoredAny;

use super::refusal::{Refusal, cut, shown, shown_end};

/// What a member must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Must {
    Text,
    TextOrNull,
    Number,
    Payload,
    Dimensions,
    /// A member that is ignored, but must be JSON.
    Anything,
}

/// Name, what it must be, whether it must be there.
type Member = (&'static str, Must, bool);

const EVENT: [Member; 5] = [
    ("event_type", Must::Text, true),
    ("timestamp", Must::Text, true),
    ("source", Must::TextOrNull, false),
    ("version", Must::TextOrNull, false),
    ("payload", Must::Payload, true),
];

const PAYLOAD: [Member; 4] = [
    ("tenant_id", Must::Text, true),
    ("metric_name", Must::Text, true),
    ("metric_value", Must::Number, true),
    ("dimensions", Must::Dimensions, false),
];

/// Names of members that a message lists.
const NAMES_SHOWN: usize = 8;

/// Why a line is no event; `None` when nothing is found.
pub(crate) fn explain(line: &str) -> Option<Refusal> {
    let mut walk = Walk { line, at: 0 };
    walk.event().err()
}

/// The text of the value in a line that is an event.
pub(crate) fn value_text(line: &str) -> Option<&str> {
    let (mut walk, mut found) = (Walk { line, at: 0 }, None);
    walk.space();
    let walked = walk.object("", |walk, name, _| match &*name {
        "payload" => walk.object("payload", |walk, name, place| {
            let raw = walk.raw(&place)?;
            if name == "metric_value" {
                found = Some(raw);
            }
            Ok(())
        }),
        _ => walk.raw("").map(drop),
    });
    walked.ok().and(found)
}

struct Walk<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    fn event(&mut self) -> Result<(), Refusal> {
        self.space();
        if self.peek() != Some(b'{') {
            return Err(Refusal::line(format!("{} is no JSON object", shown(self.rest().trim_end()))));
        }
        self.members("", &EVENT)?;
        self.space();
        match self.rest() {
            "" => Ok(()),
            rest => Err(Refusal::line(format!("after the event there stands {}", shown(rest)))),
        }
    }

    fn rest(&self) -> &'a str {
        self.line.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.line.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Walks through an object whose brace comes next. `path` is its own, empty for the event.
    fn members(&mut self, path: &str, known: &[Member]) -> Result<(), Refusal> {
        let mut first: Vec<Option<&'a str>> = vec![None; known.len()];
        let mut names = Vec::new();
        self.object(path, |walk, name, place| {
            let at = known.iter().position(|(member, ..)| *member == name);
            if names.len() < NAMES_SHOWN {
                names.push(shown(&name));
            }
            let from = walk.at;
            walk.value(&place, at.map_or(Must::Anything, |at| known[at].1))?;
            let value = &walk.line[from..walk.at];
            match at.and_then(|at| first[at].replace(value)) {
                Some(before) => {
                    let problem = format!("stands twice, as {} and as {}", cut(before), cut(value));
                    Err(Refusal::new(place, "FIELD_TWICE", problem))
                }
                None => Ok(()),
            }
        })?;
        let missing = known.iter().zip(&first).find(|((_, _, required), value)| *required && value.is_none());
        let Some(((name, ..), _)) = missing else { return Ok(()) };
        let object = if path.is_empty() { "the event" } else { path };
        let problem = match &names[..] {
            [] => format!("is missing; {object} is empty"),
            names => format!("is missing; {object} has {}", names.join(", ")),
        };
        Err(Refusal::new(join(path, name), "FIELD_MISSING", problem))
    }

    /// Walks through an object; `member` gets each name and its path, and walks over the value.
    fn object(
        &mut self,
        path: &str,
        mut member: impl FnMut(&mut Self, String, String) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        let mut before = None;
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a name in quotes", path, before.as_deref()));
            }
            let raw = self.raw(path)?;
            let Ok(name) = serde_json::from_str::<String>(raw) else { return Err(bad_text(path, raw)) };
            let place = match path {
                DIMENSIONS => format!("{DIMENSIONS}[{}]", cut(&name)),
                path => join(path, &cut(&name)),
            };
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("a colon", path, Some(&place)));
            }
            self.at += 1;
            self.space();
            member(self, name, place.clone())?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.unexpected("a comma or a closing brace", path, Some(&place))),
            }
            before = Some(place);
        }
    }

    /// Walks over a value and judges it.
    fn value(&mut self, path: &str, must: Must) -> Result<(), Refusal> {
        match (must, self.peek()) {
            (Must::Payload, Some(b'{')) => return self.members(path, &PAYLOAD),
            (Must::Dimensions, Some(b'{')) => {
                return self.object(path, |walk, _, place| walk.value(&place, Must::Text));
            }
            _ => {}
        }
        let raw = self.raw(path)?;
        let kind = Kind::of(raw);
        let rule = match (must, kind) {
            (Must::Anything, _) if serde_json::from_str::<IgnoredAny>(raw).is_ok() => return Ok(()),
            (_, Kind::Other) | (Must::Anything, _) => return Err(no_value(path, raw, must)),
            (Must::Text | Must::TextOrNull | Must::Dimensions, Kind::Text) => {
                return match serde_json::from_str::<String>(raw) {
                    Ok(_) => Ok(()),
                    Err(_) => Err(bad_text(path, raw)),
                };
            }
            (Must::TextOrNull | Must::Dimensions, Kind::Null) => return Ok(()),
            (Must::Number, Kind::Number) => return number(path, raw),
            (Must::Text, _) if path == "timestamp" => "a text with a time such as \"2026-03-02T07:08:09Z\"",
            (Must::Text, _) => "a text",
            (Must::TextOrNull, _) => "a text or null",
            (Must::Number, Kind::Text) => "a number, without quotes",
            (Must::Number, _) => "a number",
            (Must::Payload, _) => "an object",
            (Must::Dimensions, _) => "an object of texts, a text or null",
        };
        let problem = match kind {
            Kind::Null => format!("is null, must be {rule}"),
            kind => format!("{} is {}, must be {rule}", cut(raw), kind.name()),
        };
        Err(Refusal::new(path, "FIELD_TYPE", problem))
    }

    /// The text of the next value, brackets matched and strings closed; what stands in it is not judged.
    fn raw(&mut self, path: &str) -> Result<&'a str, Refusal> {
        let from = self.at;
        let length = match self.peek() {
            Some(b'"') => string_length(self.rest()),
            Some(b'{' | b'[') => nested_length(self.rest()),
            // Goes on to what can follow a value; at the end of the line something is missing anyway.
            _ => self.rest().find([',', '}', ']', ' ', '\t', '\r', '\n', ':']),
        };
        let Some(length) = length else { return Err(self.breaks_off(path)) };
        self.at += length;
        Ok(&self.line[from..self.at])
    }

    fn breaks_off(&self, path: &str) -> Refusal {
        let inside = if path.is_empty() { "the event" } else { path };
        Refusal::line(format!("the line breaks off inside {inside}, with {}", shown_end(self.line.trim_end())))
    }

    fn unexpected(&self, what: &str, path: &str, after: Option<&str>) -> Refusal {
        if self.rest().is_empty() {
            return self.breaks_off(after.unwrap_or(path));
        }
        let place = match (after, path) {
            (Some(after), _) => format!("after {after}"),
            (None, "") => "at the beginning of the event".to_owned(),
            (None, path) => format!("at the beginning of {path}"),
        };
        let column = self.line[..self.at].chars().count() + 1;
        Refusal::line(format!("{what} is missing {place}, there stands {} (column {column})", shown(self.rest())))
    }
}

/// Path of the dimensions.
const DIMENSIONS: &str = "payload.dimensions";

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// What a value is by its first character.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    Number,
    Object,
    List,
    Truth,
    Null,
    Other,
}

impl Kind {
    fn of(raw: &str) -> Self {
        let begins_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        match raw {
            "true" | "false" => Self::Truth,
            "null" => Self::Null,
            _ if raw.starts_with('"') => Self::Text,
            _ if raw.starts_with('{') => Self::Object,
            _ if raw.starts_with('[') => Self::List,
            _ if begins_number(raw.strip_prefix('-').unwrap_or(raw)) => Self::Number,
            _ => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a number",
            Self::Object => "an object",
            Self::List => "a list",
            Self::Truth => "a truth value",
            Self::Null => "null",
            Self::Other => "no value",
        }
    }
}

fn number(path: &str, raw: &str) -> Result<(), Refusal> {
    if serde_json::from_str::<f64>(raw).is_ok() {
        return Ok(());
    }
    // Rust reads every number that JSON has, and gives infinity for one that is too large.
    let reads_as_json = raw.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
    if reads_as_json && raw.parse::<f64>().is_ok_and(f64::is_infinite) {
        let problem = format!("{} is out of range, the largest number is 1.797e308", cut(raw));
        return Err(Refusal::new(path, "NUMBER_OUT_OF_RANGE", problem));
    }
    Err(Refusal::new(path, "FIELD_TYPE", format!("{} is no number of JSON", cut(raw))))
}

fn no_value(path: &str, raw: &str, must: Must) -> Refusal {
    let problem = match (raw, must) {
        ("", _) => "has no value".to_owned(),
        (raw, Must::Number) => format!("{} is no number of JSON", cut(raw)),
        (raw, Must::Text | Must::TextOrNull) => format!("{} is no text, which stands in double quotes", cut(raw)),
        (raw, _) => format!("{} is no value of JSON", cut(raw)),
    };
    Refusal::new(path, "FIELD_TYPE", problem)
}

fn bad_text(path: &str, raw: &str) -> Refusal {
    let problem = format!("{} has an escape or a control character that JSON does not allow", cut(raw));
    match path {
        "" => Refusal::line(problem),
        path => Refusal::new(path, "FIELD_TYPE", problem),
    }
}

/// Bytes up to behind the closing quote of a text that begins with one.
fn string_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}

/// Bytes up to behind the bracket that closes the first one.
fn nested_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += string_length(&text[at..])?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::json::parse;
    use super::super::scan::TimeCache;

    const GOOD: &str = r#"{"event_type":"t","timestamp":"2026-03-02T07:08:09Z","source":"s","version":"1","payload":{"tenant_id":"a","metric_name":"m","metric_value":1.5,"dimensions":{"k":"v"}}}"#;

    /// What is told of a line: the part of the good one replaced by another.
    fn told(part: &str, by: &str) -> String {
        assert_eq!(GOOD.matches(part).count(), 1, "{part}");
        let line = GOOD.replace(part, by);
        parse(&line, &mut TimeCache::default()).expect_err(&line).to_string()
    }

    /// Every error names the field by its path, the value and the rule.
    #[test]
    fn fields_and_values_are_named() {
        assert!(parse(GOOD, &mut TimeCache::default()).is_ok());
        let value = "\"metric_value\":1.5";
        let dimensions = r#"{"k":"v"}"#;
        for (part, by, expected) in [
            // Missing.
            (
                "\"metric_value\":1.5,",
                "",
                r#"payload.metric_value: is missing; payload has "tenant_id", "metric_name", "dimensions""#,
            ),
            ("\"metric_value\"", "\"value\"", "payload.metric_value: is missing; payload has \"tenant_id\""),
            ("\"event_type\":\"t\",", "", "event_type: is missing; the event has \"timestamp\""),
            ("\"payload\"", "\"Payload\"", "payload: is missing; the event has \"event_type\""),
            // Wrong types.
            (
                value,
                "\"metric_value\":\"abc\"",
                "payload.metric_value: \"abc\" is a text, must be a number, without quotes",
            ),
            (value, "\"metric_value\":null", "payload.metric_value: is null, must be a number"),
            (value, "\"metric_value\":[1]", "payload.metric_value: [1] is a list, must be a number"),
            (value, "\"metric_value\":true", "payload.metric_value: true is a truth value, must be a number"),
            ("\"t\"", "7", "event_type: 7 is a number, must be a text"),
            ("\"a\"", "null", "payload.tenant_id: is null, must be a text"),
            ("\"s\"", "{}", "source: {} is an object, must be a text or null"),
            (
                &GOOD[GOOD.find("{\"tenant").unwrap()..GOOD.len() - 1],
                "\"x\"",
                "payload: \"x\" is a text, must be an object",
            ),
            // Numbers.
            (value, "\"metric_value\":NaN", "payload.metric_value: NaN is no number of JSON"),
            (value, "\"metric_value\":-Infinity", "payload.metric_value: -Infinity is no number of JSON"),
            (
                value,
                "\"metric_value\":1,5",
                "a name in quotes is missing after payload.metric_value, there stands \"5,",
            ),
            (value, "\"metric_value\":007", "payload.metric_value: 007 is no number of JSON"),
            (value, "\"metric_value\":1.", "payload.metric_value: 1. is no number of JSON"),
            (value, "\"metric_value\":1e999", "payload.metric_value: 1e999 is out of range"),
            (value, "\"metric_value\":-1e999", "payload.metric_value: -1e999 is out of range"),
            (value, "\"metric_value\":", "payload.metric_value: has no value"),
            // Times.
            (
                "\"2026-03-02T07:08:09Z\"",
                "1772435289",
                "timestamp: 1772435289 is a number, must be a text with a time such as",
            ),
            ("2026-03-02T07:08:09Z", "yesterday", "timestamp: \"yesterday\" is no ISO 8601 time"),
            ("2026-03-02T07:08:09Z", "2026-02-30T07:08:09Z", "timestamp: \"2026-02-30T07:08:09Z\" is no ISO 8601 time"),
            // Dimensions.
            (
                dimensions,
                "[\"k\"]",
                "payload.dimensions: [\"k\"] is a list, must be an object of texts, a text or null",
            ),
            (dimensions, r#"{"k":1}"#, "payload.dimensions[k]: 1 is a number, must be a text"),
            (dimensions, r#"{"k":{"a":"b"}}"#, "payload.dimensions[k]: {\"a\":\"b\"} is an object, must be a text"),
            // Twice.
            (value, "\"metric_value\":1,\"metric_value\":2", "payload.metric_value: stands twice, as 1 and as 2"),
            ("\"s\"", "\"s\",\"source\":\"r\"", "source: stands twice, as \"s\" and as \"r\""),
            (value, r#""metric_value":1,"metric\u005fvalue":2"#, "payload.metric_value: stands twice"),
            // Texts.
            ("\"s\"", "\"\t\"", "source: \"\u{fffd}\" has an escape or a control character"),
            ("\"s\"", "\"\\x41\"", "source: \"\\x41\" has an escape"),
            ("\"s\"", "'s'", "source: 's' is no text, which stands in double quotes"),
            // Syntax.
            ("{\"event_type\"", "[\"event_type\"", "not an event: \"[\\\"event_type\\\":"),
            (
                "\"event_type\":",
                "event_type:",
                "a name in quotes is missing at the beginning of the event, there stands",
            ),
            ("\"t\",", "\"t\"", "a comma or a closing brace is missing after event_type, there stands"),
            ("\"m\",", "\"m\";", "a comma or a closing brace is missing after payload.metric_name, there stands \";"),
            ("\"payload\":", "\"payload\"=", "a colon is missing after payload, there stands \"={"),
            ("\"version\":\"1\",", "\"version\":\"1\",\"x\":[1,],", "x: [1,] is no value of JSON"),
            ("\"v\"}}}", "\"v\"}}} x", "not an event: after the event there stands \"x\""),
        ] {
            let told = told(part, by);
            assert!(told.contains(expected), "{by}:\n  {told}\n  {expected}");
        }
        for (line, expected) in [
            ("nonsense", "not an event: \"nonsense\" is no JSON object"),
            ("{}", "event_type: is missing; the event is empty"),
            ("null", "not an event: \"null\" is no JSON object"),
            ("{\"a\":1}{", "event_type: is missing; the event has \"a\""),
        ] {
            let told = parse(line, &mut TimeCache::default()).unwrap_err().to_string();
            assert_eq!(told, expected);
        }
    }

    /// Wherever a line is cut off, it is told so, in the field where it happened.
    #[test]
    fn truncated_lines_say_where() {
        let mut places = std::collections::BTreeSet::new();
        for length in 1..GOOD.len() {
            let told = parse(&GOOD[..length], &mut TimeCache::default()).unwrap_err().to_string();
            let (_, after) =
                told.split_once("the line breaks off inside ").unwrap_or_else(|| panic!("{length}: {told}"));
            places.insert(after.split(", with").next().unwrap().to_owned());
        }
        for place in ["the event", "timestamp", "payload", "payload.metric_value", "payload.dimensions[k]"] {
            assert!(places.contains(place), "{places:?}");
        }
    }

    /// Long and hostile values stay short and harmless.
    #[test]
    fn values_are_cut() {
        let long = format!("\"metric_value\":\"\u{7f}{}\"", "9".repeat(10_000));
        let told = told("\"metric_value\":1.5", &long);
        assert!(told.len() < 200 && told.contains('…') && !told.chars().any(char::is_control), "{told}");
    }
}
