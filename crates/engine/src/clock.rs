//! What time it is, and whether somebody was there to see it pass.

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Duration, Instant, timeout};

/// How often a clock has to be looked at: how soon a changed wall clock is noticed.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// A busy machine may keep us from looking for so long. Ticks of a longer absence passed while nobody could refill.
pub(super) const MOST_LAG: TimeDelta = TimeDelta::seconds(10);

/// A wall clock under watch.
pub(super) struct Clock {
    wall: Box<dyn Fn() -> DateTime<Utc> + Send>,
    seen: (DateTime<Utc>, Instant),
    awake: bool,
}

impl Clock {
    /// The system's.
    pub(super) fn system() -> Self {
        Self::new(Utc::now)
    }

    pub(super) fn new(wall: impl Fn() -> DateTime<Utc> + Send + 'static) -> Self {
        Self {
            seen: (wall(), Instant::now()),
            wall: Box::new(wall),
            awake: true,
        }
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        (self.wall)()
    }

    /// The time, and whether all of it since the last look was watched. It was not when the process was stopped (both
    /// clocks went on), the machine slept (the monotonic one may stand still) or the wall clock was set forward.
    pub(super) fn look(&mut self) -> (DateTime<Utc>, bool) {
        self.glance();
        (self.seen.0, std::mem::replace(&mut self.awake, true))
    }

    /// Awaits something that may take long, and watches the clock meanwhile.
    pub(super) async fn watch_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            match timeout(LONGEST_SLEEP, &mut work).await {
                Ok(done) => return done,
                Err(_) => self.glance(),
            }
        }
    }

    fn glance(&mut self) {
        let now = (self.now(), Instant::now());
        let before = std::mem::replace(&mut self.seen, now);
        let monotonic = TimeDelta::from_std(now.1 - before.1).unwrap_or(TimeDelta::MAX);
        self.awake &= monotonic <= MOST_LAG && now.0 - before.0 <= MOST_LAG;
    }
}
