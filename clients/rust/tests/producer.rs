//! The producer against a server that fails as told: everything is answered once, in order, and nothing is lost.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "the test's server makes its own statuses")]

#[path = "producer/server.rs"]
mod server;

use std::time::Duration;

use server::{Server, Step};
use tidegauge_client::proto::ingest::v1::Event;
use tidegauge_client::{Batch, Client, ClientError, ClientOptions, Obstacle, Producer, ProducerOptions};
use tonic::Code;

fn options() -> ProducerOptions {
    ProducerOptions { in_flight: 4, retry_for: Duration::from_secs(20), ..ProducerOptions::default() }
}

async fn client(server: &Server) -> Client {
    let token = Some("secret".to_owned());
    let tenant = Some("tenant-001".to_owned());
    Client::connect(ClientOptions { endpoint: server.endpoint(), token, tenant, ..ClientOptions::default() })
        .await
        .unwrap()
}

fn batch(n: u64) -> Batch {
    vec![Event { metric_name: format!("m{n}"), ..Event::default() }].into()
}

/// Sends `count` batches and gives the outcome of each: its sequence, or the error.
async fn send(producer: &mut Producer, count: u64) -> Vec<Result<u64, ClientError>> {
    let mut tickets = Vec::new();
    for n in 0..count {
        tickets.push(producer.send(batch(n)).await.unwrap());
    }
    let mut outcomes = Vec::new();
    for ticket in tickets {
        outcomes.push(ticket.ack().await.map(|ack| ack.sequence));
    }
    outcomes
}

fn sequences(outcomes: Vec<Result<u64, ClientError>>) -> Vec<u64> {
    outcomes.into_iter().map(Result::unwrap).collect()
}

