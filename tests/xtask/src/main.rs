//! Development commands of Tidegauge.

fn main() {}
