//! The bounded queue between `append` and the writer of a shard.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tidegauge_core::log::StoreError;
use tokio::sync::oneshot;

/// A record ready to be written.
#[derive(Debug)]
pub(super) struct PendingRecord {
    pub(super) key: Box<[u8]>,
    pub(super) payload: Bytes,
    pub(super) content_checksum: u32,
}

/// The records of one call for one shard; written in one commit or not at all.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) records: Vec<PendingRecord>,
    /// Bytes that the records take in the segment.
    pub(super) stored_bytes: usize,
    /// Positions after each record.
    pub(super) done: oneshot::Sender<Result<Vec<u64>, Refusal>>,
}

/// Why a job was not written; nothing of it is on the log.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    Full(String),
    Io(String, std::io::ErrorKind),
    Stopped(String),
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full(what) => Self::Full(what),
            Refusal::Io(doing, kind) => Self::Io { doing, source: kind.into() },
            Refusal::Stopped(why) => Self::Unavailable(why),
        }
    }
}

/// What the writer gets.
#[derive(Debug)]
pub(super) enum Taken {
    /// Jobs to write together; at least one.
    Jobs(Vec<Job>),
    /// Nothing came within the time given.
    Idle,
    /// The queue is closed and empty.
    Closed,
}

#[derive(Default, Debug)]
struct State {
    jobs: VecDeque<Job>,
    closed: Option<String>,
}

/// Jobs in order, bounded in bytes. Room is reserved first, so that a call over several shards is refused as a whole.
#[derive(Debug)]
pub(super) struct Queue {
    bytes_max: usize,
    bytes: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: AtomicUsize::new(0), state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for a job, if there is; given back by [`Queue::release`] when the job is answered.
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        let room = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_ok()
    }

    pub(super) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Appends a job whose room is reserved.
    ///
    /// # Errors
    /// Why the queue is closed.
    pub(super) fn push(&self, job: Job) -> Result<(), String> {
        let mut state = self.state();
        if let Some(why) = &state.closed {
            return Err(why.clone());
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes the jobs that wait, up to about `bytes_max`: whole jobs, at least one. Batching comes by itself: what
    /// arrives during one sync is written by the next.
    pub(super) fn take(&self, bytes_max: usize, idle: Duration) -> Taken {
        let mut state = self.state();
        if state.jobs.is_empty() && state.closed.is_none() {
            let waited =
                self.changed.wait_timeout_while(state, idle, |state| state.jobs.is_empty() && state.closed.is_none());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let Some(first) = state.jobs.pop_front() else {
            return if state.closed.is_some() { Taken::Closed } else { Taken::Idle };
        };
        let mut bytes = first.stored_bytes;
        let mut jobs = vec![first];
        while let Some(next) = state.jobs.pop_front_if(|next| bytes + next.stored_bytes <= bytes_max) {
            bytes += next.stored_bytes;
            jobs.push(next);
        }
        Taken::Jobs(jobs)
    }

    /// Takes no more jobs; those that wait are still written.
    pub(super) fn close(&self, why: &str) {
        self.state().closed.get_or_insert_with(|| why.to_owned());
        self.changed.notify_all();
    }

    /// Takes no more jobs and refuses those that wait.
    pub(super) fn fail(&self, why: &str) {
        let refused: Vec<Job> = {
            let mut state = self.state();
            state.closed = Some(why.to_owned());
            state.jobs.drain(..).collect()
        };
        for job in refused {
            self.release(job.stored_bytes);
            // A caller that has gone needs no answer.
            let _ = job.done.send(Err(Refusal::Stopped(why.to_owned())));
        }
        self.changed.notify_all();
    }
}
