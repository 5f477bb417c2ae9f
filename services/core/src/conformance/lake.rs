//! Conformance of a lake backend.
