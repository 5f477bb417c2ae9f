//! What a producer has in flight, and in which order it is sent: values only, no I/O.

use std::collections::VecDeque;
use std::time::Duration;

/// Batches without a final answer, in the order of their sequences.
#[derive(Debug)]
pub(super) struct Window<T> {
    batches: VecDeque<Entry<T>>,
    /// Sequences sent over the present connection and not answered, in order of sending.
    sent: VecDeque<u64>,
    /// A batch was refused for now: nothing is sent until all that is sent has its answer and this time has passed.
    pause: Option<Duration>,
}

#[derive(Debug)]
struct Entry<T> {
    sequence: u64,
    sent: bool,
    sent_before: bool,
    batch: T,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { batches: VecDeque::new(), sent: VecDeque::new(), pause: None }
    }
}

/// The answer does not belong to what was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OutOfOrder {
    pub(super) expected: Option<u64>,
}

impl<T> Window<T> {
    /// Adds a batch behind the others.
    pub(super) fn push(&mut self, sequence: u64, batch: T) {
        self.batches.push_back(Entry { sequence, sent: false, sent_before: false, batch });
    }

    /// Whether everything has its final answer.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether a batch waits to be sent now.
    pub(super) fn has_unsent(&self) -> bool {
        self.pause.is_none() && self.batches.iter().any(|entry| !entry.sent)
    }

    /// Takes note that the first unsent batch goes out; gives it, and whether it has been sent before.
    pub(super) fn send(&mut self) -> Option<(&T, bool)> {
        if self.pause.is_some() {
            return None;
        }
        let entry = self.batches.iter_mut().find(|entry| !entry.sent)?;
        let again = std::mem::replace(&mut entry.sent_before, true);
        entry.sent = true;
        self.sent.push_back(entry.sequence);
        Some((&entry.batch, again))
    }

    /// A final answer came: the batch leaves the window.
    pub(super) fn answered(&mut self, sequence: u64) -> Result<T, OutOfOrder> {
        let at = self.next_answer(sequence)?;
        match self.batches.remove(at) {
            Some(entry) => Ok(entry.batch),
            None => Err(OutOfOrder { expected: None }),
        }
    }

    /// A batch was refused for now: it and all that follow are sent after a pause.
    pub(super) fn refused_for_now(&mut self, sequence: u64, after: Duration) -> Result<(), OutOfOrder> {
        let at = self.next_answer(sequence)?;
        self.batches[at].sent = false;
        self.pause = Some(self.pause.unwrap_or_default().max(after));
        Ok(())
    }

    fn next_answer(&mut self, sequence: u64) -> Result<usize, OutOfOrder> {
        let expected = self.sent.front().copied();
        let at = self.batches.iter().position(|entry| entry.sequence == sequence);
        match at {
            Some(at) if expected == Some(sequence) => {
                self.sent.pop_front();
                Ok(at)
            }
            _ => Err(OutOfOrder { expected }),
        }
    }

    /// The pause to make now, if everything sent is answered.
    pub(super) fn due_pause(&self) -> Option<Duration> {
        self.pause.filter(|_| self.sent.is_empty())
    }

    /// The pause is over.
    pub(super) fn resume(&mut self) {
        self.pause = None;
    }

    /// The connection is gone: everything is sent again, in order.
    pub(super) fn disconnected(&mut self) {
        self.sent.clear();
        self.pause = None;
        self.batches.iter_mut().for_each(|entry| entry.sent = false);
    }

    /// Gives up: all batches leave.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.sent.clear();
        self.batches.drain(..).map(|entry| entry.batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(window: &mut Window<u64>) -> Vec<u64> {
        std::iter::from_fn(|| window.send().map(|(batch, _)| *batch)).collect()
    }

    /// Everything without a final answer is sent again in order: after a refusal when all others are answered, after a
    /// broken connection at once.
    #[test]
    fn batches_keep_their_order_through_refusals_and_breaks() {
        let mut window = Window::default();
        (1..=5).for_each(|n| window.push(n, n));
        assert_eq!(sent(&mut window), [1, 2, 3, 4, 5]);
        assert_eq!(window.answered(2).err(), Some(OutOfOrder { expected: Some(1) }));
        assert_eq!(window.answered(1), Ok(1));

        window.refused_for_now(2, Duration::from_millis(5)).unwrap();
        window.push(6, 6);
        assert!(!window.has_unsent(), "6 must not overtake 2");
        assert_eq!(window.due_pause(), None, "3 to 5 have no answer yet");
        assert_eq!(window.answered(3), Ok(3));
        window.refused_for_now(4, Duration::from_millis(2)).unwrap();
        assert_eq!(window.answered(5), Ok(5));
        assert_eq!(window.due_pause(), Some(Duration::from_millis(5)));
        window.resume();
        assert_eq!(sent(&mut window), [2, 4, 6]);

        assert_eq!(window.answered(2), Ok(2));
        window.disconnected();
        window.push(7, 7);
        assert_eq!(window.send(), Some((&4, true)));
        assert_eq!(sent(&mut window), [6, 7]);
        assert_eq!((window.answered(4), window.answered(6), window.answered(7)), (Ok(4), Ok(6), Ok(7)));
        assert!(window.is_empty());
    }
}
