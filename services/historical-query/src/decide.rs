//! Pure decisions: which SQL is allowed, which objects a predicate can need, which versions belong to an as-of.
//!
//! No async, no clock, no I/O in these modules.

pub mod literals;
pub mod prune;
pub mod seam;
pub mod sql;
