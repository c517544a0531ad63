//! The scheduler: at its due time a bucket's refill request goes into its refill queue. It remembers nothing that it could
//! not lose; after a restart it starts from the ledgers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::due_queue::{DueQueue, MOST_LAG, Request, Skipped};
use super::effect::Effect;
use super::event::Now;
use super::failure::Failure;
use super::outcome::Outcome;
use crate::request::{Origin, RefillRequest};
use crate::{Bucket, BucketId};

/// When which bucket is due, and what is being asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Scheduler {
    due: DueQueue,
    /// Due, and not published yet.
    waiting: Vec<Request>,
    /// Being published.
    published: Option<Vec<Request>>,
    /// When the clock was looked at last.
    seen: Option<Now>,
    /// Ticks that were told to be skipped, and after which one. A ledger says nothing of them, so the next connection
    /// finds the same ones again.
    reported: HashMap<BucketId, (DateTime<Utc>, u64)>,
}

impl Scheduler {
    /// Schedules a bucket from its ledger on: `reference` is the newest tick that needs no request any more.
    pub(super) fn enter(
        &mut self,
        bucket: &Arc<Bucket>,
        since: DateTime<Utc>,
        reference: DateTime<Utc>,
        now: Now,
    ) {
        let request = self.due.enter(bucket.clone(), since, reference, now.utc);
        self.waiting.extend(request);
    }

    /// Stops scheduling a bucket.
    pub(super) fn leave(&mut self, id: &BucketId) {
        self.due.leave(id);
        self.waiting.retain(|request| request.bucket.id != *id);
    }

    /// The bucket is not in force any more.
    pub(super) fn forget(&mut self, id: &BucketId) {
        self.leave(id);
        self.reported.remove(id);
    }

    /// The connection is gone: the ledgers say where to go on.
    pub(super) fn reset(&mut self) {
        self.due.clear();
        self.waiting.clear();
        self.published = None;
    }

    /// Takes what is due. Not to be called while nobody can refill: what passes then is found to be missed.
    pub(super) fn take_due(&mut self, now: Now) {
        let before = self.seen.replace(now).unwrap_or(now);
        let monotonic = now.monotonic.saturating_sub(before.monotonic);
        let monotonic = TimeDelta::from_std(monotonic).unwrap_or(TimeDelta::MAX);
        // Not awake: the process was stopped (both clocks went on), the machine slept (the monotonic one may stand still)
        // or the wall clock was set forward.
        let awake = monotonic <= MOST_LAG && now.utc - before.utc <= MOST_LAG;
        let due = self.due.take_due(now.utc, awake);
        self.waiting.extend(due);
    }

    /// The next instant at which something is due.
    pub(super) fn next(&self) -> Option<DateTime<Utc>> {
        self.due.next()
    }

    /// The next tick of a bucket, for its status.
    pub(super) fn next_of(&self, id: &BucketId) -> Option<DateTime<Utc>> {
        self.due.next_of(id)
    }

    /// Whether the broker is being asked to take requests.
    pub(super) fn is_publishing(&self) -> bool {
        self.published.is_some()
    }

    /// The requests to publish, one flight after the other. Of each bucket there is at most one in a flight: should it be
    /// refused, one for a later tick that is accepted would make the ledger forget it.
    pub(super) fn publish(&mut self) -> Option<Effect> {
        if self.waiting.is_empty() || self.is_publishing() {
            return None;
        }
        let mut buckets = HashSet::with_capacity(self.waiting.len());
        let (flight, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|request| buckets.insert(request.bucket.id.clone()));
        self.waiting = later;
        let requests = flight.iter().map(message).collect();
        self.published = Some(flight);
        Some(Effect::Publish { requests })
    }

    /// What became of them. What was not accepted is due again in a while, and with it what is due for the same bucket and
    /// not published yet: a later tick must not overtake. The answer are the buckets that it was about,
    /// with these.
    pub(super) fn published(
        &mut self,
        results: &[Result<(), Failure>],
        now: Now,
    ) -> Vec<(BucketId, Result<(), Failure>)> {
        let published = self.published.take().unwrap_or_default();
        for (Request { bucket, span }, result) in published.iter().zip(results) {
            if result.is_err() {
                self.waiting.retain(|waits| waits.bucket.id != bucket.id);
                self.due.put_back(&bucket.id, span.since, now.utc);
            }
        }
        published
            .into_iter()
            .map(|request| request.bucket.id.clone())
            .zip(results.iter().cloned())
            .collect()
    }

