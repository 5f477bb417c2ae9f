//! `tidegauge serve`: settings → listeners → the composed server → signals → drain.

pub(crate) mod compose;
mod descriptors;
mod http;
pub(crate) mod listen;
pub(crate) mod logging;
pub(crate) mod signals;

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tidegauge_core::limits;

use crate::failure::{Doing as _, Failure, Outcome};
use crate::output::{self, TextForm};
use crate::settings::{self, Layers, Settings};
use compose::Running;
use listen::Listeners;

const EXAMPLES: &str = "\
Examples:
  tidegauge serve
  tidegauge serve --data-dir /var/lib/tidegauge --grpc 127.0.0.1:0 --http 127.0.0.1:0
  tidegauge serve --print-config > tidegauge.toml
  tidegauge serve --print-config -o json | jq -r .server.data_dir
  TIDEGAUGE_PUBLISH_INTERVAL=10s tidegauge serve

A setting is taken from its flag, else from TIDEGAUGE_<SECTION>_<KEY>, else from the file. SIGTERM and Ctrl-C drain.";

/// Flags of `serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Settings file [default: tidegauge.toml, if there is one]
    #[arg(long, env = "TIDEGAUGE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of everything durable (server.data_dir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address of gRPC (server.grpc); port 0 picks one
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<String>,
    /// Address of HTTP (server.http); port 0 picks one
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// Listen beyond this machine without TLS (server.insecure_plaintext)
    #[arg(long)]
    insecure_plaintext: bool,
    /// Print the effective settings and end
    #[arg(long)]
    print_config: bool,
    /// Form of what standard output gets: the line with the addresses, or the settings (text: TOML)
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
    output: TextForm,
}

impl ServeArgs {
    fn layers(&self) -> Outcome<Layers> {
        let mut layers = settings::load(self.config.as_deref())?;
        let flags = [
            ("data_dir", "--data-dir", self.data_dir.clone()),
            ("grpc", "--grpc", self.grpc.clone()),
            ("http", "--http", self.http.clone()),
            ("insecure_plaintext", "--insecure-plaintext", self.insecure_plaintext.then(|| "true".to_owned())),
        ];
        for (key, flag, value) in flags {
            if let Some(value) = value {
                layers.add_flag("server", key, flag, value);
            }
        }
        Ok(layers)
    }
}

/// Serves until a signal.
///
/// # Errors
/// When the server cannot start, or a part of it failed.
pub(crate) fn run(args: &ServeArgs) -> Outcome {
    let layers = args.layers()?;
    let settings = Settings::read(&layers)?;
    if args.print_config {
        return match args.output {
            TextForm::Text => crate::stdout::write(settings::print(&layers)),
            TextForm::Json => output::document(&settings::document(&layers)),
        };
    }
    logging::start(&settings.diagnostics.filter, &settings.diagnostics.format)?;
    runtime(settings.server.threads)?.block_on(serve(&settings, args.output))
}

/// The runtime of a server: one thread a core unless set.
///
/// # Errors
/// When the operating system gives no threads.
pub(crate) fn runtime(threads: usize) -> Outcome<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_all().thread_name("tidegauge").build().doing("the runtime does not start")
}

async fn serve(settings: &Settings, form: TextForm) -> Outcome {
    let mut signals = signals::Signals::take()?;
    let listeners = Listeners::bind(&settings.server.grpc, &settings.server.http).await?;
    let mut running = tokio::select! {
        started = Running::start(settings, listeners) => started?,
        // Opening a large directory takes a while. Nothing was taken yet, and what is half open bears being left so.
        signal = signals.next() => {
            tracing::info!(signal, "ending before the start was complete");
            std::process::exit(0);
        }
    };
    let mut out = std::io::stdout().lock();
    // For programs; a reader that has gone is no reason to stop.
    let (grpc, http) = (running.grpc(), running.http());
    let _ = match form {
        TextForm::Text => writeln!(out, "listening grpc={grpc} http={http}"),
        TextForm::Json => writeln!(out, "{}", json!({"grpc": grpc.to_string(), "http": http.to_string()})),
    };
    let _ = out.flush();
    drop(out);
    let data_dir = &settings.server.data_dir;
    tracing::info!(%grpc, %http, data_dir, "ready");

    let failed = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "draining; a second signal ends at once");
            None
        }
        failure = running.failed() => Some(failure),
    };
    let drained = tokio::select! {
        drained = running.drain(limits::DRAIN_TIME_MAX) => drained,
        signal = signals.next() => {
            tracing::warn!(signal, "ending without drain");
            std::process::exit(130);
        }
    };
    match failed {
        Some(failure) => Err(Failure::new(failure)),
        None => {
            tracing::info!(complete = drained, "stopped");
            Ok(())
        }
    }
}
