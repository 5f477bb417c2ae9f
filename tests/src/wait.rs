//! Waiting for a condition with a limit.

use std::time::Duration;

/// How long a test waits for something that must happen; far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Asks `probe` again and again until it gives a value.
///
/// # Panics
/// When nothing came within [`PATIENCE`]; the text says what was awaited and the last refusal.
pub async fn until<T, F, Fut>(what: &str, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let mut last = String::new();
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            ticks.tick().await;
            match probe().await {
                Ok(value) => return value,
                Err(why) => last = why,
            }
        }
    })
    .await;
    match found {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}; last: {last}"),
    }
}
