//! The Flight SQL service, called as the interceptor leaves its requests.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Schema;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    Any, CommandGetCatalogs, CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes,
    CommandGetTables, CommandPreparedStatementQuery, CommandStatementQuery, ProstMessageExt,
};
use arrow_flight::utils::flight_data_to_batches;
use arrow_flight::{Action, FlightData, FlightDescriptor, FlightInfo, IpcMessage, Ticket};
use futures::TryStreamExt as _;
use prost::Message as _;
use tidegauge_core::TenantScope;
use tidegauge_core::time::SECOND_NS;
use tidegauge_proto::freshness::v1::Freshness;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::world::{World, key, scope};
use crate::flight::Flight;

const COUNT: &str = "SELECT metric_name, SUM(event_count) AS n FROM dashboard_metrics GROUP BY metric_name ORDER BY 1";

fn flight(world: &World) -> Flight {
    Flight::new(Arc::clone(&world.engine), &[3; 32], Duration::from_secs(600))
}

fn from<T>(scope: &TenantScope, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(scope.clone());
    request
}

fn command(message: &impl ProstMessageExt) -> FlightDescriptor {
    FlightDescriptor::new_cmd(message.as_any().encode_to_vec())
}

fn statement(sql: &str) -> FlightDescriptor {
    command(&CommandStatementQuery { query: sql.to_owned(), transaction_id: None })
}

async fn fetch(flight: &Flight, scope: &TenantScope, ticket: Ticket) -> Result<Vec<FlightData>, Status> {
    flight.do_get(from(scope, ticket)).await?.into_inner().try_collect().await
}

fn ticket(info: &FlightInfo) -> Ticket {
    info.endpoint[0].ticket.clone().expect("a ticket")
}

fn rows(messages: &[FlightData]) -> Vec<RecordBatch> {
    flight_data_to_batches(messages).expect("batches")
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("error info").reason
}

/// Proves the way of a statement: announced schema equals streamed schema, freshness stands in the info and in the last
/// message, and a prepared statement is the same.
#[tokio::test]
async fn statements_and_prepared_statements_are_answered() {
    let world = World::new();
    world.fill(&key("a"), 2).await;
    let (flight, scope) = (flight(&world), scope(&["a"]));

    let body = ActionCreatePreparedStatementRequest { query: COUNT.to_owned(), transaction_id: None };
    let action = Action::new("CreatePreparedStatement", body.as_any().encode_to_vec());
    let results: Vec<_> = flight
        .do_action(from(&scope, action))
        .await
        .expect("prepared")
        .into_inner()
        .try_collect()
        .await
        .expect("a result");
    let created: ActionCreatePreparedStatementResult =
        Any::decode(&*results[0].body).expect("any").unpack().expect("a message").expect("the result");
    let handle = created.prepared_statement_handle;
    let prepared = command(&CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() });

    for descriptor in [statement(COUNT), prepared] {
        let info = flight.get_flight_info(from(&scope, descriptor.clone())).await.expect("info").into_inner();
        let freshness = Freshness::decode(&*info.app_metadata).expect("freshness");
        assert_eq!((freshness.keys.len(), freshness.keys[0].counted_events), (1, 300));
        let announced = Schema::try_from(IpcMessage(info.schema.clone())).expect("a schema");
        assert_eq!(announced, Schema::try_from(IpcMessage(created.dataset_schema.clone())).expect("a schema"));
        let schema = flight.get_schema(from(&scope, descriptor)).await.expect("a schema").into_inner();
        assert_eq!(announced, Schema::try_from(schema).expect("a schema"));

        let messages = fetch(&flight, &scope, ticket(&info)).await.expect("messages");
        assert_eq!(announced, Schema::try_from(&messages[0]).expect("a schema"));
        let last = messages.last().expect("a last message");
        assert_eq!(Freshness::decode(&*last.app_metadata).expect("freshness"), freshness);
        assert!(messages.iter().rev().skip(1).all(|message| message.app_metadata.is_empty()));
        assert_eq!(rows(&messages).iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    }
    let body = ActionClosePreparedStatementRequest { prepared_statement_handle: handle };
    let action = Action::new("ClosePreparedStatement", body.as_any().encode_to_vec());
    let closed: Vec<_> = flight
        .do_action(from(&scope, action))
        .await
        .expect("closed")
        .into_inner()
        .try_collect()
        .await
        .expect("nothing");
    assert!(closed.is_empty());
}

