//! Which values make sense together with the rest of the server: refused here, a setting is named with its place.

use std::time::Duration;

use tidegauge_core::limits;

use super::layers::{Layers, SettingsError};
use super::schema::Settings;

/// Longest time that a setting may name: longer ones are slips of a unit.
const TIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Shortest time between two checkpoints: each syncs files.
const CHECKPOINT_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Bytes that the queue of the log counts beside the records of one request, at most.
const AROUND_RECORDS_BYTES: u64 = 1 << 20;
/// Threads, and queries at once: more than any machine bears.
const AT_ONCE_MAX: usize = 1_024;

/// Checks the settings.
///
/// # Errors
/// The first value that breaks its rule, with key, value and place.
pub(super) fn check(settings: &Settings, layers: &Layers) -> Result<(), SettingsError> {
    let Settings { server, log, window, publish, quota, query, .. } = settings;
    let bounded = |time: Duration| time <= TIME_MAX;
    let some = |time: Duration| !time.is_zero() && bounded(time);
    let length = window.length.0;
    let divides = length.subsec_nanos() == 0 && length.as_secs() > 0 && 3600_u64.is_multiple_of(length.as_secs());
    let queue_min = limits::REQUEST_RECORDS_BYTES_MAX as u64 + AROUND_RECORDS_BYTES;
    const TIME: &str = "must be more than nothing and at most a year";
    let rules = [
        ("server", "threads", server.threads <= AT_ONCE_MAX, "must be at most 1024"),
        ("log", "queue_bytes", log.queue_bytes.0 >= queue_min, "must hold the records of one request, 25MB"),
        ("log", "tenant_share_percent", log.tenant_share_percent <= 100, "must be at most 100"),
        ("log", "reserve_percent", log.reserve_percent < 100, "must be less than 100"),
        ("window", "length", divides, "must be whole seconds that divide an hour"),
        ("window", "allowed_lateness", bounded(window.allowed_lateness.0), "must be at most a year"),
        ("window", "idle_timeout", some(window.idle_timeout.0), TIME),
        ("window", "lateness_horizon", some(window.lateness_horizon.0), TIME),
        ("window", "future_tolerance", bounded(window.future_tolerance.0), "must be at most a year"),
        ("publish", "interval", some(publish.interval.0), TIME),
        (
            "publish",
            "checkpoint_interval",
            (CHECKPOINT_INTERVAL_MIN..=TIME_MAX).contains(&publish.checkpoint_interval.0),
            "must be at least 10ms and at most a year",
        ),
        ("publish", "state_rows", publish.state_rows > 0, "must be at least 1"),
        ("quota", "events_per_second", quota.events_per_second > 0, "must be at least 1"),
        ("quota", "bytes_per_second", quota.bytes_per_second.0 > 0, "must be at least 1"),
        ("query", "time", some(query.time.0), TIME),
        ("query", "rows", query.rows > 0, "must be at least 1"),
        ("query", "per_tenant", (1..=AT_ONCE_MAX).contains(&query.per_tenant), "must be from 1 to 1024"),
    ];
    for (section, key, kept, rule) in rules {
        if let (false, Some((text, origin))) = (kept, layers.text(section, key)) {
            let (key, problem) = (format!("{section}.{key}"), format!("{text:?} {rule}"));
            return Err(SettingsError::Value { origin: origin.clone(), key, problem });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, value: &str) -> Result<Settings, SettingsError> {
        let mut layers = Layers::default();
        layers.add_environment([(name.to_owned(), value.to_owned())])?;
        Settings::read(&layers)
    }

    /// A value that would stop, spin or break the server is refused with its place; the nearest sensible one is not.
    #[test]
    fn senseless_values_are_named() {
        for (setting, senseless, sensible) in [
            ("SERVER_THREADS", "1025", "1024"),
            ("LOG_QUEUE_BYTES", "24MB", "25MB"),
            ("LOG_TENANT_SHARE_PERCENT", "101", "100"),
            ("LOG_RESERVE_PERCENT", "100", "99"),
            ("WINDOW_LENGTH", "0s", "1s"),
            ("WINDOW_LENGTH", "7m", "6m"),
            ("WINDOW_LENGTH", "500ms", "1h"),
            ("WINDOW_LENGTH", "2h", "30m"),
            ("WINDOW_IDLE_TIMEOUT", "0s", "1ms"),
            ("WINDOW_ALLOWED_LATENESS", "60w", "0s"),
            ("PUBLISH_INTERVAL", "0s", "366d"),
            ("PUBLISH_CHECKPOINT_INTERVAL", "9ms", "10ms"),
            ("QUOTA_EVENTS_PER_SECOND", "0", "1"),
            ("QUOTA_BYTES_PER_SECOND", "0B", "1B"),
            ("QUERY_TIME", "0s", "1s"),
            ("QUERY_ROWS", "0", "1"),
            ("QUERY_PER_TENANT", "18446744073709551615", "1"),
        ] {
            let name = format!("TIDEGAUGE_{setting}");
            read(&name, sensible).expect(setting);
            let error = read(&name, senseless).expect_err(setting).to_string();
            assert!(error.starts_with(&name) && error.contains(&format!("{senseless:?} must")), "{error}");
        }
        Settings::read(&Layers::default()).expect("the defaults keep the rules");
    }
}
