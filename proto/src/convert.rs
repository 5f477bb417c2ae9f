//! Conversions between the generated types and those of `tidegauge-core`.

pub mod batch;
pub mod hot;
pub mod time;
