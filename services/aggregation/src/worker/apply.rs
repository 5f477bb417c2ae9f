//! Step 2 of the commit protocol: outputs into the lake. Repeating it changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use tidegauge_core::Key;
use tidegauge_core::ids::{Epoch, LineageId, Ordinal};
use tidegauge_core::lake::StoreError;
use tidegauge_core::time::Day;
use tidegauge_lake::apply::{ApplyError, Part, Target, apply_parts};
use tidegauge_lake::dead_letter;
use tidegauge_lake::index::{self, IndexEntry, IndexError};
use tidegauge_lake::{AggregatedRow, Footer, ObjectError, SCHEMA_VERSION, paths};

use super::probe::lake_is_writable;
use super::{Context, dead_letters};
use crate::crash::CrashStep;
use crate::decide::{ApplyFailure, ApplyJob, DeadBatch, OutputHour};

/// What the footers say besides the key: the last prepared epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) lineage: LineageId,
    pub(super) generation: u64,
    pub(super) epoch: Epoch,
    pub(super) ordinal: Ordinal,
}

/// What became of the outputs.
#[derive(Debug, Default)]
pub(super) struct ApplyReport {
    pub(super) keys: Vec<(u32, Result<(), ApplyFailure>)>,
    /// Dead letters, and whether they are in the lake now.
    pub(super) dead: Vec<(DeadBatch, bool)>,
    /// No object of a key could be written, but the probe could: the objects are to blame, not the lake.
    pub(super) probe_written: bool,
}

/// Applies outputs: all objects, then the hour indexes; dead letters beside them. A failure concerns its key only.
pub(super) async fn apply(
    context: &Arc<Context>,
    standing: Standing,
    jobs: &[ApplyJob],
    dead: Vec<DeadBatch>,
) -> ApplyReport {
    let parallel = context.options.parallel_objects.max(1);
    let places =
        jobs.iter().enumerate().flat_map(|(job, outputs)| (0..outputs.hours.len()).map(move |hour| (job, hour)));
    // Large keys stand in a queue of their own: the objects of others and dead letters do not wait for them.
    let is_small = |job: usize| jobs[job].series < context.options.large_key_series;
    let places: Vec<(usize, usize)> = places.collect();
    let small: Vec<_> = places.iter().copied().filter(|place| is_small(place.0)).collect();
    let large: Vec<_> = places.into_iter().filter(|place| !is_small(place.0)).collect();
    let small = stream::iter(small).map(|(job, hour)| async move {
        let outputs = &jobs[job];
        let hour = &outputs.hours[hour];
        let applied = apply_hour(context, standing, &outputs.key, outputs.epoch, hour).await;
        context.crash.reached(CrashStep::AfterObject);
        (job, hour.hour.day(), applied)
    });
    let large = async {
        let mut done = Vec::with_capacity(large.len());
        for (job, hour) in large {
            let (outputs, hour) = (&jobs[job], &jobs[job].hours[hour]);
            let applied = apply_large_hour(context, standing, outputs, hour).await;
            context.crash.reached(CrashStep::AfterObject);
            done.push((job, hour.hour.day(), applied));
        }
        done
    };
    let dead = stream::iter(dead).map(|batch| async move {
        let put = put_dead(context, standing, &batch).await;
        if let Err(error) = &put {
            tracing::warn!(tenant = %batch.tenant, %error, "dead letters could not be written");
        }
        (batch, put.is_ok())
    });
    let (mut objects, more, dead): (Vec<_>, Vec<_>, Vec<_>) =
        futures::join!(small.buffer_unordered(parallel).collect(), large, dead.buffered(parallel).collect());
    objects.extend(more);

    let mut failures: BTreeMap<usize, ApplyFailure> = BTreeMap::new();
    let mut days: BTreeMap<(usize, Day), Vec<IndexEntry>> = BTreeMap::new();
    for (job, day, applied) in objects {
        match applied {
            Ok(entry) => days.entry((job, day)).or_default().push(entry),
            Err(failure) => join(failures.entry(job).or_default(), failure),
        }
    }
    let indexes = stream::iter(days).map(|((job, day), entries)| async move {
        let key = &jobs[job].key;
        let tenant = context.authority.tenant(&key.tenant);
        let updated = index::update(context.backends.lake.as_ref(), &tenant, key.bucket, day, &entries).await;
        context.crash.reached(CrashStep::AfterIndex);
        (job, day, updated)
    });
    let indexes: Vec<_> = indexes.buffer_unordered(parallel).collect().await;
    for (job, day, updated) in indexes {
        if let Err(error) = updated {
            let no_room = matches!(&error, IndexError::Store(StoreError::Full(_)));
            let failure = ApplyFailure { parked: vec![format!("index of {day}: {error}")], stopped: None, no_room };
            join(failures.entry(job).or_default(), failure);
        }
    }

    let mut report = ApplyReport { dead, ..ApplyReport::default() };
    for (place, job) in jobs.iter().enumerate() {
        let result = failures.remove(&place).map_or(Ok(()), |failure| Err(named(failure)));
        if let Err(failure) = &result {
            tracing::warn!(key = %job.key, parked = ?failure.parked, stopped = ?failure.stopped, "outputs are parked");
        }
        report.keys.push((job.index, result));
    }
    if wants_probe(jobs, &report.keys) {
        report.probe_written = lake_is_writable(context, standing).await;
    }
    report
}

