//! The contract, spoken in every legal way: the same events in many encodings, and nothing that a user sees depends on it.

use arrow::util::display::array_value_to_string;
use tempfile::TempDir;
use tidegauge_client::Client;
use tidegauge_core::time::{DAY_NS, MINUTE_NS, SECOND_NS};
use tidegauge_proto::encodings::{Encoder, Head};
use tidegauge_proto::ingest::v1::publish_stream_response::Outcome;
use tidegauge_proto::ingest::v1::{Event, PublishRequest, PublishStreamRequest};
use tidegauge_proto::raw::v1::ingest_service_client::IngestServiceClient;
use tidegauge_proto::raw::{RawPublishRequest, RawPublishStreamRequest};
use tidegauge_proto::stream::v1::{EventColumns, Mode};
use tidegauge_tests::events::event;
use tidegauge_tests::{Server, ServerOptions, client};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::{now_ns, published, verified};

/// Everything but when an event came: that a window closes meanwhile is no matter of encodings.
const ROWS: &str = "SELECT window_start, metric_name, event_count, sum_value, avg_value, min_value, max_value, last_value, \
                    last_time FROM dashboard_metrics ORDER BY metric_name, window_start";

struct Setup {
    folder: TempDir,
    server: Server,
    token: String,
    raw: IngestServiceClient<Channel>,
}

async fn setup(tenants: &[&str]) -> Setup {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = server.token("admin", "admin", tenants);
    let channel = Endpoint::from_shared(server.endpoint()).expect("an address").connect().await.expect("it accepts");
    Setup { folder, server, token, raw: IngestServiceClient::new(channel) }
}

impl Setup {
    fn request<T>(&self, tenant: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let bearer = format!("Bearer {}", self.token).parse().expect("a token is ASCII");
        request.metadata_mut().insert("authorization", bearer);
        request.metadata_mut().insert("x-tenant-id", tenant.parse().expect("a tenant is ASCII"));
        request
    }

    /// Publishes an encoded request; the number of accepted events.
    async fn publish(&mut self, tenant: &str, message: Vec<u8>) -> u32 {
        let request = self.request(tenant, RawPublishRequest(message.into()));
        let answer = self.raw.publish(request).await.expect("every encoding is taken").into_inner();
        assert_eq!(answer.rejected, []);
        answer.accepted
    }

    /// Publishes encoded requests over one stream; the number of accepted events.
    async fn stream(&mut self, tenant: &str, messages: Vec<Vec<u8>>) -> u32 {
        let wrap = |message: Vec<u8>| {
            let request: PublishRequest = prost::Message::decode(&message[..]).expect("a request");
            // Its own bytes, behind the tag of `request`.
            let mut wrapped = vec![0x0A];
            prost::encoding::encode_varint(message.len() as u64, &mut wrapped);
            wrapped.extend(message);
            let decoded: PublishStreamRequest = prost::Message::decode(&wrapped[..]).expect("a request of a stream");
            assert_eq!(decoded.request, Some(request));
            RawPublishStreamRequest(wrapped.into())
        };
        let messages: Vec<_> = messages.into_iter().map(wrap).collect();
        let request = self.request(tenant, tokio_stream::iter(messages));
        let mut answers = self.raw.publish_stream(request).await.expect("a stream").into_inner();
        let mut accepted = 0;
        while let Some(answer) = answers.message().await.expect("an answer") {
            match answer.outcome {
                Some(Outcome::Response(response)) => accepted += response.accepted,
                other => panic!("{other:?}"),
            }
        }
        accepted
    }

    async fn client(&self, tenant: &str) -> Client {
        client(&self.server, &self.token, Some(tenant)).await
    }
}

async fn rows(client: &Client) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in client.query(ROWS).await.expect("an answer").collect().await.expect("rows") {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| array_value_to_string(column, row).expect("a value"));
            rows.push(values.collect::<Vec<_>>().join(" "));
        }
    }
    rows
}

