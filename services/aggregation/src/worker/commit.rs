//! One epoch, from prepare to complete, in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use tidegauge_core::Ordinal;
use tidegauge_core::checkpoint::{Change, Lease, StoreError};
use tidegauge_core::ids::Epoch;
use tidegauge_core::log::Position;
use tokio::sync::{oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::apply::{ApplyReport, Standing, apply};
use super::{Context, SessionError};
use crate::crash::CrashStep;
use crate::decide::{ApplyJob, DeadBatch};

/// What an epoch is made of.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) lease: Lease,
    pub(super) standing: Standing,
    pub(super) position: Position,
    pub(super) changes: Vec<Change>,
    pub(super) jobs: Vec<ApplyJob>,
    pub(super) dead: Vec<DeadBatch>,
    /// How far hot-metric must have heard before objects may be replaced: otherwise readers would find footers beyond
    /// what they can know, and had to wait.
    pub(super) hot_goal: u64,
    /// How far it has.
    pub(super) hot_heard: watch::Receiver<u64>,
}

/// An epoch in flight, as the worker sees it.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) epoch: Epoch,
    pub(super) ordinal: Ordinal,
    pub(super) position: Position,
    pub(super) started_ns: u64,
    /// What its outputs cost, in objects; see [`crate::decide::Shard::pace`].
    pub(super) cost: usize,
    /// Comes once, when the outputs are applied.
    pub(super) report: Option<oneshot::Receiver<ApplyReport>>,
    /// Takes how far hot-metric must have heard for the boundaries to be there.
    pub(super) boundary_goal: Option<oneshot::Sender<u64>>,
    pub(super) task: AbortOnDropHandle<Result<(), SessionError>>,
}

/// Starts an epoch.
pub(super) fn start(context: Arc<Context>, work: Work, cost: usize, started_ns: u64) -> InFlight {
    let (report_sender, report) = oneshot::channel();
    let (boundary_goal, goal) = oneshot::channel();
    let (epoch, ordinal, position) = (work.standing.epoch, work.standing.ordinal, work.position.clone());
    let task = AbortOnDropHandle::new(tokio::spawn(commit(context, work, report_sender, goal)));
    InFlight {
        epoch,
        ordinal,
        position,
        started_ns,
        cost,
        report: Some(report),
        boundary_goal: Some(boundary_goal),
        task,
    }
}

async fn commit(
    context: Arc<Context>,
    work: Work,
    report: oneshot::Sender<ApplyReport>,
    boundary_goal: oneshot::Receiver<u64>,
) -> Result<(), SessionError> {
    let Work { lease, standing, position, changes, jobs, dead, hot_goal, mut hot_heard } = work;
    context.crash.reached(CrashStep::BeforePrepare);
    prepare(&context, &lease, standing, &position, changes).await?;
    context.crash.reached(CrashStep::AfterPrepare);
    if jobs.iter().any(|job| !job.hours.is_empty()) {
        wait_for_hot(&context, &mut hot_heard, hot_goal).await;
    }
    let applied = apply(&context, standing, &jobs, dead).await;
    context.crash.reached(CrashStep::AfterApply);
    // If the worker is gone, so is its interest in this epoch: the next one applies it again.
    report.send(applied).map_err(|_| SessionError::Task)?;
    let goal = boundary_goal.await.map_err(|_| SessionError::Task)?;
    if !jobs.is_empty() {
        wait_for_hot(&context, &mut hot_heard, goal).await;
    }
    context.crash.reached(CrashStep::AfterBoundary);
    context.backends.checkpoints.complete(&lease, standing.epoch).await.map_err(SessionError::Checkpoint)?;
    context.crash.reached(CrashStep::AfterComplete);
    Ok(())
}

/// Prepares; waits while there is no room, for then nothing was written and the same can be tried again.
async fn prepare(
    context: &Context,
    lease: &Lease,
    standing: Standing,
    position: &Position,
    changes: Vec<Change>,
) -> Result<(), SessionError> {
    const PAUSE: Duration = Duration::from_secs(1);
    let store = &context.backends.checkpoints;
    let mut waiting = false;
    loop {
        match store.prepare(lease, standing.epoch, position, standing.ordinal, changes.clone()).await {
            Ok(()) => return Ok(()),
            Err(error @ (StoreError::Full(_) | StoreError::Busy { .. })) => {
                if !std::mem::replace(&mut waiting, true) {
                    tracing::warn!(shard = %context.shard, %error, "a checkpoint has to wait");
                }
            }
            Err(error) => return Err(SessionError::Checkpoint(error)),
        }
        let mut timer = tokio::time::interval(PAUSE);
        timer.tick().await;
        timer.tick().await;
    }
}

/// Waits until hot-metric has heard enough; not for ever, because correctness does not need it: a reader that knows
/// less than a footer says takes its snapshot again.
async fn wait_for_hot(context: &Context, heard: &mut watch::Receiver<u64>, goal: u64) {
    let enough = heard.wait_for(|heard| *heard >= goal);
    if tokio::time::timeout(context.options.hot_wait_max, enough).await.is_err() {
        tracing::warn!(shard = %context.shard, "hot-metric does not answer, the epoch goes on without it");
    }
}
