//! What a client asks for: the commands of Flight SQL that are served, read from descriptors, tickets and actions.

use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, Any, CommandGetCatalogs, CommandGetDbSchemas, CommandGetSqlInfo,
    CommandGetTableTypes, CommandGetTables, CommandPreparedStatementQuery, CommandStatementQuery, ProstMessageExt,
    TicketStatementQuery,
};
use arrow_flight::{FlightDescriptor, Ticket};
use bytes::Bytes;
use prost::Message;
use tidegauge_core::{ErrorKind, ServiceError};

use super::catalog::Question;

/// Action that prepares a statement.
pub(super) const CREATE_PREPARED_STATEMENT: &str = "CreatePreparedStatement";
/// Action that closes one.
pub(super) const CLOSE_PREPARED_STATEMENT: &str = "ClosePreparedStatement";

/// A command in a descriptor.
#[derive(Debug)]
pub(super) enum Command {
    /// A text.
    Statement(String),
    /// A handle of a prepared statement.
    Prepared(Bytes),
    /// Facts about the server.
    SqlInfo,
    /// What there is to query.
    Catalog(Question),
}

/// What a ticket fetches.
#[derive(Debug)]
pub(super) enum Task {
    /// A sealed statement.
    Statement(Bytes),
    /// Facts about the server.
    SqlInfo(CommandGetSqlInfo),
    /// What there is to query.
    Catalog(Question),
}

impl Command {
    /// Reads the command of a descriptor.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for anything but a command, UNIMPLEMENTED for one that is not served.
    pub(super) fn of(descriptor: &FlightDescriptor) -> Result<Self, ServiceError> {
        let any = any("descriptor.cmd", &descriptor.cmd)?;
        if let Some(command) = unpack::<CommandStatementQuery>(&any)? {
            if command.transaction_id.is_some() {
                return Err(unimplemented("a transaction"));
            }
            return Ok(Self::Statement(command.query));
        }
        if let Some(command) = unpack::<CommandPreparedStatementQuery>(&any)? {
            return Ok(Self::Prepared(command.prepared_statement_handle));
        }
        if unpack::<CommandGetSqlInfo>(&any)?.is_some() {
            return Ok(Self::SqlInfo);
        }
        if let Some(question) = question(&any)? {
            return Ok(Self::Catalog(question));
        }
        Err(unimplemented(&format!("command {}", name_of(&any))))
    }
}

impl Task {
    /// Reads a ticket.
    ///
    /// # Errors
    /// As [`Command::of`].
    pub(super) fn of(ticket: &Ticket) -> Result<Self, ServiceError> {
        let any = any("ticket", &ticket.ticket)?;
        if let Some(ticket) = unpack::<TicketStatementQuery>(&any)? {
            return Ok(Self::Statement(ticket.statement_handle));
        }
        if let Some(command) = unpack::<CommandGetSqlInfo>(&any)? {
            return Ok(Self::SqlInfo(command));
        }
        if let Some(question) = question(&any)? {
            return Ok(Self::Catalog(question));
        }
        Err(unimplemented(&format!("ticket {}", name_of(&any))))
    }
}

fn question(any: &Any) -> Result<Option<Question>, ServiceError> {
    if let Some(command) = unpack::<CommandGetCatalogs>(any)? {
        return Ok(Some(Question::Catalogs(command)));
    }
    if let Some(command) = unpack::<CommandGetDbSchemas>(any)? {
        return Ok(Some(Question::Schemas(command)));
    }
    if let Some(command) = unpack::<CommandGetTables>(any)? {
        return Ok(Some(Question::Tables(command)));
    }
    Ok(unpack::<CommandGetTableTypes>(any)?.map(Question::TableTypes))
}

/// The text of a statement to prepare.
pub(super) fn prepared_text(body: &[u8]) -> Result<String, ServiceError> {
    let any = any("action.body", body)?;
    let request: ActionCreatePreparedStatementRequest =
        unpack(&any)?.ok_or_else(|| invalid("action.body", "is no ActionCreatePreparedStatementRequest"))?;
    if request.transaction_id.is_some() {
        return Err(unimplemented("a transaction"));
    }
    Ok(request.query)
}

/// The answer to what is not served.
pub(super) fn unimplemented(what: &str) -> ServiceError {
    ServiceError::new(ErrorKind::Unimplemented, "NOT_SERVED", format!("{what} is not served here"))
}

/// A name that came from outside, for a message.
pub(super) fn shortened(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn any(field: &str, bytes: &[u8]) -> Result<Any, ServiceError> {
    let any = Any::decode(bytes).map_err(|_| invalid(field, "is no Flight SQL command"))?;
    if any.type_url.is_empty() { Err(invalid(field, "is no Flight SQL command")) } else { Ok(any) }
}

fn unpack<M: ProstMessageExt>(any: &Any) -> Result<Option<M>, ServiceError> {
    any.unpack().map_err(|_| invalid("command", "cannot be decoded"))
}

/// The answer to a command that cannot be read.
pub(super) fn invalid(field: &str, problem: &str) -> ServiceError {
    ServiceError::invalid(field, "COMMAND_INVALID", problem)
}

fn name_of(any: &Any) -> String {
    shortened(any.type_url.rsplit(['/', '.']).next().unwrap_or_default())
}
