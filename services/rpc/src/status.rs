//! The one place where an error becomes a gRPC status.

use std::borrow::Cow;
use std::time::Duration;

use tidegauge_core::{ErrorKind, ServiceError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `google.rpc.ErrorInfo.domain` of every error of the platform.
pub const DOMAIN: &str = "tidegauge";

/// Time after which to try again when a library answered RESOURCE_EXHAUSTED or UNAVAILABLE and named none.
const RETRY_DEFAULT: Duration = Duration::from_secs(1);

/// Bytes of an error's text. It travels in headers, of which common clients take 8 KiB: a longer one would hide the error
/// behind one of the transport.
const MESSAGE_BYTES_MAX: usize = 1_000;
/// Refused fields in an error, for the same reason: the first ones tell what is wrong.
const FIELDS_MAX: usize = 8;
/// Bytes of the path of a refused field, and of what is said about it.
const FIELD_BYTES_MAX: usize = 120;

/// The canonical code of an error kind.
const fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Aborted => Code::Aborted,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    }
}

/// Makes the status of an error, with its `google.rpc` details: `ErrorInfo` always, `BadRequest` with a violation per
/// refused field, `RetryInfo` where a time to retry is known, `QuotaFailure` where a quota was exceeded. Long texts are
/// cut, and of many fields the first are named.
pub fn status(error: ServiceError) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(error.reason, DOMAIN, std::collections::HashMap::new());
    for field in error.fields.into_iter().take(FIELDS_MAX) {
        let path = cut(field.field.into(), FIELD_BYTES_MAX);
        details.add_bad_request_violation(path, cut(field.description.into(), FIELD_BYTES_MAX));
    }
    if let Some((subject, description)) = error.quota {
        details.add_quota_failure_violation(subject, description);
    }
    let needs_retry = matches!(error.kind, ErrorKind::ResourceExhausted | ErrorKind::Unavailable);
    if let Some(after) = error.retry_after.or(needs_retry.then_some(RETRY_DEFAULT)) {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(code(error.kind), cut(error.message, MESSAGE_BYTES_MAX), details)
}

/// A status that a library made without details, with them.
pub(crate) fn explained(code: Code, reason: &str, message: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, std::collections::HashMap::new());
    if matches!(code, Code::ResourceExhausted | Code::Unavailable) {
        details.set_retry_info(Some(RETRY_DEFAULT));
    }
    Status::with_error_details(code, cut(message.into(), MESSAGE_BYTES_MAX), details)
}

/// The text, or its beginning as people see that it goes on.
fn cut(text: Cow<'_, str>, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.into_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(bytes_max)])
}
