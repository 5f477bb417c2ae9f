//! When an epoch begins, and what happens when it ends.

use tidegauge_core::clock::Clock as _;
use tidegauge_core::ids::Epoch;
use tokio::sync::oneshot;

use super::super::SessionError;
use super::super::apply::ApplyReport;
use super::super::commit::{self, Work};
use super::{Session, acknowledge, standing, take_report};

impl Session {
    /// Begins an epoch if none is in flight and one is due.
    pub(super) fn begin_epoch_if_due(&mut self) {
        if self.in_flight.is_some() || (self.draining && self.last_epoch) {
            return;
        }
        let elapsed_ns = self.context.clock.monotonic_ns().saturating_sub(self.epoch_began_ns);
        let options = &self.context.options;
        let interval = options.checkpoint_interval.min(options.publish_interval);
        let by_time = u128::from(elapsed_ns) >= interval.as_nanos();
        let by_bytes = self.epoch_bytes >= options.checkpoint_log_bytes;
        let now = self.now();
        let pressed = !self.shard.has_room() || self.shard.dead_letters_press(now);
        if !(by_time || by_bytes || pressed || self.draining || (self.shard.has_unfinished() && self.may_cut())) {
            return;
        }
        let due = self.shard.changed()
            || (self.may_apply() && self.shard.retry_is_due(now))
            || (self.may_cut() && (!self.shard.has_room() || self.shard.cut_is_due(now)));
        if due {
            self.begin_epoch(self.progress.prepared + 1, now);
        }
        self.last_epoch = self.draining;
    }

    /// Whether keys may be cut now.
    ///
    /// A cut during the replay would make events wait that readers have seen counted: their sums would fall (I6).
    /// Without hot-metric a cut makes readers wait for it, so only need justifies one.
    fn may_cut(&self) -> bool {
        let replayed = self.pushing.is_replayed(self.shard.ordinal());
        self.pushing.is_synced() || (replayed && !self.shard.has_room())
    }

    /// Whether objects may be replaced now: their footers name the ordinal of this moment, which readers cannot reach
    /// while hot-metric is not told of the records that are replayed.
    fn may_apply(&self) -> bool {
        !self.pushing.is_replaying(self.shard.ordinal())
    }

    fn begin_epoch(&mut self, epoch: Epoch, now: i64) {
        if self.may_cut() {
            self.shard.hold_stuck();
            self.shard.relieve();
            self.shard.cut_due(epoch, now);
        }
        let jobs = if self.may_apply() { self.shard.apply_jobs(now) } else { Vec::new() };
        self.shard.announce(epoch, &jobs);
        let changes = self.shard.take_changes(epoch);
        let dead = self.shard.dead_jobs(now);
        self.epoch_began_ns = self.context.clock.monotonic_ns();
        self.epoch_bytes = 0;
        if changes.is_empty() && jobs.is_empty() && dead.is_empty() {
            return;
        }
        let cost = self.shard.cost(&jobs);
        let mut progress = self.progress.clone();
        progress.prepared = epoch;
        progress.ordinal = self.shard.ordinal();
        let work = Work {
            lease: self.lease,
            standing: standing(&self.lease, &progress),
            position: self.position.clone(),
            changes,
            jobs,
            dead,
            hot_goal: self.shard.hot_progress().0,
            hot_heard: self.heard.subscribe(),
        };
        self.in_flight = Some(commit::start(self.context.clone(), work, cost, self.epoch_began_ns));
    }

    /// The outputs of the epoch in flight are applied: boundaries move.
    pub(super) fn take_applied(&mut self, report: Result<ApplyReport, oneshot::error::RecvError>) {
        let now = self.now();
        let Some(epoch) = &mut self.in_flight else { return };
        epoch.report = None;
        // Without a report the task has failed; its end tells why.
        let Ok(report) = report else { return };
        self.progress.prepared = epoch.epoch;
        self.shard.prepared();
        self.shard.pace(epoch.cost, self.context.clock.monotonic_ns().saturating_sub(epoch.started_ns));
        take_report(&mut self.shard, report, now);
        if let Some(goal) = epoch.boundary_goal.take() {
            let _ = goal.send(self.shard.hot_progress().0);
        }
    }

    /// The epoch in flight is complete, or has failed.
    pub(super) async fn finish_epoch(&mut self, done: Result<(), SessionError>) -> Result<(), SessionError> {
        let Some(epoch) = self.in_flight.take() else { return Ok(()) };
        done?;
        self.progress.prepared = epoch.epoch;
        self.progress.completed = epoch.epoch;
        self.progress.ordinal = epoch.ordinal;
        self.progress.position = epoch.position;
        let taken_ns = self.context.clock.monotonic_ns().saturating_sub(epoch.started_ns);
        metrics::histogram!("tidegauge_aggregation_epoch_seconds").record(taken_ns as f64 / 1e9);
        metrics::counter!("tidegauge_aggregation_epochs_total").increment(1);
        acknowledge(&self.context, &self.progress.position).await;
        self.publish_report();
        Ok(())
    }
}
