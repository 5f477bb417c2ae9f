//! What there is to query: catalogs, schemas, tables, kinds of tables. BI tools ask for it before anything else.
//!
//! The answers are the same for everybody: one table, whose rows depend on the caller and whose name does not.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables};
use tidegauge_core::ServiceError;

use super::command::invalid;
use crate::session::announced;
use crate::table::{CATALOG, DASHBOARD_METRICS, SCHEMA};

/// The kind of every table.
const TABLE_TYPE: &str = "TABLE";
/// Bytes of a name or pattern in a command, and kinds of tables that it may list.
const FILTER_MAX: usize = 1_024;

/// A question about the catalog.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// Which catalogs.
    Catalogs(CommandGetCatalogs),
    /// Which schemas.
    Schemas(CommandGetDbSchemas),
    /// Which tables, with or without their columns.
    Tables(CommandGetTables),
    /// Which kinds of tables.
    TableTypes(CommandGetTableTypes),
}

impl Question {
    /// The schema of the answer.
    pub(super) fn schema(&self) -> SchemaRef {
        match self.clone() {
            Self::Catalogs(command) => command.into_builder().schema(),
            Self::Schemas(command) => command.into_builder().schema(),
            Self::Tables(command) => command.into_builder().schema(),
            Self::TableTypes(command) => command.into_builder().schema(),
        }
    }

    /// The answer.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for filters that are too long.
    pub(super) fn answer(self) -> Result<RecordBatch, ServiceError> {
        self.check()?;
        self.batch().map_err(|error| super::encode::broken(&error))
    }

    fn batch(self) -> Result<RecordBatch, FlightError> {
        match self {
            Self::Catalogs(command) => {
                let mut catalogs = command.into_builder();
                catalogs.append(CATALOG);
                catalogs.build()
            }
            Self::Schemas(command) => {
                let mut schemas = command.into_builder();
                schemas.append(CATALOG, SCHEMA);
                schemas.build()
            }
            Self::Tables(command) => {
                let mut tables = command.into_builder();
                let columns = announced(tidegauge_lake::schema::dashboard_metrics().fields());
                tables.append(CATALOG, SCHEMA, DASHBOARD_METRICS, TABLE_TYPE, &columns)?;
                tables.build()
            }
            Self::TableTypes(command) => {
                let mut kinds = command.into_builder();
                kinds.append(TABLE_TYPE);
                kinds.build()
            }
        }
    }

    /// Patterns are matched as regular expressions.
    fn check(&self) -> Result<(), ServiceError> {
        let fits = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= FILTER_MAX);
        let fits = match self {
            Self::Catalogs(_) | Self::TableTypes(_) => true,
            Self::Schemas(command) => fits(&command.catalog) && fits(&command.db_schema_filter_pattern),
            Self::Tables(command) => {
                fits(&command.catalog)
                    && fits(&command.db_schema_filter_pattern)
                    && fits(&command.table_name_filter_pattern)
                    && command.table_types.len() <= FILTER_MAX
            }
        };
        if fits { Ok(()) } else { Err(invalid("command", "has a filter that is too long")) }
    }
}
