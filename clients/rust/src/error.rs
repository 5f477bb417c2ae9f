//! Errors: what the server said, taken from `google.rpc` details, and what failed before it could say anything.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio_rustls::rustls::{self, CertificateError};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why a call failed. Its text is made for people: it names value and rule. What to do about it depends on the program
/// around: the command line has its own advice for every reason.
#[derive(Clone, Debug)]
pub enum ClientError {
    /// An option of the client cannot be used.
    Option {
        /// The option.
        option: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No connection.
    Connect {
        /// The address.
        endpoint: String,
        /// The cause.
        problem: String,
        /// What stood in the way.
        obstacle: Obstacle,
    },
    /// The server refused or failed the call.
    Server(Box<ServerError>),
    /// A batch is larger than the server takes; it was not sent.
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The largest size.
        max: usize,
    },
    /// The server's answer breaks the contract.
    Protocol(String),
    /// The producer was closed, or failed before with the given error.
    Closed(Option<Box<ClientError>>),
    /// Retries went on for the allowed time without success.
    GaveUp {
        /// How long was retried.
        after: Duration,
        /// The last failure.
        last: Box<ClientError>,
    },
}

/// What stood in the way of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// Nobody answers there.
    Unreachable,
    /// No known authority has signed the server's certificate.
    UnknownAuthority,
    /// The server's certificate is for other names.
    WrongName,
    /// The server's certificate cannot be used for another reason, its time for example.
    BadCertificate,
    /// The address says TLS, and the server speaks none, or another one.
    NoTls,
    /// What answers there does not speak HTTP/2 without TLS.
    NoHttp2,
    /// The connection was ended without an answer: by a server that dies or stops, or by something that is none.
    HungUp,
}

impl Obstacle {
    /// Looks for it among the causes of an error.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        for cause in causes(error) {
            let io = cause.downcast_ref::<io::Error>();
            let inner = io.and_then(io::Error::get_ref).and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match cause.downcast_ref::<rustls::Error>().or(inner) {
                None => {}
                Some(rustls::Error::InvalidCertificate(problem)) => {
                    return match problem {
                        CertificateError::UnknownIssuer => Self::UnknownAuthority,
                        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                            Self::WrongName
                        }
                        _ => Self::BadCertificate,
                    };
                }
                Some(_) => return Self::NoTls,
            }
        }
        Self::Unreachable
    }

    /// Why a connection that stood gave no first answer. A server that dies just then and a stranger that hangs up look
    /// alike, and which error the transport keeps depends on who comes first: only frames that are none prove a stranger.
    pub(crate) fn of_greeting(error: &(dyn Error + 'static)) -> Self {
        for cause in causes(error) {
            let h2 = cause.downcast_ref::<h2::Error>();
            if matches!(
                h2.and_then(h2::Error::reason),
                Some(h2::Reason::PROTOCOL_ERROR | h2::Reason::FRAME_SIZE_ERROR | h2::Reason::HTTP_1_1_REQUIRED)
            ) {
                return Self::NoHttp2;
            }
            // The first connection broke, and nobody took the second.
            let io = cause.downcast_ref::<io::Error>().or_else(|| h2.and_then(h2::Error::get_io));
            if io.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                return Self::Unreachable;
            }
        }
        Self::HungUp
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// The text of the innermost cause: `connection refused` instead of `transport error`.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

/// What the server said.
#[derive(Clone, Debug)]
pub struct ServerError {
    /// Canonical code.
    pub code: Code,
    /// Stable word for programs; empty if the server gave none.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Refused fields.
    pub fields: Vec<RefusedField>,
    /// When to try again, if trying again can help.
    pub retry_after: Option<Duration>,
    /// The quota that was exceeded.
    pub quota: Option<String>,
}

/// A refused field of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedField {
    /// Its path, `events[17].timestamp`.
    pub field: String,
    /// Stable word for programs.
    pub reason: String,
    /// The rule and the value.
    pub description: String,
}

impl ClientError {
    /// Canonical gRPC code, if the server gave one.
    pub fn code(&self) -> Option<Code> {
        self.server().map(|e| e.code)
    }

    /// Stable word for programs, if the server gave one.
    pub fn reason(&self) -> Option<&str> {
        self.server().map(|e| e.reason.as_str()).filter(|r| !r.is_empty())
    }

    /// When the server wants the call to be tried again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.server().and_then(|e| e.retry_after)
    }

    /// What the server said, if it was reached.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) => Some(error),
            Self::Closed(Some(inner)) | Self::GaveUp { last: inner, .. } => inner.server(),
            _ => None,
        }
    }

    /// Whether the same call can succeed later without being changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { obstacle, .. } => matches!(obstacle, Obstacle::Unreachable | Obstacle::HungUp),
            Self::Server(error) => match error.code {
                Code::Unavailable | Code::Aborted => true,
                Code::ResourceExhausted => error.retry_after.is_some(),
                // The transport's own failures come as these: a connection that broke in the middle of a call.
                Code::Unknown | Code::Cancelled | Code::Internal => error.reason.is_empty(),
                _ => false,
            },
            _ => false,
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        // Without the transport's cause its text is "transport error".
        let message = match status.source() {
            Some(cause) => format!("the connection failed: {}", innermost(cause)),
            None => status.message().to_owned(),
        };
        let fields = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        Self::Server(Box::new(ServerError {
            code: status.code(),
            reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
            message,
            fields: fields
                .iter()
                .map(|f| RefusedField {
                    field: f.field.clone(),
                    reason: String::new(),
                    description: f.description.clone(),
                })
                .collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            quota: details
                .quota_failure()
                .and_then(|quota| quota.violations.first())
                .map(|v| format!("{}: {}", v.subject, v.description)),
        }))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option { option, problem } => write!(f, "{option} {problem}"),
            Self::Connect { endpoint, problem, .. } => write!(f, "no connection to {endpoint}: {problem}"),
            Self::Server(error) => error.fmt(f),
            Self::TooLarge { bytes, max } => write!(f, "the batch has {bytes} bytes, at most {max} are allowed"),
            Self::Protocol(problem) => write!(f, "the server's answer breaks the contract: {problem}"),
            Self::Closed(None) => f.write_str("the producer is closed"),
            Self::Closed(Some(cause)) => write!(f, "the producer has failed: {cause}"),
            Self::GaveUp { after, last } => write!(f, "gave up after {} s: {last}", after.as_secs()),
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "{}", self.code.description().to_lowercase())?,
            message => f.write_str(message)?,
        }
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        // The first field is the message; the others follow it.
        const FIELDS_SHOWN: usize = 5;
        for field in self.fields.iter().skip(1).take(FIELDS_SHOWN) {
            write!(f, "; {}: {}", field.field, field.description)?;
        }
        if self.fields.len() > FIELDS_SHOWN + 1 {
            write!(f, "; and {} more", self.fields.len() - FIELDS_SHOWN - 1)?;
        }
        match self.retry_after {
            Some(after) => write!(f, "; try again in {:.1} s", after.as_secs_f64()),
            None => Ok(()),
        }
    }
}

impl Error for ClientError {}

#[cfg(test)]
mod tests;
