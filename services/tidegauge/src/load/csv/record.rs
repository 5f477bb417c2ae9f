//! Records of a table and their fields: the rules of quoting.

use std::borrow::Cow;
use std::io::{Read, Seek};

use super::super::event::Place;
use super::super::lines::{Line, Lines, too_long, without_marks};
use super::super::refusal::shown;
use crate::units::Size;

/// Bytes of one record, over several lines where quotes hold line ends.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// A record: a line, or several where quotes hold line ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    /// Where it stands.
    pub(crate) place: Place,
    /// Where its first line stands.
    pub(crate) first: Place,
    /// Offset of the line after its first one.
    pub(crate) second_offset: u64,
    /// Why it cannot be used, if it cannot.
    pub(crate) refusal: Option<String>,
}

/// Reads the next record, its text into `text`. `None` at the end. A record that is too long is passed as a whole; where a
/// quote is not closed up to the end, only its first line is passed: a stray quote must not take all that follows along.
///
/// # Errors
/// I/O errors.
pub(crate) fn next_record<R: Read + Seek>(lines: &mut Lines<R>, text: &mut Vec<u8>) -> std::io::Result<Option<Record>> {
    let too_large = |begins: &[u8]| {
        let begins = shown(&String::from_utf8_lossy(begins));
        format!("the record is longer than {}: {begins}", Size(RECORD_BYTES_MAX as u64))
    };
    text.clear();
    let Some((first, line)) = lines.next()? else { return Ok(None) };
    let mut quotes = 0;
    let refusal = match line {
        Line::TooLong => Some(too_long().to_string()),
        Line::Whole(line) => {
            let line = without_marks(line);
            text.extend_from_slice(&line[..line.len().min(RECORD_BYTES_MAX)]);
            quotes = memchr::memchr_iter(b'"', line).count();
            (line.len() > RECORD_BYTES_MAX).then(|| too_large(text))
        }
    };
    let first_length = text.len();
    let mut record = Record { place: first, first, second_offset: lines.offset(), refusal };
    if quotes.is_multiple_of(2) {
        return Ok(Some(record));
    }
    while let Some((at, Line::Whole(line))) = lines.next()? {
        if text.len() + line.len() >= RECORD_BYTES_MAX {
            record.refusal.get_or_insert_with(|| too_large(text));
        } else if record.refusal.is_none() {
            text.push(b'\n');
            text.extend_from_slice(line);
        }
        quotes += memchr::memchr_iter(b'"', line).count();
        if quotes.is_multiple_of(2) {
            let bytes = at.offset + u64::from(at.bytes) - first.offset;
            record.place.bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            if let Some(refusal) = &mut record.refusal {
                refusal.insert_str(0, &format!("up to line {}, ", at.line));
            }
            return Ok(Some(record));
        }
    }
    text.truncate(first_length);
    record.refusal = Some(format!("a quoted field is not closed: {}", shown(&String::from_utf8_lossy(text))));
    record.go_back(lines)?;
    Ok(Some(record))
}

impl Record {
    /// Whether it holds line ends.
    pub(crate) fn spans_lines(&self) -> bool {
        self.place != self.first
    }

    /// Leaves only the first line of it; the others are read again, each for itself.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn go_back<R: Read + Seek>(&mut self, lines: &mut Lines<R>) -> std::io::Result<()> {
        self.place = self.first;
        lines.go_back(self.second_offset, self.first.line)
    }
}

/// The fields of a record.
///
/// # Errors
/// What breaks the rules of quoting.
pub(crate) fn split<'a>(record: &'a str, delimiter: u8, fields: &mut Vec<Cow<'a, str>>) -> Result<(), String> {
    fields.clear();
    let delimiter = delimiter as char;
    let mut rest = record;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = unquote(quoted)?;
            fields.push(field);
            match after.strip_prefix(delimiter) {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(()),
                None => {
                    return Err(format!(
                        "field {} goes on after its closing quote, with {}",
                        fields.len(),
                        shown(after)
                    ));
                }
            }
        } else {
            match rest.split_once(delimiter) {
                Some((field, next)) => {
                    fields.push(bare(field, fields.len())?);
                    rest = next;
                }
                None => {
                    fields.push(bare(rest, fields.len())?);
                    return Ok(());
                }
            }
        }
    }
}

