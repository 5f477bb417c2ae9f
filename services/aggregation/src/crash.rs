//! Places at which a test kills the process, between any two steps of the commit protocol.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// The steps from one list, so that a new one cannot be missing from [`CrashStep::ALL`], and so from the tests that die at
/// each.
macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $step:ident = $name:literal;)*) => {
        /// A step of the commit protocol.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum CrashStep {
            $($(#[doc = $doc])+ $step,)*
        }

        impl CrashStep {
            /// Every step, in the order of the protocol.
            pub const ALL: &[Self] = &[$(Self::$step,)*];

            /// The step's name, as in settings.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$step => $name,)*
                }
            }
        }
    };
}

steps! {
    /// The state of an epoch is encoded, nothing of it is durable.
    BeforePrepare = "before-prepare";
    /// The epoch is prepared, none of its outputs is applied.
    AfterPrepare = "after-prepare";
    /// An object of the lake has been replaced.
    AfterObject = "after-object";
    /// An hour index object has been replaced.
    AfterIndex = "after-index";
    /// All outputs are applied, hot-metric has not heard of it.
    AfterApply = "after-apply";
    /// Hot-metric holds the new boundaries.
    AfterBoundary = "after-boundary";
    /// The epoch is completed, the log has not heard of it.
    AfterComplete = "after-complete";
}

/// Aborts the process when a step is reached for the `nth` time, counted over all shards. Written `after-object:3`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrashPoint {
    /// The step.
    pub step: CrashStep,
    /// How often it is reached before the process dies, from 1.
    pub nth: u64,
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.step.as_str(), self.nth)
    }
}

impl FromStr for CrashPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
        let step = CrashStep::ALL.iter().copied().find(|step| step.as_str() == name);
        let nth = nth.parse().ok().filter(|nth| *nth > 0);
        match (step, nth) {
            (Some(step), Some(nth)) => Ok(Self { step, nth }),
            _ => Err(format!("{text:?} is no crash point; write a step and a count, after-object:3")),
        }
    }
}

/// Counts the steps reached.
#[derive(Debug, Default)]
pub(crate) struct CrashCounter {
    point: Option<CrashPoint>,
    reached: AtomicU64,
}

impl CrashCounter {
    pub(crate) fn new(point: Option<CrashPoint>) -> Self {
        Self { point, reached: AtomicU64::new(0) }
    }

    /// Says that a step was reached; does not return if it was the one to die at.
    pub(crate) fn reached(&self, step: CrashStep) {
        let Some(point) = self.point.filter(|point| point.step == step) else { return };
        if self.reached.fetch_add(1, Ordering::SeqCst) + 1 == point.nth {
            tracing::info!(point = %point, "dying where a test asked for it");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crash_points_read_what_they_write() {
        for step in CrashStep::ALL.iter().copied() {
            let point = CrashPoint { step, nth: 3 };
            assert_eq!(point.to_string().parse(), Ok(point));
            assert_eq!(step.as_str().parse(), Ok(CrashPoint { step, nth: 1 }));
        }
        assert!("after-object:0".parse::<CrashPoint>().is_err());
        assert!("after-lunch".parse::<CrashPoint>().is_err());
    }
}
