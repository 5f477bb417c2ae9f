//! Arrow Flight SQL: statements, prepared statements and server information.
//!
//! * `GetFlightInfo` and `GetSchema` describe a `CommandStatementQuery` or a `CommandPreparedStatementQuery`; the ticket
//!   is a `TicketStatementQuery` whose handle is sealed. `DoGet` runs it. Announced and streamed schema are one.
//! * `Freshness` stands in `FlightInfo.app_metadata`, and as found at the end in `FlightData.app_metadata` of the last
//!   message, a batch without rows: every client reads over it.
//! * A prepared statement is its text, sealed. Parameters are refused: there are none to bind.
//! * `Handshake` turns the Basic credential of the call into a Bearer of the same secret: both are checked at every call
//!   anyway, so there is no session to keep.
//! * `CommandGetCatalogs`, `GetDbSchemas`, `GetTables` and `GetTableTypes` name the one table; `CommandGetSqlInfo` tells
//!   about the server. Nothing in them is anybody's, so their ticket is the command itself.
//! * Any other command is UNIMPLEMENTED by name.

mod catalog;
mod command;
mod encode;
mod info;
mod seal;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{ActionCreatePreparedStatementResult, ProstMessageExt as _, TicketStatementQuery};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, IpcMessage, PollInfo, PutResult, SchemaAsIpc, SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use prost::Message as _;
use tidegauge_core::{ErrorKind, Permission, ServiceError, TenantScope};
use tidegauge_proto::convert::time::timestamp;
use tidegauge_rpc::{scope, status};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::engine::{How, QueryEngine, fingerprint};
use command::{Command, Task};
use encode::Encoder;
use seal::{Kind, Sealed, Sealer};

/// The permission of every method of the Flight service.
pub(crate) const PERMISSIONS: &[(&str, Permission)] = &[
    ("Handshake", Permission::Query),
    ("ListFlights", Permission::Query),
    ("GetFlightInfo", Permission::Query),
    ("PollFlightInfo", Permission::Query),
    ("GetSchema", Permission::Query),
    ("DoGet", Permission::Query),
    ("DoPut", Permission::Query),
    ("DoExchange", Permission::Query),
    ("DoAction", Permission::Query),
    ("ListActions", Permission::Query),
];

/// Header that asks for an answer without the keys that cannot be read.
const ALLOW_PARTIAL: &str = "x-allow-partial";

/// The Flight service over an engine.
#[derive(Debug)]
pub(crate) struct Flight {
    engine: Arc<QueryEngine>,
    sealer: Sealer,
    handle_life_ns: i64,
}

type Answered<T> = Result<Response<T>, Status>;
type Many<T> = BoxStream<'static, Result<T, Status>>;

impl Flight {
    pub(crate) fn new(engine: Arc<QueryEngine>, sealing_key: &[u8; 32], handle_life: std::time::Duration) -> Self {
        let handle_life_ns = i64::try_from(handle_life.as_nanos()).unwrap_or(i64::MAX);
        Self { engine, sealer: Sealer::new(sealing_key), handle_life_ns }
    }

    /// The text of a command, the scope it may run in, and whether a partial answer was asked for already.
    fn statement(&self, command: Command, caller: TenantScope) -> Result<(String, TenantScope, bool), ServiceError> {
        match command {
            Command::Statement(sql) => Ok((sql, caller, false)),
            Command::Prepared(handle) => {
                let (sealed, scope) = self.sealer.open(Kind::Statement, &handle, &caller, self.now_ns())?;
                Ok((sealed.sql, scope, sealed.allow_partial))
            }
            Command::SqlInfo | Command::Catalog(_) => Err(command::unimplemented("this use of a metadata command")),
        }
    }

    fn now_ns(&self) -> i64 {
        self.engine.clock().wall_ns()
    }

    fn sealed(&self, sql: String, scope: &TenantScope, schema: u64, allow_partial: bool) -> Sealed {
        Sealed {
            sql,
            principal: scope.principal().name.to_string(),
            tenants: scope.tenants().map(<[_]>::to_vec),
            expires_at_ns: self.now_ns().saturating_add(self.handle_life_ns),
            schema,
            allow_partial,
        }
    }

