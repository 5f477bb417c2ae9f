//! The same events in every legal encoding: the same verdicts, the same events on the log.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tidegauge_core::event::Mode;
use tidegauge_core::ids::Key;
use tidegauge_proto::convert::time::timestamp;
use tidegauge_proto::encodings::{Encoder, Head};
use tidegauge_proto::ingest::v1::Event;
use tidegauge_proto::raw::{ColumnsView, RequestView, decode_batch};
use tidegauge_proto::stream::v1 as pb;

use super::super::records::{self, Labels};
use super::super::rules::Rules;
use super::super::{columns, request, rows};
use super::oracle::{EARLIEST_NS, LATEST_NS, Logged, NOW_NS, TENANT, judge, logged};
use super::tenant;

/// An event whose texts are right: a wrong entry that a dictionary holds twice may be used once only, and an unused wrong
/// entry refuses the request.
fn event() -> impl Strategy<Value = Event> {
    let time = prop_oneof![9 => EARLIEST_NS..=LATEST_NS, 1 => Just(LATEST_NS + 1)];
    let value = prop_oneof![9 => -1e6..1e6, 1 => prop::sample::select(vec![f64::NAN, -0.0])];
    let dimensions = proptest::collection::hash_map("[a-c]{1,2}", "[x-z]{0,2}", 0..4);
    ("[a-b]", time, "[a-d]", value, dimensions, "[s-u]?", "[s-u]?").prop_map(
        |(event_type, time, metric_name, metric_value, dimensions, source, version)| Event {
            tenant_id: String::new(),
            event_type,
            timestamp: Some(timestamp(time)),
            metric_name,
            metric_value,
            dimensions,
            source,
            version,
        },
    )
}

/// What ingest makes of an encoded request.
fn decide(message: &[u8], record_bytes_max: usize) -> (Vec<Logged>, Vec<(u32, String)>) {
    let tenant = tenant(TENANT);
    let rules = Rules::at(&tenant, NOW_NS, 5);
    let view = RequestView::parse(message).expect("a request");
    let columns = view.columns.as_deref().map(|message| (message, ColumnsView::parse(message).expect("columns")));
    request::check(&view, columns.as_ref().map(|(_, view)| view)).expect("right as a whole");
    let decision = match &columns {
        Some((message, view)) => columns::decide(&rules, message, view).expect("the arrays fit together"),
        None => rows::decide(&rules, &view).expect("rows"),
    };
    let labels = Labels { key: Key::of(tenant.clone()), request: None, mode: Mode::Live, arrival_ns: NOW_NS };
    let payloads: Vec<Bytes> = records::encode(&decision, &labels, record_bytes_max).expect("every event fits");
    let accepted: Vec<Logged> =
        payloads.iter().flat_map(|payload| logged(&decode_batch(payload).expect("ingest's own record"))).collect();
    assert_eq!(accepted.len(), decision.accepted_len() as usize);
    (accepted, decision.rejected.into_iter().map(|(index, refusal)| (index, refusal.reason.to_owned())).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn verdicts_and_records_do_not_depend_on_the_encoding(
        events in vec(event(), 1..40),
        seeds in vec(any::<u64>(), 1..6),
        record_bytes_max in prop_oneof![Just(1_000_000_usize), 500_usize..2_000],
    ) {
        let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
        for (index, event) in (0..).zip(&events) {
            match judge(index, event) {
                Ok(logged) => accepted.push(logged),
                Err(reason) => rejected.push((index, reason)),
            }
        }
        let head = Head { producer_id: vec![7; 16], sequence: 3, mode: pb::Mode::Live };
        for seed in seeds {
            let message = Encoder::new(seed).request(&head, &events);
            let found = decide(&message, record_bytes_max);
            // Not compared as they are: 0 and -0 are equal, and a NaN is refused.
            prop_assert_eq!(format!("{:?}", found.0), format!("{:?}", accepted), "seed {}", seed);
            prop_assert_eq!(&found.1, &rejected, "seed {}", seed);
        }
    }
}
