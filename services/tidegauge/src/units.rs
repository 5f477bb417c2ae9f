//! Durations and sizes as people write them: `5m`, `1h30m`, `128MB`; and numbers as people read them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration written as `500ms`, `60s`, `5m`, `24h`, `30d`, `1w` or a run of these (`1h30m`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span(pub(crate) Duration);

const SPAN_UNITS: [(&str, u64); 7] = [
    ("ms", 1_000_000),
    ("us", 1_000),
    ("w", 7 * 86_400_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no duration; write for example 500ms, 60s, 5m, 24h or 30d");
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut total_ns = 0_u64;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let (unit, ns) = SPAN_UNITS.into_iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(wrong)?;
            rest = &rest[unit.len()..];
            total_ns = number.checked_mul(ns).and_then(|part| total_ns.checked_add(part)).ok_or_else(wrong)?;
        }
        Ok(Self(Duration::from_nanos(total_ns)))
    }
}

/// The largest unit that divides it: what is written is read back.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if ns == 0 {
            return f.write_str("0s");
        }
        let by_size = [3, 4, 5, 6, 0, 1].map(|at| SPAN_UNITS[at]);
        match by_size.into_iter().find(|(_, unit)| ns.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", ns / unit),
            None => write!(f, "{}us", ns / 1_000),
        }
    }
}

/// A number of bytes written as `4096`, `64KB`, `128MB`, `1GB`; the units are powers of 1024, `KiB` and so on mean the
/// same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size(pub(crate) u64);

const SIZE_UNITS: [(&str, u64); 5] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10), ("B", 1)];

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size; write for example 4096, 64KB, 128MB or 1GB");
        let text_upper = text.trim().to_ascii_uppercase().replace("IB", "B");
        let digits = text_upper.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text_upper[..digits].parse().map_err(|_| wrong())?;
        let unit = text_upper[digits..].trim_start();
        let scale = match unit {
            "" => 1,
            unit => SIZE_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
        };
        number.checked_mul(scale).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZE_UNITS.into_iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A count with its thousands apart: `2 000 000` reads worse in a shell than `2,000,000`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with what is counted: `1 event`, `2,000 events`.
pub(crate) fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A number with three significant digits and a unit of thousands: `1.53 M`, `47.1 k`, `12`.
pub(crate) fn short(number: f64) -> String {
    let size = number.abs();
    let (scaled, unit) = match size {
        s if s >= 1e12 => (number / 1e12, " T"),
        s if s >= 1e9 => (number / 1e9, " G"),
        s if s >= 1e6 => (number / 1e6, " M"),
        s if s >= 1e3 => (number / 1e3, " k"),
        _ => (number, ""),
    };
    let decimals = match scaled.abs() {
        s if s >= 100.0 => 0,
        s if s >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{scaled:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A duration for people: `350 µs`, `1.2 ms`, `3.4 s`, `5 min`, `2.1 h`, `4,598 d`.
pub(crate) fn readable(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (scaled, unit) = match seconds {
        0.0 => (0.0, "s"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s if s < 120.0 => (s, "s"),
        s if s < 7_200.0 => (s / 60.0, "min"),
        s if s < 172_800.0 => (s / 3_600.0, "h"),
        s => (s / 86_400.0, "d"),
    };
    // A long time in thousands of days would need a second look.
    if scaled >= 1_000.0 { format!("{} {unit}", grouped(scaled as u64)) } else { format!("{} {unit}", short(scaled)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is read back, and nonsense is refused with an example.
    #[test]
    fn spans_and_sizes_are_read_as_written() {
        for text in ["500ms", "60s", "5m", "24h", "30d", "0s", "1w", "7us"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span, "{text}");
        }
        assert_eq!("1h30m".parse::<Span>().unwrap().0, Duration::from_secs(5_400));
        assert_eq!(Span(Duration::from_secs(3_600 * 24)).to_string(), "1d");
        for text in ["", "5", "m", "5 parsecs", "-5s", "99999999999w"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for (text, bytes) in [("4096", 4096), ("64KB", 65_536), ("128 MiB", 128 << 20), ("1gb", 1 << 30), ("7B", 7)] {
            assert_eq!(text.parse::<Size>().unwrap().0, bytes);
            assert_eq!(Size(bytes).to_string().parse::<Size>().unwrap().0, bytes);
        }
        for text in ["", "MB", "1.5MB", "1PB", "99999999999TB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(2_000_000), "2,000,000");
        assert_eq!((counted(1, "row"), counted(0, "row")), ("1 row".to_owned(), "0 rows".to_owned()));
        assert_eq!(short(1_530_000.0), "1.53 M");
        assert_eq!(short(47_120.0), "47.1 k");
        assert_eq!(short(100.0), "100");
        assert_eq!(readable(Duration::from_micros(1_200)), "1.2 ms");
        assert_eq!(readable(Duration::ZERO), "0 s");
        assert_eq!(readable(Duration::from_secs(4_598 * 86_400)), "4,598 d");
    }
}
