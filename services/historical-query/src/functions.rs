//! Functions of our own that the syntax tree is rewritten to.

mod like_escape;
mod time_zone;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

/// `like_escape(pattern, escape)`: the pattern with backslashes for escapes.
pub(crate) const LIKE_ESCAPE: &str = "like_escape";
/// `at_time_zone(time, zone)`: `time AT TIME ZONE zone`.
pub(crate) const AT_TIME_ZONE: &str = "at_time_zone";

/// All of them.
pub(crate) fn all() -> [Arc<ScalarUDF>; 2] {
    [
        Arc::new(ScalarUDF::new_from_impl(like_escape::LikeEscape::default())),
        Arc::new(ScalarUDF::new_from_impl(time_zone::AtTimeZone::default())),
    ]
}
