//! The walk: calls every method of the merged descriptor set with credentials that must not suffice.
//!
//! It needs nothing but a channel to a running server, so it is the same for a server in a test and for the real
//! process. Calls carry one empty message; what a method would answer to a sufficient credential is not its business.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost_types::FileDescriptorSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::DOMAIN;

/// Time after which a call that was let in and does not answer counts as let in.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// What a walk presents. Values of the `authorization` header, `Bearer …`.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// No credentials at all in the sense of the server: garbage, foreign, tampered with.
    pub garbage: Vec<String>,
    /// A credential whose time is over.
    pub expired: String,
    /// Role writer, for [`Credentials::own_tenant`].
    pub writer: String,
    /// Role reader, for the same.
    pub reader: String,
    /// Role admin, for the same.
    pub admin: String,
    /// The tenant of writer, reader and admin.
    pub own_tenant: String,
    /// A tenant that exists and is not theirs.
    pub other_tenant: String,
}

/// Who calls in a walk, for its own tenant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Caller {
    /// Without a credential.
    Nobody,
    /// [`Credentials::writer`].
    Writer,
    /// [`Credentials::reader`].
    Reader,
    /// [`Credentials::admin`].
    Admin,
}

/// What a walk found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Paths of methods that are served.
    pub served: BTreeSet<String>,
    /// Paths of methods that are described but not served here (the whole service is not mounted).
    pub absent: BTreeSet<String>,
    /// Served methods that any valid credential may call.
    pub authenticated: BTreeSet<String>,
    /// Served methods that need no credential.
    pub public: BTreeSet<String>,
    /// For each served method who was let in; nobody else was asked where nobody needs a credential. A walk cannot know
    /// who should be: whoever runs it compares.
    pub let_in: BTreeMap<String, BTreeSet<Caller>>,
    /// Each method that answered other than it must, with what it answered. Empty when all is well.
    pub findings: Vec<String>,
}

/// Calls every method of `set` with each credential and reports.
pub async fn walk(channel: Channel, set: &FileDescriptorSet, credentials: &Credentials) -> Report {
    let mut walker = Walker { channel, credentials, report: Report::default() };
    for path in paths(set) {
        walker.method(&path).await;
    }
    walker.report
}

/// Every path of the set, `/package.Service/Method`.
pub fn paths(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                paths.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    paths
}

/// The answer to a call: let in (whatever came then), or refused before any handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The call reached its handler.
    LetIn,
    /// The interceptor's answer.
    Refused {
        /// Canonical code.
        code: Code,
        /// `google.rpc.ErrorInfo.reason`.
        reason: String,
        /// The text.
        message: String,
        /// The encoded details, to compare answers byte for byte.
        details: Vec<u8>,
    },
}

impl Answer {
    /// The reason of a refusal.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::LetIn => None,
            Self::Refused { reason, .. } => Some(reason),
        }
    }
}

/// Reasons that the interceptor gives; any other error comes from behind it.
const REFUSALS: [&str; 7] = [
    "CREDENTIAL_MISSING",
    "CREDENTIAL_INVALID",
    "CREDENTIAL_EXPIRED",
    "METHOD_UNKNOWN",
    "PERMISSION_MISSING",
    "TENANT_DENIED",
    "NO_TENANTS",
];

/// Calls one method with one empty message.
///
/// # Errors
/// What is wrong with the form of the answer: an error without `google.rpc` details of ours.
pub async fn call(
    channel: &Channel,
    path: &str,
    authorization: Option<&str>,
    tenant: Option<&str>,
) -> Result<Answer, String> {
    let mut request = Request::new(tokio_stream::iter([Bytes::new()]));
    for (name, value) in [("authorization", authorization), ("x-tenant-id", tenant)] {
        if let Some(value) = value {
            let value = AsciiMetadataValue::try_from(value).map_err(|_| format!("{name} cannot be sent: {value:?}"))?;
            request.metadata_mut().insert(name, value);
        }
    }
    let path = http::uri::PathAndQuery::try_from(path).map_err(|error| format!("{path}: {error}"))?;
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|error| format!("the server cannot be reached: {error}"))?;
    match tokio::time::timeout(ANSWER_TIME_MAX, client.streaming(request, path, Raw)).await {
        Err(_) | Ok(Ok(_)) => Ok(Answer::LetIn),
        Ok(Err(status)) => refusal(&status),
    }
}

