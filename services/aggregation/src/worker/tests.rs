//! The worker over backends in memory: killed before or after every single operation on them, it must carry on as if
//! nothing had happened, and readers must never see a sum that I6 forbids.

#![allow(clippy::unwrap_used, reason = "tests")]

mod backends;
mod clock;
mod embedded;
mod hot;
mod lives;
mod standstill;
mod status;
mod world;
