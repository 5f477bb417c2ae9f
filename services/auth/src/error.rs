//! What goes wrong: for the operator ([`AuthError`]) and for the caller ([`Denied`]).

use std::path::{Path, PathBuf};

use tidegauge_core::{ErrorKind, ServiceError};

/// A file of the `auth` folder or the rules file cannot be used. For the operator; names the file, never its contents.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The operating system refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file with secrets can be read by others.
    #[error("{path} has mode {mode:03o}, which lets others read it; run chmod 600 on it")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file is not what it should be.
    #[error("{path}{}: {problem}", .line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where the file has lines.
        line: Option<usize>,
        /// What is wrong with it.
        problem: String,
    },
    /// A credential was asked for that must not exist.
    #[error("{0}")]
    Refused(String),
    /// Signing failed.
    #[error("cannot sign a token: {0}")]
    Signing(String),
}

impl AuthError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    pub(crate) fn invalid(path: &Path, line: Option<usize>, problem: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), line, problem: problem.into() }
    }
}

/// Why a credential grants nothing. The texts tell an honest caller what to mend and a dishonest one nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    /// There is no credential.
    #[error("no credential; send the header authorization with a token or an API key")]
    Missing,
    /// The credential is malformed, unknown, not signed by us, revoked, or for somebody else.
    #[error("the credential is not valid")]
    Invalid,
    /// The credential was valid and has expired.
    #[error("the credential has expired")]
    Expired,
}

impl Denied {
    /// Stable word for programs and for the audit log.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "CREDENTIAL_MISSING",
            Self::Invalid => "CREDENTIAL_INVALID",
            Self::Expired => "CREDENTIAL_EXPIRED",
        }
    }
}

impl From<Denied> for ServiceError {
    fn from(denied: Denied) -> Self {
        Self::new(ErrorKind::Unauthenticated, denied.reason(), denied.to_string())
    }
}
