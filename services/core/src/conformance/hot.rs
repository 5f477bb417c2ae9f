//! Conformance of a hot backend.
