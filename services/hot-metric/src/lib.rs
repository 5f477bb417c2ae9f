//! Hot-metric service
