//! One connection at a time, over a pipe in memory.

use std::convert::Infallible;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tidegauge_core::TenantId;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::*;
use crate::guest::Open;
use crate::layers::attend_only;
use crate::share::Holder;

/// Longest wait for an event that must come.
const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(3600);
/// The preface, and settings that change nothing.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn age() -> Age {
    Age { first_call: LONG, max: LONG, grace: LONG, look: LOOK_INTERVAL }
}

fn guest(unread: Duration) -> Arc<Guest> {
    let doors = Doors::new(DoorLimits { all: 10, per_address: 10 });
    let visit = doors.arrive([127, 0, 0, 1].into()).expect("room");
    Guest::new(House::with_time(10, 10, unread), visit)
}

fn enter(guest: &Arc<Guest>) -> Open {
    let holder = Holder::Tenant(TenantId::parse("t").expect("a tenant"));
    guest.enter(&holder, &"ann".into()).expect("room")
}

/// A server of one connection, over a pipe that holds so much.
struct Served {
    near: DuplexStream,
    guest: Arc<Guest>,
    task: JoinHandle<()>,
}

fn serve_one(stack: Stack, age: Age, unread: Duration, pipe: usize) -> Served {
    let (near, far) = tokio::io::duplex(pipe);
    let (ending, guest) = (Ending::default(), guest(unread));
    let ends = ending.ending.child_token();
    let line = Line { peer: None, internal: false, ending: ends, guest: Some(Arc::clone(&guest)) };
    let first_call = after(age.first_call);
    let task = tokio::spawn(async move { serve(far, line, stack, &ending, Some((age, first_call)), None).await });
    Served { near, guest, task }
}

fn never_answers() -> Stack {
    attend_only(tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>()))
}

/// Answers each call with these chunks, and then what `then` says.
fn answers(chunks: Vec<Bytes>, ends: bool) -> Stack {
    attend_only(tower::service_fn(move |_: Request<Body>| {
        let chunks = chunks.clone();
        async move {
            let frames = futures::stream::iter(chunks).map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
            let body = match ends {
                true => Body::new(StreamBody::new(frames)),
                false => Body::new(StreamBody::new(frames.chain(futures::stream::pending()))),
            };
            Ok::<_, Infallible>(Response::new(body))
        }
    }))
}

type Client = h2::client::SendRequest<Bytes>;

/// A client with this window for each answer; what it receives it does not give back by itself.
async fn client(io: DuplexStream, window: u32) -> (Client, JoinHandle<Result<(), h2::Error>>) {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(1 << 20);
    let (client, connection) = builder.handshake(io).await.expect("handshake");
    (client, tokio::spawn(connection))
}

async fn call(client: &mut Client) -> h2::RecvStream {
    let request = Request::post("http://test/x").body(()).expect("valid");
    let (answer, _) = client.send_request(request, true).expect("open");
    answer.await.expect("answered").into_body()
}

/// The status of an answer whose data is over.
async fn status_of(mut body: h2::RecvStream) -> Status {
    while let Some(data) = body.data().await {
        data.expect("no error");
    }
    let trailers = body.trailers().await.expect("no error").expect("trailers");
    Status::from_header_map(&trailers).expect("a status")
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it must come soon")
}

/// Proves that a connection of age lets an open stream go on, and at the end of its grace tells it UNAVAILABLE with
/// RetryInfo rather than cutting it off.
#[tokio::test]
async fn an_aged_connection_tells_its_streams() {
    let age = Age { max: Duration::from_millis(20), grace: Duration::from_millis(200), ..age() };
    let served = serve_one(answers(vec![Bytes::from_static(b"first")], false), age, LONG, 1 << 16);
    let (mut client, connection) = client(served.near, 1 << 16).await;
    let mut body = call(&mut client).await;
    assert_eq!(body.data().await.expect("data").expect("no error"), "first");
    let status = soon(status_of(body)).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some());
    drop(client);
    soon(served.task).await.expect("the connection has ended");
    let _ = soon(connection).await.expect("no panic");
}

/// Proves that a client loses its place that says nothing, begins and stops, or only speaks HTTP/2 without ever calling
/// with a credential; that one which calls at the last moment does not; and that calls hold one.
#[tokio::test]
async fn a_connection_without_a_call_ends() {
    let age = Age { first_call: Duration::from_millis(50), ..age() };
    for beginning in [&b""[..], &BEGINNING[..23], BEGINNING] {
        let mut served = serve_one(never_answers(), age, LONG, 1 << 16);
        served.near.write_all(beginning).await.expect("room");
        soon(served.task).await.expect("no panic");
    }
    let mut served = serve_one(never_answers(), age, LONG, 1 << 16);
    served.near.write_all(BEGINNING).await.expect("room");
    let call = enter(&served.guest);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut served.task).await.is_err(),
        "somebody calls over it, and it stays"
    );
    drop((served.near, call));
    soon(served.task).await.expect("no panic");
}

/// Proves that a client which was known, and then only answers pings, loses its place too.
#[tokio::test]
async fn a_connection_that_nobody_uses_ends() {
    let age = Age { look: Duration::from_millis(2), ..age() };
    let served = serve_one(never_answers(), age, LONG, 1 << 16);
    drop(enter(&served.guest));
    let (client, connection) = client(served.near, 1 << 16).await;
    soon(served.task).await.expect("the connection has ended");
    soon(connection).await.expect("no panic").expect("it was told to go");
    drop(client);
}

