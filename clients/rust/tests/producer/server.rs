//! An ingest service that does what its script says with the next request, over all streams.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use prost::Message as _;
use tidegauge_client::proto::ingest::v1::publish_stream_response::Outcome;
use tidegauge_client::proto::ingest::v1::{PublishResponse, PublishStreamRequest, PublishStreamResponse, RequestError};
use tidegauge_client::proto::raw::v1::ingest_service_server::{IngestService, IngestServiceServer};
use tidegauge_client::proto::raw::{RawPublishRequest, RawPublishStreamRequest};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Take,
    /// Taken, but the answer is lost.
    TakeUnanswered,
    /// Taken when the test says so.
    Hold,
    RefuseForNow,
    Refuse,
    /// The stream ends with this code.
    Break(Code),
    /// The stream ends without a word.
    End,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Step>,
    taken: Vec<(u64, Vec<u8>)>,
    streams: usize,
    credentials: Option<(String, String)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Server {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    released: CancellationToken,
}

impl Server {
    pub(crate) async fn start(script: impl IntoIterator<Item = Vec<Step>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State { script: script.into_iter().flatten().collect(), ..State::default() };
        let server = Self {
            addr: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(state)),
            released: CancellationToken::new(),
        };
        let service = IngestServiceServer::new(server.clone()).max_decoding_message_size(64 << 20);
        let serve = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(serve.serve_with_incoming(TcpListenerStream::new(listener)));
        server
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Requests taken: sequence and bytes.
    pub(crate) fn taken(&self) -> Vec<(u64, Vec<u8>)> {
        self.state.lock().unwrap().taken.clone()
    }

    pub(crate) fn streams(&self) -> usize {
        self.state.lock().unwrap().streams
    }

    pub(crate) fn credentials(&self) -> Option<(String, String)> {
        self.state.lock().unwrap().credentials.clone()
    }

    pub(crate) fn release(&self) {
        self.released.cancel();
    }

    /// The answer to a request; None: no answer. An error ends the stream.
    async fn handle(&self, message: Vec<u8>) -> Result<Option<PublishStreamResponse>, Option<Status>> {
        let sequence = PublishStreamRequest::decode(&message[..]).unwrap().request.unwrap().sequence;
        let step = self.state.lock().unwrap().script.pop_front().unwrap_or(Step::Take);
        let error = |code: Code, reason: &str, retry_after_ms| {
            let (reason, message) = (reason.to_owned(), String::new());
            Outcome::Error(RequestError { code: code as i32, reason, message, retry_after_ms })
        };
        if matches!(step, Step::Take | Step::TakeUnanswered | Step::Hold) {
            self.state.lock().unwrap().taken.push((sequence, message));
        }
        let outcome = match step {
            Step::Break(code) => return Err(Some(Status::new(code, "as told"))),
            Step::End => return Err(None),
            Step::TakeUnanswered => return Ok(None),
            Step::Take => Outcome::Response(PublishResponse { accepted: 1, ..PublishResponse::default() }),
            Step::Hold => {
                self.released.cancelled().await;
                Outcome::Response(PublishResponse { accepted: 1, ..PublishResponse::default() })
            }
            Step::RefuseForNow => error(Code::ResourceExhausted, "QUOTA_EXCEEDED", 5),
            Step::Refuse => error(Code::InvalidArgument, "MODE_UNSPECIFIED", 0),
        };
        Ok(Some(PublishStreamResponse { sequence, outcome: Some(outcome) }))
    }
}

#[tonic::async_trait]
impl IngestService for Server {
    async fn publish(&self, _: Request<RawPublishRequest>) -> Result<Response<PublishResponse>, Status> {
        Err(Status::unimplemented("not called"))
    }

    type PublishStreamStream = BoxStream<'static, Result<PublishStreamResponse, Status>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<RawPublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let header = |name: &str| Some(request.metadata().get(name)?.to_str().ok()?.to_owned());
        let credentials = header("authorization").zip(header("x-tenant-id"));
        {
            let mut state = self.state.lock().unwrap();
            state.streams += 1;
            state.credentials = credentials;
        }
        let state = Some((self.clone(), request.into_inner()));
        let answers = futures::stream::unfold(state, |state| async move {
            let (server, mut requests) = state?;
            loop {
                let RawPublishStreamRequest(message) = requests.message().await.ok()??;
                match server.handle(message.to_vec()).await {
                    Ok(Some(answer)) => return Some((Ok(answer), Some((server, requests)))),
                    Ok(None) => {}
                    Err(Some(status)) => return Some((Err(status), None)),
                    Err(None) => return None,
                }
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}
