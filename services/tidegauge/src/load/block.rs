//! The first half of reading NDJSON: lines scanned into blocks, which another thread cuts into chunks.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender};

use super::event::Place;
use super::lines::{Line, Lines};
use super::ndjson;
use super::scan::{Scanned, Scanner, Span};
use super::source::Source;

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
pub(crate) fn scan(mut lines: Lines<Source>, scanned: &SyncSender<Block>, unused: &Receiver<Block>) -> io::Result<()> {
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
        let start = self.text.len();
        match ndjson::text(line) {
            Ok(Some(text)) => self.text.push_str(text),
            Ok(None) => return Content::Blank,
            Err(refusal) => return Content::Bad(refusal.to_string()),
        }
        let range = start..self.text.len();
        match scanner.scan(&self.text, range.clone()) {
            Some(event) => Content::Event(event),
            None => Content::Json(Span::of(&range)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc;

    use super::*;

    /// Every line stands in its block with its place and what it holds, across blocks, and the memory comes back.
    #[test]
    fn blocks_hold_every_line_in_order() {
        let good = |i: usize| {
            format!(
                "{{\"event_type\":\"t\",\"timestamp\":\"2026-03-02T07:08:09Z\",\"source\":\"s\",\"version\":\"1\",\"payload\":\
                 {{\"tenant_id\":\"a\",\"metric_name\":\"m{i}\",\"metric_value\":{i}}}}}"
            )
        };
        let mut file = tempfile::tempfile().unwrap();
        let mut text = b"\xEF\xBB\xBF".to_vec();
        for i in 0..10_000 {
            let line = match i % 5 {
                1 => b" \t".to_vec(),
                2 => b"{\"other\": \"form\"}".to_vec(),
                3 => b"\"\xFF\"".to_vec(),
                _ => good(i).into_bytes(),
            };
            text.extend(line);
            text.extend(if i % 2 == 0 { &b"\n"[..] } else { b"\r\n" });
        }
        file.write_all(&text).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();

        let (scanned, blocks) = mpsc::sync_channel(1_000);
        let (_used, unused) = mpsc::sync_channel(1);
        scan(Lines::new(Source::Plain(file), 0, 0, u64::MAX), &scanned, &unused).unwrap();
        drop(scanned);
        let blocks: Vec<Block> = blocks.into_iter().collect();
        assert!(blocks.len() > 2, "{}", blocks.len());
        let mut count = 0;
        for block in &blocks {
            for line in &block.lines {
                let i = count;
                count += 1;
                assert_eq!(line.place.line, count as u64);
                assert_eq!(text[line.next as usize - 1], b'\n');
                match (&line.content, i % 5) {
                    (Content::Blank, 1) => {}
                    (Content::Json(span), 2) => assert_eq!(span.text(&block.text), "{\"other\": \"form\"}"),
                    (Content::Bad(reason), 3) => assert!(reason.contains("not UTF-8 at byte 1"), "{reason}"),
                    (Content::Event(event), 0 | 4) => assert_eq!(event.event(&block.text).metric, format!("m{i}")),
                    (other, _) => panic!("line {count}: {other:?}"),
                }
            }
        }
        assert_eq!(count, 10_000);
    }
}
