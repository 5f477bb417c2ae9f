//! The bounded queue between `append` and the writer of a shard: fair among keys, bounded for each and in total.
//!
//! Jobs of a key stand in a lane of their own, in order. Lanes take turns by bytes (deficit round robin: M. Shreedhar and
//! G. Varghese, "Efficient Fair Queuing using Deficit Round Robin"), so that a key with little to write is in the next
//! commit, however much another one brings. A lane may take as many bytes as are still free (after A. Choudhury and
//! E. Hahne, "Dynamic Queue Length Thresholds"): alone it gets half of the queue, and there is always room for others. For a
//! call that needs more than its neighbours leave, room is gathered ([`claims`]).

mod claims;

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tidegauge_core::Key;
use tidegauge_core::log::StoreError;
use tokio::sync::oneshot;

use claims::{Claims, Need};

/// Bytes of a lane's turn: sixteen busy keys share a commit.
const TURN_BYTES: usize = 64 << 10;
/// What a job takes in memory beside its records, about, with the call that waits for it: counted, so that many small
/// requests are bounded like few large ones.
const JOB_BYTES: usize = 1 << 10;

/// A record ready to be written.
#[derive(Debug)]
pub(super) struct PendingRecord {
    pub(super) payload: Bytes,
    pub(super) content_checksum: u32,
}

/// Records of one call and one key; written in one commit or not at all.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) key: Key,
    /// The key as it stands in the record.
    pub(super) key_bytes: Box<[u8]>,
    pub(super) records: Vec<PendingRecord>,
    /// Bytes that the records take in the segment.
    pub(super) stored_bytes: usize,
    /// Positions after each record.
    pub(super) done: oneshot::Sender<Result<Vec<u64>, Refusal>>,
}

/// Room that a job takes in the queue.
pub(super) const fn room(stored_bytes: usize) -> usize {
    stored_bytes.saturating_add(JOB_BYTES)
}

/// Why a job was not written; nothing of it is on the log.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    Full(String),
    Io(String, std::io::ErrorKind),
    /// No descriptor was free.
    Descriptors(String),
    Stopped(String),
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full(what) => Self::Full(what),
            Refusal::Io(doing, kind) => Self::Io { doing, source: kind.into() },
            Refusal::Descriptors(why) | Refusal::Stopped(why) => Self::Unavailable(why),
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

/// The jobs of one key.
#[derive(Default, Debug)]
struct Lane {
    jobs: VecDeque<Job>,
    /// Room taken, by jobs that are being written too.
    taken: usize,
    /// Bytes that it may still write in its turn.
    credit: usize,
}

#[derive(Default, Debug)]
struct State {
    lanes: HashMap<Key, Lane>,
    /// Lanes that have jobs; the first one has the turn.
    turns: VecDeque<Key>,
    /// Room taken by all lanes.
    taken: usize,
    /// Room that is kept for calls that were refused; free, but not for others.
    claims: Claims,
    closed: Option<String>,
}

impl State {
    fn release(&mut self, key: &Key, room: usize) {
        self.taken = self.taken.saturating_sub(room);
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.taken = lane.taken.saturating_sub(room);
            if lane.taken == 0 && lane.jobs.is_empty() {
                self.lanes.remove(key);
            }
        }
    }

    /// The next job in turn, unless it does not fit: then its lane keeps the turn.
    fn next(&mut self, fits: impl Fn(usize) -> bool) -> Option<Job> {
        loop {
            let lane = self.lanes.get_mut(self.turns.front()?)?;
            let bytes = lane.jobs.front()?.stored_bytes;
            if bytes > lane.credit && self.turns.len() > 1 {
                // Its turn ends; with what it gets for the next one a large job comes in the end.
                lane.credit += TURN_BYTES;
                self.turns.rotate_left(1);
                continue;
            }
            if !fits(bytes) {
                return None;
            }
            lane.credit = lane.credit.saturating_sub(bytes);
            let job = lane.jobs.pop_front();
            if lane.jobs.is_empty() {
                self.turns.pop_front();
            }
            return job;
        }
    }
}

/// Jobs, bounded in bytes. Room is reserved first, so that a call over several shards is refused as a whole.
#[derive(Debug)]
pub(super) struct Queue {
    bytes_max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for the jobs of a call and key, if there is; given back by [`Queue::release`] when they are answered.
    ///
    /// A refused call leaves a claim, if `may_claim`. `now_ns` is monotonic.
    pub(super) fn reserve(&self, key: &Key, room: usize, may_claim: bool, now_ns: u64) -> bool {
        let mut state = self.state();
        state.claims.expire(now_ns);
        let free = self.bytes_max.saturating_sub(state.taken + state.claims.kept_from(key, room));
        let need = Need { room, own: state.lanes.get(key).map_or(0, |lane| lane.taken) };
        if need.free() > free {
            if may_claim {
                state.claims.leave(key, need, self.bytes_max, now_ns);
            }
            return false;
        }
        state.claims.settle(key, room);
        state.taken += room;
        state.lanes.entry(key.clone()).or_default().taken += room;
        true
    }

    /// Gives room back.
    pub(super) fn release(&self, key: &Key, room: usize) {
        self.state().release(key, room);
    }

    /// Gives back the room of jobs that are done.
    pub(super) fn release_all(&self, jobs: &[Job]) {
        let mut state = self.state();
        let mut released = 0;
        for job in jobs {
            let room = room(job.stored_bytes);
            state.release(&job.key, room);
            released += room;
        }
        state.claims.earn(released, self.bytes_max);
    }

    /// Appends a job whose room is reserved.
    ///
    /// # Errors
    /// The job, and why the queue is closed.
    pub(super) fn push(&self, job: Job) -> Result<(), (Job, String)> {
        let mut state = self.state();
        if let Some(why) = &state.closed {
            return Err((job, why.clone()));
        }
        let key = job.key.clone();
        let lane = state.lanes.entry(job.key.clone()).or_default();
        lane.jobs.push_back(job);
        if lane.jobs.len() == 1 {
            lane.credit = TURN_BYTES;
            state.turns.push_back(key);
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes the jobs that wait, up to about `bytes_max`: whole jobs, at least one. Batching comes by itself: what
    /// arrives during one sync is written by the next.
    pub(super) fn take(&self, bytes_max: usize, idle: Duration) -> Taken {
        let mut state = self.state();
        if state.turns.is_empty() && state.closed.is_none() {
            let waited =
                self.changed.wait_timeout_while(state, idle, |state| state.turns.is_empty() && state.closed.is_none());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut bytes = 0;
        let mut jobs = Vec::new();
        while let Some(job) = state.next(|more| bytes == 0 || bytes + more <= bytes_max) {
            bytes += job.stored_bytes;
            jobs.push(job);
        }
        match (jobs.is_empty(), &state.closed) {
            (false, _) => Taken::Jobs(jobs),
            (true, Some(_)) => Taken::Closed,
            (true, None) => Taken::Idle,
        }
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
            state.turns.clear();
            state.lanes.values_mut().flat_map(|lane| std::mem::take(&mut lane.jobs)).collect()
        };
        self.release_all(&refused);
        for job in refused {
            // A caller that has gone needs no answer.
            let _ = job.done.send(Err(Refusal::Stopped(why.to_owned())));
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
