//! The durable form must not change by accident: state written by an older build has to be read.
