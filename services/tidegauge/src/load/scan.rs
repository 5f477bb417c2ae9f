//! The fast path of NDJSON: a scanner for exactly the form that programs write, keys in the order of the contract and
//! strings without escapes. Whatever else JSON allows answers `None` and takes the way through the JSON library; so the
//! scanner may refuse, but what it accepts must be what the library reads (a property test holds it to that).

use std::borrow::Cow;
use std::ops::Range;

use tidegauge_core::time::{SECOND_NS, parse_rfc3339};

use super::event::{RawDimensions, RawEvent};

/// Bytes `start..end` of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// A span of a text that is shorter than 4 GiB.
    pub(crate) fn of(range: &Range<usize>) -> Self {
        Self { start: range.start as u32, end: range.end as u32 }
    }

    /// What it covers.
    #[inline(always)]
    pub(crate) fn text(self, text: &str) -> &str {
        &text[self.start as usize..self.end as usize]
    }
}

/// An event as spans of the text it was scanned in: unlike a borrowed event, it goes to another thread beside its text.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Scanned {
    tenant: Span,
    event_type: Span,
    source: Span,
    version: Span,
    metric: Span,
    /// The object with its braces.
    dimensions: Option<Span>,
    value: f64,
    time_ns: i64,
}

impl Scanned {
    /// The event; `text` is the one that was scanned.
    #[inline(always)]
    pub(crate) fn event(self, text: &str) -> RawEvent<'_> {
        RawEvent {
            tenant: Cow::Borrowed(self.tenant.text(text)),
            event_type: Cow::Borrowed(self.event_type.text(text)),
            source: Cow::Borrowed(self.source.text(text)),
            version: Cow::Borrowed(self.version.text(text)),
            metric: Cow::Borrowed(self.metric.text(text)),
            value: self.value,
            time_ns: self.time_ns,
            dimensions: match self.dimensions {
                Some(object) => RawDimensions::Json(object.text(text)),
                None => RawDimensions::Absent,
            },
        }
    }
}

/// Reads lines of the usual form; remembers the minute of the last timestamp, because neighbours share it.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    times: TimeCache,
}

impl Scanner {
    /// Reads the line `line` of a text, without its line end; `None` for any other form.
    pub(crate) fn scan(&mut self, text: &str, line: Range<usize>) -> Option<Scanned> {
        let mut at = Cursor { text, bytes: &text.as_bytes()[..line.end], at: line.start };
        at.space();
        at.open(b'{')?;
        let event_type = at.member(b"\"event_type\"")?;
        at.open(b',')?;
        let timestamp = at.member(b"\"timestamp\"")?;
        at.open(b',')?;
        let source = at.member(b"\"source\"")?;
        at.open(b',')?;
        let version = at.member(b"\"version\"")?;
        at.open(b',')?;
        at.key(b"\"payload\"")?;
        at.open(b'{')?;
        let tenant = at.member(b"\"tenant_id\"")?;
        at.open(b',')?;
        let metric = at.member(b"\"metric_name\"")?;
        at.open(b',')?;
        at.key(b"\"metric_value\"")?;
        let value = at.number()?;
        at.space();
        let dimensions = if at.peek() == Some(b',') {
            at.open(b',')?;
            at.key(b"\"dimensions\"")?;
            let object = at.string_object()?;
            at.space();
            Some(object)
        } else {
            None
        };
        at.open(b'}')?;
        at.open(b'}')?;
        if at.at != line.end {
            return None;
        }
        let time_ns = self.times.parse(timestamp.text(text))?;
        Some(Scanned { tenant, event_type, source, version, metric, dimensions, value, time_ns })
    }
}

/// Bytes up to the minute: `2026-03-02T07:08:`.
const MINUTE_PREFIX: usize = 17;

/// The last minute seen.
#[derive(Debug, Default)]
pub(crate) struct TimeCache {
    prefix: [u8; MINUTE_PREFIX],
    minute_ns: i64,
}

impl TimeCache {
    /// Reads an ISO 8601 time as [`parse_rfc3339`] does.
    pub(crate) fn parse(&mut self, text: &str) -> Option<i64> {
        let bytes = text.as_bytes();
        if bytes.len() >= 20
            && bytes.last() == Some(&b'Z')
            && bytes[..MINUTE_PREFIX] == self.prefix
            && let Some(in_minute) = in_minute(&bytes[MINUTE_PREFIX..bytes.len() - 1])
        {
            return self.minute_ns.checked_add(in_minute);
        }
        let time = parse_rfc3339(text)?;
        if bytes.len() >= 20
            && bytes[MINUTE_PREFIX - 1] == b':'
            && let Some(minute) = text.get(..MINUTE_PREFIX - 1).and_then(parse_rfc3339)
        {
            self.prefix.copy_from_slice(&bytes[..MINUTE_PREFIX]);
            self.minute_ns = minute;
        }
        Some(time)
    }
}

