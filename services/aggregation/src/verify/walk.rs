//! Gathering the facts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidegauge_core::checkpoint::{Progress, StoreError};
use tidegauge_core::log::{LogRecord, Position};
use tidegauge_core::scope::{ScopedTenant, SystemAuthority};
use tidegauge_core::time::{Day, Hour};
use tidegauge_core::{Key, ShardId};
use tidegauge_lake::{Footer, dead_letter, index, object, paths};
use tidegauge_proto::convert::batch;

use super::{Facts, Finding, KeyFacts, VerifyError, VerifyReport, check};
use crate::decide::Shard;
use crate::options::{AggregationOptions, Backends};

/// Bytes of log read at once.
const READ_BYTES: usize = 4 << 20;

/// Verifies every shard.
///
/// # Errors
/// [`VerifyError`] when a backend cannot be read; what does not add up is in the report.
pub async fn verify(
    options: &AggregationOptions,
    backends: &Backends,
    authority: &SystemAuthority,
) -> Result<VerifyReport, VerifyError> {
    let mut report = VerifyReport::default();
    for shard in (0..backends.log.shards()).map(ShardId) {
        let acquired = backends.checkpoints.acquire(shard).await?;
        let progress = acquired.progress;
        let state = Shard::restore(options.settings()?, progress.ordinal, &acquired.entries)
            .map_err(|source| VerifyError::Restore { shard, source })?;
        drop(acquired.entries);
        let mut walk = Walk { shard, backends, authority, progress, facts: Facts::default() };
        walk.facts.prepared = walk.progress.prepared;
        walk.facts.ordinal = walk.progress.ordinal;
        walk.state(&state).await?;
        walk.dead_letters(&state).await?;
        walk.log(state).await?;
        report.findings.extend(check(shard, &walk.facts));
        report.shards.push((shard, walk.facts));
    }
    Ok(report)
}

struct Walk<'a> {
    shard: ShardId,
    backends: &'a Backends,
    authority: &'a SystemAuthority,
    progress: Progress,
    facts: Facts,
}

