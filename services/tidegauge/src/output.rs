//! `-o`: the form of a result. Text and tables are for people, and their look may change; JSON is for programs: names in
//! snake_case, times in RFC 3339, one document on standard output (where results stream, one a line).

use clap::ValueEnum;
use serde_json::Value;

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
    stdout::write(format_args!("{document}\n"))
}
