//! Starting and stopping the service.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use tidegauge_core::Permission;
use tidegauge_core::clock::SteadyClock;
use tidegauge_core::limits;
use tidegauge_core::log::EventLog;
use tidegauge_proto::raw::v1::ingest_service_server::IngestServiceServer;
use tidegauge_rpc::Mount;

use crate::options::IngestOptions;
use crate::publisher::Publisher;
use crate::service::Service;

/// Bytes around a request in a message of a stream.
const STREAM_FRAME_BYTES: usize = 16;

/// The ingest service.
#[derive(Debug)]
pub struct Ingest;

impl Ingest {
    /// Starts the service over a log.
    pub fn start(options: IngestOptions, log: Arc<dyn EventLog>, clock: Arc<SteadyClock>) -> IngestHandle {
        // A secret of this process against prepared hash collisions, from the standard library's source of them.
        let seed = RandomState::new().hash_one(0_u64);
        IngestHandle { publisher: Arc::new(Publisher::new(options, log, clock, seed)) }
    }
}

/// The running service.
#[derive(Debug)]
pub struct IngestHandle {
    publisher: Arc<Publisher>,
}

impl IngestHandle {
    /// The service with the permissions of its methods.
    pub fn mounts(&self) -> Vec<Mount> {
        let service = IngestServiceServer::new(Service::new(self.publisher.clone()))
            .max_decoding_message_size(limits::REQUEST_BYTES_MAX + STREAM_FRAME_BYTES)
            .max_encoding_message_size(limits::RESPONSE_BYTES_MAX);
        vec![Mount::new(service, &[("Publish", Permission::Publish), ("PublishStream", Permission::Publish)])]
    }

    /// Takes no new requests, answers those in flight, ends the streams; returns when all have ended or the time for it
    /// has passed.
    pub async fn drain(self) {
        self.publisher.draining.cancel();
        self.publisher.in_flight.close();
        let ended = tokio::time::timeout(self.publisher.options.drain_time_max, self.publisher.in_flight.wait()).await;
        if ended.is_err() {
            tracing::warn!(
                in_flight = self.publisher.in_flight.len(),
                "requests were in flight when the drain ran out of time"
            );
        }
    }
}
