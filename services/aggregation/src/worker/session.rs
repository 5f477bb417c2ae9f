//! One session of a worker: from `acquire` until it is drained or fails.

mod epoch;
mod observe;
mod pushing;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use tidegauge_core::checkpoint::{Lease, Progress, StoreError};
use tidegauge_core::clock::{Clock as _, Step};
use tidegauge_core::log::{LogRecord, Position, ReadBatch};
use tidegauge_proto::convert::batch;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::apply::{ApplyReport, Standing, apply};
use super::commit::InFlight;
use super::hot::HotLink;
use super::{Command, Context, SessionError, indexes};
use crate::decide::Shard;
use pushing::Pushing;

/// Events processed before other tasks of the thread get a turn.
const EVENTS_PER_TURN: usize = 20_000;
/// How long a read waits for something to become durable.
const READ_WAIT: Duration = Duration::from_secs(1);
/// Longest time between two looks at what is due.
const TICK_MAX: Duration = Duration::from_millis(100);

type Reading = BoxFuture<'static, Result<ReadBatch, StoreError>>;

/// State of a session.
struct Session {
    context: Arc<Context>,
    shard: Shard,
    lease: Lease,
    progress: Progress,
    /// After the last record processed.
    position: Position,
    /// Whether the last read reached the end of what was durable.
    at_tip: bool,
    lag_ms: u64,
    clock_refused: bool,
    /// A record that cannot be read has been told of; further ones are only counted.
    told_of_unreadable: bool,
    /// When keys were last looked through for idle ones, and when metrics were last set; monotonic.
    looked_for_idle_ns: u64,
    set_metrics_ns: u64,
    reading: Option<Reading>,
    link: HotLink,
    pushing: Pushing,
    /// How far hot-metric has heard; see [`Shard::hot_progress`].
    heard: watch::Sender<u64>,
    in_flight: Option<InFlight>,
    /// Compares hour indexes with the lake, beside the work.
    comparing: Option<AbortOnDropHandle<()>>,
    /// When the last epoch began, monotonic.
    epoch_began_ns: u64,
    /// Bytes processed since.
    epoch_bytes: u64,
    draining: bool,
    /// The last epoch of a drain has begun.
    last_epoch: bool,
}

/// Runs a session; Ok after a drain.
pub(super) async fn run(context: &Arc<Context>, commands: &mut mpsc::Receiver<Command>) -> Result<(), SessionError> {
    let mut session = Session::begin(context.clone()).await?;
    session.work(commands).await
}

impl Session {
    /// Acquires the shard, restores its state and applies what the last epoch left.
    async fn begin(context: Arc<Context>) -> Result<Self, SessionError> {
        let acquired = context.backends.checkpoints.acquire(context.shard).await.map_err(SessionError::Checkpoint)?;
        let (lease, progress) = (acquired.lease, acquired.progress);
        let mut shard = Shard::restore(context.settings.clone(), progress.ordinal, &acquired.entries)?;
        drop(acquired.entries);
        shard.set_generation(lease.generation);
        tracing::info!(
            shard = %context.shard, generation = lease.generation, epoch = progress.prepared,
            ordinal = progress.ordinal, keys = shard.keys().len(), rows = shard.state_rows(), "the shard is taken over"
        );

        let link = HotLink::start(context.hot.clone(), context.shard, context.shards, lease.generation);
        let mut session = Self {
            shard,
            lease,
            position: progress.position.clone(),
            progress,
            at_tip: false,
            lag_ms: 0,
            clock_refused: false,
            told_of_unreadable: false,
            looked_for_idle_ns: 0,
            set_metrics_ns: 0,
            reading: None,
            link,
            pushing: Pushing::default(),
            heard: watch::Sender::new(0),
            in_flight: None,
            comparing: None,
            epoch_began_ns: context.clock.monotonic_ns(),
            epoch_bytes: 0,
            draining: false,
            last_epoch: false,
            context,
        };
        session.resume().await?;
        session.publish_report();
        Ok(session)
    }

