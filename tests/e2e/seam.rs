//! I6: readers ask in a loop while events are published, corrected, cut, while the process is killed and restarted. For
//! every tenant of every answer `ledger(as-of) − pending ≤ sum ≤ ledger(as-of)` holds, what the answer says it counts is
//! the ledger's number, and no answer says less than an earlier one.
//!
//! The ledger is none of the server's: every answer is kept with its as-of ordinals, and when the last server has ended
//! [`ledger`] reads from the log itself what these ordinals mean.
//!
//! Three tenants, two of them neighbours on one shard; two producers, who also send what was acknowledged again; three
//! scopes: all tenants, a credential with one tenant only, and one tenant chosen from all.

mod answers;
mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tidegauge_client::{Client, ClientOptions};
use tidegauge_core::time::{MINUTE_NS, SECOND_NS};
use tidegauge_proto::ingest::v1::PublishRequest;
use tidegauge_proto::stream::v1::Mode;
use tidegauge_tests::events::{event, live};
use tidegauge_tests::{Server, ServerOptions, client, tenants, wait};
use tokio::sync::watch;

use crate::{now_ns, published};
use answers::{Answer, QUERIES, ask, deviations};
use ledger::Ledger;

/// Answers to collect unless `SEAM_ANSWERS` says more; `cargo xtask prove seam` asks for 10,000. Kills fall at
/// equal distances.
const ANSWERS: u64 = 1_500;
const KILLS: u64 = 4;
const PRODUCERS: [u8; 2] = [1, 2];
/// Every so many requests of a tenant the last acknowledged one is sent once more.
const AGAIN_EVERY: u64 = 5;
/// Deviations shown when there are any.
const SHOWN: usize = 5;

/// Events of a request: of growing count, in published, closed and open windows.
fn request(producer: u8, sequence: u64, base_ns: i64) -> PublishRequest {
    let mode = if sequence % 7 == 3 { Mode::Backfill } else { Mode::Live };
    let now = base_ns + sequence as i64 * SECOND_NS / 20;
    let events = (0..events_of(producer, sequence))
        .map(|i| {
            let age = match (sequence + i) % 6 {
                0 => 70 * MINUTE_NS,
                1 => 8 * MINUTE_NS,
                _ => 0,
            };
            event(&format!("m{}", i % 4), i as f64, now - age)
        })
        .collect();
    PublishRequest { mode: mode as i32, ..live(producer, sequence, events) }
}

fn events_of(producer: u8, sequence: u64) -> u64 {
    5 * u64::from(producer) + sequence % 11
}

/// What a reader may see.
#[derive(Debug)]
struct Scope {
    token: String,
    /// The tenant it chooses, if any.
    choice: Option<String>,
    tenants: Vec<String>,
}

/// What readers and writers share.
#[derive(Debug)]
struct Shared {
    endpoint: watch::Receiver<String>,
    scopes: Vec<Scope>,
    tenants: [String; 3],
    /// Begins and ends of answers.
    ticks: AtomicU64,
    answers: Mutex<Vec<Answer>>,
    refused: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn answered(&self) -> usize {
        self.answers.lock().expect("no holder panics").len()
    }

