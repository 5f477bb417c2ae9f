//! I7: every method that the process describes asks for a credential, the right tenant and the right permission; which
//! permission is right stands here, not in the services.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use tempfile::TempDir;
use tidegauge_rpc::merged_descriptor_set;
use tidegauge_rpc::walk::{Caller, Credentials, paths, walk};
use tidegauge_tests::events::{event, live};
use tidegauge_tests::raw::{Answer, call};
use tidegauge_tests::{Server, ServerOptions, binary, client};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::Endpoint;

use crate::now_ns;

const UNAUTHENTICATED: Option<u16> = Some(16);
const PERMISSION_DENIED: Option<u16> = Some(7);

/// Who may call a method.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    /// Without a credential too.
    Anyone,
    /// Whoever has a valid credential.
    AnyCredential,
    /// Who publishes: writer and admin.
    Writer,
    /// Who reads and queries: reader and admin.
    Reader,
    /// Services of the platform alone; no role that a person can have.
    Service,
}

impl Access {
    fn callers(self) -> BTreeSet<Caller> {
        match self {
            Self::Anyone => [Caller::Nobody].into(),
            Self::AnyCredential => [Caller::Writer, Caller::Reader, Caller::Admin].into(),
            Self::Writer => [Caller::Writer, Caller::Admin].into(),
            Self::Reader => [Caller::Reader, Caller::Admin].into(),
            Self::Service => BTreeSet::new(),
        }
    }
}

/// Every method of the process and who may call it. Written down by hand: a new method needs a decision here, and a
/// permission that changes in a service needs one too.
const METHODS: [(&str, Access); 23] = [
    ("/grpc.health.v1.Health/Check", Access::Anyone),
    ("/grpc.health.v1.Health/Watch", Access::AnyCredential),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Access::AnyCredential),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Access::AnyCredential),
    ("/tidegauge.ingest.v1.IngestService/Publish", Access::Writer),
    ("/tidegauge.ingest.v1.IngestService/PublishStream", Access::Writer),
    ("/tidegauge.aggregation.v1.AggregationService/GetStatus", Access::Reader),
    ("/tidegauge.hotmetric.v1.HotMetricService/GetMetric", Access::Reader),
    ("/tidegauge.hotmetric.v1.HotMetricService/BatchGetMetrics", Access::Reader),
    ("/tidegauge.hotmetric.v1.HotMetricService/ListMetrics", Access::Reader),
    ("/tidegauge.hotmetric.v1.HotMetricService/WatchMetrics", Access::Reader),
    ("/tidegauge.hotmetric.v1.HotMetricService/ListLiveWindows", Access::Reader),
    // That a service is let in is seen by every current value that any other test reads.
    ("/tidegauge.hotmetric.v1.HotMetricUpdateService/ApplyUpdates", Access::Service),
    ("/arrow.flight.protocol.FlightService/Handshake", Access::Reader),
    ("/arrow.flight.protocol.FlightService/ListFlights", Access::Reader),
    ("/arrow.flight.protocol.FlightService/GetFlightInfo", Access::Reader),
    ("/arrow.flight.protocol.FlightService/PollFlightInfo", Access::Reader),
    ("/arrow.flight.protocol.FlightService/GetSchema", Access::Reader),
    ("/arrow.flight.protocol.FlightService/DoGet", Access::Reader),
    ("/arrow.flight.protocol.FlightService/DoPut", Access::Reader),
    ("/arrow.flight.protocol.FlightService/DoExchange", Access::Reader),
    ("/arrow.flight.protocol.FlightService/DoAction", Access::Reader),
    ("/arrow.flight.protocol.FlightService/ListActions", Access::Reader),
];