    async fn info(&self, request: Request<FlightDescriptor>) -> Result<FlightInfo, Status> {
        let caller = scope(&request)?;
        let allow_partial = allows_partial(request.metadata());
        let descriptor = request.into_inner();
        let command = Command::of(&descriptor).map_err(status)?;
        if let Some(schema) = metadata_schema(&command) {
            let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(descriptor.cmd.clone()));
            let info = FlightInfo::new().try_with_schema(&schema).map_err(|e| status(encode::broken(&e)))?;
            return Ok(info.with_endpoint(endpoint).with_descriptor(descriptor));
        }
        let (sql, scope, prepared_partial) = self.statement(command, caller).map_err(status)?;
        let schema = self.engine.describe(&scope, &sql).await.map_err(status)?;
        let freshness = self.engine.freshness(&scope).await.map_err(status)?;
        let sealed = self.sealed(sql, &scope, fingerprint(&schema), allow_partial || prepared_partial);
        let handle = self.sealer.seal(Kind::Ticket, &sealed).map_err(status)?;
        let ticket = TicketStatementQuery { statement_handle: handle }.as_any().encode_to_vec();
        let endpoint = FlightEndpoint::new()
            .with_ticket(Ticket::new(ticket))
            .with_expiration_time(timestamp(sealed.expires_at_ns));
        let info = FlightInfo::new().try_with_schema(&schema).map_err(|e| status(encode::broken(&e)))?;
        Ok(info
            .with_endpoint(endpoint)
            .with_descriptor(descriptor)
            .with_total_records(-1)
            .with_total_bytes(-1)
            .with_app_metadata(freshness.encode_to_vec()))
    }

    async fn get(&self, request: Request<Ticket>) -> Result<Many<FlightData>, Status> {
        let caller = scope(&request)?;
        let allow_partial = allows_partial(request.metadata());
        let handle = match Task::of(&request.into_inner()).map_err(status)? {
            Task::Statement(handle) => handle,
            Task::SqlInfo(wanted) => return metadata(info::batch(&wanted)).map_err(status),
            Task::Catalog(question) => return metadata(question.answer()).map_err(status),
        };
        let (sealed, scope) = self.sealer.open(Kind::Ticket, &handle, &caller, self.now_ns()).map_err(status)?;
        let how = How { allow_partial: allow_partial || sealed.allow_partial, schema: Some(sealed.schema) };
        let answer = self.engine.execute(&scope, &sealed.sql, how).await.map_err(status)?;
        Ok(encode::messages(answer).map(|message| message.map_err(status)).boxed())
    }

    async fn action(&self, request: Request<Action>) -> Result<Many<arrow_flight::Result>, Status> {
        let caller = scope(&request)?;
        let allow_partial = allows_partial(request.metadata());
        let action = request.into_inner();
        match action.r#type.as_str() {
            command::CREATE_PREPARED_STATEMENT => {
                let sql = command::prepared_text(&action.body).map_err(status)?;
                let schema = self.engine.describe(&caller, &sql).await.map_err(status)?;
                let sealed = self.sealed(sql, &caller, fingerprint(&schema), allow_partial);
                let handle = self.sealer.seal(Kind::Statement, &sealed).map_err(status)?;
                let IpcMessage(dataset_schema) = SchemaAsIpc::new(&schema, &IpcWriteOptions::default())
                    .try_into()
                    .map_err(|e: arrow::error::ArrowError| status(encode::broken(&e)))?;
                let created = ActionCreatePreparedStatementResult {
                    prepared_statement_handle: handle,
                    dataset_schema,
                    parameter_schema: Bytes::new(),
                };
                let result = arrow_flight::Result::new(created.as_any().encode_to_vec());
                Ok(stream::iter([Ok(result)]).boxed())
            }
            // The handle is not kept here: there is nothing to close.
            command::CLOSE_PREPARED_STATEMENT => Ok(stream::empty().boxed()),
            other => Err(status(command::unimplemented(&format!("action {}", command::shortened(other))))),
        }
    }
}

