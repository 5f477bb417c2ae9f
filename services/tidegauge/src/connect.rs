//! What every command that talks to a server shares: address, credential, tenant.

use std::path::PathBuf;

use clap::Args;
use tidegauge_client::{Client, ClientOptions};
use tidegauge_core::TenantId;

use crate::failure::{Doing as _, Failure, Outcome};
use crate::text_table::printable;

/// Flags of a client.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ConnectArgs {
    /// Address of the server
    #[arg(long, env = "TIDEGAUGE_ENDPOINT", default_value = "http://127.0.0.1:7171", value_name = "URL")]
    pub(crate) endpoint: String,
    /// Token or API key
    #[arg(long, env = "TIDEGAUGE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Tenant to act for, where the credential covers several
    #[arg(long, env = "TIDEGAUGE_TENANT", value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// Certificate authority of the server (PEM), for https addresses [default: those that this machine trusts]
    #[arg(long, env = "TIDEGAUGE_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// What a tenant's name may be; a server would refuse another one without saying why.
const TENANT_RULE: &str = "a tenant is 1 to 63 of a-z, 0-9, _ and -, and begins with a letter or digit";

impl ConnectArgs {
    /// The options of the client.
    ///
    /// # Errors
    /// When the certificate cannot be read, or the tenant is none.
    pub(crate) fn options(&self) -> Outcome<ClientOptions> {
        let ca_pem = match &self.ca {
            Some(path) => Some(std::fs::read(path).doing(format_args!("--ca {}", path.display()))?),
            None => None,
        };
        Ok(ClientOptions {
            endpoint: self.endpoint.clone(),
            token: self.token.clone().filter(|token| !token.is_empty()),
            tenant: self.tenant()?.map(str::to_owned),
            ca_pem,
        })
    }

    /// The tenant to act for; an empty one is none.
    ///
    /// # Errors
    /// When it is no tenant's name.
    pub(crate) fn tenant(&self) -> Outcome<Option<&str>> {
        let Some(tenant) = self.tenant.as_deref().filter(|tenant| !tenant.is_empty()) else { return Ok(None) };
        match TenantId::parse(tenant) {
            Ok(_) => Ok(Some(tenant)),
            Err(error) => Err(Failure::usage(format!("--tenant {:?} {error}", printable(tenant))).hint(TENANT_RULE)),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// With a hint where one helps.
    pub(crate) async fn connect(&self) -> Outcome<Client> {
        Ok(Client::connect(self.options()?).await?)
    }
}

/// Reads a tenant that a flag names.
///
/// # Errors
/// What is wrong with it, and the rule.
pub(crate) fn tenant_id(text: &str) -> Result<TenantId, String> {
    TenantId::parse(text).map_err(|error| format!("{error}; {TENANT_RULE}"))
}
