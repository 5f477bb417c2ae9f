//! How many bytes of a segment are whose.

use std::collections::HashMap;

/// Keys that are counted: whoever has more than one part in 33 of a segment is among them.
const KEYS_MAX: usize = 32;

/// Bytes by key, in a bounded place: a key's count is never more than its bytes, and less by at most a 33rd of all of them
/// (J. Misra and D. Gries, "Finding repeated elements"). One who fills a segment cannot hide among others, and others are
/// not taken for him.
#[derive(Clone, Default, Debug)]
pub(super) struct Tally {
    counts: HashMap<Box<[u8]>, u64>,
}

impl Tally {
    /// Counts bytes of a key, as it stands in the record.
    pub(super) fn add(&mut self, key: &[u8], bytes: u64) {
        if let Some(count) = self.counts.get_mut(key) {
            *count += bytes;
            return;
        }
        if self.counts.len() < KEYS_MAX {
            self.counts.insert(key.into(), bytes);
            return;
        }
        // All lose as much as this one brings, or as the smallest has.
        let taken = self.counts.values().copied().min().unwrap_or(0).min(bytes);
        self.counts.retain(|_, count| {
            *count -= taken;
            *count > 0
        });
        if bytes > taken {
            self.counts.insert(key.into(), bytes - taken);
        }
    }

    /// The keys with their bytes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.counts.iter().map(|(key, count)| (&**key, *count))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes in whatever order, no count is too high, and none too low by more than the promise.
        #[test]
        fn counts_are_near(adds in prop::collection::vec((0_u8..80, 1_u64..1_000), 0..400)) {
            let mut tally = Tally::default();
            let mut exact: HashMap<u8, u64> = HashMap::new();
            for (key, bytes) in &adds {
                tally.add(&[*key], *bytes);
                *exact.entry(*key).or_default() += bytes;
            }
            let all: u64 = exact.values().sum();
            prop_assert!(tally.counts.len() <= KEYS_MAX);
            for (key, bytes) in exact {
                let counted = tally.counts.get(&[key][..]).copied().unwrap_or(0);
                prop_assert!(counted <= bytes && bytes - counted <= all / (KEYS_MAX as u64 + 1), "{key}: {counted} of {bytes}");
            }
        }
    }
}
