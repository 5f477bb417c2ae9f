//! The one thread that writes: it makes everything that waits durable with one sync, and hands full layers to the fold.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tidegauge_core::hot::{HotVersion, KeyUpdate, StoreError};
use tidegauge_core::ids::{Key, ShardId};
use tokio::sync::{mpsc, oneshot};

use super::entries::{self, Entry};
use super::fold::Fold;
use super::layers::Shared;
use super::wal::Wal;
use super::{HotStoreOptions, abort};

/// Calls that wait for the committer; further ones wait outside, before they have given their updates away.
pub(super) const QUEUE_CALLS: usize = 64;
/// Values and windows in one commit, about a megabyte: a longer sync would hold up those who come after.
const COMMIT_ITEMS: usize = 8_192;
/// A layer and its files may grow to so many times their size while the one before is folded; then commits wait.
const LAYERS_BEHIND: usize = 2;
/// Commits between two tries of a fold that fails, at most: each try may cost the writing of a whole layer.
const RETRY_COMMITS_MAX: u32 = 32;

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
    pub(super) folder: Arc<Mutex<dyn Fold>>,
    pub(super) wal: Wal,
    /// Write-ahead files of the active layer that were written before this start.
    pub(super) older: Vec<PathBuf>,
    /// Their bytes.
    pub(super) older_bytes: u64,
    pub(super) folding: Option<Folding>,
    /// Whether the last commit was refused: a refusal is logged once, not at every push.
    pub(super) refusing: bool,
}

