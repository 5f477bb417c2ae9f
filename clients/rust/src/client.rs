//! The client: one connection, one method a call.

use futures::stream::{BoxStream, StreamExt as _};
use tidegauge_proto::aggregation::v1::aggregation_service_client::AggregationServiceClient;
use tidegauge_proto::aggregation::v1::{GetStatusRequest, GetStatusResponse};
use tidegauge_proto::hotmetric::v1::hot_metric_service_client::HotMetricServiceClient;
use tidegauge_proto::hotmetric::v1::{
    BatchGetMetricsRequest, BatchGetMetricsResponse, GetMetricRequest, GetMetricResponse, ListLiveWindowsRequest,
    ListLiveWindowsResponse, ListMetricsRequest, ListMetricsResponse, WatchMetricsRequest, WatchMetricsResponse,
};
use tidegauge_proto::ingest::v1::ingest_service_client::IngestServiceClient;
use tidegauge_proto::ingest::v1::{PublishRequest, PublishResponse};
use tidegauge_proto::limits;

use crate::channel::{Authorized, ClientOptions};
use crate::error::ClientError;
use crate::producer::{Producer, ProducerOptions};
use crate::query::{self, QueryResult};

/// Keys of one look at the status.
const STATUS_PAGE_SIZE: u32 = 1_000;

/// Messages of the server, in order.
pub type MessageStream<T> = BoxStream<'static, Result<T, ClientError>>;

/// A connection to a server. Cheap to clone; clones share the connection, which is restored when it breaks.
#[derive(Clone, Debug)]
pub struct Client {
    options: ClientOptions,
    channel: Authorized,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Option`] for an address or token that cannot be used, [`ClientError::Connect`] when nobody
    /// answers. Credentials are checked by the first call.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let channel = options.open().await?;
        Ok(Self { options, channel })
    }

    /// Like [`Client::connect`], but the connection is made by the first call.
    ///
    /// # Errors
    /// [`ClientError::Option`].
    pub fn connect_lazily(options: ClientOptions) -> Result<Self, ClientError> {
        let channel = options.open_lazily()?;
        Ok(Self { options, channel })
    }

    /// The options of this client.
    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// A client for another tenant, over a connection of its own that is made by its first call.
    ///
    /// # Errors
    /// [`ClientError::Option`] when the name can stand in no header.
    pub fn for_tenant(&self, tenant: impl Into<String>) -> Result<Self, ClientError> {
        Self::connect_lazily(ClientOptions { tenant: Some(tenant.into()), ..self.options.clone() })
    }

    /// Publishes one batch and waits until it is durable. For many batches use [`Client::producer`].
    ///
    /// # Errors
    /// What the server said; with code `InvalidArgument` when it refused every event.
    pub async fn publish(&self, request: PublishRequest) -> Result<PublishResponse, ClientError> {
        let mut client = IngestServiceClient::new(self.channel.clone())
            .max_encoding_message_size(limits::REQUEST_BYTES_MAX)
            .max_decoding_message_size(limits::RESPONSE_BYTES_MAX);
        Ok(client.publish(request).await?.into_inner())
    }

    /// A producer with its own stream; must be called inside a tokio runtime.
    pub fn producer(&self, options: ProducerOptions) -> Producer {
        Producer::start(self.channel.clone(), options)
    }

    /// Current value of one metric.
    ///
    /// # Errors
    /// Code `NotFound` if the tenant has no such metric.
    pub async fn get_metric(&self, name: &str) -> Result<GetMetricResponse, ClientError> {
        let request = GetMetricRequest { metric_name: name.to_owned() };
        Ok(self.hot().get_metric(request).await?.into_inner())
    }

    /// Current values of up to 1,000 metrics.
    ///
    /// # Errors
    /// What the server said.
    pub async fn batch_get_metrics(&self, names: Vec<String>) -> Result<BatchGetMetricsResponse, ClientError> {
        let request = BatchGetMetricsRequest { metric_names: names };
        Ok(self.hot().batch_get_metrics(request).await?.into_inner())
    }

    /// One page of all current values, sorted by name: `page_size` 0 for the default, `page_token` empty for the first.
    ///
    /// # Errors
    /// What the server said.
    pub async fn list_metrics(&self, page_size: u32, page_token: &str) -> Result<ListMetricsResponse, ClientError> {
        let request = ListMetricsRequest { page_size, page_token: page_token.to_owned() };
        Ok(self.hot().list_metrics(request).await?.into_inner())
    }

    /// Current values now, then every change; all metrics if `names` is empty.
    ///
    /// # Errors
    /// What the server said; later errors end the stream.
    pub async fn watch(&self, names: Vec<String>) -> Result<MessageStream<WatchMetricsResponse>, ClientError> {
        let request = WatchMetricsRequest { metric_names: names };
        let stream = self.hot().watch_metrics(request).await?.into_inner();
        Ok(stream.map(|message| message.map_err(ClientError::from)).boxed())
    }

    /// Windows that are not in the lake yet.
    ///
    /// # Errors
    /// What the server said; later errors end the stream.
    pub async fn live_windows(&self) -> Result<MessageStream<ListLiveWindowsResponse>, ClientError> {
        let stream = self.hot().list_live_windows(ListLiveWindowsRequest {}).await?.into_inner();
        Ok(stream.map(|message| message.map_err(ClientError::from)).boxed())
    }

    /// How aggregation stands, with all keys of the scope's tenants. The pages are looks one after another: the shards are
    /// those of the last one, and everything is quiescent if it was at every look.
    ///
    /// # Errors
    /// What the server said.
    pub async fn status(&self) -> Result<GetStatusResponse, ClientError> {
        let mut status = self.status_page(STATUS_PAGE_SIZE, String::new()).await?;
        while !status.next_page_token.is_empty() {
            let page_token = std::mem::take(&mut status.next_page_token);
            let page = self.status_page(STATUS_PAGE_SIZE, page_token).await?;
            status.keys.extend(page.keys);
            status.shards = page.shards;
            status.quiescent &= page.quiescent;
            status.next_page_token = page.next_page_token;
        }
        Ok(status)
    }

    /// How aggregation stands, with a page of the keys: the one that `page_token` asks for, or the first one.
    ///
    /// # Errors
    /// What the server said.
    pub async fn status_page(&self, page_size: u32, page_token: String) -> Result<GetStatusResponse, ClientError> {
        let mut client =
            AggregationServiceClient::new(self.channel.clone()).max_decoding_message_size(limits::RESPONSE_BYTES_MAX);
        Ok(client.get_status(GetStatusRequest { page_size, page_token }).await?.into_inner())
    }

    /// Runs one SELECT over live values and history; the result comes as Arrow batches.
    ///
    /// # Errors
    /// What the server said: refused SQL has code `InvalidArgument`.
    pub async fn query(&self, sql: &str) -> Result<QueryResult, ClientError> {
        query::run(self.channel.clone(), sql, false).await
    }

    /// Like [`Client::query`], but answers with what is there when a part of the data is unreachable; the freshness
    /// names the keys that are missing.
    ///
    /// # Errors
    /// As [`Client::query`].
    pub async fn query_partial(&self, sql: &str) -> Result<QueryResult, ClientError> {
        query::run(self.channel.clone(), sql, true).await
    }

    fn hot(&self) -> HotMetricServiceClient<Authorized> {
        HotMetricServiceClient::new(self.channel.clone()).max_decoding_message_size(limits::RESPONSE_BYTES_MAX)
    }
}