    /// Applies what the last epoch left.
    async fn resume(&mut self) -> Result<(), SessionError> {
        let (context, standing) = (self.context.clone(), standing(&self.lease, &self.progress));
        let mut jobs = self.shard.apply_jobs(self.context.clock.now_ns());
        if jobs.iter().any(|job| !job.hours.is_empty()) {
            self.meet_hot().await?;
            // Hot-metric may not have heard of these cuts, and hears nothing until the replay is done: readers would find
            // footers beyond what they can know, and keep an hour index that changes. They are announced and applied
            // after it.
            jobs.retain(|job| self.shard.needs_no_announcement(job));
        }
        let report = apply(&context, standing, &jobs, self.shard.dead_jobs(self.context.clock.now_ns())).await;
        take_report(&mut self.shard, report, self.context.clock.now_ns());
        if self.progress.completed < self.progress.prepared {
            let complete = context.backends.checkpoints.complete(&self.lease, self.progress.prepared).await;
            complete.map_err(SessionError::Checkpoint)?;
            self.progress.completed = self.progress.prepared;
        }
        acknowledge(&context, &self.progress.position).await;
        let published = self.shard.keys().iter().filter(|key| key.index_version() > 0).map(|key| key.key.clone());
        self.comparing = Some(indexes::compare(&context, published));
        Ok(())
    }

    async fn work(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), SessionError> {
        let mut ticks = tokio::time::interval(self.tick());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pushes = tokio::time::interval(tidegauge_core::limits::HOT_PUSH_INTERVAL_MIN);
        pushes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.begin_epoch_if_due();
            if self.draining && self.in_flight.is_none() && self.last_epoch {
                self.publish_report();
                return Ok(());
            }
            self.begin_reading();
            let may_read = self.may_read();
            let may_push = self.may_push();
            tokio::select! {
                batch = optional(&mut self.reading), if may_read => {
                    self.reading = None;
                    self.process(batch.map_err(SessionError::Log)?).await?;
                }
                _ = pushes.tick(), if may_push => self.push(),
                event = self.link.events.recv() => self.take_hot_event(event.ok_or(SessionError::Task)?)?,
                step = next_step(&mut self.in_flight) => match step {
                    EpochStep::Applied(report) => self.take_applied(report),
                    EpochStep::Ended(done) => self.finish_epoch(done).await?,
                },
                command = commands.recv() => match command {
                    Some(Command::Status(wanted, reply)) => {
                        let status = self.status(&wanted).await;
                        // Whoever asked may have gone.
                        let _ = reply.send(status);
                    }
                    Some(Command::Drain) | None => {
                        tracing::info!(shard = %self.context.shard, "draining");
                        self.draining = true;
                        self.context.draining.store(true, Ordering::SeqCst);
                    }
                },
                _ = ticks.tick() => self.tick_over(),
            }
        }
    }

    /// Time between two looks at what is due: a fraction of the shortest interval.
    fn tick(&self) -> Duration {
        let options = &self.context.options;
        let shortest = options.checkpoint_interval.min(options.publish_interval).min(options.idle_timeout);
        (shortest / 4).clamp(Duration::from_millis(1), TICK_MAX)
    }

    /// The decisions' time.
    fn now(&mut self) -> i64 {
        let (now, step) = self.context.clock.read();
        match step {
            Step::Followed => self.clock_refused = false,
            Step::Refused(ahead_ns) => {
                if !std::mem::replace(&mut self.clock_refused, true) {
                    let ahead_s = ahead_ns / tidegauge_core::time::SECOND_NS;
                    tracing::warn!(shard = %self.context.shard, ahead_s, "the wall clock stepped and is not followed");
                }
            }
        }
        now
    }

    fn may_read(&self) -> bool {
        // What was held once, before a restart, may be held again: the replay needs no more room than it did then.
        !self.draining && (self.shard.has_room() || self.pushing.is_replaying(self.shard.ordinal()))
    }

    fn begin_reading(&mut self) {
        if self.reading.is_some() || !self.may_read() {
            return;
        }
        let (log, shard, position) = (self.context.backends.log.clone(), self.context.shard, self.position.clone());
        let bytes_max = self.context.options.read_bytes;
        self.reading = Some(Box::pin(async move { log.read(shard, &position, bytes_max, READ_WAIT).await }));
    }

    async fn process(&mut self, batch: ReadBatch) -> Result<(), SessionError> {
        let now = self.now();
        let mut events = 0;
        for record in batch.records {
            events += self.process_record(record, now);
            if events >= EVENTS_PER_TURN {
                events = 0;
                tokio::task::yield_now().await;
            }
        }
        self.at_tip = batch.at_tip;
        self.check_replay()
    }

    fn process_record(&mut self, record: LogRecord, now: i64) -> usize {
        self.epoch_bytes += record.payload.len() as u64;
        self.position = record.position;
        match batch::decode(record.payload.clone()) {
            Ok(events) => {
                self.lag_ms = u64::try_from(now.saturating_sub(events.arrival_ns) / 1_000_000).unwrap_or(0);
                self.shard.process(&record.key, &events, &record.payload, now);
                events.columns.len()
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told_of_unreadable, true) {
                    let (shard, key) = (self.context.shard, &record.key);
                    tracing::warn!(%shard, %key, %error, "a record cannot be read, it becomes a dead letter");
                }
                self.shard.undecodable(&record.key, &record.payload, error.to_string(), now);
                1
            }
        }
    }

    fn tick_over(&mut self) {
        /// A look at all keys, at most so often: there may be a hundred thousand.
        const LOOK_MAX: Duration = Duration::from_secs(1);
        let now = self.now();
        let monotonic_ns = self.context.clock.monotonic_ns();
        let look = (self.context.options.idle_timeout / 8).min(LOOK_MAX).as_nanos();
        // What is still to be read may be what a key seems to be silent about.
        let caught_up = self.at_tip && self.may_read();
        if caught_up && u128::from(monotonic_ns.saturating_sub(self.looked_for_idle_ns)) >= look {
            self.looked_for_idle_ns = monotonic_ns;
            self.shard.advance_idle(now);
        }
        self.publish_report();
    }
}