/// A fold under way, or one that failed and waits to be tried again.
pub(super) struct Folding {
    thread: Option<JoinHandle<Result<(), StoreError>>>,
    files: Vec<PathBuf>,
    /// Why it failed last.
    failure: Option<StoreError>,
    /// Commits until it is tried again, and how many that were at first.
    wait: u32,
    pause: u32,
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
        if let Some(thread) = self.folding.take().and_then(|folding| folding.thread) {
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
                metrics::counter!("tidegauge_hot_commits_refused_total").increment(1);
                if !std::mem::replace(&mut self.refusing, true) {
                    tracing::error!(dir = %self.dir.display(), %error, "the hot store refuses updates");
                }
                answers.into_iter().for_each(|answer| answer.fail(&error));
                return;
            }
            if std::mem::take(&mut self.refusing) {
                tracing::info!(dir = %self.dir.display(), "the hot store takes updates again");
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

    /// Whether the active layer or its files have reached so many times their size.
    fn has_reached(&self, layers: usize) -> bool {
        let rows = self.shared.read().active.rows;
        let bytes = self.wal.bytes + self.older_bytes;
        rows >= layers.saturating_mul(self.options.fold_rows)
            || bytes >= self.options.fold_bytes.saturating_mul(layers as u64)
    }

    /// Refuses when memory, or what a start must read, could outgrow its bound: the layer before cannot be folded, most
    /// likely for want of disk space. Nothing is lost by it: what was acknowledged stays in the files and is read from
    /// memory, and aggregation sends again what was refused.
    fn check_room(&mut self) -> Result<(), StoreError> {
        if !self.has_reached(LAYERS_BEHIND) {
            return Ok(());
        }
        self.end_fold();
        self.retry_fold();
        self.end_fold();
        match &self.folding {
            // The fold has ended well: the active layer can be handed over.
            None => self.begin_fold(),
            Some(Folding { failure: Some(failure), .. }) => Err(copy_of(failure)),
            Some(_) => Err(StoreError::Unavailable("the hot store is still folding".to_owned())),
        }
    }

    /// Begins a fold when the active layer or its files are large enough and no other fold is under way.
    fn fold_if_full(&mut self) {
        if self.folding.as_ref().and_then(|folding| folding.thread.as_ref()).is_some_and(JoinHandle::is_finished) {
            self.end_fold();
        }
        if self.folding.is_some() {
            self.retry_fold();
        } else if self.has_reached(1)
            && let Err(error) = self.begin_fold()
        {
            // The old file still takes updates; the next commit tries again, and refuses when it has become too large.
            tracing::debug!(dir = %self.dir.display(), %error, "the hot store cannot begin a new file");
        }
    }

    /// Lets the active layer begin anew, with a file of its own, and folds what it was.
    fn begin_fold(&mut self) -> Result<(), StoreError> {
        let next = Wal::create(&self.dir, self.wal.number + 1)?;
        let mut files = std::mem::take(&mut self.older);
        self.older_bytes = 0;
        files.push(std::mem::replace(&mut self.wal, next).path);
        {
            let mut state = self.shared.write();
            state.folding = Some(Arc::new(std::mem::take(&mut state.active)));
        }
        self.folding = Some(Folding { thread: None, files, failure: None, wait: 0, pause: 0 });
        self.start_fold();
        Ok(())
    }

    /// Tries a failed fold again when its pause is over.
    fn retry_fold(&mut self) {
        let Some(folding) = &mut self.folding else { return };
        if folding.thread.is_none() {
            folding.wait = folding.wait.saturating_sub(1);
            if folding.wait == 0 {
                self.start_fold();
            }
        }
    }

    /// Folds the folding layer.
    fn start_fold(&mut self) {
        let Some(folding) = &mut self.folding else { return };
        let Some(layer) = self.shared.read().folding.clone() else { return };
        let (shared, folder, dir) = (Arc::clone(&self.shared), Arc::clone(&self.folder), self.dir.clone());
        let fold = move || {
            let mut folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
            let folded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| folder.fold(&layer)));
            // The database's own locks may be left broken: nothing could ever be folded again.
            folded.unwrap_or_else(|_| abort(&dir, &"a fold ended with a panic"))?;
            // Readers take the layers and a snapshot of the database under one lock, so they see either both or the
            // database with it inside.
            shared.write().folding = None;
            Ok(())
        };
        match std::thread::Builder::new().name("hot-fold".to_owned()).spawn(fold) {
            Ok(thread) => folding.thread = Some(thread),
            Err(error) => folding.has_failed(StoreError::io("starting the hot store's fold", error)),
        }
    }

    /// Waits for the fold. Its files go when it has succeeded; until then a restart reads them again.
    fn end_fold(&mut self) {
        let Some(folding) = &mut self.folding else { return };
        let Some(thread) = folding.thread.take() else { return };
        match thread.join() {
            Ok(Ok(())) => {
                for file in &folding.files {
                    if let Err(error) = std::fs::remove_file(file) {
                        tracing::warn!(file = %file.display(), %error, "a file that is not needed any more stays");
                    }
                }
                if folding.failure.is_some() {
                    tracing::info!(dir = %self.dir.display(), "the hot store folds its updates again");
                }
                self.folding = None;
            }
            Ok(Err(error)) => folding.has_failed(error),
            Err(_) => abort(&self.dir, &"the thread of a fold ended with a panic"),
        }
    }
}

impl Folding {
    /// Notes a failure, says it once, and doubles the pause.
    fn has_failed(&mut self, error: StoreError) {
        metrics::counter!("tidegauge_hot_folds_failed_total").increment(1);
        if self.failure.is_none() {
            tracing::error!(%error, "the hot store cannot fold its updates and will try again");
        }
        self.failure = Some(error);
        self.pause = (self.pause * 2).clamp(1, RETRY_COMMITS_MAX);
        self.wait = self.pause;
    }
}

/// The same failure for another call.
fn copy_of(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full(what) => StoreError::Full(what.clone()),
        other => StoreError::Unavailable(other.to_string()),
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
        match self {
            Self::Applied(done, _) => drop(done.send(Err(copy_of(error)))),
            Self::Held(done) => drop(done.send(Err(copy_of(error)))),
        }
    }
}
