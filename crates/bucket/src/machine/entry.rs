//! One bucket of the machine: its states, and what is true in each.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::adjustment::Adjustment;
use super::event::{BatchId, ConsumerId, JobId, Now, QueueState};
use super::outcome::BucketState;
use super::refill_queue::Ticket;
use super::vanishing::Traces;
use crate::ledger::MOST_REQUEST_IDS;
use crate::{Bucket, Cause, Known, Ledger, Moved, Owner, backoff};

/// Delays between two tries: they double from the first to the last one.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(15);
/// A ledger that somebody holds comes back within milliseconds; the pauses between two tries double, from this one.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
/// One that is absent for longer is perhaps lost. No tick up to that moment is made up for then: less than a second, so that of
/// a bucket that is due every second it is the one tick that was about to be carried out.
const LONGEST_ABSENCE: Duration = Duration::from_millis(500);

/// A bucket and all that is known of it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) bucket: Arc<Bucket>,
    /// The caller's number for this specification.
    pub(super) revision: u64,
    pub(super) stage: Stage,
    /// The batch that it takes part in.
    pub(super) batch: Option<BatchId>,
    /// The specification or a queue has changed since that began: it is inspected again afterwards.
    pub(super) outdated: bool,
    /// It waits for its turn in a batch.
    pub(super) lined_up: bool,
    /// It takes part in batches alone: one that it shared has failed.
    pub(super) alone: bool,
    /// Requests that wait to be carried out, in order.
    pub(super) pending: VecDeque<Request>,
    /// Where requests of somebody else came from that have been carried out, and whose acknowledgement is under way: no
    /// more of them are carried out meanwhile, so the ledger knows all that may come again.
    pub(super) unsettled: BTreeSet<ConsumerId>,
    /// What was done for it, as far as it is known without its ledger; None: it never had one.
    pub(super) known: Option<Arc<Known>>,
    /// There has been a queue for its ledger: when that is gone, somebody may still hold the ledger.
    pub(super) had_ledger: bool,
    /// Its ledger has been written for its resource by this process.
    pub(super) owned: bool,
    /// A first ledger was written, or could not be: it is not without queues.
    pub(super) has_queues: bool,
    /// UID of the resource that had its id before.
    pub(super) gone: Option<Arc<str>>,
    /// Another resource has its ledger, and comes first.
    pub(super) yielded: bool,
    /// UID of the rival that its ledger tells of.
    pub(super) rival: Option<Arc<str>>,
    /// Who else writes its ledger, if that was told.
    pub(super) contested: Option<Box<Owner>>,
    /// What differs in the arguments of its queue, in the broker's words: it is to be replaced.
    pub(super) misfit: Option<Box<str>>,
    /// There were fewer tokens at a count than before: somebody may have declared its queue anew.
    pub(super) fell: bool,
    pub(super) traces: Traces,
    /// Since when its ledger is absent.
    pub(super) absent: Option<Absent>,
    /// Failures in a row.
    pub(super) failures: u32,
    /// When it became ready.
    pub(super) ready_at: Duration,
    /// When it is to be woken.
    pub(super) wake: Option<Duration>,
    /// What is known of it, apart from an alarm.
    pub(super) state: Arc<BucketState>,
}

/// How far a bucket has come.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stage {
    /// Nothing is known of its queues: there is no connection, or its refill queue is not ours.
    Unknown,
    /// Its queues are inspected, or its ledger is written.
    Inspecting(JobId),
    /// Its queues are there. Its ledger has to be brought up to date, its queue perhaps to be put right.
    Opening(QueueState),
    /// Refills run. The limit is the `x-max-length` that is in force.
    Ready {
        /// None: there is none.
        limit: Option<u64>,
        /// Its ledger says that more tokens are to come.
        owes: bool,
    },
    /// Something is in the way; it is inspected again when it wakes.
    Waiting,
    /// A person must act; it is inspected again now and then.
    Stalled,
}

/// A ledger that is absent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absent {
    since: Duration,
    tries: u32,
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) cause: Cause,
    /// The message that asks; None when it did not come through a refill queue.
    pub(super) ticket: Option<Ticket>,
}

impl Request {
    /// Where it came from, if it is somebody else's.
    pub(super) fn foreign(&self) -> Option<ConsumerId> {
        let ticket = self.ticket.as_ref()?;
        matches!(self.cause, Cause::Request { .. }).then_some(ticket.consumer)
    }

