//! One budget for the files and sockets that a process may have open, divided once, at the start.
//!
//! Every part that opens something for the outside (a connection, an object of a query) has a share that it does not
//! exceed, so that what must not fail for want of a descriptor (the log, checkpoints, the hot store, writing the lake)
//! always finds one, whoever connects.

use crate::limits;

/// Descriptors of the process itself: standard streams, runtime, listeners, locks, one read of a settings or key file, and
/// connections that are accepted only to be refused. A started server without connections has about 30 open.
const BASE: u64 = 48;
/// Of the log, in each shard: the segment that is written, the next one with its directory, and a reader.
const LOG_PER_SHARD: u64 = 4;
/// Of the log as a whole: the check of older segments, and a listing.
const LOG: u64 = 2;
/// Of a shard's checkpoints: the file that is written, its directory, and a listing.
const STATE_PER_SHARD: u64 = 3;
/// Of the merge of checkpoint files, one at a time: what it reads, what it writes, and its directory.
const STATE: u64 = limits::CHECKPOINT_FILES_AT_ONCE as u64 + 2;
/// Of the hot store beside its cached tables: write-ahead files and their directory, lock and journal of the database,
/// and the tables that a fold or a compaction writes or reads without the cache.
const HOT: u64 = 24;

/// What each part gets at least, and at most.
const HOT_TABLES: Bounds = Bounds { least: 16, most: 256, weight: 1 };
const LAKE_WRITES: Bounds = Bounds { least: 12, most: 192, weight: 1 };
const LAKE_OBJECTS: Bounds = Bounds { least: 12, most: 768, weight: 1 };
const HTTP: Bounds = Bounds { least: 8, most: 256, weight: 1 };
const GRPC: Bounds = Bounds { least: 16, most: limits::CONNECTIONS_MAX as u64, weight: 4 };

/// A share that grows with what there is.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    least: u64,
    most: u64,
    /// Of what is left when all have their least.
    weight: u64,
}

impl Bounds {
    fn of(self, left: u64, weights: u64) -> usize {
        let share = (left / weights).saturating_mul(self.weight).saturating_add(self.least);
        usize::try_from(share.min(self.most)).unwrap_or(usize::MAX)
    }
}

/// How the descriptors of a process are divided. The shares and [`DescriptorBudget::fixed`] together never exceed
/// [`DescriptorBudget::limit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DescriptorBudget {
    /// What the process may have open.
    pub limit: u64,
    /// What the process itself, log, checkpoints and hot store need whatever comes.
    pub fixed: u64,
    /// Tables that the hot store keeps open.
    pub hot_tables: usize,
    /// Files of lake objects that are being read whole, written or deleted.
    pub lake_writes: usize,
    /// Lake objects that queries have open.
    pub lake_objects: usize,
    /// Connections of gRPC.
    pub grpc_connections: usize,
    /// Connections of HTTP.
    pub http_connections: usize,
}

/// The process may open fewer files than it needs to keep its promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the process may open {limit} files, but a log of {shards} shards needs at least {needed}")]
pub struct TooFewDescriptors {
    /// What it may open.
    pub limit: u64,
    /// What it needs.
    pub needed: u64,
    /// Shards of the log.
    pub shards: u32,
}

impl DescriptorBudget {
    /// Divides what a process may open.
    ///
    /// # Errors
    /// [`TooFewDescriptors`] when the parts would have less than they need.
    pub fn divide(limit: u64, shards: u32) -> Result<Self, TooFewDescriptors> {
        let fixed = BASE + LOG + STATE + HOT + u64::from(shards) * (LOG_PER_SHARD + STATE_PER_SHARD);
        let shares = [HOT_TABLES, LAKE_WRITES, LAKE_OBJECTS, HTTP, GRPC];
        let needed = fixed + shares.iter().map(|share| share.least).sum::<u64>();
        let left = limit.checked_sub(needed).ok_or(TooFewDescriptors { limit, needed, shards })?;
        let weights = shares.iter().map(|share| share.weight).sum();
        Ok(Self {
            limit,
            fixed,
            hot_tables: HOT_TABLES.of(left, weights),
            lake_writes: LAKE_WRITES.of(left, weights),
            lake_objects: LAKE_OBJECTS.of(left, weights),
            grpc_connections: GRPC.of(left, weights),
            http_connections: HTTP.of(left, weights),
        })
    }

    /// Lake objects that queries may hold for the whole of their execution; the rest is for those that are opened, read and
    /// closed again.
    pub fn held_objects(&self) -> usize {
        self.lake_objects / 3 * 2
    }

    /// The shares by name, for logs and metrics.
    pub fn shares(&self) -> [(&'static str, u64); 6] {
        [
            ("fixed", self.fixed),
            ("hot_tables", self.hot_tables as u64),
            ("lake_writes", self.lake_writes as u64),
            ("lake_objects", self.lake_objects as u64),
            ("grpc_connections", self.grpc_connections as u64),
            ("http_connections", self.http_connections as u64),
        ]
    }
}

impl Default for DescriptorBudget {
    /// Every share at its most, as where the limit is high.
    fn default() -> Self {
        let most = |share: Bounds| share.of(u64::MAX, 1);
        Self {
            limit: u64::MAX,
            fixed: 0,
            hot_tables: most(HOT_TABLES),
            lake_writes: most(LAKE_WRITES),
            lake_objects: most(LAKE_OBJECTS),
            grpc_connections: most(GRPC),
            http_connections: most(HTTP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a process may open, the shares together are no more than that, none is less than its least, none shrinks
    /// where there is more, and at a usual hard limit every one is whole.
    #[test]
    fn the_shares_fit_the_limit() {
        for shards in [1, 4, 64, 1_024] {
            let needed = DescriptorBudget::divide(0, shards).expect_err("nothing cannot be divided").needed;
            let refused = DescriptorBudget::divide(needed - 1, shards).expect_err("one too few");
            assert_eq!((refused.limit, refused.needed, refused.shards), (needed - 1, needed, shards));
            let mut before = [0; 6];
            for limit in (needed..needed + 9_000).chain([1 << 20, u64::MAX]) {
                let budget = DescriptorBudget::divide(limit, shards).expect("enough");
                let shares = budget.shares().map(|(_, share)| share);
                assert!(shares.iter().sum::<u64>() <= limit, "{budget:?}");
                assert!(shares.iter().zip(before).all(|(now, before)| *now >= before), "{budget:?}");
                before = shares;
            }
        }
        let usual = DescriptorBudget::divide(524_288, limits::SHARDS).expect("enough");
        assert_eq!(DescriptorBudget { limit: u64::MAX, fixed: 0, ..usual }, DescriptorBudget::default());
    }

    /// A process with 256 descriptors still has room for some of everything.
    #[test]
    fn two_hundred_and_fifty_six_are_enough() {
        let budget = DescriptorBudget::divide(256, limits::SHARDS).expect("enough");
        assert!(budget.grpc_connections >= 16 && budget.http_connections >= 8, "{budget:?}");
    }
}
