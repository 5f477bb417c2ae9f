//! Long streams: rules, keys and expiry are checked while they run. Scopes and the audit log.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tidegauge_core::scope::Role;
use tidegauge_proto::hotmetric::v1::WatchMetricsResponse;
use tidegauge_proto::hotmetric::v1::hot_metric_service_client::HotMetricServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::world::{SECOND_NS, World, get, reason, soon, watch, with};

async fn open(channel: &Channel, authorization: &str, tenant: &str) -> Streaming<WatchMetricsResponse> {
    let mut client = HotMetricServiceClient::new(channel.clone());
    let request = with(watch("any"), authorization, Some(tenant));
    let mut stream = client.watch_metrics(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().unwrap().initial_state_complete);
    stream
}

async fn end_of(mut stream: Streaming<WatchMetricsResponse>) -> (Code, String) {
    reason(&soon(stream.message()).await.unwrap_err())
}

/// Proves that a changed rules file ends the streams that lost their tenant, and no others; that a broken one ends
/// none; and that new calls follow the new rules.
#[tokio::test]
async fn rules_reload_while_streams_run() {
    let world = World::new();
    world.rules("ann,t1\nann,t2\nbob,t1\n");
    let server = world.start().await;
    let channel = server.channel().await;
    let (ann, bob) = (world.token("ann", &[], Role::Reader), world.token("bob", &["t1"], Role::Reader));
    let ann_t1 = open(&channel, &ann, "t1").await;
    let mut ann_t2 = open(&channel, &ann, "t2").await;
    let mut bob_t1 = open(&channel, &bob, "t1").await;

    world.rules("ann,t2\nbob,t1\nbroken");
    world.second();
    let mut client = HotMetricServiceClient::new(channel.clone());
    client.get_metric(with(get("x"), &ann, Some("t1"))).await.expect("a broken file changes nothing");

    world.rules("ann,t2\nbob,t1\nbob,t3\n");
    world.second();
    assert_eq!(end_of(ann_t1).await, (Code::PermissionDenied, "TENANT_DENIED".into()));
    // The others were looked at in the same second and live on.
    for stream in [&mut ann_t2, &mut bob_t1] {
        assert!(tokio::time::timeout(Duration::from_millis(1500), stream.message()).await.is_err());
    }
    let refused = client.get_metric(with(get("x"), &ann, Some("t1"))).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::PermissionDenied, "TENANT_DENIED".into()));
    let _ = open(&channel, &world.token("bob", &["t3"], Role::Reader), "t3").await;
}

/// Proves that an expired token and a removed API key end the streams they opened.
#[tokio::test]
async fn expiry_and_revocation_end_streams() {
    let world = World::new();
    let token = world.token_for("ann", &["t1"], Role::Reader, Duration::from_secs(60));
    let key = world.key("bot", &["t1"], Role::Reader);
    let server = world.start().await;
    let channel = server.channel().await;
    let by_token = open(&channel, &token, "t1").await;
    let by_key = open(&channel, &key, "t1").await;

    std::fs::remove_file(world.auth().join("api-keys.json")).unwrap();
    world.second();
    assert_eq!(end_of(by_key).await, (Code::Unauthenticated, "CREDENTIAL_INVALID".into()));

    world.clock.advance(60 * SECOND_NS);
    assert_eq!(end_of(by_token).await, (Code::Unauthenticated, "CREDENTIAL_EXPIRED".into()));
}

