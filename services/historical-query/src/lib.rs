//! Historical query: SQL over `dashboard_metrics`, live windows and history as one table, through Arrow Flight SQL.
//!
//! One request is one session over a table that is rooted in the caller's tenants (I7). An execution takes one snapshot
//! (boundary, ordinal and live windows of every key), opens each hour object once, and answers so that no event is
//! missing and none counts twice (I6); the answer says how fresh it is (I9). SQL is checked and planned within limits
//! (I8).
//!
//! It does not write the lake, and knows nothing of logs or aggregation: the live side is [`LiveSource`], the lake a
//! `LakeStore`. Start with [`QueryEngine`]; [`HistoricalQuery`] puts Flight SQL around it.

mod admission;
mod answer;
mod arithmetic;
mod cache;
pub mod decide;
mod engine;
mod error;
mod flight;
mod functions;
mod growth;
mod guard;
mod index;
mod live;
mod memory;
mod meters;
mod object;
mod options;
mod planning;
mod scan;
mod service;
mod session;
mod snapshot;
mod sums;
mod table;
#[cfg(test)]
mod tests;
mod watch;
mod width;

pub use answer::Answer;
pub use engine::{How, QueryEngine, fingerprint};
pub use live::{HotMetricSource, LiveSource};
pub use options::QueryOptions;
pub use service::{HistoricalQuery, QueryHandle};