/// Proves that an answer of which nothing is read ends with a status that says why, which reaches a client that gives no
/// window, that the handler ends with it, and that nothing stays charged.
#[tokio::test]
async fn an_answer_that_is_not_read_ends() {
    let served =
        serve_one(answers(vec![Bytes::from(vec![7; 500_000])], false), age(), Duration::from_millis(50), 1 << 20);
    drop(enter(&served.guest));
    let (mut client, _connection) = client(served.near, 1_000).await;
    let mut body = call(&mut client).await;
    let first = body.data().await.expect("data").expect("no error");
    assert_eq!(first.len(), 1_000, "what the window takes");
    let status = soon(status_of(body)).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_error_info().expect("details").reason, "ANSWERS_UNREAD");
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(served.guest.unread(), 0);
}

/// Proves that a client which reads slowly, but reads, gets everything, however long it takes.
#[tokio::test]
async fn a_slow_reader_gets_everything() {
    let time = Duration::from_millis(400);
    let chunks = vec![Bytes::from(vec![7; 20_000]); 3];
    let served = serve_one(answers(chunks, true), age(), time, 1 << 16);
    drop(enter(&served.guest));
    let (mut client, _connection) = client(served.near, 4_000).await;
    let mut body = call(&mut client).await;
    let mut got = 0;
    while let Some(data) = soon(body.data()).await {
        let bytes = data.expect("no error").len();
        got += bytes;
        // A pause that is short of the time; all of them together are longer than it.
        let _ = tokio::time::timeout(time / 10, std::future::pending::<()>()).await;
        body.flow_control().release_capacity(bytes).expect("received");
    }
    assert_eq!(got, 60_000);
    assert_eq!(served.guest.unread(), 0);
}

/// Proves that a principal who leaves too much unread has the call ended that wants to send more, at once, and that what
/// other connections of it do not read counts.
#[tokio::test]
async fn unread_bytes_have_a_limit() {
    let served = serve_one(answers(vec![Bytes::from(vec![7; 300_000])], true), age(), LONG, 1 << 20);
    drop(enter(&served.guest));
    let most = limits::UNREAD_BYTES_MAX / 4;
    assert!(served.guest.charge_unread(most));
    let (mut client, _connection) = client(served.near, 1 << 20).await;
    let refused = soon(status_of(call(&mut client).await)).await;
    assert_eq!(refused.get_details_error_info().expect("details").reason, "ANSWERS_UNREAD");
    served.guest.release_unread(most);
    let mut body = call(&mut client).await;
    let mut got = 0;
    while let Some(data) = soon(body.data()).await {
        got += data.expect("no error").len();
    }
    assert_eq!(got, 300_000);
}

/// Proves that a client which reads nothing from its socket is dropped with its answers, and that it is not read on
/// meanwhile.
#[tokio::test]
async fn a_client_that_reads_nothing_is_dropped() {
    let age = Age { look: Duration::from_millis(5), ..age() };
    let mut served = serve_one(answers(vec![Bytes::from(vec![7; 20_000])], false), age, LONG, 1_000);
    let _call = enter(&served.guest);
    // A call with a window that takes the answer; the pipe does not.
    let mut request = BEGINNING.to_vec();
    request.extend([0, 0, 3, 1, 5, 0, 0, 0, 1, 0x83, 0x86, 0x84]);
    served.near.write_all(&request).await.expect("room");
    soon(served.task).await.expect("no panic");
    assert_eq!(served.guest.unread(), 0);
}

/// Proves that the receive window is small until a call is known, and then grows with use.
#[tokio::test]
async fn the_receive_window_grows_with_use() {
    let takes_all = tower::service_fn(|request: Request<Body>| async {
        let bytes = request.into_body().collect().await.map(|all| all.to_bytes().len()).unwrap_or(0);
        let frames = futures::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(bytes.to_string())))]);
        Ok::<_, Infallible>(Response::new(Body::new(StreamBody::new(frames))))
    });
    let mut window = Window::new();
    let stranger = guest(LONG);
    assert_eq!(window.grow(&stranger), None);
    drop(enter(&stranger));
    assert_eq!(window.grow(&stranger), Some(512 << 10));
    assert_eq!(window.grow(&stranger), None, "not used");
    stranger.note_consumed(1 << 20);
    assert_eq!(window.grow(&stranger), Some(1 << 20));

    let served = serve_one(attend_only(takes_all), age(), LONG, 1 << 16);
    drop(enter(&served.guest));
    let (mut client, _connection) = client(served.near, 1 << 16).await;
    let request = Request::post("http://test/x").body(()).expect("valid");
    let (answer, mut sending) = client.send_request(request, false).expect("open");
    let mut rest = Bytes::from(vec![1; 8 << 20]);
    while !rest.is_empty() {
        sending.reserve_capacity(rest.len());
        let capacity = soon(poll_fn(|context| sending.poll_capacity(context))).await.expect("open").expect("no error");
        sending.send_data(rest.split_to(capacity.min(rest.len())), rest.is_empty()).expect("open");
    }
    let mut body = soon(answer).await.expect("answered").into_body();
    assert_eq!(soon(body.data()).await.expect("data").expect("no error"), (8 << 20).to_string());
}
