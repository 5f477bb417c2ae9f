//! Lines: valid ones, those at the border, and broken ones.

use proptest::prelude::*;
use proptest::sample::select;

/// The parts of a line as they stand in it. Members are written in their order; a part may be anything.
#[derive(Clone, Debug)]
struct Parts {
    event_type: String,
    timestamp: String,
    source: Option<String>,
    version: Option<String>,
    tenant: String,
    metric: String,
    value: String,
    dimensions: Option<String>,
    payload: Option<String>,
}

impl Parts {
    fn good() -> Self {
        Self {
            event_type: "\"t\"".to_owned(),
            timestamp: "\"2026-03-02T07:08:09Z\"".to_owned(),
            source: Some("\"s\"".to_owned()),
            version: Some("\"1\"".to_owned()),
            tenant: "\"acme\"".to_owned(),
            metric: "\"m\"".to_owned(),
            value: "1.5".to_owned(),
            dimensions: Some("{\"k\": \"v\", \"l\":\"w\"}".to_owned()),
            payload: None,
        }
    }

    fn payload(&self) -> Vec<(String, String)> {
        let member = |name: &str, value: &str| (format!("\"{name}\""), value.to_owned());
        let mut members = vec![
            member("tenant_id", &self.tenant),
            member("metric_name", &self.metric),
            member("metric_value", &self.value),
        ];
        members.extend(self.dimensions.as_ref().map(|value| member("dimensions", value)));
        members
    }

    fn members(&self, payload: &str) -> Vec<(String, String)> {
        let member = |name: &str, value: &str| (format!("\"{name}\""), value.to_owned());
        let mut members = vec![member("event_type", &self.event_type), member("timestamp", &self.timestamp)];
        members.extend(self.source.as_ref().map(|value| member("source", value)));
        members.extend(self.version.as_ref().map(|value| member("version", value)));
        members.push(member("payload", self.payload.as_deref().unwrap_or(payload)));
        members
    }

    fn line(&self) -> String {
        object(&self.members(&object(&self.payload(), "")), "")
    }
}