fn head(sequence: u64, mode: Mode) -> Head {
    Head { producer_id: vec![1; 16], sequence, mode }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_depends_on_the_encoding() {
    let tenants = ["enc-0", "enc-1", "enc-2", "enc-3", "enc-4"];
    let mut setup = setup(&tenants).await;
    let now = now_ns() / MINUTE_NS * MINUTE_NS;
    let values = [1.5, 0.1, -0.0, 0.0, 1.7e308, 1.7e308, -1e300, 1e-300];
    let events = |end_ns: i64, count: i64, step_ns: i64| -> Vec<Event> {
        let one = |i: i64| {
            let mut event = event(["cpu", "mem", "disk"][i as usize % 3], values[i as usize % 8], end_ns - i * step_ns);
            event.dimensions.insert("core".to_owned(), (i % 4).to_string());
            event
        };
        (0..count).map(one).collect()
    };
    let live = events(now, 240, SECOND_NS);
    let history = events(now - 3 * DAY_NS, 300, 20 * SECOND_NS);
    for (seed, tenant) in (0..).zip(tenants) {
        let mut encoder = Encoder::new(seed);
        let first = encoder.request(&head(1, Mode::Live), &live);
        assert_eq!(setup.publish(tenant, first.clone()).await, 240);
        let part =
            |part: &[Event], sequence, encoder: &mut Encoder| encoder.request(&head(sequence, Mode::Backfill), part);
        let middle = 50 + 40 * seed as usize;
        let messages =
            vec![part(&history[..middle], 2, &mut encoder), part(&history[middle..], 3, &mut encoder), first.clone()];
        assert_eq!(setup.stream(tenant, messages).await, 300 + 240);
        // The same request in other words is other content: neither counted nor dropped.
        let other = loop {
            let other = encoder.request(&head(1, Mode::Live), &live);
            if other != first {
                break other;
            }
        };
        assert_eq!(setup.publish(tenant, other).await, 240);
    }
    let mut seen = Vec::new();
    for tenant in tenants {
        let client = setup.client(tenant).await;
        published(&client).await;
        let mut metrics = Vec::new();
        for name in ["cpu", "mem", "disk"] {
            let metric = client.get_metric(name).await.expect("it exists").metric.expect("a value");
            metrics.push((metric.event_count, metric.last_value.to_bits(), metric.last_time));
        }
        let status = client.status().await.expect("a status");
        let counters = status.keys[0].counters.expect("counters");
        assert_eq!(counters.on_time + counters.late + counters.backfilled, 540, "{counters:?}");
        assert_eq!((counters.on_log, counters.duplicates, counters.dead), (1_020, 240, 240), "{counters:?}");
        let counted = crate::counted(&client).await.expect("an answer");
        assert_eq!((counted.sum, counted.counted), (540, 540));
        seen.push((metrics, rows(&client).await));
    }
    assert!(!seen[0].1.is_empty());
    for other in &seen[1..] {
        assert_eq!(*other, seen[0]);
    }
    setup.server.terminate();
    verified(setup.folder.path());
}

/// Ten thousand entries of a dictionary, all the same metric: ten thousand events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metric_that_stands_often_in_a_dictionary_counts_once() {
    let mut setup = setup(&["often"]).await;
    let now = now_ns();
    for (sequence, mode, end_ns) in [(1, Mode::Live, now), (2, Mode::Backfill, now - 3 * DAY_NS)] {
        let columns = EventColumns {
            event_types: vec!["t".to_owned()],
            metrics: vec!["m".to_owned(); 10_000],
            times_unix_nano: (0..10_000).map(|i| end_ns - i).collect(),
            values: vec![1.0; 10_000],
            metric_ids: (0..10_000).collect(),
            ..EventColumns::default()
        };
        let request = PublishRequest {
            producer_id: vec![1; 16].into(),
            sequence,
            mode: mode as i32,
            events: Vec::new(),
            columns: Some(columns),
        };
        assert_eq!(setup.publish("often", prost::Message::encode_to_vec(&request)).await, 10_000);
    }
    let client = setup.client("often").await;
    published(&client).await;
    let metric = client.get_metric("m").await.expect("it exists").metric.expect("a value");
    assert_eq!(metric.event_count, 20_000);
    let counted = crate::counted(&client).await.expect("an answer");
    assert_eq!((counted.sum, counted.counted, counted.pending), (20_000, 20_000, 0));
    setup.server.terminate();
    verified(setup.folder.path());
}

/// Two huge values, whose sum no f64 holds, and a correction that takes them back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_out_of_range_is_repaired_by_later_events() {
    let mut setup = setup(&["huge"]).await;
    let client = setup.client("huge").await;
    let start = (now_ns() - 3 * DAY_NS) / MINUTE_NS * MINUTE_NS;
    for (sequence, sign, expected) in
        [(1, 1.0, "2 inf 1.7e308 1.7e308 1.7e308"), (2, -1.0, "4 0.0 0.0 -1.7e308 1.7e308")]
    {
        let events: Vec<Event> = (0..2).map(|i| event("m", sign * 1.7e308, start + i)).collect();
        let message = Encoder::new(sequence).request(&head(sequence, Mode::Backfill), &events);
        assert_eq!(setup.publish("huge", message).await, 2);
        published(&client).await;
        let rows = rows(&client).await;
        let row: Vec<&str> = rows[0].split(' ').collect();
        assert_eq!((rows.len(), row[2..7].join(" ").as_str()), (1, expected));
    }
    setup.server.terminate();
    verified(setup.folder.path());
}
