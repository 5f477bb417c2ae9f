//! The ingest service: takes events in over `IngestService`, judges each, and answers when the accepted ones are durable.
//!
//! It does not aggregate, deduplicate or archive: that is aggregation's part, from the log. Start with [`Ingest::start`];
//! every decision is a pure function in [`decide`].

pub mod decide;
mod handle;
mod meters;
mod options;
mod publisher;
mod service;
mod stream;

pub use decide::quota::Quota;
pub use handle::{Ingest, IngestHandle};
pub use options::IngestOptions;
