//! Client for Tidegauge: producer, hot reader and query
