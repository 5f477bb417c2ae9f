//! What a line of NDJSON is, for every command that reads some: marks, blank lines, the encoding, the length, and the event
//! with all of its rules.

use super::chunk;
use super::event::RawEvent;
use super::json;
use super::lines::{Line, too_long, without_marks};
use super::names::Names;
use super::refusal::Refusal;
use super::scan::{Scanner, TimeCache};

/// The text of a line; `None` where it holds nothing but space.
///
/// # Errors
/// Why it is no text.
#[inline]
pub(crate) fn text(line: Line<'_>) -> Result<Option<&str>, Refusal> {
    let Line::Whole(line) = line else { return Err(too_long()) };
    let line = without_marks(line);
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    std::str::from_utf8(line).map(Some).map_err(|error| Refusal::not_utf8(line, &error))
}

/// Reads one line after the other, where there are not so many that the work is worth two threads.
#[derive(Debug, Default)]
pub(crate) struct LineReader {
    scanner: Scanner,
    times: TimeCache,
}

impl LineReader {
    /// The event of a line; `None` for a blank one. The names in a refusal are those of JSON.
    ///
    /// # Errors
    /// Why the line can never be taken.
    pub(crate) fn read<'a>(&mut self, line: Line<'a>) -> Result<Option<RawEvent<'a>>, Refusal> {
        let Some(text) = text(line)? else { return Ok(None) };
        let event = match self.scanner.scan(text, 0..text.len()) {
            Some(scanned) => scanned.event(text),
            None => json::parse(text, &mut self.times)?,
        };
        chunk::check(&event).map_err(|refusal| Names::Json.translate(refusal))?;
        Ok(Some(event))
    }
}
