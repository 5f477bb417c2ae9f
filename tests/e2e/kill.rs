//! kill -9 between any two steps of the commit protocol, under load: nothing acknowledged is lost, nothing counts twice.
//!
//! The steps are those that the server knows ([`CrashStep::ALL`]): a new one is died at here without a word.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt as _, stream};
use tempfile::TempDir;
use tidegauge_aggregation::{CrashPoint, CrashStep};
use tidegauge_client::{Client, ClientOptions};
use tidegauge_core::limits;
use tidegauge_core::time::{MINUTE_NS, SECOND_NS};
use tidegauge_proto::ingest::v1::PublishRequest;
use tidegauge_proto::stream::v1::Mode;
use tidegauge_tests::events::{event, live};
use tidegauge_tests::{Server, ServerOptions, client, tenants, wait};

use crate::{counted, now_ns, published, verified};

const EVENTS: u64 = 50;
/// What the process writes before it dies at a step.
const LAST_WORDS: &str = "dying where a test asked for it";
const SIGABRT: i32 = 6;
/// Requests of the history that are sent again at the end; of older ones the dedup state knows no more than that they are old.
const AGAIN_MAX: u64 = limits::DEDUP_SEQUENCES as u64 - 100;

/// Who publishes for a tenant: in order, and again what was not acknowledged, over all lives of the server.
struct Writer {
    tenant: String,
    producer: u8,
    /// The last acknowledged sequence.
    acknowledged: u64,
}

impl Writer {
    fn new(tenant: String, producer: u8) -> Self {
        Self { tenant, producer, acknowledged: 0 }
    }

    async fn client(&self, server: &Server, token: &str) -> Client {
        client(server, token, Some(&self.tenant)).await
    }

    /// A batch whose events lie in published, closed and open windows, so that every cut has rows and corrections.
    fn batch(&self, sequence: u64, base_ns: i64) -> PublishRequest {
        let base_ns = base_ns + sequence as i64 * SECOND_NS / 100;
        let mode = if sequence.is_multiple_of(3) { Mode::Backfill } else { Mode::Live };
        let events = (0..EVENTS as i64)
            .map(|i| {
                let age = match i % 5 {
                    0 => 90 * MINUTE_NS,
                    1 => 7 * MINUTE_NS,
                    _ => 0,
                };
                event(&format!("m{}", i % 4), i as f64, base_ns - age + i * SECOND_NS / 50)
            })
            .collect();
        PublishRequest { mode: mode as i32, ..live(self.producer, sequence, events) }
    }

    /// Publishes until the server has died, which may be before anybody could connect.
    async fn publish(&mut self, endpoint: &str, token: &str, died: &AtomicBool, base_ns: i64) {
        let options = ClientOptions {
            endpoint: endpoint.to_owned(),
            token: Some(token.to_owned()),
            tenant: Some(self.tenant.clone()),
            ..ClientOptions::default()
        };
        let client = loop {
            match Client::connect(options.clone()).await {
                Ok(client) => break client,
                Err(_) if died.load(Ordering::SeqCst) => return,
                Err(_) => crate::pace(Duration::from_millis(10)).await,
            }
        };
        loop {
            // The batch after the last acknowledged one: it may be on the log already, when a crash took the answer.
            match client.publish(self.batch(self.acknowledged + 1, base_ns)).await {
                Ok(answer) => {
                    assert_eq!(u64::from(answer.accepted), EVENTS);
                    self.acknowledged += 1;
                }
                Err(_) if died.load(Ordering::SeqCst) => return,
                Err(error) if error.is_retryable() => {}
                Err(error) => panic!("{}: {error}", self.tenant),
            }
            crate::pace(Duration::from_millis(10)).await;
        }
    }
}

/// A data directory, and who publishes into it.
struct World {
    folder: TempDir,
    base_ns: i64,
    token: Option<String>,
    writers: Vec<Writer>,
}

