//! Log lines on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::failure::{Failure, Outcome};

/// Variable with the filter, over the setting.
const FILTER_VARIABLE: &str = "TIDEGAUGE_LOG";

/// Starts logging, and logs panics.
///
/// # Errors
/// A filter or format that there is not.
pub(crate) fn start(filter: &str, format: &str) -> Outcome {
    let (text, origin) = match std::env::var(FILTER_VARIABLE) {
        Ok(text) if !text.is_empty() => (text, FILTER_VARIABLE),
        _ => (filter.to_owned(), "diagnostics.filter"),
    };
    let filter = EnvFilter::try_new(&text).map_err(|error| Failure::usage(format!("{origin}: {text:?}: {error}")))?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = match format {
        "text" => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init(),
        "json" => registry.with(layer.json().flatten_event(true)).try_init(),
        other => {
            return Err(Failure::usage(format!("diagnostics.format: {other:?} is no log format; use text or json")));
        }
    };
    started.map_err(|error| Failure::new(error.to_string()))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let trace = std::backtrace::Backtrace::capture();
        tracing::error!(place, message, thread, %trace, "panicked");
    }));
    Ok(())
}
