//! The rules of a line, written down as plainly as they are said: for comparison only.

use tidegauge_client::proto::ingest::v1::Event;
use tidegauge_proto::convert::time::timestamp_ns;

use crate::load::refusal::cut;

/// What becomes of a line.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Verdict {
    /// The event: its texts, its value's bits, its time, and its dimensions in order.
    Taken { texts: [String; 5], value: u64, time_ns: i64, dimensions: Vec<(String, String)> },
    /// The field that is named, empty for none, and all that is told.
    Refused { field: String, told: String },
}

impl Verdict {
    pub(super) fn taken(event: &Event) -> Self {
        let texts = [&event.tenant_id, &event.event_type, &event.source, &event.version, &event.metric_name];
        let mut dimensions: Vec<_> = event.dimensions.clone().into_iter().collect();
        dimensions.sort();
        Self::Taken {
            texts: texts.map(String::clone),
            value: event.metric_value.to_bits(),
            time_ns: event.timestamp.as_ref().and_then(timestamp_ns).unwrap(),
            dimensions,
        }
    }

    fn refused(field: impl Into<String>) -> Self {
        Self::Refused { field: field.into(), told: String::new() }
    }
}

/// Names of a dimension in refusals.
const A_DIMENSION: &str = "payload.dimensions[";

/// Whether a reader says what is expected. Of a text that is no JSON, any field may be named where the damage was found; of
/// several dimensions that are wrong, any.
pub(super) fn agrees(found: Option<&Verdict>, expected: Option<&Verdict>) -> bool {
    match (found, expected) {
        (Some(Verdict::Refused { field: found, .. }), Some(Verdict::Refused { field, told })) => {
            told == NO_JSON || found == field || (found.starts_with(A_DIMENSION) && field.starts_with(A_DIMENSION))
        }
        (found, expected) => found == expected,
    }
}

const NO_JSON: &str = "no JSON";

#[derive(Clone, PartialEq, Debug)]
enum Json {
    Null,
    Truth,
    Number(String),
    /// `None`: half a surrogate pair.
    Text(Option<String>),
    List,
    Object(Vec<(Option<String>, Json)>),
}

/// The verdict; `None` for a blank line.
pub(super) fn read(line: &[u8]) -> Option<Verdict> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let Ok(text) = std::str::from_utf8(line) else { return Some(Verdict::refused("")) };
    let text = text.trim_start_matches('\u{feff}');
    if text.chars().all(|c| matches!(c, ' ' | '\t' | '\r' | '\n' | '\u{c}')) {
        return None;
    }
    let mut json = Parser { text: text.chars().collect(), at: 0 };
    let parsed = json.space().and_then(|()| json.value()).filter(|_| json.at == json.text.len());
    Some(match parsed {
        None => Verdict::Refused { field: String::new(), told: NO_JSON.to_owned() },
        Some(json) => event(&json).unwrap_or_else(Verdict::refused),
    })
}

/// What each member must be, in the order in which they stand; what is missing comes last.
fn event(json: &Json) -> Result<Verdict, String> {
    let Json::Object(members) = json else { return Err(String::new()) };
    let required = ["event_type", "timestamp", "payload"];
    walk("", members, &required, |name, value| match (name, value) {
        ("event_type" | "timestamp", Json::Text(Some(_))) => Ok(()),
        ("source" | "version", Json::Text(Some(_)) | Json::Null) => Ok(()),
        ("payload", Json::Object(members)) => payload(members),
        ("event_type" | "timestamp" | "source" | "version" | "payload", _) => Err(name.to_owned()),
        _ => Ok(()),
    })?;
    let inside = match of(members, "payload") {
        Some(Json::Object(inside)) => inside,
        other => panic!("{other:?}"),
    };
    let text = |members, name| match of(members, name) {
        Some(Json::Text(Some(text))) => text.clone(),
        _ => String::new(),
    };
    let time_ns = time(&text(members, "timestamp")).ok_or("timestamp")?;
    let value: f64 = match of(inside, "metric_value") {
        Some(Json::Number(number)) => number.parse().unwrap(),
        other => panic!("{other:?}"),
    };
    let dimensions = match of(inside, "dimensions") {
        Some(Json::Text(Some(text))) if !text.is_empty() => vec![("dimensions".to_owned(), text.clone())],
        Some(Json::Object(members)) => {
            let text = |json: &Json| if let Json::Text(Some(text)) = json { text.clone() } else { panic!("{json:?}") };
            members.iter().map(|(key, value)| (key.clone().unwrap(), text(value))).collect()
        }
        _ => Vec::new(),
    };
    let tenant = text(inside, "tenant_id");
    let is_tenant = tenant.len() <= 63
        && tenant.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && tenant.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
    if !is_tenant {
        return Err("payload.tenant_id".to_owned());
    }
    let texts = [
        tenant,
        text(members, "event_type"),
        text(members, "source"),
        text(members, "version"),
        text(inside, "metric_name"),
    ];
    for (at, field, may_be_empty) in
        [(1, "event_type", false), (4, "payload.metric_name", false), (2, "source", true), (3, "version", true)]
    {
        if !is_name(&texts[at], 255, may_be_empty) {
            return Err(field.to_owned());
        }
    }
    let mut dimensions = dimensions;
    dimensions.sort();
    if let Some(pair) = dimensions.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("{A_DIMENSION}{}]", cut(&pair[0].0)));
    }
    if dimensions.len() > 64 {
        return Err("payload.dimensions".to_owned());
    }
    for (key, value) in &dimensions {
        if !is_name(key, 128, false) || !is_name(value, 256, true) {
            return Err(format!("{A_DIMENSION}{}]", cut(key)));
        }
    }
    Ok(Verdict::Taken { texts, value: value.to_bits(), time_ns, dimensions })
}

