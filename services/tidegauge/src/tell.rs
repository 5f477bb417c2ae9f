//! Standard error for people: what was done, what was refused, how fresh an answer is.

use std::fmt::Display;
use std::io::Write as _;

/// Writes a line. A standard error that is closed or full (`2>&1 | head`) is no reason to stop, or to fail: the result and
/// the exit code say what happened.
pub(crate) fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