/// Reads `SS` or `SS.fraction` with at most nine digits; `None` for anything else.
fn in_minute(text: &[u8]) -> Option<i64> {
    let digit = |at: usize| text.get(at).filter(|b| b.is_ascii_digit()).map(|b| i64::from(b - b'0'));
    let seconds = digit(0)? * 10 + digit(1)?;
    if seconds > 59 {
        return None;
    }
    if text.len() == 2 {
        return Some(seconds * SECOND_NS);
    }
    if text[2] != b'.' || text.len() < 4 || text.len() > 12 {
        return None;
    }
    let mut fraction = 0;
    for at in 3..12 {
        fraction = fraction * 10 + if at < text.len() { digit(at)? } else { 0 };
    }
    Some(seconds * SECOND_NS + fraction)
}

#[derive(Debug)]
struct Cursor<'a> {
    text: &'a str,
    /// The text up to the end of the line.
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline(always)]
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// Space, the byte, space.
    #[inline(always)]
    fn open(&mut self, byte: u8) -> Option<()> {
        if self.peek() != Some(byte) {
            self.space();
            if self.peek() != Some(byte) {
                return None;
            }
        }
        self.at += 1;
        self.space();
        Some(())
    }

    #[inline(always)]
    fn key(&mut self, key: &[u8]) -> Option<()> {
        if !self.bytes[self.at..].starts_with(key) {
            return None;
        }
        self.at += key.len();
        self.open(b':')
    }

    #[inline(always)]
    fn member(&mut self, key: &[u8]) -> Option<Span> {
        self.key(key)?;
        self.string()
    }

    /// A string without escapes and control characters; the cursor ends after its closing quote.
    fn string(&mut self) -> Option<Span> {
        if self.peek() != Some(b'"') {
            return None;
        }
        let start = self.at + 1;
        let end = start + plain_length(&self.bytes[start..])?;
        self.at = end + 1;
        Some(Span::of(&(start..end)))
    }

    /// An object whose values are strings, all without escapes; its text with the braces.
    fn string_object(&mut self) -> Option<Span> {
        let start = self.at;
        self.open(b'{')?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Some(Span::of(&(start..self.at)));
        }
        loop {
            self.string()?;
            self.open(b':')?;
            self.string()?;
            self.space();
            match self.peek()? {
                b',' => self.open(b',')?,
                b'}' => {
                    self.at += 1;
                    return Some(Span::of(&(start..self.at)));
                }
                _ => return None,
            }
        }
    }

    /// A finite JSON number.
    fn number(&mut self) -> Option<f64> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let mut mantissa = 0_u64;
        let mut digits = 0_u32;
        let whole = self.digits(&mut mantissa, &mut digits);
        if whole == 0 || (whole > 1 && self.bytes[self.at - whole] == b'0') {
            return None;
        }
        let mut exponent = 0_i32;
        if self.peek() == Some(b'.') {
            self.at += 1;
            let fraction = self.digits(&mut mantissa, &mut digits);
            if fraction == 0 {
                return None;
            }
            exponent = -i32::try_from(fraction).ok()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            let minus = self.peek() == Some(b'-');
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            let (mut power, mut power_digits) = (0_u64, 0);
            if self.digits(&mut power, &mut power_digits) == 0 || power_digits > 4 {
                return None;
            }
            let power = i32::try_from(power).ok()?;
            exponent += if minus { -power } else { power };
        }
        // Both numbers are exact, so one operation rounds once: the nearest double (Clinger's fast path).
        if digits <= 19 && mantissa <= 1 << 53 && (-22..=22).contains(&exponent) {
            let power = POWERS[exponent.unsigned_abs() as usize];
            let value = if exponent < 0 { mantissa as f64 / power } else { mantissa as f64 * power };
            return Some(if negative { -value } else { value });
        }
        let value: f64 = self.text.get(start..self.at)?.parse().ok()?;
        value.is_finite().then_some(value)
    }

    /// Takes digits into `mantissa` (which wraps past 19 digits); how many there were.
    fn digits(&mut self, mantissa: &mut u64, digits: &mut u32) -> usize {
        let start = self.at;
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        let count = self.at - start;
        *digits = digits.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        count
    }
}

const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// High bit set in the lowest byte of `word` that is zero (bytes above the first hit may be wrong).
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// Bytes before the closing quote; `None` if an escape or a control character comes first. Eight bytes at a time.
fn plain_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().ok()?);
        let quote = zero_bytes(word ^ (ONES * b'"' as u64));
        let escape = zero_bytes(word ^ (ONES * b'\\' as u64));
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let stop = quote | escape | control;
        if stop != 0 {
            at += (stop.trailing_zeros() / 8) as usize;
            return (bytes[at] == b'"').then_some(at);
        }
        at += 8;
    }
    let rest = &bytes[at..];
    let stop = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20))?;
    (rest[stop] == b'"').then_some(at + stop)
}
