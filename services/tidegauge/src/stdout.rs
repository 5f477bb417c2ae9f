//! Standard output for results. A reader that has seen enough (`| head`) ends the process quietly.

use std::io::{ErrorKind, Result, Write};

/// Standard output.
#[derive(Debug)]
pub(crate) struct Out(std::io::Stdout);

impl Default for Out {
    fn default() -> Self {
        Self(std::io::stdout())
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        quiet(self.0.write(bytes))
    }

    fn flush(&mut self) -> Result<()> {
        quiet(self.0.flush())
    }
}

fn quiet<T>(result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

/// Writes a text.
///
/// # Errors
/// The output's.
pub(crate) fn write(text: impl std::fmt::Display) -> crate::failure::Outcome {
    use crate::failure::Doing as _;
    let mut out = Out::default();
    write!(out, "{text}").and_then(|()| out.flush()).doing("standard output")
}