/// Whether objects failed, for a reason that may be theirs or the lake's, and no other key was written that would tell.
fn wants_probe(jobs: &[ApplyJob], results: &[(u32, Result<(), ApplyFailure>)]) -> bool {
    let failures = || results.iter().filter_map(|(_, result)| result.as_ref().err());
    let wrote = jobs.iter().zip(results).any(|(job, (_, result))| result.is_ok() && !job.hours.is_empty());
    // A full disk is everybody's trouble, and may still take something as small as a probe.
    !wrote && failures().any(|failure| failure.stopped.is_none()) && !failures().any(|failure| failure.no_room)
}

/// As [`apply_hour`], on a thread that may be busy for long: a large tenant does not hold up the others' calls (I7).
async fn apply_large_hour(
    context: &Arc<Context>,
    standing: Standing,
    job: &ApplyJob,
    hour: &OutputHour,
) -> Result<IndexEntry, ApplyFailure> {
    let _permit = context.large.acquire().await;
    let (own, key, epoch, hour) = (Arc::clone(context), job.key.clone(), job.epoch, hour.clone());
    let runtime = tokio::runtime::Handle::current();
    let work = move || runtime.block_on(apply_hour(&own, standing, &key, epoch, &hour));
    let applied = tokio::task::spawn_blocking(work).await;
    let ended = |error| ApplyFailure { parked: vec![format!("{}: {error}", job.key)], ..ApplyFailure::default() };
    applied.unwrap_or_else(|error| Err(ended(error)))
}

async fn apply_hour(
    context: &Context,
    standing: Standing,
    key: &Key,
    epoch: Epoch,
    hour: &OutputHour,
) -> Result<IndexEntry, ApplyFailure> {
    let window_ns = context.settings.window.ns();
    let rows: Vec<AggregatedRow> = hour
        .rows
        .iter()
        .map(|row| AggregatedRow {
            start_ns: row.start_ns,
            end_ns: row.start_ns + window_ns,
            metric: row.metric.clone(),
            row: row.row.clone(),
            revision: 0,
        })
        .collect();
    let tenant = context.authority.tenant(&key.tenant);
    let footer = Footer {
        lineage: standing.lineage,
        epoch: standing.epoch,
        ordinal: standing.ordinal,
        generation: standing.generation,
        key: key.clone(),
        schema_version: SCHEMA_VERSION,
    };
    let target = Target { tenant: &tenant, bucket: key.bucket, hour: hour.hour };
    let parts = [Part { epoch, rows: &rows }];
    let lake = context.backends.lake.as_ref();
    match apply_parts(lake, Some(&context.cache), &target, &parts, &footer).await {
        Ok(applied) => {
            metrics::counter!("tidegauge_aggregation_objects_total", "skipped" => applied.skipped.to_string())
                .increment(1);
            Ok(applied.entry)
        }
        Err(error) => {
            metrics::counter!("tidegauge_aggregation_object_failures_total").increment(1);
            let stopped = error.stops_key().then(|| error.to_string());
            let no_room = matches!(&error, ApplyError::Store(StoreError::Full(_)));
            Err(ApplyFailure { parked: vec![format!("{}: {error}", target.path())], stopped, no_room })
        }
    }
}

