//! Refill queues: who consumes them, and what becomes of each message. Nothing blocks a queue, and nothing loops.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::effect::{Effect, Move};
use super::event::{ConsumerId, Now};
use super::postponed::Postponed;
use super::strangers::Strangers;
use crate::request::RefillRequest;
use crate::{BucketId, backoff};

/// At a start, buckets become known one by one: requests for others wait this long for them.
const PATIENCE: Duration = Duration::from_secs(30);
/// At most this many wait.
const MOST_UNROUTED: usize = 500;
/// Messages are settled in transactions of this size.
const MOST_SETTLED: usize = 2_000;
const MOST_MOVES: usize = 500;
/// A queue that is to be left is emptied for this long at most.
const RETIREMENT: Duration = Duration::from_secs(5);
/// A replica that has just ended, or was cut off, may consume a queue for so long.
const GRACE: Duration = Duration::from_secs(15);
/// Delays between two tries to consume.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(15);

/// What to acknowledge a request by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ticket {
    pub(super) consumer: ConsumerId,
    pub(super) tag: u64,
}

/// One refill queue.
#[derive(Clone, Debug)]
pub(super) struct RefillQueue {
    pub(super) name: Arc<str>,
    /// The buckets whose requests come through it.
    pub(super) users: BTreeSet<BucketId>,
    pub(super) link: Link,
    /// Requests for buckets that nobody has named yet.
    unrouted: Vec<(u64, RefillRequest)>,
    since: Duration,
    acks: Vec<u64>,
    moves: Vec<Move>,
    /// Messages that were delivered and are not settled.
    outstanding: usize,
    /// How many of them are being settled.
    settling: usize,
    /// Buckets whose requests are among these, and among those that are settled next.
    unsettled: BTreeSet<BucketId>,
    unsettled_next: BTreeSet<BucketId>,
    /// Nobody needs it any more.
    retiring: Option<Retiring>,
    failures: u32,
    refused_since: Option<Duration>,
    pub(super) strangers: Strangers,
    pub(super) postponed: Postponed,
}

/// Whether a queue is consumed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Link {
    /// It is not; None: until there is a connection again.
    Closed {
        retry: Option<Duration>,
    },
    Opening(ConsumerId),
    Open(ConsumerId),
    Releasing(ConsumerId),
}

#[derive(Clone, Debug)]
struct Retiring {
    until: Duration,
    delete: bool,
    draining: bool,
    drained: bool,
    /// Who waits for the end.
    answers: Vec<u64>,
}

impl RefillQueue {
    pub(super) fn new(name: Arc<str>, now: Now) -> Self {
        Self {
            name,
            users: BTreeSet::new(),
            link: Link::Closed {
                retry: Some(now.monotonic),
            },
            unrouted: Vec::new(),
            since: now.monotonic,
            acks: Vec::new(),
            moves: Vec::new(),
            outstanding: 0,
            settling: 0,
            unsettled: BTreeSet::new(),
            unsettled_next: BTreeSet::new(),
            retiring: None,
            failures: 0,
            refused_since: None,
            strangers: Strangers::default(),
            postponed: Postponed::default(),
        }
    }

    /// A bucket uses it. Answers who waits for its end: it stays.
    #[must_use]
    pub(super) fn join(&mut self, id: BucketId) -> Vec<u64> {
        self.users.insert(id);
        if matches!(self.link, Link::Releasing(_)) {
            if let Some(retiring) = &mut self.retiring {
                retiring.delete = false;
            }
            return Vec::new();
        }
        let retiring = self.retiring.take();
        retiring.map_or_else(Vec::new, |retiring| retiring.answers)
    }

    /// A bucket does not use it any more; `delete`: nor does anybody else, if nobody is left.
    pub(super) fn leave(&mut self, id: &BucketId, delete: bool, now: Now) {
        self.users.remove(id);
        if !self.users.is_empty() {
            return;
        }
        let retiring = self.retiring.get_or_insert(Retiring {
            until: now.monotonic + RETIREMENT,
            delete: false,
            draining: false,
            drained: false,
            answers: Vec::new(),
        });
        retiring.delete |= delete;
    }

