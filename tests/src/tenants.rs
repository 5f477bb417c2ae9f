//! Names of tenants, chosen by the shard that their key lies on.

use tidegauge_core::{Key, TenantId, limits};

/// Four tenants on three of the default shards: the first two are neighbours on one.
pub fn on_three_shards() -> [String; 4] {
    let name = |n: u32| format!("tenant-{n:03}");
    let shard = |n: u32| Key::of(TenantId::parse(&name(n)).expect("a tenant")).shard(limits::SHARDS);
    let next = |is_wanted: &dyn Fn(u32) -> bool| (2..).find(|n| is_wanted(*n)).expect("names do not end");
    let neighbour = next(&|n| shard(n) == shard(1));
    let second = next(&|n| shard(n) != shard(1));
    let third = next(&|n| ![shard(1), shard(second)].contains(&shard(n)));
    [1, neighbour, second, third].map(name)
}
