//! All decisions about the buckets at one broker, as a state machine without I/O, clocks or locks: events and the time go
//! in, effects come out. Whoever carries them out (the engine, or a simulation) decides nothing.
//!
//! Nothing is remembered of a ledger between refills. For each refill the ledger is got from its queue and held; the bucket
//! is counted while it is held; and one transaction publishes the tokens and the new ledger and acknowledges the old one.
//! A refill is a compare-and-swap at the broker, right for any number of operators.

mod adjustment;
mod batch;
mod claim;
mod committed;
mod counter;
mod due_queue;
mod effect;
mod entry;
mod event;
mod failure;
mod inspection;
mod outcome;
mod postponed;
mod refill_queue;
mod refills;
mod removal;
mod requests;
mod scheduler;
mod share;
mod strangers;
mod suspects;
mod vanishing;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::{Bucket, BucketId, Known};
use batch::Batch;
use counter::{Counter, Wanted};
use entry::{Entry, Stage};
use inspection::Inspections;
use refill_queue::{Link, RefillQueues};
use removal::Removals;
use scheduler::Scheduler;
use suspects::Suspects;

pub use effect::{Absence, Effect, Move, RemoveFailure, Take, Transaction};
pub use event::{
    BatchId, Baton, ConsumerId, Delivered, Event, Inspection, JobId, Now, QueueState, Removal,
    Taken,
};
pub use failure::{Class, Failure};
pub use outcome::{BucketState, ConnectionState, Observed, Outcome, Phase};
pub use share::MOST_TOKENS;

/// How often the clock has to be looked at: how soon a changed wall clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// How often stalled buckets are looked at again: a person may have mended them.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What applies to all buckets of a machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names the operator in ledgers; replicas that take turns have it in common.
    pub operator: Box<str>,
    /// How often tokens are counted.
    pub status_interval: Duration,
    /// How often a bucket is inspected, and its ledger read, though nothing has changed: somebody may have changed its
    /// queues at the broker.
    pub resync_interval: Duration,
    /// Batches that may be under way at the same time.
    pub channels: usize,
    /// Most tokens that one transaction publishes.
    pub most_tokens: u64,
    /// How long somebody can hold a ledger at most: until the broker has noticed that a connection is dead. A ledger that
    /// is absent for longer is lost.
    pub hold_limit: Duration,
}

/// The buckets in force at one broker. It outlives connections.
#[derive(Clone, Debug)]
pub struct Machine {
    settings: Settings,
    connected: bool,
    blocked: bool,
    permitted: bool,
    stopping: bool,
    buckets: BTreeMap<BucketId, Box<Entry>>,
    names: HashMap<Arc<str>, BucketId>,
    queues: RefillQueues,
    scheduler: Scheduler,
    counter: Counter,
    inspections: Inspections,
    removals: Removals,
    suspects: Suspects,
    /// Buckets that wait for their turn in a batch.
    turns: VecDeque<BucketId>,
    batches: BTreeMap<BatchId, Batch>,
    timers: BTreeSet<(Duration, BucketId)>,
    /// Reasons for dropped requests that have been told in words: a flood of bad requests must not flood the log.
    warned: HashSet<&'static str>,
    /// The newest number that was given to anything.
    newest: u64,
    effects: Vec<Effect>,
}

