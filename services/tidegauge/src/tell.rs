//! Standard error for people: what was done, what was refused, how fresh an answer is.

use std::fmt::Display;
use std::io::Write as _;

use crate::text_table::printable;

/// Writes a line. A standard error that is closed or full (`2>&1 | head`) is no reason to stop, or to fail: the result and
/// the exit code say what happened.
///
/// What a server or a file said may stand in it: nothing of that reaches the terminal but text.
pub(crate) fn tell(line: impl Display) {
    let lines = line.to_string().split('\n').map(printable).collect::<Vec<_>>().join("\n");
    let _ = writeln!(std::io::stderr().lock(), "{lines}");
}
