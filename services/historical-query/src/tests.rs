//! The engine as a whole, over a lake in memory that the lake crate writes and a live side that the tests move.
#![allow(clippy::disallowed_methods, reason = "tests make their own scopes and authority")]

mod answers;
mod flight;
mod hostile;
mod model;
mod seam;
mod sql;
mod world;
