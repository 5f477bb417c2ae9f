//! The merge against a naive oracle over the union of events.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidegauge_core::Sum;
use tidegauge_lake::AggregatedRow;
use tidegauge_lake::merge::{fold, merge_rows};
use tidegauge_lake::object::{decode, encode};

use crate::support::{event_row, footer};

/// One event as an addition of its own: minute, metric, value, offset, late.
fn event() -> impl Strategy<Value = AggregatedRow> {
    let metric = prop::sample::select(vec!["a", "b", "größe", "z"]);
    // Few distinct times, some within one microsecond, so that ties and sub-microsecond orders happen.
    let offset = prop::sample::select(vec![0, 1, 999, 1_000, 1_001, 59_999_999_998, 59_999_999_999]);
    let value = prop_oneof![
        4 => -1e9..1e9_f64,
        1 => prop::sample::select(vec![0.0, -0.0, 1.0]),
        1 => prop::sample::select(vec![1.7e308, -1.7e308, 1e300, -1e300, 1e-300]),
    ];
    (0..4_i64, metric, value, offset, any::<bool>())
        .prop_map(|(minute, metric, value, offset, late)| event_row(minute, metric, value, offset, late))
}

/// Events of each epoch.
fn epochs() -> impl Strategy<Value = Vec<Vec<AggregatedRow>>> {
    prop::collection::vec(prop::collection::vec(event(), 0..20), 0..6)
}

/// The rows that one epoch adds: its events folded in their order.
fn additions(events: &[AggregatedRow]) -> Vec<AggregatedRow> {
    let mut rows: BTreeMap<(String, i64), AggregatedRow> = BTreeMap::new();
    for event in events {
        rows.entry((event.metric.to_string(), event.start_ns))
            .and_modify(|row| fold(&mut row.row, &event.row))
            .or_insert_with(|| event.clone());
    }
    rows.into_values().collect()
}

/// What the rows must be: computed from all events of a window at once, without the code under test.
fn assert_is_union(rows: &[AggregatedRow], events: &[AggregatedRow]) -> Result<(), TestCaseError> {
    let mut windows: BTreeMap<(&str, i64), Vec<&AggregatedRow>> = BTreeMap::new();
    for event in events {
        windows.entry((event.metric.as_str(), event.start_ns)).or_default().push(event);
    }
    let keys: Vec<_> = rows.iter().map(|row| (row.metric.as_str(), row.start_ns)).collect();
    prop_assert_eq!(keys, windows.keys().copied().collect::<Vec<_>>());
    for (row, events) in rows.iter().zip(windows.values()) {
        let row = &row.row;
        let mut values: Vec<f64> = events.iter().map(|event| event.row.last).collect();
        // The latest event; of several at the same time the last in the log.
        let last = events.iter().max_by_key(|event| event.row.last_time_ns).expect("a window has events");
        prop_assert_eq!(row.count, events.len() as u64);
        prop_assert_eq!(row.late, events.iter().filter(|event| event.row.late == 1).count() as u64);
        prop_assert_eq!(row.last.to_bits(), last.row.last.to_bits());
        prop_assert_eq!(row.last_time_ns, last.row.last_time_ns);
        let mut sum = Sum::ZERO;
        values.iter().for_each(|value| sum.add(*value));
        prop_assert_eq!(&row.sum, &sum);
        values.sort_by(f64::total_cmp);
        prop_assert_eq!(row.min.to_bits(), values[0].to_bits());
        prop_assert_eq!(row.max.to_bits(), values[values.len() - 1].to_bits());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// However the events are cut into epochs, and through a file between any two of them, the rows are those of the
    /// union of the events; every step is a superset of the one before (I5).
    #[test]
    fn merging_equals_the_union(epochs in epochs()) {
        let mut rows: Vec<AggregatedRow> = Vec::new();
        for events in &epochs {
            let merged = merge_rows(rows.clone(), &additions(events));
            for old in &rows {
                let new = merged.iter().find(|new| new.order() == old.order());
                let new = new.ok_or_else(|| TestCaseError::fail(format!("{:?} vanished", old.order())))?;
                prop_assert!(new.row.count >= old.row.count && new.revision >= old.revision);
                prop_assert_eq!(new.revision > old.revision, new.row.count > old.row.count);
            }
            prop_assert!(merged.iter().all(|row| row.revision > 0));
            rows = if merged.is_empty() { merged } else {
                decode(encode(&merged, &footer(1)).expect("encodes")).expect("decodes").0
            };
        }
        assert_is_union(&rows, &epochs.concat())?;
    }

    /// Counts, sums, extremes and times do not depend on the order in which epochs are merged; nor does an addition's order
    /// within itself matter for sorting.
    #[test]
    fn order_does_not_matter(epochs in epochs()) {
        let merge = |epochs: &mut dyn Iterator<Item = &Vec<AggregatedRow>>| {
            epochs.fold(Vec::new(), |rows, events| {
                let mut additions = additions(events);
                additions.reverse();
                merge_rows(rows, &additions)
            })
        };
        let forward = merge(&mut epochs.iter());
        let backward = merge(&mut epochs.iter().rev());
        prop_assert_eq!(forward.len(), backward.len());
        for (a, b) in forward.iter().zip(&backward) {
            prop_assert_eq!(a.order(), b.order());
            prop_assert_eq!((a.row.count, a.row.late, a.revision), (b.row.count, b.row.late, b.revision));
            prop_assert_eq!(a.row.sum.parts(), b.row.sum.parts());
            prop_assert_eq!(a.row.average().to_bits(), b.row.average().to_bits());
            prop_assert_eq!((a.row.min.to_bits(), a.row.max.to_bits()), (b.row.min.to_bits(), b.row.max.to_bits()));
            prop_assert_eq!(a.row.last_time_ns, b.row.last_time_ns);
        }
    }
}

/// Additions that name a row twice count as one merge, in their order.
#[test]
fn doubles_among_additions_are_folded() {
    let twice = [event_row(0, "m", 1.0, 5, false), event_row(0, "m", 2.0, 5, true)];
    let new = merge_rows(Vec::new(), &twice);
    assert_eq!(new.len(), 1);
    assert_eq!((new[0].row.count, new[0].row.last, new[0].row.late, new[0].revision), (2, 2.0, 1, 1));
    let again = merge_rows(new, &twice);
    assert_eq!((again[0].row.count, again[0].row.sum.value(), again[0].revision), (4, 6.0, 2));
}
