//! When hot-metric is told, and what it is known to hold.

use std::collections::HashMap;

use tidegauge_core::{Key, Ordinal};

use super::super::SessionError;
use super::super::hot::{HotEvent, HotKey, Push};
use super::Session;
use crate::decide::HotKnown;

/// Values and windows of one push: coalescing does the rest.
const ITEMS_PER_PUSH: usize = 20_000;

/// Where the stream to hot-metric stands.
#[derive(Debug, Default)]
pub(super) struct Pushing {
    /// The stream in use.
    stream: Option<u64>,
    /// Whether any stream has been opened in this session.
    met: bool,
    /// Ordinal up to which hot-metric has heard in earlier sessions: nothing older is pushed.
    target: Ordinal,
    /// Entries of the queue that make up the snapshot.
    snapshot_through: u64,
    /// The end mark of the snapshot has been sent.
    snapshot_sent: bool,
    /// Entries taken from the queue with the push under way.
    under_way: Option<u64>,
    /// The snapshot is acknowledged.
    synced: bool,
}

impl Pushing {
    /// Whether hot-metric holds all that it was told.
    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    /// Whether records are being processed again that hot-metric has counted.
    pub(super) fn is_replaying(&self, ordinal: Ordinal) -> bool {
        self.stream.is_some() && ordinal < self.target
    }

    /// Whether all that hot-metric has ever counted is processed.
    pub(super) fn is_replayed(&self, ordinal: Ordinal) -> bool {
        self.met && ordinal >= self.target
    }

    /// Whether nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.is_none()
    }
}

impl Session {
    /// Waits for a first word of hot-metric on what it holds; not for ever, because correctness does not need it.
    pub(super) async fn meet_hot(&mut self) -> Result<(), SessionError> {
        let wait = self.context.options.hot_wait_max;
        let met = tokio::time::timeout(wait, async {
            while !self.pushing.met {
                let event = self.link.events.recv().await.ok_or(SessionError::Task)?;
                self.take_hot_event(event)?;
            }
            Ok(())
        });
        met.await.unwrap_or_else(|_| {
            tracing::warn!(shard = %self.context.shard, "hot-metric does not answer, the shard is taken over without it");
            Ok(())
        })
    }

    pub(super) fn may_push(&self) -> bool {
        let pushing = &self.pushing;
        pushing.stream.is_some()
            && pushing.under_way.is_none()
            && self.shard.ordinal() >= pushing.target
            && (self.shard.has_updates() || !pushing.snapshot_sent)
    }

    pub(super) fn push(&mut self) {
        let Some(stream) = self.pushing.stream else { return };
        let updates = self.shard.collect_updates(ITEMS_PER_PUSH);
        let (_, taken) = self.shard.hot_progress();
        let snapshot_complete = !self.pushing.snapshot_sent && taken >= self.pushing.snapshot_through;
        self.pushing.snapshot_sent |= snapshot_complete;
        self.pushing.under_way = Some(taken);
        // The queue has room for more than the one push that is ever under way; a closed one is told as an event.
        if self.link.pushes.try_send(Push { stream, updates, snapshot_complete }).is_err() {
            tracing::debug!(shard = %self.context.shard, "the stream to hot-metric is closing");
        }
    }

    pub(super) fn take_hot_event(&mut self, event: HotEvent) -> Result<(), SessionError> {
        match event {
            HotEvent::Connected(stream, versions) => {
                let newest = versions.iter().map(|held| held.version.generation).max().unwrap_or(0);
                let ours = self.lease.generation;
                // Under our own generation only this very session has pushed.
                if newest > ours || (newest == ours && !self.pushing.met) {
                    return Err(SessionError::HotAhead { hot: newest, ours });
                }
                let held = |held: HotKey| {
                    let HotKey { key, version, boundary_ns } = held;
                    (key, HotKnown { ordinal: version.ordinal, boundary_ns })
                };
                let known: HashMap<Key, HotKnown> = versions.into_iter().map(held).collect();
                let target = known.values().map(|known| known.ordinal).max().unwrap_or(0);
                self.shard.restart_hot(&known);
                let snapshot_through = self.shard.hot_progress().0;
                self.pushing =
                    Pushing { stream: Some(stream), met: true, target, snapshot_through, ..Pushing::default() };
                return self.check_replay();
            }
            HotEvent::Acked(stream) => {
                if self.pushing.stream == Some(stream)
                    && let Some(taken) = self.pushing.under_way.take()
                    && self.pushing.snapshot_sent
                {
                    self.pushing.synced = true;
                    self.heard.send_replace(taken);
                }
            }
            HotEvent::Lost => {
                let Pushing { met, target, .. } = self.pushing;
                self.pushing = Pushing { met, target, ..Pushing::default() };
                self.shard.pause_hot();
            }
        }
        Ok(())
    }

    /// A log that ends before what hot-metric holds has lost records.
    pub(super) fn check_replay(&self) -> Result<(), SessionError> {
        let (hot, ours) = (self.pushing.target, self.shard.ordinal());
        if self.pushing.stream.is_some() && self.at_tip && ours < hot {
            return Err(SessionError::LogShort { hot, ours });
        }
        Ok(())
    }
}
