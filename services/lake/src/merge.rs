//! The merge of additions into the rows of an object. Pure.

use tidegauge_core::hot::WindowRow;

use crate::row::AggregatedRow;

/// Merges additions into existing rows.
///
/// `existing` is sorted by [`AggregatedRow::order`] and without doubles, as decoded; so is the result. `additions` are
/// deltas: what the events of one epoch add. They should be sorted; doubles among them are merged in their order. Counts
/// and sums ([`tidegauge_core::Sum`]) add up, minimum and maximum widen, `last` follows the greater event time. **At equal event times the addition
/// wins**: its events stand later in the log than all that the object holds already.
///
/// Times are compared in nanoseconds: an object keeps what `last_time` in microseconds cuts off in a column of its own
/// ([`crate::schema::LAST_TIME_REST_NS`]), so the result does not depend on how events were divided into epochs.
///
/// The result is a superset (I5): no row vanishes, no count or revision falls. A row's revision rises by one for each
/// merge that touches it and is 1 at first.
pub fn merge_rows(existing: Vec<AggregatedRow>, additions: &[AggregatedRow]) -> Vec<AggregatedRow> {
    let sorted;
    let additions = if additions.is_sorted_by(|a, b| a.order() <= b.order()) {
        additions
    } else {
        let mut copy = additions.to_vec();
        copy.sort_by(|a, b| a.order().cmp(&b.order()));
        sorted = copy;
        &sorted
    };
    let mut additions = additions.iter().peekable();
    let mut merged = Vec::with_capacity(existing.len() + additions.len());
    for mut row in existing {
        while let Some(new) = additions.next_if(|addition| addition.order() < row.order()) {
            insert(&mut merged, new);
        }
        let mut touched = false;
        while let Some(addition) = additions.next_if(|addition| addition.order() == row.order()) {
            fold(&mut row.row, &addition.row);
            touched = true;
        }
        if touched {
            row.revision = row.revision.saturating_add(1);
        }
        merged.push(row);
    }
    for new in additions {
        insert(&mut merged, new);
    }
    merged
}

/// Appends a row that the object does not hold yet; a second addition for it is folded into the first.
fn insert(merged: &mut Vec<AggregatedRow>, new: &AggregatedRow) {
    match merged.last_mut() {
        Some(last) if last.order() == new.order() => fold(&mut last.row, &new.row),
        _ => merged.push(AggregatedRow { revision: 1, ..new.clone() }),
    }
}

/// Adds the aggregates of later events to those of earlier ones.
pub fn fold(row: &mut WindowRow, addition: &WindowRow) {
    row.count = row.count.saturating_add(addition.count);
    row.late = row.late.saturating_add(addition.late);
    row.sum.merge(&addition.sum);
    // The total order tells 0 from -0: the result does not depend on the order of merging.
    if addition.min.total_cmp(&row.min).is_lt() {
        row.min = addition.min;
    }
    if addition.max.total_cmp(&row.max).is_gt() {
        row.max = addition.max;
    }
    if addition.last_time_ns >= row.last_time_ns {
        row.last = addition.last;
        row.last_time_ns = addition.last_time_ns;
    }
}
