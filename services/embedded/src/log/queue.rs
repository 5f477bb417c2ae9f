//! The bounded queue between `append` and the writer of a shard: fair among keys, bounded for each and in total.
//!
//! Jobs of a key stand in a lane of their own, in order. Lanes take turns by bytes (deficit round robin: M. Shreedhar and
//! G. Varghese, "Efficient Fair Queuing using Deficit Round Robin"), so that a key with little to write is in the next
//! commit, however much another one brings. A lane may take as many bytes as are still free (after A. Choudhury and
//! E. Hahne, "Dynamic Queue Length Thresholds"): alone it gets half of the queue, and there is always room for others.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tidegauge_core::Key;
use tidegauge_core::log::StoreError;
use tokio::sync::oneshot;

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

    /// Takes room for jobs of a key, if there is; given back by [`Queue::release`] when they are answered.
    pub(super) fn reserve(&self, key: &Key, room: usize) -> bool {
        let mut state = self.state();
        let free = self.bytes_max.saturating_sub(state.taken);
        let own = state.lanes.get(key).map_or(0, |lane| lane.taken);
        // What fits the queue at all must not be refused for ever: a key without jobs may take the rest.
        if room > free || (own > 0 && own + room > free) {
            return false;
        }
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
        for job in jobs {
            state.release(&job.key, room(job.stored_bytes));
        }
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
mod tests {
    use tidegauge_core::TenantId;

    use super::*;

    fn key(tenant: &str) -> Key {
        Key::of(TenantId::parse(tenant).unwrap())
    }

    /// Reserves and pushes a job; whether there was room.
    fn offer(queue: &Queue, tenant: &str, stored_bytes: usize) -> bool {
        let taken = queue.reserve(&key(tenant), room(stored_bytes));
        if taken {
            let (done, _) = oneshot::channel();
            let (key, key_bytes) = (key(tenant), tenant.as_bytes().into());
            queue.push(Job { key, key_bytes, records: Vec::new(), stored_bytes, done }).unwrap();
        }
        taken
    }

    /// The tenants and bytes of the next commit.
    fn commit(queue: &Queue, bytes_max: usize) -> Vec<(String, usize)> {
        let Taken::Jobs(jobs) = queue.take(bytes_max, Duration::ZERO) else { return Vec::new() };
        queue.release_all(&jobs);
        jobs.into_iter().map(|job| (job.key.to_string(), job.stored_bytes)).collect()
    }

    /// However much one key brings, others find room, each key no more than is free; all of it is given back.
    #[test]
    fn a_key_leaves_room_for_others() {
        let queue = Queue::new(1 << 20);
        let fill = |tenant: &str| (0..).take_while(|_| offer(&queue, tenant, 9 << 10)).count();
        let counts = ["noisy", "second", "third"].map(fill);
        assert_eq!(counts, [51, 26, 13], "half, then half of the rest");
        assert!(offer(&queue, "quiet", 100 << 10), "the first job of a key needs no share, only room");
        assert!(!offer(&queue, "late", 100 << 10), "there is none left");
        while !commit(&queue, 1 << 16).is_empty() {}
        assert!(queue.state().lanes.is_empty() && queue.state().taken == 0);
        assert!(!offer(&queue, "large", 1 << 20), "more than the queue holds");
        assert!(offer(&queue, "large", (1 << 20) - JOB_BYTES), "as much as it holds");
    }

    /// Tiny jobs are bounded by what they take in memory.
    #[test]
    fn tiny_jobs_are_bounded() {
        let queue = Queue::new(1 << 20);
        assert_eq!((0..).take_while(|_| offer(&queue, "tiny", 64)).count(), 482, "not 8,192");
    }

    /// A key with little to write is in the next commit; keys with much share it by bytes, whatever the size of their
    /// jobs; the jobs of a key keep their order; a job larger than a commit has one of its own.
    #[test]
    fn keys_share_commits() {
        let queue = Queue::new(64 << 20);
        for _ in 0..40 {
            assert!(offer(&queue, "large-jobs", 300 << 10));
        }
        for _ in 0..400 {
            assert!(offer(&queue, "small-jobs", 10 << 10));
        }
        for bytes in 1..=3 {
            assert!(offer(&queue, "quiet", bytes));
        }
        let first = commit(&queue, 1 << 20);
        let quiet: Vec<usize> = first.iter().filter(|(tenant, _)| tenant == "quiet").map(|(_, bytes)| *bytes).collect();
        assert_eq!(quiet, [1, 2, 3]);
        let mut shares: HashMap<String, usize> = HashMap::new();
        for (tenant, bytes) in first.into_iter().chain((0..3).flat_map(|_| commit(&queue, 1 << 20))) {
            *shares.entry(tenant).or_default() += bytes;
        }
        let (large, small) = (shares["large-jobs"], shares["small-jobs"]);
        assert!(large.abs_diff(small) <= (300 << 10) + TURN_BYTES, "{large} and {small} bytes");

        let queue = Queue::new(64 << 20);
        assert!(offer(&queue, "one", 5 << 20) && offer(&queue, "one", 1));
        assert_eq!(commit(&queue, 1 << 20), [("one".to_owned(), 5 << 20)]);
        assert_eq!(commit(&queue, 1 << 20), [("one".to_owned(), 1)]);
    }
}
