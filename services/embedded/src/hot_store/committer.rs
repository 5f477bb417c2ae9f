//! The one thread that writes: it makes everything that waits durable with one sync, and hands full layers to the fold.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tidegauge_core::hot::{HotVersion, KeyUpdate, StoreError};
use tidegauge_core::ids::{Key, ShardId};
use tokio::sync::{mpsc, oneshot};

use super::HotStoreOptions;
use super::entries::{self, Entry};
use super::fold::Folder;
use super::layers::Shared;
use super::wal::Wal;

/// Calls that wait for the committer; further ones wait outside, before they have given their updates away.
pub(super) const QUEUE_CALLS: usize = 64;
/// Values and windows in one commit, about a megabyte: a longer sync would hold up those who come after.
const COMMIT_ITEMS: usize = 8_192;
/// A layer may grow to so many times its size while the one before is folded; then commits wait.
const LAYERS_BEHIND: usize = 2;

/// A call that waits for its commit.
#[derive(Debug)]
pub(super) enum Call {
    Apply { updates: Vec<KeyUpdate>, done: oneshot::Sender<Result<Vec<bool>, StoreError>> },
    Hold { shard: ShardId, shards: u32, done: oneshot::Sender<Result<(), StoreError>> },
}

/// The committer's own state.
pub(super) struct Committer {
    pub(super) options: HotStoreOptions,
    pub(super) dir: PathBuf,
    pub(super) shared: Arc<Shared>,
    pub(super) folder: Arc<Mutex<Folder>>,
    pub(super) wal: Wal,
    /// Write-ahead files of the active layer that were written before this start.
    pub(super) older: Vec<PathBuf>,
    pub(super) fold: Option<Fold>,
}

/// A fold under way, or one that failed and waits to be tried again.
pub(super) struct Fold {
    thread: Option<JoinHandle<Result<(), StoreError>>>,
    files: Vec<PathBuf>,
    /// Rows of the active layer from which on it is tried again.
    again_at: usize,
}

