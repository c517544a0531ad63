//! What is known about every bucket, and which status is to be written next. No client required, and the time is passed
//! in.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::compose::compose;
use super::pace::{Class, Times, due, is_unsettled};
use super::{Judgement, Pass};
use crate::api::TokenBucketStatus;
use crate::broker::Endpoint;
use crate::bucket::BucketId;
use crate::engine::{BucketState, Connection};

/// The pause after a failed write doubles from this…
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// …up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A moment, for people and for pauses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) utc: DateTime<Utc>,
    pub(super) instant: Instant,
}

/// A status to write.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: BucketId,
    pub(super) uid: String,
    pub(super) before: TokenBucketStatus,
    pub(super) status: TokenBucketStatus,
}

struct Entry {
    pass: Pass,
    state: Option<BucketState>,
    written: TokenBucketStatus,
    times: Times,
    failures: u32,
    busy: bool,
    queued: Option<(Class, Instant)>,
}

/// The newest knowledge about every bucket.
pub(super) struct Book {
    interval: Duration,
    /// Boxed: a large entry in each empty place of the map would be half of its memory.
    entries: HashMap<BucketId, Box<Entry>>,
    connections: HashMap<Endpoint, Connection>,
    urgent: BTreeSet<(Instant, BucketId)>,
    routine: BTreeSet<(Instant, BucketId)>,
}

impl Book {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            entries: HashMap::new(),
            connections: HashMap::new(),
            urgent: BTreeSet::new(),
            routine: BTreeSet::new(),
        }
    }

    /// A pass over the resource ended.
    pub(super) fn pass(&mut self, mut pass: Pass, now: Moment) {
        let published = pass.published.take();
        let id = pass.id.clone();
        match self.entries.get_mut(&id) {
            Some(entry) if entry.pass.uid == pass.uid => {
                // What another engine told, or this one before the bucket was taken from it, is of the past.
                if entry.pass.judgement.broker() != pass.judgement.broker() {
                    entry.state = None;
                }
                entry.pass = pass;
            }
            _ => {
                self.forget(&id);
                let entry = Entry {
                    state: None,
                    written: published.map(|status| *status).unwrap_or_default(),
                    times: Times {
                        touched: now.instant,
                        unsettled: None,
                        not_before: None,
                    },
                    failures: 0,
                    busy: false,
                    queued: None,
                    pass,
                };
                self.entries.insert(id.clone(), Box::new(entry));
            }
        }
        self.schedule(&id, now);
    }

    /// The engine told about a bucket. False when the bucket is not at that broker (any more).
    pub(super) fn state(
        &mut self,
        broker: &Endpoint,
        id: &BucketId,
        state: BucketState,
        now: Moment,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(id) else {
            return false;
        };
        if entry.pass.judgement.broker() != Some(broker) {
            return false;
        }
        entry.state = Some(state);
        self.schedule(id, now);
        true
    }

    /// The connection to a broker changed; None when the broker is not used any more.
    pub(super) fn connection(
        &mut self,
        broker: &Endpoint,
        connection: Option<Connection>,
        now: Moment,
    ) {
        match connection {
            Some(connection) => self.connections.insert(broker.clone(), connection),
            None => self.connections.remove(broker),
        };
        for id in self.at(broker) {
            self.schedule(&id, now);
        }
    }

    /// The buckets at a broker.
    pub(super) fn at(&self, broker: &Endpoint) -> Vec<BucketId> {
        let passes = self.entries.values().map(|entry| &entry.pass);
        passes
            .filter(|pass| pass.judgement.broker() == Some(broker))
            .map(|pass| pass.id.clone())
            .collect()
    }

    /// Nothing is to be written about the bucket any more.
    pub(super) fn forget(&mut self, id: &BucketId) {
        if let Some((class, due)) = self.entries.remove(id).and_then(|entry| entry.queued) {
            self.queue(class).remove(&(due, id.clone()));
        }
    }

    /// The next status of that class which is due.
    pub(super) fn next(&mut self, class: Class, now: Moment) -> Option<Job> {
        if self.next_due(class)? > now.instant {
            return None;
        }
        let (_, id) = self.queue(class).pop_first()?;
        let entry = self.entries.get_mut(&id)?;
        entry.queued = None;
        entry.busy = true;
        let status = entry.desired(&self.connections, now.utc);
        Some(Job {
            id,
            uid: entry.pass.uid.clone(),
            before: entry.written.clone(),
            status,
        })
    }

    /// When the next status of that class is due.
    pub(super) fn next_due(&self, class: Class) -> Option<Instant> {
        let queue = match class {
            Class::Urgent => &self.urgent,
            Class::Routine => &self.routine,
        };
        queue.first().map(|(due, _)| *due)
    }

    /// A status was written.
    pub(super) fn written(&mut self, job: Job, now: Moment) {
        if let Some(entry) = self.finished(&job) {
            entry.written = job.status;
            entry.failures = 0;
            entry.times.touched = now.instant;
            entry.times.not_before = None;
            self.schedule(&job.id, now);
        }
    }

    /// A status could not be written; `jitter` from 0 to 1 spreads the next attempts. The newest is written then.
    pub(super) fn failed(&mut self, job: &Job, jitter: f64, now: Moment) {
        if let Some(entry) = self.finished(job) {
            let pause =
                LONGEST_PAUSE.min(FIRST_PAUSE * 2_u32.saturating_pow(entry.failures.min(16)));
            entry.failures = entry.failures.saturating_add(1);
            entry.times.not_before = Some(now.instant + pause.mul_f64(0.5 + jitter / 2.0));
            self.schedule(&job.id, now);
        }
    }

    fn finished(&mut self, job: &Job) -> Option<&mut Entry> {
        let entry = self
            .entries
            .get_mut(&job.id)
            .filter(|entry| entry.pass.uid == job.uid)?;
        entry.busy = false;
        Some(entry)
    }

    fn queue(&mut self, class: Class) -> &mut BTreeSet<(Instant, BucketId)> {
        match class {
            Class::Urgent => &mut self.urgent,
            Class::Routine => &mut self.routine,
        }
    }

    fn schedule(&mut self, id: &BucketId, now: Moment) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let queued = entry.queued.take();
        let desired = entry.desired(&self.connections, now.utc);
        entry.times.unsettled =
            is_unsettled(&desired).then(|| entry.times.unsettled.unwrap_or(now.instant));
        if !entry.busy {
            entry.queued = due(
                &entry.written,
                &desired,
                entry.times,
                self.interval,
                now.instant,
            );
        }
        let next = entry.queued;
        if let Some((class, due)) = queued {
            self.queue(class).remove(&(due, id.clone()));
        }
        if let Some((class, due)) = next {
            self.queue(class).insert((due, id.clone()));
        }
    }
}

