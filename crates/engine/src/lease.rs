//! How long the operator knows that it leads. That ends unless it is renewed, so that a process which was stopped, and has
//! perhaps been replaced meanwhile, asks for no refill before it has found out.

use std::time::Duration;

use bucket::machine::Now;
use tokio::sync::watch;

use crate::clock::Clock;

/// Whether an engine may ask for refills.
#[derive(Clone, Debug)]
pub struct LeaseValidity {
    clock: Clock,
    /// None: for ever.
    until: watch::Receiver<Option<Now>>,
}

/// Renews a [`LeaseValidity`].
#[derive(Debug)]
pub struct LeaseRenewer(watch::Sender<Option<Now>>);

impl LeaseValidity {
    /// For an engine without rivals.
    #[must_use]
    pub fn unlimited() -> Self {
        Self {
            clock: Clock::start(),
            until: watch::Sender::new(None).subscribe(),
        }
    }

    /// One that lasts for `duration` from `since`, which `clock` has shown, on.
    #[must_use]
    pub fn granted(clock: Clock, since: Now, duration: Duration) -> (LeaseRenewer, Self) {
        let (renewer, until) = watch::channel(Some(after(since, duration)));
        (LeaseRenewer(renewer), Self { clock, until })
    }

    /// Whether refills may be asked for now.
    #[must_use]
    pub(crate) fn is_valid(&self) -> bool {
        is_ahead(*self.until.borrow(), self.clock.now())
    }

    /// Waits until it is renewed; for ever when nobody is left who could.
    pub(crate) async fn renewed(&mut self) {
        if self.until.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl LeaseRenewer {
    /// The lease lasts for `duration` from `since` on.
    pub fn renew(&self, since: Now, duration: Duration) {
        self.0.send_replace(Some(after(since, duration)));
    }

    /// Whether the lease lasts still at `now`.
    #[must_use]
    pub fn is_valid_at(&self, now: Now) -> bool {
        is_ahead(*self.0.borrow(), now)
    }
}

fn after(since: Now, duration: Duration) -> Now {
    Now {
        utc: since.utc + duration,
        monotonic: since.monotonic + duration,
    }
}

/// Whether `until` has come on neither clock.
fn is_ahead(until: Option<Now>, now: Now) -> bool {
    until.is_none_or(|until| now.monotonic < until.monotonic && now.utc < until.utc)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    #[test]
    fn a_lease_ends_with_the_clock_that_gets_there_first() {
        let clock = Clock::start();
        let start = clock.now();
        let (renewer, _validity) = LeaseValidity::granted(clock, start, LEASE);
        let after = |monotonic, wall| Now {
            monotonic: start.monotonic + Duration::from_secs(monotonic),
            utc: start.utc + TimeDelta::seconds(wall),
        };
        assert!(renewer.is_valid_at(after(14, 14)));
        assert!(!renewer.is_valid_at(after(15, 15)));
        assert!(!renewer.is_valid_at(after(1, 60)), "the machine slept");
        assert!(
            !renewer.is_valid_at(after(20, -60)),
            "the clock was set back"
        );
    }

    #[tokio::test]
    async fn a_renewal_is_noticed_and_lasts() {
        let clock = Clock::start();
        let (renewer, mut validity) = LeaseValidity::granted(clock, clock.now(), Duration::ZERO);
        assert!(!validity.is_valid());
        renewer.renew(clock.now(), LEASE);
        validity.renewed().await;
        assert!(validity.is_valid());
    }

    #[test]
    fn an_engine_without_rivals_needs_no_renewal() {
        assert!(LeaseValidity::unlimited().is_valid());
    }
}
