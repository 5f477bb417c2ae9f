//! Every path of the lake, built and read in this one place.
//!
//! | object | path |
//! |---|---|
//! | hour of `dashboard_metrics` | `aggregated/tenant_id=<t>/year=2026/month=03/day=02/hour=00/part-<bucket, 5 digits>.parquet` |
//! | hour index of a day | `_index/aggregated/<t>/<bucket, 5 digits>/2026-03-02.json` |
//! | dead letters of an epoch | `dead_letters/tenant_id=<t>/shard=<5 digits>/<lineage>-<epoch, 20 digits>.parquet` |
//! | … of no known tenant | `dead_letters/unattributed/shard=<5 digits>/<lineage>-<epoch, 20 digits>.parquet` |
//! | probe of a shard | `_probe/shard=<5 digits>` |
//!
//! Tenant ids need no escaping. Numbers are zero-padded, so that listings sort by time. A parser accepts exactly what
//! the builder writes: a file that merely resembles one of ours is none.

use tidegauge_core::ids::{Epoch, LineageId, ShardId, TenantId};
use tidegauge_core::scope::ScopedTenant;
use tidegauge_core::time::{DAY_NS, Day, HOUR_NS, Hour};

/// First part of the path of every object of `dashboard_metrics`.
pub const AGGREGATED: &str = "aggregated";

/// What the path of an hour object says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AggregatedPath {
    /// The tenant.
    pub tenant: TenantId,
    /// The bucket of the tenant.
    pub bucket: u32,
    /// The hour.
    pub hour: Hour,
}

/// What the path of an hour index object says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexPath {
    /// The tenant.
    pub tenant: TenantId,
    /// The bucket of the tenant.
    pub bucket: u32,
    /// The day.
    pub day: Day,
}

/// What the path of a dead-letter object says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetterPath {
    /// The tenant; `None` where it could not be told.
    pub tenant: Option<TenantId>,
    /// The shard that refused.
    pub shard: ShardId,
    /// The history of that shard.
    pub lineage: LineageId,
    /// The epoch that carried the letters.
    pub epoch: Epoch,
}

/// Path of the object that holds one hour of a key.
pub fn aggregated_object(tenant: &ScopedTenant, bucket: u32, hour: Hour) -> String {
    hour_object(tenant.id(), bucket, hour)
}

/// Prefix of all hour objects of a tenant.
pub fn aggregated_prefix(tenant: &ScopedTenant) -> String {
    format!("{AGGREGATED}/tenant_id={}/", tenant.id())
}

/// Prefix of a tenant's hour objects of one day, of all buckets.
pub fn aggregated_day_prefix(tenant: &ScopedTenant, day: Day) -> String {
    day_prefix(tenant.id(), day)
}

/// Path of the hour index of a key and day.
pub fn aggregated_index(tenant: &ScopedTenant, bucket: u32, day: Day) -> String {
    index_object(tenant.id(), bucket, day)
}

/// Prefix of all hour index objects of a tenant, of all buckets.
pub fn index_prefix(tenant: &ScopedTenant) -> String {
    format!("_index/{AGGREGATED}/{}/", tenant.id())
}

/// Path of the dead letters that one epoch of a shard kept for a tenant.
pub fn dead_letter_object(tenant: Option<&ScopedTenant>, shard: ShardId, lineage: LineageId, epoch: Epoch) -> String {
    letter_object(tenant.map(ScopedTenant::id), shard, lineage, epoch)
}

/// Prefix of all dead letters of a tenant, or of those of no known tenant.
pub fn dead_letter_prefix(tenant: Option<&ScopedTenant>) -> String {
    letter_prefix(tenant.map(ScopedTenant::id))
}

/// Path of the object with which the worker of a shard finds out whether the lake can be written; of no tenant, outside the
/// tables, without meaning to readers.
pub fn probe_object(shard: ShardId) -> String {
    format!("_probe/shard={:05}", shard.0)
}

