//! Lines of a file with their numbers and offsets, read in large blocks.

use std::io::{self, Read, Seek, SeekFrom};

use super::event::Place;
use super::refusal::Refusal;
use crate::units::Size;

/// Bytes read at once.
const BLOCK_BYTES: usize = 1 << 20;
/// Longest line: as long as a request may be; a longer one is refused without being kept.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Reader of lines.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    source: R,
    buffer: Vec<u8>,
    /// Unread bytes are `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Offset in the file of `buffer[start]`.
    offset: u64,
    line: u64,
    /// Offset of the first byte that is not read any more.
    until: u64,
    ended: bool,
}

/// A line without its end (`\n` or `\r\n`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Line<'a> {
    /// Its bytes.
    Whole(&'a [u8]),
    /// Over [`LINE_BYTES_MAX`]; its bytes were skipped.
    TooLong,
}

/// What some programs put before UTF-8; between lines too, where their files were joined.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A line, or the first one of a record, without the byte order marks at its start.
#[inline]
pub(crate) fn without_marks(mut line: &[u8]) -> &[u8] {
    while let Some(rest) = line.strip_prefix(BYTE_ORDER_MARK) {
        line = rest;
    }
    line
}

/// Why a line over the limit is refused.
pub(crate) fn too_long() -> Refusal {
    Refusal::line(format!("the line is longer than {}", Size(LINE_BYTES_MAX as u64)))
}

impl<R: Read> Lines<R> {
    /// Reads from a source that stands at `offset`, before the line after `line`; bytes from `until` on are not there.
    pub(crate) fn new(source: R, offset: u64, line: u64, until: u64) -> Self {
        Self { source, buffer: vec![0; BLOCK_BYTES], start: 0, end: 0, offset, line, until, ended: false }
    }

    /// Offset of the next line.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of the last line.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The source's.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Place, Line<'_>)>> {
        let mut searched = 0;
        let length = loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(found) = memchr::memchr(b'\n', &unread[searched..]) {
                break searched + found;
            }
            searched = unread.len();
            if self.ended {
                if unread.is_empty() {
                    return Ok(None);
                }
                break searched;
            }
            if searched > LINE_BYTES_MAX {
                return self.skip_line().map(Some);
            }
            self.fill()?;
        };
        if length > LINE_BYTES_MAX {
            return self.skip_line().map(Some);
        }
        let (from, to) = (self.start, self.start + length);
        let with_end = (length + 1).min(self.end - self.start);
        let text = &self.buffer[from..to];
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        self.line += 1;
        let place = Place { line: self.line, offset: self.offset, bytes: text.len() as u32 };
        self.start += with_end;
        self.offset += with_end as u64;
        Ok(Some((place, Line::Whole(text))))
    }

    /// Makes room and reads more; sets `ended` at the end.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let left = self.until.saturating_sub(self.offset + self.end as u64);
        let room = (self.buffer.len() - self.end).min(usize::try_from(left).unwrap_or(usize::MAX));
        loop {
            match self.source.read(&mut self.buffer[self.end..][..room]) {
                Ok(read) => {
                    self.end += read;
                    self.ended = read == 0;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn skip_line(&mut self) -> io::Result<(Place, Line<'_>)> {
        let offset = self.offset;
        self.line += 1;
        loop {
            let unread = &self.buffer[self.start..self.end];
            let found = memchr::memchr(b'\n', unread);
            let skipped = found.map_or(unread.len(), |at| at + 1);
            self.start += skipped;
            self.offset += skipped as u64;
            if found.is_some() || self.ended {
                let bytes = self.offset - offset - u64::from(found.is_some());
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                return Ok((Place { line: self.line, offset, bytes }, Line::TooLong));
            }
            self.fill()?;
        }
    }
}

impl<R: Read + Seek> Lines<R> {
    /// Goes back to an offset that it has been at, behind the line of that number.
    ///
    /// # Errors
    /// The source's.
    pub(crate) fn go_back(&mut self, offset: u64, line: u64) -> io::Result<()> {
        let first = self.offset - self.start as u64;
        match offset.checked_sub(first) {
            // Mostly it is still there: whoever goes back often must not read a block each time.
            Some(start) => self.start = start as usize,
            None => {
                self.source.seek(SeekFrom::Start(offset))?;
                (self.start, self.end, self.ended) = (0, 0, false);
            }
        }
        (self.offset, self.line) = (offset, line);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<(u64, u64, Option<usize>)> {
        let mut lines = Lines::new(text, 10, 3, u64::MAX);
        let mut found = Vec::new();
        while let Some((place, line)) = lines.next().unwrap() {
            let length = match line {
                Line::Whole(line) => Some(line.len()),
                Line::TooLong => None,
            };
            found.push((place.line, place.offset, length));
        }
        assert_eq!(lines.offset(), 10 + text.len() as u64);
        found
    }

    /// What was read is read again, whether it is still in the buffer or not; nothing is read behind the end that was given.
    #[test]
    fn a_reader_can_go_back_and_ends_where_it_should() {
        let text: Vec<u8> = (0..400_000).flat_map(|i| format!("{i}\n").into_bytes()).collect();
        let until = 100 + text.iter().position(|byte| *byte == b'\n').unwrap() as u64 * 1_000_000;
        let mut lines = Lines::new(io::Cursor::new(&text), 0, 0, until);
        let mut places = Vec::new();
        while let Some((place, line)) = lines.next().unwrap() {
            let Line::Whole(line) = line else { panic!("{place:?}") };
            places.push((place, line.to_vec(), lines.offset()));
        }
        assert_eq!((lines.offset(), lines.next().unwrap()), (until, None));
        let (last, ..) = places.last().unwrap();
        assert_eq!(last.offset + u64::from(last.bytes), until, "the last line is cut off");
        // Near, further, into an earlier block, to the start, and forth to the end again.
        for back in [1, 10, 200_000.min(places.len() - 2), places.len() - 1] {
            let at = places.len() - 1 - back;
            let (place, _, offset) = &places[at];
            lines.go_back(*offset, place.line).unwrap();
            for (place, line, _) in &places[at + 1..] {
                assert_eq!(lines.next().unwrap(), Some((*place, Line::Whole(line))));
            }
            assert_eq!(lines.next().unwrap(), None);
        }
    }

    /// Numbers and offsets are right across blocks, for both line ends, a missing last one, and a monstrous line.
    #[test]
    fn lines_have_their_places() {
        assert_eq!(all(b""), []);
        assert_eq!(all(b"a\r\n\nbc"), [(4, 10, Some(1)), (5, 13, Some(0)), (6, 14, Some(2))]);
        let mut text = vec![b'x'; LINE_BYTES_MAX + BLOCK_BYTES + 7];
        text.extend_from_slice(b"\nend\n");
        let length = LINE_BYTES_MAX + BLOCK_BYTES + 7;
        assert_eq!(all(&text), [(4, 10, None), (5, 11 + length as u64, Some(3))]);
        let many: Vec<u8> = (0..300_000).flat_map(|i| format!("{i}\n").into_bytes()).collect();
        let found = all(&many);
        assert_eq!(found.len(), 300_000);
        assert_eq!(found[299_999], (300_003, 10 + many.len() as u64 - 7, Some(6)));
    }
}
