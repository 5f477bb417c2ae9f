//! The small set of error kinds. A kind tells the caller what to do; `tidegauge-rpc` turns it into a gRPC status in the
//! one place that does so.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// What went wrong, from the caller's point of view. One kind is one canonical gRPC code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ErrorKind {
    /// The request can never succeed as it is: mend it.
    InvalidArgument,
    /// No valid credential: authenticate.
    Unauthenticated,
    /// The credential does not allow this; the answer is the same whether or not the thing exists.
    PermissionDenied,
    /// What was named does not exist.
    NotFound,
    /// What was to be made exists already.
    AlreadyExists,
    /// The system is not in the state the request needs; retrying alone does not help.
    FailedPrecondition,
    /// A value is valid by itself but outside what can be served, for example a stale page token.
    OutOfRange,
    /// A quota, queue or limit is full: retry after the given time.
    ResourceExhausted,
    /// A part is not available now: retry after the given time.
    Unavailable,
    /// The work collided with a concurrent change: repeat it as a whole.
    Aborted,
    /// The time allowed for the work ran out.
    DeadlineExceeded,
    /// The method, command or feature does not exist here.
    Unimplemented,
    /// Stored data is damaged; the message says where.
    DataLoss,
    /// A defect of ours.
    Internal,
}

/// An UPPER_SNAKE word that programs match on, `google.rpc.ErrorInfo.reason`. Stable once released.
pub type Reason = &'static str;

/// One field that was refused: `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldViolation {
    /// Path of the field, `events[17].timestamp`.
    pub field: String,
    /// UPPER_SNAKE reason.
    pub reason: Reason,
    /// The rule and the refused value, lower case, no full stop.
    pub description: String,
}

/// An error that leaves a service. Domain errors convert into it; nothing else becomes a gRPC status.
#[derive(Clone, Debug)]
pub struct ServiceError {
    /// What the caller should do.
    pub kind: ErrorKind,
    /// Stable word for programs.
    pub reason: Reason,
    /// For people: lower case, no full stop, names the value.
    pub message: Cow<'static, str>,
    /// Refused fields, if the kind is [`ErrorKind::InvalidArgument`].
    pub fields: Vec<FieldViolation>,
    /// When to try again; always set for [`ErrorKind::ResourceExhausted`] and [`ErrorKind::Unavailable`].
    pub retry_after: Option<Duration>,
    /// Quota that was exceeded, as (subject, description).
    pub quota: Option<(String, String)>,
}

impl ServiceError {
    /// An error of this kind. Kinds that call for a retry get one second as their default.
    pub fn new(kind: ErrorKind, reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = match kind {
            ErrorKind::ResourceExhausted | ErrorKind::Unavailable => Some(Duration::from_secs(1)),
            ErrorKind::Aborted => Some(Duration::from_millis(50)),
            _ => None,
        };
        Self { kind, reason, message: message.into(), fields: Vec::new(), retry_after, quota: None }
    }

    /// An invalid argument with one refused field.
    pub fn invalid(field: impl Into<String>, reason: Reason, description: impl Into<String>) -> Self {
        let violation = FieldViolation { field: field.into(), reason, description: description.into() };
        Self::invalid_fields(vec![violation])
    }

    /// An invalid argument with the given refused fields; the first gives message and reason.
    pub fn invalid_fields(fields: Vec<FieldViolation>) -> Self {
        let (reason, message) = match fields.first() {
            Some(first) => (first.reason, format!("{}: {}", first.field, first.description)),
            None => ("INVALID_ARGUMENT", "invalid argument".to_owned()),
        };
        Self { fields, ..Self::new(ErrorKind::InvalidArgument, reason, message) }
    }

    /// Sets when to try again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Names the quota that was exceeded.
    #[must_use]
    pub fn quota(mut self, subject: impl Into<String>, description: impl Into<String>) -> Self {
        self.quota = Some((subject.into(), description.into()));
        self
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ServiceError {}

/// An error of a backend: log, hot store, checkpoint store or lake store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A conditional write found another state than expected: read again and decide anew.
    #[error("{0} was changed by another writer")]
    Conflict(String),
    /// The lease was taken by another owner: stop writing.
    #[error("fenced: {0}")]
    Fenced(String),
    /// No room: nothing was written, what was begun has been cut back.
    #[error("no space: {0}")]
    Full(String),
    /// A queue or rate limit is full: try again after the given time; nothing was written.
    #[error("busy: {what}")]
    Busy {
        /// What is full.
        what: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The backend cannot be reached or is closing: try again.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Stored bytes are not what was written; the text names place and advice. Never skipped.
    #[error("damaged: {0}")]
    Corrupt(String),
    /// The place asked for is not kept any more (or not yet there).
    #[error("not found: {0}")]
    NotFound(String),
    /// The request breaks the contract of the trait.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Any other failure of the operating system, with what was being done.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The cause.
        source: std::io::Error,
    },
}

impl StoreError {
    /// Wraps an I/O error; ENOSPC and EDQUOT become [`StoreError::Full`].
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        let doing = doing.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full(doing),
            _ => Self::Io { doing, source },
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        let (kind, reason) = match &error {
            StoreError::Conflict(_) => (ErrorKind::Aborted, "CONFLICT"),
            StoreError::Fenced(_) => (ErrorKind::Unavailable, "FENCED"),
            StoreError::Full(_) => (ErrorKind::ResourceExhausted, "DISK_FULL"),
            StoreError::Busy { .. } => (ErrorKind::ResourceExhausted, "QUEUE_FULL"),
            StoreError::Unavailable(_) => (ErrorKind::Unavailable, "UNAVAILABLE"),
            StoreError::Corrupt(_) => (ErrorKind::DataLoss, "DATA_DAMAGED"),
            StoreError::NotFound(_) => (ErrorKind::NotFound, "NOT_FOUND"),
            StoreError::Invalid(_) => (ErrorKind::Internal, "CONTRACT_BROKEN"),
            StoreError::Io { .. } => (ErrorKind::Internal, "IO"),
        };
        // Paths and causes of the operating system are the operator's business, not the caller's.
        let message = match &error {
            StoreError::Io { .. } | StoreError::Corrupt(_) | StoreError::Invalid(_) => {
                "storage failed, see the server's log".to_owned()
            }
            StoreError::Full(_) => "the server's disk is full".to_owned(),
            other => other.to_string(),
        };
        let service = Self::new(kind, reason, message);
        match error {
            StoreError::Busy { retry_after, .. } => service.retry_after(retry_after),
            _ => service,
        }
    }
}