impl Walk<'_> {
    fn find(&mut self, subject: impl Into<String>, problem: impl Into<String>) {
        self.facts.objects.push(Finding { shard: self.shard, subject: subject.into(), problem: problem.into() });
    }

    async fn state(&mut self, state: &Shard) -> Result<(), StoreError> {
        for key in state.keys() {
            let mut facts = KeyFacts::of_state(key);
            let epochs = self.objects(&key.key, &mut facts).await?;
            if let Some(outbox) = key.outbox() {
                let applied = |hour: Hour| epochs.get(&hour).is_some_and(|epoch| *epoch >= outbox.epoch);
                let open = outbox.hours.iter().filter(|hour| !applied(hour.hour));
                for row in open.flat_map(|hour| hour.rows.iter()) {
                    facts.outbox_events += row.row.count;
                    facts.outbox_late += row.row.late;
                    facts.metrics.entry(row.metric.clone()).or_default().1 += row.row.count;
                }
            }
            self.facts.keys.insert(key.key.clone(), facts);
        }
        Ok(())
    }

    /// Sums a key's objects; the epoch that each hour's footer names.
    async fn objects(&mut self, key: &Key, facts: &mut KeyFacts) -> Result<BTreeMap<Hour, u64>, StoreError> {
        let tenant = self.authority.tenant(&key.tenant);
        let lake = self.backends.lake.clone();
        let mut epochs = BTreeMap::new();
        let mut paths_by_day: BTreeMap<Day, BTreeSet<String>> = BTreeMap::new();
        for meta in lake.list(&paths::aggregated_prefix(&tenant)).await? {
            let place = paths::parse_aggregated_object(&meta.path).filter(|place| place.bucket == key.bucket);
            let (Some(place), Some((content, _))) = (place, lake.get(&meta.path).await?) else { continue };
            let (rows, footer) = match object::decode(content) {
                Ok(found) => found,
                Err(error) => {
                    self.find(meta.path, error.to_string());
                    continue;
                }
            };
            self.check_footer(&meta.path, key, &footer);
            facts.lake_events += rows.iter().map(|row| row.row.count).sum::<u64>();
            facts.lake_late += rows.iter().map(|row| row.row.late).sum::<u64>();
            for row in rows {
                facts.metrics.entry(row.metric).or_default().1 += row.row.count;
            }
            epochs.insert(place.hour, footer.epoch);
            paths_by_day.entry(place.hour.day()).or_default().insert(meta.path);
        }
        self.check_indexes(&tenant, key, &paths_by_day).await;
        Ok(epochs)
    }

    fn check_footer(&mut self, path: &str, key: &Key, footer: &Footer) {
        if footer.key != *key {
            self.find(path, format!("holds the rows of {}", footer.key));
        } else if footer.lineage != self.progress.lineage {
            self.find(
                path,
                format!("was written by lineage {}, the state is {}", footer.lineage, self.progress.lineage),
            );
        } else if footer.epoch > self.progress.prepared {
            self.find(path, format!("holds epoch {}, the state only {}", footer.epoch, self.progress.prepared));
        }
    }

    async fn check_indexes(&mut self, tenant: &ScopedTenant, key: &Key, found: &BTreeMap<Day, BTreeSet<String>>) {
        for (day, paths) in found {
            let index = match index::load(self.backends.lake.as_ref(), tenant, key.bucket, *day).await {
                Ok(index) => index,
                Err(error) => {
                    self.find(format!("index of {key} on {day}"), error.to_string());
                    continue;
                }
            };
            let named: BTreeSet<String> =
                index.into_iter().flat_map(|index| index.entries).map(|entry| entry.path).collect();
            let missing: Vec<&String> = paths.difference(&named).collect();
            // Objects of an epoch that is not completed may not be named yet; the next start names them.
            if self.progress.completed == self.progress.prepared {
                for path in missing {
                    self.find(path, format!("is missing from the index of {day}"));
                }
            }
        }
    }

    /// Counts dead events of the tenants in lake and state.
    async fn dead_letters(&mut self, state: &Shard) -> Result<(), StoreError> {
        let tenants: BTreeSet<_> = state.keys().iter().map(|key| key.key.tenant.clone()).collect();
        let lake = self.backends.lake.clone();
        for tenant in tenants {
            let scoped = self.authority.tenant(&tenant);
            let mut events = 0;
            let mut written = BTreeSet::new();
            for meta in lake.list(&paths::dead_letter_prefix(Some(&scoped))).await? {
                let place = paths::parse_dead_letter_object(&meta.path);
                let Some(place) = place.filter(|p| p.shard == self.shard && p.lineage == self.progress.lineage) else {
                    continue;
                };
                let Some((content, _)) = lake.get(&meta.path).await? else { continue };
                match dead_letter::decode(content) {
                    Ok(letters) => {
                        events += letters.iter().map(|letter| letter.events).sum::<u64>();
                        written.insert(place.epoch);
                    }
                    Err(error) => self.find(meta.path, error.to_string()),
                }
            }
            let open =
                state.dead_jobs(i64::MAX).into_iter().filter(|b| b.tenant == tenant && !written.contains(&b.epoch));
            events += open.flat_map(|batch| batch.letters).map(|letter| letter.events).sum::<u64>();
            self.facts.dead.insert(tenant, events);
        }
        Ok(())
    }

    /// Counts what the log holds before the checkpoint, and works through what comes after it.
    async fn log(&mut self, mut state: Shard) -> Result<(), StoreError> {
        let mut position = Position::start();
        let mut before = !self.progress.position.is_start();
        self.facts.reaches_checkpoint = !before;
        loop {
            let read = self.backends.log.read(self.shard, &position, READ_BYTES, Duration::ZERO).await?;
            if read.records.is_empty() {
                break;
            }
            for record in read.records {
                position = record.position.clone();
                if before {
                    self.count(&record);
                } else {
                    self.facts.log_records_after += 1;
                    replay(&mut state, &record);
                }
                if before && position == self.progress.position {
                    before = false;
                    self.facts.reaches_checkpoint = true;
                }
            }
        }
        // A log whose every record is acknowledged and past retention may be empty.
        if before && self.facts.log_records == 0 {
            let status = self.backends.log.status(self.shard).await?;
            self.facts.reaches_checkpoint = status.end == self.progress.position;
        }
        for key in state.keys() {
            let facts = self.facts.keys.entry(key.key.clone()).or_default();
            facts.replayed = key.counters;
            facts.replayed_sums = key.sums();
        }
        Ok(())
    }

    fn count(&mut self, record: &LogRecord) {
        let events = match batch::decode(record.payload.clone()) {
            Ok(batch) if batch.tenant == record.key.tenant => batch.columns.len() as u64,
            _ => 1,
        };
        self.facts.log_records += 1;
        self.facts.keys.entry(record.key.clone()).or_default().log_events += events;
    }
}

fn replay(state: &mut Shard, record: &LogRecord) {
    match batch::decode(record.payload.clone()) {
        // The arrival stands for the clock: idle keys are of no interest here.
        Ok(batch) => state.process(&record.key, &batch, &record.payload, batch.arrival_ns),
        Err(error) => state.undecodable(&record.key, &record.payload, error.to_string(), 0),
    }
}
