//! The lake: where published windows stand as Parquet files that any tool reads without us.
//!
//! The crate knows paths ([`paths`]), schemas ([`mod@schema`]), one hour's object with its [`Footer`] ([`object`]), the pure
//! merge of rows ([`merge`]), the idempotent application of an epoch to an object ([`apply`]), the hour index
//! ([`index`]) and dead letters ([`dead_letter`]). It does not decide *when* something is written (aggregation does) nor
//! how it is queried (historical-query does), and knows no runtime: asynchronous functions only await the
//! [`LakeStore`](tidegauge_core::lake::LakeStore), all else are plain functions that a caller may run on a thread of its
//! choice.
//!
//! # The file of one hour
//!
//! `aggregated/tenant_id=<t>/year=2026/month=03/day=02/hour=00/part-00000.parquet` holds the rows of one key and hour,
//! sorted by metric, then window. It is only ever replaced, as a whole, by a superset of itself (I5). Its footer names
//! the epoch up to which it is complete, which makes writing idempotent: an epoch that is in is not merged again.
//!
//! Start with [`apply::apply_parts`].

pub mod apply;
pub mod dead_letter;
pub mod footer;
pub mod index;
pub mod merge;
pub mod object;
pub mod paths;
mod row;
pub mod schema;

pub use footer::Footer;
pub use object::ObjectError;
pub use row::AggregatedRow;

/// Version of the row schema that this build writes, and the highest that it rewrites. Raised whenever a column is
/// added, because an older writer would drop that column from an object that it rewrites.
pub const SCHEMA_VERSION: u32 = 2;
