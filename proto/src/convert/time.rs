//! Times: `google.protobuf.Timestamp` against Unix nanoseconds in an i64.

use prost_types::Timestamp;
use tidegauge_core::time::SECOND_NS;

/// A timestamp of Unix nanoseconds.
pub fn timestamp(ns: i64) -> Timestamp {
    Timestamp { seconds: ns.div_euclid(SECOND_NS), nanos: ns.rem_euclid(SECOND_NS) as i32 }
}

/// Unix nanoseconds of a timestamp; `None` outside the range of an i64 (years 1677 to 2262) or with nanos outside
/// 0 to 999,999,999.
pub fn timestamp_ns(timestamp: &Timestamp) -> Option<i64> {
    if !(0..SECOND_NS as i32).contains(&timestamp.nanos) {
        return None;
    }
    // In 128 bits: at the lower end the whole seconds alone lie outside the range.
    let ns = i128::from(timestamp.seconds) * i128::from(SECOND_NS) + i128::from(timestamp.nanos);
    i64::try_from(ns).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_the_range_are_refused() {
        for ns in [i64::MIN, i64::MAX, 0, -1, 1_772_434_800_123_456_789] {
            assert_eq!(timestamp_ns(&timestamp(ns)), Some(ns));
        }
        assert_eq!(timestamp_ns(&Timestamp { seconds: 253_370_764_800, nanos: 0 }), None, "year 9999");
        assert_eq!(timestamp_ns(&Timestamp { seconds: 0, nanos: -1 }), None);
    }
}
