//! The methods of `IngestService`.

use std::sync::Arc;

use futures::stream::BoxStream;
use tidegauge_core::{ErrorKind, ServiceError};
use tidegauge_proto::ingest::v1::{PublishResponse, PublishStreamResponse};
use tidegauge_proto::raw::v1::ingest_service_server::IngestService;
use tidegauge_proto::raw::{RawPublishRequest, RawPublishStreamRequest};
use tidegauge_rpc::{Guard, Kept, scope, status};
use tonic::{Request, Response, Status, Streaming};

use crate::decide::order::KeptOrder;
use crate::publisher::{Publisher, Seen};
use crate::stream::Pipeline;

/// The service over requests of raw bytes.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    publisher: Arc<Publisher>,
}

impl Service {
    pub(crate) fn new(publisher: Arc<Publisher>) -> Self {
        Self { publisher }
    }

    fn take_work(&self) -> Result<(), Status> {
        if self.publisher.draining.is_cancelled() { Err(status(draining())) } else { Ok(()) }
    }
}

/// The answer to new work while the server stops.
pub(crate) fn draining() -> ServiceError {
    ServiceError::new(ErrorKind::Unavailable, "DRAINING", "the server is stopping; connect again")
}

#[tonic::async_trait]
impl IngestService for Service {
    async fn publish(&self, request: Request<RawPublishRequest>) -> Result<Response<PublishResponse>, Status> {
        self.take_work()?;
        let tenant = scope(&request)?.one().map_err(status)?;
        let _in_flight = self.publisher.in_flight.token();
        let RawPublishRequest(message) = request.into_inner();
        let admitted = self.publisher.admit(&tenant, &message, &KeptOrder::default(), &mut Seen::default());
        let admitted = admitted.map_err(status)?;
        drop(message);
        let all_refused = admitted.all_refused();
        let answer = self.publisher.append(admitted).await.map_err(status)?;
        match all_refused {
            Some(error) => Err(status(error)),
            None => Ok(Response::new(answer)),
        }
    }

    type PublishStreamStream = BoxStream<'static, Result<PublishStreamResponse, Status>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<RawPublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        self.take_work()?;
        let tenant = scope(&request)?.one().map_err(status)?;
        let (guard, kept) = (Guard::of(&request), Kept::of(&request));
        let pipeline = Pipeline::new(self.publisher.clone(), tenant, guard, kept, request.into_inner());
        Ok(Response::new(Box::pin(pipeline.answers())))
    }
}
