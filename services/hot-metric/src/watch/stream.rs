//! One watch: the current values, then every change, at the watcher's pace.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::Stream;
use tidegauge_core::ServiceError;
use tidegauge_core::hot::{CurrentValue, HotStore};
use tidegauge_core::ids::MetricName;
use tidegauge_core::limits::PAGE_SIZE_MAX;
use tidegauge_core::scope::ScopedTenant;
use tidegauge_proto::convert::hot::current_to_proto;
use tidegauge_proto::hotmetric::v1::WatchMetricsResponse;
use tidegauge_rpc::{Guard, status};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::feed::Found;
use super::hub::Subscription;

/// Changes that a watcher may be behind between two pages of a read. It is told that it missed the rest: the pages bring
/// the newest values anyway, and sending old ones before each page would hold up the read.
const BEHIND_MAX: u64 = 4 * PAGE_SIZE_MAX as u64;

/// What is watched, and how far the watcher has come. Holds one page of values at most.
#[derive(Debug)]
pub(crate) struct Watcher {
    store: Arc<dyn HotStore>,
    tenant: ScopedTenant,
    /// Empty: all.
    metrics: HashSet<MetricName>,
    changes: Subscription,
    guard: Guard,
    draining: CancellationToken,
    /// What is still to be read from the store: at first, and after changes were missed.
    reading: Option<Reading>,
    /// The page that was read last.
    page: Page,
    /// Changes skipped that the watcher was not told of yet.
    missed: u64,
}

/// A read of everything that is watched, page by page.
#[derive(Debug)]
struct Reading {
    after: Option<MetricName>,
    /// Whether its end ends the initial state.
    initial: bool,
    /// Whether changes were missed meanwhile: then another read follows.
    again: bool,
}

/// Event counts of values read from the store, until the changes have caught up with that read: a change that is older
/// than what was read must not be shown after it. Counts of a series only rise.
#[derive(Debug, Default)]
struct Page {
    counts: HashMap<MetricName, u64>,
    /// A mark behind every commit that the read may have seen.
    mark: u64,
    /// Where the changes ended when those commits had been published.
    settled_at: Option<u64>,
}

impl Watcher {
    /// A watcher of these metrics, or of all if there are none.
    pub(crate) fn new(
        store: Arc<dyn HotStore>,
        tenant: ScopedTenant,
        metrics: HashSet<MetricName>,
        changes: Subscription,
        guard: Guard,
        draining: CancellationToken,
    ) -> Self {
        let reading = Some(Reading { after: None, initial: true, again: false });
        Self { store, tenant, metrics, changes, guard, draining, reading, page: Page::default(), missed: 0 }
    }

    /// The answers. The next one is made only when the connection has taken the one before: nothing piles up for a
    /// slow watcher but what the ring holds for all.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<WatchMetricsResponse, Status>> + Send {
        futures::stream::unfold(Some(self), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(message) => Some((Ok(message), Some(watcher))),
                Err(end) => Some((Err(end), None)),
            }
        })
    }

    /// Waits for something to send.
    async fn next(&mut self) -> Result<WatchMetricsResponse, Status> {
        loop {
            if self.draining.is_cancelled() {
                return Err(status(crate::draining()));
            }
            let (values, initial_state_complete) = match self.reading.take() {
                Some(reading) if self.page.counts.is_empty() => self.read_page(reading).await.map_err(status)?,
                reading => {
                    self.reading = reading;
                    (self.follow().await.map_err(status)?, false)
                }
            };
            if values.is_empty() && !initial_state_complete && self.missed == 0 {
                continue;
            }
            self.guard.check()?;
            return Ok(WatchMetricsResponse {
                metrics: values.iter().map(current_to_proto).collect(),
                initial_state_complete,
                missed_updates: std::mem::take(&mut self.missed),
            });
        }
    }

    /// Reads a page from the store. Tells whether it ends the initial state.
    async fn read_page(&mut self, reading: Reading) -> Result<(Vec<CurrentValue>, bool), ServiceError> {
        let (values, last) = if self.metrics.is_empty() {
            let page = self.store.list(&self.tenant, reading.after.as_ref(), PAGE_SIZE_MAX).await?;
            let last = page.len() < PAGE_SIZE_MAX;
            (page, last)
        } else {
            let names: Vec<MetricName> = self.metrics.iter().cloned().collect();
            let found = self.store.currents(&self.tenant, &names).await?;
            (found.into_iter().flatten().collect(), true)
        };
        self.page = Page {
            counts: values.iter().map(|value| (value.metric.clone(), value.event_count)).collect(),
            mark: self.changes.hub().mark(),
            settled_at: None,
        };
        let initial_state_complete = last && reading.initial;
        self.reading = match last {
            false => Some(Reading { after: values.last().map(|value| value.metric.clone()), ..reading }),
            true if reading.again => Some(Reading { after: None, initial: false, again: false }),
            true => None,
        };
        Ok((values, initial_state_complete))
    }

    /// Takes the changes there are, or waits for some. None, when they were missed or are not watched, or when the next
    /// page may be read.
    async fn follow(&mut self) -> Result<Vec<CurrentValue>, ServiceError> {
        if self.reading.is_some() && self.changes.end() - self.changes.cursor() > BEHIND_MAX {
            let missed = self.changes.skip();
            self.has_missed(missed);
        }
        self.settle();
        let mut values = match self.changes.read(PAGE_SIZE_MAX) {
            Found::Changes(values) => values,
            Found::Missed(missed) => {
                self.has_missed(missed);
                return Ok(Vec::new());
            }
        };
        if !values.is_empty() {
            let Page { counts, .. } = &self.page;
            values.retain(|value| self.metrics.is_empty() || self.metrics.contains(&value.metric));
            values.retain(|value| counts.get(&value.metric).is_none_or(|read| *read <= value.event_count));
            self.settle();
            return Ok(values);
        }
        let is_settled = self.page.counts.is_empty();
        if is_settled && self.reading.is_some() {
            return Ok(Vec::new());
        }
        let hub = Arc::clone(self.changes.hub());
        tokio::select! {
            () = self.changes.changed() => {}
            () = hub.settled(self.page.mark), if !is_settled => {}
            () = self.draining.cancelled() => {}
        }
        Ok(Vec::new())
    }

    /// Forgets the last page once no change can come any more that is older than it.
    fn settle(&mut self) {
        if self.page.counts.is_empty() {
            return;
        }
        if self.page.settled_at.is_none() && self.changes.hub().is_settled(self.page.mark) {
            self.page.settled_at = Some(self.changes.end());
        }
        if self.page.settled_at.is_some_and(|end| self.changes.cursor() >= end) {
            self.page = Page::default();
        }
    }

    /// Changes were skipped: all that is watched is read, or read again after the read under way.
    fn has_missed(&mut self, changes: u64) {
        metrics::counter!("tidegauge_hot_watch_missed_total").increment(changes);
        self.missed += changes;
        match &mut self.reading {
            Some(reading) => reading.again = true,
            None => self.reading = Some(Reading { after: None, initial: false, again: false }),
        }
    }
}