/// Requests refused for now, a stream that breaks with answers outstanding, one that ends without a word, a server that is
/// draining: each batch is acknowledged once, retries carry the same bytes, and none overtakes another.
#[tokio::test]
async fn batches_survive_refusals_and_breaks() {
    let script = [
        vec![Step::Take, Step::RefuseForNow, Step::Take, Step::Take],
        vec![Step::Take, Step::Break(Code::Unavailable)],
        vec![Step::Take, Step::TakeUnanswered, Step::End],
        vec![Step::Break(Code::Internal)],
    ];
    let server = Server::start(script).await;
    let mut producer = client(&server).await.producer(options());
    assert_eq!(sequences(send(&mut producer, 20).await), (1..=20).collect::<Vec<_>>());
    let totals = producer.flush().await.unwrap();
    assert_eq!((totals.batches, totals.accepted, totals.refused_batches), (20, 20, 0));
    assert!(totals.retries > 0);
    assert_eq!(producer.close().await.unwrap(), totals);

    // The script runs from request to request, through however many streams.
    let seen = server.taken();
    let mut first = std::collections::BTreeMap::new();
    for (sequence, bytes) in &seen {
        assert_eq!(first.entry(*sequence).or_insert(bytes), &bytes, "a retry of {sequence} carries the same bytes");
    }
    assert_eq!(first.into_keys().collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert!(server.streams() >= 4);
}

/// A stall is told once, with the server's reason, to who asks for stalls of that length; it ends with the producer.
#[tokio::test]
async fn stalls_are_told() {
    let server = Server::start([vec![Step::RefuseForNow, Step::Hold]]).await;
    let mut producer = client(&server).await.producer(options());
    let (mut stalls, mut patient) = (producer.stalls(), producer.stalls());
    let ticket = producer.send(batch(0)).await.unwrap();
    let reason = stalls.next(Duration::ZERO).await.unwrap();
    assert_eq!(reason.code(), Some(Code::ResourceExhausted), "{reason}");
    server.release();
    ticket.ack().await.unwrap();
    producer.close().await.unwrap();
    assert!(stalls.next(Duration::ZERO).await.is_none(), "told once");
    assert!(patient.next(Duration::from_secs(3_600)).await.is_none(), "too short to be told");
}

/// A batch that is refused for good fails alone; what follows it goes on.
#[tokio::test]
async fn a_refused_batch_fails_alone() {
    let server = Server::start([vec![Step::Take, Step::Refuse, Step::Take]]).await;
    let mut producer = client(&server).await.producer(options());
    let outcomes = send(&mut producer, 4).await;
    let told: Vec<_> = outcomes.iter().map(|o| o.as_ref().copied().map_err(|e| (e.code(), e.reason()))).collect();
    assert_eq!(told, [Ok(1), Err((Some(Code::InvalidArgument), Some("MODE_UNSPECIFIED"))), Ok(3), Ok(4)]);
    let totals = producer.close().await.unwrap();
    assert_eq!((totals.batches, totals.accepted, totals.refused_batches), (4, 3, 1));
}

/// A failure that no retry mends ends the producer: what is in flight and what comes later hears the cause.
#[tokio::test]
async fn an_expired_token_ends_the_producer() {
    let server = Server::start([vec![Step::Take, Step::Break(Code::Unauthenticated)]]).await;
    let mut producer = client(&server).await.producer(options());
    let outcomes = send(&mut producer, 2).await;
    assert_eq!(outcomes[0].as_ref().copied().ok(), Some(1));
    let cause = |error: &ClientError| (matches!(error, ClientError::Closed(Some(_))), error.code());
    assert_eq!(outcomes[1].as_ref().map_err(cause).err(), Some((true, Some(Code::Unauthenticated))));
    assert_eq!(producer.send(batch(9)).await.err().as_ref().map(cause), Some((true, Some(Code::Unauthenticated))));
    assert_eq!(producer.flush().await.err().as_ref().map(cause), Some((true, Some(Code::Unauthenticated))));
}

/// Retries end when nothing gets through for the time given.
#[tokio::test]
async fn retries_are_bounded() {
    let server = Server::start([vec![Step::Break(Code::Unavailable); 1_000]]).await;
    let options = ProducerOptions { retry_for: Duration::from_millis(200), ..options() };
    let mut producer = client(&server).await.producer(options);
    let outcomes = send(&mut producer, 1).await;
    let Err(ClientError::Closed(Some(cause))) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert!(matches!(**cause, ClientError::GaveUp { .. }), "{cause}");
}

/// `send` waits while as many batches are in flight as allowed; a dropped ticket does no harm.
#[tokio::test]
async fn what_is_in_flight_is_bounded() {
    let server = Server::start([vec![Step::Hold; 100]]).await;
    let mut producer = client(&server).await.producer(options());
    for n in 0..4 {
        drop(producer.send(batch(n)).await.unwrap());
    }
    let fifth = tokio::time::timeout(Duration::from_millis(100), producer.send(batch(4))).await;
    assert!(fifth.is_err(), "four are in flight");
    assert_eq!(producer.next_sequence(), 5, "no sequence is used up by waiting");
    server.release();
    let ticket = producer.send(batch(4)).await.unwrap();
    assert_eq!((ticket.sequence(), producer.close().await.unwrap().accepted), (5, 5));

    let small = ProducerOptions { in_flight_bytes: 1, ..options() };
    let mut producer = client(&server).await.producer(small);
    assert_eq!(sequences(send(&mut producer, 3).await), [1, 2, 3], "one batch may always be in flight");
}

/// A batch over the limit is refused before it is sent and uses no sequence; ids are fresh and never kept ones.
#[tokio::test]
async fn large_batches_are_refused_here() {
    let server = Server::start([]).await;
    let client = client(&server).await;
    let mut producer = client.producer(options());
    let huge = vec![Event { source: "x".repeat(20 << 20), ..Event::default() }];
    assert!(matches!(producer.send(huge).await, Err(ClientError::TooLarge { .. })));
    assert_eq!(producer.send(batch(0)).await.unwrap().sequence(), 1);
    let other = client.producer(options());
    assert_ne!(producer.id(), other.id());
    assert!(producer.id()[0] != 0xFF && other.id()[0] != 0xFF);
}

/// Credentials travel with every call.
#[tokio::test]
async fn credentials_are_sent() {
    let server = Server::start([]).await;
    let mut producer = client(&server).await.producer(options());
    send(&mut producer, 1).await;
    assert_eq!(server.credentials(), Some(("Bearer secret".to_owned(), "tenant-001".to_owned())));
    let nobody =
        Client::connect(ClientOptions { endpoint: "http://127.0.0.1:1".to_owned(), ..ClientOptions::default() });
    let error = nobody.await.expect_err("nobody listens");
    assert!(matches!(error, ClientError::Connect { obstacle: Obstacle::Unreachable, .. }), "{error}");
}

/// What a peer does with the first connection; then nobody listens any more.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Peer {
    /// Closes with bytes unread: the kernel resets the connection.
    Resets,
    /// Reads and ends the connection in order.
    Ends,
    /// Speaks an older protocol.
    Speaks,
}

/// A server that dies between the connection and its first answer can be tried again, however it looks: which error the
/// transport keeps depends on who comes first, so this is done often. No cause is taken for a wrong certificate or TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_while_it_is_greeted_is_away() {
    use std::io::{Read as _, Write as _};

    for peer in [Peer::Resets, Peer::Ends, Peer::Speaks].repeat(30) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let stranger = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            drop(listener);
            if peer == Peer::Resets {
                stream.peek(&mut [0; 16]).unwrap();
                return;
            }
            let _ = stream.read(&mut [0; 4096]).unwrap();
            if peer == Peer::Speaks {
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
                // Closed before the client has said all, the connection would be reset here too.
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let refused = Client::connect(ClientOptions { endpoint, ..ClientOptions::default() }).await;
        let error = refused.expect_err("no server of ours");
        stranger.join().unwrap();
        let ClientError::Connect { obstacle, .. } = &error else { panic!("{peer:?}: {error:?}") };
        match peer {
            Peer::Resets | Peer::Ends => assert!(error.is_retryable(), "{peer:?}: {error:?}"),
            Peer::Speaks => assert!(
                matches!(obstacle, Obstacle::NoHttp2 | Obstacle::HungUp | Obstacle::Unreachable),
                "{peer:?}: {error:?}"
            ),
        }
    }
}
