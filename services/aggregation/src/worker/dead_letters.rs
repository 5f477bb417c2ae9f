//! Dead letters on their way into the lake.

use tidegauge_core::ShardId;
use tidegauge_lake::dead_letter::DeadLetter as Letter;
use tidegauge_proto::convert::batch;

use crate::decide::{DeadBatch, DeadLetter};

/// Letters as they stand in the lake: one for one, with their bytes as they are. Events that share a dictionary go on
/// sharing it: taken apart, a megabyte of them could become gigabytes.
pub(super) fn letters(shard: ShardId, dead: &DeadBatch) -> Vec<Letter> {
    dead.letters.iter().map(|letter| one(shard, dead, letter)).collect()
}

fn one(shard: ShardId, dead: &DeadBatch, letter: &DeadLetter) -> Letter {
    let indexes = match letter.reason.whole_record() {
        true => Vec::new(),
        // Encoded by this program: if it cannot be read all the same, its bytes are kept as they are.
        false => batch::decode(letter.payload.clone()).map_or_else(|_| Vec::new(), |events| events.indexes),
    };
    Letter {
        tenant: Some(dead.tenant.clone()),
        shard,
        ordinal: letter.ordinal,
        events: letter.events,
        indexes,
        reason: letter.reason.as_str().into(),
        detail: letter.detail.clone(),
        arrival_ns: letter.arrival_ns,
        payload: letter.payload.clone(),
    }
}

#[cfg(test)]
mod tests {
    use tidegauge_core::event::{Dimensions, IndexRange, Mode};
    use tidegauge_core::time::HOUR_NS;
    use tidegauge_lake::dead_letter;

    use super::*;
    use crate::decide::tests::{T0, batch as record, key, raw, settings};
    use crate::decide::{Settings, Shard};

    /// 10,000 events of which all but one are too old, and which share a dimension set of 25 kB.
    fn sharing(sequence: i64) -> tidegauge_core::event::EventBatch {
        let events: Vec<_> =
            (0..10_000).map(|at| (at % 8, T0 - 72 * HOUR_NS + i64::from(at) + sequence, 1.0)).collect();
        let mut batch = record(&key("a"), Mode::Live, T0, &events);
        let pairs = (0..64).map(|at| (format!("k{at}"), format!("{at:03}") + &"x".repeat(390)));
        batch.columns.dimension_sets = vec![Dimensions::from_pairs(pairs.collect()).unwrap()];
        batch.columns.times[7_000] = T0;
        batch
    }

    /// What events share is written once for all of them: the object of an epoch is no larger than the records were, and
    /// so are the letters on their way into it.
    #[test]
    fn what_events_share_is_written_once() {
        let mut shard = Shard::new(Settings { dead_bytes_max: 1 << 30, ..settings() });
        let first = record(&key("a"), Mode::Live, T0, &[(0, T0, 1.0)]);
        shard.process(&key("a"), &first, &raw(&first), T0);
        let mut on_log = 0;
        for sequence in 0..40 {
            let batch = sharing(sequence);
            let bytes = raw(&batch);
            on_log += bytes.len();
            shard.process(&key("a"), &batch, &bytes, T0);
        }
        let changes = shard.take_changes(1);
        let checkpointed: usize = changes.iter().filter_map(|change| change.value.as_ref()).map(|v| v.len()).sum();
        assert!(checkpointed < on_log + (1 << 20), "{checkpointed} bytes in the checkpoint, {on_log} on the log");
        let dead = shard.dead_jobs(T0).remove(0);
        let letters = letters(ShardId(0), &dead);
        assert_eq!((letters.len(), letters.iter().map(|letter| letter.events).sum::<u64>()), (40, 40 * 9_999));
        let indexes = [IndexRange { first: 0, count: 7_000 }, IndexRange { first: 7_001, count: 2_999 }];
        assert!(letters.iter().all(|letter| letter.indexes == indexes));
        let in_memory: usize = letters.iter().map(|letter| letter.payload.len() + 16 * letter.indexes.len()).sum();
        assert!(in_memory < on_log + (64 << 10), "{in_memory} bytes, {on_log} on the log");
        let object = dead_letter::encode(&letters).unwrap();
        assert!(object.len() < on_log, "{} bytes, {on_log} on the log", object.len());
        assert_eq!(dead_letter::decode(object).unwrap().len(), 40);
    }

    /// Small letters are not as good as none: what goes with each counts towards the room for dead letters.
    #[test]
    fn small_letters_are_bounded_too() {
        let mut shard = Shard::new(settings());
        let mut letters = 0;
        while shard.has_room() {
            shard.undecodable(&key("a"), &bytes::Bytes::from_static(b"?"), String::new(), T0);
            letters += 1;
        }
        assert!(letters <= shard.settings().dead_bytes_max / 256, "{letters}");
    }
}
