//! The probe: a small object of the shard's own, written to tell an object that cannot be replaced from a lake that cannot be
//! written. The one holds its key, the other nobody ([`crate::decide`]).

use bytes::Bytes;
use tidegauge_core::lake::{Expected, StoreError};
use tidegauge_lake::paths;

use super::Context;
use super::apply::Standing;

/// Whether the probe of this shard can be written now. A failure is not told: what failed before it was.
pub(super) async fn lake_is_writable(context: &Context, standing: Standing) -> bool {
    write(context, standing).await.is_ok()
}

async fn write(context: &Context, standing: Standing) -> Result<(), StoreError> {
    let lake = context.backends.lake.as_ref();
    let path = paths::probe_object(context.shard);
    let expected = lake.get(&path).await?.map_or(Expected::Absent, |(_, version)| Expected::Version(version));
    let content = format!("generation {} epoch {}\n", standing.generation, standing.epoch);
    lake.replace(&path, &expected, Bytes::from(content)).await.map(drop)
}
