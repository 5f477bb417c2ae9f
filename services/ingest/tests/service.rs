//! The ingest service behind the real server: interceptor, limits, wire.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make their own scopes and fail by panics")]

#[path = "service/clock.rs"]
mod clock;
#[path = "service/counts.rs"]
mod counts;
#[path = "service/durable.rs"]
mod durable;
#[path = "service/errors.rs"]
mod errors;
#[path = "service/streams.rs"]
mod streams;
#[path = "service/world.rs"]
mod world;
