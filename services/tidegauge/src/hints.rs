//! Advice: what somebody at a command line can do about an error. The one table of it, by the reasons that a server answers
//! with, and the few that go with a connection, a file or a setting. A new reason needs a line here: a test reads the
//! servers' sources and asks for it.

use std::io::ErrorKind;

use tidegauge_client::{ClientError, Obstacle};
use tonic::Code;

#[cfg(test)]
mod tests;

/// What helps against a reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Advice {
    /// This.
    Do(&'static str),
    /// Another tenant, or a grant of the one that was asked for.
    Tenant,
    /// The message says it: it names the value and the rule that it breaks, or the way out.
    InMessage,
}

use Advice::{Do, InMessage};

/// A word from a place where something is written down.
const SERVER_LOG: Advice = Do("the server's log says more, at the time of this call");
/// It passes by itself.
const AGAIN: Advice = Do("run the command again in a moment; `tidegauge status` shows how far the server is");
/// It passes, and sooner with less load.
const LESS: Advice = Do("run the command again in a moment, or do less at once");

/// Every reason of `google.rpc.ErrorInfo`, and of events refused one by one.
const BY_REASON: &[(&[&str], Advice)] = &[
    // Who calls.
    (
        &["CREDENTIAL_MISSING", "UNAUTHENTICATED"],
        Do("give a token or API key with --token or TIDEGAUGE_TOKEN; `tidegauge token create` makes one"),
    ),
    (
        &["CREDENTIAL_INVALID"],
        Do(
            "use a token made with the server's own data directory: `tidegauge token create --data-dir DIR`; a token is \
            one line, and of another server none",
        ),
    ),
    (&["CREDENTIAL_EXPIRED"], Do("make a new one with `tidegauge token create`; --ttl says how long it is valid")),
    (
        &["PERMISSION_MISSING", "PERMISSION_DENIED"],
        Do("use a credential of another role: writers publish, readers watch and query, admins do all"),
    ),
    (&["TENANT_DENIED"], Advice::Tenant),
    (&["TENANT_NOT_CHOSEN"], Do("choose a tenant with --tenant or TIDEGAUGE_TENANT")),
    (
        &["NO_TENANTS"],
        Do(
            "grant the user tenants in the server's rules file (auth.rules_file), or use a credential made with --tenant",
        ),
    ),
    // What the server cannot do now.
    (
        &[
            "UNAVAILABLE",
            "ABORTED",
            "CANCELLED",
            "CONFLICT",
            "CONNECTION_ENDING",
            "CALLER_GONE",
            "DEADLINE_EXCEEDED",
            "DRAINING",
            "FENCED",
            "HOT_STORE_INCOMPLETE",
            "LIVE_UNAVAILABLE",
            "NOT_STARTED",
            "SEAM_MOVED",
            "STREAM_SUPERSEDED",
        ],
        AGAIN,
    ),
    (
        &[
            "OVERLOADED",
            "NO_THREAD",
            "PLANNING_QUEUE_FULL",
            "QUERY_QUEUE_FULL",
            "QUEUE_FULL",
            "RESOURCE_EXHAUSTED",
            "TOO_MANY_LIVE_READS",
        ],
        LESS,
    ),
    (
        &["ANSWERS_UNREAD"],
        Do("read answers as they come, or leave fewer open at once: the server keeps few that nobody reads"),
    ),
    (
        &["TOO_MANY_CONNECTIONS"],
        Do("close connections that are not used, or raise server.connections_per_principal on the server"),
    ),
    (&["TOO_MANY_WATCHERS"], Do("end another `tidegauge watch` of the tenant first")),
    (
        &["QUOTA_EXCEEDED"],
        Do("send more slowly, or raise quota.events_per_second or quota.bytes_per_second on the server"),
    ),
    (
        &["CLOCK_STEPPED"],
        Do("set the clock of the server's machine right; if it is right now, restart the server. Until then \
            `tidegauge load` takes history"),
    ),
    (
        &["DISK_FULL"],
        Do("make room on the server's disk, or let it keep less free: log.reserve_percent, log.reserve_bytes"),
    ),
    (
        &["KEY_UNAVAILABLE"],
        Do("--allow-partial answers with what is there; `tidegauge status` says what stands still, and why"),
    ),
    // What the server has failed at.
    (
        &[
            "CONTRACT_BROKEN",
            "DATA_DAMAGED",
            "DATA_LOSS",
            "ENCODING",
            "EVENT_TOO_LARGE",
            "INTERNAL",
            "IO",
            "LIVE_WINDOWS",
            "LOG_WRITE_FAILED",
            "PANIC",
            "QUERY_ENGINE",
            "SEALING",
            "SERVICE_TOKEN",
            "SQL_INFO",
            "UNKNOWN",
            "UPDATE_REFUSED",
            "UPDATE_TOO_LARGE",
        ],
        SERVER_LOG,
    ),
    (
        &["METHOD_UNKNOWN", "UNIMPLEMENTED"],
        Do("the server is of another version: compare `tidegauge --version` here and there"),
    ),
    // Current values.
    (&["METRIC_NOT_FOUND", "NOT_FOUND"], Do("`tidegauge watch --once` shows what there is")),
    // SQL.
    (
        &["SQL_INVALID", "SQL_NOT_SUPPORTED", "SQL_NOT_READ_ONLY"],
        Do("`tidegauge query --help` shows the table, its columns and examples"),
    ),
    (
        &["QUERY_TIME"],
        Do("narrow it by tenant, metric or time (year, month, day, hour), or raise query.time on the server"),
    ),
    (&["PLANNING_TIME"], Do("shorten the text, or run it again when the server is less busy")),
    (
        &["RESULT_LIMIT"],
        Do(
            "ask for less, with LIMIT, GROUP BY or fewer columns; where it is the rows, query.rows on the server can be raised",
        ),
    ),
    (&["SCHEMA_CHANGED", "TICKET_EXPIRED", "TICKET_INVALID"], Do("run the query again")),
    (&["MESSAGE_TOO_LARGE", "OUT_OF_RANGE"], Do("send or ask for less at once")),
    // What is wrong with a request or an event is named with field, value and rule.
    (
        &[
            "ALREADY_EXISTS",
            "COLUMNS_TOO_LARGE",
            "COMMAND_INVALID",
            "DICTIONARY_EMPTY",
            "DICTIONARY_TOO_LARGE",
            "DIMENSION_KEY_CHARACTER",
            "DIMENSION_KEY_EMPTY",
            "DIMENSION_KEY_TOO_LONG",
            "DIMENSION_KEY_TWICE",
            "DIMENSION_VALUE_CHARACTER",
            "DIMENSION_VALUE_TOO_LONG",
            "EVENT_TYPE_CHARACTER",
            "EVENT_TYPE_EMPTY",
            "EVENT_TYPE_TOO_LONG",
            "FAILED_PRECONDITION",
            "ID_OUT_OF_RANGE",
            "INVALID_ARGUMENT",
            "LENGTH_MISMATCH",
            "METRIC_NAME_CHARACTER",
            "METRIC_NAME_EMPTY",
            "METRIC_NAME_INVALID",
            "METRIC_NAME_TOO_LONG",
            "MODE_UNKNOWN",
            "MODE_UNSPECIFIED",
            "NOT_SERVED",
            "NO_EVENTS",
            "NO_METRICS",
            "PAGE_SIZE_TOO_LARGE",
            "PAGE_TOKEN_INVALID",
            "PRECEDING_REFUSED",
            "PRODUCER_ID_LENGTH",
            "QUERY_MEMORY",
            "REQUEST_MALFORMED",
            "ROWS_AND_COLUMNS",
            "SCAN_LIMIT",
            "SEQUENCE_MISSING",
            "SERVICE_UNKNOWN",
            "SOURCE_CHARACTER",
            "SOURCE_TOO_LONG",
            "SQL_FAILED",
            "SQL_TOO_LARGE",
            "TENANT_MISMATCH",
            "TIMESTAMP_IN_FUTURE",
            "TIMESTAMP_MISSING",
            "TIMESTAMP_OUT_OF_RANGE",
            "TIMESTAMP_TOO_EARLY",
            "TOO_MANY_DIMENSIONS",
            "TOO_MANY_EVENTS",
            "TOO_MANY_METRICS",
            "VALUE_NOT_FINITE",
            "VERSION_CHARACTER",
            "VERSION_TOO_LONG",
        ],
        InMessage,
    ),
];

