//! Which buckets are due when: the scheduler's memory, without clock and without I/O.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use schedule::Timetable;

use crate::{Bucket, BucketId, Passed, TickSpan, catch_up, due};

/// A busy machine may keep us from looking for so long. Ticks of a longer absence passed while nobody could refill.
pub(super) const MOST_LAG: TimeDelta = TimeDelta::seconds(10);
/// Ticks of one bucket that count as lag when they are found together; more than these go by its policy.
const MOST_LATE_TICKS: usize = 100;
/// When to ask again for a refill whose request was not accepted.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(1);

/// All buckets with their next due times.
#[derive(Clone, Debug, Default)]
pub(super) struct DueQueue {
    entries: HashMap<BucketId, Entry>,
    /// When each of them is due next; a bucket that is never due is not in it.
    order: BTreeSet<(DateTime<Utc>, BucketId)>,
    skipped: Vec<Skipped>,
}

/// Ticks after `reference` that are not carried out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Skipped {
    pub(super) bucket: Arc<Bucket>,
    pub(super) reference: DateTime<Utc>,
    pub(super) ticks: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    bucket: Arc<Bucket>,
    timetable: Timetable,
    /// Newest tick that has been requested or given up.
    last: DateTime<Utc>,
    /// The request for the ticks after it was not accepted.
    refused: bool,
    at: Option<DateTime<Utc>>,
}

/// A request to publish.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) bucket: Arc<Bucket>,
    pub(super) span: TickSpan,
}