fn payload(members: &[(Option<String>, Json)]) -> Result<(), String> {
    walk("payload.", members, &["tenant_id", "metric_name", "metric_value"], |name, value| match (name, value) {
        ("tenant_id" | "metric_name", Json::Text(Some(_))) => Ok(()),
        ("metric_value", Json::Number(number)) if number.parse::<f64>().is_ok_and(f64::is_finite) => Ok(()),
        ("dimensions", Json::Null | Json::Text(Some(_))) => Ok(()),
        ("dimensions", Json::Object(pairs)) => {
            let wrong = pairs.iter().find(|(key, value)| key.is_none() || !matches!(value, Json::Text(Some(_))));
            match wrong {
                None => Ok(()),
                Some((None, _)) => Err("payload.dimensions".to_owned()),
                Some((Some(key), _)) => Err(format!("{A_DIMENSION}{}]", cut(key))),
            }
        }
        ("tenant_id" | "metric_name" | "metric_value" | "dimensions", _) => Err(format!("payload.{name}")),
        _ => Ok(()),
    })
}

fn walk(
    path: &str,
    members: &[(Option<String>, Json)],
    required: &[&str],
    mut judge: impl FnMut(&str, &Json) -> Result<(), String>,
) -> Result<(), String> {
    let known = ["event_type", "timestamp", "source", "version", "payload"];
    let known_inside = ["tenant_id", "metric_name", "metric_value", "dimensions"];
    let known: &[&str] = if path.is_empty() { &known } else { &known_inside };
    let mut seen = Vec::new();
    for (name, value) in members {
        let Some(name) = name else { return Err(path.trim_end_matches('.').to_owned()) };
        judge(name, value)?;
        if known.contains(&name.as_str()) && seen.contains(&name) {
            return Err(format!("{path}{name}"));
        }
        seen.push(name);
    }
    match required.iter().find(|name| !seen.iter().any(|seen| seen == *name)) {
        Some(missing) => Err(format!("{path}{missing}")),
        None => Ok(()),
    }
}

fn of<'a>(members: &'a [(Option<String>, Json)], name: &str) -> Option<&'a Json> {
    members.iter().find(|(found, _)| found.as_deref() == Some(name)).map(|(_, value)| value)
}

fn is_name(text: &str, bytes_max: usize, may_be_empty: bool) -> bool {
    text.len() <= bytes_max && !text.chars().any(char::is_control) && (may_be_empty || !text.is_empty())
}

/// `YYYY-MM-DD`, then nothing, or `T`, `t` or a space, `HH:MM`, `:SS` or nothing, `.` or `,` and digits or nothing, and `Z`,
/// `z`, `±HH`, `±HHMM`, `±HH:MM` or nothing.
fn time(text: &str) -> Option<i64> {
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    if !text.is_ascii() {
        return None;
    }
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if !(digits(&date[..4]) && &date[4..5] == "-" && digits(&date[5..7]) && &date[7..8] == "-" && digits(&date[8..])) {
        return None;
    }
    let date = chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let mut since = i128::from(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp()) * 1_000_000_000;
    let clock = rest.strip_prefix(['T', 't', ' ']);
    let Some(clock) = clock else { return if rest.is_empty() { i64::try_from(since).ok() } else { None } };
    let of_two = |text: &str, below: i128| -> Option<i128> {
        let two = text.get(..2).filter(|two| digits(two))?;
        two.parse().ok().filter(|number| *number < below)
    };
    since += of_two(clock, 24)? * 3_600_000_000_000;
    let minutes = clock[2..].strip_prefix(':')?;
    since += of_two(minutes, 60)? * 60_000_000_000;
    let mut rest = &minutes[2..];
    if let Some(seconds) = rest.strip_prefix(':') {
        if seconds.starts_with("60") {
            // Where the platform takes a leap second is said in one place, for every format.
            return tidegauge_core::time::parse_rfc3339(text);
        }
        since += of_two(seconds, 60)? * 1_000_000_000;
        rest = &seconds[2..];
        if let Some(fraction) = rest.strip_prefix(['.', ',']) {
            let length = fraction.chars().take_while(char::is_ascii_digit).count();
            let nine: String = fraction[..length].chars().chain(std::iter::repeat('0')).take(9).collect();
            since += if length > 0 { nine.parse::<i128>().ok()? } else { return None };
            rest = &fraction[length..];
        }
    }
    let offset = match rest {
        "" | "Z" | "z" => 0,
        _ => {
            let sign = if rest.starts_with('+') { 1 } else { -1 };
            let offset = rest.strip_prefix(['+', '-'])?;
            let minutes = match offset.len() {
                2 => "00",
                4 => offset.get(2..)?,
                5 => offset.get(2..)?.strip_prefix(':')?,
                _ => return None,
            };
            sign * (of_two(offset, 24)? * 60 + of_two(minutes, 60)?) * 60_000_000_000
        }
    };
    i64::try_from(since - offset).ok()
}

