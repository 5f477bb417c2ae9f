//! `token create` and `key create`: credentials made offline, with the keys of a data directory.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};
use tidegauge_auth::TenantClaim;
use tidegauge_core::TenantId;
use tidegauge_core::clock::{Clock as _, SystemClock};
use tidegauge_core::scope::Role;
use tidegauge_core::time::rfc3339;

use crate::connect;
use crate::failure::Outcome;
use crate::output::{self, TextForm};
use crate::settings::{self, Settings};
use crate::stdout;
use crate::tell::tell;
use crate::units::Span;

const TOKEN_EXAMPLES: &str = "\
Examples:
  tidegauge token create --user me --tenant acme --role admin
  TIDEGAUGE_TOKEN=$(tidegauge token create --user ci --tenant acme --tenant globex --role writer --ttl 1h)
  tidegauge token create --user ops --all-tenants --role reader -o json

Only the token goes to standard output. It is signed here, without a server; a server of the same data directory takes it.";

const KEY_EXAMPLES: &str = "\
Examples:
  tidegauge key create --user collector --tenant acme --role writer
  tidegauge key create --user dashboard --by-rules --role reader --ttl 90d -o json

Only the key goes to standard output, this once. A running server takes it within a second. To end it, take the entry with its
id out of auth/api-keys.json in the data directory; a running server notices that by itself, too.";

/// Commands about tokens.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Sign a token with the data directory's key
    #[command(after_help = TOKEN_EXAMPLES)]
    Create {
        #[command(flatten)]
        grant: GrantArgs,
        /// How long it is valid
        #[arg(long, default_value = "30d", value_name = "DURATION", value_parser = life)]
        ttl: Span,
        /// Form of the result: json adds id, grant and time
        #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
        output: TextForm,
    },
}

/// Commands about API keys.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make an API key; the data directory keeps its hash
    #[command(after_help = KEY_EXAMPLES)]
    Create {
        #[command(flatten)]
        grant: GrantArgs,
        /// How long it is valid [default: until its entry is removed]
        #[arg(long, value_name = "DURATION", value_parser = life)]
        ttl: Option<Span>,
        /// Form of the result: json adds id, grant and time
        #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
        output: TextForm,
    },
}

/// Who gets what.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("tenants").required(true).multiple(false).args(["tenant", "all_tenants", "by_rules"]))]
pub(crate) struct GrantArgs {
    /// Whose credential it is
    #[arg(long, value_name = "NAME", value_parser = user_name)]
    user: String,
    /// A tenant it covers; may be given several times
    #[arg(long, value_name = "TENANT", value_parser = connect::tenant_id)]
    tenant: Vec<TenantId>,
    /// It covers every tenant
    #[arg(long)]
    all_tenants: bool,
    /// It covers what the rules file grants the user
    #[arg(long)]
    by_rules: bool,
    /// writer, reader or admin
    #[arg(long, value_name = "ROLE")]
    role: Role,
    /// Data directory whose keys are used [default: setting server.data_dir]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl GrantArgs {
    fn claim(&self) -> TenantClaim {
        match (self.all_tenants, self.by_rules) {
            (true, _) => TenantClaim::All,
            (_, true) => TenantClaim::ByRules,
            _ => TenantClaim::Only(self.tenant.clone()),
        }
    }

    fn auth_folder(&self) -> Outcome<PathBuf> {
        let data_dir = data_dir(self.data_dir.clone())?;
        if !data_dir.is_dir() {
            tell(format_args!("{} is made: a server must be started with the same directory", data_dir.display()));
            tidegauge_embedded::data_dir::DataDir::open(&data_dir)?;
        }
        Ok(data_dir.join("auth"))
    }

    fn describe(&self) -> String {
        let tenants = match self.claim() {
            TenantClaim::All => "every tenant".to_owned(),
            TenantClaim::ByRules => "the tenants of the rules file".to_owned(),
            TenantClaim::Only(tenants) => tenants.iter().map(TenantId::as_str).collect::<Vec<_>>().join(", "),
        };
        format!("{} of {tenants} for {}", self.role.as_str(), self.user)
    }