fn join(failure: &mut ApplyFailure, other: ApplyFailure) {
    failure.parked.extend(other.parked);
    failure.stopped = failure.stopped.take().or(other.stopped);
    failure.no_room |= other.no_room;
}

/// A failure that names a few objects: history of many years lies in a hundred thousand, and status must be answered.
fn named(mut failure: ApplyFailure) -> ApplyFailure {
    const NAMED: usize = 8;
    let others = failure.parked.len().saturating_sub(NAMED);
    if others > 0 {
        failure.parked.truncate(NAMED);
        failure.parked.push(format!("and {others} more"));
    }
    failure
}

/// Why dead letters could not be written.
#[derive(Debug, thiserror::Error)]
enum DeadError {
    #[error(transparent)]
    Encode(#[from] ObjectError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

async fn put_dead(context: &Context, standing: Standing, batch: &DeadBatch) -> Result<(), DeadError> {
    let tenant = context.authority.tenant(&batch.tenant);
    let path = paths::dead_letter_object(Some(&tenant), context.shard, standing.lineage, batch.epoch);
    let content = dead_letter::encode(&dead_letters::letters(context.shard, batch))?;
    Ok(dead_letter::put(context.backends.lake.as_ref(), &path, content).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lake is probed when something failed that may be the lake's fault and nothing was written that tells; never because
    /// of a full disk.
    #[test]
    fn when_the_lake_is_probed() {
        let key = Key::of(tidegauge_core::TenantId::parse("a").unwrap());
        let hour = OutputHour { hour: tidegauge_core::time::Hour(0), rows: Arc::from([]) };
        let job =
            |hours: Vec<OutputHour>| ApplyJob { index: 0, key: key.clone(), epoch: 1, ordinal: 1, series: 1, hours };
        let (writes, moves) = (job(vec![hour]), job(Vec::new()));
        let failed = |failure: ApplyFailure| (0, Err(failure));
        let plain = || failed(ApplyFailure::default());
        let stopped = || failed(ApplyFailure { stopped: Some("advice".to_owned()), ..ApplyFailure::default() });
        let full = || failed(ApplyFailure { no_room: true, ..ApplyFailure::default() });
        let asks = |jobs: &[&ApplyJob], results: &[(u32, Result<(), ApplyFailure>)]| {
            wants_probe(&jobs.iter().map(|job| (*job).clone()).collect::<Vec<_>>(), results)
        };
        assert!(asks(&[&writes], &[plain()]));
        assert!(asks(&[&writes, &moves], &[plain(), (1, Ok(()))]), "a boundary that moves writes no object");
        assert!(asks(&[&writes, &writes], &[plain(), stopped()]));
        assert!(!asks(&[&writes, &writes], &[plain(), (1, Ok(()))]), "another key was written");
        assert!(!asks(&[&writes, &writes], &[plain(), full()]));
        assert!(!asks(&[&writes], &[stopped()]) && !asks(&[&writes], &[(0, Ok(()))]) && !asks(&[], &[]));
    }

    /// However many objects cannot be written, a few are named, and the number of the others.
    #[test]
    fn a_failure_names_a_few_objects() {
        let failure = |count: usize| {
            let parked = (0..count).map(|at| at.to_string()).collect();
            named(ApplyFailure { parked, ..ApplyFailure::default() }).parked
        };
        assert_eq!(failure(8).len(), 8);
        let many = failure(100_000);
        assert_eq!((many.len(), many[8].as_str()), (9, "and 99992 more"));
    }
}
