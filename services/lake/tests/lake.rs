//! Tests of the lake crate over an in-memory store: merge against an oracle, objects, application, index, formats.
#![allow(clippy::disallowed_methods, reason = "tests compose their own process")]

#[path = "lake/apply.rs"]
mod apply;
#[path = "lake/golden.rs"]
mod golden;
#[path = "lake/index.rs"]
mod index;
#[path = "lake/merge.rs"]
mod merge;
#[path = "lake/object.rs"]
mod object;
#[path = "lake/paths.rs"]
mod paths;
#[path = "lake/support.rs"]
mod support;