fn advice(reason: &str) -> Option<Advice> {
    BY_REASON.iter().find(|(reasons, _)| reasons.contains(&reason)).map(|(_, advice)| *advice)
}

/// Advice for a reason of the server's; `asked` is the tenant that the caller chose. What is said of it is the same whether
/// or not there is such a tenant: the client does not know it either.
pub(crate) fn of_reason(reason: &str, asked: Option<&str>) -> Option<String> {
    match (advice(reason)?, asked) {
        (Do(what), _) => Some(what.to_owned()),
        (Advice::Tenant, Some(tenant)) => {
            let tenant = crate::text_table::printable(tenant);
            Some(format!(
                "{tenant:?} was asked for: choose another tenant with --tenant, or use a credential that covers it, made with \
                 `tidegauge token create --tenant {tenant}` and, where the server has a rules file, granted there too"
            ))
        }
        (Advice::Tenant, None) => Some("choose a tenant that the credential covers, with --tenant".to_owned()),
        (InMessage, _) => None,
    }
}

/// Advice for an error of the client that has no reason of the server's.
pub(crate) fn of_client(error: &ClientError) -> Option<&'static str> {
    match error {
        ClientError::Connect { obstacle, .. } => Some(of_obstacle(*obstacle)),
        ClientError::GaveUp { last, .. } | ClientError::Closed(Some(last)) => of_client(last),
        // Without a reason it was not our server that answered.
        ClientError::Server(said) if said.reason.is_empty() => match said.code {
            Code::Unimplemented => Some(of_obstacle(Obstacle::NoHttp2)),
            // The transport's own: the connection broke.
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal => {
                Some(of_obstacle(Obstacle::Unreachable))
            }
            _ => None,
        },
        ClientError::Option { option, .. } => match option.as_str() {
            "token" => Some("a token is one line, as `tidegauge token create` prints it"),
            "ca" => Some("name a file of certificates in PEM form with --ca or TIDEGAUGE_CA"),
            "endpoint" => Some("an address is for example http://127.0.0.1:7171, or https://… with TLS"),
            _ => None,
        },
        ClientError::Protocol(_) => {
            Some("client and server may be of different versions: compare `tidegauge --version`")
        }
        ClientError::TooLarge { .. } => Some("send fewer events at once"),
        ClientError::Server(_) | ClientError::Closed(None) => None,
    }
}

const fn of_obstacle(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Unreachable => "is the server running? start it with `tidegauge serve`, or name another --endpoint",
        Obstacle::UnknownAuthority => {
            "name the authority that signed the server's certificate with --ca or TIDEGAUGE_CA"
        }
        Obstacle::WrongName => "use an address that stands in the server's certificate",
        Obstacle::BadCertificate => "the server needs another certificate (server.tls_certificate)",
        Obstacle::NoTls => "a server without TLS has an address that begins with http://",
        Obstacle::NoHttp2 => "is it the address of gRPC? with TLS it begins with https://",
        Obstacle::HungUp => {
            "has the server just stopped? or is it not the address of gRPC? with TLS it begins with https://"
        }
    }
}

/// Advice for what the operating system refused.
pub(crate) fn of_io(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::NotFound => Some("is the name right? a relative one begins in the current directory"),
        ErrorKind::PermissionDenied => Some("this user may not do that: change the permissions, or name another place"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some("make room on the disk"),
        ErrorKind::ReadOnlyFilesystem => Some("name a place that can be written"),
        ErrorKind::IsADirectory => Some("name a file, not a directory"),
        ErrorKind::NotADirectory => Some("a part of the path is a file: name another directory"),
        _ => None,
    }
}