async fn bearer(server: &Server, path: &str, token: &str, tenant: Option<&str>) -> Answer {
    let authorization = format!("Bearer {token}");
    let mut headers = vec![("authorization", authorization.as_str())];
    headers.extend(tenant.map(|t| ("x-tenant-id", t)));
    call(&server.grpc, path, &headers).await.unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Makes a credential of role admin for one tenant with the command line.
fn made(server: &Server, arguments: &[&str]) -> String {
    let output = Command::new(binary())
        .args(arguments)
        .args(["--user", "e", "--role", "admin", "--tenant", "tenant-001", "--data-dir"])
        .arg(server.data_dir())
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

async fn metrics(address: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("open");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("text");
    text
}

/// Metrics of the text that nothing describes.
fn undescribed(metrics: &str) -> Vec<&str> {
    let named = |mark: &str| {
        let names = metrics.lines().filter_map(|line| line.strip_prefix(mark)?.split(' ').next());
        names.collect::<BTreeSet<&str>>()
    };
    let (described, typed) = (named("# HELP "), named("# TYPE "));
    assert!(!typed.is_empty(), "{metrics}");
    typed.difference(&described).copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_is_guarded() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(&folder.path().join("data"), &ServerOptions::quick());
    let stranger = Server::start(&folder.path().join("other"), &ServerOptions::quick());
    let admin = server.token("a", "admin", &["tenant-001"]);
    let everything = server.token("a", "admin", &[]);
    let key = made(&server, &["key", "create"]);
    let expired = made(&server, &["token", "create", "--ttl", "1s"]);
    // The other tenant is one that exists.
    let writer = client(&server, &everything, Some("tenant-002")).await;
    writer.publish(live(1, 1, vec![event("cpu", 1.0, now_ns())])).await.expect("taken");
    // The token's second must be over, and the key taken up.
    let status = "/tidegauge.aggregation.v1.AggregationService/GetStatus";
    tidegauge_tests::wait::until("the token to expire and the key to be known", || async {
        let answer = bearer(&server, status, &expired, None).await;
        let known = bearer(&server, status, &key, None).await;
        if (answer.code, known.code) == (UNAUTHENTICATED, Some(0)) { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;

    // One letter of the middle changed: of the token's claims, of the key's secret.
    let changed = |text: &str| {
        let at = text.len() / 2;
        let other = if &text[at..=at] == "a" { "b" } else { "a" };
        format!("Bearer {}{other}{}", &text[..at], &text[at + 1..])
    };
    let mut garbage: Vec<String> =
        ["", "x", "Bearer", "Bearer x", "Bearer a.b.c", "Basic !!!", "Basic dXNlcjpwYXNz", "Digest x"]
            .map(str::to_owned)
            .into();
    garbage.extend([changed(&admin), changed(&key), admin.clone()]);
    garbage.push(format!("Bearer {}", stranger.token("a", "admin", &[])));
    let token = |role: &str| format!("Bearer {}", server.token("u", role, &["tenant-001"]));
    let credentials = Credentials {
        garbage,
        expired: format!("Bearer {expired}"),
        writer: token("writer"),
        reader: token("reader"),
        admin: token("admin"),
        own_tenant: "tenant-001".to_owned(),
        other_tenant: "tenant-002".to_owned(),
    };
    let channel = Endpoint::from_shared(server.endpoint()).expect("an address").connect().await.expect("it accepts");
    let set = merged_descriptor_set();
    let report = walk(channel, &set, &credentials).await;

    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    assert!(report.absent.is_empty(), "described and not served: {:#?}", report.absent);
    assert_eq!(report.served, paths(&set));
    let right: BTreeMap<&str, Access> = METHODS.into();
    assert_eq!(right.len(), METHODS.len(), "a method stands in the table twice");
    let wrong: Vec<String> = report
        .let_in
        .iter()
        .filter_map(|(path, let_in)| match right.get(path.as_str()) {
            None => Some(format!("{path} lets in {let_in:?}: say in METHODS who may call it")),
            Some(access) if access.callers() == *let_in => None,
            Some(access) => Some(format!("{path} is for {access:?}, but lets in {let_in:?}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let gone: Vec<&str> = right.into_keys().filter(|path| !report.let_in.contains_key(*path)).collect();
    assert!(gone.is_empty(), "in the table and not served: {gone:?}");

    let metrics = metrics(&server.http).await;
    assert!(undescribed(&metrics).is_empty(), "without # HELP: {:?}", undescribed(&metrics));

    // Internal methods are closed to every credential that a person can have.
    let internal = "/tidegauge.hotmetric.v1.HotMetricUpdateService/ApplyUpdates";
    assert!(report.served.contains(internal));
    assert_eq!(bearer(&server, internal, &everything, None).await.code, PERMISSION_DENIED);
}

/// Variants of a path reach no handler: nothing but the exact bytes is a method. What was asked for leaves no name of a
/// tenant or path in the metrics, which need no credential.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn path_variants_reach_no_handler() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let admin = server.token("a", "admin", &[]);
    let exact = "/tidegauge.aggregation.v1.AggregationService/GetStatus";
    assert_eq!(bearer(&server, exact, &admin, Some("tenant-777")).await.code, Some(0));
    for variant in [
        "//tidegauge.aggregation.v1.AggregationService/GetStatus",
        "/tidegauge.aggregation.v1.AggregationService//GetStatus",
        "/tidegauge.aggregation.v1.AggregationService/GetStatus/",
        "/tidegauge.aggregation.v1.AggregationService/getstatus",
        "/Tidegauge.Aggregation.v1.AggregationService/GetStatus",
        "/tidegauge.aggregation.v1.AggregationService/Get%53tatus",
        "/tidegauge.aggregation.v1.AggregationService%2FGetStatus",
        "/x/../tidegauge.aggregation.v1.AggregationService/GetStatus",
        "/./tidegauge.aggregation.v1.AggregationService/GetStatus",
        "/grpc.health.v1.Health/../../tidegauge.aggregation.v1.AggregationService/GetStatus",
        "/grpc.health.v1.Health/check",
    ] {
        let anonymous = call(&server.grpc, variant, &[]).await.expect("an answer");
        assert_eq!(anonymous.code, UNAUTHENTICATED, "{variant} without a credential: {anonymous:?}");
        let known = bearer(&server, variant, &admin, None).await;
        assert_eq!(known.code, Some(12), "{variant} is no method: {known:?}");
    }
    let metrics = metrics(&server.http).await;
    assert!(metrics.contains(exact) && metrics.contains("method=\"unknown\""), "{metrics}");
    assert!(!metrics.contains("tenant-777"), "{metrics}");
    let methods = merged_descriptor_set();
    let known = paths(&methods);
    for label in metrics.split("method=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(label == "unknown" || known.contains(label), "{label} is no method");
    }
}
