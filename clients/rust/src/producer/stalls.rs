//! Times in which nothing gets through: retried in silence by the producer, and worth telling to whoever waits.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout_at;

use crate::error::ClientError;

/// Since when nothing gets through, and why.
#[derive(Clone, Debug)]
pub(super) struct Stall {
    pub(super) since: Instant,
    pub(super) error: ClientError,
}

/// What the task behind the producer says of its stalls.
pub(super) type StallSender = watch::Sender<Option<Stall>>;

/// Follows the stalls of a producer, beside it: see [`crate::Producer::stalls`].
#[derive(Debug)]
pub struct Stalls {
    seen: watch::Receiver<Option<Stall>>,
    told: Option<Instant>,
}

impl Stalls {
    pub(super) fn new(seen: watch::Receiver<Option<Stall>>) -> Self {
        Self { seen, told: None }
    }

    /// Waits until nothing has got through for that long, and tells the latest reason; once a stall. `None` when the
    /// producer has ended.
    pub async fn next(&mut self, lasting: Duration) -> Option<ClientError> {
        loop {
            let told = self.told;
            let is_new = |stall: &Option<Stall>| stall.as_ref().is_some_and(|stall| Some(stall.since) != told);
            let since = self.seen.wait_for(is_new).await.ok()?.as_ref()?.since;
            let is_over = |stall: &Option<Stall>| stall.as_ref().is_none_or(|stall| stall.since != since);
            let over =
                timeout_at((since + lasting).into(), self.seen.wait_for(is_over)).await.map(|over| over.map(drop));
            match over {
                Ok(over) => over.ok()?,
                Err(_) => {
                    self.told = Some(since);
                    if let Some(stall) = &*self.seen.borrow() {
                        return Some(stall.error.clone());
                    }
                }
            }
        }
    }
}
