//! Who wants to know what is taken.

use std::fmt::Debug;
use std::time::Duration;

/// Is told of takes, for metrics. Each method is called where it happens: it must not block.
///
/// With OpenTelemetry, for example, it holds a counter and a histogram of a meter and adds to them.
pub trait Observer: Debug + Send + Sync + 'static {
    /// Tokens were taken, after this time from the call on.
    fn taken(&self, bucket: &str, tokens: u32, waited: Duration) {
        let _ = (bucket, tokens, waited);
    }

    /// Somebody wanted tokens, and there were not enough.
    fn empty(&self, bucket: &str) {
        let _ = bucket;
    }

    /// Tokens were given back.
    fn refunded(&self, bucket: &str, tokens: u32) {
        let _ = (bucket, tokens);
    }
}

/// The default.
#[derive(Debug, Default)]
pub(crate) struct Standard;

#[cfg(not(feature = "metrics"))]
impl Observer for Standard {}

/// Tells the recorder of the crate `metrics`: `token_bucket_client_taken_total`, `…_empty_total` and `…_refunded_total`, and how
/// long callers waited as the histogram `…_wait_seconds`, each with the label `bucket`.
#[cfg(feature = "metrics")]
impl Observer for Standard {
    fn taken(&self, bucket: &str, tokens: u32, waited: Duration) {
        metrics::counter!("token_bucket_client_taken_total", "bucket" => bucket.to_owned())
            .increment(tokens.into());
        metrics::histogram!("token_bucket_client_wait_seconds", "bucket" => bucket.to_owned())
            .record(waited);
    }

    fn empty(&self, bucket: &str) {
        metrics::counter!("token_bucket_client_empty_total", "bucket" => bucket.to_owned())
            .increment(1);
    }

    fn refunded(&self, bucket: &str, tokens: u32) {
        metrics::counter!("token_bucket_client_refunded_total", "bucket" => bucket.to_owned())
            .increment(tokens.into());
    }
}
