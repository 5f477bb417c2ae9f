//! The time that is stamped and decided by: steady, and following the wall clock only as far as it is believable.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Clock;

/// What a reading found out about the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It agrees, or is being approached.
    Followed,
    /// It is further away than [`Steady::FOLLOWED_NS`] and not followed; nanoseconds ahead of ours.
    Refused(i64),
}

/// Wall clock at start plus time that has passed. A step of the wall of up to ten minutes is approached slowly, so that
/// time never stands still or goes back; a larger one is not followed. Pure: readings come in as values.
#[derive(Clone, Debug)]
pub struct Steady {
    now_ns: i64,
    monotonic_ns: u64,
    suspended_ns: u64,
    /// Time run since the last look at how long the machine has slept.
    unasked_ns: u64,
}

impl Steady {
    /// The largest step that is followed.
    pub const FOLLOWED_NS: i64 = 600_000_000_000;
    /// While a step is approached, time runs faster or slower by one part in this many.
    const SLEW: i64 = 10;
    /// The wall may be ahead so far before it is asked whether the machine has slept.
    const AGREES_NS: i64 = 1_000_000_000;
    /// Shortest time between two such questions, which cost more than a reading.
    const ASK_NS: u64 = 1_000_000_000;

    /// Starts at the wall clock.
    pub fn start(wall_ns: i64, monotonic_ns: u64, suspended_ns: u64) -> Self {
        Self { now_ns: wall_ns, monotonic_ns, suspended_ns, unasked_ns: Self::ASK_NS }
    }

