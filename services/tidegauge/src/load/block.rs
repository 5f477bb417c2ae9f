//! The first half of reading NDJSON: lines scanned into blocks, which another thread cuts into chunks.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender};

use super::event::Place;
use super::lines::{Line, Lines};
use super::scan::{Scanned, Scanner, Span};

/// Bytes of a block, from which on it is handed over: small enough for the cache of a core.
const BLOCK_BYTES: usize = 256 << 10;

/// What a line holds.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Content {
    /// Nothing but space.
    Blank,
    /// An event of the usual form.
    Event(Scanned),
    /// Some other text: the JSON library has the word.
    Json(Span),
    /// Nothing that could be read, and why.
    Bad(String),
}

/// A line.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ScannedLine {
    /// Where it stands.
    pub(crate) place: Place,
    /// Offset of the next line.
    pub(crate) next: u64,
    /// What it holds.
    pub(crate) content: Content,
}

/// Lines and their text.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// What the spans of the lines refer to.
    pub(crate) text: String,
    /// In the order of the file.
    pub(crate) lines: Vec<ScannedLine>,
}

/// Scans the lines to the end, or until nobody wants them any more. Blocks come back through `unused` with their memory.
///
/// # Errors
/// The file's.
pub(crate) fn scan(mut lines: Lines<File>, scanned: &SyncSender<Block>, unused: &Receiver<Block>) -> io::Result<()> {
    let mut scanner = Scanner::default();
    let mut block = Block::default();
    while let Some((place, line)) = lines.next()? {
        let content = block.add(line, &mut scanner);
        block.lines.push(ScannedLine { place, next: lines.offset(), content });
        if block.text.len() >= BLOCK_BYTES || block.lines.len() >= BLOCK_BYTES / 64 {
            let mut next = unused.try_recv().unwrap_or_default();
            next.text.clear();
            next.lines.clear();
            if scanned.send(std::mem::replace(&mut block, next)).is_err() {
                return Ok(());
            }
        }
    }
    // Whoever has left wants no last block either.
    let _ = scanned.send(block);
    Ok(())
}

impl Block {
    fn add(&mut self, line: Line<'_>, scanner: &mut Scanner) -> Content {
        let line = match line {
            Line::TooLong => return Content::Bad("the line is too long".to_owned()),
            Line::Whole(line) => line,
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            return Content::Blank;
        }
        let start = self.text.len();
        match std::str::from_utf8(line) {
            Err(error) => return Content::Bad(format!("not UTF-8 at byte {}", error.valid_up_to())),
            Ok(text) => self.text.push_str(text),
        }
        let range = start..self.text.len();
        match scanner.scan(&self.text, range.clone()) {
            Some(event) => Content::Event(event),
            None => Content::Json(Span::of(&range)),
        }
    }
}
