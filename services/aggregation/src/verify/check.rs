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
    let sums = [
        ("events", counters.counted(), found.lake_events, found.outbox_events, found.state_events),
        ("late events", counters.late, found.lake_late, found.outbox_late, found.state_late),
    ];
    for (what, counted, lake, outbox, state) in sums {
        if counted != lake + outbox + state {
            problems.push(format!(
                "counted {counted} {what}, but there are {lake} in the lake, {outbox} on their way and {state} in the state"
            ));
        }
    }
    if found.series_events != counters.counted() {
        problems.push(format!("counted {} events, the series {}", counters.counted(), found.series_events));
    }
    problems
}

fn unbalanced(when: &str, counters: &Counters) -> String {
    format!(
        "{when} {} events were on the log, but {} duplicates, {} on time, {} late, {} backfilled and {} dead",
        counters.on_log, counters.duplicates, counters.on_time, counters.late, counters.backfilled, counters.dead
    )
}

#[cfg(test)]
mod tests {
    use tidegauge_core::{Key, TenantId};

    use super::*;

    fn sound() -> Facts {
        let counters = Counters { on_log: 10, duplicates: 1, on_time: 4, late: 2, backfilled: 1, dead: 2 };
        let key = KeyFacts {
            counters,
            log_events: 10,
            lake_events: 4,
            lake_late: 1,
            state_events: 1,
            outbox_events: 2,
            outbox_late: 1,
            series_events: 7,
            replayed: counters,
            ..KeyFacts::default()
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
        let spoil: [fn(&mut Facts, &mut KeyFacts); 9] = [
            |_, key| key.counters.on_log += 1,
            |_, key| key.log_events -= 1,
            |_, key| key.lake_events += 1,
            |_, key| key.lake_late -= 1,
            |_, key| key.state_events += 1,
            |_, key| key.outbox_events -= 1,
            |_, key| key.series_events += 1,
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
        // A log that retention has shortened holds less, and that is right.
        let mut shortened = sound();
        shortened.log_records = 1;
        shortened.keys.values_mut().for_each(|key| key.log_events = 3);
        assert_eq!(check(ShardId(0), &shortened), []);
    }
}
