//! I7 for Flight SQL, where one method carries many commands: each command is answered to readers and admins, refused to
//! writers and to nobody, and none of them writes.

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    Any, CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest,
    CommandStatementQuery, CommandStatementSubstraitPlan, CommandStatementUpdate, ProstMessageExt,
};
use arrow_flight::{Action, FlightData, FlightDescriptor, FlightInfo, Ticket};
use futures::TryStreamExt as _;
use prost::Message as _;
use tempfile::TempDir;
use tidegauge_tests::events::{event, live};
use tidegauge_tests::{Server, ServerOptions, client};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::{now_ns, published};

const SQL: &str = "SELECT * FROM dashboard_metrics";

/// A caller with or without a credential.
struct Caller {
    channel: Channel,
    token: Option<String>,
}

impl Caller {
    fn client(&self) -> FlightServiceClient<Channel> {
        FlightServiceClient::new(self.channel.clone())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let bearer = format!("Bearer {token}").parse().expect("a token is ASCII");
            request.metadata_mut().insert("authorization", bearer);
        }
        request
    }

    async fn info(&self, command: &[u8]) -> Result<FlightInfo, Status> {
        let descriptor = FlightDescriptor::new_cmd(command.to_vec());
        Ok(self.client().get_flight_info(self.request(descriptor)).await?.into_inner())
    }

    async fn schema(&self, command: &[u8]) -> Result<(), Status> {
        let descriptor = FlightDescriptor::new_cmd(command.to_vec());
        self.client().get_schema(self.request(descriptor)).await.map(drop)
    }

    async fn get(&self, ticket: Ticket) -> Result<Vec<FlightData>, Status> {
        self.client().do_get(self.request(ticket)).await?.into_inner().try_collect().await
    }

    async fn put(&self, command: &[u8]) -> Result<(), Status> {
        let descriptor = FlightDescriptor::new_cmd(command.to_vec());
        let data = FlightData { flight_descriptor: Some(descriptor), ..FlightData::default() };
        let answers = self.client().do_put(self.request(futures::stream::iter([data]))).await?;
        answers.into_inner().try_collect::<Vec<_>>().await.map(drop)
    }

    async fn act(&self, kind: &str, body: Vec<u8>) -> Result<Vec<arrow_flight::Result>, Status> {
        self.client().do_action(self.request(Action::new(kind, body))).await?.into_inner().try_collect().await
    }
}

fn bytes(command: &impl ProstMessageExt) -> Vec<u8> {
    command.as_any().encode_to_vec()
}

/// Code and reason of an answer.
fn said<T>(answer: Result<T, Status>) -> (Code, String) {
    match answer {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default()),
    }
}

/// Commands that describe a result, and what a reader is answered.
fn questions(prepared: &[u8]) -> Vec<(&'static str, Vec<u8>, Code)> {
    let sql = SQL.to_owned();
    let handle = prepared.to_vec().into();
    let table = || "dashboard_metrics".to_owned();
    vec![
        ("StatementQuery", bytes(&CommandStatementQuery { query: sql, transaction_id: None }), Code::Ok),
        (
            "PreparedStatementQuery",
            bytes(&CommandPreparedStatementQuery { prepared_statement_handle: handle }),
            Code::Ok,
        ),
        ("GetCatalogs", bytes(&CommandGetCatalogs {}), Code::Ok),
        ("GetDbSchemas", bytes(&CommandGetDbSchemas::default()), Code::Ok),
        ("GetTables", bytes(&CommandGetTables::default()), Code::Ok),
        ("GetTableTypes", bytes(&CommandGetTableTypes {}), Code::Ok),
        ("GetSqlInfo", bytes(&CommandGetSqlInfo { info: vec![] }), Code::Ok),
        ("StatementSubstraitPlan", bytes(&CommandStatementSubstraitPlan::default()), Code::Unimplemented),
        ("GetXdbcTypeInfo", bytes(&CommandGetXdbcTypeInfo { data_type: None }), Code::Unimplemented),
        (
            "GetPrimaryKeys",
            bytes(&CommandGetPrimaryKeys { catalog: None, db_schema: None, table: table() }),
            Code::Unimplemented,
        ),
        (
            "GetExportedKeys",
            bytes(&CommandGetExportedKeys { catalog: None, db_schema: None, table: table() }),
            Code::Unimplemented,
        ),
        (
            "GetImportedKeys",
            bytes(&CommandGetImportedKeys { catalog: None, db_schema: None, table: table() }),
            Code::Unimplemented,
        ),
        ("GetCrossReference", bytes(&CommandGetCrossReference::default()), Code::Unimplemented),
    ]
}

