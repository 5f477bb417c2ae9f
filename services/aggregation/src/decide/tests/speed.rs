//! Not a benchmark, a tripwire.
