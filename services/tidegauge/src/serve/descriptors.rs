//! The files that this process may open: raised as far as the operating system lets it, divided once, told.

use tidegauge_core::descriptors::DescriptorBudget;
use tidegauge_embedded::log::SHARDS_MAX;

use crate::failure::{Failure, Outcome};

/// Where Linux lists the open files of a process; elsewhere there is no such folder.
const OPEN_FILES: &str = "/proc/self/fd";

/// Raises the limit of open files to its hard bound and divides it.
///
/// # Errors
/// When that is less than the parts need.
pub(super) fn divide(shards: u32) -> Outcome<DescriptorBudget> {
    let limit = match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(FALLBACK, |(soft, _)| soft)
        }
    };
    // More shards than there can be are refused by the log.
    DescriptorBudget::divide(limit, shards.min(SHARDS_MAX)).map_err(|error| {
        Failure::new(error.to_string()).hint(format!(
            "raise the hard limit of open files to at least {} (ulimit -Hn, LimitNOFILE= of a systemd unit, or --ulimit nofile of \
             a container)",
            error.needed
        ))
    })
}

/// What is taken where the operating system does not say: the usual soft limit.
const FALLBACK: u64 = 1_024;

/// Shows how the files are divided: in the log and in the metrics.
pub(super) fn tell(budget: &DescriptorBudget) {
    tracing::info!(
        limit = budget.limit,
        fixed = budget.fixed,
        hot_tables = budget.hot_tables,
        lake_writes = budget.lake_writes,
        lake_objects = budget.lake_objects,
        grpc_connections = budget.grpc_connections,
        http_connections = budget.http_connections,
        "open files are divided"
    );
    metrics::describe_gauge!("process_max_fds", "Files and sockets that the process may have open");
    metrics::describe_gauge!("process_open_fds", "Files and sockets that the process has open");
    metrics::describe_gauge!("tidegauge_files_share", "Files and sockets that a part of the server may have open");
    metrics::gauge!("process_max_fds").set(budget.limit as f64);
    for (part, share) in budget.shares() {
        metrics::gauge!("tidegauge_files_share", "part" => part).set(share as f64);
    }
    count();
}

/// Refreshes the number of open files, where the operating system says it.
pub(super) fn count() {
    // The listing itself has one open.
    if let Ok(open) = std::fs::read_dir(OPEN_FILES) {
        metrics::gauge!("process_open_fds").set(open.count().saturating_sub(1) as f64);
    }
}
