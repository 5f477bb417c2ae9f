//! How a command fails: a message, a hint where one helps, and the exit code.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::io;

use tidegauge_auth::AuthError;
use tidegauge_client::ClientError;
use tidegauge_embedded::data_dir::DataDirError;
use tidegauge_rpc::StartError;

use crate::hints;

/// Exit code of a command that failed.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Exit code of a command that was called wrongly.
pub(crate) const EXIT_USAGE: u8 = 2;

/// Why a command ended without success.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    /// The server's word for it.
    reason: Option<String>,
    /// The tenant that the server was asked for.
    asked: Option<String>,
    code: u8,
}

/// Result of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// The work failed.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, reason: None, asked: None, code: EXIT_FAILED }
    }

    /// The command was called wrongly.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: EXIT_USAGE, ..Self::new(message) }
    }

    /// Adds a line that tells what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a line that tells what to do, unless there is one: what is known closer to the cause is better advice.
    #[must_use]
    pub(crate) fn or_hint(self, hint: impl Into<String>) -> Self {
        if self.advice().is_some() { self } else { self.hint(hint) }
    }

    /// Says which tenant the server was asked for, unless that was said closer to the cause.
    #[must_use]
    pub(crate) fn asked_for(mut self, tenant: Option<&str>) -> Self {
        if self.asked.is_none() {
            self.asked = tenant.map(str::to_owned);
        }
        self
    }

    /// What happened, without advice.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The server's word for it, if it was the server that refused.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// What to do: as was said where it failed, otherwise what helps against the server's reason.
    pub(crate) fn advice(&self) -> Option<Cow<'_, str>> {
        match (&self.hint, &self.reason) {
            (Some(hint), _) => Some(hint.into()),
            (None, Some(reason)) => hints::of_reason(reason, self.asked.as_deref()).map(Cow::Owned),
            (None, None) => None,
        }
    }

    /// Adds advice for what the operating system refused, where there is some.
    #[must_use]
    pub(crate) fn or_io_hint(self, error: &io::Error) -> Self {
        match hints::of_io(error.kind()) {
            Some(hint) => self.or_hint(hint),
            None => self,
        }
    }

    /// What the process exits with.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Puts what was being done before the message.
    #[must_use]
    pub(crate) fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

/// `error: …`, and `hint: …` on a second line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match self.advice() {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = match error {
            ClientError::Option { .. } => Self::usage(error.to_string()),
            _ => Self::new(error.to_string()),
        };
        let hint = hints::of_client(&error).map(str::to_owned);
        Self { hint, reason: error.reason().map(str::to_owned), ..failure }
    }
}

impl From<DataDirError> for Failure {
    fn from(error: DataDirError) -> Self {
        let failure = Self::new(error.to_string());
        match error {
            // It says who has it and what to do.
            DataDirError::Locked { .. } => failure,
            DataDirError::Io { source, .. } => {
                failure.or_io_hint(&source).or_hint("--data-dir names another directory")
            }
        }
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        let failure = Self::new(error.to_string());
        match error {
            AuthError::Io { source, .. } => failure.or_io_hint(&source),
            AuthError::Invalid { .. } => {
                failure.hint("mend the file, or put back a copy; a new signing key would make every token invalid")
            }
            // What must not be was asked for.
            AuthError::Refused(_) => Self { code: EXIT_USAGE, ..failure },
            // These say what to do.
            AuthError::Mode { .. } | AuthError::Signing(_) => failure,
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let failure = Self::new(error.to_string());
        match error {
            StartError::Tls { .. } => failure.hint(
                "server.tls_certificate names the server's chain of certificates, server.tls_key its private key, both in \
                 PEM form",
            ),
            _ => failure,
        }
    }
}

/// Gives a result the path and the action that failed.
pub(crate) trait Doing<T> {
    /// Names what was being done; what the operating system refused gets its advice.
    fn doing(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display + 'static> Doing<T> for Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| {
            let failure = Failure::new(format!("{what}: {error}"));
            match (&error as &dyn Any).downcast_ref::<io::Error>() {
                Some(error) => failure.or_io_hint(error),
                None => failure,
            }
        })
    }
}