    /// Ticks that are skipped, apart from those that were told before.
    pub(super) fn skipped(&mut self) -> impl Iterator<Item = Outcome> {
        let Self { due, reported, .. } = self;
        due.take_skipped().into_iter().filter_map(
            |Skipped {
                 bucket,
                 reference,
                 ticks,
             }| {
                let before = reported.insert(bucket.id.clone(), (reference, ticks));
                let before = before.filter(|(after, _)| *after == reference);
                let ticks = ticks.saturating_sub(before.map_or(0, |(_, ticks)| ticks));
                let policy = bucket.missed_refills;
                (ticks > 0).then_some(Outcome::Skipped { policy, ticks })
            },
        )
    }
}

fn message(Request { bucket, span }: &Request) -> (Arc<str>, RefillRequest) {
    let origin = Origin::Schedule {
        uid: bucket.uid.to_string(),
        since: span.since,
        tick: span.tick,
        ticks: span.ticks,
    };
    let request = RefillRequest {
        bucket: bucket.name.to_string(),
        origin,
    };
    (bucket.refill_queue.as_str().into(), request)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schedule::{Timetable, parse_zone};

    use super::*;
    use crate::MissedRefills;
    use crate::fixture::{at, bucket};
    use crate::machine::Class;

    #[test]
    fn a_tick_that_is_skipped_is_told_once_however_often_it_is_found() {
        let mut scheduler = Scheduler::default();
        let bucket = Arc::new(bucket());
        let mut told = |reference, now| {
            let now = Now {
                utc: at(now),
                monotonic: Duration::ZERO,
            };
            scheduler.enter(&bucket, at(0), at(reference), now);
            match scheduler.skipped().next() {
                Some(Outcome::Skipped { ticks, .. }) => ticks,
                _ => 0,
            }
        };
        assert_eq!(told(0, 240), 3);
        // The next connection finds the same ones, and two more.
        assert_eq!(told(0, 240), 0);
        assert_eq!(told(0, 360), 2);
        // A refill has moved the reference.
        assert_eq!(told(600, 780), 2);
    }

    fn now(second: i64) -> Now {
        Now {
            utc: at(second),
            monotonic: Duration::from_secs(second.try_into().unwrap()),
        }
    }

    fn refused() -> Result<(), Failure> {
        Err(Failure {
            reason: "Told",
            message: "told".into(),
            class: Class::Blocked,
        })
    }

    /// All of whose ticks count.
    fn strict(schedule: &str) -> Arc<Bucket> {
        let timetable = Timetable::new(
            schedule.parse().unwrap(),
            parse_zone("Etc/UTC").unwrap(),
            at(0),
        );
        Arc::new(Bucket {
            missed_refills: MissedRefills::All,
            timetable,
            ..bucket()
        })
    }

    #[test]
    fn ticks_that_are_due_together_are_asked_for_one_after_the_other() {
        let mut scheduler = Scheduler::default();
        let other = Arc::new(Bucket {
            id: BucketId::new("shop", "other"),
            ..(*strict("* * * * * *")).clone()
        });
        scheduler.enter(&strict("* * * * * *"), at(0), at(0), now(0));
        scheduler.enter(&other, at(0), at(0), now(0));
        scheduler.take_due(now(0));
        scheduler.take_due(now(3));
        let ticks = |effect: Option<Effect>| -> Vec<_> {
            let Some(Effect::Publish { requests }) = effect else {
                return Vec::new();
            };
            let tick = |(_, request): (_, RefillRequest)| match request.origin {
                Origin::Schedule { tick, ticks, .. } => ((tick - at(0)).num_seconds(), ticks),
                Origin::Foreign { .. } => (0, 0),
            };
            requests.into_iter().map(tick).collect()
        };
        assert_eq!(ticks(scheduler.publish()), [(1, 1), (1, 1)]);
        scheduler.published(&[Ok(()), refused()], now(3));
        // The other one asks again for all of its ticks, and not before the first of them is accepted.
        assert_eq!(ticks(scheduler.publish()), [(2, 1)]);
        scheduler.published(&[Ok(())], now(3));
        scheduler.take_due(now(4));
        let first = ticks(scheduler.publish());
        assert_eq!(first.len(), 2);
        assert!(
            first.contains(&(3, 1)) && first.contains(&(1, 1)),
            "{first:?}"
        );
    }

    #[test]
    fn a_tick_does_not_overtake_one_that_was_not_accepted() {
        let mut scheduler = Scheduler::default();
        scheduler.enter(&strict("* * * * *"), at(0), at(0), now(10));
        scheduler.take_due(now(60));
        assert!(scheduler.publish().is_some());
        // It is due while the one before is being published.
        scheduler.take_due(now(120));
        scheduler.published(&[refused()], now(121));
        assert_eq!(scheduler.publish(), None);
        scheduler.take_due(now(122));
        let Some(Effect::Publish { requests }) = scheduler.publish() else {
            panic!("nothing is asked for again")
        };
        let [(_, request)] = &requests[..] else {
            panic!("{requests:?}")
        };
        assert!(matches!(request.origin, Origin::Schedule { ticks: 2, .. }));
    }
}