    fn is_foreign_of(&self, consumers: &BTreeSet<ConsumerId>) -> bool {
        self.foreign()
            .is_some_and(|consumer| consumers.contains(&consumer))
    }
}

impl Entry {
    /// Boxed: a large value in each empty place of a map would be half of its memory.
    pub(super) fn new(bucket: Arc<Bucket>, revision: u64, known: Option<Known>) -> Box<Self> {
        Box::new(Self {
            bucket,
            revision,
            stage: Stage::Unknown,
            batch: None,
            outdated: false,
            lined_up: false,
            alone: false,
            pending: VecDeque::new(),
            unsettled: BTreeSet::new(),
            known: known.map(Arc::new),
            had_ledger: false,
            owned: false,
            has_queues: false,
            gone: None,
            yielded: false,
            rival: None,
            contested: None,
            misfit: None,
            fell: false,
            traces: Traces::default(),
            absent: None,
            failures: 0,
            ready_at: Duration::ZERO,
            wake: None,
            state: Arc::new(BucketState::unknown()),
        })
    }

    /// Forgets all that was only true for the connection that is gone.
    pub(super) fn disconnect(&mut self) {
        self.stage = Stage::Unknown;
        self.batch = None;
        self.outdated = false;
        self.lined_up = false;
        self.pending.clear();
        self.unsettled.clear();
        self.absent = None;
        self.failures = 0;
        self.wake = None;
    }

