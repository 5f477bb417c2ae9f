//! End-to-end tests on the real process. One executable, because each links a lot; one module a concern.

mod cli;
mod damage;
mod dead;
mod demo;
mod descriptors;
mod disk;
mod drain;
mod encodings;
mod flight;
mod hot;
mod index;
mod kill;
mod lines;
mod load;
mod peers;
mod publish;
mod reload;
mod rules;
mod seam;
mod status;
mod tables;
mod tls;
mod walk;

use std::time::Duration;

use tidegauge_client::Client;
use tidegauge_core::clock::{Clock as _, SystemClock};

/// The wall clock, Unix nanoseconds.
fn now_ns() -> i64 {
    SystemClock::default().wall_ns()
}

/// Sum of `event_count` over the table, and the freshness of the answer.
async fn counted(client: &Client) -> Result<Counted, tidegauge_client::ClientError> {
    count(client, "SELECT CAST(COALESCE(SUM(event_count), 0) AS BIGINT) AS n FROM dashboard_metrics").await
}

/// What a counting query answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    /// The one number of the answer.
    sum: u64,
    /// Events counted up to the as-of, by the answer's freshness.
    counted: u64,
    /// Of these, pending.
    pending: u64,
}

async fn count(client: &Client, sql: &str) -> Result<Counted, tidegauge_client::ClientError> {
    use arrow::array::{Array as _, Int64Array};

    let mut result = client.query(sql).await?;
    let mut sum = None;
    while let Some(batch) = result.next_batch().await? {
        if batch.num_rows() == 0 {
            continue;
        }
        let column = batch.column(0).as_any().downcast_ref::<Int64Array>().expect("the answer is a BIGINT");
        assert_eq!((batch.num_rows(), column.null_count(), sum), (1, 0, None), "one number: {batch:?}");
        sum = Some(column.value(0) as u64);
    }
    let freshness = result.freshness().unwrap_or_default();
    Ok(Counted {
        sum: sum.expect("an aggregate has a row"),
        counted: freshness.keys.iter().map(|k| k.counted_events).sum(),
        pending: freshness.keys.iter().map(|k| k.pending_events).sum(),
    })
}

/// Waits until everything taken so far is published.
async fn published(client: &Client) {
    tidegauge_tests::wait::until("everything to be published", || async {
        let status = client.status().await.map_err(|e| e.to_string())?;
        if status.quiescent { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

/// A pause between two steps of a load that must take some time to be a load.
async fn pace(time: Duration) {
    let mut ticks = tokio::time::interval(time);
    ticks.tick().await;
    ticks.tick().await;
}

/// `tidegauge verify` on the stopped directory finds nothing.
fn verified(data_dir: &std::path::Path) {
    let output = std::process::Command::new(tidegauge_tests::binary())
        .args(["verify", "--data-dir"])
        .arg(data_dir)
        .output()
        .expect("the binary runs");
    assert!(
        output.status.success(),
        "verify: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
