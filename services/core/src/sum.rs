//! Sums of finite values that do not depend on the order of the values, nor on how they were divided.
//!
//! **What is promised.** A [`Sum`] is the exact sum of the values added, as a real number. [`Sum::value`] is that number
//! rounded once, to the nearest f64 and to the even one of two; a number beyond the largest f64 is an infinity, and later
//! values bring it back. So the same values give the same bits, in every order and however they were divided into records,
//! epochs, cuts and files. A sum of zeros of any sign is 0.
//!
//! **How.** `hi + lo` holds the sum in two f64 without overlap (a "double-double"); each addition keeps its rounding error
//! by TwoSum (D. Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B): six additions, no branch. What
//! does not fit the two, because the values span more than about 100 binary digits, goes into a fixed-point number that
//! spans all of f64 (U. Kulisch's long accumulator), which only such sums have. Compensated summation alone would be a
//! little smaller, but its last digits depend on the order, and an overflow in it can never be taken back.

mod exact;
#[cfg(test)]
mod tests;

use std::fmt;

use self::exact::Exact;

/// The average of a sum out of range is computed from the sum divided by this power of two: 2^64 values add up to less
/// than 2^1088.
const SCALE: u32 = 128;

/// The exact sum of finite values. See the [module](self).
#[derive(Clone, Default)]
pub struct Sum {
    hi: f64,
    lo: f64,
    /// What `hi + lo` cannot hold.
    rest: Option<Box<Exact>>,
}

/// A sum as it is stored and sent: `value + low + rest`. The same sum always has the same parts.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SumParts {
    /// The sum, rounded; infinite if it is out of range.
    pub value: f64,
    /// What the rounding of `value` took away, rounded in turn; 0 if `value` is infinite.
    pub low: f64,
    /// What then remains, or the whole sum if `value` is infinite: two bytes with the place of the lowest byte, counted
    /// from 2^-1074, then the bytes of the two's complement; all little-endian. Empty, and nearly always is, for 0.
    pub rest: Vec<u8>,
}

/// The sum, rounded, and what the rounding took away exactly (Knuth's TwoSum). NaN in the second where that overflows.
#[inline]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_taken = sum - a;
    (sum, (a - (sum - b_taken)) + (b - b_taken))
}

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self { hi: 0.0, lo: 0.0, rest: None };

    /// Adds a finite value; others are ignored, because nothing could bring a sum back from them.
    #[inline]
    pub fn add(&mut self, value: f64) {
        let (hi, error) = two_sum(self.hi, value);
        let (lo, rest) = two_sum(self.lo, error);
        // Not true of NaN, which stands for an overflow.
        if rest == 0.0 {
            self.hi = hi;
            self.lo = lo;
        } else {
            self.add_exactly(value, (hi, lo, rest));
        }
    }

    #[cold]
    fn add_exactly(&mut self, value: f64, (hi, lo, rest): (f64, f64, f64)) {
        if !value.is_finite() {
            return;
        }
        let exact = self.rest.get_or_insert_default();
        if rest.is_finite() {
            (self.hi, self.lo) = (hi, lo);
            exact.add(rest);
        } else {
            exact.add(self.hi);
            self.hi = value;
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        self.add(other.hi);
        self.add(other.lo);
        if let Some(rest) = &other.rest {
            self.rest.get_or_insert_default().merge(rest);
        }
    }

    /// The sum, rounded to the nearest f64; an infinity if it is out of range. Never NaN.
    pub fn value(&self) -> f64 {
        self.canonical().0
    }

    /// The sum divided by the number of its values, of which `min` is the smallest and `max` the largest: never outside
    /// of these. It is `value() / count`, except where the sum is out of range, and then within one part in 2^52.
    pub fn average(&self, count: u64, min: f64, max: f64) -> f64 {
        let (value, _, rest) = self.canonical();
        let average = match rest {
            Some(exact) if value.is_infinite() => exact.round(SCALE) / count as f64 * 2_f64.powi(SCALE as i32),
            _ => value / count as f64,
        };
        // Not f64::clamp: it panics for bounds that no row has, and files come from outside.
        if average < min {
            min
        } else if average > max {
            max
        } else {
            average
        }
    }

    /// The form that is stored and sent.
    pub fn parts(&self) -> SumParts {
        let (value, low, rest) = self.canonical();
        SumParts { value, low, rest: rest.map_or_else(Vec::new, |exact| exact.to_bytes()) }
    }

    /// The sum of parts; `None` if no sum has them. An infinite value without a rest, as files of other writers may have,
    /// stands for 2^1024: it stays out of range until as much is taken away.
    pub fn from_parts(value: f64, low: f64, rest: &[u8]) -> Option<Self> {
        if value.is_nan() || !low.is_finite() {
            return None;
        }
        let rest = match rest {
            [] if value.is_infinite() => Some(Exact::out_of_range(value < 0.0)),
            [] => None,
            bytes => Some(Exact::from_bytes(bytes)?),
        };
        let hi = if value.is_infinite() { 0.0 } else { value };
        // Zeros lose their sign.
        Some(Self { hi: hi + 0.0, lo: low + 0.0, rest: rest.map(Box::new) })
    }

    /// What the sum takes in memory beside itself.
    pub fn heap_bytes(&self) -> usize {
        if self.rest.is_some() { size_of::<Exact>() } else { 0 }
    }

    /// The parts of [`SumParts`].
    fn canonical(&self) -> (f64, f64, Option<Exact>) {
        let mut exact = match &self.rest {
            None => {
                let (value, low) = two_sum(self.hi, self.lo);
                if low.is_finite() {
                    return (value, low + 0.0, None);
                }
                Exact::default()
            }
            Some(rest) => (**rest).clone(),
        };
        exact.add(self.hi);
        exact.add(self.lo);
        let value = exact.round(0);
        if value.is_infinite() {
            return (value, 0.0, Some(exact));
        }
        exact.add(-value);
        let low = exact.round(0);
        exact.add(-low);
        (value, low, (!exact.is_zero()).then_some(exact))
    }
}

impl From<f64> for Sum {
    fn from(value: f64) -> Self {
        let mut sum = Self::ZERO;
        sum.add(value);
        sum
    }
}

/// Sums are equal when the numbers are.
impl PartialEq for Sum {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, low, rest) = self.canonical();
        write!(f, "Sum({value:?} + {low:?}{})", if rest.is_some() { " + …" } else { "" })
    }
}
