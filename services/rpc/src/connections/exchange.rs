//! One call on a connection: its request, its answer, and the bytes of the answer that the client has not taken.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tidegauge_core::{ErrorKind, ServiceError};
use tonic::body::Body;
use tower::Service as _;

use crate::guest::Guest;
use crate::layers::{Answer, Line, Stack, closed};
use crate::status;

/// Bytes that are handed over at a time: then other answers of the connection have their turn.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Begins a call: what the layers decide at once is decided when this returns.
pub(super) fn begin(request: Request<RecvStream>, respond: SendResponse<Piece>, line: Line, stack: &Stack) {
    let guest = line.guest.clone();
    let request = request.map(|stream| {
        if stream.is_end_stream() {
            return Body::empty();
        }
        Body::new(Received { stream, guest: guest.clone(), data_done: false })
    });
    let mut request = request;
    request.extensions_mut().insert(line.clone());
    // A stack is always ready: what may have to wait or be refused is decided in the call.
    let answer = stack.clone().call(request);
    tokio::spawn(answer_with(Box::pin(answer), respond, line));
}

/// A request's body, as handlers take it.
struct Received {
    stream: RecvStream,
    guest: Option<Arc<Guest>>,
    data_done: bool,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        if !this.data_done {
            match ready!(this.stream.poll_data(context)) {
                Some(Ok(bytes)) => {
                    let _ = this.stream.flow_control().release_capacity(bytes.len());
                    if let Some(guest) = &this.guest {
                        guest.note_consumed(bytes.len());
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                // The client wants no answer; what it has sent is whole.
                Some(Err(error)) if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.data_done = true,
            }
        }
        match ready!(this.stream.poll_trailers(context)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Bytes of an answer on their way.
#[derive(Debug, Default)]
pub(super) struct Piece {
    bytes: Bytes,
    _charge: Option<Arc<Charge>>,
}

/// What the pieces of one chunk are charged; given back with the last one, because until then all its memory is held.
#[derive(Debug)]
struct Charge {
    guest: Arc<Guest>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.guest.release_unread(self.bytes);
    }
}

impl Piece {
    /// Charges a chunk; none if its owner leaves too many unread.
    fn charged(bytes: Bytes, guest: Option<&Arc<Guest>>) -> Option<Self> {
        let Some(guest) = guest else { return Some(Self { bytes, _charge: None }) };
        guest.charge_unread(bytes.len()).then(|| {
            let charge = Arc::new(Charge { guest: Arc::clone(guest), bytes: bytes.len() });
            Self { bytes, _charge: Some(charge) }
        })
    }

    fn split_to(&mut self, count: usize) -> Self {
        Self { bytes: self.bytes.split_to(count), _charge: self._charge.clone() }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// Why no more of an answer can be sent.
enum Ended {
    /// The call or its connection is gone.
    Gone,
    /// The client is told.
    Told(ServiceError),
}

/// Sends the answer, as fast as the client takes it.
async fn answer_with(mut answer: Pin<Box<Answer>>, mut respond: SendResponse<Piece>, line: Line) {
    let answered = poll_fn(|context| match respond.poll_reset(context) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => answer.as_mut().poll(context).map(Some),
    });
    let Some(Ok(response)) = answered.await else { return };
    drop(answer);
    let (parts, mut body) = response.into_parts();
    let is_whole = body.is_end_stream();
    let Ok(mut stream) = respond.send_response(Response::from_parts(parts, ()), is_whole) else { return };
    if is_whole {
        return;
    }
    loop {
        let frame = poll_fn(|context| match stream.poll_reset(context) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => Pin::new(&mut body).poll_frame(context).map(Some),
        });
        let frame = match frame.await {
            None => return,
            Some(None) => {
                let _ = stream.send_data(Piece::default(), true);
                return;
            }
            Some(Some(Err(_))) => return stream.send_reset(Reason::INTERNAL_ERROR),
            Some(Some(Ok(frame))) => frame,
        };
        let chunk = match frame.into_data() {
            Ok(chunk) => chunk,
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => {
                    let _ = stream.send_trailers(trailers);
                    return;
                }
                Err(_) => continue,
            },
        };
        match send(&mut stream, chunk, &line).await {
            Ok(()) => {}
            Err(Ended::Gone) => return,
            Err(Ended::Told(error)) => {
                // The handler ends first, and with it all that it keeps.
                drop(body);
                let mut trailers = HeaderMap::new();
                // Fails only for a text that no header can carry; ours are ASCII.
                let _ = status(error).add_header(&mut trailers);
                stream.reserve_capacity(0);
                let _ = stream.send_trailers(trailers);
                return;
            }
        }
    }
}

/// Hands a chunk over, no more at a time than the client takes: what it does not take is let go of when the call ends.
async fn send(stream: &mut SendStream<Piece>, chunk: Bytes, line: &Line) -> Result<(), Ended> {
    // An answer that is always ready must let others run.
    tokio::task::consume_budget().await;
    let Some(mut rest) = Piece::charged(chunk, line.guest.as_ref()) else {
        metrics::counter!("tidegauge_rpc_answers_unread_total").increment(1);
        return Err(Ended::Told(unread("the principal leaves more bytes of answers unread than it may")));
    };
    while rest.has_remaining() {
        stream.reserve_capacity(rest.remaining().min(PIECE_BYTES));
        let capacity = match stream.capacity() {
            0 => wait(stream, line).await?,
            capacity => capacity,
        };
        let piece = rest.split_to(capacity.min(rest.remaining()));
        stream.send_data(piece, false).map_err(|_| Ended::Gone)?;
    }
    Ok(())
}

/// Waits until the client takes more.
async fn wait(stream: &mut SendStream<Piece>, line: &Line) -> Result<usize, Ended> {
    let capacity = poll_fn(|context| {
        if stream.poll_reset(context).is_ready() {
            return Poll::Ready(None);
        }
        loop {
            match ready!(stream.poll_capacity(context)) {
                Some(Ok(0)) => {}
                Some(Ok(capacity)) => return Poll::Ready(Some(capacity)),
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
    });
    // From inside everything is read, sooner or later: those who read are our own.
    let Some(guest) = &line.guest else { return capacity.await.ok_or(Ended::Gone) };
    tokio::select! {
        biased;
        capacity = tokio::time::timeout(guest.unread_time(), capacity) => match capacity {
            Ok(capacity) => capacity.ok_or(Ended::Gone),
            Err(_) => {
                metrics::counter!("tidegauge_rpc_answers_unread_total").increment(1);
                Err(Ended::Told(unread("nothing of the answer was read for too long")))
            }
        },
        error = closed(Some(line.clone())) => Err(Ended::Told(error)),
    }
}

fn unread(message: &'static str) -> ServiceError {
    ServiceError::new(ErrorKind::ResourceExhausted, "ANSWERS_UNREAD", message)
}
