//! Embedded backends: log, hot store, checkpoints, local lake

pub mod checkpoint;
pub mod data_dir;
pub mod files;
pub mod hot_store;
pub mod lake_store;
pub mod log;
pub mod meters;