fn object(members: &[(String, String)], gap: &str) -> String {
    let members = members.iter().map(|(name, value)| format!("{gap}{name}{gap}:{gap}{value}{gap}"));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// A line that is an event.
pub(super) fn good() -> Vec<u8> {
    Parts::good().line().into_bytes()
}

const TEXTS: [&str; 28] = [
    "\"a\"",
    "\"größe 😀\"",
    r#""\u00e9\/\\\"""#,
    r#""\ud83d\ude00""#,
    r#""\uD83D\uDE00x""#,
    r#""\ud83d""#,
    r#""\ude00\ud83d""#,
    r#""\ud83dx\ude00""#,
    r#""\ud83d\u0041""#,
    r#""a\u0000b""#,
    r#""a\nb""#,
    r#""\u007f""#,
    r#""\u0085""#,
    r#""\uFEFF""#,
    "\"\u{feff}\"",
    "\"\u{7f}\"",
    "\"\u{85}\"",
    "\"\u{0}\"",
    "\"\t\"",
    "\"\"",
    "\" \"",
    r#""\x41""#,
    r#""\u12g4""#,
    r#""\u+123""#,
    "'a'",
    "null",
    "7",
    "[\"a\"]",
];

const NUMBERS: [&str; 50] = [
    "0",
    "-0",
    "-0.0",
    "0e5",
    "1E5",
    "1e+5",
    "1e-5",
    "1e05",
    "-1.25",
    "00",
    "01",
    "-01",
    "+1",
    "1.",
    ".5",
    "-",
    "-.5",
    "1e",
    "1e+",
    "0x10",
    "1_000",
    "1,5",
    "1e400",
    "-1e400",
    "1e308",
    "1.7976931348623157e308",
    "1.7976931348623159e308",
    "1.8e308",
    "5e-324",
    "2e-324",
    "1e-400",
    "-1e-400",
    "1e-99999999999999999999",
    "1e99999999999999999999",
    "0e99999999999999999999",
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "123456789012345678901234567890",
    "0.1000000000000000055511151231257827",
    "NaN",
    "Infinity",
    "-Infinity",
    "nan",
    "\"1\"",
    "true",
    "null",
    "{}",
];

const TIMES: [&str; 52] = [
    "2026-03-02T07:08:09Z",
    "2026-03-02t07:08:09z",
    "2026-03-02 07:08:09Z",
    "2026-03-02 07:08:09",
    "2026-03-02T07:08:09",
    "2026-03-02T07:08Z",
    "2026-03-02T07:08",
    "2026-03-02T07Z",
    "2026-03-02",
    "2026-03",
    "20260302T070809Z",
    "2026-03-02T07:08:09.5Z",
    "2026-03-02T07:08:09,5Z",
    "2026-03-02T07:08:09.Z",
    "2026-03-02T07:08:09.123456789Z",
    "2026-03-02T07:08:09.1234567899999Z",
    "2026-03-02T07:08:09.000000000999999999999999999999999Z",
    "2026-03-02T07:08:09+00:00",
    "2026-03-02T07:08:09-00:00",
    "2026-03-02T07:08:09+05:30",
    "2026-03-02T07:08:09+0530",
    "2026-03-02T07:08:09+05",
    "2026-03-02T07:08:09+5",
    "2026-03-02T07:08:09+23:59",
    "2026-03-02T07:08:09+24:00",
    "2026-03-02T07:08:09+05:60",
    "2026-03-02T07:08:09+99:59",
    "2026-03-02T07:08:09 Z",
    "2026-03-02T07:08:09ZZ",
    "2026-03-02T07:08:09Z ",
    " 2026-03-02T07:08:09Z",
    "2026-03-02  07:08:09Z",
    "2026-03-02T24:00:00Z",
    "2026-03-02T07:60:00Z",
    "2026-03-02T07:08:60Z",
    "2016-12-31T23:59:60Z",
    "2016-12-31T18:59:60.5-05:00",
    "2016-12-31 23:59:60",
    "2026-02-29T00:00:00Z",
    "2024-02-29T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-00-01T00:00:00Z",
    "2026-03-00T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "1677-09-21T00:12:43.145224192Z",
    "1677-09-21T00:12:43.145224191Z",
    "2262-04-11T23:47:16.854775807Z",
    "2262-04-11T23:47:16.854775808Z",
    "9999-12-31T23:59:59Z",
    "+2026-03-02T07:08:09Z",
    "２026-03-02T07:08:09Z",
];

const DIMENSIONS: [&str; 26] = [
    "null",
    "\"\"",
    "\"eu\"",
    "{}",
    "{ }",
    r#"{"a":"b"}"#,
    r#"{"b":"1","a":"2"}"#,
    r#"{"a":"b","a":"c"}"#,
    r#"{"a":"b","\u0061":"b"}"#,
    r#"{"a":""}"#,
    r#"{"":"a"}"#,
    r#"{"a":1}"#,
    r#"{"a":null}"#,
    r#"{"a":true,"b":1}"#,
    r#"{"a":{"b":"c"}}"#,
    r#"{"a":["b"]}"#,
    r#"{"a":"b",}"#,
    r#"{"a":"\ud800"}"#,
    r#"{"\ud800":"a"}"#,
    r#"{"a":"\u0001"}"#,
    r#"{"a\u0001":"b"}"#,
    r#"{"a":"}\"{,"}"#,
    "[]",
    "[\"a\"]",
    "7",
    "true",
];

/// Members of nobody's.
const OTHERS: [(&str, &str); 20] = [
    ("\"x\"", "1"),
    ("\"x\"", "\"\\ud800\""),
    ("\"\\ud800\"", "1"),
    ("\"dimensions_\"", "[1, {\"a\": [null, true, \"}\"]}]"),
    ("\"Payload\"", "{\"metric_value\": 2}"),
    ("\"event_type \"", "1"),
    ("\"x\"", "[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]"),
    ("\"x\"", "{\"a\":1,\"a\":2}"),
    ("\"x\"", "{\"\\ud800\":1}"),
    ("\"x\"", "1e400"),
    ("\"x\"", "NaN"),
    ("\"x\"", "01"),
    ("\"x\"", "[1,]"),
    ("\"x\"", "{\"a\":1,}"),
    ("\"x\"", "[1 2]"),
    ("\"x\"", "\"\\q\""),
    ("\"x\"", "tru"),
    ("\"x\"", "-0"),
    ("\"x\"", "\"\\u00zz\""),
    ("x", "1"),
];

/// Every value above in its place, alone; and more of the whole line.
pub(super) fn known() -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::good();
        change(&mut parts);
        lines.push(parts.line().into_bytes());
        parts.dimensions = None;
        lines.push(parts.line().into_bytes());
    };
    for text in TEXTS {
        with(&|parts| parts.event_type = text.to_owned());
        with(&|parts| parts.source = Some(text.to_owned()));
        with(&|parts| parts.version = Some(text.to_owned()));
        with(&|parts| parts.tenant = text.to_owned());
        with(&|parts| parts.metric = text.to_owned());
        with(&|parts| parts.timestamp = text.to_owned());
    }
    for number in NUMBERS {
        with(&|parts| parts.value = number.to_owned());
    }
    for digits in [17, 19, 20, 100, 308, 309, 310, 1_000] {
        with(&|parts| parts.value = "9".repeat(digits));
        with(&|parts| parts.value = format!("-0.{}1", "0".repeat(digits)));
        with(&|parts| parts.value = format!("{}e-{digits}", "9".repeat(digits)));
    }
    for time in TIMES {
        with(&|parts| parts.timestamp = format!("\"{time}\""));
    }
    for dimensions in DIMENSIONS {
        with(&|parts| parts.dimensions = Some(dimensions.to_owned()));
    }
    for count in [64, 65] {
        let pairs: Vec<String> = (0..count).map(|i| format!("\"k{i}\":\"v\"")).collect();
        with(&|parts| parts.dimensions = Some(format!("{{{}}}", pairs.join(","))));
    }
    for length in [63, 64, 128, 129, 255, 256, 257, 300] {
        for c in ["a", "é", "\\u0061", "\\u00e9", "\\ud83d\\ude00"] {
            let text = format!("\"{}\"", c.repeat(length));
            with(&|parts| parts.tenant = text.clone());
            with(&|parts| parts.metric = text.clone());
            with(&|parts| parts.event_type = text.clone());
            with(&|parts| parts.source = Some(text.clone()));
            with(&|parts| parts.dimensions = Some(format!("{{{text}:\"v\"}}")));
            with(&|parts| parts.dimensions = Some(format!("{{\"k\":{text}}}")));
            with(&|parts| parts.dimensions = Some(text.clone()));
        }
    }
    for payload in ["null", "[]", "\"x\"", "{}", "1", "[\"acme\",\"m\",1,{}]"] {
        with(&|parts| parts.payload = Some(payload.to_owned()));
    }
    let good = Parts::good().line();
    for line in [
        "",
        " ",
        "\t \r",
        "\u{c}",
        "\u{b}",
        "\u{a0}",
        "\u{3000}",
        "\u{85}",
        "\u{2028}",
        "\u{0}",
        "\u{feff}",
        "\u{feff}\u{feff} \r",
        "{}",
        "[]",
        "null",
        "true",
        "1",
        "\"x\"",
        "nonsense",
        r#"["t","2026-03-02T07:08:09Z","s","1",["acme","m",1,{}]]"#,
        r#"["t","2026-03-02T07:08:09Z","s","1",{"tenant_id":"acme","metric_name":"m","metric_value":1}]"#,
    ] {
        lines.push(line.as_bytes().to_vec());
    }
    for (before, after) in [
        ("", "\r"),
        ("", "\r\r"),
        ("", " \t "),
        (" \t", ""),
        ("\r", "\r"),
        ("\u{feff}", ""),
        ("\u{feff}\u{feff}", "\r"),
        (" \u{feff}", ""),
        ("\u{feff} \u{feff}", ""),
        ("", "\u{feff}"),
        ("\u{a0}", ""),
        ("", "\u{a0}"),
        ("\u{c}", ""),
        ("", "\u{0}"),
        ("\u{0}", ""),
        ("", ","),
        ("", "}"),
        ("", " {}"),
        ("", " x"),
        ("[", "]"),
        ("", "//"),
    ] {
        lines.push(format!("{before}{good}{after}").into_bytes());
    }
    for (name, value) in OTHERS {
        lines.push(good.replacen('{', &format!("{{{name}:{value},"), 1).into_bytes());
        lines.push(good.replacen("\"payload\":{", &format!("\"payload\":{{{name}:{value},"), 1).into_bytes());
    }
    lines.push(good.replace("\"source\"", "\"s\\u006furce\"").into_bytes());
    for at in 0..good.len() {
        for byte in [0, 0xC0, 0xFF, b'"', b'\r'] {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = byte;
            lines.push(bytes);
        }
        lines.push(good.as_bytes()[..at].to_vec());
    }
    for name in ["event_type", "timestamp", "source", "version", "tenant_id", "metric_name", "metric_value", "payload"]
    {
        let quoted = format!("\"{name}\":");
        lines.push(good.replace(&quoted, &format!("\"x{name}\":")).into_bytes());
        lines.push(good.replace(&quoted, &format!("{quoted}null,{quoted}")).into_bytes());
        lines.push(good.replace(&quoted, &format!("{quoted}\"2026-03-02\",{quoted}")).into_bytes());
        lines.push(good.replace(&quoted, &format!("{quoted}1,{quoted}")).into_bytes());
    }
    lines
}

fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(values).prop_map(str::to_owned)
}

/// Mostly good, so that what is wrong stands alone.
fn part(good: &'static str, others: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = String> {
    prop_oneof![6 => Just(good.to_owned()), 1 => others]
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => one_of(&TEXTS),
        1 => any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
    ]
}

fn any_number() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => one_of(&NUMBERS),
        1 => any::<f64>().prop_map(|value| format!("{value:?}")),
        1 => any::<f64>().prop_map(|value| format!("{value:e}")),
        1 => any::<i128>().prop_map(|value| value.to_string()),
        1 => "-?[0-9]{1,30}(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?",
    ]
}

fn any_time() -> impl Strategy<Value = String> {
    let shape = "[12][0-9]{3}-[01][0-9]-[0-3][0-9]([Tt ][0-2][0-9]:[0-5][0-9](:[0-6][0-9]([.,][0-9]{0,12})?)?([Zz]|[+-][0-2][0-9](:?[0-5][0-9])?)?)?";
    let text = prop_oneof![2 => one_of(&TIMES), 1 => any::<i64>().prop_map(tidegauge_core::time::rfc3339), 1 => shape];
    text.prop_map(|text| format!("\"{text}\""))
}

fn any_dimensions() -> impl Strategy<Value = Option<String>> {
    let pairs = proptest::collection::vec((any_text(), any_text()), 0..4);
    let object = pairs.prop_map(|pairs| object(&pairs, ""));
    proptest::option::of(prop_oneof![2 => one_of(&DIMENSIONS), 1 => any_text(), 1 => object])
}

