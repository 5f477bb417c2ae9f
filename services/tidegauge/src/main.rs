//! Tidegauge: command line and server.

mod connect;
mod failure;
mod load;
mod settings;
mod text_table;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Outcome;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Multi-tenant metrics: durable events in, live values and history out.
#[derive(Debug, Parser)]
#[command(name = "tidegauge", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load files of events (NDJSON, CSV); resumes, and counts nothing twice
    Load(load::LoadArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| failure::Failure::new(format!("the runtime does not start: {error}")))?;
    match cli.command {
        Command::Load(args) => runtime.block_on(load::run(args)),
    }
}
