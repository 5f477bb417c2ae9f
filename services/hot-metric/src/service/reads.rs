//! The methods for readers.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tidegauge_core::ids::MetricName;
use tidegauge_core::scope::ScopedTenant;
use tidegauge_core::{ErrorKind, FieldViolation, ServiceError, limits};
use tidegauge_proto::convert::hot::current_to_proto;
use tidegauge_proto::hotmetric::v1 as pb;
use tidegauge_proto::hotmetric::v1::hot_metric_service_server::HotMetricService;
use tidegauge_rpc::{Guard, scope, status};
use tonic::{Request, Response, Status};

use super::live::LiveWindows;
use crate::watch::Watcher;
use crate::{State, page};

/// `HotMetricService`.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    state: Arc<State>,
}

impl Reads {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    async fn get(&self, tenant: ScopedTenant, name: &str) -> Result<pb::GetMetricResponse, ServiceError> {
        let metric = parse_metric("metric_name".to_owned(), name).map_err(|field| invalid(vec![field]))?;
        let known = self.state.known().await?;
        let mut freshness = known.freshness(tenant.id());
        let mut found = self.state.store.currents(&tenant, std::slice::from_ref(&metric)).await?.pop().flatten();
        if found.is_none() && !known.is_whole() {
            self.state.whole().await?;
            freshness = known.freshness(tenant.id());
            found = self.state.store.currents(&tenant, std::slice::from_ref(&metric)).await?.pop().flatten();
        }
        let Some(value) = found else {
            let message = format!("there is no metric {:?}", metric.as_str());
            return Err(ServiceError::new(ErrorKind::NotFound, "METRIC_NOT_FOUND", message));
        };
        Ok(pb::GetMetricResponse { metric: Some(current_to_proto(&value)), freshness: Some(freshness) })
    }

    async fn batch_get(
        &self,
        tenant: ScopedTenant,
        names: &[String],
    ) -> Result<pb::BatchGetMetricsResponse, ServiceError> {
        if names.is_empty() {
            let what = "must name 1 to 1000 metrics";
            return Err(ServiceError::invalid("metric_names", "NO_METRICS", what));
        }
        let metrics = parse_metrics(names)?;
        let known = self.state.whole().await?;
        let freshness = known.freshness(tenant.id());
        let found = self.state.store.currents(&tenant, &metrics).await?;
        let missing = metrics.iter().zip(&found).filter(|(_, value)| value.is_none());
        Ok(pb::BatchGetMetricsResponse {
            missing_metric_names: missing.map(|(metric, _)| metric.as_str().to_owned()).collect(),
            metrics: found.iter().flatten().map(current_to_proto).collect(),
            freshness: Some(freshness),
        })
    }

    async fn list(
        &self,
        tenant: ScopedTenant,
        request: &pb::ListMetricsRequest,
    ) -> Result<pb::ListMetricsResponse, ServiceError> {
        let size = page::size(request.page_size)?;
        let after = page::after(tenant.id(), &request.page_token)?;
        let known = self.state.whole().await?;
        let freshness = known.freshness(tenant.id());
        // One more than asked for tells whether there is a next page.
        let mut values = self.state.store.list(&tenant, after.as_ref(), size + 1).await?;
        let more = values.len() > size;
        values.truncate(size);
        let next = values.last().filter(|_| more).map(|last| page::token(tenant.id(), &last.metric));
        Ok(pb::ListMetricsResponse {
            metrics: values.iter().map(current_to_proto).collect(),
            next_page_token: next.unwrap_or_default(),
            freshness: Some(freshness),
        })
    }

    async fn watch(&self, tenant: ScopedTenant, names: &[String], guard: Guard) -> Result<Watcher, ServiceError> {
        let metrics: HashSet<MetricName> = parse_metrics(names)?.into_iter().collect();
        self.state.whole().await?;
        // Subscribed before the store is read: no change falls between.
        let changes = self.state.hub.subscribe(tenant.id())?;
        let (store, draining) = (Arc::clone(&self.state.store), self.state.reads_end.clone());
        Ok(Watcher::new(store, tenant, metrics, changes, guard, draining))
    }
}

fn parse_metric(field: String, name: &str) -> Result<MetricName, FieldViolation> {
    MetricName::parse(name).map_err(|error| FieldViolation {
        field,
        reason: "METRIC_NAME_INVALID",
        description: error.to_string(),
    })
}

/// Reads up to [`limits::BATCH_GET_MAX`] names.
fn parse_metrics(names: &[String]) -> Result<Vec<MetricName>, ServiceError> {
    if names.len() > limits::BATCH_GET_MAX {
        let what = format!("names {} metrics, at most {} are allowed", names.len(), limits::BATCH_GET_MAX);
        return Err(ServiceError::invalid("metric_names", "TOO_MANY_METRICS", what));
    }
    let mut metrics = Vec::with_capacity(names.len());
    let mut violations = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match parse_metric(format!("metric_names[{index}]"), name) {
            Ok(metric) => metrics.push(metric),
            Err(violation) => violations.push(violation),
        }
    }
    if violations.is_empty() { Ok(metrics) } else { Err(invalid(violations)) }
}

fn invalid(fields: Vec<FieldViolation>) -> ServiceError {
    ServiceError::invalid_fields(fields)
}

/// The one tenant of a request's scope.
fn tenant_of<T>(request: &Request<T>) -> Result<ScopedTenant, Status> {
    scope(request)?.one().map_err(status)
}

#[tonic::async_trait]
impl HotMetricService for Reads {
    async fn get_metric(
        &self,
        request: Request<pb::GetMetricRequest>,
    ) -> Result<Response<pb::GetMetricResponse>, Status> {
        let tenant = tenant_of(&request)?;
        let answer = self.get(tenant, &request.get_ref().metric_name).await;
        answer.map(Response::new).map_err(status)
    }

    async fn batch_get_metrics(
        &self,
        request: Request<pb::BatchGetMetricsRequest>,
    ) -> Result<Response<pb::BatchGetMetricsResponse>, Status> {
        let tenant = tenant_of(&request)?;
        let answer = self.batch_get(tenant, &request.get_ref().metric_names).await;
        answer.map(Response::new).map_err(status)
    }

    async fn list_metrics(
        &self,
        request: Request<pb::ListMetricsRequest>,
    ) -> Result<Response<pb::ListMetricsResponse>, Status> {
        let tenant = tenant_of(&request)?;
        self.list(tenant, request.get_ref()).await.map(Response::new).map_err(status)
    }

    type WatchMetricsStream = BoxStream<'static, Result<pb::WatchMetricsResponse, Status>>;

    async fn watch_metrics(
        &self,
        request: Request<pb::WatchMetricsRequest>,
    ) -> Result<Response<Self::WatchMetricsStream>, Status> {
        let tenant = tenant_of(&request)?;
        let guard = Guard::of(&request);
        let watcher = self.watch(tenant, &request.get_ref().metric_names, guard).await.map_err(status)?;
        Ok(Response::new(watcher.into_stream().boxed()))
    }

    type ListLiveWindowsStream = BoxStream<'static, Result<pb::ListLiveWindowsResponse, Status>>;

    async fn list_live_windows(
        &self,
        request: Request<pb::ListLiveWindowsRequest>,
    ) -> Result<Response<Self::ListLiveWindowsStream>, Status> {
        let scope = scope(&request)?;
        let guard = Guard::of(&request);
        let windows = LiveWindows::begin(Arc::clone(&self.state), &scope, guard).await.map_err(status)?;
        Ok(Response::new(windows.into_stream().boxed()))
    }
}
