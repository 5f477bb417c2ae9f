//! The seam (I6): which part of a lake object belongs to a snapshot, and whether its version fits.

use tidegauge_core::hot::KeyMeta;
use tidegauge_core::time::{HOUR_NS, Hour};
use tidegauge_core::{Epoch, Ordinal};

/// How an hour object of a key is read under a boundary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Every row starts below the boundary.
    Whole,
    /// Rows from the boundary on are cut away: they are among the live windows.
    BelowBoundary,
    /// No row starts below the boundary.
    Nothing,
}

/// The part of an hour that lies below the boundary.
pub fn part_of(hour: Hour, boundary_ns: i64) -> Part {
    let start = hour.start_ns();
    if boundary_ns <= start {
        Part::Nothing
    } else if boundary_ns >= start.saturating_add(HOUR_NS) {
        Part::Whole
    } else {
        Part::BelowBoundary
    }
}

/// Whether the version of an object that a footer describes holds what the state of its key does not know of yet: events
/// beyond its as-of, or outputs of an epoch that was not told, of which another object or the index may be missing.
///
/// Ordinals count along a shard's lineage and go on across its lease generations. A generation begins where the last
/// prepared epoch of the one before ended, and every object was written after its epoch was prepared: an object of an
/// older generation is therefore never beyond. An object of the same or a younger generation is beyond when its
/// ordinal is: a worker that has taken over may publish records that the as-of of the generation before has already
/// counted. Epochs count along the lineage too, and one is told before anything of it is written.
pub fn beyond(as_of: &KeyMeta, footer_generation: u64, footer_ordinal: Ordinal, footer_epoch: Epoch) -> bool {
    footer_generation >= as_of.version.generation
        && (footer_ordinal > as_of.version.ordinal || footer_epoch > as_of.index_version)
}

#[cfg(test)]
mod tests {
    use tidegauge_core::hot::HotVersion;

    use super::*;

    /// Proves the three cases of a boundary, and one nanosecond around the edges of an hour.
    #[test]
    fn an_hour_is_cut_at_the_boundary() {
        let hour = Hour(10);
        let (start, end) = (hour.start_ns(), hour.start_ns() + HOUR_NS);
        assert_eq!(part_of(hour, start), Part::Nothing);
        assert_eq!(part_of(hour, start + 1), Part::BelowBoundary);
        assert_eq!(part_of(hour, end - 1), Part::BelowBoundary);
        assert_eq!(part_of(hour, end), Part::Whole);
    }

    /// Proves that an object is beyond an as-of only by its ordinal or its epoch, and never when an older generation wrote
    /// it.
    #[test]
    fn an_object_ahead_of_the_as_of_is_seen() {
        let version = HotVersion { generation: 2, ordinal: 500, push: 9 };
        let as_of = KeyMeta { version, index_version: 7, ..KeyMeta::default() };
        assert!(!beyond(&as_of, 2, 500, 7));
        assert!(beyond(&as_of, 2, 501, 7));
        assert!(!beyond(&as_of, 1, 900, 8), "another shard's count, of before the key moved here");
        assert!(!beyond(&as_of, 3, 450, 6), "replayed by the next worker");
        assert!(beyond(&as_of, 3, 501, 7));
        assert!(beyond(&as_of, 2, 500, 8), "an epoch that was not told");
    }
}
