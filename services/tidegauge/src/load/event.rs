//! One event read from a file, borrowed from its line.

use std::borrow::Cow;

/// Where an event stands in its file, so that a refusal can name its line and keep its text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Place {
    /// Line number, from 1.
    pub(crate) line: u64,
    /// Byte offset of its first byte.
    pub(crate) offset: u64,
    /// Length in bytes without its line end.
    pub(crate) bytes: u32,
}

/// The dimensions of an event.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum RawDimensions<'a> {
    /// None.
    Absent,
    /// A JSON object of strings without escapes, as it stands in the line: the same text is the same set, so that it is
    /// read only once.
    Json(&'a str),
    /// Cells of a table's row, and constants.
    Cells(Cells<'a>),
    /// Pairs in any order.
    Pairs(Vec<(Cow<'a, str>, Cow<'a, str>)>),
}

/// Dimensions from the cells of a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Cells<'a> {
    /// The cells as one text: the same text is the same set, so that it is made only once.
    pub(crate) text: &'a str,
    /// Key, and a column or a constant.
    pub(crate) columns: &'a [(&'a str, Result<usize, &'a str>)],
    /// All cells of the row.
    pub(crate) fields: &'a [Cow<'a, str>],
}

impl RawDimensions<'_> {
    /// The pairs in their order.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        match self {
            Self::Absent => Vec::new(),
            Self::Json(text) => quoted(text),
            Self::Cells(Cells { columns, fields, .. }) => {
                let value = |from: &Result<usize, &str>| match from {
                    Ok(column) => fields[*column].as_ref().to_owned(),
                    Err(text) => (*text).to_owned(),
                };
                columns.iter().map(|(key, from)| ((*key).to_owned(), value(from))).collect()
            }
            Self::Pairs(pairs) => pairs.iter().map(|(k, v)| (k.as_ref().to_owned(), v.as_ref().to_owned())).collect(),
        }
    }
}

/// The strings of an object that is known to hold nothing else, and no escapes.
fn quoted(object: &str) -> Vec<(String, String)> {
    let mut parts = object.split('"').skip(1).step_by(2).map(str::to_owned);
    let mut pairs = Vec::new();
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        pairs.push((key, value));
    }
    pairs
}

/// An event as read. Names are not checked yet: each is checked when it first enters a dictionary.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RawEvent<'a> {
    /// Tenant.
    pub(crate) tenant: Cow<'a, str>,
    /// Event type.
    pub(crate) event_type: Cow<'a, str>,
    /// Emitter; empty for absent.
    pub(crate) source: Cow<'a, str>,
    /// Version of the emitter; empty for absent.
    pub(crate) version: Cow<'a, str>,
    /// Metric.
    pub(crate) metric: Cow<'a, str>,
    /// Finite value.
    pub(crate) value: f64,
    /// Event time, Unix nanoseconds.
    pub(crate) time_ns: i64,
    /// Dimensions.
    pub(crate) dimensions: RawDimensions<'a>,
}
