//! Which buckets are due when: the scheduler's memory, without clock and without I/O.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::clock::MOST_LAG;
use bucket::{Bucket, BucketId, Due, Passed, due, overdue};
use schedule::Timetable;

/// Ticks of one bucket that count as lag when they are found together; more than these go by its policy.
const MOST_LATE_TICKS: usize = 100;
/// When to ask again for a refill whose request was not accepted.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(1);

/// All buckets with their next due times.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: HashMap<BucketId, Entry>,
    /// Entries are not removed from the heap when a bucket changes: the stale ones are known by their `turn`.
    heap: BinaryHeap<Reverse<(DateTime<Utc>, u64, BucketId)>>,
    turn: u64,
    left_out: Vec<LeftOut>,
}

/// Ticks after `reference` that are not carried out.
#[derive(Debug, PartialEq)]
pub(super) struct LeftOut {
    pub(super) bucket: Arc<Bucket>,
    pub(super) reference: DateTime<Utc>,
    pub(super) ticks: u64,
}

#[derive(Debug)]
struct Entry {
    bucket: Arc<Bucket>,
    timetable: Timetable,
    /// Newest tick that has been requested or given up.
    last: DateTime<Utc>,
    /// The request for the ticks after it was not accepted.
    refused: bool,
    turn: u64,
}

/// A request to publish.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) bucket: Arc<Bucket>,
    pub(super) due: Due,
}