/// Proves that a ticket runs for its principal and tenants only, within its life, and that every call needs a scope.
#[tokio::test]
async fn tickets_are_authorised_again() {
    let world = World::new();
    world.fill(&key("a"), 1).await;
    world.fill(&key("b"), 2).await;
    let flight = flight(&world);
    let both = scope(&["a", "b"]);
    let info = flight.get_flight_info(from(&both, statement(COUNT))).await.expect("info").into_inner();
    let narrow = flight.get_flight_info(from(&scope(&["a"]), statement(COUNT))).await.expect("info").into_inner();

    let lost = fetch(&flight, &scope(&["a"]), ticket(&info)).await.expect_err("b was lost");
    assert_eq!((lost.code(), reason(&lost).as_str()), (Code::PermissionDenied, "TENANT_DENIED"));
    let other = fetch(&flight, &scope(&["b"]), ticket(&narrow)).await.expect_err("a ticket for a");
    assert_eq!((other.code(), other.message()), (lost.code(), lost.message()), "the same answer");
    // Whoever has more tenants gets what the ticket was made for.
    let batches = rows(&fetch(&flight, &both, ticket(&narrow)).await.expect("messages"));
    assert_eq!(super::world::number(&[batches[0].project(&[1]).expect("a column")]), 90);

    world.clock.advance(601 * SECOND_NS);
    let expired = fetch(&flight, &both, ticket(&info)).await.expect_err("expired");
    assert_eq!((expired.code(), reason(&expired).as_str()), (Code::FailedPrecondition, "TICKET_EXPIRED"));
    let nobody = flight.do_get(Request::new(ticket(&info))).await.map(|_| ()).expect_err("no scope");
    assert_eq!(nobody.code(), Code::PermissionDenied);
    let garbage = fetch(&flight, &both, Ticket::new("garbage")).await.expect_err("garbage");
    assert_eq!(garbage.code(), Code::InvalidArgument);
}

/// Proves that what is not served says so by name, and that facts about the server are.
#[tokio::test]
async fn other_commands_are_named() {
    let world = World::new();
    let (flight, scope) = (flight(&world), scope(&["a"]));
    let keys = CommandGetPrimaryKeys { catalog: None, db_schema: None, table: "dashboard_metrics".to_owned() };
    let keys = flight.get_flight_info(from(&scope, command(&keys))).await.expect_err("not served");
    assert_eq!((keys.code(), reason(&keys).as_str()), (Code::Unimplemented, "NOT_SERVED"));
    assert!(keys.message().contains("CommandGetPrimaryKeys"), "{}", keys.message());
    let path = flight.get_flight_info(from(&scope, FlightDescriptor::new_path(vec!["x".to_owned()]))).await;
    assert_eq!(path.expect_err("a path").code(), Code::InvalidArgument);
    let begin = flight.do_action(from(&scope, Action::new("BeginTransaction", ""))).await.map(|_| ());
    assert_eq!(begin.expect_err("not served").code(), Code::Unimplemented);

    for (wanted, expected) in [(vec![], 18), (vec![3, 504], 2), (vec![99_999], 0)] {
        let descriptor = command(&CommandGetSqlInfo { info: wanted });
        let info = flight.get_flight_info(from(&scope, descriptor)).await.expect("info").into_inner();
        let messages = fetch(&flight, &scope, ticket(&info)).await.expect("messages");
        assert_eq!(
            Schema::try_from(IpcMessage(info.schema)).expect("a schema"),
            Schema::try_from(&messages[0]).expect("a schema")
        );
        assert_eq!(rows(&messages).iter().map(RecordBatch::num_rows).sum::<usize>(), expected);
    }
}

