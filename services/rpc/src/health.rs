//! `grpc.health.v1`: which services are in service.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use tidegauge_core::{ErrorKind, Permission, ServiceError};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::{Mount, status};

/// What each method needs.
const PERMISSIONS: &[(&str, Permission)] = &[("Check", Permission::Public), ("Watch", Permission::Authenticated)];

/// The state of every service; the empty name stands for the server.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    serving: watch::Sender<Arc<HashMap<String, bool>>>,
}

impl Board {
    /// A board on which the server and these services are in service.
    pub(crate) fn new<'a>(services: impl Iterator<Item = &'a str>) -> Self {
        let all = std::iter::once("").chain(services).map(|name| (name.to_owned(), true)).collect();
        Self { serving: watch::Sender::new(Arc::new(all)) }
    }

    pub(crate) fn set(&self, service: &str, serving: bool) {
        self.serving.send_modify(|all| {
            Arc::make_mut(all).insert(service.to_owned(), serving);
        });
    }

    pub(crate) fn set_all(&self, serving: bool) {
        self.serving.send_modify(|all| Arc::make_mut(all).values_mut().for_each(|one| *one = serving));
    }

    pub(crate) fn mount(&self) -> Mount {
        Mount::new(HealthServer::new(self.clone()), PERMISSIONS)
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
        let mut last = None;
        let changes = WatchStream::new(self.serving.subscribe())
            .map(move |all| answer(all.get(&name).copied()))
            .filter(move |now| std::future::ready(last.replace(now.status) != Some(now.status)))
            .map(Ok);
        Ok(Response::new(Box::pin(changes)))
    }
}
