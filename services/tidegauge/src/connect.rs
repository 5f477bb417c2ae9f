//! What every command that talks to a server shares: address, credential, tenant.

use std::path::PathBuf;

use clap::Args;
use tidegauge_client::{Client, ClientError, ClientOptions};

use crate::failure::{Doing as _, Failure, Outcome};

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

impl ConnectArgs {
    /// The options of the client.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub(crate) fn options(&self) -> Outcome<ClientOptions> {
        let ca_pem = match &self.ca {
            Some(path) => Some(std::fs::read(path).doing(path.display())?),
            None => None,
        };
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Ok(ClientOptions {
            endpoint: self.endpoint.clone(),
            token: filled(&self.token),
            tenant: filled(&self.tenant),
            ca_pem,
        })
    }

    /// Connects.
    ///
    /// # Errors
    /// With a hint where one helps.
    pub(crate) async fn connect(&self) -> Outcome<Client> {
        Ok(Client::connect(self.options()?).await?)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = match error {
            ClientError::Option { .. } => Self::usage(error.to_string()),
            _ => Self::new(error.to_string()),
        };
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