impl World {
    fn new(tenants: Vec<String>) -> Self {
        let writers = (1..).zip(tenants).map(|(producer, tenant)| Writer::new(tenant, producer)).collect();
        Self { folder: TempDir::new().expect("a temporary folder"), base_ns: now_ns(), token: None, writers }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Epochs and cuts follow one another as quickly as they can, so that each life comes to its point soon.
    fn options() -> ServerOptions {
        ServerOptions::quick()
            .set("TIDEGAUGE_PUBLISH_INTERVAL", "200ms")
            .set("TIDEGAUGE_PUBLISH_CHECKPOINT_INTERVAL", "100ms")
    }

    fn token(&mut self, server: &Server) -> String {
        let tenants: Vec<&str> = self.writers.iter().map(|writer| writer.tenant.as_str()).collect();
        self.token.get_or_insert_with(|| server.token("admin", "admin", &tenants)).clone()
    }

    /// A life of the server under load, to its end at the point.
    async fn die_at(&mut self, point: CrashPoint) {
        let options = Self::options().set("TIDEGAUGE_CRASH_AT", &point.to_string());
        let server = match Server::try_start(self.path(), &options) {
            Ok(server) => server,
            // A point that is reached while the shards are taken over can come before the first call.
            Err(log) if log.contains(LAST_WORDS) => return,
            Err(log) => panic!("{point}: the server did not start:\n{log}"),
        };
        let (token, endpoint) = (self.token(&server), server.endpoint());
        let died = Arc::new(AtomicBool::new(false));
        let end = {
            let died = Arc::clone(&died);
            tokio::task::spawn_blocking(move || {
                let ended = server.wait();
                died.store(true, Ordering::SeqCst);
                ended
            })
        };
        let base_ns = self.base_ns;
        let load = self.writers.iter_mut().map(|writer| writer.publish(&endpoint, &token, &died, base_ns));
        let load = tokio::time::timeout(wait::PATIENCE, join_all(load));
        load.await.unwrap_or_else(|_| panic!("{point} was not reached"));
        let (status, _) = end.await.expect("no panic");
        assert_eq!(status.signal(), Some(SIGABRT), "{point}: {status}");
    }

    /// A life that a kill from outside ends at any moment.
    async fn die_at_any_moment(&mut self) {
        let server = Server::start(self.path(), &Self::options());
        let token = self.token(&server);
        let base_ns = self.base_ns;
        for writer in &mut self.writers {
            let ours = writer.client(&server, &token).await;
            for _ in 0..20 {
                let answer = ours.publish(writer.batch(writer.acknowledged + 1, base_ns)).await.expect("taken");
                assert_eq!(u64::from(answer.accepted), EVENTS);
                writer.acknowledged += 1;
            }
        }
        server.kill();
    }

    /// The last life: every sum is exact, every counter adds up, and the files say the same.
    async fn finish(mut self) {
        let server = Server::start(self.path(), &Self::options());
        let token = self.token(&server);
        for writer in &self.writers {
            let ours = writer.client(&server, &token).await;
            // The history once more: all of it is a duplicate, so what follows also proves the dedup state.
            let last = writer.acknowledged;
            let again = stream::iter(last.saturating_sub(AGAIN_MAX) + 1..=last);
            again
                .for_each_concurrent(16, |sequence| {
                    let (ours, batch) = (&ours, writer.batch(sequence, self.base_ns));
                    async move {
                        ours.publish(batch).await.expect("taken");
                    }
                })
                .await;
        }
        for writer in &self.writers {
            let ours = writer.client(&server, &token).await;
            published(&ours).await;
            let expected = writer.acknowledged * EVENTS;
            let found = counted(&ours).await.expect("an answer");
            assert_eq!((found.sum, found.counted, found.pending), (expected, expected, 0), "{}", writer.tenant);
            let status = ours.status().await.expect("a status");
            let [key] = &status.keys[..] else { panic!("one key of {}: {status:?}", writer.tenant) };
            let counters = key.counters.expect("counters");
            let total = counters.duplicates + counters.on_time + counters.late + counters.backfilled + counters.dead;
            assert_eq!(counters.on_log, total, "{}: {counters:?}", writer.tenant);
            let added = counters.on_time + counters.late + counters.backfilled;
            assert_eq!((added, counters.dead), (expected, 0), "{}: {counters:?}", writer.tenant);
            assert!(counters.duplicates >= writer.acknowledged.min(AGAIN_MAX) * EVENTS, "{counters:?}");
            assert!(
                counters.late > 0 && counters.backfilled > 0,
                "the load must hold late and backfilled events: {counters:?}"
            );
        }
        let (status, log) = server.terminate();
        assert!(status.success(), "{status}:\n{log}");
        verified(self.path());
    }
}

/// One tenant: the process dies at each step when it is reached for the first time, and later in its life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_the_commit_protocol() {
    let mut world = World::new(vec!["tenant-001".to_owned()]);
    for step in CrashStep::ALL.iter().copied() {
        for nth in [1, 2, 5] {
            world.die_at(CrashPoint { step, nth }).await;
        }
    }
    world.die_at_any_moment().await;
    world.die_at_any_moment().await;
    world.finish().await;
}

/// Four tenants on three shards, under load together: the process dies at each step, and in the life after that at the
/// first time it comes there again, while it still applies and replays what the life before has left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_shards_and_again_before_it_caught_up() {
    let mut world = World::new(tenants::on_three_shards().into());
    for step in CrashStep::ALL.iter().copied() {
        for nth in [3, 1, 1] {
            world.die_at(CrashPoint { step, nth }).await;
        }
    }
    world.die_at_any_moment().await;
    world.finish().await;
}
