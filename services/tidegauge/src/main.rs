//! Tidegauge: command line and server.

fn main() {}
