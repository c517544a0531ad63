//! The two clocks, read together.

use std::time::Duration;

use bucket::machine::Now;
use chrono::Utc;
use tokio::time::Instant;

/// Reads the wall clock, and the monotonic one since an instant of its own: what two clocks show cannot be compared.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Its monotonic time begins now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            utc: Utc::now(),
            monotonic: self.start.elapsed(),
        }
    }

    /// When it will show that monotonic time.
    #[must_use]
    pub fn instant(&self, monotonic: Duration) -> Instant {
        self.start + monotonic
    }
}