/// A field without quotes around it: line ends are in it only where quotes inside have tied lines together.
fn bare(field: &str, before: usize) -> Result<Cow<'_, str>, String> {
    match field.contains('\n') {
        true => Err(format!("field {} has a quote inside, and none around it: {}", before + 1, shown(field))),
        false => Ok(Cow::Borrowed(field)),
    }
}

/// A field after its opening quote, and what follows its closing one.
fn unquote(text: &str) -> Result<(Cow<'_, str>, &str), String> {
    let mut from = 0;
    loop {
        let end =
            from + text[from..].find('"').ok_or_else(|| format!("a quoted field is not closed: {}", shown(text)))?;
        if text[end + 1..].starts_with('"') {
            from = end + 2;
            continue;
        }
        let field = &text[..end];
        let field = if from == 0 { Cow::Borrowed(field) } else { Cow::Owned(field.replace("\"\"", "\"")) };
        return Ok((field, &text[end + 1..]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &[u8]) -> Vec<(Record, Vec<u8>)> {
        let mut lines = Lines::new(std::io::Cursor::new(text), 0, 0, u64::MAX);
        let (mut found, mut record) = (Vec::new(), Vec::new());
        while let Some(read) = next_record(&mut lines, &mut record).unwrap() {
            found.push((read, record.clone()));
        }
        assert_eq!(lines.offset(), text.len() as u64);
        found
    }

    /// A record may span lines; its place is all of them as they stand in the file, and the next record's follows.
    #[test]
    fn records_span_lines() {
        let found = records(b"a,\"b\r\nc\"\r\nd,\"e\nf,g\n");
        let place = |line, offset, bytes| Place { line, offset, bytes };
        let (record, text) = &found[0];
        assert_eq!((record.place, record.first, record.second_offset), (place(1, 0, 8), place(1, 0, 4), 6));
        assert_eq!((record.refusal.as_deref(), &text[..]), (None, &b"a,\"b\nc\""[..]));
        let (record, _) = &found[1];
        assert_eq!((record.place, record.spans_lines()), (place(3, 10, 4), false));
        assert_eq!(record.refusal.as_deref(), Some("a quoted field is not closed: \"d,\\\"e\""));
        assert_eq!((found[2].0.place, &found[2].1[..]), (place(4, 15, 3), &b"f,g"[..]));
        assert_eq!(found.len(), 3);
        assert!(split("\"a\"b", b',', &mut Vec::new()).is_err());
        assert!(split("a,b\"c\nd\"e,f", b',', &mut Vec::new()).is_err_and(|e| e.starts_with("field 2 has a quote")));
        let mut fields = Vec::new();
        split(";5\" disk;", b';', &mut fields).unwrap();
        assert_eq!(fields, ["", "5\" disk", ""]);
    }

    /// A record has a largest size, in one line or in many; it is passed as a whole, so that its text becomes no rows.
    #[test]
    fn records_that_are_too_long() {
        let filler = "x".repeat(RECORD_BYTES_MAX);
        for long in [filler.clone(), format!("\"{filler}\n2,3\n\""), format!("\"\n2,3\n{filler}\"")] {
            let text = format!("{long}\n4,5\n");
            let found = records(text.as_bytes());
            assert_eq!((found.len(), found[0].0.place.bytes as usize), (2, long.len()));
            match long == filler {
                true => assert_eq!(found[0].0.refusal, None, "just as long as allowed"),
                false => {
                    let refusal = found[0].0.refusal.as_deref().unwrap();
                    assert!(refusal.starts_with("up to line 3, the record is longer than 1MB"), "{refusal}");
                }
            }
            assert_eq!(found[1].1, b"4,5");
        }
        let found = records(format!("{filler}x\n4,5\n").as_bytes());
        assert_eq!((found.len(), found[0].0.place.bytes as usize), (2, RECORD_BYTES_MAX + 1));
        assert!(found[0].0.refusal.as_deref().unwrap().starts_with("the record is longer than 1MB"));
    }
}
