//! The table `dashboard_metrics`: lake rows of each key below its boundary, and its live windows from there on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tidegauge_core::{ErrorKind, ServiceError};
use tidegauge_lake::schema;

use crate::decide::prune::{self, Facts};
use crate::error::Abort;
use crate::index::HourIndex;
use crate::object::{Objects, Wanted};
use crate::scan::{DashboardScan, Unit};
use crate::snapshot::Snapshot;

/// Name of the catalog.
pub(crate) const CATALOG: &str = "tidegauge";
/// Name of the schema.
pub(crate) const SCHEMA: &str = "public";
/// Name of the table.
pub(crate) const DASHBOARD_METRICS: &str = "dashboard_metrics";

/// What one execution reads from.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) snapshot: Snapshot,
    pub(crate) objects: Arc<Objects>,
    pub(crate) index: Arc<HourIndex>,
    pub(crate) scan_bytes_max: u64,
    /// Bytes of the objects of all scans together.
    pub(crate) scan_bytes: AtomicU64,
    /// Objects of all scans, to open them before anything is sent.
    pub(crate) planned: Mutex<Vec<Wanted>>,
}

/// The table as one principal sees it. Rooted in the tenants of the snapshot: nothing else can be named.
///
/// Without an execution it has a schema only: enough to describe a result, not to run it.
#[derive(Clone, Debug)]
pub(crate) struct DashboardMetrics {
    pub(crate) execution: Option<Arc<Execution>>,
}

impl Execution {
    async fn units(&self, filters: &[Expr]) -> std::result::Result<Vec<Unit>, Abort> {
        let mut units = Vec::new();
        for key in &self.snapshot.keys {
            if !prune::may_match(filters, &Facts::tenant(key.key.tenant.as_str())) {
                continue;
            }
            let Some(objects) = self.snapshot.or_missing(self.index.objects(key, filters).await)? else { continue };
            for (entry, part) in objects {
                let sum = self.scan_bytes.fetch_add(entry.bytes, Ordering::Relaxed) + entry.bytes;
                if sum > self.scan_bytes_max {
                    return Err(too_much(self.scan_bytes_max).into());
                }
                units.push(Unit::Object(Wanted { key: Arc::clone(key), entry, part }));
            }
            let Some(live) = self.snapshot.or_missing(key.live())? else { continue };
            let facts = Facts::tenant(key.key.tenant.as_str());
            for (at, (hour, batch)) in live.iter().enumerate() {
                if prune::may_match(filters, &facts.hour(*hour)) {
                    units.push(Unit::Live { key: Arc::clone(key), at, rows: batch.num_rows() });
                }
            }
        }
        Ok(units)
    }
}

fn too_much(max: u64) -> ServiceError {
    let message = format!("the query would read more than {} MiB of history; narrow it by time or tenant", max >> 20);
    ServiceError::new(ErrorKind::ResourceExhausted, "SCAN_LIMIT", message.clone()).quota("scan_bytes", message)
}

#[async_trait]
impl TableProvider for DashboardMetrics {
    fn schema(&self) -> SchemaRef {
        schema::dashboard_metrics()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(execution) = &self.execution else {
            return Err(DataFusionError::Internal("a description was executed".to_owned()));
        };
        let units = execution.units(filters).await.map_err(Abort::engine)?;
        let objects = units.iter().filter_map(|unit| match unit {
            Unit::Object(wanted) => Some(wanted.clone()),
            Unit::Live { .. } => None,
        });
        execution.planned.lock().unwrap_or_else(PoisonError::into_inner).extend(objects);
        let columns: Arc<[usize]> = match projection {
            Some(columns) => columns.as_slice().into(),
            None => (0..self.schema().fields().len()).collect(),
        };
        let partitions = state.config().target_partitions();
        Ok(Arc::new(DashboardScan::new(Arc::clone(execution), units, columns, partitions)))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // They prune; the engine applies them to the rows.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// The catalog, with the one schema.
#[derive(Clone, Debug)]
pub(crate) struct OneCatalog(pub(crate) DashboardMetrics);

/// The schema, with the one table.
#[derive(Clone, Debug)]
struct OneSchema(DashboardMetrics);

impl CatalogProvider for OneCatalog {
    fn schema_names(&self) -> Vec<String> {
        vec![SCHEMA.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        (name == SCHEMA).then(|| Arc::new(OneSchema(self.0.clone())) as Arc<dyn SchemaProvider>)
    }
}

#[async_trait]
impl SchemaProvider for OneSchema {
    fn table_names(&self) -> Vec<String> {
        vec![DASHBOARD_METRICS.to_owned()]
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok((name == DASHBOARD_METRICS).then(|| Arc::new(self.0.clone()) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        name == DASHBOARD_METRICS
    }
}
