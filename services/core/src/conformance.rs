//! The suites that every implementation of a backend trait runs. Each is an `async fn` over a factory, so that the
//! caller brings its own runtime: `conformance::log::all(&factory).await`.

pub mod checkpoint;
pub mod hot;
pub mod lake;
pub mod log;