impl Entry {
    fn desired(
        &self,
        connections: &HashMap<Endpoint, Connection>,
        now: DateTime<Utc>,
    ) -> TokenBucketStatus {
        let connection = self
            .pass
            .judgement
            .broker()
            .and_then(|broker| connections.get(broker));
        compose(
            &self.pass,
            self.state.as_ref(),
            connection,
            &self.written,
            now,
        )
    }
}

impl Judgement {
    /// Where the bucket is in force.
    pub(super) fn broker(&self) -> Option<&Endpoint> {
        match self {
            Self::InForce { broker, .. } => Some(broker),
            Self::Refused(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{at, broker, down, id, in_force, refused, shown, state};
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    struct Clock(Instant);

    impl Clock {
        fn after(&self, seconds: u64) -> Moment {
            Moment {
                utc: at(1000 + seconds.cast_signed()),
                instant: self.0 + Duration::from_secs(seconds),
            }
        }
    }

    fn clock() -> Clock {
        Clock(Instant::now())
    }

    /// A book with one bucket whose first status, with 5 tokens, was written at second 0.
    fn ready_book(clock: &Clock) -> Book {
        let now = clock.after(0);
        let mut book = Book::new(INTERVAL);
        book.pass(in_force(1), now);
        book.connection(&broker(), Some(Connection::Up), now);
        book.state(&broker(), &id(), state(1, 5), now);
        let job = book.next(Class::Urgent, now).unwrap();
        assert_eq!(
            shown(&job.status),
            "Ready=True Refilling BrokerConnected=True"
        );
        book.written(job, now);
        assert!(book.next(Class::Urgent, now).is_none());
        book
    }

    #[test]
    fn a_new_bucket_is_written_once_it_is_ready() {
        ready_book(&clock());
    }

    #[test]
    fn a_bucket_that_takes_long_is_told_to_be_in_the_making() {
        let clock = clock();
        let mut book = Book::new(INTERVAL);
        book.pass(in_force(1), clock.after(0));
        assert!(book.next(Class::Urgent, clock.after(0)).is_none());
        book.connection(&broker(), Some(Connection::Up), clock.after(3));
        let due = book.next_due(Class::Urgent).unwrap();
        assert_eq!(due, clock.after(5).instant, "it counts from the beginning");
        let job = book.next(Class::Urgent, clock.after(5)).unwrap();
        assert_eq!(
            shown(&job.status),
            "Reconciling=True Applying BrokerConnected=True"
        );
    }

    #[test]
    fn of_many_counts_the_newest_is_written_once_in_the_interval() {
        let clock = clock();
        let mut book = ready_book(&clock);
        for tokens in 6..9 {
            book.state(&broker(), &id(), state(1, tokens), clock.after(tokens));
        }
        assert!(book.next(Class::Routine, clock.after(9)).is_none());
        let job = book.next(Class::Routine, clock.after(10)).unwrap();
        assert_eq!(job.status.available_tokens, Some(8));
        book.written(job, clock.after(10));
        assert_eq!(book.next_due(Class::Routine), None);
    }

    #[test]
    fn what_happens_while_a_status_is_written_is_written_next() {
        let clock = clock();
        let mut book = ready_book(&clock);
        book.connection(&broker(), Some(down()), clock.after(1));
        let job = book.next(Class::Urgent, clock.after(1)).unwrap();
        book.connection(&broker(), Some(Connection::Up), clock.after(1));
        assert!(
            book.next(Class::Urgent, clock.after(1)).is_none(),
            "one write at a time"
        );
        book.written(job, clock.after(2));
        let job = book.next(Class::Urgent, clock.after(2)).unwrap();
        assert_eq!(
            shown(&job.status),
            "Ready=True Refilling BrokerConnected=True"
        );
    }

    #[test]
    fn a_failed_write_is_repeated_later_with_the_newest_status() {
        let clock = clock();
        let mut book = ready_book(&clock);
        book.pass(refused(2, "InvalidSchedule"), clock.after(1));
        let job = book.next(Class::Urgent, clock.after(1)).unwrap();
        book.failed(&job, 1.0, clock.after(1));
        book.pass(refused(3, "InvalidTimeZone"), clock.after(1));
        assert!(book.next(Class::Urgent, clock.after(1)).is_none());
        let job = book.next(Class::Urgent, clock.after(2)).unwrap();
        assert_eq!(
            shown(&job.status),
            "Stalled=True InvalidTimeZone BrokerConnected=Unknown"
        );
        book.failed(&job, 1.0, clock.after(2));
        assert_eq!(
            book.next_due(Class::Urgent),
            Some(clock.after(4).instant),
            "the pause doubles"
        );
    }

    #[test]
    fn a_restart_over_an_unchanged_bucket_writes_nothing() {
        let clock = clock();
        let mut before = Book::new(INTERVAL);
        before.pass(in_force(1), clock.after(0));
        before.connection(&broker(), Some(Connection::Up), clock.after(0));
        before.state(&broker(), &id(), state(1, 5), clock.after(0));
        let published = before.next(Class::Urgent, clock.after(0)).unwrap().status;

        let mut book = Book::new(INTERVAL);
        book.pass(
            Pass {
                published: Some(Box::new(published)),
                ..in_force(1)
            },
            clock.after(100),
        );
        book.connection(&broker(), Some(Connection::Up), clock.after(101));
        book.state(&broker(), &id(), state(1, 5), clock.after(102));
        assert_eq!(
            (book.next_due(Class::Urgent), book.next_due(Class::Routine)),
            (None, None)
        );
    }

    #[test]
    fn a_bucket_that_is_gone_is_not_written() {
        let clock = clock();
        let mut book = ready_book(&clock);
        book.state(&broker(), &id(), state(1, 6), clock.after(1));
        book.forget(&id());
        assert!(book.next(Class::Routine, clock.after(99)).is_none());
        assert!(!book.state(&broker(), &id(), state(1, 7), clock.after(99)));
    }

    #[test]
    fn a_resource_that_took_the_name_of_another_starts_anew() {
        let clock = clock();
        let mut book = ready_book(&clock);
        book.pass(
            Pass {
                uid: "u2".into(),
                ..refused(1, "InvalidSchedule")
            },
            clock.after(1),
        );
        let job = book.next(Class::Urgent, clock.after(1)).unwrap();
        assert_eq!(
            (job.uid.as_str(), job.status.available_tokens),
            ("u2", None)
        );
    }

    #[test]
    fn another_broker_does_not_speak_for_the_bucket() {
        let clock = clock();
        let mut book = ready_book(&clock);
        let other = Endpoint::parse("amqp://other").unwrap();
        assert!(!book.state(&other, &id(), state(1, 9), clock.after(1)));
        book.connection(&other, Some(down()), clock.after(1));
        assert_eq!(book.next_due(Class::Urgent), None);
    }
}
