//! Conformance of a log backend.
