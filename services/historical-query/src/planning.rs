//! Threads for parsing and planning: large stacks, few, with a bounded queue.
//!
//! A plan is made by deep recursion and cannot be stopped. So it runs on threads with
//! [`limits::PLANNING_STACK_BYTES`], and a caller that has waited long enough leaves its thread behind: the thread is
//! counted, replaced while there are few, and ends or goes on when its work is done.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegauge_core::{ErrorKind, ServiceError, limits};
use tokio::sync::oneshot;

/// Threads that plan while none is left behind.
const THREADS: usize = 2;
/// Threads with those left behind.
const THREADS_MAX: usize = 8;
/// Texts that wait for a thread.
const QUEUE_MAX: usize = 256;

/// Tells work, planning or a running plan, that its caller has gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Does the work; tells whether the caller left while it ran.
type Run = Box<dyn FnOnce() -> bool + Send>;

struct Job {
    run: Run,
    abandoned: Abandoned,
}

/// Where a job is; changed under the lock of [`State`] alone.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Waiting,
    Running,
    LeftBehind,
    Done,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// Threads whose caller has gone.
    behind: usize,
    closed: bool,
}

/// The threads.
#[derive(Clone)]
pub(crate) struct Planning {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

impl std::fmt::Debug for Planning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Planning").field("threads", &state.threads).field("behind", &state.behind).finish()
    }
}

/// Marks the work as abandoned when the caller stops waiting, however it does.
struct Caller {
    shared: Arc<Shared>,
    abandoned: Abandoned,
    phase: Arc<AtomicU8>,
    done: bool,
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.shared.lock();
        self.abandoned.set();
        if self.phase.load(Ordering::Acquire) == Phase::Running as u8 {
            self.phase.store(Phase::LeftBehind as u8, Ordering::Release);
            state.behind += 1;
            metrics::gauge!("tidegauge_query_planning_abandoned").set(state.behind as f64);
            if !state.queue.is_empty() {
                self.shared.grow(&mut state);
            }
        }
    }
}

impl Planning {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::default(), work: Condvar::new() }) }
    }

    /// Runs `work` on one of the threads and waits for it, at most so long.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the queue is full, DEADLINE_EXCEEDED when the time is over, INTERNAL when it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl FnOnce(&Abandoned) -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        let (sender, receiver) = oneshot::channel();
        let abandoned = Abandoned::default();
        let phase = Arc::new(AtomicU8::new(Phase::Waiting as u8));
        let run: Run = {
            let (abandoned, phase) = (abandoned.clone(), Arc::clone(&phase));
            let shared = Arc::clone(&self.shared);
            Box::new(move || {
                {
                    // Under the lock: the caller leaves either before, or while the job is seen as running.
                    let _state = shared.lock();
                    if abandoned.is_set() {
                        return false;
                    }
                    phase.store(Phase::Running as u8, Ordering::Release);
                }
                let result = catch_unwind(AssertUnwindSafe(|| work(&abandoned)));
                let left_behind = {
                    let _state = shared.lock();
                    phase.swap(Phase::Done as u8, Ordering::AcqRel) == Phase::LeftBehind as u8
                };
                // A caller that has gone does not want it.
                let _ = sender.send(result);
                left_behind
            })
        };
        self.shared.submit(Job { run, abandoned: abandoned.clone() })?;
        let mut caller = Caller { shared: Arc::clone(&self.shared), abandoned, phase, done: false };
        let result = tokio::time::timeout(within, receiver).await;
        caller.done = result.is_ok();
        match result {
            Ok(Ok(Ok(result))) => Ok(result),
            Ok(_) => Err(ServiceError::new(ErrorKind::Internal, "QUERY_ENGINE", "the query failed inside the engine")),
            Err(_) => {
                let message = format!("the query was not planned within {} ms", within.as_millis());
                Err(ServiceError::new(ErrorKind::DeadlineExceeded, "PLANNING_TIME", message))
            }
        }
    }

    /// Lets the threads end once the queue is empty.
    pub(crate) fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(self: &Arc<Self>, job: Job) -> Result<(), ServiceError> {
        let mut state = self.lock();
        state.queue.retain(|job| !job.abandoned.is_set());
        if state.closed || state.queue.len() >= QUEUE_MAX {
            let message = format!("{} queries wait to be planned", state.queue.len());
            return Err(ServiceError::new(ErrorKind::ResourceExhausted, "PLANNING_QUEUE_FULL", message));
        }
        state.queue.push_back(job);
        if state.queue.len() > state.idle {
            self.grow(&mut state);
        }
        if state.threads == 0 {
            state.queue.pop_back();
            return Err(ServiceError::new(ErrorKind::Unavailable, "NO_THREAD", "no thread could be started"));
        }
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Starts a thread, if few are at work and the bound allows it.
    fn grow(self: &Arc<Self>, state: &mut State) {
        if state.threads - state.behind >= THREADS || state.threads >= THREADS_MAX {
            return;
        }
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("query-plan".to_owned())
            .stack_size(limits::PLANNING_STACK_BYTES)
            .spawn(move || shared.work());
        match thread {
            Ok(_) => state.threads += 1,
            Err(error) => tracing::error!(%error, "a planning thread could not be started"),
        }
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                let left_behind = (job.run)();
                state = self.lock();
                // While it was left behind another thread may have been started in its place.
                if left_behind {
                    state.behind -= 1;
                    metrics::gauge!("tidegauge_query_planning_abandoned").set(state.behind as f64);
                    if state.threads - state.behind > THREADS {
                        break;
                    }
                }
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    /// Proves that callers are answered in time while threads hang, that hanging threads are replaced only up to the
    /// bound, that a panic is an error, and that all serve again afterwards.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn threads_left_behind_are_bounded_and_come_back() {
        let planning = Planning::new();
        let mut gates = Vec::new();
        for _ in 0..THREADS_MAX {
            let (open, gate) = sync_channel::<()>(1);
            gates.push(open);
            let hung = planning.run(Duration::from_millis(20), move |_| gate.recv()).await;
            assert_eq!(hung.expect_err("it hangs").reason, "PLANNING_TIME");
        }
        assert_eq!(planning.shared.lock().threads, THREADS_MAX);
        let starved = planning.run(Duration::from_millis(20), |_| ()).await;
        assert_eq!(starved.expect_err("no thread is free").reason, "PLANNING_TIME");
        drop(gates);
        let served = planning.run(Duration::from_secs(20), |_| 7).await;
        assert_eq!(served.expect("threads are back"), 7);
        let panicked = planning.run(Duration::from_secs(20), |_| panic!("a defect in a planner")).await;
        assert_eq!(panicked.expect_err("a panic").reason, "QUERY_ENGINE");
        planning.close();
        assert!(planning.run(Duration::from_secs(1), |_| ()).await.is_err());
    }
}
