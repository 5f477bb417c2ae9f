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

/// What is watched, and how far the watcher has come.
#[derive(Debug)]
pub(crate) struct Watcher {
    store: Arc<dyn HotStore>,
    tenant: ScopedTenant,
    /// Empty: all.
    metrics: HashSet<MetricName>,
    changes: Subscription,
    guard: Guard,
    draining: CancellationToken,
    phase: Phase,
    /// Changes skipped that the watcher was not told of yet.
    missed: u64,
    /// Event counts of values read from the store, until the changes have caught up with that read: a change that is
    /// older than what was read must not be shown after it. Counts of a series only rise.
    read: HashMap<MetricName, u64>,
    /// A mark behind every commit that the reads may have seen.
    read_mark: u64,
}

#[derive(Debug)]
enum Phase {
    /// Reads the store: at first, and after changes were missed.
    Reading { after: Option<MetricName>, initial: bool },
    /// Follows the changes.
    Following,
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
        let phase = Phase::Reading { after: None, initial: true };
        Self { store, tenant, metrics, changes, guard, draining, phase, missed: 0, read: HashMap::new(), read_mark: 0 }
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
            let (values, initial_state_complete) = match std::mem::replace(&mut self.phase, Phase::Following) {
                Phase::Reading { after, initial } => self.read_page(after, initial).await.map_err(status)?,
                Phase::Following => (self.follow().await.map_err(status)?, false),
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
    async fn read_page(
        &mut self,
        after: Option<MetricName>,
        initial: bool,
    ) -> Result<(Vec<CurrentValue>, bool), ServiceError> {
        let (values, last) = if self.metrics.is_empty() {
            let page = self.store.list(&self.tenant, after.as_ref(), PAGE_SIZE_MAX).await?;
            let last = page.len() < PAGE_SIZE_MAX;
            (page, last)
        } else {
            let names: Vec<MetricName> = self.metrics.iter().cloned().collect();
            let found = self.store.currents(&self.tenant, &names).await?;
            (found.into_iter().flatten().collect(), true)
        };
        self.read.extend(values.iter().map(|value| (value.metric.clone(), value.event_count)));
        if last {
            self.read_mark = self.changes.hub().mark();
        } else {
            self.phase = Phase::Reading { after: values.last().map(|value| value.metric.clone()), initial };
        }
        Ok((values, last && initial))
    }

    /// Takes the changes there are, or waits for some. Nothing, when they were missed or none is watched.
    async fn follow(&mut self) -> Result<Vec<CurrentValue>, ServiceError> {
        let settled = self.changes.hub().is_settled(self.read_mark);
        let (mut values, all) = match self.changes.read(PAGE_SIZE_MAX) {
            Found::Changes { values, all } => (values, all),
            Found::Missed(missed) => {
                metrics::counter!("tidegauge_hot_watch_missed_total").increment(missed);
                self.missed += missed;
                self.phase = Phase::Reading { after: None, initial: false };
                return Ok(Vec::new());
            }
        };
        if values.is_empty() {
            tokio::select! {
                () = self.changes.changed() => {}
                () = self.draining.cancelled() => return Err(crate::draining()),
            }
            return Ok(Vec::new());
        }
        if !self.metrics.is_empty() {
            values.retain(|value| self.metrics.contains(&value.metric));
        }
        if !self.read.is_empty() {
            values.retain(|value| self.read.get(&value.metric).is_none_or(|read| *read <= value.event_count));
            if settled && all {
                self.read = HashMap::new();
            }
        }
        Ok(values)
    }
}
