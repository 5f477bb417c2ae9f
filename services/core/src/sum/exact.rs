//! A number in fixed point that spans all of f64, and the sum of 2^64 of them.

/// 64-bit digits: 2^-1074 to 2^1024, 64 binary digits for as many values, one for the sign.
const DIGITS: usize = 34;
const BYTES: usize = DIGITS * 8;
/// Binary digits of an f64.
const MANTISSA: u32 = 53;

/// Two's complement in units of 2^-1074, lowest digit first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Exact([u64; DIGITS]);

impl Default for Exact {
    fn default() -> Self {
        Self([0; DIGITS])
    }
}

impl Exact {
    /// ±2^1024: the least power of two that no f64 holds.
    pub(super) fn out_of_range(negative: bool) -> Self {
        let mut exact = Self::default();
        exact.add_digits(1 << (2098 % 64), 2098 / 64, negative);
        exact
    }

    /// Adds a finite value.
    pub(super) fn add(&mut self, value: f64) {
        let bits = value.to_bits();
        let exponent = (bits >> 52 & 0x7FF) as usize;
        let fraction = bits & ((1 << 52) - 1);
        // Below the smallest normal number the exponent stays and the leading 1 is missing.
        let (mantissa, shift) = if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
        self.add_digits(u128::from(mantissa) << (shift % 64), shift / 64, value.is_sign_negative());
    }

    /// Adds or takes away two digits at a place.
    fn add_digits(&mut self, number: u128, place: usize, negative: bool) {
        let mut carry = false;
        let addends = [number as u64, (number >> 64) as u64].into_iter().chain(std::iter::repeat(0));
        for (at, (digit, addend)) in self.0[place..].iter_mut().zip(addends).enumerate() {
            if at >= 2 && !carry {
                break;
            }
            let ((sum, one), (sum_carried, other));
            if negative {
                (sum, one) = digit.overflowing_sub(addend);
                (sum_carried, other) = sum.overflowing_sub(u64::from(carry));
            } else {
                (sum, one) = digit.overflowing_add(addend);
                (sum_carried, other) = sum.overflowing_add(u64::from(carry));
            }
            *digit = sum_carried;
            carry = one | other;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let mut carry = false;
        for (digit, addend) in self.0.iter_mut().zip(other.0) {
            let (sum, one) = digit.overflowing_add(addend);
            let (sum, other) = sum.overflowing_add(u64::from(carry));
            *digit = sum;
            carry = one | other;
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0 == [0; DIGITS]
    }

    fn is_negative(&self) -> bool {
        self.0[DIGITS - 1] >> 63 == 1
    }

    /// The number divided by 2^`scale`, rounded to the nearest f64, to the even one of two. The quotient must not be so
    /// small that it loses digits at the lower end of f64.
    pub(super) fn round(&self, scale: u32) -> f64 {
        let sign = u64::from(self.is_negative()) << 63;
        let mut magnitude = self.0;
        if self.is_negative() {
            let mut carry = true;
            for digit in &mut magnitude {
                (*digit, carry) = (!*digit).overflowing_add(u64::from(carry));
            }
        }
        let Some(top) = magnitude.iter().rposition(|digit| *digit != 0) else { return 0.0 };
        let length = top as u32 * 64 + (64 - magnitude[top].leading_zeros());
        if length <= MANTISSA {
            return f64::from_bits(sign | magnitude[0]);
        }
        // The leading digits, and what stands below them.
        let dropped = length - MANTISSA;
        let (place, shift) = ((dropped / 64) as usize, dropped % 64);
        let above = magnitude.get(place + 1).copied().unwrap_or(0);
        let pair = u128::from(above) << 64 | u128::from(magnitude[place]);
        let mantissa = (pair >> shift) as u64 & ((1 << MANTISSA) - 1);
        let is_set = |digit: u32| magnitude[(digit / 64) as usize] >> (digit % 64) & 1 == 1;
        let half = is_set(dropped - 1);
        let more = {
            let (place, shift) = (((dropped - 1) / 64) as usize, (dropped - 1) % 64);
            magnitude[place] & ((1 << shift) - 1) != 0 || magnitude[..place].iter().any(|digit| *digit != 0)
        };
        let exponent = u64::from(dropped.saturating_sub(scale));
        if exponent >= 2046 {
            return f64::from_bits(sign | f64::INFINITY.to_bits());
        }
        // The leading 1 of the mantissa raises the exponent by one; so does a mantissa that is rounded up to 2^53, and
        // beyond the largest number that gives infinity.
        let rounded = (exponent << 52) + mantissa + u64::from(half && (more || mantissa & 1 == 1));
        f64::from_bits(sign | rounded)
    }

    /// The form of [`super::SumParts::rest`].
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [0; BYTES];
        for (place, digit) in bytes.chunks_exact_mut(8).zip(self.0) {
            place.copy_from_slice(&digit.to_le_bytes());
        }
        let Some(first) = bytes.iter().position(|byte| *byte != 0) else { return Vec::new() };
        let fill = if self.is_negative() { 0xFF } else { 0 };
        let last = bytes.iter().rposition(|byte| *byte != fill).unwrap_or(first);
        // The highest byte must show the sign.
        let shows = |byte: u8| byte >> 7 == fill >> 7;
        let end = if shows(bytes[last]) { last + 1 } else { last + 2 };
        let mut out = (first as u16).to_le_bytes().to_vec();
        out.extend_from_slice(&bytes[first..end.max(first + 1)]);
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (first, bytes) = bytes.split_first_chunk::<2>()?;
        let first = usize::from(u16::from_le_bytes(*first));
        let fill = if *bytes.last()? >> 7 == 1 { 0xFF } else { 0 };
        let mut all = [fill; BYTES];
        all.get_mut(..first)?.fill(0);
        all.get_mut(first..first + bytes.len())?.copy_from_slice(bytes);
        let mut exact = Self::default();
        for (digit, place) in exact.0.iter_mut().zip(all.as_chunks::<8>().0) {
            *digit = u64::from_le_bytes(*place);
        }
        Some(exact)
    }
}