/// Reads the path of an hour object; `None` for any other path.
pub fn parse_aggregated_object(path: &str) -> Option<AggregatedPath> {
    let mut parts = path.strip_prefix("aggregated/")?.split('/');
    let tenant = TenantId::parse(parts.next()?.strip_prefix("tenant_id=")?).ok()?;
    let year = number(parts.next()?.strip_prefix("year=")?)?;
    let month = number(parts.next()?.strip_prefix("month=")?)?;
    let day = number(parts.next()?.strip_prefix("day=")?)?;
    let hour_of_day: i64 = number(parts.next()?.strip_prefix("hour=")?)?;
    let bucket = number(parts.next()?.strip_prefix("part-")?.strip_suffix(".parquet")?)?;
    let day = Day::from_civil(year, month, day)?;
    let hour = Hour(day.0 * (DAY_NS / HOUR_NS) + hour_of_day);
    (hour_object(&tenant, bucket, hour) == path).then_some(AggregatedPath { tenant, bucket, hour })
}

/// Reads the path of an hour index object; `None` for any other path.
pub fn parse_aggregated_index(path: &str) -> Option<IndexPath> {
    let mut parts = path.strip_prefix("_index/aggregated/")?.split('/');
    let tenant = TenantId::parse(parts.next()?).ok()?;
    let bucket = number(parts.next()?)?;
    let day = parse_day(parts.next()?.strip_suffix(".json")?)?;
    (index_object(&tenant, bucket, day) == path).then_some(IndexPath { tenant, bucket, day })
}

/// Reads the path of a dead-letter object; `None` for any other path.
pub fn parse_dead_letter_object(path: &str) -> Option<DeadLetterPath> {
    let mut parts = path.strip_prefix("dead_letters/")?.split('/');
    let tenant = match parts.next()? {
        "unattributed" => None,
        part => Some(TenantId::parse(part.strip_prefix("tenant_id=")?).ok()?),
    };
    let shard = ShardId(number(parts.next()?.strip_prefix("shard=")?)?);
    let (lineage, epoch) = parts.next()?.strip_suffix(".parquet")?.split_once('-')?;
    let (lineage, epoch) = (lineage.parse().ok()?, number(epoch)?);
    let found = letter_object(tenant.as_ref(), shard, lineage, epoch) == path;
    found.then_some(DeadLetterPath { tenant, shard, lineage, epoch })
}

/// Reads `2026-03-02`.
pub(crate) fn parse_day(text: &str) -> Option<Day> {
    let mut parts = text.split('-');
    let day = Day::from_civil(number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?)?;
    (parts.next().is_none() && day.to_string() == text).then_some(day)
}

/// Reads the name of a folder of the hive layout, such as `month=03`.
pub(crate) fn parse_folder(name: &str, column: &str) -> Option<u32> {
    number(name.strip_prefix(column)?.strip_prefix('=')?)
}

fn day_prefix(tenant: &TenantId, day: Day) -> String {
    let (year, month, of_month) = day.civil();
    format!("{AGGREGATED}/tenant_id={tenant}/year={year:04}/month={month:02}/day={of_month:02}/")
}

fn hour_object(tenant: &TenantId, bucket: u32, hour: Hour) -> String {
    format!("{}hour={:02}/part-{bucket:05}.parquet", day_prefix(tenant, hour.day()), hour.hour_of_day())
}

fn index_object(tenant: &TenantId, bucket: u32, day: Day) -> String {
    format!("_index/{AGGREGATED}/{tenant}/{bucket:05}/{day}.json")
}

fn letter_prefix(tenant: Option<&TenantId>) -> String {
    match tenant {
        Some(tenant) => format!("dead_letters/tenant_id={tenant}/"),
        None => "dead_letters/unattributed/".to_owned(),
    }
}

fn letter_object(tenant: Option<&TenantId>, shard: ShardId, lineage: LineageId, epoch: Epoch) -> String {
    format!("{}shard={:05}/{lineage}-{epoch:020}.parquet", letter_prefix(tenant), shard.0)
}

/// Reads a number without sign.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
