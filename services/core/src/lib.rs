//! The words, limits, errors and backend contracts that every part of Tidegauge shares.
//!
//! This crate holds meaning, not machinery: validated names ([`TenantId`], [`MetricName`]), time and windows
//! ([`time`]), events as columns ([`event`]), every limit with its reason ([`limits`]),
//! the budget of open files ([`descriptors`]), the small set of error kinds
//! ([`error`]), the proof of authorization ([`scope`]) and the traits that backends implement ([`log`], [`hot`],
//! [`checkpoint`], [`lake`]) with, behind the feature `conformance`, the test suite that each implementation must pass.
//!
//! It does no I/O and knows no runtime, no RPC library, no cloud and no query engine. Start with [`event::EventBatch`],
//! the one record that stands on the log.

pub mod checkpoint;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod descriptors;
pub mod error;
pub mod event;
pub mod hot;
pub mod ids;
pub mod lake;
pub mod limits;
pub mod log;
pub mod scope;
pub mod sum;
pub mod time;

pub use error::{ErrorKind, FieldViolation, Reason, ServiceError};
pub use ids::{Epoch, EventType, Key, LineageId, MetricName, Ordinal, Producer, Sequence, ShardId, TenantId};
pub use scope::{Permission, Principal, ScopedTenant, SystemAuthority, TenantScope};
pub use sum::Sum;
