use std::time::{Duration, Instant};

/// Asks `check` again and again until it succeeds; panics with its last answer when `limit` is over. `what` completes
/// the sentence "waited in vain for …".
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(last) if start.elapsed() >= limit => {
                panic!(
                    "waited in vain for {what} for {} s: {last}",
                    limit.as_secs_f32()
                );
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
        }
    }
}
