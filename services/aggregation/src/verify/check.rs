//! The comparison.

use tidegauge_core::ShardId;

use super::{Facts, Finding, KeyFacts};
use crate::decide::Counters;

/// Compares the facts of a shard; what does not add up.
pub fn check(shard: ShardId, facts: &Facts) -> Vec<Finding> {
    let mut findings = facts.objects.clone();
    let mut find = |subject: String, problem: String| findings.push(Finding { shard, subject, problem });
    if !facts.reaches_checkpoint {
        let problem = format!("the log does not reach the position of epoch {}", facts.prepared);
        find("log".to_owned(), problem);
    }
    // Retention may have removed the oldest records; it never adds any.
    let whole_log = facts.log_records == facts.ordinal;
    if facts.log_records > facts.ordinal {
        let problem = format!("holds {} records before ordinal {}", facts.log_records, facts.ordinal);
        find("log".to_owned(), problem);
    }
    for (key, found) in &facts.keys {
        for problem in key_problems(found, whole_log) {
            find(key.to_string(), problem);
        }
    }
    for tenant in facts.keys.keys().map(|key| &key.tenant).collect::<std::collections::BTreeSet<_>>() {
        let counted: u64 = facts.keys.iter().filter(|(k, _)| k.tenant == *tenant).map(|(_, f)| f.counters.dead).sum();
        let kept = facts.dead.get(tenant).copied().unwrap_or(0);
        if counted != kept {
            find(tenant.to_string(), format!("counted {counted} dead events, kept {kept}"));
        }
    }
    findings
}

fn key_problems(found: &KeyFacts, whole_log: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let counters = &found.counters;
    for (when, counters) in [("at the checkpoint", counters), ("after the replay", &found.replayed)] {
        if !counters.conserved() {
            problems.push(unbalanced(when, counters));
        }
    }
    if found.log_events > counters.on_log || (whole_log && found.log_events != counters.on_log) {
        problems.push(format!("the log holds {} events, the checkpoint counted {}", found.log_events, counters.on_log));
    }
    let replayed = &found.replayed;
    let (lake, outbox) = (found.lake_events, found.outbox_events);
    let (lake_late, outbox_late) = (found.lake_late, found.outbox_late);
    let sums = [
        ("events", counters.counted(), lake, outbox, found.state_events),
        ("late events", counters.late, lake_late, outbox_late, found.state_late),
        ("events after the replay", replayed.counted(), lake, outbox, found.replayed_sums.rows),
        ("late events after the replay", replayed.late, lake_late, outbox_late, found.replayed_sums.rows_late),
    ];
    for (what, counted, lake, outbox, state) in sums {
        if counted != lake + outbox + state {
            problems.push(format!(
                "counted {counted} {what}, but there are {lake} in the lake, {outbox} on their way and {state} in the state"
            ));
        }
    }
    for (when, counted, series) in [
        ("", counters.counted(), found.series_events),
        (" after the replay", replayed.counted(), found.replayed_sums.series),
    ] {
        if series != counted {
            problems.push(format!("counted {counted} events{when}, the series {series}"));
        }
    }
    // What is too much of one metric may be too little of another.
    let unequal: Vec<_> = found.metrics.iter().filter(|(_, (series, rows))| series != rows).collect();
    for (metric, (series, rows)) in unequal.iter().take(METRICS_NAMED) {
        problems.push(format!("counted {series} events of the metric {:?}, its rows hold {rows}", metric.as_str()));
    }
    if unequal.len() > METRICS_NAMED {
        problems.push(format!("so it is with {} metrics in all", unequal.len()));
    }
    problems
}

/// Metrics of a key that findings name.
const METRICS_NAMED: usize = 3;

fn unbalanced(when: &str, counters: &Counters) -> String {
    format!(
        "{when} {} events were on the log, but {} duplicates, {} on time, {} late, {} backfilled and {} dead",
        counters.on_log, counters.duplicates, counters.on_time, counters.late, counters.backfilled, counters.dead
    )
}

#[cfg(test)]
mod tests {
    use tidegauge_core::event::Mode;
    use tidegauge_core::{Key, MetricName, TenantId};

