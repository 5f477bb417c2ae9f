//! Memory of queries: a limit a query inside a limit for all.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};

/// A count of bytes with a limit.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn try_take(&self, bytes: usize) -> bool {
        let take = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The memory of one query; what it takes also counts against the budget of all.
#[derive(Debug)]
pub(crate) struct QueryMemory {
    own: Budget,
    all: Arc<Budget>,
}

impl QueryMemory {
    pub(crate) fn new(limit: usize, all: Arc<Budget>) -> Self {
        Self { own: Budget::new(limit), all }
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query({} of {} bytes)", self.own.used(), self.own.limit)
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &str {
        "query"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.own.take(additional);
        self.all.take(additional);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.own.give(shrink);
        self.all.give(shrink);
    }

    fn try_grow(&self, _: &MemoryReservation, additional: usize) -> Result<()> {
        if !self.own.try_take(additional) {
            return Err(DataFusionError::ResourcesExhausted("memory of the query".to_owned()));
        }
        if !self.all.try_take(additional) {
            self.own.give(additional);
            return Err(DataFusionError::ResourcesExhausted("memory of all queries".to_owned()));
        }
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.own.used()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.own.limit)
    }
}

impl Drop for QueryMemory {
    fn drop(&mut self) {
        // Reservations have been given back by now, unless a panic lost one.
        self.all.give(self.own.used());
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::MemoryConsumer;

    use super::*;

    /// Proves that both limits hold and that nothing is lost or counted twice when one of them refuses.
    #[test]
    fn a_query_takes_from_its_own_and_from_the_common_budget() {
        let all = Arc::new(Budget::new(150));
        let pools = [(); 2].map(|()| Arc::new(QueryMemory::new(100, Arc::clone(&all))) as Arc<dyn MemoryPool>);
        let first = MemoryConsumer::new("a").register(&pools[0]);
        assert!(first.try_grow(101).is_err() && all.used() == 0);
        assert!(first.try_grow(100).is_ok());
        let second = MemoryConsumer::new("b").register(&pools[1]);
        assert!(second.try_grow(51).is_err() && pools[1].reserved() == 0);
        assert!(second.try_grow(50).is_ok() && all.used() == 150);
        drop((first, second, pools));
        assert_eq!(all.used(), 0);
    }
}
