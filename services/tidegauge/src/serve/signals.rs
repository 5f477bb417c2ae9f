//! Signals that ask the process to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Doing as _, Outcome};

/// SIGTERM and SIGINT. Once taken, neither kills the process by itself.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
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
        })
    }

    /// Waits for the next one; its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
