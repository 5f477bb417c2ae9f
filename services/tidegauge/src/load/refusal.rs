//! Why an event can never be taken: the field, the value and the rule.

use std::fmt;

/// Why an event is refused, before a server has seen it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// The field, as whoever wrote it calls it; empty where there is no event to have fields.
    pub(crate) field: String,
    /// Stable word for programs.
    pub(crate) reason: &'static str,
    /// The value and the rule.
    pub(crate) problem: String,
}

impl Refusal {
    /// Refuses for one field.
    pub(crate) fn new(field: impl Into<String>, reason: &'static str, problem: impl Into<String>) -> Self {
        Self { field: field.into(), reason, problem: problem.into() }
    }

    /// Refuses what is no event at all.
    pub(crate) fn line(problem: impl Into<String>) -> Self {
        Self::new("", "LINE_INVALID", problem)
    }

    /// Refuses bytes that are no text; names the first bad one and what stands before it.
    pub(crate) fn not_utf8(line: &[u8], error: &std::str::Utf8Error) -> Self {
        let (at, from) = (error.valid_up_to(), error.valid_up_to().saturating_sub(BEFORE_BYTES));
        let before = String::from_utf8_lossy(&line[from..at]);
        Self::line(format!("not UTF-8 at byte {at}, after {}", shown(&before)))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "not an event: {}", self.problem),
            field => write!(f, "{field}: {}", self.problem),
        }
    }
}

/// Bytes of a line that are shown before a place in it.
const BEFORE_BYTES: usize = 24;
/// Characters of a value that are shown.
const SHOWN_CHARS: usize = 64;

/// A text for a message as it stands: without what steers a terminal, and not longer than people read.
pub(crate) fn cut(text: &str) -> String {
    let mut kept: String =
        text.chars().take(SHOWN_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        kept.push('…');
    }
    kept
}

/// The same in quotes.
pub(crate) fn shown(text: &str) -> String {
    format!("{:?}", cut(text))
}

/// The end of a text in quotes, for saying where it breaks off.
pub(crate) fn shown_end(text: &str) -> String {
    match text.char_indices().nth_back(BEFORE_BYTES) {
        Some((from, _)) => format!("\"…{}\"", cut(&text[from..]).escape_debug()),
        None => shown(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values are shown short and harmless, and what is cut off says so.
    #[test]
    fn values_are_shown_short_and_harmless() {
        assert_eq!(shown("a\u{1b}[2J\"b"), "\"a\u{fffd}[2J\\\"b\"");
        let long = "ü".repeat(SHOWN_CHARS + 1);
        assert_eq!(cut(&long).chars().count(), SHOWN_CHARS + 1);
        assert!(cut(&long).ends_with('…') && !cut(&long[..long.len() - 2]).ends_with('…'));
        assert_eq!(shown_end("short"), "\"short\"");
        assert_eq!(shown_end(&format!("{long}end")), format!("\"…{}end\"", "ü".repeat(BEFORE_BYTES - 2)));
        let line = [b"{\"a\": \"", &[0xFF][..], b"\"}"].concat();
        let refusal = Refusal::not_utf8(&line, &std::str::from_utf8(&line).unwrap_err());
        assert_eq!(refusal.to_string(), r#"not an event: not UTF-8 at byte 7, after "{\"a\": \"""#);
    }
}