/// Proves that a handler gets the scope of credential and header, and nobody else's tenant however the header is bent.
#[tokio::test]
async fn the_scope_is_the_credentials_narrowed_by_the_header() {
    let world = World::new();
    let server = world.start().await;
    let mut client = HotMetricServiceClient::new(server.channel().await);
    let two = world.token("ann", &["t1", "t2"], Role::Reader);
    let all = world.token("ann", &["*"], Role::Reader);

    client.get_metric(with(get("x"), &two, None)).await.unwrap();
    let scope = world.probe.last_scope();
    assert_eq!(scope.tenants().unwrap().len(), 2);
    assert_eq!(&*scope.principal().name, "ann");
    client.get_metric(with(get("x"), &two, Some("t2"))).await.unwrap();
    assert_eq!(world.probe.last_scope().one().unwrap().id().as_str(), "t2");
    client.get_metric(with(get("x"), &all, None)).await.unwrap();
    assert!(world.probe.last_scope().tenants().is_none());
    client.get_metric(with(get("x"), &all, Some("t9"))).await.unwrap();
    assert_eq!(world.probe.last_scope().one().unwrap().id().as_str(), "t9");

    let reached = world.probe.reached();
    for wrong in ["t3", "T1", "", " ", "t1,t2", "*", "t1/../t3", &"t".repeat(5000)] {
        let refused = client.get_metric(with(get("x"), &two, Some(wrong))).await.unwrap_err();
        assert_eq!(reason(&refused), (Code::PermissionDenied, "TENANT_DENIED".into()), "{wrong:?}");
    }
    // A header that stands there twice: which one counts would be a guess.
    for name in ["x-tenant-id", "authorization"] {
        let mut twice = with(get("x"), &two, Some("t1"));
        let value = twice.metadata().get(name).unwrap().clone();
        twice.metadata_mut().append(name, value);
        client.get_metric(twice).await.unwrap_err();
    }
    // No tenant at all.
    let none = client.get_metric(with(get("x"), &world.token("ann", &[], Role::Reader), None)).await.unwrap_err();
    assert_eq!(reason(&none), (Code::PermissionDenied, "NO_TENANTS".into()));
    assert_eq!(world.probe.reached(), reached);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The log of the whole test process, from the first call of this on.
fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    })
}

/// Proves that allowed and denied calls are in the audit log, with who, what, which tenants and why, and that the
/// credential is in no log line of any library, at any level.
#[tokio::test]
async fn decisions_are_audited_and_credentials_are_not_logged() {
    let log = log();
    let world = World::new();
    let server = world.start().await;
    let token = world.token("audited-ann", &["t1", "t2"], Role::Reader);
    let key = world.key("audited-bot", &["t1"], Role::Writer);
    world.second();
    let mut client = HotMetricServiceClient::new(server.channel().await);
    for _ in 0..3 {
        client.get_metric(with(get("x"), &token, Some("t2"))).await.unwrap();
    }
    client.get_metric(with(get("x"), &token, Some("t3"))).await.unwrap_err();
    client.get_metric(with(get("x"), &key, None)).await.unwrap_err();
    client.get_metric(with(get("x"), "Bearer secret-garbage", None)).await.unwrap_err();

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = |parts: &[&str]| text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count();
    let method = "/tidegauge.hotmetric.v1.HotMetricService/GetMetric";
    let allowed = ["tidegauge::audit", "allowed", "audited-ann", "tenants=t2", "token:", method];
    assert_eq!(line(&[&[" INFO"][..], &allowed].concat()), 1, "the first of a minute");
    assert_eq!(line(&[&["DEBUG"][..], &allowed].concat()), 2, "the others");
    let denied = [" INFO", "tidegauge::audit", "denied", method];
    assert_eq!(line(&[&denied[..], &["audited-ann", "TENANT_DENIED", "t3"]].concat()), 1);
    assert_eq!(line(&[&denied[..], &["audited-bot", "PERMISSION_MISSING", "key:"]].concat()), 1);
    assert!(line(&[&denied[..], &["CREDENTIAL_INVALID"]].concat()) >= 1);
    for secret in [token.as_str(), key.as_str(), "secret-garbage"] {
        let secret = secret.trim_start_matches("Bearer ");
        let lines: Vec<_> = text.lines().filter(|line| line.contains(secret)).collect();
        assert!(lines.is_empty(), "a credential was logged: {lines:?}");
    }
}
