//! Proof of I3.
