//! Tidegauge: command line and server.

mod bench;
mod connect;
mod credentials;
mod demo;
mod emit;
mod failure;
mod hints;
mod load;
mod output;
mod query;
mod serve;
mod settings;
mod status;
mod stdout;
mod tell;
mod terminal;
mod text_table;
mod units;
mod verify;
mod watch;

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
    /// Run the server
    Serve(serve::ServeArgs),
    /// Make tokens
    #[command(subcommand)]
    Token(credentials::TokenCommand),
    /// Make API keys
    #[command(subcommand)]
    Key(credentials::KeyCommand),
    /// Publish one event, or events from standard input
    Emit(emit::EmitArgs),
    /// Load files of events (NDJSON, CSV); resumes, and counts nothing twice
    Load(Box<load::LoadArgs>),
    /// Ask with SQL, over live values and history
    Query(query::QueryArgs),
    /// Watch current values as they change
    Watch(watch::WatchArgs),
    /// Show how far the server is
    Status(status::StatusArgs),
    /// Prove that a stopped server's data adds up
    Verify(verify::VerifyArgs),
    /// Run everything at once, fed with measurements of this machine
    Demo(demo::DemoArgs),
    /// Measure what this machine reaches
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell::tell(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli) -> Outcome {
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Token(command) => credentials::token(command),
        Command::Key(command) => credentials::key(command),
        Command::Emit(args) => ask(args.connect.clone(), emit::run(args)),
        Command::Load(args) => ask(args.connect.clone(), load::run(*args)),
        Command::Query(args) => ask(args.connect.clone(), query::run(args)),
        Command::Watch(args) => ask(args.connect.clone(), watch::run(args)),
        Command::Status(args) => ask(args.connect.clone(), status::run(args)),
        Command::Verify(args) => work(verify::run(args)),
        Command::Demo(args) => work(demo::run(args)),
        Command::Bench(command) => work(bench::run(command)),
    }
}

fn work(command: impl Future<Output = Outcome>) -> Outcome {
    serve::runtime(0)?.block_on(command)
}

/// Works with a server; a refusal names the tenant that it was asked for.
fn ask(connect: connect::ConnectArgs, command: impl Future<Output = Outcome>) -> Outcome {
    let tenant = connect.tenant()?;
    work(command).map_err(|failure| failure.asked_for(tenant))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// A command's own flags stand apart from those about the server, and every command is shown at work.
    #[test]
    fn help_is_in_order() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        for command in cli.get_subcommands() {
            let name = command.get_name();
            for argument in command.get_arguments().filter(|argument| argument.get_help_heading() == Some("Server")) {
                let flag = argument.get_id().as_str();
                assert!(["endpoint", "token", "tenant", "ca"].contains(&flag), "{name}: --{flag}");
            }
            let has_commands_below = ["token", "key", "bench", "help"].contains(&name);
            assert!(has_commands_below || command.get_after_help().is_some(), "{name} has no examples");
        }
    }
}
