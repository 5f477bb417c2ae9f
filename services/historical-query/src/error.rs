//! What can end a query, and how it is told to the caller.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use tidegauge_core::{ErrorKind, Key, ServiceError};

use crate::decide::sql::Refusal;

/// Characters of a message of the SQL engine that reach the caller: some repeat the whole query.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// Why an execution stopped. Travels through the SQL engine as an external error and is found again by [`of_engine`].
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Abort {
    /// An object holds more than the snapshot: the execution is repeated with a newer one if nothing was sent.
    #[error("the lake moved under the query")]
    SeamMoved(Key),
    /// A key cannot be read.
    #[error("{}", unreadable_message(.0, .1))]
    Unreadable(Key, &'static str),
    /// Any other end.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl Abort {
    /// Into an error of the engine.
    pub(crate) fn engine(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }
}

impl From<Abort> for ServiceError {
    fn from(abort: Abort) -> Self {
        match abort {
            Abort::SeamMoved(key) => Self::new(
                ErrorKind::Aborted,
                "SEAM_MOVED",
                format!("the history of {key} changed while the query ran, run it again"),
            ),
            Abort::Unreadable(key, what) => {
                Self::new(ErrorKind::Unavailable, "KEY_UNAVAILABLE", unreadable_message(&key, what))
            }
            Abort::Service(error) => error,
        }
    }
}

fn unreadable_message(key: &Key, what: &str) -> String {
    format!("{what} of {key} cannot be read now; the header x-allow-partial: true answers without")
}

impl From<Refusal> for ServiceError {
    fn from(refusal: Refusal) -> Self {
        Self::new(ErrorKind::InvalidArgument, refusal.reason(), refusal.to_string())
    }
}

/// What an error of the engine means to the caller. Messages about the text reach the caller; causes inside the engine
/// go to the log alone.
pub(crate) fn of_engine(error: &DataFusionError) -> Abort {
    if let Some(abort) = find_abort(error) {
        return abort.clone();
    }
    let invalid = |reason, message: Cow<'_, str>| ServiceError::new(ErrorKind::InvalidArgument, reason, tidy(&message));
    let service = match root(error) {
        DataFusionError::SQL(cause, _) => invalid("SQL_INVALID", cause.to_string().into()),
        DataFusionError::Plan(message) => invalid("SQL_INVALID", message.into()),
        DataFusionError::SchemaError(cause, _) => invalid("SQL_INVALID", cause.to_string().into()),
        DataFusionError::Configuration(message) => invalid("SQL_INVALID", message.into()),
        DataFusionError::NotImplemented(message) => {
            invalid("SQL_NOT_SUPPORTED", format!("not supported: {message}").into())
        }
        DataFusionError::Execution(message) => invalid("SQL_FAILED", message.into()),
        DataFusionError::ArrowError(cause, _) => match cause.as_ref() {
            ArrowError::MemoryError(_) | ArrowError::OffsetOverflowError(_) => out_of_memory(),
            // Not the text's fault, and they may name files.
            ArrowError::IoError(..)
            | ArrowError::ExternalError(_)
            | ArrowError::IpcError(_)
            | ArrowError::ParquetError(_) => failed_inside(cause),
            cause => invalid("SQL_FAILED", cause.to_string().into()),
        },
        DataFusionError::ResourcesExhausted(_) => out_of_memory(),
        cause => failed_inside(cause),
    };
    Abort::Service(service)
}

fn failed_inside(cause: &dyn Error) -> ServiceError {
    tracing::error!(%cause, "a query failed inside the engine");
    ServiceError::new(ErrorKind::Internal, "QUERY_ENGINE", "the query failed inside the engine")
}

fn out_of_memory() -> ServiceError {
    let message = "the query needs more memory than a query may use; narrow it by time or metric";
    ServiceError::new(ErrorKind::ResourceExhausted, "QUERY_MEMORY", message).retry_after(Duration::from_secs(5))
}

/// The cause below contexts and diagnostics.
fn root(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => root(inner),
        DataFusionError::Shared(inner) => root(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(error, root),
        DataFusionError::External(inner) => inner.downcast_ref::<DataFusionError>().map_or(error, root),
        DataFusionError::ArrowError(cause, _) => match cause.as_ref() {
            ArrowError::ExternalError(inner) => inner.downcast_ref::<DataFusionError>().map_or(error, root),
            _ => error,
        },
        _ => error,
    }
}

fn find_abort(error: &DataFusionError) -> Option<&Abort> {
    let mut at: Option<&(dyn Error + 'static)> = Some(root(error));
    while let Some(cause) = at {
        if let Some(abort) = cause.downcast_ref::<Abort>() {
            return Some(abort);
        }
        // The engine's own source() skips boxes that it made itself.
        at = match cause.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
            _ => cause.source(),
        };
    }
    None
}

/// What the engine writes before a message about the text: to the caller "internal error" would say that we are broken.
const ENGINE_PREFIXES: [&str; 5] =
    ["SQL error: ", "Error during planning: ", "Internal error: ", "Execution error: ", "Schema error: "];

/// One line, without backtraces and without the engine's advice to report a bug.
fn tidy(message: &str) -> String {
    let message = message.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or(message);
    let message = message.split("\nThis issue was likely caused by").next().unwrap_or(message);
    let mut message = message.trim_end_matches('.');
    while let Some(rest) = ENGINE_PREFIXES.iter().find_map(|prefix| message.strip_prefix(prefix)) {
        message = rest;
    }
    let mut line: String = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(MESSAGE_CHARS_MAX) {
        line.truncate(cut);
        line.push('…');
    }
    let mut chars = line.chars();
    match (chars.next(), chars.next()) {
        // A sentence's capital, not a name's.
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(line.chars().skip(1)).collect()
        }
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller reads what is wrong with the text, in one line, without the engine's own words around it.
    #[test]
    fn messages_are_for_callers() {
        let told = tidy("Error during planning: Internal error: Function 'sum' failed to match\n any signature.");
        assert_eq!(told, "function 'sum' failed to match any signature");
        assert_eq!(tidy(&"x".repeat(5_000)).chars().count(), MESSAGE_CHARS_MAX + 1);
    }
}
