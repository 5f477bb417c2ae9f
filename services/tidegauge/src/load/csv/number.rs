//! Numbers in cells: with a decimal point or comma, with or without thousands separators.

/// How numbers are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Numbers {
    /// Between the whole and the fraction: `.` or `,`.
    decimal: char,
    /// Between groups of three digits; without one, a number that has any is none.
    thousands: Option<char>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { decimal: '.', thousands: None }
    }
}

/// What can stand between thousands: other characters would make something else of a number.
const THOUSANDS: [char; 8] = ['.', ',', ' ', '\'', '’', '_', '\u{a0}', '\u{202f}'];

/// Bytes of a number that is written down again without its separators.
const REWRITTEN_BYTES_MAX: usize = 64;

impl Numbers {
    /// Numbers written like this.
    ///
    /// # Errors
    /// When nobody writes them so, or a text could be two numbers.
    pub(crate) fn new(decimal: char, thousands: Option<char>) -> Result<Self, String> {
        if !matches!(decimal, '.' | ',') {
            return Err(format!("--decimal {decimal:?} is neither . nor ,"));
        }
        match thousands {
            Some(separator) if !THOUSANDS.contains(&separator) => {
                Err(format!("--thousands {separator:?} is none of . , ' _ and the space"))
            }
            Some(separator) if separator == decimal => {
                Err(format!("--thousands and --decimal are both {decimal:?}: a number could not be told from another"))
            }
            _ => Ok(Self { decimal, thousands }),
        }
    }

    /// What stands before the fraction.
    pub(crate) fn decimal(self) -> char {
        self.decimal
    }

    /// Reads a finite number.
    #[inline]
    pub(crate) fn parse(self, text: &str) -> Option<f64> {
        let value = match (self.decimal, self.thousands) {
            ('.', None) => text.parse::<f64>().ok()?,
            _ => self.rewritten(text)?,
        };
        value.is_finite().then_some(value)
    }

    /// What may help against a cell that is no number.
    pub(crate) fn advice(self, text: &str) -> &'static str {
        let is_separated = |c: char| c.is_ascii_digit() || THOUSANDS.contains(&c) || matches!(c, '-' | '+');
        let looks_like_one = text.contains(|c: char| c.is_ascii_digit()) && text.chars().all(is_separated);
        match (self.decimal, self.thousands) {
            _ if !looks_like_one => "",
            ('.', None) if text.matches(',').count() == 1 => "; --decimal , reads a comma, --thousands separators",
            (_, None) => "; --thousands names what stands between its thousands",
            _ => "",
        }
    }

    /// Reads a number after writing it with a point and without separators.
    fn rewritten(self, text: &str) -> Option<f64> {
        let mut plain = [0_u8; REWRITTEN_BYTES_MAX];
        let mut length = 0;
        let mut put = |byte: u8| -> Option<()> {
            *plain.get_mut(length)? = byte;
            length += 1;
            Some(())
        };
        // Digits since the last separator; groups are of three digits, the first one of one to three.
        let (mut in_group, mut is_grouped, mut is_whole) = (0, false, true);
        for (at, c) in text.char_indices() {
            match c {
                '0'..='9' => {
                    in_group += 1;
                    put(c as u8)?;
                }
                _ if is_whole && self.separates(c) => {
                    if in_group == 0 || in_group > 3 || (is_grouped && in_group < 3) {
                        return None;
                    }
                    (in_group, is_grouped) = (0, true);
                }
                '+' | '-' if at == 0 => put(c as u8)?,
                _ if is_whole && (c == self.decimal || matches!(c, 'e' | 'E')) => {
                    if is_grouped && in_group != 3 {
                        return None;
                    }
                    is_whole = false;
                    put(if c == self.decimal { b'.' } else { b'e' })?;
                }
                'e' | 'E' | '+' | '-' => put(c as u8)?,
                _ => return None,
            }
        }
        if is_whole && is_grouped && in_group != 3 {
            return None;
        }
        // What stands in the wrong place the standard library refuses: a sign, a second exponent.
        std::str::from_utf8(&plain[..length]).ok()?.parse().ok()
    }

    fn separates(self, c: char) -> bool {
        match self.thousands {
            // Programs write one of the three where people see a space.
            Some(' ' | '\u{a0}' | '\u{202f}') => matches!(c, ' ' | '\u{a0}' | '\u{202f}'),
            Some('\'' | '’') => matches!(c, '\'' | '’'),
            separator => separator == Some(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(decimal: char, thousands: Option<char>) -> Numbers {
        Numbers::new(decimal, thousands).unwrap()
    }

    /// A separator that nobody named is no digit group, and one in the wrong place is none either.
    #[test]
    fn separators_are_never_guessed() {
        let (german, grouped) = (numbers(',', None), numbers(',', Some('.')));
        for (text, one, other) in [
            ("19,5", Some(19.5), Some(19.5)),
            ("20", Some(20.0), Some(20.0)),
            ("-0,25", Some(-0.25), Some(-0.25)),
            ("1,5e3", Some(1500.0), Some(1500.0)),
            ("1e-2", Some(0.01), Some(0.01)),
            ("3.000", None, Some(3000.0)),
            ("1.234,56", None, Some(1234.56)),
            ("1.234.567", None, Some(1_234_567.0)),
            ("1234.567", None, None),
            ("1.23", None, None),
            ("1.23,4", None, None),
            (".123", None, None),
            ("1..234", None, None),
            ("1,234.567", None, None),
            ("1,2,3", None, None),
            ("1.234e5.678", None, None),
            ("", None, None),
            (",", None, None),
            ("--1", None, None),
            ("1-2", None, None),
            ("1e999", None, None),
            ("NaN", None, None),
            ("inf", None, None),
        ] {
            assert_eq!((german.parse(text), grouped.parse(text)), (one, other), "{text}");
        }
        assert_eq!(numbers('.', Some(',')).parse("-1,234,567.5"), Some(-1_234_567.5));
        assert_eq!(numbers(',', Some(' ')).parse("1\u{202f}234,5"), Some(1234.5));
        assert_eq!(numbers('.', Some('\'')).parse("1’234.5"), Some(1234.5));
        assert_eq!(numbers('.', None).parse("1,5"), None);
        assert!(numbers('.', None).advice("19,5").contains("--decimal ,"));
        assert!(german.advice("3.000").contains("--thousands"));
        assert_eq!(german.advice("yes"), "");
        for (decimal, thousands) in [(';', None), (',', Some(',')), ('.', Some('x')), ('.', Some('.'))] {
            assert!(Numbers::new(decimal, thousands).is_err(), "{decimal} {thousands:?}");
        }
    }

    proptest! {
        /// A number written in any of the ways is the number.
        #[test]
        fn written_numbers_are_read(whole in any::<u32>(), cents in 0..100_u32, negative: bool, german: bool,
            separator in proptest::sample::select(vec![None, Some('.'), Some(','), Some(' '), Some('\'')])) {
            let decimal = if german { ',' } else { '.' };
            prop_assume!(separator != Some(decimal));
            let digits = whole.to_string();
            let mut grouped = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at).is_multiple_of(3) {
                    grouped.extend(separator);
                }
                grouped.push(digit);
            }
            let sign = if negative { "-" } else { "" };
            let expected: f64 = format!("{sign}{whole}.{cents:02}").parse().unwrap();
            let text = format!("{sign}{grouped}{decimal}{cents:02}");
            prop_assert_eq!(numbers(decimal, separator).parse(&text), Some(expected), "{}", text);
        }
    }
}
