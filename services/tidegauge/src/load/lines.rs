//! Lines of a file with their numbers and offsets, read in large blocks.

use std::io::{self, Read};

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
    ended: bool,
    mark: Option<Mark>,
}

/// A place between two lines to which a reader can go back.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// In the buffer.
    start: usize,
    offset: u64,
    line: u64,
}

/// A line without its end (`\n` or `\r\n`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Line<'a> {
    /// Its bytes.
    Whole(&'a [u8]),
    /// Over [`LINE_BYTES_MAX`]; its bytes were skipped.
    TooLong,
}

/// Why a line over the limit is refused.
pub(crate) fn too_long() -> Refusal {
    Refusal::line(format!("the line is longer than {}", Size(LINE_BYTES_MAX as u64)))
}

impl<R: Read> Lines<R> {
    /// Reads from a source that stands at `offset`, before the line after `line`.
    pub(crate) fn new(source: R, offset: u64, line: u64) -> Self {
        Self { source, buffer: vec![0; BLOCK_BYTES], start: 0, end: 0, offset, line, ended: false, mark: None }
    }

    /// Offset of the next line.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of the last line.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// Keeps what follows, so that [`Lines::go_back`] leads here.
    pub(crate) fn mark(&mut self) {
        self.mark = Some(Mark { start: self.start, offset: self.offset, line: self.line });
    }

    /// Goes back to the mark, if there is one, and takes it away.
    pub(crate) fn go_back(&mut self) {
        if let Some(mark) = self.mark.take() {
            (self.start, self.offset, self.line) = (mark.start, mark.offset, mark.line);
        }
    }

    /// Takes the mark away.
    pub(crate) fn forget_mark(&mut self) {
        self.mark = None;
    }

    /// The next line; `None` at the end. A line over the limit is not passed while a mark is set: what lies between would
    /// have to be kept.
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
        let kept = self.mark.map_or(self.start, |mark| mark.start);
        self.buffer.copy_within(kept..self.end, 0);
        self.end -= kept;
        self.start -= kept;
        if let Some(mark) = &mut self.mark {
            mark.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
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
        if self.mark.is_some() {
            return Ok((Place { line: self.line + 1, offset, bytes: 0 }, Line::TooLong));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<(u64, u64, Option<usize>)> {
        let mut lines = Lines::new(text, 10, 3);
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

    /// What was read since the mark is read again, wherever a block ends; a line over the limit is not passed over it.
    #[test]
    fn a_reader_can_go_back() {
        let mut text: Vec<u8> = (0..200_000).flat_map(|i| format!("{i}\n").into_bytes()).collect();
        let from = text.len();
        text.extend(vec![b'x'; LINE_BYTES_MAX + 1]);
        text.extend_from_slice(b"\nend\n");
        let mut lines = Lines::new(&*text, 0, 0);
        while lines.line() < 100_000 {
            lines.next().unwrap();
        }
        lines.mark();
        let (line, offset) = (lines.line(), lines.offset());
        for _ in 0..2 {
            assert_eq!((lines.line(), lines.offset()), (line, offset));
            for i in 100_000..200_000 {
                let (place, line) = lines.next().unwrap().unwrap();
                assert_eq!((place.line, line), (i + 1, Line::Whole(i.to_string().as_bytes())));
            }
            for _ in 0..2 {
                let (place, line) = lines.next().unwrap().unwrap();
                assert_eq!((place.line, place.offset, line), (200_001, from as u64, Line::TooLong));
            }
            lines.go_back();
            lines.mark();
        }
        lines.forget_mark();
        while lines.line() < 200_001 {
            lines.next().unwrap();
        }
        assert_eq!(lines.next().unwrap().unwrap().1, Line::Whole(b"end"));
        assert_eq!(lines.next().unwrap(), None);
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
