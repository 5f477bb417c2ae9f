//! The README's first command, twice on the same data directory: it shows moving values, ends with 0, and its history counts
//! once.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;
use tidegauge_tests::{Server, ServerOptions, client, wait};

/// Events of one hour of `sample-shop`'s history: a value every ten seconds of three metrics at three places.
const AN_HOUR: u64 = 360 * 3 * 3;

fn demo(data_dir: &Path) -> Output {
    Command::new(tidegauge_tests::binary())
        .args(["demo", "--plain", "--for", "7s", "--data-dir"])
        .arg(data_dir)
        .output()
        .expect("the binary runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_shows_values_and_counts_history_once() {
    let folder = TempDir::new().expect("a temporary folder");
    let data_dir = folder.path().join("data");
    for _ in 0..2 {
        let run_in = data_dir.clone();
        let output = tokio::task::spawn_blocking(move || demo(&run_in)).await.expect("no panic");
        let (shown, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}{shown}");
        for word in
            ["local", "cpu.usage_percent", "memory.used_bytes", "sample-shop", "sample-factory", "are synthetic"]
        {
            assert!(shown.contains(word), "no {word} in\n{shown}{said}");
        }
        for line in [
            "export TIDEGAUGE_TOKEN=$(cat ",
            " watch --tenant local",
            " query --tenant local ",
            "\ndb = flightsql.connect(",
        ] {
            assert!(shown.contains(line), "no {line} in\n{shown}");
        }
    }

    let server = Server::start(&data_dir, &ServerOptions::quick());
    let token = server.token("admin", "admin", &["sample-shop"]);
    let ours = client(&server, &token, None).await;
    let counters = wait::until("the counters of sample-shop", || async {
        let status = ours.status().await.map_err(|e| e.to_string())?;
        let counters = status.keys.first().and_then(|key| key.counters).unwrap_or_default();
        // A demo that ends early may leave an hour for the next one; a full hour may have begun between the two.
        if counters.backfilled >= AN_HOUR { Ok(counters) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert!([3 * AN_HOUR, 4 * AN_HOUR].contains(&counters.backfilled), "{counters:?}");
    assert!(counters.duplicates >= 2 * AN_HOUR, "the second demo's history is a duplicate: {counters:?}");
    assert_eq!(counters.dead, 0, "{counters:?}");
}
