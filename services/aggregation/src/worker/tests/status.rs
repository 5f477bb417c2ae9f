//! What `GetStatus` tells whom, page by page.

use tidegauge_core::event::Mode;
use tidegauge_core::log::{EventLog, NewRecord};
use tidegauge_core::scope::{Principal, Role, TenantScope};
use tidegauge_proto::aggregation::v1 as pb;
use tidegauge_proto::aggregation::v1::aggregation_service_server::AggregationService;
use tonic::{Code, Request};

use super::backends::Fuse;
use super::world::{World, options};
use crate::decide::tests::{T0, batch, key, raw};

#[allow(clippy::disallowed_methods, reason = "a test stands in for the interceptor")]
fn asked(role: Role, tenants: &[&str], page_size: u32, page_token: &str) -> Request<pb::GetStatusRequest> {
    let principal = Principal { name: "user".into(), role };
    let tenants = tenants.iter().map(|name| key(name).tenant).collect();
    let mut request = Request::new(pb::GetStatusRequest { page_size, page_token: page_token.to_owned() });
    request.extensions_mut().insert(TenantScope::granted(principal, tenants).unwrap());
    request
}

/// Keys come in order by pages, of the caller's tenants alone; totals of a shard, in which those of others are, are told to
/// who may operate, and to nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_by_pages_and_totals_to_operators_alone() {
    const NAMES: [&str; 7] = ["e", "b", "g", "a", "d", "f", "c"];
    let mut world = World::new();
    let (handle, _) = world.start(Fuse::never(), options());
    for name in NAMES {
        let record = batch(&key(name), Mode::Backfill, T0, &[(0, T0, 1.0)]);
        world.oracle.take(&key(name), &record);
        world.log.append(vec![NewRecord { key: key(name), payload: raw(&record) }]).await.unwrap();
    }
    world.rest(&handle).await;
    let server = handle.server();
    let ours = ["g", "a", "c", "e", "b"];
    let (mut token, mut pages) = (String::new(), Vec::new());
    loop {
        let page = server.get_status(asked(Role::Reader, &ours, 2, &token)).await.unwrap().into_inner();
        assert_eq!(page.shards.len(), 1);
        let shard = &page.shards[0];
        assert!(shard.state() == pb::ShardState::Running && shard.at_tip);
        let totals = (shard.generation, shard.ordinal, shard.prepared_epoch, shard.completed_epoch);
        assert_eq!((totals, shard.state_rows, shard.log_bytes), ((0, 0, 0, 0), 0, 0), "others are counted in them");
        pages.push(page.keys.iter().map(|key| key.tenant_id.clone()).collect::<Vec<_>>().concat());
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, ["ab", "ce", "g"]);

    let told = server.get_status(asked(Role::Admin, &["a"], 0, "")).await.unwrap().into_inner();
    assert_eq!((told.shards[0].ordinal, told.shards[0].generation), (7, 1));
    assert_eq!((told.keys.len(), told.next_page_token.as_str()), (1, ""));
    for (page_size, page_token) in [(1_001, ""), (1, "x")] {
        let refused = server.get_status(asked(Role::Reader, &["a"], page_size, page_token)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    handle.drain().await;
}
