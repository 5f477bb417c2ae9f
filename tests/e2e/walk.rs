//! I7: every method that the process describes asks for a credential, the right tenant and the right permission.

use prost::Message as _;
use tempfile::TempDir;
use tidegauge_tests::raw::{Answer, call};
use tidegauge_tests::{Server, ServerOptions};

const UNAUTHENTICATED: Option<u16> = Some(16);
const PERMISSION_DENIED: Option<u16> = Some(7);

/// Paths of all methods of the merged descriptor set.
fn paths() -> Vec<String> {
    let set = tidegauge_rpc::merged_descriptor_set();
    let bytes = set.encode_to_vec();
    let set = prost_types::FileDescriptorSet::decode(bytes.as_slice()).expect("a descriptor set reads itself");
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Methods that any valid credential may call.
fn any_credential(path: &str) -> bool {
    path.starts_with("/grpc.reflection.") || path.starts_with("/grpc.health.v1.")
}

async fn bearer(server: &Server, path: &str, token: &str, tenant: Option<&str>) -> Answer {
    let authorization = format!("Bearer {token}");
    let mut headers = vec![("authorization", authorization.as_str())];
    headers.extend(tenant.map(|t| ("x-tenant-id", t)));
    call(&server.grpc, path, &headers).await.unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_is_guarded() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let writer = server.token("w", "writer", &["tenant-001"]);
    let reader = server.token("r", "reader", &["tenant-001"]);
    let expired = {
        let output = std::process::Command::new(tidegauge_tests::binary())
            .args([
                "token",
                "create",
                "--user",
                "e",
                "--role",
                "admin",
                "--ttl",
                "1s",
                "--tenant",
                "tenant-001",
                "--data-dir",
            ])
            .arg(folder.path())
            .output()
            .expect("the binary runs");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    // The token's second must be over: the health check, which needs no credential, is asked until then.
    let paths = paths();
    assert!(paths.len() > 15, "only {} methods were found", paths.len());
    tidegauge_tests::wait::until("the token to expire", || async {
        let answer = bearer(&server, "/tidegauge.aggregation.v1.AggregationService/GetStatus", &expired, None).await;
        if answer.code == UNAUTHENTICATED { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;

    for path in &paths {
        let anonymous = call(&server.grpc, path, &[]).await.unwrap_or_else(|e| panic!("{path}: {e}"));
        if path == HEALTH_CHECK {
            assert_eq!(anonymous.code, Some(0), "{path} is public: {anonymous:?}");
            continue;
        }
        assert_eq!(anonymous.code, UNAUTHENTICATED, "{path} without a credential: {anonymous:?}");
        assert!(anonymous.detailed, "{path}: the refusal carries google.rpc details: {anonymous:?}");

        for garbage in ["", "x", "Bearer", "Bearer x", "Bearer a.b.c", "Basic !!!", "Basic dXNlcjpwYXNz", "Digest x"] {
            let answer = call(&server.grpc, path, &[("authorization", garbage)]).await.expect("an answer");
            assert_eq!(answer.code, UNAUTHENTICATED, "{path} with {garbage:?}: {answer:?}");
        }
        let answer = bearer(&server, path, &expired, None).await;
        assert_eq!(answer.code, UNAUTHENTICATED, "{path} with an expired token: {answer:?}");

        let wrong = bearer(&server, path, &reader, Some("tenant-002")).await;
        let unknown = bearer(&server, path, &reader, Some("no-such-tenant")).await;
        assert_eq!(wrong.code, PERMISSION_DENIED, "{path} for another tenant: {wrong:?}");
        assert_eq!(wrong, unknown, "{path}: the answer must not tell whether a tenant exists");

        if any_credential(path) {
            continue;
        }
        let other_role = if path.contains(".ingest.") { &reader } else { &writer };
        let answer = bearer(&server, path, other_role, None).await;
        assert_eq!(answer.code, PERMISSION_DENIED, "{path} without its permission: {answer:?}");
    }

    // Internal methods are closed to every credential that a person can have.
    let admin = server.token("a", "admin", &[]);
    let internal = "/tidegauge.hotmetric.v1.HotMetricUpdateService/ApplyUpdates";
    assert!(paths.iter().any(|p| p == internal));
    assert_eq!(bearer(&server, internal, &admin, None).await.code, PERMISSION_DENIED);
}

/// Variants of a path reach no handler: nothing but the exact bytes is a method.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn path_variants_reach_no_handler() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let admin = server.token("a", "admin", &[]);
    let exact = "/tidegauge.aggregation.v1.AggregationService/GetStatus";
    assert_eq!(bearer(&server, exact, &admin, None).await.code, Some(0));
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
}
