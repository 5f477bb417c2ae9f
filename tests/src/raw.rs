//! One gRPC call with an empty message to any path, without generated code.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub http: u16,
    /// `grpc-status` of headers or trailers; `None` when the server sent none.
    pub code: Option<u16>,
    /// `grpc-message`, as sent (percent-encoded).
    pub message: String,
    /// Whether `grpc-status-details-bin` came with it.
    pub detailed: bool,
}

/// Calls `path` with an empty message (five zero bytes: not compressed, length 0) and ends the stream.
///
/// # Errors
/// The transport's error.
pub async fn call(address: &str, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut request = Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(Bytes::from_static(&[0; 5])))?).await?;
    let http = response.status().as_u16();
    let mut fields = response.headers().clone();
    let body = response.into_body().collect();
    // Streams that stay open (a watch) are answered by their headers; five seconds decide.
    if let Ok(Ok(body)) = tokio::time::timeout(std::time::Duration::from_secs(5), body).await
        && let Some(trailers) = body.trailers()
    {
        fields.extend(trailers.clone());
    }
    driver.abort();
    let text = |name: &str| fields.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    Ok(Answer {
        http,
        code: text("grpc-status").parse().ok(),
        message: text("grpc-message"),
        detailed: fields.contains_key("grpc-status-details-bin"),
    })
}
