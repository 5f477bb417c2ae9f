//! Time as an input. Nothing but [`SystemClock`] reads the operating system's clocks; `clippy.toml` bans it elsewhere.

mod steady;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub use steady::{Steady, SteadyClock, Step};

/// Source of time. Both readings are nanoseconds.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// The wall clock, Unix nanoseconds; may step either way.
    fn wall_ns(&self) -> i64;
    /// Time since an arbitrary start; never falls. On Linux it stands still while the machine sleeps.
    fn monotonic_ns(&self) -> u64;
    /// How long the machine has slept since an arbitrary start: what [`Clock::monotonic_ns`] leaves out. Never falls, but may
    /// be late. 0 where nobody knows.
    fn suspended_ns(&self) -> u64 {
        0
    }
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
    /// Time since the machine was started, sleep included, when `start` was taken.
    up_ns: Option<u64>,
}

/// Where Linux says how long the machine has been up, sleep included; the standard library has no clock for it.
const UPTIME_FILE: &str = "/proc/uptime";
/// It is written in hundredths of a second: shorter sleep is rounding.
const SLEEP_MIN_NS: u64 = 100_000_000;

fn up_ns() -> Option<u64> {
    let text = std::fs::read_to_string(UPTIME_FILE).ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some((seconds * 1e9) as u64)
}

impl Default for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one reader of the operating system's clocks")]
    fn default() -> Self {
        Self { start: Instant::now(), up_ns: up_ns() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one reader of the operating system's clocks")]
    fn wall_ns(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX),
        }
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn suspended_ns(&self) -> u64 {
        let (Some(before), Some(now)) = (self.up_ns, up_ns()) else { return 0 };
        let slept = now.saturating_sub(before).saturating_sub(self.monotonic_ns());
        if slept < SLEEP_MIN_NS { 0 } else { slept }
    }
}

/// A clock that a test moves by hand.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_ns: AtomicI64,
    monotonic_ns: AtomicI64,
    suspended_ns: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at the given wall time.
    pub fn at(wall_ns: i64) -> Self {
        Self { wall_ns: AtomicI64::new(wall_ns), ..Self::default() }
    }

    /// Lets time pass: both readings move.
    pub fn advance(&self, ns: i64) {
        self.wall_ns.fetch_add(ns, Ordering::SeqCst);
        self.monotonic_ns.fetch_add(ns.max(0), Ordering::SeqCst);
    }

    /// Lets the machine sleep: the wall clock moves, monotonic time does not.
    pub fn suspend(&self, ns: i64) {
        self.wall_ns.fetch_add(ns, Ordering::SeqCst);
        self.suspended_ns.fetch_add(ns.max(0), Ordering::SeqCst);
    }

    /// Steps the wall clock alone.
    pub fn step_wall(&self, ns: i64) {
        self.wall_ns.fetch_add(ns, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_ns(&self) -> i64 {
        self.wall_ns.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns.load(Ordering::SeqCst).unsigned_abs()
    }

    fn suspended_ns(&self) -> u64 {
        self.suspended_ns.load(Ordering::SeqCst).unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The machine's own clocks agree: it does not sleep during the test.
    #[test]
    fn the_machine_is_awake() {
        let clock = SystemClock::default();
        assert_eq!(clock.suspended_ns(), 0);
        assert!(clock.up_ns.is_some() || !std::path::Path::new(UPTIME_FILE).exists());
    }
}
