//! Sums against a naive oracle that counts binary digits.

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::{Sum, SumParts};

/// The exact sum, rounded, the slow way: a counter per binary digit of value.
fn oracle(values: &[f64]) -> f64 {
    let mut digits = vec![0_i64; 2200];
    for value in values {
        let sign = if *value < 0.0 { -1 } else { 1 };
        // From the top: the largest power of two that still fits is taken away, exactly.
        let mut left = value.abs();
        for digit in (0..2098_usize).rev() {
            let power = power(digit);
            if left >= power {
                left -= power;
                digits[digit] += sign;
            }
        }
        assert_eq!(left, 0.0);
    }
    let normal = |digits: &mut Vec<i64>| {
        for digit in 0..digits.len() - 1 {
            let carry = digits[digit].div_euclid(2);
            digits[digit] -= 2 * carry;
            digits[digit + 1] += carry;
        }
    };
    normal(&mut digits);
    let negative = *digits.last().unwrap() < 0;
    if negative {
        digits.iter_mut().for_each(|digit| *digit = -*digit);
        normal(&mut digits);
    }
    let sign = if negative { -1.0 } else { 1.0 };
    let Some(top) = digits.iter().rposition(|digit| *digit == 1) else { return 0.0 };
    if top < 53 {
        let value: f64 = (0..=top).filter(|digit| digits[*digit] == 1).map(power).sum();
        return sign * value;
    }
    let low = top - 52;
    let below = &digits[..low - 1];
    let up = digits[low - 1] == 1 && (digits[low] == 1 || below.contains(&1));
    let mantissa = (low..=top).fold(0_u64, |mantissa, digit| mantissa | (digits[digit] as u64) << (digit - low));
    let mantissa = (mantissa + u64::from(up)) as f64;
    // Two steps: a power of two above 2^1023 is no f64.
    if low >= 2098 { sign * f64::INFINITY } else { sign * (mantissa * power(low)) }
}

/// 2^(digit - 1074).
fn power(digit: usize) -> f64 {
    if digit < 52 { f64::from_bits(1 << digit) } else { f64::from_bits((digit as u64 - 51) << 52) }
}

fn finite() -> impl Strategy<Value = f64> {
    let special = prop::sample::select(vec![
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.1,
        1e-308,
        5e-324,
        -5e-324,
        f64::MIN_POSITIVE,
        1e16,
        f64::MAX,
        -f64::MAX,
        1.7e308,
        -1.7e308,
        2_f64.powi(970),
        -2_f64.powi(970),
        2_f64.powi(969),
        2_f64.powi(1023),
    ]);
    let any = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite());
    prop_oneof![any, -1e6..1e6_f64, special]
}

fn sum(values: &[f64]) -> Sum {
    let mut sum = Sum::ZERO;
    values.iter().for_each(|value| sum.add(*value));
    sum
}

/// Every form of a sum, as bits.
fn bits(sum: &Sum) -> (u64, u64, Vec<u8>) {
    let SumParts { value, low, rest } = sum.parts();
    (value.to_bits(), low.to_bits(), rest)
}

proptest! {
    /// The sum is the exact one, rounded once; in every order, however divided, and through storage.
    #[test]
    fn a_sum_is_exact_and_knows_no_order(
        (values, shuffled) in prop::collection::vec(finite(), 0..40)
            .prop_flat_map(|values| (Just(values.clone()), Just(values).prop_shuffle())),
        cuts in prop::collection::vec(0..40_usize, 0..6),
        cancel: bool,
    ) {
        let whole = sum(&values);
        prop_assert_eq!(whole.value().to_bits(), oracle(&values).to_bits());
        prop_assert_eq!(bits(&sum(&shuffled)), bits(&whole));

        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(shuffled.len())).collect();
        cuts.extend([0, shuffled.len()]);
        cuts.sort_unstable();
        let mut merged = Sum::ZERO;
        for cut in cuts.windows(2) {
            let part = sum(&shuffled[cut[0]..cut[1]]);
            let SumParts { value, low, rest } = part.parts();
            let stored = Sum::from_parts(value, low, &rest).unwrap();
            prop_assert_eq!(&stored, &part);
            prop_assert_eq!(bits(&stored), bits(&part));
            merged.merge(if cuts.len().is_multiple_of(2) { &stored } else { &part });
        }
        prop_assert_eq!(bits(&merged), bits(&whole));
        prop_assert_eq!(&merged, &whole);

        // Whatever was added can be taken away again: nothing is stuck.
        if cancel {
            shuffled.iter().for_each(|value| merged.add(-value));
            prop_assert_eq!(bits(&merged), bits(&Sum::ZERO));
        }
    }

    #[test]
    fn an_average_lies_between_the_smallest_and_the_largest(values in prop::collection::vec(finite(), 1..20)) {
        let (min, max) = values.iter().fold((f64::MAX, -f64::MAX), |(min, max), v| (v.min(min), v.max(max)));
        let (sum, count) = (sum(&values), values.len() as u64);
        let average = sum.average(count, min, max);
        prop_assert!(min <= average && average <= max, "{min} {average} {max}");
        if sum.value().is_infinite() {
            let quarters: Vec<f64> = values.iter().map(|value| value / 64.0).collect();
            let expected = oracle(&quarters) / count as f64 * 64.0;
            prop_assert!((average - expected).abs() <= expected.abs() * 1e-15, "{average} {expected}");
        } else {
            let plain = sum.value() / count as f64;
            prop_assert!(average == plain || average == min || average == max);
        }
    }

    /// Parts from outside are a sum or nothing; never a panic.
    #[test]
    fn no_parts_panic(value: f64, low: f64, rest in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(sum) = Sum::from_parts(value, low, &rest) {
            let SumParts { value, low, rest } = sum.parts();
            prop_assert_eq!(Sum::from_parts(value, low, &rest), Some(sum));
        }
    }
}

/// Two huge values, and a correction that takes them back.
#[test]
fn a_sum_out_of_range_comes_back() {
    let mut sum = sum(&[1.7e308, 1.7e308]);
    assert_eq!(sum.value(), f64::INFINITY);
    assert_eq!(sum.average(2, 1.7e308, 1.7e308), 1.7e308);
    sum.add(-1.7e308);
    sum.add(-1.7e308);
    assert_eq!((sum.value().to_bits(), sum.average(4, -1.7e308, 1.7e308)), (0, 0.0));
    // As a file of another writer has it.
    let mut foreign = Sum::from_parts(f64::NEG_INFINITY, 0.0, &[]).unwrap();
    assert_eq!(foreign.value(), f64::NEG_INFINITY);
    foreign.add(f64::MAX);
    assert_eq!(foreign.value(), -2_f64.powi(971), "-2^1024 + (2^1024 - 2^971)");
    assert!(Sum::from_parts(f64::NAN, 0.0, &[]).is_none());
}

/// A value that is not finite cannot enter by any door; if it does, the sum stays what it was.
#[test]
fn what_is_not_finite_is_ignored() {
    let mut sum = Sum::from(1.0);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        sum.add(value);
    }
    assert_eq!(sum, Sum::from(1.0));
}

/// Ordinary data needs no memory of its own: what is exact in about 100 binary digits.
#[test]
fn ordinary_sums_are_small() {
    let mut sum = Sum::ZERO;
    for i in 0..100_000_u32 {
        sum.add(f64::from(i % 1_000) * 0.1);
    }
    assert_eq!((sum.heap_bytes(), sum.parts().rest), (0, Vec::new()));
    assert_eq!(sum.value(), 4_995_000.0, "the plain sum is off in its last digits");
}