    /// The credential for programs. `id` is its name in the audit log; without named tenants `tenants` is null.
    fn document(&self, kind: &str, credential: &str, valid_until: Option<String>) -> Value {
        let claim = self.claim();
        let tenants = match &claim {
            TenantClaim::Only(tenants) => Some(tenants.iter().map(TenantId::as_str).collect::<Vec<_>>()),
            TenantClaim::All | TenantClaim::ByRules => None,
        };
        json!({
            kind: credential,
            "id": tidegauge_auth::audit_name(credential),
            "user": self.user,
            "role": self.role.as_str(),
            "tenants": tenants,
            "all_tenants": claim == TenantClaim::All,
            "by_rules": claim == TenantClaim::ByRules,
            "valid_until": valid_until,
        })
    }
}

/// Reads how long a credential is to live.
fn life(text: &str) -> Result<Span, String> {
    match text.parse()? {
        Span(life) if life < Duration::from_secs(1) => Err("a credential must live for at least a second".to_owned()),
        life => Ok(life),
    }
}

/// Reads a user's name.
fn user_name(text: &str) -> Result<String, String> {
    match tidegauge_auth::user_name_problem(text) {
        Some(problem) => Err(format!("a user's name {problem}")),
        None => Ok(text.to_owned()),
    }
}

/// The data directory: the flag's, otherwise the setting's.
///
/// # Errors
/// Settings that cannot be read.
pub(crate) fn data_dir(flag: Option<PathBuf>) -> Outcome<PathBuf> {
    match flag {
        Some(dir) => Ok(dir),
        None => Ok(Settings::read(&settings::load(None)?)?.server.data_dir.into()),
    }
}

fn until(clock: &SystemClock, ttl: Span) -> String {
    let ns = i64::try_from(ttl.0.as_nanos()).unwrap_or(i64::MAX);
    let end = clock.wall_ns().saturating_add(ns);
    rfc3339(end - end.rem_euclid(1_000_000_000))
}

/// Makes a token; only the token, or the document with it, goes to standard output.
///
/// # Errors
/// The key cannot be used, or the token must not exist.
pub(crate) fn token(command: TokenCommand) -> Outcome {
    let TokenCommand::Create { grant, ttl, output } = command;
    let clock = SystemClock::default();
    let folder = grant.auth_folder()?;
    let token = tidegauge_auth::create_token(&folder, &grant.user, &grant.claim(), grant.role, ttl.0, &clock)?;
    let until = until(&clock, ttl);
    if output == TextForm::Json {
        return output::document(&grant.document("token", &token, Some(until)));
    }
    tell(format_args!("token: {}, valid until {until}", grant.describe()));
    stdout::write(format_args!("{token}\n"))
}

/// Makes an API key; only the key, or the document with it, goes to standard output.
///
/// # Errors
/// The key file cannot be used, or the key must not exist.
pub(crate) fn key(command: KeyCommand) -> Outcome {
    let KeyCommand::Create { grant, ttl, output } = command;
    let clock = SystemClock::default();
    let folder = grant.auth_folder()?;
    let ttl_duration = ttl.map(|ttl| ttl.0);
    let key = tidegauge_auth::create_key(&folder, &grant.user, &grant.claim(), grant.role, ttl_duration, &clock)?;
    let until = ttl.map(|ttl| until(&clock, ttl));
    if output == TextForm::Json {
        return output::document(&grant.document("key", &key, until));
    }
    let valid = until.map_or_else(|| "until it is removed".to_owned(), |until| format!("until {until}"));
    tell(format_args!("API key: {}, valid {valid}; it is shown this once", grant.describe()));
    let name = tidegauge_auth::audit_name(&key).unwrap_or_default();
    let (id, file) = (name.trim_start_matches("key:"), folder.join("api-keys.json"));
    let file = file.display();
    tell(format_args!("to remove it, take the entry with id {id} out of {file}; a running server notices by itself"));
    stdout::write(format_args!("{key}\n"))
}
