//! Embedded backends: log, hot store, checkpoints, local lake