    /// Whether its refills run.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready { .. })
    }

    /// Whether there has been a ledger, as far as anybody knows.
    pub(super) fn has_had_ledger(&self) -> bool {
        self.known.is_some() || self.had_ledger
    }

    /// What it brings along from another broker and has not had here yet.
    pub(super) fn arriving(&self) -> Option<&Moved> {
        let has_arrived = |moved: &&Arc<Moved>| {
            self.known
                .as_ref()
                .is_some_and(|it| moved.is_among(&it.requests))
        };
        let moved = self.bucket.moved.as_ref();
        moved.filter(|it| !has_arrived(it)).map(|it| &**it)
    }

    /// The ledger that it gets when nobody here knows which ticks up to now were carried out.
    pub(super) fn ledger_without(&self, operator: &str, missing: DateTime<Utc>) -> Ledger {
        let owner = Owner::of(&self.bucket, operator);
        if let Some(ledger) = self.arriving().and_then(|it| it.first_ledger(&owner)) {
            return ledger;
        }
        let known = self.known.as_deref().cloned().unwrap_or_default();
        Ledger::after_loss(owner, &self.bucket.timetable.fingerprint(), &known, missing)
    }

    /// What its queue needs next; None while that is not known.
    pub(super) fn adjustment(&self) -> Adjustment {
        match self.stage {
            Stage::Opening(queue) => Adjustment::of(queue, self.bucket.maximum),
            _ => Adjustment::None,
        }
    }

    /// Whether it has something to do in a batch.
    pub(super) fn wants_turn(&self) -> bool {
        self.batch.is_none()
            && self.wake.is_none()
            && match self.stage {
                Stage::Opening(_) => true,
                Stage::Ready { owes, .. } => {
                    let mut pending = self.pending.iter();
                    owes || pending.any(|request| !request.is_foreign_of(&self.unsettled))
                }
                _ => false,
            }
    }

    /// Takes the requests that are carried out next.
    pub(super) fn take_pending(&mut self) -> Vec<Request> {
        let mut full = self.unsettled.clone();
        let mut taken_of = HashMap::new();
        let fits = |request: &Request| {
            let fits = !request.is_foreign_of(&full);
            if let (true, Some(consumer)) = (fits, request.foreign()) {
                let taken = taken_of.entry(consumer).or_insert(0);
                *taken += 1;
                if *taken == MOST_REQUEST_IDS {
                    full.insert(consumer);
                }
            }
            fits
        };
        let (taken, left): (VecDeque<_>, _) = self.pending.drain(..).partition(fits);
        self.pending = left;
        taken.into()
    }

    /// A refill queue is not consumed any more: what has come through it and is not acknowledged comes again.
    pub(super) fn consumer_ended(&mut self, consumer: ConsumerId) {
        let is_void = |ticket: &Ticket| ticket.consumer == consumer;
        self.pending
            .retain(|request| !request.ticket.as_ref().is_some_and(is_void));
        self.unsettled.remove(&consumer);
    }

    /// Requests that were not carried out wait again, before those that have come since.
    pub(super) fn put_back(&mut self, requests: Vec<Request>) {
        for request in requests.into_iter().rev() {
            self.pending.push_front(request);
        }
    }

    /// The annotation asks for a refill, unless that was carried out or waits already.
    pub(super) fn ask_by_annotation(&mut self, carried_out: Option<&str>) {
        let Some(value) = &self.bucket.refill_request else {
            return;
        };
        let cause = Cause::Annotation(value.clone());
        let waits = self.pending.iter().any(|request| request.cause == cause);
        if carried_out != Some(value) && !waits {
            let ticket = None;
            self.pending.push_back(Request { cause, ticket });
        }
    }

    /// The ledger is absent at `now`. Answers when to look again; None when it is for so long that it is perhaps lost.
    pub(super) fn absent(&mut self, now: Now) -> Option<Duration> {
        let absent = self.absent.get_or_insert(Absent {
            since: now.monotonic,
            tries: 0,
        });
        let pause = backoff(FIRST_PAUSE, absent.tries, LONGEST_ABSENCE);
        absent.tries += 1;
        let longest = absent.since + LONGEST_ABSENCE;
        (now.monotonic < longest).then(|| longest.min(now.monotonic + pause))
    }

    /// Another failure: how long to wait.
    pub(super) fn failed(&mut self) -> Duration {
        self.failures += 1;
        backoff(FIRST_RETRY, self.failures - 1, LAST_RETRY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, bucket};

    fn entry() -> Box<Entry> {
        Entry::new(Arc::new(bucket()), 1, None)
    }

    fn foreign(tag: usize) -> Request {
        from(ConsumerId(1), tag)
    }

    fn from(consumer: ConsumerId, tag: usize) -> Request {
        let tag = tag.try_into().unwrap();
        Request {
            cause: Cause::Request {
                id: None,
                refill_queue: "refill".into(),
            },
            ticket: Some(Ticket { consumer, tag }),
        }
    }

    fn annotation(value: &str) -> Request {
        Request {
            cause: Cause::Annotation(value.into()),
            ticket: None,
        }
    }

    fn now(second: u64) -> Now {
        Now {
            utc: at(second.try_into().unwrap()),
            monotonic: Duration::from_secs(second),
        }
    }

    #[test]
    fn no_more_foreign_requests_are_taken_than_a_ledger_remembers() {
        let mut entry = entry();
        entry.pending.extend((0..40).map(foreign));
        entry.pending.push_back(annotation("now"));
        assert_eq!(entry.take_pending().len(), MOST_REQUEST_IDS + 1);
        assert_eq!(entry.pending.front(), Some(&foreign(MOST_REQUEST_IDS)));
        entry.unsettled.insert(ConsumerId(1));
        assert_eq!(entry.take_pending(), []);
        // Those of another refill queue do not wait for it.
        let other = from(ConsumerId(2), 0);
        entry.pending.push_back(other.clone());
        assert_eq!(entry.take_pending(), [other]);
    }

    #[test]
    fn requests_that_are_put_back_come_first() {
        let mut entry = entry();
        entry.pending.extend((0..2).map(foreign));
        let taken = entry.take_pending();
        entry.pending.push_back(foreign(2));
        entry.put_back(taken);
        assert_eq!(entry.pending, [0, 1, 2].map(foreign));
    }

    #[test]
    fn an_annotation_waits_once_and_not_when_it_is_carried_out() {
        let mut entry = entry();
        entry.bucket = Arc::new(Bucket {
            refill_request: Some("now".into()),
            ..bucket()
        });
        entry.ask_by_annotation(Some("now"));
        assert_eq!(entry.pending, []);
        entry.ask_by_annotation(None);
        entry.ask_by_annotation(Some("before"));
        assert_eq!(entry.pending, [annotation("now")]);
    }

    #[test]
    fn an_absent_ledger_is_looked_for_ever_more_rarely_and_then_perhaps_lost() {
        let mut entry = entry();
        let mut at = now(100);
        let mut tries = 0;
        while let Some(next) = entry.absent(at) {
            assert!(next > at.monotonic && next <= Duration::from_millis(100_500));
            at.monotonic = next;
            tries += 1;
        }
        assert_eq!((tries, at.monotonic), (7, Duration::from_millis(100_500)));
    }
}
