//! Looks at a connection from time to time, and says whether it should stay. Pure: the caller has the clock.

use std::time::Duration;

use tidegauge_core::limits;

/// Time between two looks.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Looks in such a time.
const fn looks(time: Duration) -> u32 {
    (time.as_secs() / LOOK_INTERVAL.as_secs()) as u32
}

/// What is to be seen of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    /// Bytes read.
    pub(super) read: u64,
    /// Bytes written.
    pub(super) written: u64,
    /// Whether bytes wait because the other side takes none.
    pub(super) blocked: bool,
    /// Authenticated calls under way.
    pub(super) open: usize,
    /// Authenticated calls there ever were.
    pub(super) begun: u64,
}

/// What should become of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It stays.
    Stay,
    /// The other side should say whether it is there.
    Ping,
    /// The other side is not there.
    Gone,
    /// The other side takes no answers.
    Unread,
    /// Nobody calls over it.
    Idle,
}

/// The looks so far.
#[derive(Debug, Default)]
pub(super) struct Vigil {
    last: Seen,
    /// Looks since something was read, was written, or was called.
    silent: u32,
    unread: u32,
    idle: u32,
}

impl Vigil {
    /// Another look.
    pub(super) fn look(&mut self, now: Seen) -> Verdict {
        let last = std::mem::replace(&mut self.last, now);
        let count = |counter: &mut u32, goes_on: bool| *counter = if goes_on { *counter + 1 } else { 0 };
        count(&mut self.silent, now.read == last.read);
        count(&mut self.unread, now.blocked && now.written == last.written);
        count(&mut self.idle, now.open == 0 && now.begun == last.begun);
        let (ping, gone) = (looks(limits::KEEPALIVE_INTERVAL), looks(limits::KEEPALIVE_TIMEOUT));
        if self.unread >= looks(limits::ANSWER_UNREAD_MAX) {
            Verdict::Unread
        } else if self.silent >= ping + gone && !now.blocked {
            Verdict::Gone
        } else if self.idle >= looks(limits::CONNECTION_IDLE_MAX) {
            Verdict::Idle
        } else if self.silent == ping {
            Verdict::Ping
        } else {
            Verdict::Stay
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdicts of looks at which something has changed in between, as `change` says of the look's number.
    fn verdicts(count: u64, change: impl Fn(u64, &mut Seen)) -> Vec<Verdict> {
        let (mut vigil, mut seen) = (Vigil::default(), Seen::default());
        let verdicts = (0..count).map(|look| {
            change(look, &mut seen);
            vigil.look(seen)
        });
        verdicts.collect()
    }

    /// A client that only answers pings is heard, and idle after its time; one that does not answer is gone before.
    #[test]
    fn pings_do_not_hold_a_connection() {
        let idle = looks(limits::CONNECTION_IDLE_MAX) as usize;
        let answering = verdicts(idle as u64, |look, seen| seen.read += u64::from(look % 4 == 3));
        assert_eq!(answering.iter().position(|verdict| *verdict == Verdict::Idle), Some(idle - 1));
        assert!(!answering.contains(&Verdict::Gone));

        let dead = verdicts(6, |_, seen| seen.open = 1);
        assert_eq!(dead[2..5], [Verdict::Ping, Verdict::Stay, Verdict::Gone]);
    }

    /// A call that is open or was begun keeps the connection, however quiet it is.
    #[test]
    fn calls_hold_a_connection() {
        let open = verdicts(1_000, |_, seen| (seen.open, seen.read) = (1, seen.read + 1));
        let calling = verdicts(1_000, |look, seen| {
            seen.read += 1;
            seen.begun += u64::from(look % 29 == 0);
        });
        assert!(open.iter().chain(&calling).all(|verdict| *verdict == Verdict::Stay));
    }

    /// Bytes that wait end a connection, unless some of them are taken.
    #[test]
    fn who_reads_nothing_is_ended() {
        let unread = verdicts(20, |look, seen| {
            *seen = Seen { read: look, written: 7, blocked: true, open: 1, begun: 1 };
        });
        let at = looks(limits::ANSWER_UNREAD_MAX) as usize;
        assert_eq!(unread.iter().position(|verdict| *verdict == Verdict::Unread), Some(at));
        let slow = verdicts(1_000, |look, seen| {
            *seen = Seen { read: look, written: look / 3, blocked: true, open: 1, begun: 1 };
        });
        assert!(!slow.contains(&Verdict::Unread));
    }
}
