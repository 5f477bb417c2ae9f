//! Aggregation service