    fn has_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

async fn connect(shared: &Shared, scope: usize) -> Option<Client> {
    let endpoint = shared.endpoint.borrow().clone();
    let Scope { token, choice, .. } = &shared.scopes[scope];
    let options =
        ClientOptions { endpoint, token: Some(token.clone()), tenant: choice.clone(), ..ClientOptions::default() };
    Client::connect(options).await.ok()
}

async fn read(shared: Arc<Shared>, scope: usize) {
    let mut round = scope;
    let mut connection = connect(&shared, scope).await;
    while !shared.has_stopped() {
        let Some(ours) = &connection else {
            crate::pace(std::time::Duration::from_millis(20)).await;
            connection = connect(&shared, scope).await;
            continue;
        };
        round += 1;
        let query = QUERIES[round % QUERIES.len()];
        let began = shared.ticks.fetch_add(1, Ordering::SeqCst);
        match ask(ours, query).await {
            Ok((sums, keys)) => {
                let ended = shared.ticks.fetch_add(1, Ordering::SeqCst);
                let answer = Answer { query, scope, began, ended, sums, keys };
                shared.answers.lock().expect("no holder panics").push(answer);
            }
            Err(error) if error.is_retryable() => {
                shared.refused.fetch_add(1, Ordering::SeqCst);
                connection = None;
            }
            Err(error) => panic!("{}: {error}", query.sql),
        }
    }
}

/// Publishes for every tenant until told to stop, over all restarts; whatever was not acknowledged is sent again, and
/// sometimes what was. Returns the last acknowledged sequence of each tenant.
async fn write(shared: Arc<Shared>, producer: u8, base_ns: i64) -> BTreeMap<String, u64> {
    let mut acknowledged: BTreeMap<String, u64> = shared.tenants.iter().map(|tenant| (tenant.clone(), 0)).collect();
    let mut connection: Option<BTreeMap<String, Client>> = None;
    let mut turns = shared.tenants.iter().cycle();
    let mut tenant = turns.next().expect("a tenant");
    while !shared.has_stopped() {
        let Some(clients) = &connection else {
            crate::pace(std::time::Duration::from_millis(20)).await;
            connection = connect(&shared, 0).await.map(|client| {
                let of = |tenant: &String| (tenant.clone(), client.for_tenant(tenant).expect("options are right"));
                shared.tenants.iter().map(of).collect()
            });
            continue;
        };
        let done = acknowledged[tenant];
        match clients[tenant].publish(request(producer, done + 1, base_ns)).await {
            Ok(answer) => {
                assert_eq!(u64::from(answer.accepted), events_of(producer, done + 1));
                acknowledged.insert(tenant.clone(), done + 1);
                if (done + 1).is_multiple_of(AGAIN_EVERY) {
                    // Whether this one is answered does not matter: the next request shows a broken connection.
                    let _ = clients[tenant].publish(request(producer, done + 1, base_ns)).await;
                }
                tenant = turns.next().expect("a cycle has no end");
            }
            Err(error) if error.is_retryable() => connection = None,
            Err(error) => panic!("{error}"),
        }
        crate::pace(std::time::Duration::from_millis(10)).await;
    }
    acknowledged
}

fn scopes(server: &Server, [own, neighbour, elsewhere]: &[String; 3]) -> Vec<Scope> {
    let all = [own, neighbour, elsewhere];
    let token = server.token("all", "admin", &all.map(String::as_str));
    let all: Vec<String> = all.into_iter().cloned().collect();
    vec![
        Scope { token: token.clone(), choice: None, tenants: all },
        Scope { token: server.token("own", "reader", &[own]), choice: None, tenants: vec![own.clone()] },
        Scope { token, choice: Some(elsewhere.clone()), tenants: vec![elsewhere.clone()] },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_gap_and_no_double_count() {
    let folder = TempDir::new().expect("a temporary folder");
    let data: PathBuf = folder.path().join("data");
    let base = now_ns();
    // Nothing of the log may go before it has been read.
    let options = ServerOptions::quick().set("TIDEGAUGE_LOG_RETENTION", "240h");
    let mut server = Server::start(&data, &options);
    let [own, neighbour, elsewhere, _] = tenants::on_three_shards();
    let tenants = [own, neighbour, elsewhere];
    let (endpoint, receiver) = watch::channel(server.endpoint());
    let shared = Arc::new(Shared {
        endpoint: receiver,
        scopes: scopes(&server, &tenants),
        tenants,
        ticks: AtomicU64::new(0),
        answers: Mutex::default(),
        refused: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let writers = PRODUCERS.map(|producer| tokio::spawn(write(Arc::clone(&shared), producer, base)));
    let readers: Vec<_> =
        (0..shared.scopes.len()).map(|scope| tokio::spawn(read(Arc::clone(&shared), scope))).collect();

    let wanted = match std::env::var("SEAM_ANSWERS") {
        Ok(text) => text.parse().expect("SEAM_ANSWERS is a number"),
        Err(_) => ANSWERS,
    };
    for step in 1..=KILLS + 1 {
        while (shared.answered() as u64) < wanted * step / (KILLS + 1) {
            assert!(readers.iter().all(|r| !r.is_finished()), "a reader has ended: see its panic");
            assert!(writers.iter().all(|w| !w.is_finished()), "a writer has ended: see its panic");
            crate::pace(std::time::Duration::from_millis(20)).await;
        }
        if step <= KILLS {
            server.kill();
            server = Server::start(&data, &options);
            endpoint.send(server.endpoint()).expect("readers listen");
        }
    }
    shared.stop.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.expect("no refusal");
    }
    let mut acknowledged = BTreeMap::new();
    for (producer, writer) in PRODUCERS.into_iter().zip(writers) {
        acknowledged.insert(producer, writer.await.expect("no refusal"));
    }

    // The last answers: nothing is pending any more.
    let everything = client(&server, &shared.scopes[0].token, None).await;
    published(&everything).await;
    for scope in 0..shared.scopes.len() {
        let ours = connect(&shared, scope).await.expect("it accepts");
        for query in QUERIES {
            let began = shared.ticks.fetch_add(1, Ordering::SeqCst);
            let (sums, keys) =
                wait::until("the last answer", || async { ask(&ours, query).await.map_err(|e| e.to_string()) }).await;
            let ended = shared.ticks.fetch_add(1, Ordering::SeqCst);
            assert!(keys.iter().all(|key| key.pending_events == 0), "{keys:?}");
            assert_eq!(sums.keys().collect::<BTreeSet<_>>(), shared.scopes[scope].tenants.iter().collect());
            let answer = Answer { query, scope, began, ended, sums, keys };
            shared.answers.lock().expect("no holder panics").push(answer);
        }
    }
    let status = everything.status().await.expect("a status");
    let (ended, log) = server.terminate();
    assert!(ended.success(), "{ended}:\n{log}");

    let ledger = Ledger::read(&data).await;
    // The log is whole, and aggregation has seen all of it.
    let ordinals: Vec<u64> = status.shards.iter().map(|shard| shard.ordinal).collect();
    assert_eq!(ledger.records, ordinals);
    assert_eq!(ledger.accounts.keys().collect::<BTreeSet<_>>(), shared.tenants.iter().collect());
    for key in &status.keys {
        let account = &ledger.accounts[&key.tenant_id];
        let counters = key.counters.expect("counters");
        // No dead letters: then each event that is no duplicate is counted.
        assert_eq!((counters.dead, counters.duplicates), (0, account.duplicates), "{key:?}");
        assert_eq!(counters.on_time + counters.late + counters.backfilled, account.total(), "{key:?}");
        assert!(counters.late > 0 && counters.backfilled > 0 && counters.duplicates > 0, "too easy: {key:?}");
    }
    acknowledged_is_on_the_log(&ledger, &acknowledged);

    let answers = shared.answers.lock().expect("no holder panics");
    let scopes: Vec<BTreeSet<&str>> =
        shared.scopes.iter().map(|scope| scope.tenants.iter().map(String::as_str).collect()).collect();
    let deviating = deviations(&answers, &ledger, &scopes);
    let pending = answers.iter().filter(|answer| answer.keys.iter().any(|key| key.pending_events > 0)).count();
    println!(
        "seam: {} answers ({pending} of them with events pending), {} refused as unavailable, {:?} records a shard, \
         {} events counted, {KILLS} kills: {} deviations",
        answers.len(),
        shared.refused.load(Ordering::SeqCst),
        ledger.records,
        ledger.accounts.values().map(ledger::Account::total).sum::<u64>(),
        deviating.len()
    );
    assert!(
        deviating.is_empty(),
        "{} deviations:\n{}",
        deviating.len(),
        deviating[..deviating.len().min(SHOWN)].join("\n")
    );
    for answer in answers.iter().rev().take(scopes.len() * QUERIES.len()) {
        for key in &answer.keys {
            let total = ledger.accounts[&key.tenant_id].total();
            assert_eq!(key.counted_events, total, "one of the last answers: {answer:?}");
        }
    }
    for scope in 0..scopes.len() {
        let of_it = answers.iter().filter(|answer| answer.scope == scope).count();
        assert!(of_it > answers.len() / 10, "only {of_it} answers of scope {scope}");
    }
    assert!(pending > answers.len() / 100, "too easy: only {pending} answers had events pending");
}

/// I1: each acknowledged request stands on the log whole, and behind the last one at most one that a crash took the answer of.
fn acknowledged_is_on_the_log(ledger: &Ledger, acknowledged: &BTreeMap<u8, BTreeMap<String, u64>>) {
    for (producer, last_of) in acknowledged {
        for (tenant, last) in last_of {
            let requests = &ledger.accounts[tenant].requests;
            for sequence in 1..=*last {
                let found = requests.get(&(*producer, sequence)).copied();
                assert_eq!(found, Some(events_of(*producer, sequence)), "{tenant}, producer {producer}, {sequence}");
            }
            assert!(*last > 0, "{tenant} took nothing of producer {producer}");
            let beyond = requests.keys().filter(|(of, sequence)| of == producer && *sequence > last + 1).count();
            assert_eq!(beyond, 0, "{tenant}, producer {producer}: more than was sent");
        }
    }
}
