//! The service: options, start, handle.

use std::sync::Arc;

use arrow_flight::flight_service_server::FlightServiceServer;
use tidegauge_core::clock::Clock;
use tidegauge_core::lake::LakeStore;
use tidegauge_core::{SystemAuthority, limits};
use tidegauge_rpc::{InternalChannel, Mount};

use crate::engine::QueryEngine;
use crate::flight::{Flight, PERMISSIONS};
use crate::live::{HotMetricSource, LiveSource};
use crate::options::QueryOptions;

/// Makes the service.
#[derive(Debug)]
pub struct HistoricalQuery;

/// The running service.
#[derive(Clone, Debug)]
pub struct QueryHandle {
    engine: Arc<QueryEngine>,
    flight: Arc<Flight>,
}

impl HistoricalQuery {
    /// Starts the service over the lake and the hot-metric service behind `hot`.
    ///
    /// `sealing_key` seals tickets and handles: processes that share it accept each other's.
    ///
    /// # Panics
    /// When the operating system gives no threads, as every start of a runtime does.
    pub fn start(
        options: QueryOptions,
        lake: Arc<dyn LakeStore>,
        hot: InternalChannel,
        clock: Arc<dyn Clock>,
        authority: SystemAuthority,
        sealing_key: [u8; 32],
    ) -> QueryHandle {
        let live = HotMetricSource::new(hot, authority, options.query_memory_bytes / 4);
        Self::start_with(options, lake, Arc::new(live), clock, sealing_key)
    }

    /// Starts the service over another live side.
    ///
    /// # Panics
    /// As [`HistoricalQuery::start`].
    pub fn start_with(
        options: QueryOptions,
        lake: Arc<dyn LakeStore>,
        live: Arc<dyn LiveSource>,
        clock: Arc<dyn Clock>,
        sealing_key: [u8; 32],
    ) -> QueryHandle {
        let handle_life = options.handle_life;
        let engine = QueryEngine::start(options, lake, live, clock);
        let engine = Arc::new(engine.expect("a process that starts can start threads"));
        let flight = Arc::new(Flight::new(Arc::clone(&engine), &sealing_key, handle_life));
        QueryHandle { engine, flight }
    }
}

impl QueryHandle {
    /// The services to mount.
    pub fn mounts(&self) -> Vec<Mount> {
        let service = FlightServiceServer::from_arc(Arc::clone(&self.flight))
            .max_decoding_message_size(limits::REQUEST_BYTES_MAX)
            .max_encoding_message_size(limits::RESPONSE_BYTES_MAX);
        vec![Mount::new(service, PERMISSIONS)]
    }

    /// The engine below Flight SQL.
    pub fn engine(&self) -> &QueryEngine {
        &self.engine
    }

    /// Takes no more queries and waits for the running ones, within [`limits::DRAIN_TIME_MAX`].
    pub async fn drain(self) {
        self.engine.drain(limits::DRAIN_TIME_MAX).await;
    }
}
