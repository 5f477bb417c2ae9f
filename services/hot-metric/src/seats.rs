//! One update stream a shard: the newest lease generation has the seat, older streams end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tidegauge_core::{ErrorKind, ServiceError};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

/// The seats of all shards that ever had a stream.
#[derive(Debug, Default)]
pub(crate) struct Seats(Mutex<HashMap<u32, Seat>>);

#[derive(Debug)]
struct Seat {
    generation: u64,
    /// Cancelled when another stream takes the seat.
    replaced: CancellationToken,
    /// Held by the stream that writes: the next one waits for its last commit.
    writing: Arc<AsyncMutex<()>>,
}

/// A stream's claim to its shard.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) replaced: CancellationToken,
    writing: Arc<AsyncMutex<()>>,
}

/// The answer to a stream of an older generation.
pub(crate) fn superseded(shard: u32, generation: u64) -> ServiceError {
    let message = format!("shard {shard} has a newer stream than this one of generation {generation}");
    ServiceError::new(ErrorKind::Aborted, "STREAM_SUPERSEDED", message)
}

impl Seats {
    /// Claims the seat of a shard and ends the stream that had it. Of one generation the newer stream wins: the older
    /// one is the rest of a broken connection.
    ///
    /// # Errors
    /// ABORTED when a newer generation has the seat.
    pub(crate) fn claim(&self, shard: u32, generation: u64) -> Result<Claim, ServiceError> {
        let mut seats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = CancellationToken::new();
        let writing = match seats.get(&shard) {
            Some(seat) if seat.generation > generation => return Err(superseded(shard, generation)),
            Some(seat) => {
                seat.replaced.cancel();
                Arc::clone(&seat.writing)
            }
            None => Arc::default(),
        };
        let seat = Seat { generation, replaced: replaced.clone(), writing: Arc::clone(&writing) };
        seats.insert(shard, seat);
        Ok(Claim { replaced, writing })
    }
}

impl Claim {
    /// Waits until the stream before has ended; `None` when the claim was lost meanwhile.
    pub(crate) async fn sit(&self) -> Option<OwnedMutexGuard<()>> {
        let seat = Arc::clone(&self.writing).lock_owned();
        let seat = self.replaced.run_until_cancelled(seat).await?;
        (!self.replaced.is_cancelled()).then_some(seat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_stream_has_the_seat() {
        let seats = Seats::default();
        let first = seats.claim(0, 5).expect("free");
        let seat = first.sit().await.expect("free");
        assert_eq!(seats.claim(0, 4).expect_err("older").kind, ErrorKind::Aborted);
        assert!(!first.replaced.is_cancelled());
        let second = seats.claim(0, 5).expect("same generation, newer stream");
        assert!(first.replaced.is_cancelled());
        let third = seats.claim(0, 6).expect("newer");
        assert!(second.sit().await.is_none(), "lost before the first stream ended");
        let waiting = tokio::spawn(async move { third.sit().await.is_some() });
        drop(seat);
        assert!(waiting.await.expect("runs"));
        seats.claim(1, 1).expect("another shard");
    }
}
