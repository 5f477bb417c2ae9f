//! Embedded backends: log, hot store, checkpoints, local lake

pub mod checkpoint;
pub mod hot_store;
