//! `-o`: the form of a result. Text and tables are for people, and their look may change; JSON is for programs: names in
//! snake_case, times in RFC 3339, one document on standard output (where results stream, one a line).

use std::fmt;

use clap::ValueEnum;
use serde_json::{Number, Value};

use crate::failure::Outcome;
use crate::stdout;

/// Form of a result that people read as a few words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum TextForm {
    /// For people
    Text,
    /// One JSON document
    Json,
}

/// Form of a result that people read as a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum TableForm {
    /// Aligned columns
    Table,
    /// One JSON document
    Json,
}

/// Writes a document in a line of its own.
///
/// # Errors
/// The output's.
pub(crate) fn document(document: &Value) -> Outcome {
    stdout::write(format_args!("{}\n", harmless(document.to_string())))
}

/// A measured number, in every form of output: the shortest text that reads back as the same number, or `Infinity`,
/// `-Infinity`, `NaN`, which JSON has as texts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Float(pub(crate) f64);

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Number::from_f64(self.0) {
            Some(number) => fmt::Display::fmt(&number, f),
            None if self.0.is_nan() => f.write_str("NaN"),
            None => f.write_str(if self.0 > 0.0 { "Infinity" } else { "-Infinity" }),
        }
    }
}

impl From<Float> for Value {
    fn from(float: Float) -> Self {
        Number::from_f64(float.0).map_or_else(|| Self::String(float.to_string()), Self::Number)
    }
}

/// Turns what stands from there on into a text of JSON. Every control character is escaped, also those that JSON would
/// allow: some steer terminals.
pub(crate) fn quote(out: &mut String, from: usize) {
    use fmt::Write as _;
    let needs_escape = |c: char| matches!(c, '"' | '\\') || c.is_control();
    if !out[from..].contains(needs_escape) {
        out.insert(from, '"');
        out.push('"');
        return;
    }
    let text = out.split_off(from);
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c)),
            c => out.write_char(c),
        };
    }
    out.push('"');
}

/// A document of JSON without the control characters that JSON allows in its texts and terminals do not only show.
pub(crate) fn harmless(document: String) -> String {
    let steers = |c: char| matches!(c, '\u{7f}'..='\u{9f}');
    if !document.contains(steers) {
        return document;
    }
    let escaped = |c: char| if steers(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    document.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// JSON reads back what was written, and nothing of it steers a terminal.
    #[test]
    fn texts_are_quoted() {
        let text = "a\"b\\c\n\r\t\u{0}\u{1b}[2J\u{7f}\u{9b}31m\u{2028}größe";
        let mut out = "x".to_owned();
        quote(&mut out, 1);
        assert_eq!(out, "x\"\"");
        out.truncate(1);
        out.push_str(text);
        quote(&mut out, 1);
        assert_eq!(serde_json::from_str::<String>(&out[1..]).unwrap(), text);
        let document = serde_json::json!({ text: text });
        let written = harmless(document.to_string());
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), document);
        assert!(!out.contains(char::is_control) && !written.contains(char::is_control), "{out} {written}");
    }

    #[test]
    fn numbers_are_shortest_and_never_null() {
        for (number, expected) in [
            (0.1 + 0.2, "0.30000000000000004"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (1e300, "1e+300"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(Float(number).to_string(), expected);
            let json = Value::from(Float(number)).to_string();
            assert_eq!(json, if number.is_finite() { expected.to_owned() } else { format!("\"{expected}\"") });
        }
    }
}