/// The schema of the answer to a metadata command.
fn metadata_schema(command: &Command) -> Option<SchemaRef> {
    match command {
        Command::SqlInfo => Some(info::schema()),
        Command::Catalog(question) => Some(question.schema()),
        Command::Statement(_) | Command::Prepared(_) => None,
    }
}

/// The answer to a metadata command.
fn metadata(batch: Result<RecordBatch, ServiceError>) -> Result<Many<FlightData>, ServiceError> {
    let batch = batch?;
    let mut encoder = Encoder::default();
    let mut messages = vec![encoder.schema(&batch.schema())];
    messages.append(&mut encoder.batch(&batch)?);
    Ok(stream::iter(messages.into_iter().map(Ok)).boxed())
}

fn allows_partial(metadata: &MetadataMap) -> bool {
    metadata.get(ALLOW_PARTIAL).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// The presented credential as a bearer header: what clients send from the handshake on.
fn bearer(metadata: &MetadataMap) -> Option<String> {
    tidegauge_auth::bearer_value(metadata.get("authorization")?.as_bytes())
}

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = Many<HandshakeResponse>;
    type ListFlightsStream = Many<FlightInfo>;
    type DoGetStream = Many<FlightData>;
    type DoPutStream = Many<PutResult>;
    type DoExchangeStream = Many<FlightData>;
    type DoActionStream = Many<arrow_flight::Result>;
    type ListActionsStream = Many<ActionType>;

    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Answered<Self::HandshakeStream> {
        let bearer = bearer(request.metadata()).and_then(|text| Some((text.parse().ok()?, text)));
        let Some((header, text)) = bearer else {
            let message = "the handshake needs the header authorization, Basic or Bearer";
            return Err(status(ServiceError::new(ErrorKind::Unauthenticated, "CREDENTIAL_MISSING", message)));
        };
        let answer = HandshakeResponse { protocol_version: 0, payload: text.into() };
        let mut response = Response::new(stream::iter([Ok(answer)]).boxed());
        response.metadata_mut().insert("authorization", header);
        Ok(response)
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answered<Self::ListFlightsStream> {
        Err(status(command::unimplemented("ListFlights")))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Answered<FlightInfo> {
        self.info(request).await.map(Response::new)
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answered<PollInfo> {
        Err(status(command::unimplemented("PollFlightInfo")))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Answered<SchemaResult> {
        let caller = scope(&request)?;
        let command = Command::of(request.get_ref()).map_err(status)?;
        let schema = match metadata_schema(&command) {
            Some(schema) => schema,
            None => {
                let (sql, scope, _) = self.statement(command, caller).map_err(status)?;
                self.engine.describe(&scope, &sql).await.map_err(status)?
            }
        };
        let result = SchemaAsIpc::new(&schema, &IpcWriteOptions::default()).try_into();
        result.map(Response::new).map_err(|e: arrow::error::ArrowError| status(encode::broken(&e)))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Answered<Self::DoGetStream> {
        self.get(request).await.map(Response::new)
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answered<Self::DoPutStream> {
        // Also how clients bind parameters: a statement here has none.
        Err(status(command::unimplemented("DoPut (bulk loading and parameters of prepared statements)")))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answered<Self::DoExchangeStream> {
        Err(status(command::unimplemented("DoExchange")))
    }

    async fn do_action(&self, request: Request<Action>) -> Answered<Self::DoActionStream> {
        self.action(request).await.map(Response::new)
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answered<Self::ListActionsStream> {
        let action = |name: &str, description: &str| {
            Ok(ActionType { r#type: name.to_owned(), description: description.to_owned() })
        };
        let actions = [
            action(command::CREATE_PREPARED_STATEMENT, "ActionCreatePreparedStatementRequest to its result"),
            action(command::CLOSE_PREPARED_STATEMENT, "ActionClosePreparedStatementRequest to nothing"),
        ];
        Ok(Response::new(stream::iter(actions).boxed()))
    }
}
