//! The ring of a tenant's latest changes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegauge_core::hot::CurrentValue;
use tokio::sync::watch;

/// The latest changes of a tenant.
#[derive(Debug)]
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    /// Number of the next change; wakes watchers.
    next: watch::Sender<u64>,
    /// Changes kept.
    changes_max: usize,
}

#[derive(Debug, Default)]
struct Ring {
    groups: VecDeque<Group>,
    /// Changes in all groups.
    changes: usize,
    /// Number of the next change.
    next: u64,
}

/// Changes that became durable together.
#[derive(Clone, Debug)]
struct Group {
    /// Number of the first one.
    first: u64,
    values: Arc<[CurrentValue]>,
}

/// What a watcher finds at its cursor.
#[derive(PartialEq, Debug)]
pub(crate) enum Found {
    /// Changes in order, perhaps none.
    Changes(Vec<CurrentValue>),
    /// The ring has passed the cursor: so many changes are skipped, the cursor stands behind all of them.
    Missed(u64),
}

impl Feed {
    pub(crate) fn new(changes_max: usize) -> Self {
        Self { ring: Mutex::default(), next: watch::Sender::new(0), changes_max }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends changes and wakes the watchers. Never waits for one.
    pub(crate) fn publish(&self, values: Vec<CurrentValue>) {
        if values.is_empty() {
            return;
        }
        let mut ring = self.ring();
        let group = Group { first: ring.next, values: values.into() };
        ring.next += group.values.len() as u64;
        ring.changes += group.values.len();
        ring.groups.push_back(group);
        // The newest group always stays, also if it alone is larger than the ring.
        while ring.changes > self.changes_max && ring.groups.len() > 1 {
            if let Some(oldest) = ring.groups.pop_front() {
                ring.changes -= oldest.values.len();
            }
        }
        let next = ring.next;
        drop(ring);
        self.next.send_replace(next);
    }

    /// Notes that changes could not be read and so are not here: every watcher has missed them.
    pub(crate) fn lose(&self, changes: usize) {
        let mut ring = self.ring();
        *ring = Ring { next: ring.next + changes as u64, ..Ring::default() };
        let next = ring.next;
        drop(ring);
        self.next.send_replace(next);
    }

    /// Where a watcher begins: behind everything published so far. With what wakes it.
    pub(crate) fn subscribe(&self) -> (u64, watch::Receiver<u64>) {
        let wake = self.next.subscribe();
        (self.end(), wake)
    }

    /// The number of the next change.
    pub(crate) fn end(&self) -> u64 {
        self.ring().next
    }

    /// Reads at the cursor, at most `changes_max` changes, and moves the cursor on.
    pub(crate) fn read(&self, cursor: &mut u64, changes_max: usize) -> Found {
        let ring = self.ring();
        let oldest = ring.groups.front().map_or(ring.next, |group| group.first);
        if *cursor < oldest {
            let missed = ring.next - *cursor;
            *cursor = ring.next;
            return Found::Missed(missed);
        }
        let at = ring.groups.partition_point(|group| group.first <= *cursor).saturating_sub(1);
        let mut parts = Vec::new();
        let mut room = changes_max;
        for group in ring.groups.range(at..) {
            let from = (*cursor - group.first) as usize;
            let until = group.values.len().min(from + room);
            parts.push((Arc::clone(&group.values), from..until));
            room -= until - from;
            *cursor += (until - from) as u64;
            if room == 0 {
                break;
            }
        }
        drop(ring);
        Found::Changes(parts.into_iter().flat_map(|(values, range)| values[range].to_vec()).collect())
    }
}

#[cfg(test)]
mod tests {
    use tidegauge_core::ids::MetricName;

    use super::*;

    fn values(counts: std::ops::Range<u64>) -> Vec<CurrentValue> {
        let metric = MetricName::parse("m").expect("valid");
        let value = |event_count| CurrentValue {
            metric: metric.clone(),
            last_value: 0.0,
            last_time_ns: 0,
            updated_at_ns: 0,
            event_count,
        };
        counts.map(value).collect()
    }

    fn counts(found: Found) -> Vec<u64> {
        match found {
            Found::Changes(values) => values.into_iter().map(|value| value.event_count).collect(),
            Found::Missed(missed) => panic!("missed {missed}"),
        }
    }

    /// Each watcher reads every change once and in order, as many as it asks for, whatever the others do.
    #[test]
    fn cursors_are_independent() {
        let feed = Feed::new(10);
        let (mut fast, wake) = feed.subscribe();
        let (mut slow, _) = feed.subscribe();
        feed.publish(values(0..3));
        assert!(wake.has_changed().expect("open"));
        assert_eq!(counts(feed.read(&mut fast, 100)), [0, 1, 2]);
        feed.publish(values(3..6));
        let (mut late, _) = feed.subscribe();
        assert_eq!(counts(feed.read(&mut fast, 100)), [3, 4, 5]);
        assert_eq!(counts(feed.read(&mut slow, 2)), [0, 1]);
        assert_eq!(counts(feed.read(&mut slow, 2)), [2, 3], "the end of a group and the start of the next one");
        assert_eq!(counts(feed.read(&mut slow, 2)), [4, 5]);
        assert_eq!(counts(feed.read(&mut slow, 2)), [0; 0]);
        assert_eq!(counts(feed.read(&mut late, 1)), [0; 0], "begins behind what was published");
    }

    /// A watcher that fell out of the ring is told exactly what it skipped, and then goes on with the newest.
    #[test]
    fn the_slow_are_told_what_they_missed() {
        let feed = Feed::new(10);
        let (mut cursor, _) = feed.subscribe();
        feed.publish(values(0..4));
        assert_eq!(counts(feed.read(&mut cursor, 100)).len(), 4);
        for first in (4..40).step_by(4) {
            feed.publish(values(first..first + 4));
        }
        assert_eq!(feed.read(&mut cursor, 100), Found::Missed(36));
        assert_eq!(counts(feed.read(&mut cursor, 100)), [0; 0]);
        feed.publish(values(40..60));
        assert_eq!(
            counts(feed.read(&mut cursor, 100)),
            (40..60).collect::<Vec<_>>(),
            "larger than the ring, but newest"
        );
        feed.publish(values(60..62));
        feed.lose(5);
        assert_eq!(feed.read(&mut cursor, 100), Found::Missed(7));
        feed.publish(values(67..68));
        assert_eq!(counts(feed.read(&mut cursor, 100)), [67]);
    }
}
