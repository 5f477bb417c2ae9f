//! The order of a kept producer on one stream.
//!
//! At or below its floor everything of a kept producer is a duplicate. So its sequence n + 1 must not reach the log before
//! n has: after n was refused for now, everything behind it is refused as well until n comes again.

use std::time::Duration;

use tidegauge_core::ids::{Producer, Sequence};
use tidegauge_core::{ErrorKind, ServiceError};

/// Where a stream's kept producer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeptOrder {
    waiting_for: Option<(Producer, Sequence)>,
}

impl KeptOrder {
    /// Whether a request may go to the log.
    ///
    /// # Errors
    /// UNAVAILABLE with reason `PRECEDING_REFUSED`: send the preceding request again first.
    pub fn check(&self, producer: Producer, sequence: Sequence) -> Result<(), ServiceError> {
        match self.waiting_for {
            Some((waiting, first)) if producer.kept && (waiting != producer || sequence > first) => {
                Err(ServiceError::new(
                    ErrorKind::Unavailable,
                    "PRECEDING_REFUSED",
                    format!("sequence {first} was refused for now; send it again before sequence {sequence}"),
                )
                // The wait is the preceding request's; behind it this one may come at once.
                .retry_after(Duration::from_millis(1)))
            }
            _ => Ok(()),
        }
    }

    /// A request was refused for now: it will come again.
    pub fn refused_for_now(&mut self, producer: Producer, sequence: Sequence) {
        if !producer.kept {
            return;
        }
        match &mut self.waiting_for {
            Some((waiting, first)) if *waiting == producer => *first = sequence.min(*first),
            Some(_) => {}
            None => self.waiting_for = Some((producer, sequence)),
        }
    }

    /// A request has an answer that it keeps.
    pub fn settled(&mut self, producer: Producer, sequence: Sequence) {
        if let Some((waiting, first)) = self.waiting_for
            && waiting == producer
            && sequence >= first
        {
            self.waiting_for = None;
        }
    }
}