fn refusal(status: &Status) -> Result<Answer, String> {
    let Some(info) = status.get_details_error_info() else {
        return Err(format!("{:?} {:?} has no ErrorInfo", status.code(), status.message()));
    };
    if info.domain != DOMAIN || info.reason.is_empty() {
        return Err(format!("{:?} {:?} has the ErrorInfo {info:?}", status.code(), status.message()));
    }
    if !REFUSALS.contains(&info.reason.as_str()) {
        return Ok(Answer::LetIn);
    }
    Ok(Answer::Refused {
        code: status.code(),
        reason: info.reason,
        message: status.message().to_owned(),
        details: status.details().to_vec(),
    })
}

struct Walker<'a> {
    channel: Channel,
    credentials: &'a Credentials,
    report: Report,
}

impl Walker<'_> {
    async fn call(&mut self, path: &str, authorization: Option<&str>, tenant: Option<&str>) -> Option<Answer> {
        match call(&self.channel, path, authorization, tenant).await {
            Ok(answer) => Some(answer),
            Err(problem) => {
                self.report.findings.push(format!("{path}: {problem}"));
                None
            }
        }
    }

    async fn must(&mut self, path: &str, who: &str, authorization: Option<&str>, code: Code, reason: &str) {
        let Some(answer) = self.call(path, authorization, None).await else { return };
        let right = matches!(&answer, Answer::Refused { code: c, reason: r, .. } if *c == code && r == reason);
        if !right {
            self.report.findings.push(format!("{path}: {who} must get {code:?} {reason}, got {answer:?}"));
        }
    }

    async fn method(&mut self, path: &str) {
        let credentials = self.credentials;
        let own = Some(credentials.own_tenant.as_str());
        let Some(nobody) = self.call(path, None, None).await else { return };
        if nobody == Answer::LetIn {
            self.report.served.insert(path.to_owned());
            self.report.public.insert(path.to_owned());
            self.report.let_in.insert(path.to_owned(), [Caller::Nobody].into());
            return;
        }
        self.must(path, "nobody", None, Code::Unauthenticated, "CREDENTIAL_MISSING").await;
        for garbage in &credentials.garbage {
            self.must(path, "garbage", Some(garbage), Code::Unauthenticated, "CREDENTIAL_INVALID").await;
        }
        let expired = Some(credentials.expired.as_str());
        self.must(path, "an expired credential", expired, Code::Unauthenticated, "CREDENTIAL_EXPIRED").await;

        let mut answers = Vec::new();
        for who in [&credentials.writer, &credentials.reader, &credentials.admin] {
            answers.extend(self.call(path, Some(who), own).await);
        }
        let reasons: Vec<_> = answers.iter().map(Answer::reason).collect();
        match reasons.as_slice() {
            [Some("METHOD_UNKNOWN"), Some("METHOD_UNKNOWN"), Some("METHOD_UNKNOWN")] => {
                self.report.absent.insert(path.to_owned());
                return;
            }
            [None, None, None] => {
                self.report.authenticated.insert(path.to_owned());
            }
            // Each permission is missing in at least one role, and then with this reason.
            reasons if reasons.len() == 3 && reasons.iter().all(|r| matches!(r, None | Some("PERMISSION_MISSING"))) => {
            }
            reasons => self.report.findings.push(format!("{path}: writer, reader and admin got {reasons:?}")),
        }
        self.report.served.insert(path.to_owned());
        let callers = [Caller::Writer, Caller::Reader, Caller::Admin].into_iter().zip(&answers);
        let let_in = callers.filter(|(_, answer)| **answer == Answer::LetIn).map(|(caller, _)| caller).collect();
        self.report.let_in.insert(path.to_owned(), let_in);
        self.wrong_tenant(path, &answers).await;
    }

    /// A tenant that is not covered is refused to every role that may call the method, and the answer is the same
    /// whether it exists or not.
    async fn wrong_tenant(&mut self, path: &str, own: &[Answer]) {
        let credentials = self.credentials;
        for (who, own) in [&credentials.writer, &credentials.reader, &credentials.admin].into_iter().zip(own) {
            let other = self.call(path, Some(who), Some(&credentials.other_tenant)).await;
            let none = self.call(path, Some(who), Some("no-such-tenant-anywhere")).await;
            let wanted = if *own == Answer::LetIn { "TENANT_DENIED" } else { "PERMISSION_MISSING" };
            if other != none || other.as_ref().and_then(Answer::reason) != Some(wanted) {
                let finding = format!("{path}: another tenant must get {wanted} like none, got {other:?} and {none:?}");
                self.report.findings.push(finding);
            }
        }
    }
}

/// Messages as their bytes.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