/// Proves that tools find the table: the answers to the four questions about it, with the schema announced for each, the
/// filters, the columns as a query announces them, and nothing without a scope.
#[tokio::test]
async fn the_table_is_found() {
    let world = World::new();
    let (flight, scope) = (flight(&world), scope(&["a"]));
    let tables = |pattern: Option<&str>, kinds: &[&str], include_schema| CommandGetTables {
        table_name_filter_pattern: pattern.map(str::to_owned),
        table_types: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        include_schema,
        ..CommandGetTables::default()
    };
    let schemas = CommandGetDbSchemas { catalog: Some("other".to_owned()), db_schema_filter_pattern: None };
    let asked = [
        (command(&CommandGetCatalogs {}), 1, 1),
        (command(&CommandGetDbSchemas::default()), 2, 1),
        (command(&schemas), 2, 0),
        (command(&CommandGetTableTypes {}), 1, 1),
        (command(&tables(None, &[], false)), 4, 1),
        (command(&tables(Some("dash%"), &["TABLE", "VIEW"], false)), 4, 1),
        (command(&tables(Some("events"), &[], false)), 4, 0),
        (command(&tables(None, &["VIEW"], false)), 4, 0),
        (command(&tables(None, &[], true)), 5, 1),
    ];
    for (descriptor, columns, expected) in asked {
        let info = flight.get_flight_info(from(&scope, descriptor.clone())).await.expect("info").into_inner();
        let messages = fetch(&flight, &scope, ticket(&info)).await.expect("messages");
        let announced = Schema::try_from(IpcMessage(info.schema.clone())).expect("a schema");
        assert_eq!(announced, Schema::try_from(&messages[0]).expect("a schema"));
        let schema = flight.get_schema(from(&scope, descriptor.clone())).await.expect("a schema").into_inner();
        assert_eq!(announced, Schema::try_from(schema).expect("a schema"));
        assert_eq!(announced.fields().len(), columns);
        let batches = rows(&messages);
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), expected, "{descriptor:?}");
        if columns == 5 {
            let bytes = batches[0].column(4).as_binary::<i32>().value(0).to_vec();
            let described = world.engine.describe(&scope, "SELECT * FROM dashboard_metrics").await.expect("a schema");
            assert_eq!(Schema::try_from(IpcMessage(bytes.into())).expect("a schema"), *described);
        }
        assert!(flight.get_flight_info(Request::new(descriptor)).await.is_err(), "without a scope");
        assert!(flight.do_get(Request::new(ticket(&info))).await.is_err(), "without a scope");
    }
    let long = command(&tables(Some(&"%".repeat(2_000)), &[], false));
    let info = flight.get_flight_info(from(&scope, long)).await.expect("info").into_inner();
    assert_eq!(fetch(&flight, &scope, ticket(&info)).await.expect_err("too long").code(), Code::InvalidArgument);
}

/// Proves that a large result is cut into messages that every client takes, without losing a row.
#[tokio::test]
async fn large_results_are_cut() {
    let world = World::new();
    world.fill(&key("a"), 12).await;
    let (flight, scope) = (flight(&world), scope(&["a"]));
    let sql = "SELECT a.*, lpad(b.metric_name, 1000) FROM dashboard_metrics a, dashboard_metrics b WHERE b.hour < 2";
    let info = flight.get_flight_info(from(&scope, statement(sql))).await.expect("info").into_inner();
    let messages = fetch(&flight, &scope, ticket(&info)).await.expect("messages");
    assert!(messages.len() > 10 && messages.iter().all(|message| message.encoded_len() < 4 << 20));
    assert_eq!(rows(&messages).iter().map(RecordBatch::num_rows).sum::<usize>(), (12 * 120 + 60) * 240);

    // A row of a few bytes beside one of megabytes, and one that no message can carry.
    let lists = |cross: &str| {
        format!(
            "SELECT array_agg(a.sum_value) FROM dashboard_metrics a, dashboard_metrics b{cross} UNION ALL SELECT [1.0]"
        )
    };
    let info = flight.get_flight_info(from(&scope, statement(&lists(" WHERE b.hour < 2")))).await.expect("info");
    let messages = fetch(&flight, &scope, ticket(&info.into_inner())).await.expect("messages");
    assert_eq!(rows(&messages).iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    let info = flight.get_flight_info(from(&scope, statement(&lists("")))).await.expect("info").into_inner();
    let error = fetch(&flight, &scope, ticket(&info)).await.expect_err("17 MiB");
    assert_eq!((error.code(), reason(&error).as_str()), (Code::ResourceExhausted, "RESULT_LIMIT"));
}
