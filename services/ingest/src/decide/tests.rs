//! The decisions against naive ones, over requests as they come from the wire.

mod encodings;
mod oracle;
mod verdicts;

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use tidegauge_core::event::RequestId;
use tidegauge_core::ids::{Producer, TenantId};
use tidegauge_core::time::SECOND_NS;

use super::order::KeptOrder;
use super::quota::{Quota, QuotaBook};
use super::recent::Recent;

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant id")
}

proptest! {
    /// A refused request fits after exactly the time that the refusal names, and not a nanosecond earlier; what is let
    /// through never exceeds the rate by more than one second's worth and one request.
    #[test]
    fn quotas_are_exact(
        events_per_second in 1_u64..5_000,
        bytes_per_second in 1_u64..100_000,
        requests in proptest::collection::vec((0_u64..2_000_000_000, 1_u64..8_000, 1_u64..200_000), 1..40),
    ) {
        let quota = Quota { events_per_second, bytes_per_second };
        let tenant = tenant("t");
        let mut book = QuotaBook::new(quota, HashMap::new(), 10);
        let (mut now_ns, mut events_taken, mut largest) = (0, 0, 0);
        for (pause_ns, events, bytes) in requests {
            now_ns += pause_ns;
            if let Err(exceeded) = book.charge(&tenant, now_ns, events, bytes) {
                let wait_ns = exceeded.wait.as_nanos() as u64;
                prop_assert!(wait_ns > 0);
                prop_assert!(book.charge(&tenant, now_ns + wait_ns - 1, events, bytes).is_err());
                now_ns += wait_ns;
                prop_assert_eq!(book.charge(&tenant, now_ns, events, bytes), Ok(()));
            }
            events_taken += events;
            largest = largest.max(events);
            let allowed = u128::from(events_per_second) * (u128::from(now_ns) + SECOND_NS as u128) / SECOND_NS as u128;
            prop_assert!(u128::from(events_taken) <= allowed + u128::from(largest) + 1);
        }
    }
}

/// One tenant's use leaves another's quota alone; a special quota counts; accounts are bounded, and those that are full
/// again make room.
#[test]
fn quotas_are_kept_apart_and_bounded() {
    let quota = Quota { events_per_second: 10, bytes_per_second: 1_000 };
    let special = HashMap::from([(tenant("big"), Quota { events_per_second: 100, bytes_per_second: 1_000 })]);
    let mut book = QuotaBook::new(quota, special, 2);
    assert_eq!(book.charge(&tenant("a"), 0, 10, 1), Ok(()));
    let exceeded = book.charge(&tenant("a"), 0, 1, 1).expect_err("the quota is used up");
    assert_eq!((exceeded.what.as_str(), exceeded.wait), ("10 events a second", Duration::from_millis(100)));
    assert_eq!(book.charge(&tenant("big"), 0, 100, 1), Ok(()));
    let exceeded = book.charge(&tenant("b"), 0, 1, 1).expect_err("two tenants are counted");
    assert_eq!(exceeded.what, "2 tenants publishing at once");
    assert_eq!(book.charge(&tenant("b"), SECOND_NS as u64, 1, 1), Ok(()), "both are full again");

    let exceeded = book.charge(&tenant("b"), SECOND_NS as u64, 1, 5_000).expect_err("not full of bytes");
    assert_eq!((exceeded.what.as_str(), exceeded.wait), ("1000 bytes a second", Duration::from_millis(1)));
}

/// Behind a refused sequence nothing of the kept producer passes, until that sequence has its answer.
#[test]
fn a_kept_producer_keeps_its_order() {
    let kept = Producer::from_bytes([0xFF; 16]);
    let fresh = Producer::from_bytes([1; 16]);
    let mut order = KeptOrder::default();
    order.refused_for_now(fresh, 3);
    assert!(order.check(fresh, 4).is_ok(), "a fresh producer's order is not kept");

    order.refused_for_now(kept, 7);
    order.refused_for_now(kept, 6);
    order.refused_for_now(kept, 8);
    for (sequence, allowed) in [(5, true), (6, true), (7, false), (8, false)] {
        assert_eq!(order.check(kept, sequence).is_ok(), allowed, "{sequence}");
    }
    assert_eq!(order.check(kept, 7).map_err(|e| e.reason), Err("PRECEDING_REFUSED"));
    order.settled(kept, 5);
    assert!(order.check(kept, 7).is_err(), "6 has no answer yet");
    order.settled(kept, 6);
    assert!(order.check(kept, 7).is_ok());
}

#[test]
fn acknowledged_requests_are_remembered_up_to_a_limit() {
    let request = |sequence| RequestId { producer: Producer::from_bytes([1; 16]), sequence, digest: 7 };
    let mut recent = Recent::new(3);
    for sequence in [1, 2, 2, 3, 4] {
        recent.insert(&tenant("a"), &request(sequence));
    }
    let known: Vec<bool> = (1..=4).map(|sequence| recent.contains(&tenant("a"), &request(sequence))).collect();
    assert_eq!(known, [false, true, true, true]);
    assert!(!recent.contains(&tenant("b"), &request(4)), "another tenant's request is another one");
    assert!(!recent.contains(&tenant("a"), &RequestId { digest: 8, ..request(4) }));
}
