//! The decisions of aggregation: values in, values out. Nothing here waits, reads a clock or does I/O; time comes in as
//! a number. So the same records and the same recorded decisions give the same rows (I4), and tests run by the thousand.
//!
//! [`Shard`] is the state of one shard: records go in with [`Shard::process`], clock-driven decisions with
//! [`Shard::advance_idle`] and [`Shard::cut_due`], durable changes come out with [`Shard::take_changes`], hot updates
//! with [`Shard::collect_updates`].

mod assign;
mod counters;
mod cut;
mod dead;
mod dedup;
mod hold;
mod key;
mod persist;
mod process;
mod push;
mod rows;
mod series;
mod settings;
mod shard;

#[cfg(test)]
pub(crate) mod tests;

pub use counters::Counters;
pub use cut::{ApplyFailure, ApplyJob, Outbox, OutputHour, OutputRow};
pub use dead::{DeadBatch, DeadLetter, DeadReason};
pub use key::{KeyState, KeySums};
pub use persist::{RestoreError, keyspace};
pub use push::HotKnown;
pub use settings::Settings;
pub use shard::{Decision, DecisionKind, Shard};
