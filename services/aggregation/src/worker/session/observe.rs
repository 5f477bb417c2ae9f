//! What the outside may know of a session.

use std::time::Duration;

use tidegauge_core::clock::Clock as _;

use super::Session;
use crate::decide::Counters;
use crate::status::{KeyReport, KeysWanted, ShardReport, WorkerState};

impl Session {
    /// The shard, and the keys that are wanted.
    pub(super) async fn status(&mut self, wanted: &KeysWanted) -> (ShardReport, Vec<KeyReport>) {
        let mut report = self.shard_report();
        report.quiescent = self.is_quiescent().await;
        self.context.update_report(|known| *known = report.clone());
        let wanted = wanted.of(self.shard.keys().iter().map(|state| &state.key));
        let keys = wanted.into_iter().filter_map(|key| self.shard.key(key)).map(|state| {
            let outbox = state.outbox();
            KeyReport {
                key: state.key.clone(),
                shard: self.context.shard,
                watermark_ns: state.times().map(|_| state.shown_watermark()),
                boundary_ns: state.times().map(|(_, boundary)| boundary),
                counters: state.counters,
                pending: state.pending(),
                state_rows: state.state_rows() as u64,
                index_unchecked: self.context.unchecked.contains(&state.key),
                parked: outbox.map_or_else(Vec::new, |outbox| outbox.parked.clone()),
                stopped_because: outbox.and_then(|outbox| outbox.stopped.clone()),
                // The log's own, filled in by who asks.
                log_unneeded_bytes: 0,
            }
        });
        (report, keys.collect())
    }

    /// Whether nothing durable is unprocessed and nothing processed is on its way.
    async fn is_quiescent(&mut self) -> bool {
        let still = self.in_flight.is_none()
            && self.shard.settled()
            && self.pushing.is_synced()
            && self.pushing.is_quiet()
            && !self.shard.has_updates();
        if !still {
            return false;
        }
        // Only the log itself knows what was durable when the question came.
        let log = &self.context.backends.log;
        match log.read(self.context.shard, &self.position, 1, Duration::ZERO).await {
            Ok(batch) => batch.records.is_empty(),
            Err(_) => false,
        }
    }

    fn shard_report(&self) -> ShardReport {
        ShardReport {
            state: WorkerState::Running,
            generation: self.lease.generation,
            prepared: self.progress.prepared,
            completed: self.progress.completed,
            ordinal: self.shard.ordinal(),
            at_tip: self.at_tip,
            lag_ms: if self.at_tip { 0 } else { self.lag_ms },
            state_rows: self.shard.state_rows() as u64,
            ..ShardReport::default()
        }
    }

    /// Leaves the state where it can be seen while the worker is busy; now and then also in the metrics.
    pub(super) fn publish_report(&mut self) {
        const METRICS_EVERY_NS: u64 = 1_000_000_000;
        let report = self.shard_report();
        let monotonic_ns = self.context.clock.monotonic_ns();
        if monotonic_ns.saturating_sub(self.set_metrics_ns) >= METRICS_EVERY_NS {
            self.set_metrics_ns = monotonic_ns;
            self.set_metrics(&report);
        }
        self.context.update_report(|known| *known = report);
    }

    fn set_metrics(&self, report: &ShardReport) {
        let shard = self.context.shard.to_string();
        let mut sum = Counters::default();
        let (mut pending, mut parked, mut oldest) = (0, 0_u32, self.context.clock.now_ns());
        for key in self.shard.keys() {
            sum.add(&key.counters);
            pending += key.pending();
            parked += u32::from(key.outbox().is_some_and(|outbox| outbox.attempts > 0));
            oldest = key.times().map_or(oldest, |(watermark, _)| oldest.min(watermark));
        }
        let watermark_lag_ns = self.context.clock.now_ns().saturating_sub(oldest);
        for (name, value) in [
            ("tidegauge_aggregation_lag_seconds", report.lag_ms as f64 / 1e3),
            ("tidegauge_aggregation_watermark_lag_seconds", watermark_lag_ns as f64 / 1e9),
            ("tidegauge_aggregation_state_rows", report.state_rows as f64),
            ("tidegauge_aggregation_keys", self.shard.keys().len() as f64),
            ("tidegauge_aggregation_parked_keys", f64::from(parked)),
            ("tidegauge_aggregation_unchecked_keys", self.context.unchecked.len() as f64),
            ("tidegauge_aggregation_pending_events", pending as f64),
            ("tidegauge_aggregation_clock_refused", f64::from(u8::from(self.clock_refused))),
        ] {
            metrics::gauge!(name, "shard" => shard.clone()).set(value);
        }
        for (name, value) in [
            ("tidegauge_aggregation_events_total", sum.on_log),
            ("tidegauge_aggregation_duplicate_events_total", sum.duplicates),
            ("tidegauge_aggregation_late_events_total", sum.late),
            ("tidegauge_aggregation_backfilled_events_total", sum.backfilled),
            ("tidegauge_aggregation_dead_events_total", sum.dead),
        ] {
            metrics::counter!(name, "shard" => shard.clone()).absolute(value);
        }
    }
}
