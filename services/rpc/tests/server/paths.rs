//! Paths that are almost a method's.

use tidegauge_core::scope::Role;
use tidegauge_rpc::walk::{Answer, call};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::world::{Server, World, soon};

const EXACT: &str = "/tidegauge.hotmetric.v1.HotMetricService/GetMetric";

/// Variants that some router somewhere takes for the same. (A fragment is not among them: the HTTP library cuts it off
/// before anything sees it, so that what is judged and what is routed is the exact path.)
fn variants() -> Vec<String> {
    let bare = &EXACT[1..];
    let (service, method) = bare.split_once('/').unwrap();
    vec![
        bare.to_owned(),
        format!("/{EXACT}"),
        format!("//{bare}"),
        format!("/{service}//{method}"),
        format!("{EXACT}/"),
        format!("/{service}/./{method}"),
        format!("/x/../{bare}"),
        format!("/./{bare}"),
        format!("/{service}%2F{method}"),
        format!("/{service}%2f{method}"),
        format!("/{}/{method}", service.replace('.', "%2E")),
        format!("/{service}/%47etMetric"),
        format!("/{}/{method}", service.to_uppercase()),
        format!("/{service}/getmetric"),
        format!("/{service}/get_metric"),
        format!("{EXACT}?x=1"),
        format!("{EXACT}?"),
        format!("{EXACT};x=1"),
        format!("{EXACT}%00"),
        format!("{EXACT}%20"),
        format!("/{service}"),
        format!("/{service}/"),
        format!("/api{EXACT}"),
        format!("http://localhost{EXACT}"),
        format!("\\{bare}"),
        "/".to_owned(),
        "*".to_owned(),
        String::new(),
    ]
}

/// Proves, with frames written by hand because no client library would send them, that only the exact path reaches a
/// handler: no slash, doubled, encoded, other case, query, absolute, and other verbs on the exact one.
#[tokio::test]
async fn only_the_exact_path_reaches_a_handler() {
    let world = World::new();
    let server = world.start().await;
    let admin = world.token("admin", &["t1"], Role::Admin);
    raw_call(&server, "POST", EXACT, Some(&admin)).await;
    assert_eq!(world.probe.reached(), 1, "the exact path must reach it, or this test shows nothing");

    for path in variants() {
        raw_call(&server, "POST", &path, Some(&admin)).await;
        assert_eq!(world.probe.reached(), 1, "{path:?} reached a handler");
        raw_call(&server, "POST", &path, None).await;
        assert_eq!(world.probe.reached(), 1, "{path:?} reached a handler without a credential");
    }
    for verb in ["GET", "PUT", "HEAD", "OPTIONS", "post", "CONNECT"] {
        raw_call(&server, verb, EXACT, Some(&admin)).await;
        assert_eq!(world.probe.reached(), 1, "{verb} reached a handler");
    }
}

/// Proves that an unknown path tells nobody what there is, and an authenticated caller that it is not there.
#[tokio::test]
async fn unknown_paths_are_unauthenticated_or_unimplemented() {
    let world = World::new();
    let channel = world.start().await.channel_kept().await;
    let reader = world.token("reader", &["t1"], Role::Reader);
    for path in ["/nothing.Here/AtAll", "/tidegauge.hotmetric.v1.HotMetricService/getmetric", "/"] {
        let code = |answer: Answer| match answer {
            Answer::Refused { code, reason, .. } => (code, reason),
            Answer::LetIn => panic!("{path} was let in"),
        };
        let nobody = code(call(&channel.0, path, None, None).await.unwrap());
        assert_eq!(nobody, (Code::Unauthenticated, "CREDENTIAL_MISSING".to_owned()));
        let somebody = code(call(&channel.0, path, Some(&reader), None).await.unwrap());
        assert_eq!(somebody, (Code::Unimplemented, "METHOD_UNKNOWN".to_owned()));
    }
}

impl Server {
    /// A channel that keeps its server.
    pub(crate) async fn channel_kept(self) -> (tonic::transport::Channel, Self) {
        (self.channel().await, self)
    }
}

/// Sends one call with exactly these bytes as verb and path, and waits until the server has answered it in some way:
/// headers, a reset, or the end of the connection.
async fn raw_call(server: &Server, verb: &str, path: &str, authorization: Option<&str>) {
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const GOAWAY: u8 = 7;
    let mut io = TcpStream::connect(server.handle.local_addr()).await.unwrap();
    let mut block = Vec::new();
    for (name, value) in [
        (":method", verb),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        header(&mut block, name, value);
    }
    if let Some(authorization) = authorization {
        header(&mut block, "authorization", authorization);
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    frame(&mut bytes, HEADERS, 0x4, 1, &block);
    frame(&mut bytes, 0, 0x1, 1, &[0; 5]);
    // The server may have closed the connection already.
    let _ = io.write_all(&bytes).await;

    soon(async {
        loop {
            let mut head = [0; 9];
            if io.read_exact(&mut head).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if io.read_exact(&mut payload).await.is_err() {
                return;
            }
            if matches!(head[3], HEADERS | RESET | GOAWAY) {
                return;
            }
        }
    })
    .await;
}

/// A literal header field without indexing and without Huffman coding (RFC 7541, 6.2.2).
fn header(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        let length = text.len();
        if length < 127 {
            block.push(length as u8);
        } else {
            block.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                block.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            block.push(rest as u8);
        }
        block.extend_from_slice(text.as_bytes());
    }
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}
