//! The worker of one shard: executes what [`crate::decide`] decides.
//!
//! ```text
//! acquire ─▶ restore ─▶ apply what the last epoch left ─▶ ┌ read ─▶ process ─▶ push hot ┐ ─▶ drain
//!                                                          └ epoch: prepare ─▶ apply ─▶ boundary ─▶ complete ┘
//! ```
//!
//! One epoch is in flight at a time, in a task of its own ([`commit`]), while records go on being processed. Hot-metric
//! is fed through a task of its own too ([`hot`]): nothing is pushed before the replay has reached what hot-metric holds
//! already. Whatever fails in a way that leaves the state unsure ends the session; the next one begins with `acquire`.

mod apply;
mod commit;
mod dead_letters;
pub(crate) mod hot;
pub(crate) mod indexes;
mod probe;
mod session;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegauge_core::checkpoint::StoreError;
use tidegauge_core::clock::SteadyClock;
use tidegauge_core::scope::SystemAuthority;
use tidegauge_core::{Ordinal, ShardId};
use tidegauge_lake::apply::RowCache;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::crash::CrashCounter;
use crate::decide::{RestoreError, Settings};
use crate::options::{AggregationOptions, Backends};
use crate::status::{KeyReport, KeysWanted, ShardReport, WorkerState};
use hot::HotConnector;
use indexes::Unchecked;

/// What a worker is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) shard: ShardId,
    pub(crate) shards: u32,
    pub(crate) options: AggregationOptions,
    pub(crate) settings: Settings,
    pub(crate) backends: Backends,
    pub(crate) hot: Arc<dyn HotConnector>,
    pub(crate) clock: Arc<SteadyClock>,
    pub(crate) authority: SystemAuthority,
    pub(crate) crash: Arc<CrashCounter>,
    /// Decoded objects that the last epochs wrote.
    pub(crate) cache: RowCache,
    /// Lets one large object be made at a time in this process.
    pub(crate) large: Arc<Semaphore>,
    /// Keys whose hour index has not been compared with the lake yet.
    pub(crate) unchecked: Unchecked,
    /// Last known state, for when the worker cannot answer.
    pub(crate) report: Mutex<ShardReport>,
    /// The worker was told to end: a session that fails is the last one.
    pub(crate) draining: AtomicBool,
}

impl Context {
    pub(crate) fn report(&self) -> ShardReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update_report(&self, change: impl FnOnce(&mut ShardReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What a worker can be asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// How do the shard and these keys stand?
    Status(KeysWanted, oneshot::Sender<(ShardReport, Vec<KeyReport>)>),
    /// Stop reading, commit what is due, end.
    Drain,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("checkpoint store: {0}")]
    Checkpoint(#[source] StoreError),
    #[error("log: {0}")]
    Log(#[source] StoreError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(
        "hot-metric holds generation {hot} of this shard, the state has generation {ours}: the state is older than the \
         hot store; restore both from the same backup, or remove the hot store, which is filled again"
    )]
    HotAhead { hot: u64, ours: u64 },
    #[error(
        "the log ends after {ours} records, but hot-metric holds {hot} of this shard: the log has lost records; restore \
         it, or remove the hot store, which is filled again"
    )]
    LogShort { hot: Ordinal, ours: Ordinal },
    #[error("the task of an epoch ended by itself")]
    Task,
}

impl SessionError {
    /// Whether beginning again cannot help.
    fn is_final(&self) -> bool {
        match self {
            Self::Checkpoint(error) | Self::Log(error) => matches!(
                error,
                StoreError::Corrupt(_) | StoreError::Fenced(_) | StoreError::NotFound(_) | StoreError::Invalid(_)
            ),
            Self::Restore(_) | Self::HotAhead { .. } | Self::LogShort { .. } => true,
            Self::Task => false,
        }
    }
}

/// Runs sessions until one is drained or cannot go on.
pub(crate) async fn run(context: Arc<Context>, mut commands: mpsc::Receiver<Command>) {
    const PAUSE_MIN: Duration = Duration::from_millis(100);
    const PAUSE_MAX: Duration = Duration::from_secs(10);
    let shard = context.shard;
    let mut pause = PAUSE_MIN;
    loop {
        let before = context.report().completed;
        let error = match session::run(&context, &mut commands).await {
            Ok(()) => return,
            Err(error) => error,
        };
        context.cache.clear();
        let draining = context.draining.load(Ordering::SeqCst);
        let for_good = draining || error.is_final();
        context.update_report(|report| {
            report.state = if for_good { WorkerState::Stopped } else { WorkerState::Retrying };
            report.stopped_because = Some(error.to_string());
            report.quiescent = false;
        });
        metrics::counter!("tidegauge_aggregation_session_failures_total", "shard" => shard.to_string()).increment(1);
        if draining {
            tracing::warn!(%shard, %error, "the worker failed while it was draining; the rest is on the log");
            return;
        }
        if for_good {
            tracing::error!(%shard, %error, "the shard is stopped");
            while !stopped(&context, &mut commands, None).await {}
            return;
        }
        if context.report().completed > before {
            pause = PAUSE_MIN;
        }
        tracing::warn!(%shard, %error, ?pause, "the worker begins again");
        if stopped(&context, &mut commands, Some(pause)).await {
            return;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Answers commands for a while (or until the drain) without a session; whether the worker has to end.
async fn stopped(context: &Context, commands: &mut mpsc::Receiver<Command>, time: Option<Duration>) -> bool {
    let wait = async {
        loop {
            match commands.recv().await {
                Some(Command::Status(_, reply)) => {
                    // Whoever asked may have gone.
                    let _ = reply.send((context.report(), Vec::new()));
                }
                Some(Command::Drain) | None => return,
            }
        }
    };
    match time {
        Some(time) => tokio::time::timeout(time, wait).await.is_ok(),
        None => {
            wait.await;
            true
        }
    }
}
