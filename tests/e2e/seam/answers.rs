//! Answers as they were given, and how they compare with the ledger once it is known.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array as _, Int64Array};
use arrow::util::display::array_value_to_string;
use tidegauge_client::{Client, ClientError};
use tidegauge_proto::freshness::v1::KeyFreshness;

use super::ledger::Ledger;

/// A way to count the events of each tenant of the scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) sql: &'static str,
    /// How often it counts each event.
    times: u64,
}

/// Plainly, with the table against itself, the table put together with itself, and halves of it put together.
pub(super) const QUERIES: [Query; 4] = [
    Query {
        sql: "SELECT tenant_id, CAST(SUM(event_count) AS BIGINT) FROM dashboard_metrics GROUP BY tenant_id",
        times: 1,
    },
    Query {
        sql: "SELECT a.tenant_id, CAST(SUM(a.event_count) AS BIGINT) FROM dashboard_metrics a JOIN dashboard_metrics b \
              ON a.tenant_id = b.tenant_id AND a.window_start = b.window_start AND a.metric_name = b.metric_name \
              AND a.event_count = b.event_count GROUP BY a.tenant_id",
        times: 1,
    },
    Query {
        sql: "SELECT tenant_id, CAST(SUM(event_count) AS BIGINT) FROM (SELECT tenant_id, event_count FROM \
              dashboard_metrics UNION ALL SELECT tenant_id, event_count FROM dashboard_metrics) GROUP BY tenant_id",
        times: 2,
    },
    Query {
        sql: "SELECT tenant_id, CAST(SUM(event_count) AS BIGINT) FROM (SELECT tenant_id, event_count FROM \
              dashboard_metrics WHERE metric_name < 'm2' UNION ALL SELECT tenant_id, event_count FROM \
              dashboard_metrics WHERE metric_name >= 'm2') GROUP BY tenant_id",
        times: 1,
    },
];

/// What a query answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) query: Query,
    /// Place of the scope in the list of scopes.
    pub(super) scope: usize,
    /// Ticks of the readers' common counter: an answer that ended before another began is an earlier one.
    pub(super) began: u64,
    pub(super) ended: u64,
    /// The number beside each tenant.
    pub(super) sums: BTreeMap<String, u64>,
    pub(super) keys: Vec<KeyFreshness>,
}

/// Asks; the tenants' numbers and the freshness of the keys.
pub(super) async fn ask(
    client: &Client,
    query: Query,
) -> Result<(BTreeMap<String, u64>, Vec<KeyFreshness>), ClientError> {
    let mut result = client.query(query.sql).await?;
    let mut sums = BTreeMap::new();
    while let Some(batch) = result.next_batch().await? {
        let numbers = batch.column(1).as_any().downcast_ref::<Int64Array>().expect("the sum is a BIGINT");
        assert_eq!(numbers.null_count(), 0, "{batch:?}");
        for row in 0..batch.num_rows() {
            let tenant = array_value_to_string(batch.column(0), row).expect("a tenant is text");
            let number = u64::try_from(numbers.value(row)).expect("counts are not negative");
            assert_eq!(sums.insert(tenant, number), None, "a tenant stands twice: {batch:?}");
        }
    }
    // Of no keys at all, before the first event, it is an empty message.
    let freshness = result.freshness().unwrap_or_default();
    assert!(freshness.missing_keys.is_empty(), "nobody asked for a partial answer: {freshness:?}");
    Ok((sums, freshness.keys))
}

/// Every way in which the answers deviate from the ledger; `scopes` are the tenants of each scope.
pub(super) fn deviations(answers: &[Answer], ledger: &Ledger, scopes: &[BTreeSet<&str>]) -> Vec<String> {
    let mut found = Vec::new();
    for answer in answers {
        let problems = problems(answer, ledger, &scopes[answer.scope]);
        found.extend(problems.into_iter().map(|problem| format!("{problem}: {answer:?}")));
    }
    found.extend(falls(answers, scopes));
    found
}

/// What is wrong with one answer by itself: I6's formula for each of its keys, and I7.
fn problems(answer: &Answer, ledger: &Ledger, scope: &BTreeSet<&str>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut keys = BTreeSet::new();
    for key in &answer.keys {
        let tenant = key.tenant_id.as_str();
        if !keys.insert(tenant) || key.bucket != 0 {
            problems.push(format!("{tenant} has one key, and another is named"));
        }
        let Some(account) = ledger.accounts.get(tenant) else {
            problems.push(format!("{tenant} has no record on the log"));
            continue;
        };
        let (ordinal, counted, pending) = (key.as_of_ordinal, key.counted_events, key.pending_events);
        if ordinal > ledger.records[account.shard as usize] {
            problems.push(format!("the log of {tenant} has no record {ordinal}"));
        }
        let expected = account.at(ordinal);
        if counted != expected {
            problems.push(format!("{tenant} says {counted} counted at {ordinal}, the log {expected}"));
        }
        // A tenant all of whose events wait for their first cut has no row yet.
        let number = answer.sums.get(tenant).copied().unwrap_or_default();
        let (sum, rest) = (number / answer.query.times, number % answer.query.times);
        if rest != 0 {
            problems.push(format!("two halves of one answer differ: {number} for {tenant}"));
        }
        let least = expected.saturating_sub(pending);
        if pending > expected || !(least..=expected).contains(&sum) {
            problems.push(format!("{tenant}: {expected} - {pending} ≤ {sum} ≤ {expected} does not hold"));
        }
    }
    if let Some(stranger) = keys.iter().find(|tenant| !scope.contains(*tenant)) {
        problems.push(format!("{stranger} is not of the scope"));
    }
    if let Some(tenant) = answer.sums.keys().find(|tenant| !keys.contains(tenant.as_str())) {
        problems.push(format!("{tenant} has rows and no freshness"));
    }
    problems
}

/// Answers that say less of a tenant than an earlier one did, whichever scope that had. A tenant that is missing counts as 0.
fn falls(answers: &[Answer], scopes: &[BTreeSet<&str>]) -> Vec<String> {
    let mut moments: Vec<(u64, bool, &Answer)> = Vec::with_capacity(2 * answers.len());
    for answer in answers {
        moments.extend([(answer.began, false, answer), (answer.ended, true, answer)]);
    }
    moments.sort_unstable_by_key(|(tick, ..)| *tick);
    // Per tenant the highest sum and ordinal of the answers that have ended.
    let mut highest: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut open: BTreeMap<u64, BTreeMap<&str, (u64, u64)>> = BTreeMap::new();
    let mut found = Vec::new();
    for (_, has_ended, answer) in moments {
        if !has_ended {
            open.insert(answer.began, highest.clone());
            continue;
        }
        let before = open.remove(&answer.began).expect("what ends has begun");
        for tenant in &scopes[answer.scope] {
            let key = answer.keys.iter().find(|key| key.tenant_id == *tenant);
            let ordinal = key.map_or(0, |key| key.as_of_ordinal);
            let sum = answer.sums.get(*tenant).copied().unwrap_or_default() / answer.query.times;
            let (sum_before, ordinal_before) = before.get(tenant).copied().unwrap_or_default();
            if sum < sum_before || ordinal < ordinal_before {
                let text = format!("{tenant}: {sum} at {ordinal} after {sum_before} at {ordinal_before}");
                found.push(format!("{text}: {answer:?}"));
            }
            let highest = highest.entry(tenant).or_default();
            *highest = (highest.0.max(sum), highest.1.max(ordinal));
        }
    }
    found
}