    /// Whoever asked for a removal is answered when the queue has gone too.
    pub(super) fn answer_later(&mut self, ticket: u64) -> bool {
        match &mut self.retiring {
            Some(retiring) if retiring.delete && self.users.is_empty() => {
                retiring.answers.push(ticket);
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.link, Link::Open(_))
    }

    pub(super) fn is_opening(&self) -> bool {
        matches!(self.link, Link::Opening(_))
    }

    /// Nothing of it is needed any more.
    pub(super) fn is_done(&self) -> bool {
        self.users.is_empty() && matches!(self.link, Link::Closed { .. })
    }

    /// It is consumed.
    pub(super) fn opened(&mut self, now: Now) {
        self.failures = 0;
        self.refused_since = None;
        self.strangers.are_gone();
        self.since = now.monotonic;
        if let Link::Opening(consumer) = self.link {
            self.link = Link::Open(consumer);
        }
    }

    /// It is not consumed any more: what was delivered and not settled comes again. Answers who is to be told.
    pub(super) fn closed(&mut self, retry: Option<Duration>) -> Vec<u64> {
        self.link = Link::Closed { retry };
        self.unrouted.clear();
        self.postponed.clear();
        self.acks.clear();
        self.moves.clear();
        (self.outstanding, self.settling) = (0, 0);
        self.unsettled.clear();
        self.unsettled_next.clear();
        self.retiring.take().map_or_else(Vec::new, |it| it.answers)
    }

    /// When to try again after another failure.
    pub(super) fn failed(&mut self, now: Now) -> Duration {
        self.failures += 1;
        now.monotonic + backoff(FIRST_RETRY, self.failures - 1, LAST_RETRY)
    }

    /// Somebody else consumes it: whether that lasts for longer than a change of leaders does.
    pub(super) fn is_refused_for_long(&mut self, now: Now) -> bool {
        let since = *self.refused_since.get_or_insert(now.monotonic);
        now.monotonic.saturating_sub(since) >= GRACE
    }

    pub(super) fn delivered(&mut self, messages: usize) {
        self.outstanding += messages;
        if let Some(retiring) = &mut self.retiring {
            retiring.drained = false;
        }
    }

    /// A message is dealt with.
    pub(super) fn acknowledge(&mut self, tag: u64) {
        self.acks.push(tag);
    }

    /// A request for `id` was carried out, and may come again until its acknowledgement is settled.
    pub(super) fn acknowledge_for(&mut self, tag: u64, id: BucketId) {
        self.acks.push(tag);
        self.unsettled_next.insert(id);
    }

    /// A message belongs elsewhere.
    pub(super) fn forward(&mut self, tag: u64, to: Arc<str>, reason: Option<String>) {
        self.moves.push(Move { tag, to, reason });
    }

    /// A request for a bucket that nobody has named. False: it is not kept.
    pub(super) fn keep(&mut self, tag: u64, request: RefillRequest, now: Now) -> bool {
        let keeps = self.retiring.is_none()
            && !self.is_out_of_patience(now)
            && self.unrouted.len() < MOST_UNROUTED;
        if keeps {
            self.unrouted.push((tag, request));
        }
        keeps
    }

    fn is_out_of_patience(&self, now: Now) -> bool {
        now.monotonic.saturating_sub(self.since) > PATIENCE
    }

    /// A bucket has become known: requests that waited for it are its own.
    pub(super) fn claim(&mut self, name: &str) -> Vec<(u64, RefillRequest)> {
        let is_for = |(_, request): &mut (u64, RefillRequest)| *request.bucket == *name;
        self.unrouted.extract_if(.., is_for).collect()
    }

    /// Requests that have waited in vain.
    pub(super) fn give_up(&mut self, now: Now) -> Vec<(u64, RefillRequest)> {
        if self.is_out_of_patience(now) || self.retiring.is_some() {
            std::mem::take(&mut self.unrouted)
        } else {
            Vec::new()
        }
    }

    /// What was being settled is.
    pub(super) fn settled(&mut self) -> BTreeSet<BucketId> {
        self.outstanding = self.outstanding.saturating_sub(self.settling);
        self.settling = 0;
        std::mem::take(&mut self.unsettled)
    }

    /// Answer to a drain.
    pub(super) fn drained(&mut self, empty: bool) {
        if let Some(retiring) = &mut self.retiring {
            retiring.draining = false;
            retiring.drained = empty;
        }
    }

    pub(super) fn is_settling(&self) -> bool {
        self.settling > 0 || !self.acks.is_empty() || !self.moves.is_empty()
    }

    /// The next step. `consumer` names a consumer if one is needed.
    pub(super) fn next(&mut self, now: Now, consumer: ConsumerId) -> Option<Effect> {
        match self.link {
            Link::Closed { retry: Some(at) } if at <= now.monotonic && !self.users.is_empty() => {
                self.link = Link::Opening(consumer);
                Some(Effect::Consume {
                    queue: self.name.clone(),
                    consumer,
                    if_empty: self.strangers.are_too_many(),
                })
            }
            Link::Open(consumer) if self.settling == 0 && self.is_settling() => {
                Some(self.settle(consumer))
            }
            Link::Open(consumer) if self.settling == 0 && self.strangers.are_too_many() => {
                self.link = Link::Releasing(consumer);
                let delete = false;
                Some(Effect::Release { consumer, delete })
            }
            Link::Open(consumer) => self.retire(consumer, now),
            Link::Closed { .. } | Link::Opening(_) | Link::Releasing(_) => None,
        }
    }

    fn settle(&mut self, consumer: ConsumerId) -> Effect {
        let moves: Vec<_> = self
            .moves
            .drain(..self.moves.len().min(MOST_MOVES))
            .collect();
        let acks: Vec<_> = self
            .acks
            .drain(..self.acks.len().min(MOST_SETTLED))
            .collect();
        self.settling = acks.len() + moves.len();
        if self.acks.is_empty() {
            self.unsettled = std::mem::take(&mut self.unsettled_next);
        }
        Effect::Settle {
            consumer,
            acks,
            moves,
        }
    }

    fn retire(&mut self, consumer: ConsumerId, now: Now) -> Option<Effect> {
        let retiring = self.retiring.as_mut().filter(|_| self.users.is_empty())?;
        let late = now.monotonic >= retiring.until;
        if late || (retiring.drained && self.outstanding == 0) {
            self.link = Link::Releasing(consumer);
            let delete = retiring.delete;
            return Some(Effect::Release { consumer, delete });
        }
        let drain = !retiring.draining && self.outstanding == 0;
        retiring.draining |= drain;
        drain.then_some(Effect::Drain { consumer })
    }

    /// When it wants to be looked at again.
    pub(super) fn wakeup(&self) -> Option<Duration> {
        match self.link {
            Link::Closed { retry } => retry.filter(|_| !self.users.is_empty()),
            Link::Open(_) => {
                let unrouted = !self.unrouted.is_empty();
                let retiring = self.retiring.as_ref().map(|retiring| retiring.until);
                let other = unrouted.then_some(self.since + PATIENCE).or(retiring);
                self.postponed.wakeup().into_iter().chain(other).min()
            }
            Link::Opening(_) | Link::Releasing(_) => None,
        }
    }
}

/// All refill queues of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct RefillQueues {
    pub(super) by_name: BTreeMap<Arc<str>, RefillQueue>,
    pub(super) by_consumer: HashMap<ConsumerId, Arc<str>>,
    /// Those whose next step may be due.
    touched: BTreeSet<Arc<str>>,
}

