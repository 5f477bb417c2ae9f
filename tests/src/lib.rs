//! End-to-end tests of Tidegauge
