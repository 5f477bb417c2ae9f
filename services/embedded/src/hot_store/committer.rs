//! The one thread that writes. fjall holds its journal's lock during a sync, so several writers would wait for each
//! other's syncs; one writer makes everything that waits durable with one sync.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use fjall::{Database, Keyspace, PersistMode, Readable};
use tidegauge_core::hot::{KeyUpdate, StoreError};
use tidegauge_core::ids::ShardId;
use tokio::sync::{mpsc, oneshot};

use super::plan::{KnownKeys, NameCache, Plan, StoredWindows};
use super::{keys, storage_error, values};

/// Calls that wait for the committer; further ones wait outside, before they have given their updates away.
pub(super) const QUEUE_CALLS: usize = 64;
/// Items in one commit, about a megabyte: a longer sync would hold up those who come after.
const COMMIT_ITEMS: usize = 8_192;
/// Disk space below which nothing is written: fjall cannot take a failed write back, so it must not come to one.
const RESERVE_BYTES: u64 = 64 << 20;

/// A call that waits for its commit.
#[derive(Debug)]
pub(super) enum Call {
    Apply { updates: Vec<KeyUpdate>, done: oneshot::Sender<Result<Vec<bool>, StoreError>> },
    Hold { shard: ShardId, shards: u32, done: oneshot::Sender<Result<(), StoreError>> },
}

/// Knowledge shared between the committer, which changes it after a commit, and readers.
#[derive(Debug, Default)]
pub(super) struct Shared {
    known: RwLock<KnownKeys>,
    held: RwLock<Vec<(ShardId, u32)>>,
}

impl Shared {
    pub(super) fn new(known: KnownKeys, held: Vec<(ShardId, u32)>) -> Self {
        Self { known: RwLock::new(known), held: RwLock::new(held) }
    }

    /// Reads the known keys. The closure must be short: commits wait for it.
    pub(super) fn with_known<T>(&self, read: impl FnOnce(&KnownKeys) -> T) -> T {
        read(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn held(&self) -> Vec<(ShardId, u32)> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The committer's own state.
pub(super) struct Committer {
    pub(super) db: Database,
    pub(super) items: Keyspace,
    pub(super) shared: Arc<Shared>,
    pub(super) dir: PathBuf,
    pub(super) names: NameCache,
}

struct Stored<'a> {
    snapshot: fjall::Snapshot,
    items: &'a Keyspace,
}

impl StoredWindows for Stored<'_> {
    fn ends(&self, from: &[u8], to: &[u8]) -> Result<Vec<(Vec<u8>, i64)>, StoreError> {
        let mut found = Vec::new();
        for entry in self.snapshot.range(self.items, from..to) {
            let (item, value) = entry.into_inner().map_err(storage_error)?;
            found.push((item.to_vec(), values::window_end_ns(&value)?));
        }
        Ok(found)
    }
}

impl Committer {
    /// Runs until all senders are gone and what waited is durable.
    pub(super) fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        while let Some(first) = calls.blocking_recv() {
            let mut group = vec![first];
            let mut items = items_of(&group[0]);
            while items < COMMIT_ITEMS {
                let Ok(next) = calls.try_recv() else { break };
                items += items_of(&next);
                group.push(next);
            }
            self.commit(group);
        }
    }

    fn commit(&mut self, group: Vec<Call>) {
        let mut answers = Vec::with_capacity(group.len());
        let mut plan = Plan::default();
        let mut held = None;
        let planned = self.plan(group, &mut plan, &mut held, &mut answers).and_then(|()| self.check_space());
        if let Err(error) = planned {
            // Nothing of the group is written; the names of the lost plan must be written by the next one.
            self.names = NameCache::default();
            for answer in answers {
                answer.fail(&error);
            }
            return;
        }

        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        for (item, value) in std::mem::take(&mut plan.changes) {
            match value {
                Some(value) => batch.insert(&self.items, item, value),
                None => batch.remove(&self.items, item),
            }
        }
        if let Err(error) = batch.commit() {
            // After a failed write or sync nobody knows what is durable, and fjall takes no further write.
            tracing::error!(dir = %self.dir.display(), %error, "the hot store cannot be written, the process ends");
            std::process::abort();
        }

        self.shared.known.write().unwrap_or_else(PoisonError::into_inner).append(&mut plan.known);
        if let Some(held) = held {
            *self.shared.held.write().unwrap_or_else(PoisonError::into_inner) = held;
        }
        answers.into_iter().for_each(Answer::succeed);
    }

    /// Plans all calls. On an error all of `group` is in `answers`, and nothing of it will be written.
    fn plan(
        &mut self,
        group: Vec<Call>,
        plan: &mut Plan,
        held: &mut Option<Vec<(ShardId, u32)>>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), StoreError> {
        let stored = Stored { snapshot: self.db.snapshot(), items: &self.items };
        let known = self.shared.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut outcome = Ok(());
        for call in group {
            match call {
                Call::Apply { updates, done } => {
                    let mut applied = Vec::with_capacity(updates.len());
                    for update in updates {
                        if outcome.is_err() {
                            break;
                        }
                        match plan.add(update, &known, &stored, &mut self.names) {
                            Ok(newer) => applied.push(newer),
                            Err(error) => outcome = Err(error),
                        }
                    }
                    answers.push(Answer::Applied(done, applied));
                }
                Call::Hold { shard, shards, done } => {
                    let before = held.take().unwrap_or_else(|| self.shared.held());
                    *held = Some(hold(before, shard, shards, plan));
                    answers.push(Answer::Held(done));
                }
            }
        }
        outcome
    }

    fn check_space(&self) -> Result<(), StoreError> {
        match fs4::available_space(&self.dir) {
            Ok(free) if free < RESERVE_BYTES => {
                Err(StoreError::Full(format!("{} has {free} bytes left", self.dir.display())))
            }
            // A file system that does not tell its space may still have some.
            _ => Ok(()),
        }
    }
}

/// Adds a note, drops those counted by another number of shards.
fn hold(mut held: Vec<(ShardId, u32)>, shard: ShardId, shards: u32, plan: &mut Plan) -> Vec<(ShardId, u32)> {
    held.retain(|&(other, counted)| {
        let stays = counted == shards && other != shard;
        if !stays {
            plan.changes.insert(keys::shard(other), None);
        }
        stays
    });
    plan.changes.insert(keys::shard(shard), Some(values::encode_shards(shards)));
    held.push((shard, shards));
    held.sort();
    held
}

fn items_of(call: &Call) -> usize {
    match call {
        Call::Apply { updates, .. } => updates.iter().map(|u| 1 + u.currents.len() + u.windows.len()).sum(),
        Call::Hold { .. } => 1,
    }
}

/// An answer that waits for the commit. Nobody may be waiting for it any more; the commit stands nevertheless.
enum Answer {
    Applied(oneshot::Sender<Result<Vec<bool>, StoreError>>, Vec<bool>),
    Held(oneshot::Sender<Result<(), StoreError>>),
}

impl Answer {
    fn succeed(self) {
        match self {
            Self::Applied(done, applied) => drop(done.send(Ok(applied))),
            Self::Held(done) => drop(done.send(Ok(()))),
        }
    }

    fn fail(self, error: &StoreError) {
        let error = match error {
            StoreError::Full(what) => StoreError::Full(what.clone()),
            other => StoreError::Corrupt(other.to_string()),
        };
        match self {
            Self::Applied(done, _) => drop(done.send(Err(error))),
            Self::Held(done) => drop(done.send(Err(error))),
        }
    }
}