    use super::*;
    use crate::decide::tests::{T0, batch, key, raw, settings};
    use crate::decide::{KeySums, Shard};

    fn sound() -> Facts {
        let counters = Counters { on_log: 10, duplicates: 1, on_time: 4, late: 2, backfilled: 1, dead: 2 };
        let key = KeyFacts {
            counters,
            log_events: 10,
            lake_events: 4,
            lake_late: 1,
            state_events: 1,
            state_late: 0,
            outbox_events: 2,
            outbox_late: 1,
            series_events: 7,
            metrics: [("m", (3, 3)), ("n", (4, 4))].map(|(m, counts)| (MetricName::parse(m).unwrap(), counts)).into(),
            replayed: counters,
            replayed_sums: KeySums { rows: 1, rows_late: 0, series: 7 },
        };
        let tenant = TenantId::parse("a").unwrap();
        Facts {
            ordinal: 3,
            log_records: 3,
            reaches_checkpoint: true,
            keys: [(Key::of(tenant.clone()), key)].into(),
            dead: [(tenant, 2)].into(),
            ..Facts::default()
        }
    }

    /// Sound facts pass; each single deviation is found.
    #[test]
    fn every_deviation_is_found() {
        assert_eq!(check(ShardId(0), &sound()), []);
        let spoil: [fn(&mut Facts, &mut KeyFacts); 13] = [
            |_, key| key.counters.on_log += 1,
            |_, key| key.log_events -= 1,
            |_, key| key.lake_events += 1,
            |_, key| key.lake_late -= 1,
            |_, key| key.state_events += 1,
            |_, key| key.outbox_events -= 1,
            |_, key| key.series_events += 1,
            |_, key| key.replayed_sums.rows += 1,
            |_, key| key.replayed_sums.rows_late += 1,
            |_, key| key.replayed_sums.series += 1,
            |_, key| {
                // Two metrics whose deviations cancel out.
                key.metrics.values_mut().zip([2, 5]).for_each(|(counts, series)| counts.0 = series);
            },
            |facts, _| facts.dead.clear(),
            |facts, _| facts.reaches_checkpoint = false,
        ];
        for (number, spoil) in spoil.into_iter().enumerate() {
            let mut facts = sound();
            let (name, mut key) = facts.keys.pop_first().unwrap();
            spoil(&mut facts, &mut key);
            facts.keys.insert(name, key);
            assert_ne!(check(ShardId(0), &facts), [], "deviation {number}");
        }
        // A ledger that agrees with itself, with the series and with a shortened log, but not with the rows.
        let mut shard = Shard::new(settings());
        let a = key("a");
        let record = batch(&a, Mode::Live, T0, &[(0, T0, 1.0), (1, T0, 2.0), (0, T0, 3.0)]);
        shard.process(&a, &record, &raw(&record), T0);
        let facts_of = |shard: &Shard| {
            let state = shard.key(&a).unwrap();
            let found = KeyFacts {
                replayed: state.counters,
                replayed_sums: state.sums(),
                log_events: 3,
                ..KeyFacts::of_state(state)
            };
            let keys = [(a.clone(), found)].into();
            Facts { ordinal: 2, log_records: 1, reaches_checkpoint: true, keys, ..Facts::default() }
        };
        assert_eq!(check(ShardId(0), &facts_of(&shard)), []);
        shard.first_key_mut().inflate(49_995_000);
        let problems: Vec<String> = check(ShardId(0), &facts_of(&shard)).into_iter().map(|f| f.problem).collect();
        assert!(problems[0].starts_with("counted 49995003 events, but there are 0 in the lake"), "{problems:?}");
        assert!(problems.iter().any(|p| p.starts_with("counted 49995002 events of the metric \"m0\"")), "{problems:?}");
        // A log that retention has shortened holds less, and that is right.
        let mut shortened = sound();
        shortened.log_records = 1;
        shortened.keys.values_mut().for_each(|key| key.log_events = 3);
        assert_eq!(check(ShardId(0), &shortened), []);
    }
}