impl Agenda {
    /// Puts a bucket on the agenda. Ticks in `(reference, now]` passed while nobody could refill: the request that its
    /// policy wants for them is the answer.
    pub(super) fn enter(
        &mut self,
        bucket: Arc<Bucket>,
        since: DateTime<Utc>,
        reference: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<Request> {
        let timetable = bucket.timetable.clone().anchored(since);
        let Passed { due, left_out } = overdue(&bucket, &timetable, reference, now);
        // After a clock that was set back, ticks up to the reference have run already.
        let last = reference.max(now);
        let id = bucket.id.clone();
        self.entries.insert(
            id.clone(),
            Entry {
                bucket: bucket.clone(),
                timetable,
                last,
                refused: false,
                turn: 0,
            },
        );
        self.line_up(&id);
        self.leave_out(&bucket, reference, left_out);
        due.into_iter().next().map(|due| Request { bucket, due })
    }

    /// Takes a bucket off.
    pub(super) fn leave(&mut self, id: &BucketId) {
        self.entries.remove(id);
    }

    /// The next instant at which something is due.
    pub(super) fn next(&mut self) -> Option<DateTime<Utc>> {
        while let Some(Reverse((at, turn, id))) = self.heap.peek() {
            if self
                .entries
                .get(id)
                .is_some_and(|entry| entry.turn == *turn)
            {
                return Some(*at);
            }
            self.heap.pop();
        }
        None
    }

    /// The next tick of a bucket, for its status.
    pub(super) fn next_of(&self, id: &BucketId) -> Option<DateTime<Utc>> {
        let entry = self.entries.get(id).filter(|entry| !entry.bucket.suspend)?;
        entry.timetable.next(entry.last)
    }

    /// Everything that is due at `now`. `awake` says that the scheduler has been watching the clock all the time; if not
    /// (the machine slept, the clock was set forward), ticks before the newest are missed and go by the policy.
    pub(super) fn take_due(&mut self, now: DateTime<Utc>, awake: bool) -> Vec<Request> {
        let mut requests = Vec::new();
        while self.next().is_some_and(|at| at <= now) {
            let Some(Reverse((_, _, id))) = self.heap.pop() else {
                break;
            };
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let late = |tick: DateTime<Utc>| now - tick > MOST_LAG;
            let stuck = std::mem::take(&mut entry.refused)
                && entry.timetable.next(entry.last).is_some_and(late);
            let (bucket, timetable) = (entry.bucket.clone(), &entry.timetable);
            let Passed { due, left_out } = if awake && !stuck {
                due(&bucket, timetable, entry.last, now, MOST_LATE_TICKS)
            } else {
                overdue(&bucket, timetable, entry.last, now)
            };
            // The ledger will name that tick, so what is left out after it is known again by the next connection.
            let newest = due.last().map_or(now, |due| due.tick);
            let reference = std::mem::replace(&mut entry.last, newest);
            self.line_up(&id);
            self.leave_out(&bucket, reference, left_out);
            let of_bucket = |due| Request {
                bucket: bucket.clone(),
                due,
            };
            requests.extend(due.into_iter().map(of_bucket));
        }
        requests
    }

    fn leave_out(&mut self, bucket: &Arc<Bucket>, reference: DateTime<Utc>, ticks: u64) {
        if ticks > 0 {
            self.left_out.push(LeftOut {
                bucket: bucket.clone(),
                reference,
                ticks,
            });
        }
    }

    /// What was left out since the last call.
    pub(super) fn take_left_out(&mut self) -> Vec<LeftOut> {
        std::mem::take(&mut self.left_out)
    }

    /// The request for the ticks after `since` was not accepted: they are due again, in a while.
    pub(super) fn put_back(&mut self, id: &BucketId, since: DateTime<Utc>, now: DateTime<Utc>) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.last = entry.last.min(since);
            entry.refused = true;
            self.line_up_after(id, now + ASK_AGAIN);
        }
    }

    fn line_up(&mut self, id: &BucketId) {
        self.line_up_after(id, DateTime::<Utc>::MIN_UTC);
    }

    /// The bucket is due at its next tick, but not before `earliest`.
    fn line_up_after(&mut self, id: &BucketId, earliest: DateTime<Utc>) {
        self.turn += 1;
        if let Some(entry) = self.entries.get_mut(id) {
            entry.turn = self.turn;
            if let Some(at) = entry
                .timetable
                .next(entry.last)
                .filter(|_| !entry.bucket.suspend)
            {
                let at = at.max(earliest);
                self.heap.push(Reverse((at, self.turn, id.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bucket::fixture::{at, bucket};

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
                    (request.due.tick - at(0)).num_seconds(),
                )
            })
            .collect()
    }

    #[test]
    fn a_bucket_is_due_at_each_of_its_ticks() {
        let mut agenda = Agenda::default();
        assert_eq!(agenda.enter(named("a"), at(0), at(0), at(10)), None);
        assert_eq!(agenda.next(), Some(at(60)));
        assert_eq!(seconds(&agenda.take_due(at(59), true)), []);
        assert_eq!(seconds(&agenda.take_due(at(60), true)), [("a", 60)]);
        assert_eq!(agenda.next(), Some(at(120)));
        assert_eq!(agenda.next_of(&named("a").id), Some(at(120)));
    }

    #[test]
    fn a_bucket_that_enters_late_gets_what_its_policy_wants() {
        let mut agenda = Agenda::default();
        let overdue = agenda.enter(named("a"), at(0), at(0), at(190));
        assert_eq!(seconds(overdue.as_slice()), [("a", 180)]);
        let left_out = LeftOut {
            bucket: named("a"),
            reference: at(0),
            ticks: 2,
        };
        assert_eq!(agenda.take_left_out(), [left_out]);
        assert_eq!(agenda.next(), Some(at(240)));
    }

    #[test]
    fn entering_again_replaces_the_earlier_entry() {
        let mut agenda = Agenda::default();
        agenda.enter(named("a"), at(0), at(0), at(10));
        let zone = schedule::parse_zone("Etc/UTC").unwrap();
        let timetable = Timetable::new("*/30 * * * * *".parse().unwrap(), zone, at(0));
        agenda.enter(
            Arc::new(Bucket {
                timetable,
                ..(*named("a")).clone()
            }),
            at(0),
            at(10),
            at(10),
        );
        assert_eq!(
            seconds(&agenda.take_due(at(61), true)),
            [("a", 30), ("a", 60)]
        );
        assert_eq!(agenda.take_due(at(61), true), []);
    }

    #[test]
    fn a_bucket_that_left_is_due_no_more() {
        let mut agenda = Agenda::default();
        agenda.enter(named("a"), at(0), at(0), at(10));
        agenda.leave(&named("a").id);
        assert_eq!(agenda.next(), None);
        assert_eq!(agenda.take_due(at(600), true), []);
    }

    #[test]
    fn lag_loses_no_tick_but_sleep_goes_by_the_policy() {
        let mut agenda = Agenda::default();
        agenda.enter(named("a"), at(0), at(0), at(10));
        assert_eq!(
            seconds(&agenda.take_due(at(130), true)),
            [("a", 60), ("a", 120)]
        );
        assert_eq!(agenda.take_left_out(), []);
        assert_eq!(seconds(&agenda.take_due(at(400), false)), [("a", 360)]);
        assert_eq!(agenda.take_left_out().len(), 1);
    }

    #[test]
    fn a_clock_set_back_fires_no_tick_again() {
        let mut agenda = Agenda::default();
        agenda.enter(named("a"), at(0), at(600), at(10));
        assert_eq!(agenda.next(), Some(at(660)));
        agenda.take_due(at(660), true);
        assert_eq!(agenda.take_due(at(60), true), []);
        assert_eq!(agenda.next(), Some(at(720)));
    }

    #[test]
    fn a_suspended_bucket_is_never_due() {
        let mut agenda = Agenda::default();
        agenda.enter(
            Arc::new(Bucket {
                suspend: true,
                ..bucket()
            }),
            at(0),
            at(0),
            at(100),
        );
        assert_eq!((agenda.next(), agenda.next_of(&bucket().id)), (None, None));
    }
}
