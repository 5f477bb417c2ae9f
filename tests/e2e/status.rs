//! `tidegauge status` over more keys than a page has.

use futures::stream::{self, StreamExt as _};
use tempfile::TempDir;
use tidegauge_tests::events::{live, series};
use tidegauge_tests::{Server, ServerOptions, client};

use crate::{now_ns, published};

const TENANTS: usize = 1_003;

/// The command follows the pages, an admin's token is told the totals of the shards, a reader's is not.
#[tokio::test]
async fn the_command_follows_the_pages() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let names: Vec<String> = (0..TENANTS).map(|n| format!("t{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (admin, reader) = (server.token("admin", "admin", &[]), server.token("reader", "reader", &[]));
    let published_all = stream::iter(&names).for_each_concurrent(8, |name| {
        let (server, admin) = (&server, &admin);
        async move {
            let ours = client(server, admin, Some(name)).await;
            ours.publish(live(1, 1, series("cpu", 1, now_ns()))).await.expect("taken");
        }
    });
    published_all.await;
    let everything = client(&server, &admin, None).await;
    published(&everything).await;
    let first = everything.status_page(0, String::new()).await.expect("a page");
    assert_eq!((first.keys.len(), first.next_page_token.is_empty()), (100, false));
    for (token, may_operate) in [(&admin, true), (&reader, false)] {
        let output = server.cli(token, &["status", "-o", "json"]);
        assert!(output.status.success(), "{output:?}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let keys = told["keys"].as_array().expect("keys");
        let tenants: Vec<&str> = keys.iter().filter_map(|key| key["tenant_id"].as_str()).collect();
        assert_eq!(tenants, names);
        let ordinals: Vec<_> =
            told["shards"].as_array().expect("shards").iter().map(|s| s["ordinal"].as_u64()).collect();
        let expected = may_operate.then_some(TENANTS as u64);
        assert_eq!(ordinals.into_iter().sum::<Option<u64>>(), expected);
    }
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
}