    /// Takes a reading of both clocks. `suspended_ns` is how long the machine has slept in all, which monotonic time leaves
    /// out; it is asked for where the wall has run ahead, because a machine that wakes up looks like a step.
    pub fn read(&mut self, wall_ns: i64, monotonic_ns: u64, suspended_ns: impl FnOnce() -> u64) -> Step {
        let elapsed_ns = monotonic_ns.saturating_sub(self.monotonic_ns);
        self.unasked_ns = self.unasked_ns.saturating_add(elapsed_ns);
        let elapsed = i64::try_from(elapsed_ns).unwrap_or(i64::MAX);
        self.monotonic_ns = self.monotonic_ns.max(monotonic_ns);
        self.now_ns = self.now_ns.saturating_add(elapsed);
        let mut ahead = wall_ns.saturating_sub(self.now_ns);
        if ahead > Self::AGREES_NS && self.unasked_ns >= Self::ASK_NS {
            self.unasked_ns = 0;
            let suspended_ns = suspended_ns();
            let slept = i64::try_from(suspended_ns.saturating_sub(self.suspended_ns)).unwrap_or(i64::MAX);
            self.suspended_ns = self.suspended_ns.max(suspended_ns);
            // Short sleep may have been made good already: it never carries past the wall.
            self.now_ns = self.now_ns.saturating_add(slept.min(ahead));
            ahead = wall_ns.saturating_sub(self.now_ns);
        }
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

/// The one steady clock of a process: what ingest stamps and checks, what aggregation decides by and what the log keeps its
/// segments for. As a [`Clock`] its wall time is the steady one.
#[derive(Debug)]
pub struct SteadyClock {
    clock: Arc<dyn Clock>,
    steady: Mutex<Steady>,
}

impl SteadyClock {
    /// Starts at the wall clock, which is believed once.
    pub fn start(clock: Arc<dyn Clock>) -> Arc<Self> {
        let steady = Steady::start(clock.wall_ns(), clock.monotonic_ns(), clock.suspended_ns());
        Arc::new(Self { clock, steady: Mutex::new(steady) })
    }

    /// The time, Unix nanoseconds, and whether the wall clock is followed.
    pub fn read(&self) -> (i64, Step) {
        // Read within the lock: readings are taken in their order.
        let mut steady = self.lock();
        let step = steady.read(self.clock.wall_ns(), self.clock.monotonic_ns(), || self.clock.suspended_ns());
        (steady.now_ns(), step)
    }

    /// The time, Unix nanoseconds.
    pub fn now_ns(&self) -> i64 {
        self.read().0
    }

    fn lock(&self) -> MutexGuard<'_, Steady> {
        // Every state of it is a time.
        self.steady.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SteadyClock {
    fn wall_ns(&self) -> i64 {
        self.now_ns()
    }

    fn monotonic_ns(&self) -> u64 {
        self.clock.monotonic_ns()
    }

    fn suspended_ns(&self) -> u64 {
        self.clock.suspended_ns()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ManualClock;
    use super::*;

    const SECOND: i64 = 1_000_000_000;
    const HOUR: i64 = 3_600 * SECOND;
    const DAY: i64 = 24 * HOUR;

    #[test]
    fn small_steps_are_approached_and_large_ones_refused() {
        let awake = || 0;
        let mut clock = Steady::start(1_000 * SECOND, 0, 0);
        assert_eq!(clock.read(1_010 * SECOND, 10 * SECOND as u64, awake), Step::Followed);
        assert_eq!(clock.now_ns(), 1_010 * SECOND);
        // The wall steps 5 s ahead: a tenth of the time that passes is made good.
        assert_eq!(clock.read(1_025 * SECOND, 20 * SECOND as u64, awake), Step::Followed);
        assert_eq!(clock.now_ns(), 1_021 * SECOND);
        // The wall steps 11 minutes back: refused, time goes on.
        let refused = clock.read(371 * SECOND, 30 * SECOND as u64, awake);
        assert_eq!(refused, Step::Refused(371 * SECOND - 1_031 * SECOND));
        assert_eq!(clock.now_ns(), 1_031 * SECOND);
    }

    /// A step of two days either way is refused for as long as it lasts, and leaves nothing behind.
    #[test]
    fn a_step_that_is_taken_back_leaves_nothing() {
        for step in [2 * DAY, -2 * DAY] {
            let wall = Arc::new(ManualClock::at(1_000 * DAY));
            let clock = SteadyClock::start(wall.clone());
            wall.step_wall(step);
            for minute in 1..=3 {
                wall.advance(60 * SECOND);
                let (now, read) = clock.read();
                assert_eq!((now, read), (1_000 * DAY + minute * 60 * SECOND, Step::Refused(step)));
            }
            wall.step_wall(-step);
            assert_eq!(clock.read(), (wall.wall_ns(), Step::Followed));
        }
    }

    /// A machine that slept wakes up to the right time, and no step is seen; a step on top of it is.
    #[test]
    fn sleep_is_no_step() {
        let wall = Arc::new(ManualClock::at(1_000 * DAY));
        let clock = SteadyClock::start(wall.clone());
        wall.suspend(8 * HOUR);
        assert_eq!(clock.read(), (1_000 * DAY + 8 * HOUR, Step::Followed));
        wall.advance(5 * SECOND);
        wall.suspend(HOUR);
        wall.step_wall(DAY);
        assert_eq!(clock.read(), (1_000 * DAY + 9 * HOUR + 5 * SECOND, Step::Refused(DAY)));
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Run(i64),
        Sleep(i64),
        StepWall(i64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0..100 * SECOND).prop_map(Act::Run),
            1 => (0..DAY).prop_map(Act::Sleep),
            1 => (-3 * DAY..3 * DAY).prop_map(Act::StepWall),
            // A smeared leap second, a small correction.
            1 => (-SECOND..SECOND).prop_map(Act::StepWall),
        ]
    }

    proptest! {
        #[test]
        fn time_never_goes_back(readings in prop::collection::vec((any::<i64>(), 0_u64..u64::MAX / 4, any::<u64>()), 1..50)) {
            let mut clock = Steady::start(0, 0, 0);
            for (wall, monotonic, suspended) in readings {
                let before = clock.now_ns();
                clock.read(wall, monotonic, || suspended);
                prop_assert!(clock.now_ns() >= before);
            }
        }

        /// However the wall steps, between two readings no less than nine tenths of the time passes that has really passed,
        /// and no more than eleven; a wall that keeps still afterwards is refused, or reached.
        #[test]
        fn time_passes_as_it_does(acts in prop::collection::vec(act(), 1..60)) {
            let wall = Arc::new(ManualClock::at(1_000 * DAY));
            let clock = SteadyClock::start(wall.clone());
            let (mut last, mut run, mut slept) = (1_000 * DAY, 0, 0);
            for act in acts {
                match act {
                    Act::Run(ns) => { wall.advance(ns); run += ns; }
                    Act::Sleep(ns) => { wall.suspend(ns); slept += ns; }
                    Act::StepWall(ns) => wall.step_wall(ns),
                }
                let now = clock.read().0;
                // Sleep is seen when the wall is ahead, and not before; never twice.
                prop_assert!(now - last >= run / 10 * 9 && now - last <= run / 10 * 11 + 10 + slept, "{now} after {last}");
                slept -= (now - last - run / 10 * 11 - 10).max(0);
                (last, run) = (now, 0);
            }
            let mut step = Step::Followed;
            for _ in 0..120 {
                wall.advance(60 * SECOND);
                step = clock.read().1;
            }
            match step {
                Step::Followed => prop_assert_eq!(clock.read().0, wall.wall_ns()),
                Step::Refused(ahead) => prop_assert!(ahead.abs() > Steady::FOLLOWED_NS),
            }
        }
    }
}
