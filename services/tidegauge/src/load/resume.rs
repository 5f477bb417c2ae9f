//! Whether an earlier run's state can be believed: it says what *a* server has, and this may be another one.

use std::time::Duration;

use tidegauge_client::Client;
use tidegauge_client::proto::aggregation::v1::GetStatusResponse;
use tidegauge_core::clock::Clock;

use super::state::{Done, Header};
use crate::tell::tell;

/// Time for a server that has just started to process what is on its log.
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(10);
/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What a server's status says about a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// It has at least what the state says.
    Known,
    /// It has read its whole log, and there is less on it.
    Unknown,
    /// It has not read its whole log yet.
    Undecided,
}

fn judge(done: &Done, status: &GetStatusResponse) -> Verdict {
    let on_log = |tenant: &str| -> u64 {
        let keys = status.keys.iter().filter(|key| key.tenant_id == tenant);
        keys.filter_map(|key| key.counters).map(|counters| counters.on_log).sum()
    };
    if done.accepted_by_tenant.iter().all(|(tenant, accepted)| on_log(tenant) >= *accepted) {
        Verdict::Known
    } else if !status.shards.is_empty() && status.shards.iter().all(|shard| shard.at_tip) {
        Verdict::Unknown
    } else {
        Verdict::Undecided
    }
}

/// The state to go on from; `None` to start at the beginning, which is always right and only takes longer.
pub(crate) async fn decide(
    client: &Client,
    header: &Header,
    earlier: Option<(Header, Done)>,
    clock: &dyn Clock,
) -> Option<Done> {
    let (found, done) = earlier?;
    // What has come to its end is gone through again: the server knows its chunks, and refused lines are told again.
    if done == (Done { finished: done.finished, ..Done::default() }) {
        return None;
    }
    let until_ns = clock.monotonic_ns() + CATCH_UP_TIME_MAX.as_nanos() as u64;
    let mut pace = tokio::time::interval(LOOK_INTERVAL);
    loop {
        pace.tick().await;
        match client.status().await.map(|status| judge(&done, &status)) {
            Ok(Verdict::Known) => return Some(done),
            Ok(Verdict::Undecided) if clock.monotonic_ns() < until_ns => {}
            Ok(_) => {
                tell("the server does not have what an earlier run had sent: starting at the beginning");
                return None;
            }
            // A writer's token may not read the status; then the address has to do.
            Err(_) if found.endpoint == header.endpoint => return Some(done),
            Err(_) => {
                tell(format_args!("an earlier run had sent to {}: starting at the beginning", found.endpoint));
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegauge_client::proto::aggregation::v1::{KeyCounters, KeyStatus, ShardStatus};

    use super::*;

    fn status(on_log: u64, at_tip: bool) -> GetStatusResponse {
        let counters = Some(KeyCounters { on_log, ..KeyCounters::default() });
        GetStatusResponse {
            shards: vec![ShardStatus { at_tip, ..ShardStatus::default() }],
            keys: vec![KeyStatus { tenant_id: "a".to_owned(), counters, ..KeyStatus::default() }],
            quiescent: false,
            next_page_token: String::new(),
        }
    }

    /// A server that holds less than the state says is another one, once it has read its log.
    #[test]
    fn a_foreign_server_is_noticed() {
        let done = Done { accepted_by_tenant: [("a".to_owned(), 10)].into(), ..Done::default() };
        assert_eq!(judge(&done, &status(10, false)), Verdict::Known);
        assert_eq!(judge(&done, &status(9, false)), Verdict::Undecided);
        assert_eq!(judge(&done, &status(9, true)), Verdict::Unknown);
        assert_eq!(judge(&done, &GetStatusResponse::default()), Verdict::Undecided);
    }
}
