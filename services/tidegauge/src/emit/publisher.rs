//! Events to the server, one request after the other. Over a stream, because there the answer names every refused event
//! also where all of a request are refused.

use std::time::Duration;

use tidegauge_client::proto::ingest::v1::{Event, PublishResponse};
use tidegauge_client::{Client, ClientError, Mode, Producer, ProducerOptions};

use crate::failure::Failure;
use crate::load::send::concerns_the_tenant;

/// How long a request is sent again while the server cannot take it for now.
const RETRY_TIME: Duration = Duration::from_secs(10);

/// Why a request was not taken as a whole; it counts nowhere then.
#[derive(Debug)]
pub(super) struct NotTaken {
    /// What was said, with advice.
    pub(super) failure: Failure,
    /// Whether it concerns this tenant alone, so that requests for other ones can go on.
    pub(super) others_go_on: bool,
}

/// Publishes for one tenant at a time: lines of a tenant mostly stand together.
#[derive(Debug)]
pub(super) struct Publisher {
    client: Client,
    mode: Mode,
    open: Option<(Option<String>, Producer)>,
}

impl Publisher {
    /// A publisher over the client's connection.
    pub(super) fn new(client: Client, mode: Mode) -> Self {
        Self { client, mode, open: None }
    }

    /// Publishes events of a tenant, and waits until they are durable. The client's own tenant comes first: with one, events
    /// of another are refused one by one; an empty tenant means it too.
    ///
    /// # Errors
    /// What the server said to the request as a whole.
    pub(super) async fn publish(&mut self, tenant: &str, events: Vec<Event>) -> Result<PublishResponse, NotTaken> {
        let own = self.client.options().tenant.clone();
        let is_chosen = own.is_some();
        let tenant = own.or_else(|| (!tenant.is_empty()).then(|| tenant.to_owned()));
        let answer = self.send(&tenant, events).await;
        answer.map_err(|error| {
            let error = plain(error);
            // With a tenant of the client's own there are no others.
            let others_go_on = !is_chosen && concerns_the_tenant(&error);
            NotTaken { failure: Failure::from(error).asked_for(tenant.as_deref()), others_go_on }
        })
    }

    /// How the events take part in event time.
    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    async fn send(&mut self, tenant: &Option<String>, events: Vec<Event>) -> Result<PublishResponse, ClientError> {
        let mut producer = match self.open.take() {
            Some((open, producer)) if open == *tenant => producer,
            other => {
                if let Some((_, producer)) = other {
                    // Everything is answered: how its stream ends does not matter.
                    let _ = producer.close().await;
                }
                self.open(tenant.as_deref())?
            }
        };
        let answer = producer.send(events).await?.ack().await?.response;
        self.open = Some((tenant.clone(), producer));
        Ok(answer)
    }

    /// A producer of its own, so that a retry cannot count twice.
    fn open(&self, tenant: Option<&str>) -> Result<Producer, ClientError> {
        let options =
            ProducerOptions { mode: self.mode, in_flight: 1, retry_for: RETRY_TIME, ..ProducerOptions::default() };
        match tenant {
            Some(tenant) if self.client.options().tenant.is_none() => {
                Ok(self.client.for_tenant(tenant)?.producer(options))
            }
            _ => Ok(self.client.producer(options)),
        }
    }

    /// Ends the stream.
    pub(super) async fn close(&mut self) {
        if let Some((_, producer)) = self.open.take() {
            let _ = producer.close().await;
        }
    }
}

/// The error without the producer around it, which nobody has asked for.
fn plain(error: ClientError) -> ClientError {
    match error {
        ClientError::Closed(Some(cause)) => plain(*cause),
        other => other,
    }
}
