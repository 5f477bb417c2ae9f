//! Aggregation: events from the log become windows, exactly once.
//!
//! One worker a shard reads the log, removes duplicates, sums events into windows, keeps the hot values up to date, and
//! carries closed windows into the lake by the commit protocol of [`worker`]. What to do is decided in [`decide`], which
//! knows no clock, no I/O and no runtime; the workers execute it. Start with [`Aggregation::start`].
//!
//! It is not a query engine and holds no history: what is published leaves its memory.

mod crash;
pub mod decide;
mod meters;
mod options;
mod page;
mod service;
mod status;
pub mod verify;
mod worker;

pub use crash::{CrashPoint, CrashStep};
pub use options::{AggregationOptions, Backends, OptionsError};
pub use service::{Aggregation, AggregationHandle, StartError};
pub use status::{KeyReport, ShardReport, Status, WorkerState};
