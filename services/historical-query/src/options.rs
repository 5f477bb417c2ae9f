//! Settings of the service; the defaults are the limits of `tidegauge_core`.

use std::path::PathBuf;
use std::time::Duration;

use tidegauge_core::limits;

/// Settings of [`crate::HistoricalQuery`].
#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// Wall time of one query, waiting for its turn included.
    pub query_time_max: Duration,
    /// Time that a caller waits for a plan; the planning itself cannot be stopped and is left behind.
    pub planning_time_max: Duration,
    /// Memory of one query.
    pub query_memory_bytes: usize,
    /// Memory of all queries together.
    pub memory_bytes: usize,
    /// Bytes of lake objects that one query may read.
    pub scan_bytes_max: u64,
    /// Rows of one result.
    pub result_rows_max: u64,
    /// Bytes of one result, as Arrow.
    pub result_bytes_max: u64,
    /// Queries of one tenant that run at once.
    pub queries_per_tenant: usize,
    /// Queries of one tenant that wait.
    pub waiting_per_tenant: usize,
    /// Queries of all tenants that run at once.
    pub queries: usize,
    /// Threads that run plans; `None` for one a core, at most four.
    pub threads: Option<usize>,
    /// Bytes of decoded lake objects that are kept.
    pub cache_bytes: usize,
    /// Objects that stay open for running queries, all queries together; two thirds of the share of descriptors.
    pub pinned_objects: usize,
    /// Folder for what does not fit into memory; `None` refuses such queries instead.
    pub spill_dir: Option<PathBuf>,
    /// Bytes that may be spilled, all queries together.
    pub spill_bytes_max: u64,
    /// Life of tickets and of handles of prepared statements.
    pub handle_life: Duration,
    /// How often the snapshot is taken again when the lake moved under a query that has sent nothing.
    pub seam_tries: usize,
    /// Pause before it is taken again; doubles with every try, up to sixteen times. The live side is at most a push
    /// (20 ms) behind the lake.
    pub seam_pause: Duration,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            query_time_max: limits::QUERY_TIME_MAX,
            planning_time_max: Duration::from_secs(10),
            query_memory_bytes: limits::QUERY_MEMORY_BYTES,
            memory_bytes: 4 * limits::QUERY_MEMORY_BYTES,
            scan_bytes_max: limits::QUERY_SCAN_BYTES_MAX,
            result_rows_max: limits::QUERY_ROWS_MAX,
            result_bytes_max: 4 << 30,
            queries_per_tenant: limits::QUERIES_PER_TENANT,
            waiting_per_tenant: limits::QUERIES_WAITING_PER_TENANT,
            queries: 32,
            threads: None,
            cache_bytes: 64 << 20,
            pinned_objects: 512,
            spill_dir: None,
            spill_bytes_max: 4 << 30,
            handle_life: Duration::from_secs(600),
            seam_tries: 40,
            seam_pause: Duration::from_millis(5),
        }
    }
}
