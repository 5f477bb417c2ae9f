//! Conformance of a checkpoint backend.
