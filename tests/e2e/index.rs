//! I6 where an epoch does not come to its end: two readers, one that has kept the days of a key and one that has not.

use tempfile::TempDir;
use tidegauge_client::Client;
use tidegauge_core::time::{DAY_NS, Hour};
use tidegauge_proto::ingest::v1::PublishRequest;
use tidegauge_proto::stream::v1::Mode;
use tidegauge_tests::events::{event, live, series};
use tidegauge_tests::{Server, ServerOptions, client, wait};

use crate::{count, now_ns, published, verified};

async fn sum(client: &Client, condition: &str) -> u64 {
    let sql = format!("SELECT CAST(COALESCE(SUM(event_count), 0) AS BIGINT) FROM dashboard_metrics WHERE {condition}");
    count(client, &sql).await.expect("an answer").sum
}

/// History of two hours, of which the second object cannot be written: whoever asks for the day of the first sees what
/// whoever asks for everything sees, and when the second can be written both see all.
#[tokio::test]
async fn a_new_hour_of_a_parked_epoch_is_seen_by_all_readers() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let ours = client(&server, &server.token("admin", "admin", &["tenant-001"]), None).await;
    ours.publish(live(1, 1, series("cpu", 10, now_ns()))).await.expect("taken");
    published(&ours).await;
    assert_eq!(sum(&ours, "metric_name = 'old'").await, 0);

    let (first, second) = (now_ns() - 30 * DAY_NS, now_ns() - 40 * DAY_NS);
    let hour = Hour::of(second);
    let (year, month, day) = hour.day().civil();
    let path = format!("year={year:04}/month={month:02}/day={day:02}/hour={:02}", hour.hour_of_day());
    let object = folder.path().join("lake/aggregated/tenant_id=tenant-001").join(path).join("part-00000.parquet");
    // A folder stands where the object should.
    std::fs::create_dir_all(&object).expect("a folder");
    let history = live(1, 2, vec![event("old", 1.0, first), event("old", 2.0, second)]);
    ours.publish(PublishRequest { mode: Mode::Backfill as i32, ..history }).await.expect("taken");
    wait::until("the epoch to be parked", || async {
        let status = ours.status().await.map_err(|e| e.to_string())?;
        if status.keys[0].parked_objects.is_empty() { Err(format!("{status:?}")) } else { Ok(()) }
    })
    .await;
    let (year, month, day) = Hour::of(first).day().civil();
    let of_day = format!("metric_name = 'old' AND year = {year} AND month = {month} AND day = {day}");
    let (without, with) = (sum(&ours, &of_day).await, sum(&ours, "metric_name = 'old'").await);
    assert_eq!((without, with), (1, 1), "by its day, and among all days that were kept");

    std::fs::remove_dir(&object).expect("the folder is empty");
    published(&ours).await;
    assert_eq!((sum(&ours, &of_day).await, sum(&ours, "metric_name = 'old'").await), (1, 2));
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    verified(folder.path());
}
