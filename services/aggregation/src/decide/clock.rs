//! The time that decisions see: steady, and following the wall clock only as far as it is believable.

/// What a reading found out about the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It agrees, or is being approached.
    Followed,
    /// It is further away than [`SteadyClock::FOLLOWED_NS`] and not followed; nanoseconds ahead of ours.
    Refused(i64),
}

/// Wall clock at start plus monotonic time. A step of the wall of up to ten minutes is approached slowly, so that time
/// never stands still or goes back; a larger one is reported and not followed.
#[derive(Clone, Debug)]
pub struct SteadyClock {
    now_ns: i64,
    monotonic_ns: u64,
}

impl SteadyClock {
    /// The largest step that is followed.
    pub const FOLLOWED_NS: i64 = 600_000_000_000;
    /// While a step is approached, time runs faster or slower by one part in this many.
    const SLEW: i64 = 10;

    /// Starts at the wall clock.
    pub fn start(wall_ns: i64, monotonic_ns: u64) -> Self {
        Self { now_ns: wall_ns, monotonic_ns }
    }

    /// Takes a reading of both clocks.
    pub fn read(&mut self, wall_ns: i64, monotonic_ns: u64) -> Step {
        let elapsed = i64::try_from(monotonic_ns.saturating_sub(self.monotonic_ns)).unwrap_or(i64::MAX);
        self.monotonic_ns = self.monotonic_ns.max(monotonic_ns);
        self.now_ns = self.now_ns.saturating_add(elapsed);
        let ahead = wall_ns.saturating_sub(self.now_ns);
        if ahead.saturating_abs() > Self::FOLLOWED_NS {
            return Step::Refused(ahead);
        }
        let most = elapsed / Self::SLEW;
        self.now_ns += ahead.clamp(-most, most);
        Step::Followed
    }

    /// The time, Unix nanoseconds.
    pub fn now_ns(&self) -> i64 {
        self.now_ns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn small_steps_are_approached_and_large_ones_refused() {
        let mut clock = SteadyClock::start(1_000 * SECOND, 0);
        assert_eq!(clock.read(1_010 * SECOND, 10 * SECOND as u64), Step::Followed);
        assert_eq!(clock.now_ns(), 1_010 * SECOND);
        // The wall steps 5 s ahead: a tenth of the time that passes is made good.
        assert_eq!(clock.read(1_025 * SECOND, 20 * SECOND as u64), Step::Followed);
        assert_eq!(clock.now_ns(), 1_021 * SECOND);
        // The wall steps 11 minutes back: refused, time goes on.
        let refused = clock.read(371 * SECOND, 30 * SECOND as u64);
        assert_eq!(refused, Step::Refused(371 * SECOND - 1_031 * SECOND));
        assert_eq!(clock.now_ns(), 1_031 * SECOND);
    }

    proptest! {
        #[test]
        fn time_never_goes_back(readings in prop::collection::vec((any::<i64>(), 0_u64..u64::MAX / 4), 1..50)) {
            let mut clock = SteadyClock::start(0, 0);
            for (wall, monotonic) in readings {
                let before = clock.now_ns();
                clock.read(wall, monotonic);
                prop_assert!(clock.now_ns() >= before);
            }
        }
    }
}