/// RFC 8259.
struct Parser {
    text: Vec<char>,
    at: usize,
}

impl Parser {
    fn space(&mut self) -> Option<()> {
        while matches!(self.text.get(self.at), Some(' ' | '\t' | '\r' | '\n')) {
            self.at += 1;
        }
        Some(())
    }

    fn next(&mut self) -> Option<char> {
        self.at += 1;
        self.text.get(self.at - 1).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.text.get(self.at) == Some(&wanted);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str, value: Json) -> Option<Json> {
        word.chars().all(|c| self.take(c)).then_some(value)
    }

    /// A value with the space behind it.
    fn value(&mut self) -> Option<Json> {
        let value = match self.text.get(self.at)? {
            '{' => self.object()?,
            '[' => self.list()?,
            '"' => Json::Text(self.text()?),
            't' => self.word("true", Json::Truth)?,
            'f' => self.word("false", Json::Truth)?,
            'n' => self.word("null", Json::Null)?,
            _ => self.number()?,
        };
        self.space()?;
        Some(value)
    }

    fn object(&mut self) -> Option<Json> {
        let mut members = Vec::new();
        self.at += 1;
        self.space()?;
        if self.take('}') {
            return Some(Json::Object(members));
        }
        loop {
            self.space()?;
            let name = self.text()?;
            self.space()?;
            if !self.take(':') {
                return None;
            }
            self.space()?;
            members.push((name, self.value()?));
            match self.next()? {
                ',' => {}
                '}' => return Some(Json::Object(members)),
                _ => return None,
            }
        }
    }

    fn list(&mut self) -> Option<Json> {
        self.at += 1;
        self.space()?;
        if self.take(']') {
            return Some(Json::List);
        }
        loop {
            self.space()?;
            self.value()?;
            match self.next()? {
                ',' => {}
                ']' => return Some(Json::List),
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<Json> {
        let from = self.at;
        self.take('-');
        if !self.take('0') && self.digits() == 0 {
            return None;
        }
        if self.take('.') && self.digits() == 0 {
            return None;
        }
        if self.take('e') || self.take('E') {
            let _ = self.take('+') || self.take('-');
            if self.digits() == 0 {
                return None;
            }
        }
        Some(Json::Number(self.text[from..self.at].iter().collect()))
    }

    fn digits(&mut self) -> usize {
        let from = self.at;
        while self.text.get(self.at).is_some_and(char::is_ascii_digit) {
            self.at += 1;
        }
        self.at - from
    }

    /// A text in quotes; `Some(None)` where it holds half a surrogate pair.
    fn text(&mut self) -> Option<Option<String>> {
        if !self.take('"') {
            return None;
        }
        let mut units: Vec<u16> = Vec::new();
        loop {
            let mut pair = [0; 2];
            match self.next()? {
                '"' => return Some(String::from_utf16(&units).ok()),
                '\\' => {
                    let escaped = self.next()?;
                    match escaped {
                        '"' | '\\' | '/' => units.push(escaped as u16),
                        'b' => units.push(8),
                        'f' => units.push(12),
                        'n' => units.push(10),
                        'r' => units.push(13),
                        't' => units.push(9),
                        'u' => {
                            let hex: String = (0..4).map(|_| self.next()).collect::<Option<_>>()?;
                            let is_hex = hex.chars().all(|c| c.is_ascii_hexdigit());
                            units.push(u16::from_str_radix(&hex, 16).ok().filter(|_| is_hex)?);
                        }
                        _ => return None,
                    }
                }
                c if (c as u32) < 0x20 => return None,
                c => units.extend_from_slice(c.encode_utf16(&mut pair)),
            }
        }
    }
}
