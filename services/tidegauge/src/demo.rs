//! `demo`: the whole platform in one process, fed with real measurements of this machine.
//!
//! It starts a server on its own data directory, feeds it through the public client over TCP, shows a table of current
//! values that moves, and prints lines that can be copied. The directory is kept: the next demo goes on with it.

mod feed;
mod lines;
mod machine;
mod samples;
mod screen;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tidegauge_auth::TenantClaim;
use tidegauge_client::{Client, ClientOptions};
use tidegauge_core::clock::SystemClock;
use tidegauge_core::scope::Role;
use tidegauge_core::{TenantId, limits};
use tokio_util::sync::CancellationToken;

use crate::failure::{Doing as _, Failure, Outcome};
use crate::serve::compose::Running;
use crate::serve::listen::Listeners;
use crate::serve::logging;
use crate::serve::signals::Signals;
use crate::settings::{self, Settings};
use crate::tell::tell;
use crate::units::Span;

/// Tenant of this machine's measurements.
const LOCAL: &str = "local";
/// How long the demo's credentials are valid.
const TOKEN_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

const EXAMPLES: &str = "\
Examples:
  tidegauge demo
  tidegauge demo --plain --for 1m > demo.txt

Where a port is in use, another one is taken and named; the lines that are printed for copying fit it.";

/// Arguments of `demo`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Directory of the demo's data; it is kept
    #[arg(long, default_value = "./tidegauge-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// End after this time [default: with Ctrl-C]
    #[arg(long = "for", value_name = "DURATION")]
    time: Option<Span>,
    /// Print the table every few seconds instead of redrawing it
    #[arg(long)]
    plain: bool,
}

/// Settings of the demo: the server's own, with what was closed published after seconds, so that history shows soon. Its
/// clients speak plaintext on this machine and bring credentials of their own, whatever a settings file says.
fn demo_settings(data_dir: &Path) -> Outcome<Settings> {
    let mut settings = Settings::read(&settings::load(None)?)?;
    settings.server.data_dir = data_dir.display().to_string();
    settings.server.tls_certificate = Default::default();
    settings.server.tls_key = Default::default();
    settings.auth.rules_file = Default::default();
    settings.publish.interval = Span(Duration::from_secs(10));
    Ok(settings)
}

/// Runs the demo until Ctrl-C, or for the time given.
///
/// # Errors
/// When the server does not start or a credential cannot be made.
pub(crate) async fn run(args: DemoArgs) -> Outcome {
    tell(format_args!("data directory: {}", args.data_dir.display()));
    let settings = demo_settings(&args.data_dir)?;
    let mut signals = Signals::take()?;
    logging::start(if args.plain { "warn" } else { "error" }, "text")?;
    let listeners = Listeners::bind_or_other(&settings.server.grpc, &settings.server.http).await?;
    let mut running = Running::start(&settings, listeners).await?;
    tell(format_args!("server: gRPC {}, HTTP {}", running.grpc(), running.http()));

    let tokens = Tokens::make(&args.data_dir)?;
    let endpoint = format!("http://{}", running.grpc());
    let stop = CancellationToken::new();
    let mut feeds = tokio::task::JoinSet::new();
    let writer = connect(&endpoint, &tokens.writer, LOCAL).await?;
    feeds.spawn(machine::feed(writer, stop.clone()));
    for sample in samples::ALL {
        let writer = connect(&endpoint, &tokens.writer, sample.tenant).await?;
        feeds.spawn(samples::feed(writer, sample, stop.clone()));
    }

    let lines = lines::copyable(&endpoint, &tokens.file);
    let mut readers = Vec::new();
    for tenant in [LOCAL].into_iter().chain(samples::ALL.iter().map(|sample| sample.tenant)) {
        readers.push((tenant, connect(&endpoint, &tokens.reader, tenant).await?));
    }
    let shown = screen::show(readers, lines, args.plain);
    tokio::select! {
        result = shown => result?,
        () = end_of_time(args.time) => {}
        _ = signals.next() => {}
        failure = running.failed() => return Err(Failure::new(failure)),
        Some(ended) = feeds.join_next() => {
            match ended {
                Ok(result) => result?,
                Err(panic) => return Err(Failure::new(format!("a feed has ended: {panic}"))),
            }
        }
    }
    tell(format_args!("\nstopping; the data stays in {}", args.data_dir.display()));
    stop.cancel();
    while let Some(ended) = feeds.join_next().await {
        if let Ok(Err(failure)) = ended {
            tell(failure);
        }
    }
    tokio::select! {
        _ = running.drain(limits::DRAIN_TIME_MAX) => Ok(()),
        _ = signals.next() => Err(Failure::new("ended without drain; the next start repeats what is missing")),
    }
}

async fn end_of_time(time: Option<Span>) {
    match time {
        Some(time) => {
            let mut interval = tokio::time::interval(time.0);
            interval.tick().await;
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn connect(endpoint: &str, token: &str, tenant: &str) -> Outcome<Client> {
    let options = ClientOptions {
        endpoint: endpoint.to_owned(),
        token: Some(token.to_owned()),
        tenant: Some(tenant.to_owned()),
        ..ClientOptions::default()
    };
    Ok(Client::connect(options).await?)
}

/// The demo's credentials, signed with the data directory's key.
struct Tokens {
    writer: String,
    reader: String,
    /// Where the reader's token stands for copying.
    file: PathBuf,
}

impl Tokens {
    fn make(data_dir: &Path) -> Outcome<Self> {
        let clock = SystemClock::default();
        let names = [LOCAL].into_iter().chain(samples::ALL.iter().map(|sample| sample.tenant));
        let tenants: Vec<TenantId> =
            names.map(TenantId::parse).collect::<Result<_, _>>().doing("the demo's tenants")?;
        let make = |user: &str, role| {
            let claim = TenantClaim::Only(tenants.clone());
            tidegauge_auth::create_token(&data_dir.join("auth"), user, &claim, role, TOKEN_TTL, &clock)
                .doing("the demo's credentials")
        };
        let reader = make("demo-reader", Role::Reader)?;
        let file = data_dir.join("demo-token");
        write_private(&file, &reader)?;
        Ok(Self { writer: make("demo-writer", Role::Writer)?, reader, file })
    }
}

/// Writes a file that only the owner can read.
fn write_private(path: &Path, text: &str) -> Outcome {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).doing(path.display())?;
    file.write_all(text.as_bytes()).doing(path.display())
}
