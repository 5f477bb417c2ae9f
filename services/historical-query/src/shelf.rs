//! Batches that wait for the reader of an answer: few, charged to the query's memory, and not for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::execution::memory_pool::MemoryReservation;
use tidegauge_core::{ErrorKind, ServiceError, limits};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::error::Abort;
use crate::table::Execution;

/// Batches that are made ahead of the reader.
const AHEAD: usize = 3;

/// A batch and the memory that it counts as.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) batch: RecordBatch,
    pub(crate) bytes: usize,
    /// Given back when dropped.
    pub(crate) memory: MemoryReservation,
}

/// Between the task that makes batches and the reader: one of each.
#[derive(Debug)]
pub(crate) struct Shelf {
    state: Mutex<State>,
    filled: Notify,
    taken: Notify,
    unread_max: Duration,
    reading_max: Duration,
}

#[derive(Debug)]
struct State {
    parcels: VecDeque<Parcel>,
    bytes: usize,
    /// The snapshot and the objects of the query, as long as its rows can be read.
    execution: Option<Arc<Execution>>,
    outcome: Option<Result<(), Abort>>,
}

impl Shelf {
    /// A reader may stop for `unread_max`, and keep the query waiting for `reading_max` in all.
    pub(crate) fn new(execution: Option<Arc<Execution>>, unread_max: Duration, reading_max: Duration) -> Arc<Self> {
        let state = State { parcels: VecDeque::new(), bytes: 0, execution, outcome: None };
        Arc::new(Self {
            state: Mutex::new(state),
            filled: Notify::new(),
            taken: Notify::new(),
            unread_max,
            reading_max,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the query runs over; `None` once nobody has read it.
    pub(crate) fn execution(&self) -> Option<Arc<Execution>> {
        self.state().execution.clone()
    }

    /// Waits for the first batch, or for the end.
    pub(crate) async fn first(&self) -> Result<(), Abort> {
        loop {
            {
                let mut state = self.state();
                if !state.parcels.is_empty() {
                    return Ok(());
                }
                match state.outcome.take() {
                    Some(Err(abort)) => return Err(abort),
                    Some(Ok(())) => {
                        state.outcome = Some(Ok(()));
                        return Ok(());
                    }
                    None => {}
                }
            }
            self.filled.notified().await;
        }
    }

    /// The next batch; `None` at the end, also after it.
    pub(crate) async fn take(&self) -> Result<Option<Parcel>, Abort> {
        loop {
            {
                let mut state = self.state();
                if let Some(parcel) = state.parcels.pop_front() {
                    state.bytes -= parcel.bytes;
                    self.taken.notify_one();
                    return Ok(Some(parcel));
                }
                if let Some(outcome) = state.outcome.replace(Ok(())) {
                    return outcome.map(|()| None);
                }
                state.outcome = None;
            }
            self.filled.notified().await;
        }
    }
}

/// The side that fills the shelf. Dropped without an outcome, as when its task panics, it says that the engine failed.
#[derive(Debug)]
pub(crate) struct Filling {
    shelf: Arc<Shelf>,
    /// For the reader, until now.
    waited: Mutex<Duration>,
}

impl Filling {
    pub(crate) fn new(shelf: Arc<Shelf>) -> Self {
        Self { shelf, waited: Mutex::default() }
    }

    /// Puts a batch on the shelf once there is room.
    ///
    /// # Errors
    /// `ANSWER_UNREAD` when the reader takes nothing for too long.
    pub(crate) async fn put(&self, parcel: Parcel) -> Result<(), Abort> {
        let bytes = parcel.bytes;
        let fits = |state: &State| {
            let beside = state.parcels.is_empty() || state.bytes + bytes <= limits::ANSWER_BUFFERED_BYTES_MAX;
            state.parcels.len() < AHEAD && beside
        };
        self.wait_until(fits).await?;
        let mut state = self.shelf.state();
        state.bytes += bytes;
        state.parcels.push_back(parcel);
        self.shelf.filled.notify_one();
        Ok(())
    }

    /// Waits until the reader has taken everything.
    ///
    /// # Errors
    /// As [`Filling::put`].
    pub(crate) async fn all_taken(&self) -> Result<(), Abort> {
        self.wait_until(|state| state.parcels.is_empty()).await
    }

    #[expect(clippy::disallowed_methods, reason = "a limit on waiting, measured by the timers that keep it")]
    async fn wait_until(&self, holds: impl Fn(&State) -> bool) -> Result<(), Abort> {
        loop {
            if holds(&self.shelf.state()) {
                return Ok(());
            }
            let from = Instant::now();
            let left = self.shelf.reading_max.saturating_sub(*self.waited());
            let end = from + self.shelf.unread_max.min(left);
            let taken = timeout_at(end, self.shelf.taken.notified()).await;
            *self.waited() += from.elapsed();
            if taken.is_err() {
                return Err(unread(self.shelf.unread_max, self.shelf.reading_max, left).into());
            }
        }
    }

    fn waited(&self) -> MutexGuard<'_, Duration> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the answer. What nobody has read is let go when the query failed for that.
    pub(crate) fn close(&self, outcome: Result<(), Abort>) {
        let mut state = self.shelf.state();
        if outcome.as_ref().is_err_and(is_unread) {
            state.parcels.clear();
            state.bytes = 0;
            state.execution = None;
        }
        state.outcome = Some(outcome);
        self.shelf.filled.notify_one();
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let ended = self.shelf.state().outcome.is_some();
        if !ended {
            let message = "the query failed inside the engine";
            self.close(Err(ServiceError::new(ErrorKind::Internal, "QUERY_ENGINE", message).into()));
        }
    }
}

const UNREAD: &str = "ANSWER_UNREAD";

fn is_unread(abort: &Abort) -> bool {
    matches!(abort, Abort::Service(error) if error.reason == UNREAD)
}

fn unread(unread_max: Duration, reading_max: Duration, left: Duration) -> ServiceError {
    let message = if left < unread_max {
        format!("the query waited for its reader for {} s in all", reading_max.as_secs())
    } else {
        format!("nothing of the answer was read for {} s", unread_max.as_secs())
    };
    ServiceError::new(ErrorKind::DeadlineExceeded, "ANSWER_UNREAD", message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};

    use super::*;

    /// Never reached in a test that passes.
    const LONG: Duration = Duration::from_secs(3_600);

    fn parcel(pool: &Arc<dyn MemoryPool>, bytes: usize) -> Parcel {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let memory = MemoryConsumer::new("test").register(pool);
        memory.try_grow(bytes).expect("room");
        Parcel { batch: RecordBatch::try_from_iter([("n", column)]).expect("a batch"), bytes, memory }
    }

    fn shelf(unread_max: Duration, reading_max: Duration) -> (Arc<Shelf>, Filling, Arc<dyn MemoryPool>) {
        let shelf = Shelf::new(None, unread_max, reading_max);
        let filling = Filling::new(Arc::clone(&shelf));
        (shelf, filling, Arc::new(GreedyMemoryPool::new(1 << 30)))
    }

    /// Proves that an answer which nobody reads ends at either limit and gives its batches and their memory back, and
    /// that whoever asks later learns why. A limit of no time ends the first wait.
    #[tokio::test]
    async fn what_is_not_read_is_given_back() {
        for (unread_max, reading_max, said) in
            [(Duration::ZERO, LONG, "nothing of the answer"), (LONG, Duration::ZERO, "in all")]
        {
            let (shelf, filling, pool) = shelf(unread_max, reading_max);
            for _ in 0..AHEAD {
                filling.put(parcel(&pool, 1_000)).await.expect("room on the shelf");
            }
            assert_eq!(pool.reserved(), 1_000 * AHEAD);
            let refused = filling.put(parcel(&pool, 1_000)).await.expect_err("nobody reads");
            filling.close(Err(refused));
            assert_eq!(pool.reserved(), 0, "everything was given back");
            let told = ServiceError::from(shelf.take().await.expect_err("an end that says why"));
            assert_eq!((told.kind, told.reason), (ErrorKind::DeadlineExceeded, "ANSWER_UNREAD"));
            assert!(told.message.contains(said), "{told}");
        }
    }

    /// Proves that the last batches do not wait for ever either, when the query itself is over.
    #[tokio::test]
    async fn a_short_answer_is_not_kept_for_ever() {
        let (shelf, filling, pool) = shelf(Duration::ZERO, LONG);
        filling.put(parcel(&pool, 1_000)).await.expect("room on the shelf");
        shelf.first().await.expect("a first batch");
        let ended = filling.all_taken().await;
        assert!(ended.is_err());
        filling.close(ended);
        assert_eq!(pool.reserved(), 0);
        assert!(shelf.take().await.is_err());
    }

    /// Proves that a reader gets every batch and then the end, once and for all.
    #[tokio::test]
    async fn a_reader_gets_everything() {
        let (shelf, filling, pool) = shelf(LONG, LONG);
        let reserved = Arc::clone(&pool);
        let making = tokio::spawn(async move {
            for _ in 0..10 * AHEAD {
                filling.put(parcel(&pool, 1_000)).await.expect("it is read");
            }
            let ended = filling.all_taken().await;
            filling.close(ended);
        });
        for _ in 0..10 * AHEAD {
            assert!(shelf.take().await.expect("a batch").is_some());
        }
        assert!(shelf.take().await.expect("the end").is_none());
        assert!(shelf.take().await.expect("still the end").is_none());
        making.await.expect("no panic");
        assert_eq!(reserved.reserved(), 0);
    }

    /// Proves that large batches do not queue behind each other, and that a task that is gone says so.
    #[tokio::test]
    async fn bytes_are_bounded_and_a_panic_is_told() {
        let (shelf, filling, pool) = shelf(Duration::ZERO, LONG);
        filling.put(parcel(&pool, limits::ANSWER_BUFFERED_BYTES_MAX)).await.expect("one always fits");
        assert!(filling.put(parcel(&pool, 1)).await.is_err(), "no second beside it");
        drop(filling);
        assert!(shelf.take().await.expect("the batch").is_some());
        let told = ServiceError::from(shelf.take().await.expect_err("no outcome"));
        assert_eq!(told.reason, "QUERY_ENGINE");
    }
}