impl Machine {
    /// Without buckets and without a connection; refills may be asked for.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let counter = Counter::new(settings.status_interval);
        Self {
            settings,
            connected: false,
            blocked: false,
            permitted: true,
            stopping: false,
            buckets: BTreeMap::new(),
            names: HashMap::new(),
            queues: RefillQueues::default(),
            scheduler: Scheduler::default(),
            counter,
            inspections: Inspections::default(),
            removals: Removals::default(),
            suspects: Suspects::default(),
            turns: VecDeque::new(),
            batches: BTreeMap::new(),
            timers: BTreeSet::new(),
            warned: HashSet::new(),
            newest: 0,
            effects: Vec::new(),
        }
    }

    /// Something has happened. What is due at `now` is done before: an edit costs no tick.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        if let Event::Permitted(permitted) = event {
            self.permitted = permitted;
        }
        if self.is_active() && self.permitted {
            self.scheduler.take_due(now);
        }
        self.take(event, now);
        self.go_on(now);
        std::mem::take(&mut self.effects)
    }

    /// When `Event::Tick` is wanted at the latest, on the monotonic clock, if nothing else happens before.
    #[must_use]
    pub fn wakeup(&self, now: Now) -> Duration {
        let latest = now.monotonic + LONGEST_SLEEP;
        if !self.is_active() {
            return latest;
        }
        let due = self.scheduler.next().filter(|_| self.permitted);
        let due = due.map(|at| now.monotonic + (at - now.utc).to_std().unwrap_or_default());
        let timer = self.timers.first().map(|(at, _)| *at);
        let queues = self.queues.by_name.values();
        let queues = queues.filter_map(refill_queue::RefillQueue::wakeup);
        let all = due.into_iter().chain(timer).chain(queues);
        let all = all.chain(self.counter.wakeup());
        all.fold(latest, Duration::min).max(now.monotonic)
    }

    /// Whether nothing is under way that should be awaited before the connection is closed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batches.is_empty()
            && !self.scheduler.is_publishing()
            && !self
                .queues
                .by_name
                .values()
                .any(|queue| queue.is_open() && queue.is_settling())
    }

    /// Whether anything can be begun at the broker.
    fn is_active(&self) -> bool {
        self.connected && !self.blocked && !self.stopping
    }

    fn take(&mut self, event: Event, now: Now) {
        match event {
            Event::Apply {
                bucket,
                revision,
                known,
            } => self.apply(bucket, revision, known, now),
            Event::Leave(id) => {
                self.leave(&id, false, now);
            }
            Event::Remove { removal, ticket } => self.remove(removal, ticket, now),
            Event::Connected => self.connect(now),
            Event::Lost(failure) => {
                self.suspect(failure.as_ref(), now);
                self.disconnect(failure);
            }
            Event::Blocked(blocked) => self.block(blocked, now),
            Event::Stop => self.stopping = true,
            Event::Consuming(consumer) => self.consuming(consumer, now),
            Event::Delivered {
                consumer,
                deliveries,
            } => self.deliver(consumer, deliveries, now),
            Event::Settled(consumer) => self.settled(consumer),
            Event::Drained { consumer, empty } => {
                if let Some(queue) = self.queues.of(consumer) {
                    queue.drained(empty);
                }
            }
            Event::ConsumerEnded { consumer, failure } => {
                self.consumer_ended(consumer, failure, now);
            }
            Event::Published(results) => self.published(&results, now),
            Event::Inspected { job, found } => self.inspected(job, found, now),
            Event::LedgerWritten { job, written } => self.ledger_written(job, written, now),
            Event::Taken { batch, taken } => self.taken(batch, taken, now),
            Event::Replaced { batch, tokens } => self.replaced(batch, tokens, now),
            Event::Committed { batch, returned } => self.committed(batch, returned, now),
            Event::Counted(counts) => self.counted(counts, now),
            Event::Recounted { bucket, tokens } => self.recounted(bucket, tokens),
            Event::Removed { job, result } => self.removed(job, result),
            Event::Permitted(_) | Event::Tick => {}
        }
    }

    /// Begins whatever can be begun.
    fn go_on(&mut self, now: Now) {
        let skipped = self.scheduler.skipped();
        self.effects.extend(skipped.map(Effect::Tell));
        if !self.is_active() {
            self.settle(now);
            return;
        }
        while let Some((at, id)) = self
            .timers
            .first()
            .filter(|(at, _)| *at <= now.monotonic)
            .cloned()
        {
            self.timers.remove(&(at, id.clone()));
            self.wake(&id);
        }
        self.queues.touch_due(now);
        self.settle(now);
        if let Some(wanted) = self.counter.next(now) {
            if wanted == Wanted::All {
                self.resync(now);
            }
            self.count(&wanted);
        }
        self.end_trial();
        self.begin_inspections(now);
        self.begin_batches();
        self.begin_removals(now);
        if self.permitted {
            self.effects.extend(self.scheduler.publish());
        }
    }

    fn next_number(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    fn apply(&mut self, bucket: Arc<Bucket>, revision: u64, known: Option<Known>, now: Now) {
        let id = bucket.id.clone();
        match self.buckets.get_mut(&id) {
            Some(entry) => {
                let same = entry.bucket.uid == bucket.uid;
                entry.known = entry.known.take().filter(|_| same).or(known.map(Arc::new));
                if entry.bucket == bucket && entry.revision == revision {
                    return;
                }
                let before = std::mem::replace(&mut entry.bucket, bucket.clone());
                entry.revision = revision;
                if !same {
                    entry.had_ledger = false;
                    entry.has_queues = false;
                    entry.owned = false;
                    entry.gone = Some(before.uid.clone());
                    entry.yielded = false;
                }
                if before.name != bucket.name {
                    self.names.remove(&before.name);
                }
                if before.refill_queue != bucket.refill_queue
                    && let Some(queue) = self.queues.touch(&before.refill_queue)
                {
                    queue.leave(&id, true, now);
                }
            }
            None => {
                let mut entry = Entry::new(bucket.clone(), revision, known);
                entry.gone = self.removals.gone(&id, &bucket.uid);
                self.buckets.insert(id.clone(), entry);
            }
        }
        self.names.insert(bucket.name.clone(), id.clone());
        let queue = self.queues.entry(&bucket.refill_queue, now);
        for ticket in queue.join(id.clone()) {
            self.answer(ticket, Ok(None));
        }
        self.route_unrouted(&bucket.name, now);
        self.inspect(&id);
    }

    /// Nothing is done for a bucket any more. Answers the batch that it still takes part in.
    fn leave(&mut self, id: &BucketId, delete: bool, now: Now) -> Option<BatchId> {
        let entry = self.buckets.remove(id)?;
        self.removals.remember(id, &entry.bucket.uid);
        if self.names.get(&entry.bucket.name) == Some(id) {
            self.names.remove(&entry.bucket.name);
        }
        self.scheduler.forget(id);
        if let Some(at) = entry.wake {
            self.timers.remove(&(at, id.clone()));
        }
        self.reroute(id, entry.pending.into(), Some(&entry.bucket.name), now);
        if let Some(queue) = self.queues.touch(&entry.bucket.refill_queue) {
            queue.leave(id, delete, now);
        }
        entry.batch
    }

    fn connect(&mut self, now: Now) {
        self.connected = true;
        self.blocked = false;
        self.tell(Outcome::Connection(ConnectionState::Up));
        for queue in self.queues.by_name.values_mut() {
            queue.closed(Some(now.monotonic));
        }
        self.pause_queues(now);
        self.queues.touch_due(now);
    }

    fn disconnect(&mut self, failure: Option<Failure>) {
        self.connected = false;
        if let Some(Failure {
            reason, message, ..
        }) = failure
        {
            self.tell(Outcome::Connection(ConnectionState::Down {
                reason,
                message,
            }));
        }
        self.show_alarm(false);
        self.scheduler.reset();
        self.counter.reset();
        self.inspections.reset();
        self.turns.clear();
        self.batches.clear();
        self.timers.clear();
        for entry in self.buckets.values_mut() {
            entry.disconnect();
        }
        let mut answers = self.removals.reset();
        for queue in self.queues.by_name.values_mut() {
            answers.extend(queue.closed(None));
        }
        self.queues.by_name.retain(|_, queue| !queue.is_done());
        self.queues.by_consumer.clear();
        for ticket in answers {
            let result = Err(RemoveFailure::NotConnected);
            self.effects.push(Effect::Answer { ticket, result });
        }
    }

    /// A resource alarm begins or ends: what was refused for it is tried again.
    fn block(&mut self, blocked: bool, now: Now) {
        self.show_alarm(blocked);
        if blocked {
            return;
        }
        for queue in self.queues.by_name.values_mut() {
            if let Link::Closed { retry } = &mut queue.link {
                *retry = Some(now.monotonic);
            }
        }
        self.queues.touch_due(now);
        let ids: Vec<_> = self.buckets.keys().cloned().collect();
        for id in &ids {
            let stage = self.buckets.get(id).map(|entry| &entry.stage);
            if stage == Some(&Stage::Unknown) {
                self.inspect(id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
