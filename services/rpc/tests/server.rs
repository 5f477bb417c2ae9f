//! The server from outside: authorization, limits, details, drain.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests compose a process of their own")]

#[path = "server/details.rs"]
mod details;
#[path = "server/drain.rs"]
mod drain;
#[path = "server/internal.rs"]
mod internal;
#[path = "server/paths.rs"]
mod paths;
#[path = "server/start.rs"]
mod start;
#[path = "server/streams.rs"]
mod streams;
#[path = "server/tls.rs"]
mod tls;
#[path = "server/walk.rs"]
mod walk;
#[path = "server/world.rs"]
mod world;
