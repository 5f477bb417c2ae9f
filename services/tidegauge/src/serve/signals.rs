//! Signals that ask the process to end.

use tidegauge_core::clock::{Clock as _, SystemClock};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Doing as _, Outcome};

/// Time within which a signal that comes again is the same wish: `timeout` and some shells send to the process and to its
/// group.
const ONE_WISH_NS: u64 = 1_000_000_000;

/// SIGTERM and SIGINT. Once taken, neither kills the process by itself.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    clock: SystemClock,
    taken_ns: Option<u64>,
}

impl Signals {
    /// Takes the signals; inside a runtime.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn take() -> Outcome<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).doing("SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).doing("SIGINT")?,
            clock: SystemClock::default(),
            taken_ns: None,
        })
    }

    /// Waits for the next one; its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            };
            let now = self.clock.monotonic_ns();
            let is_repeated = self.taken_ns.is_some_and(|taken| now.saturating_sub(taken) < ONE_WISH_NS);
            if !is_repeated {
                self.taken_ns = Some(now);
                return name;
            }
        }
    }
}
