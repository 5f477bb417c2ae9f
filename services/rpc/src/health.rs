//! `grpc.health.v1`: which services are in service.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tidegauge_core::{ErrorKind, Permission, ServiceError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::{Mount, status};

/// What each method needs.
const PERMISSIONS: &[(&str, Permission)] = &[("Check", Permission::Public), ("Watch", Permission::Authenticated)];

/// Bytes of a request: the name of a service. Whoever has no credential can send one.
const REQUEST_BYTES_MAX: usize = 1 << 10;

/// The state of every service; the empty name stands for the server.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    serving: watch::Sender<Arc<HashMap<String, bool>>>,
    /// Ends the watches, once they have said what is served last.
    ending: CancellationToken,
}

impl Board {
    /// A board on which the server and these services are in service.
    pub(crate) fn new<'a>(services: impl Iterator<Item = &'a str>) -> Self {
        let all = std::iter::once("").chain(services).map(|name| (name.to_owned(), true)).collect();
        Self { serving: watch::Sender::new(Arc::new(all)), ending: CancellationToken::new() }
    }

    pub(crate) fn set(&self, service: &str, serving: bool) {
        self.serving.send_modify(|all| {
            Arc::make_mut(all).insert(service.to_owned(), serving);
        });
    }

    /// Nothing is in service any more: tells the watches, and ends them.
    pub(crate) fn end(&self) {
        self.serving.send_modify(|all| Arc::make_mut(all).values_mut().for_each(|one| *one = false));
        self.ending.cancel();
    }

    pub(crate) fn mount(&self) -> Mount {
        Mount::new(HealthServer::new(self.clone()).max_decoding_message_size(REQUEST_BYTES_MAX), PERMISSIONS)
    }
}

fn answer(serving: Option<bool>) -> HealthCheckResponse {
    let status = match serving {
        Some(true) => ServingStatus::Serving,
        Some(false) => ServingStatus::NotServing,
        None => ServingStatus::ServiceUnknown,
    };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Board {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let name = request.into_inner().service;
        let serving = self.serving.borrow().get(&name).copied();
        match serving {
            None => Err(status(ServiceError::new(ErrorKind::NotFound, "SERVICE_UNKNOWN", "there is no such service"))),
            known => Ok(Response::new(answer(known))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let name = request.into_inner().service;
        let watching = Watching { name, last: None, serving: self.serving.subscribe(), ending: self.ending.clone() };
        let changes = futures::stream::unfold(watching, |mut watching| async {
            let now = watching.next().await?;
            Some((Ok(now), watching))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

/// One watch of a service.
struct Watching {
    name: String,
    last: Option<i32>,
    serving: watch::Receiver<Arc<HashMap<String, bool>>>,
    ending: CancellationToken,
}

impl Watching {
    /// What is so now, if it is not what was told last; otherwise what comes next. Nothing once the server drains.
    async fn next(&mut self) -> Option<HealthCheckResponse> {
        loop {
            let now = answer(self.serving.borrow_and_update().get(&self.name).copied());
            if self.last.replace(now.status) != Some(now.status) {
                return Some(now);
            }
            tokio::select! {
                biased;
                changed = self.serving.changed() => changed.ok()?,
                () = self.ending.cancelled() => return None,
            }
        }
    }
}