prop_compose! {
    fn parts()(
        event_type in part("\"t\"", any_text()),
        timestamp in part("\"2026-03-02T07:08:09.25Z\"", any_time()),
        source in proptest::option::of(part("\"s\"", any_text())),
        version in proptest::option::of(part("\"1\"", any_text())),
        tenant in part("\"acme\"", any_text()),
        metric in part("\"m\"", any_text()),
        value in prop_oneof![1 => Just("1.5".to_owned()), 1 => any_number()],
        dimensions in prop_oneof![1 => Just(Parts::good().dimensions), 1 => any_dimensions()],
    ) -> Parts {
        Parts { event_type, timestamp, source, version, tenant, metric, value, dimensions, payload: None }
    }
}

/// What happens to members: in their order, or turned; one left out, one twice, one of nobody's put in.
#[derive(Clone, Debug)]
struct Turn {
    by: usize,
    out: Option<usize>,
    twice: Option<usize>,
    other: Option<(&'static str, &'static str)>,
}

impl Turn {
    fn of(&self, mut members: Vec<(String, String)>) -> Vec<(String, String)> {
        if let Some(out) = self.out {
            members.remove(out % members.len());
        }
        if let Some(twice) = self.twice.filter(|_| !members.is_empty()) {
            members.push(members[twice % members.len()].clone());
        }
        members.extend(self.other.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let by = self.by % members.len().max(1);
        members.rotate_left(by);
        members
    }
}

fn turn() -> impl Strategy<Value = Turn> {
    let rarely = || proptest::option::weighted(0.05, any::<usize>());
    let by = prop_oneof![2 => Just(0), 1 => any::<usize>()];
    let other = proptest::option::weighted(0.2, select(&OTHERS[..]));
    (by, rarely(), rarely(), other).prop_map(|(by, out, twice, other)| Turn { by, out, twice, other })
}

/// Bytes replaced, put in or left out.
fn damage() -> impl Strategy<Value = Option<(prop::sample::Index, usize, Vec<u8>)>> {
    let bytes = prop_oneof![
        1 => Just(Vec::new()),
        2 => "[ -~]".prop_map(String::into_bytes),
        1 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
        1 => select(vec![b"\0".to_vec(), b"\xFF".to_vec(), b"\xC3".to_vec(), b"\r".to_vec(), b"\xEF\xBB\xBF".to_vec()]),
    ];
    proptest::option::weighted(0.25, (any::<prop::sample::Index>(), 0..3_usize, bytes))
}

prop_compose! {
    /// A line without its end.
    pub(super) fn line()(
        parts in parts(),
        inside in turn(),
        outside in turn(),
        gap in select(&["", "", " ", "\t", " \r"][..]),
        around in (select(&["", "", "", "\u{feff}", "\u{feff}\u{feff}", " ", "\u{a0}"][..]), select(&["", "", "", "\r", " ", "\t\r", "\u{c}", "\u{feff}"][..])),
        damage in damage(),
        is_blank in proptest::bool::weighted(0.05),
    ) -> Vec<u8> {
        let payload = object(&inside.of(parts.payload()), gap);
        let line = if is_blank { String::new() } else { object(&outside.of(parts.members(&payload)), gap) };
        let mut bytes = format!("{}{line}{}", around.0, around.1).into_bytes();
        if let Some((at, length, by)) = damage {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, by);
        }
        bytes.retain(|byte| *byte != b'\n');
        bytes
    }
}
