//! Reading and writing values: little-endian fixed numbers, LEB128 for small ones.

use bytes::Bytes;
use tidegauge_core::Sum;
use tidegauge_core::hot::WindowRow;
use tidegauge_core::sum::SumParts;

use super::VERSION;

/// Writes a value.
#[derive(Debug)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new() -> Self {
        Self(vec![VERSION])
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.into()
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    pub(super) fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)).cast_unsigned());
    }

    pub(super) fn float(&mut self, float: f64) {
        self.0.extend_from_slice(&float.to_bits().to_le_bytes());
    }

    pub(super) fn fixed(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Aggregates; the last time is written relative to `start`.
    pub(super) fn row(&mut self, row: &WindowRow, start: i64) {
        self.number(row.count);
        let SumParts { value, low, rest } = row.sum.parts();
        self.float(value);
        self.float(low);
        self.bytes(&rest);
        self.float(row.min);
        self.float(row.max);
        self.float(row.last);
        self.signed(row.last_time_ns.wrapping_sub(start));
        self.number(row.late);
    }
}

/// What is wrong with a value.
pub(super) type Problem = &'static str;

/// Reads a value.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(value: &'a [u8]) -> Result<Self, Problem> {
        match value.split_first() {
            Some((&VERSION, rest)) => Ok(Self(rest)),
            Some(_) => Err("written by another version of this program"),
            None => Err("empty"),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn end(&self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err("too long") }
    }

    pub(super) fn byte(&mut self) -> Result<u8, Problem> {
        let (byte, rest) = self.0.split_first().ok_or("too short")?;
        self.0 = rest;
        Ok(*byte)
    }

    pub(super) fn number(&mut self) -> Result<u64, Problem> {
        let mut number = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7F);
            if shift == 63 && part > 1 {
                return Err("a number is too large");
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number is too long")
    }

    pub(super) fn small(&mut self) -> Result<u32, Problem> {
        u32::try_from(self.number()?).map_err(|_| "a number is too large")
    }

    pub(super) fn signed(&mut self) -> Result<i64, Problem> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or("too short")?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn float(&mut self) -> Result<f64, Problem> {
        Ok(f64::from_bits(u64::from_le_bytes(self.array()?)))
    }

    pub(super) fn fixed(&mut self) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Problem> {
        let length = usize::try_from(self.number()?).map_err(|_| "a length is too large")?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or("too short")?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Problem> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a text is not UTF-8")
    }

    fn sum(&mut self) -> Result<Sum, Problem> {
        let (value, low, rest) = (self.float()?, self.float()?, self.bytes()?);
        Sum::from_parts(value, low, rest).ok_or("a sum is none")
    }

    pub(super) fn row(&mut self, start: i64) -> Result<WindowRow, Problem> {
        Ok(WindowRow {
            count: self.number()?,
            sum: self.sum()?,
            min: self.float()?,
            max: self.float()?,
            last: self.float()?,
            last_time_ns: self.signed()?.wrapping_add(start),
            late: self.number()?,
        })
    }
}

/// Reads fixed parts of a key.
pub(super) fn key_part<const N: usize>(key: &[u8], at: usize) -> Result<[u8; N], Problem> {
    key.get(at..at + N).and_then(|part| part.try_into().ok()).ok_or("its key is too short")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u64, signed: i64, float: f64, bytes: Vec<u8>) {
            let mut writer = Writer::new();
            writer.number(number);
            writer.signed(signed);
            writer.float(float);
            writer.bytes(&bytes);
            writer.fixed(number);
            let value = writer.finish();
            let mut reader = Reader::new(&value).unwrap();
            prop_assert_eq!(reader.number(), Ok(number));
            prop_assert_eq!(reader.signed(), Ok(signed));
            prop_assert_eq!(reader.float().map(f64::to_bits), Ok(float.to_bits()));
            prop_assert_eq!(reader.bytes(), Ok(bytes.as_slice()));
            prop_assert_eq!(reader.fixed(), Ok(number));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(value: Vec<u8>) {
            if let Ok(mut reader) = Reader::new(&value) {
                while reader.row(0).is_ok() && reader.bytes().is_ok() && reader.signed().is_ok() {}
            }
        }
    }
}
