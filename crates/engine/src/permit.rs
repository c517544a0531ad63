//! The permission to ask for refills. It expires unless it is renewed, so that a process which was stopped, and has
//! perhaps been replaced meanwhile, asks for nothing before it has found out.

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

/// Whether an engine may ask for refills.
#[derive(Clone, Debug)]
pub struct Permit(watch::Receiver<Option<Moment>>);

/// Renews a [`Permit`].
#[derive(Debug)]
pub struct Granter(watch::Sender<Option<Moment>>);

/// An instant on both clocks: the monotonic one stands still while the machine sleeps, the wall clock can be set back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    monotonic: Instant,
    wall: DateTime<Utc>,
}

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: Utc::now(),
        }
    }

    fn plus(self, duration: Duration) -> Self {
        Self {
            monotonic: self.monotonic + duration,
            wall: self.wall + duration,
        }
    }

    /// Whether it has come on neither clock.
    fn is_ahead_of(self, now: Self) -> bool {
        now.monotonic < self.monotonic && now.wall < self.wall
    }
}

impl Permit {
    /// For an engine without rivals.
    #[must_use]
    pub fn unlimited() -> Self {
        Self(watch::Sender::new(None).subscribe())
    }

    /// One that lasts for `duration` from `since` on.
    #[must_use]
    pub fn granted(since: Moment, duration: Duration) -> (Granter, Self) {
        let (granter, permit) = watch::channel(Some(since.plus(duration)));
        (Granter(granter), Self(permit))
    }

    /// Whether refills may be asked for at `now`.
    #[must_use]
    pub fn allows(&self, now: Moment) -> bool {
        self.0.borrow().is_none_or(|until| until.is_ahead_of(now))
    }

    /// Waits until it is renewed; for ever when nobody is left who could.
    pub async fn renewed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Granter {
    /// The permit lasts for `duration` from `since` on.
    pub fn renew(&self, since: Moment, duration: Duration) {
        self.0.send_replace(Some(since.plus(duration)));
    }

    /// Whether the permit lasts still at `now`.
    #[must_use]
    pub fn lasts(&self, now: Moment) -> bool {
        Permit(self.0.subscribe()).allows(now)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    #[test]
    fn a_permit_ends_with_the_clock_that_gets_there_first() {
        let start = Moment::now();
        let (_granter, permit) = Permit::granted(start, LEASE);
        let after = |monotonic, wall| Moment {
            monotonic: start.monotonic + Duration::from_secs(monotonic),
            wall: start.wall + TimeDelta::seconds(wall),
        };
        assert!(permit.allows(after(14, 14)));
        assert!(!permit.allows(after(15, 15)));
        assert!(!permit.allows(after(1, 60)), "the machine slept");
        assert!(!permit.allows(after(20, -60)), "the clock was set back");
    }

    #[tokio::test]
    async fn a_renewal_is_noticed_and_lasts() {
        let start = Moment::now();
        let (granter, mut permit) = Permit::granted(start, Duration::ZERO);
        assert!(!permit.allows(start));
        granter.renew(start, LEASE);
        permit.renewed().await;
        assert!(permit.allows(start));
    }

    #[test]
    fn an_engine_without_rivals_needs_no_renewal() {
        assert!(Permit::unlimited().allows(Moment::now().plus(LEASE)));
    }
}