impl RefillQueues {
    /// Whether a queue is consumed here.
    pub(super) fn is_open(&self, name: &str) -> bool {
        let queue = self.by_name.get(name);
        queue.is_some_and(RefillQueue::is_open)
    }

    /// A queue, which is looked at again soon.
    pub(super) fn touch(&mut self, name: &str) -> Option<&mut RefillQueue> {
        let queue = self.by_name.get_mut(name)?;
        self.touched.insert(queue.name.clone());
        Some(queue)
    }

    /// The queue that a consumer consumes.
    pub(super) fn of(&mut self, consumer: ConsumerId) -> Option<&mut RefillQueue> {
        let name = self.by_consumer.get(&consumer)?.clone();
        self.touch(&name)
    }

    /// The same by name, made if need be.
    pub(super) fn entry(&mut self, name: &str, now: Now) -> &mut RefillQueue {
        let name: Arc<str> = name.into();
        self.touched.insert(name.clone());
        self.by_name
            .entry(name.clone())
            .or_insert_with(|| RefillQueue::new(name, now))
    }

    pub(super) fn take_touched(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.touched)
    }

    pub(super) fn touch_due(&mut self, now: Now) {
        for queue in self.by_name.values() {
            if queue.wakeup().is_some_and(|at| at <= now.monotonic) {
                self.touched.insert(queue.name.clone());
            }
        }
    }
}