impl Committer {
    /// Runs until all senders are gone and what waited is durable.
    pub(super) fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        while let Some(first) = calls.blocking_recv() {
            let mut items = items_of(&first);
            let mut group = vec![first];
            while items < COMMIT_ITEMS {
                let Ok(next) = calls.try_recv() else { break };
                items += items_of(&next);
                group.push(next);
            }
            self.commit(group);
            self.fold_if_full();
        }
        if let Some(thread) = self.fold.take().and_then(|fold| fold.thread) {
            let _ = thread.join();
        }
    }

    fn commit(&mut self, group: Vec<Call>) {
        let (entries, answers) = self.judge(group);
        if !entries.is_empty() {
            let written = self.check_room().and_then(|()| {
                self.wal.append(|bytes| {
                    for entry in &entries {
                        match entry {
                            Entry::Update(update) => entries::encode_update(update, bytes),
                            Entry::Hold(shard, shards) => entries::encode_hold(*shard, *shards, bytes),
                        }
                    }
                })
            });
            if let Err(error) = written {
                tracing::warn!(dir = %self.dir.display(), %error, "updates are refused");
                answers.into_iter().for_each(|answer| answer.fail(&error));
                return;
            }
            let mut state = self.shared.write();
            for entry in entries {
                match entry {
                    Entry::Update(update) => state.apply(update),
                    Entry::Hold(shard, shards) => state.hold(shard, shards),
                }
            }
        }
        answers.into_iter().for_each(Answer::succeed);
    }

    /// What of the calls is new, in order, and the answers they get once it is durable.
    fn judge(&self, group: Vec<Call>) -> (Vec<Entry>, Vec<Answer>) {
        let state = self.shared.read();
        // Versions of the keys in this group, which the state does not know yet.
        let mut newest: HashMap<Key, HotVersion> = HashMap::new();
        let (mut entries, mut answers) = (Vec::new(), Vec::with_capacity(group.len()));
        for call in group {
            match call {
                Call::Apply { updates, done } => {
                    let mut applied = Vec::with_capacity(updates.len());
                    for update in updates {
                        let version = update.meta.version;
                        let newer = match newest.get(&update.key) {
                            Some(held) => version > *held,
                            None => state.is_newer(&update),
                        };
                        applied.push(newer);
                        if newer {
                            newest.insert(update.key.clone(), version);
                            entries.push(Entry::Update(update));
                        }
                    }
                    answers.push(Answer::Applied(done, applied));
                }
                Call::Hold { shard, shards, done } => {
                    entries.push(Entry::Hold(shard, shards));
                    answers.push(Answer::Held(done));
                }
            }
        }
        (entries, answers)
    }

    /// Refuses when memory could outgrow its bound: the fold fails, most likely for want of disk space.
    fn check_room(&mut self) -> Result<(), StoreError> {
        let rows = self.shared.read().active.rows;
        if rows < LAYERS_BEHIND * self.options.fold_rows {
            return Ok(());
        }
        if let Some(fold) = &mut self.fold {
            fold.again_at = 0;
        }
        self.fold_if_full();
        self.end_fold();
        match &self.fold {
            None => Ok(()),
            Some(_) => Err(StoreError::Full(format!("{} cannot take more, see the log", self.dir.display()))),
        }
    }

    /// Begins a fold when the active layer or its files are large enough and no other fold is under way.
    fn fold_if_full(&mut self) {
        if self.fold.as_ref().is_some_and(|fold| fold.thread.as_ref().is_some_and(JoinHandle::is_finished)) {
            self.end_fold();
        }
        let rows = self.shared.read().active.rows;
        match self.fold.take() {
            Some(failed) if failed.thread.is_none() && rows >= failed.again_at => self.start_fold(failed.files),
            Some(other) => self.fold = Some(other),
            None if rows >= self.options.fold_rows || self.wal.bytes >= self.options.fold_bytes => self.begin_fold(),
            None => {}
        }
    }

    /// Lets the active layer begin anew, with a file of its own, and folds what it was.
    fn begin_fold(&mut self) {
        let next = match Wal::create(&self.dir, self.wal.number + 1) {
            Ok(next) => next,
            Err(error) => {
                // The old file still takes updates; the next commit tries again.
                tracing::warn!(dir = %self.dir.display(), %error, "the hot store cannot begin a new file");
                return;
            }
        };
        let mut files = std::mem::take(&mut self.older);
        files.push(std::mem::replace(&mut self.wal, next).path);
        {
            let mut state = self.shared.write();
            state.folding = Some(Arc::new(std::mem::take(&mut state.active)));
        }
        self.start_fold(files);
    }

    /// Folds the folding layer, whose write-ahead files these are.
    fn start_fold(&mut self, files: Vec<PathBuf>) {
        let (layer, again_at) = {
            let state = self.shared.read();
            (state.folding.clone(), state.active.rows + self.options.fold_rows / 4 + 1)
        };
        let Some(layer) = layer else { return };
        let (shared, folder) = (Arc::clone(&self.shared), Arc::clone(&self.folder));
        let fold = move || {
            let mut folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
            folder.fold(&layer).inspect_err(|_| folder.forget_names())?;
            // Readers take the layers and a snapshot of the database under one lock, so they see either both or the
            // database with it inside.
            shared.write().folding = None;
            Ok(())
        };
        let thread = std::thread::Builder::new().name("hot-fold".to_owned()).spawn(fold);
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "the hot store's fold cannot start")).ok();
        self.fold = Some(Fold { thread, files, again_at });
    }

    /// Waits for the fold. Its files go when it has succeeded; until then a restart reads them again.
    fn end_fold(&mut self) {
        let Some(fold) = &mut self.fold else { return };
        let Some(thread) = fold.thread.take() else { return };
        match thread.join() {
            Ok(Ok(())) => {
                for file in &fold.files {
                    if let Err(error) = std::fs::remove_file(file) {
                        tracing::warn!(file = %file.display(), %error, "a file that is not needed any more stays");
                    }
                }
                self.fold = None;
            }
            Ok(Err(error)) => {
                fold.again_at = self.shared.read().active.rows + self.options.fold_rows / 4 + 1;
                tracing::error!(dir = %self.dir.display(), %error, "the hot store cannot fold its updates");
            }
            Err(_) => tracing::error!(dir = %self.dir.display(), "the hot store's fold ended with a panic"),
        }
    }
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
            other => StoreError::Unavailable(other.to_string()),
        };
        match self {
            Self::Applied(done, _) => drop(done.send(Err(error))),
            Self::Held(done) => drop(done.send(Err(error))),
        }
    }
}