/// Commands that write: there are none for anybody.
fn writes(prepared: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let query = "DELETE FROM dashboard_metrics".to_owned();
    let handle = prepared.to_vec().into();
    vec![
        ("StatementUpdate", bytes(&CommandStatementUpdate { query, transaction_id: None })),
        ("PreparedStatementUpdate", bytes(&CommandPreparedStatementUpdate { prepared_statement_handle: handle })),
        (
            "StatementIngest",
            bytes(&CommandStatementIngest { table: "dashboard_metrics".to_owned(), ..Default::default() }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_needs_the_permission_to_query() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start(folder.path(), &ServerOptions::quick());
    let token = |role: &str| server.token(role, role, &["tenant-001"]);
    let admin_token = token("admin");
    let ours = client(&server, &admin_token, Some("tenant-001")).await;
    ours.publish(live(1, 1, vec![event("cpu", 1.0, now_ns())])).await.expect("taken");
    published(&ours).await;

    let channel = Endpoint::from_shared(server.endpoint()).expect("an address").connect().await.expect("it accepts");
    let caller = |token: Option<String>| Caller { channel: channel.clone(), token };
    let (reader, admin) = (caller(Some(token("reader"))), caller(Some(admin_token)));
    let refused = [
        (caller(Some(token("writer"))), (Code::PermissionDenied, "PERMISSION_MISSING".to_owned())),
        (caller(None), (Code::Unauthenticated, "CREDENTIAL_MISSING".to_owned())),
    ];

    let mut prepared = Vec::new();
    let body = bytes(&ActionCreatePreparedStatementRequest { query: SQL.to_owned(), transaction_id: None });
    for allowed in [&reader, &admin] {
        let results = allowed.act("CreatePreparedStatement", body.clone()).await.expect("prepared");
        let created = Any::decode(&*results[0].body).expect("an Any").unpack::<ActionCreatePreparedStatementResult>();
        prepared.push(created.expect("a message").expect("the result").prepared_statement_handle);
    }
    let handle = prepared[0].clone();
    let close = bytes(&ActionClosePreparedStatementRequest { prepared_statement_handle: handle });
    for (other, expected) in &refused {
        assert_eq!(said(other.act("CreatePreparedStatement", body.clone()).await), *expected);
        assert_eq!(said(other.act("ClosePreparedStatement", close.clone()).await), *expected);
    }

    for (allowed, handle) in [(&reader, &prepared[0]), (&admin, &prepared[1])] {
        for (name, command, expected) in questions(handle) {
            assert_eq!(said(allowed.schema(&command).await).0, expected, "schema of {name}");
            let info = allowed.info(&command).await;
            assert_eq!(said(info.clone()).0, expected, "{name}");
            for (other, refusal) in &refused {
                assert_eq!(said(other.info(&command).await), *refusal, "{name}");
                assert_eq!(said(other.schema(&command).await), *refusal, "schema of {name}");
            }
            let Ok(info) = info else { continue };
            let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
            // A ticket is no credential: whoever may not ask may not fetch either.
            for (other, refusal) in &refused {
                assert_eq!(said(other.get(ticket.clone()).await), *refusal, "fetching {name}");
            }
            let messages = allowed.get(ticket).await.unwrap_or_else(|status| panic!("fetching {name}: {status}"));
            assert!(messages.len() > 1, "{name} is answered with a schema and rows");
        }
        for (name, command) in writes(handle) {
            assert_eq!(said(allowed.put(&command).await).0, Code::Unimplemented, "{name}");
            assert_eq!(said(allowed.info(&command).await).0, Code::Unimplemented, "{name}");
            for (other, refusal) in &refused {
                assert_eq!(said(other.put(&command).await), *refusal, "{name}");
            }
        }
    }
}