fn standing(lease: &Lease, progress: &Progress) -> Standing {
    Standing {
        lineage: progress.lineage,
        generation: lease.generation,
        epoch: progress.prepared,
        ordinal: progress.ordinal,
    }
}

fn take_report(shard: &mut Shard, report: ApplyReport, now: i64) {
    for (index, result) in report.keys {
        match result {
            Ok(()) => shard.applied(index, now),
            Err(failure) => shard.parked(index, failure, now),
        }
    }
    if report.probe_written {
        shard.lake_was_written(now);
    }
    for (batch, written) in report.dead {
        if written {
            shard.dead_applied(&batch);
        } else {
            shard.dead_parked(&batch, now);
        }
    }
}

/// Lets the log forget what is checkpointed. A failure only lets it remember longer.
async fn acknowledge(context: &Context, position: &Position) {
    if position.is_start() {
        return;
    }
    if let Err(error) = context.backends.log.acknowledge(context.shard, position).await {
        tracing::warn!(shard = %context.shard, %error, "the log could not be told what is checkpointed");
    }
}

/// Waits for something that may not be there: then for ever.
async fn optional(reading: &mut Option<Reading>) -> Result<ReadBatch, StoreError> {
    match reading {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}

/// What happens to the epoch in flight.
enum EpochStep {
    Applied(Result<ApplyReport, oneshot::error::RecvError>),
    Ended(Result<(), SessionError>),
}

async fn next_step(in_flight: &mut Option<InFlight>) -> EpochStep {
    match in_flight {
        Some(InFlight { report: Some(report), .. }) => EpochStep::Applied(report.await),
        Some(epoch) => EpochStep::Ended((&mut epoch.task).await.unwrap_or(Err(SessionError::Task))),
        None => std::future::pending().await,
    }
}
