//! Every reason has its advice: the sources of the servers are searched for reasons.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tidegauge_client::ServerError;

use super::*;
use crate::failure::Failure;

/// Crates in which an error can be made that leaves a server.
const CRATES: [&str; 9] =
    ["core", "auth", "rpc", "lake", "embedded", "ingest", "aggregation", "hot-metric", "historical-query"];

/// Words in capitals that are no reasons: magic words of files and parts of keys, ...
const IN_FILES: [&str; 5] = ["PAR1", "TGLOGSEG", "TGHOTWAL", "TGSTATE1", "HSHARD"];
/// ... kinds of tables in Flight SQL and a good outcome, ...
const IN_QUERIES: [&str; 3] = ["TABLE", "VIEW", "OK"];
/// ... and dead letters, which are kept with their reason and never an answer.
const DEAD_LETTERS: [&str; 9] = [
    "BELOW_DEDUP_HORIZON",
    "INVALID",
    "KEY_HELD",
    "SEQUENCE_REUSED",
    "TOO_FAR_IN_FUTURE",
    "TOO_MANY_KEPT_PRODUCERS",
    "TOO_MANY_SERIES",
    "TOO_OLD",
    "UNDECODABLE",
];

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => rust_files(&path, files),
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
}

/// The quoted words in capitals of a source, without comments, tests and the environment's variables.
fn words(source: &str) -> BTreeSet<String> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//") && !line.contains("env!("));
    let quoted = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
    let is_word = |text: &&str| {
        text.len() > 1
            && text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    quoted.filter(is_word).map(str::to_owned).collect()
}

/// The search finds a word where one is raised, and nowhere else.
#[test]
fn the_search_sees_reasons() {
    let source = "
        // \"IN_A_COMMENT\"
        ServiceError::new(ErrorKind::Internal, \"BRAND_NEW\", format!(\"{what} is no NUMBER\"));
        env!(\"CARGO_PKG_VERSION\"); let key = \"K\";
#[cfg(test)]
mod tests {
    \"IN_A_TEST\"
";
    assert_eq!(words(source).into_iter().collect::<Vec<_>>(), ["BRAND_NEW"]);
}

/// A new reason without advice, and advice for a reason that is gone, fail here.
#[test]
fn every_reason_has_its_advice() {
    let services = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeSet::new();
    for name in CRATES {
        let mut files = Vec::new();
        rust_files(&services.join(name).join("src"), &mut files);
        let is_test =
            |file: &Path| file.components().any(|part| part.as_os_str() == "tests") || file.ends_with("tests.rs");
        for file in files.iter().filter(|file| !is_test(file)) {
            found.extend(words(&std::fs::read_to_string(file).unwrap()));
        }
    }
    for known in
        ["TENANT_DENIED", "DISK_FULL", "CREDENTIAL_EXPIRED", "SQL_INVALID", "TIMESTAMP_IN_FUTURE", "OVERLOADED"]
    {
        assert!(found.contains(known), "the search does not see {known}");
    }
    let others = IN_FILES.iter().chain(&IN_QUERIES).chain(&DEAD_LETTERS);
    let others: BTreeSet<String> = others.map(|word| (*word).to_owned()).collect();
    let advised: Vec<&str> = BY_REASON.iter().flat_map(|(reasons, _)| reasons.iter().copied()).collect();
    let known: BTreeSet<String> = advised.iter().map(|reason| (*reason).to_owned()).collect();
    assert_eq!(known.len(), advised.len(), "a reason stands twice in the table");
    let new: Vec<&String> = found.difference(&known).filter(|word| !others.contains(*word)).collect();
    assert!(
        new.is_empty(),
        "reasons without advice in hints.rs: {new:?}; a word that is no reason goes to the lists of this test"
    );
    let gone: Vec<&String> = known.difference(&found).collect();
    assert!(gone.is_empty(), "advice for reasons that no server gives: {gone:?}");
}

fn refused(code: Code, reason: &str) -> ClientError {
    ClientError::Server(Box::new(ServerError {
        code,
        reason: reason.to_owned(),
        message: "no".to_owned(),
        fields: Vec::new(),
        retry_after: None,
        quota: None,
    }))
}

/// The tenant that was asked for is named, also where the refusal comes out of a producer; what is no tenant's fault does
/// not name it.
#[test]
fn a_denied_tenant_is_named_as_it_was_asked_for() {
    let denied = || refused(Code::PermissionDenied, "TENANT_DENIED");
    let told = |error: ClientError, tenant: Option<&str>| Failure::from(error).asked_for(tenant).to_string();
    let text = told(denied(), Some("acme"));
    assert!(text.contains("hint: \"acme\" was asked for") && text.contains("token create --tenant acme"), "{text}");
    let text = told(ClientError::Closed(Some(Box::new(denied()))), Some("acme"));
    assert!(text.contains("\"acme\" was asked for"), "{text}");
    let text = told(denied(), None);
    assert!(text.contains("hint: choose a tenant"), "{text}");
    let text = told(refused(Code::PermissionDenied, "PERMISSION_MISSING"), Some("acme"));
    assert!(text.contains("hint: use a credential of another role") && !text.contains("acme"), "{text}");
    let text = told(refused(Code::InvalidArgument, "NO_EVENTS"), Some("acme"));
    assert!(!text.contains("hint"), "{text}");
}

/// What fails before a server can answer has advice too.
#[test]
fn local_failures_have_advice() {
    let option = |option: &str| ClientError::Option { option: option.to_owned(), problem: "is bad".to_owned() };
    let connect = |obstacle| ClientError::Connect { endpoint: "x".to_owned(), problem: "no".to_owned(), obstacle };
    let gave_up = |last| ClientError::GaveUp { after: std::time::Duration::ZERO, last: Box::new(last) };
    for error in [
        option("token"),
        option("ca"),
        option("endpoint"),
        connect(Obstacle::Unreachable),
        connect(Obstacle::NoTls),
        connect(Obstacle::HungUp),
        ClientError::Protocol("an answer says nothing".to_owned()),
        gave_up(refused(Code::Unavailable, "")),
        gave_up(refused(Code::Unavailable, "DRAINING")),
        refused(Code::Unimplemented, ""),
    ] {
        let text = Failure::from(error).to_string();
        assert!(text.contains("\nhint: "), "{text}");
    }
    use crate::failure::Doing as _;
    for kind in [ErrorKind::NotFound, ErrorKind::PermissionDenied, ErrorKind::StorageFull] {
        let failed: Result<(), _> = Err(std::io::Error::from(kind));
        let text = failed.doing("a/file").unwrap_err().to_string();
        assert!(text.starts_with("error: a/file: ") && text.contains("\nhint: "), "{text}");
    }
}
