//! How many connections there may be.

use tidegauge_core::limits;

/// Where Linux says what a process may have; elsewhere there is no such file.
const LIMITS_FILE: &str = "/proc/self/limits";

/// The limit, or half of the files that this process may open where that is less: connections must leave enough for the
/// log and the lake, which stop without files.
pub(super) fn connections_max() -> usize {
    let files = std::fs::read_to_string(LIMITS_FILE).ok().and_then(|text| open_files(&text));
    let Some(half) = files.map(|files| files / 2).filter(|half| *half < limits::CONNECTIONS_MAX) else {
        return limits::CONNECTIONS_MAX;
    };
    tracing::info!(connections = half, "few files may be open (ulimit -n), so fewer connections are taken");
    half
}

/// The soft limit of open files; none where it is unlimited.
fn open_files(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The soft limit is read as Linux writes it, and what is not a number is no limit.
    #[test]
    fn reads_the_soft_limit() {
        let limits = |soft: &str| {
            format!(
                "Limit  Soft Limit  Hard Limit  Units\nMax processes  7  7  processes\nMax open files  {soft}  524288  files\n"
            )
        };
        assert_eq!(open_files(&limits("1024")), Some(1024));
        assert_eq!(open_files(&limits("unlimited")), None);
        assert_eq!(open_files(""), None);
        assert!((1..=tidegauge_core::limits::CONNECTIONS_MAX).contains(&connections_max()));
    }
}
