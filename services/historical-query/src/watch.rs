//! Whether a query is still wanted, for work that nothing can end from outside.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::common::{DataFusionError, Result};
use tidegauge_core::clock::Clock;

use crate::answer::out_of_time;
use crate::error::Abort;
use crate::planning::Abandoned;

/// Tells long work that its caller has gone or that its time is over. Travels with the settings of a session, which every
/// function call sees.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    abandoned: Abandoned,
    clock: Arc<dyn Clock>,
    /// Monotonic.
    deadline_ns: u64,
    time_max: Duration,
}

impl Watch {
    /// Of a query that has `time_max` from the monotonic `started_ns` on, and no more once it is abandoned.
    pub(crate) fn new(abandoned: Abandoned, clock: Arc<dyn Clock>, started_ns: u64, time_max: Duration) -> Self {
        let time_ns = u64::try_from(time_max.as_nanos()).unwrap_or(u64::MAX);
        Self { abandoned, clock, deadline_ns: started_ns.saturating_add(time_ns), time_max }
    }

    /// Ends work on behalf of a query that nobody waits for.
    pub(crate) fn abandon(&self) {
        self.abandoned.set();
    }

    /// What is left of the query's time.
    pub(crate) fn time_left(&self) -> Duration {
        Duration::from_nanos(self.deadline_ns.saturating_sub(self.clock.monotonic_ns()))
    }

    /// What the query is told when its time is over.
    pub(crate) fn out_of_time(&self) -> Abort {
        Abort::Service(out_of_time(self.time_max))
    }

    /// # Errors
    /// When nobody waits for the query of these settings any more.
    pub(crate) fn check(options: &ConfigOptions) -> Result<()> {
        match options.extensions.get::<Self>() {
            Some(watch) if watch.abandoned.is_set() || watch.time_left().is_zero() => Err(watch.out_of_time().engine()),
            _ => Ok(()),
        }
    }
}

impl ConfigExtension for Watch {
    const PREFIX: &'static str = "watch";
}

impl ExtensionOptions for Watch {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _: &str) -> Result<()> {
        Err(DataFusionError::Configuration(format!("{key} is no setting")))
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}
