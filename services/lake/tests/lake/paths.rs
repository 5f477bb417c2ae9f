//! Paths: what is built is read, and nothing else is.

use proptest::prelude::*;
use tidegauge_core::ids::{LineageId, ShardId};
use tidegauge_core::time::{Day, Hour};
use tidegauge_lake::paths::*;

use crate::support::tenant;

proptest! {
    /// Parsers give back what the builders were given, for every hour from 2000 to 2200.
    #[test]
    fn parsers_read_what_builders_write(
        hour in 262_968..2_016_000_i64, bucket: u32, shard: u32, lineage: u128, epoch: u64,
        name in "[a-z0-9][a-z0-9_-]{0,62}",
    ) {
        let (tenant, hour) = (tenant(&name), Hour(hour));
        let found = parse_aggregated_object(&aggregated_object(&tenant, bucket, hour));
        prop_assert_eq!(found, Some(AggregatedPath { tenant: tenant.id().clone(), bucket, hour }));
        prop_assert!(aggregated_object(&tenant, bucket, hour).starts_with(&aggregated_day_prefix(&tenant, hour.day())));
        prop_assert!(aggregated_day_prefix(&tenant, hour.day()).starts_with(&aggregated_prefix(&tenant)));
        let found = parse_aggregated_index(&aggregated_index(&tenant, bucket, hour.day()));
        prop_assert_eq!(found, Some(IndexPath { tenant: tenant.id().clone(), bucket, day: hour.day() }));
        for owner in [None, Some(&tenant)] {
            let path = dead_letter_object(owner, ShardId(shard), LineageId(lineage), epoch);
            prop_assert!(path.starts_with(&dead_letter_prefix(owner)));
            let expected = DeadLetterPath {
                tenant: owner.map(|tenant| tenant.id().clone()), shard: ShardId(shard), lineage: LineageId(lineage), epoch,
            };
            prop_assert_eq!(parse_dead_letter_object(&path), Some(expected));
        }
    }
}

/// Files that resemble ours are none: unpadded, of an impossible date, with more or less around them.
#[test]
fn look_alikes_are_refused() {
    let path = aggregated_object(&tenant("t"), 0, Hour::of(Day::from_civil(2026, 3, 2).expect("a day").start_ns()));
    assert_eq!(path, "aggregated/tenant_id=t/year=2026/month=03/day=02/hour=00/part-00000.parquet");
    for (from, to) in [
        ("month=03", "month=3"),
        ("day=02", "day=32"),
        ("hour=00", "hour=24"),
        ("hour=00", "hour=+0"),
        ("part-00000", "part-0"),
        ("part-00000", "part-000000"),
        ("parquet", "parquet.crc"),
        ("tenant_id=t", "tenant_id=T"),
        ("tenant_id=t", "tenant_id="),
        ("hour=00/", "hour=00/x/"),
        ("aggregated", "rollups"),
    ] {
        assert_eq!(parse_aggregated_object(&path.replace(from, to)), None, "{to}");
    }
    for bad in ["_index/aggregated/t/0/2026-03-02.json", "_index/aggregated/t/00000/2026-3-2.json", "_index/t"] {
        assert_eq!(parse_aggregated_index(bad), None, "{bad}");
    }
    let probe = probe_object(ShardId(3));
    assert_eq!(probe, "_probe/shard=00003");
    assert!(parse_aggregated_object(&probe).is_none() && parse_dead_letter_object(&probe).is_none());
    // One tenant's prefix never covers another's, whose id merely begins alike.
    for prefix in [aggregated_prefix, index_prefix] {
        assert!(!prefix(&tenant("t1")).starts_with(&prefix(&tenant("t"))));
    }
}
