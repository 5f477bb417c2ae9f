//! Facts about the server, as `CommandGetSqlInfo` answers them.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    CommandGetSqlInfo, SqlInfo, SqlNullOrdering, SqlSupportedCaseSensitivity, SqlSupportedTransaction,
};
use tidegauge_core::{ErrorKind, ServiceError};

/// Highest id that the specification gives to a fact, with room.
const ID_MAX: u32 = 1_000;

static FACTS: LazyLock<Option<SqlInfoData>> = LazyLock::new(|| {
    let mut facts = SqlInfoDataBuilder::new();
    facts.append(SqlInfo::FlightSqlServerName, "Tidegauge");
    facts.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    facts.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    facts.append(SqlInfo::FlightSqlServerReadOnly, true);
    facts.append(SqlInfo::FlightSqlServerSql, true);
    facts.append(SqlInfo::FlightSqlServerSubstrait, false);
    facts.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    facts.append(SqlInfo::FlightSqlServerCancel, false);
    facts.append(SqlInfo::FlightSqlServerStatementTimeout, 0_i32);
    facts.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
    facts.append(SqlInfo::SqlDdlCatalog, false);
    facts.append(SqlInfo::SqlDdlSchema, false);
    facts.append(SqlInfo::SqlDdlTable, false);
    facts.append(SqlInfo::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32);
    facts.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    facts.append(
        SqlInfo::SqlQuotedIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32,
    );
    facts.append(SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    facts.append(SqlInfo::SqlAllTablesAreSelectable, true);
    facts.build().inspect_err(|error| tracing::error!(%error, "the facts about the server could not be built")).ok()
});

/// The schema of the answer.
pub(super) fn schema() -> SchemaRef {
    Arc::new(SqlInfoDataBuilder::schema().clone())
}

/// The facts asked for; all if none is named.
pub(super) fn batch(wanted: &CommandGetSqlInfo) -> Result<RecordBatch, ServiceError> {
    let failed = || ServiceError::new(ErrorKind::Internal, "SQL_INFO", "the facts about the server are not available");
    let facts = FACTS.as_ref().ok_or_else(failed)?;
    // Every id is compared with every fact: a list may name each once.
    let ids: BTreeSet<u32> = wanted.info.iter().copied().filter(|id| *id <= ID_MAX).collect();
    let nothing_known = ids.is_empty() && !wanted.info.is_empty();
    let batch = facts.record_batch(ids).map_err(|_| failed())?;
    Ok(if nothing_known { batch.slice(0, 0) } else { batch })
}