impl DueQueue {
    /// Puts a bucket in line. Ticks in `(reference, now]` passed while nobody could refill: the request that its policy
    /// wants for them is the answer.
    pub(super) fn enter(
        &mut self,
        bucket: Arc<Bucket>,
        since: DateTime<Utc>,
        reference: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<Request> {
        self.leave(&bucket.id);
        let timetable = bucket.timetable.clone().anchored(since);
        let Passed { due, skipped } = catch_up(&bucket, &timetable, reference, now);
        let entry = Entry {
            bucket: bucket.clone(),
            timetable,
            // After a clock that was set back, ticks up to the reference have run already.
            last: reference.max(now),
            refused: false,
            at: None,
        };
        self.entries.insert(bucket.id.clone(), entry);
        self.line_up(&bucket.id, DateTime::<Utc>::MIN_UTC);
        self.skip(&bucket, reference, skipped);
        due.into_iter().next().map(|span| Request { bucket, span })
    }

    /// Takes a bucket out.
    pub(super) fn leave(&mut self, id: &BucketId) {
        if let Some(at) = self.entries.remove(id).and_then(|entry| entry.at) {
            self.order.remove(&(at, id.clone()));
        }
    }

    /// Takes all buckets out.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    /// The next instant at which something is due.
    pub(super) fn next(&self) -> Option<DateTime<Utc>> {
        self.order.first().map(|(at, _)| *at)
    }

    /// The next tick of a bucket, for its status.
    pub(super) fn next_of(&self, id: &BucketId) -> Option<DateTime<Utc>> {
        let entry = self.entries.get(id).filter(|entry| !entry.bucket.suspend)?;
        entry.timetable.next(entry.last)
    }

    /// Everything that is due at `now`. `awake` says that the clock has been watched all the time; if not (the machine
    /// slept, the clock was set forward), ticks before the newest are missed and go by the policy.
    pub(super) fn take_due(&mut self, now: DateTime<Utc>, awake: bool) -> Vec<Request> {
        let mut requests = Vec::new();
        while let Some((_, id)) = self.order.first().filter(|(at, _)| *at <= now).cloned() {
            self.order.pop_first();
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            entry.at = None;
            let late = |tick: DateTime<Utc>| now - tick > MOST_LAG;
            let stuck = std::mem::take(&mut entry.refused)
                && entry.timetable.next(entry.last).is_some_and(late);
            let (bucket, timetable) = (entry.bucket.clone(), &entry.timetable);
            let Passed { due, skipped } = if awake && !stuck {
                due(&bucket, timetable, entry.last, now, MOST_LATE_TICKS)
            } else {
                catch_up(&bucket, timetable, entry.last, now)
            };
            // The ledger will name that tick, so what is skipped after it is known again by the next connection.
            let newest = due.last().map_or(now, |span| span.tick);
            let reference = std::mem::replace(&mut entry.last, newest);
            self.line_up(&id, DateTime::<Utc>::MIN_UTC);
            self.skip(&bucket, reference, skipped);
            let of_bucket = |span| Request {
                bucket: bucket.clone(),
                span,
            };
            requests.extend(due.into_iter().map(of_bucket));
        }
        requests
    }

    fn skip(&mut self, bucket: &Arc<Bucket>, reference: DateTime<Utc>, ticks: u64) {
        if ticks > 0 {
            self.skipped.push(Skipped {
                bucket: bucket.clone(),
                reference,
                ticks,
            });
        }
    }

    /// What was skipped since the last call.
    pub(super) fn take_skipped(&mut self) -> Vec<Skipped> {
        std::mem::take(&mut self.skipped)
    }

    /// The request for the ticks after `since` was not accepted: they are due again, in a while.
    pub(super) fn put_back(&mut self, id: &BucketId, since: DateTime<Utc>, now: DateTime<Utc>) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.last = entry.last.min(since);
            entry.refused = true;
            self.line_up(id, now + ASK_AGAIN);
        }
    }

    /// The bucket is due at its next tick, but not before `earliest`.
    fn line_up(&mut self, id: &BucketId, earliest: DateTime<Utc>) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if let Some(at) = entry.at.take() {
            self.order.remove(&(at, id.clone()));
        }
        let next = entry.timetable.next(entry.last);
        entry.at = next
            .filter(|_| !entry.bucket.suspend)
            .map(|at| at.max(earliest));
        self.order.extend(entry.at.map(|at| (at, id.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, bucket};

    fn named(name: &str) -> Arc<Bucket> {
        let id = BucketId::new("shop", name);
        Arc::new(Bucket { id, ..bucket() })
    }

    fn seconds(requests: &[Request]) -> Vec<(&str, i64)> {
        requests
            .iter()
            .map(|request| {
                (
                    request.bucket.id.name(),
                    (request.span.tick - at(0)).num_seconds(),
                )
            })
            .collect()
    }

    #[test]
    fn a_bucket_is_due_at_each_of_its_ticks() {
        let mut queue = DueQueue::default();
        assert_eq!(queue.enter(named("a"), at(0), at(0), at(10)), None);
        assert_eq!(queue.next(), Some(at(60)));
        assert_eq!(seconds(&queue.take_due(at(59), true)), []);
        assert_eq!(seconds(&queue.take_due(at(60), true)), [("a", 60)]);
        assert_eq!(queue.next(), Some(at(120)));
        assert_eq!(queue.next_of(&named("a").id), Some(at(120)));
    }

    #[test]
    fn a_bucket_that_enters_late_gets_what_its_policy_wants() {
        let mut queue = DueQueue::default();
        let caught_up = queue.enter(named("a"), at(0), at(0), at(190));
        assert_eq!(seconds(caught_up.as_slice()), [("a", 180)]);
        let skipped = Skipped {
            bucket: named("a"),
            reference: at(0),
            ticks: 2,
        };
        assert_eq!(queue.take_skipped(), [skipped]);
        assert_eq!(queue.next(), Some(at(240)));
    }

    #[test]
    fn entering_again_replaces_the_earlier_entry() {
        let mut queue = DueQueue::default();
        queue.enter(named("a"), at(0), at(0), at(10));
        let zone = schedule::parse_zone("Etc/UTC").unwrap();
        let timetable = Timetable::new("*/30 * * * * *".parse().unwrap(), zone, at(0));
        queue.enter(
            Arc::new(Bucket {
                timetable,
                ..(*named("a")).clone()
            }),
            at(0),
            at(10),
            at(10),
        );
        assert_eq!(
            seconds(&queue.take_due(at(61), true)),
            [("a", 30), ("a", 60)]
        );
        assert_eq!(queue.take_due(at(61), true), []);
    }

    #[test]
    fn a_bucket_that_left_is_due_no_more() {
        let mut queue = DueQueue::default();
        queue.enter(named("a"), at(0), at(0), at(10));
        queue.leave(&named("a").id);
        assert_eq!(queue.next(), None);
        assert_eq!(queue.take_due(at(600), true), []);
    }

    #[test]
    fn lag_loses_no_tick_but_sleep_goes_by_the_policy() {
        let mut queue = DueQueue::default();
        queue.enter(named("a"), at(0), at(0), at(10));
        assert_eq!(
            seconds(&queue.take_due(at(130), true)),
            [("a", 60), ("a", 120)]
        );
        assert_eq!(queue.take_skipped(), []);
        assert_eq!(seconds(&queue.take_due(at(400), false)), [("a", 360)]);
        assert_eq!(queue.take_skipped().len(), 1);
    }

    #[test]
    fn a_clock_set_back_fires_no_tick_again() {
        let mut queue = DueQueue::default();
        queue.enter(named("a"), at(0), at(600), at(10));
        assert_eq!(queue.next(), Some(at(660)));
        queue.take_due(at(660), true);
        assert_eq!(queue.take_due(at(60), true), []);
        assert_eq!(queue.next(), Some(at(720)));
    }

    #[test]
    fn a_suspended_bucket_is_never_due() {
        let mut queue = DueQueue::default();
        queue.enter(
            Arc::new(Bucket {
                suspend: true,
                ..bucket()
            }),
            at(0),
            at(0),
            at(100),
        );
        assert_eq!((queue.next(), queue.next_of(&bucket().id)), (None, None));
    }
}
