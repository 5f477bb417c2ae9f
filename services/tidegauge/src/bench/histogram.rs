//! Times and their percentiles.

use std::time::Duration;

/// Collected times. Keeps each one: a benchmark has at most some millions.
#[derive(Clone, Debug, Default)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    /// Adds a time.
    pub(super) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The times at these ranks (0 to 1), smallest time not below the rank's share; zero without times.
    pub(super) fn percentiles<const N: usize>(&mut self, ranks: [f64; N]) -> [Duration; N] {
        self.0.sort_unstable();
        ranks.map(|rank| {
            let at = ((self.0.len() as f64 * rank).ceil() as usize).saturating_sub(1);
            self.0.get(at).copied().unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut times = Times::default();
        assert_eq!(times.percentiles([0.5]), [Duration::ZERO]);
        for ms in (1..=100).rev() {
            times.add(Duration::from_millis(ms));
        }
        assert_eq!(times.percentiles([0.5, 0.99, 1.0]), [50, 99, 100].map(Duration::from_millis));
    }
}
