//! `bench`: what this machine reaches, client included. Use a release build.
//!
//! Each benchmark states its data and batch size and checks its totals afterwards. Without `--endpoint` it starts a server
//! of its own, as a child process with a temporary data directory.

mod data;
mod freshness;
mod histogram;
mod ingest;
mod load;
mod neighbours;
mod query;
mod report;
mod server;

use clap::{Args, Subcommand};

use crate::failure::Outcome;
use crate::output::TableForm;
use crate::tell::tell;

/// Commands of `bench`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Durable events a second, until acknowledged and until in windows
    Ingest(ingest::IngestArgs),
    /// A file of events through `tidegauge load`, until durable and until in windows
    Load(load::LoadArgs),
    /// Time of the dashboard query through Flight SQL
    Query(query::QueryArgs),
    /// Time from publishing an event to a watcher that sees it
    Freshness(freshness::FreshnessArgs),
    /// Times of a quiet tenant, alone and beside one that sends all it may
    Neighbours(neighbours::NeighboursArgs),
    /// Send until standard input ends: the neighbour of `neighbours`
    #[command(hide = true)]
    Flood(neighbours::FloodArgs),
}

/// What all benchmarks share.
#[derive(Clone, Debug, Args)]
pub(crate) struct TargetArgs {
    /// A running server instead of one of our own; needs --token
    #[arg(long, value_name = "URL", requires = "token")]
    endpoint: Option<String>,
    /// Admin token for --endpoint
    #[arg(long, env = "TIDEGAUGE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Form of the figures
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: TableForm,
}

/// Runs a benchmark.
///
/// # Errors
/// When the server fails, or the totals afterwards are not what was sent.
pub(crate) async fn run(command: BenchCommand) -> Outcome {
    if cfg!(debug_assertions) {
        tell("warning: this is a debug build; its figures say nothing");
    }
    match command {
        BenchCommand::Flood(args) => neighbours::flood(args).await,
        BenchCommand::Ingest(args) => ingest::run(args).await,
        BenchCommand::Load(args) => load::run(args).await,
        BenchCommand::Query(args) => query::run(args).await,
        BenchCommand::Freshness(args) => freshness::run(args).await,
        BenchCommand::Neighbours(args) => neighbours::run(args).await,
    }
}
