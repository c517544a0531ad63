//! How long to wait before the next try to connect.

use std::time::Duration;

use bucket::backoff;

const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(15);

/// Doubles from 0.2 s to 15 s, with jitter so that many operators do not come back in step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next delay.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = backoff(SHORTEST, self.failures, LONGEST);
        self.failures = self.failures.saturating_add(1);
        pause.mul_f64(rand::random_range(0.5..1.0))
    }
}
