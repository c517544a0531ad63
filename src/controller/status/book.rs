//! What is known about every bucket, and which status is to be written next. No client required, and the time is passed
//! in.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::compose::compose;
use super::kept::{Kept, Shelf};
use super::pace::{Class, Times, due, is_unsettled};
use super::{Judgement, Pass};
use amqp::Endpoint;
use api::TokenBucketStatus;
use bucket::{BucketId, backoff};
use engine::{BucketState, Connection};

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
    pub(super) uid: Arc<str>,
    pub(super) before: TokenBucketStatus,
    pub(super) status: TokenBucketStatus,
}

struct Entry {
    pass: Pass,
    state: Option<Arc<BucketState>>,
    written: Kept,
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
    shelf: Shelf,
    connections: HashMap<Endpoint, Connection>,
    urgent: BTreeSet<(Instant, BucketId)>,
    routine: BTreeSet<(Instant, BucketId)>,
}

impl Book {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            entries: HashMap::new(),
            shelf: Shelf::default(),
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
                    written: self.shelf.keep(*published.unwrap_or_default()),
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
        state: Arc<BucketState>,
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

    /// UID of a resource whose bucket is at that broker.
    pub(super) fn uid(&self, broker: &Endpoint, id: &BucketId) -> Option<&str> {
        let entry = self.entries.get(id)?;
        (entry.pass.judgement.broker() == Some(broker)).then_some(&*entry.pass.uid)
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
        let before = entry.written.status();
        Some(Job {
            id,
            uid: entry.pass.uid.clone(),
            status: entry.desired(&before, &self.connections, now.utc),
            before,
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
    pub(super) fn written(&mut self, mut job: Job, now: Moment) {
        let written = self.shelf.keep(std::mem::take(&mut job.status));
        if let Some(entry) = self.finished(&job) {
            entry.written = written;
            entry.failures = 0;
            entry.times.touched = now.instant;
            entry.times.not_before = None;
            self.schedule(&job.id, now);
        }
    }

    /// A status could not be written; `jitter` from 0 to 1 spreads the next attempts. The newest is written then.
    pub(super) fn failed(&mut self, job: &Job, jitter: f64, now: Moment) {
        if let Some(entry) = self.finished(job) {
            let pause = backoff(FIRST_PAUSE, entry.failures, LONGEST_PAUSE);
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
        let written = entry.written.status();
        let desired = entry.desired(&written, &self.connections, now.utc);
        entry.times.unsettled =
            is_unsettled(&desired).then(|| entry.times.unsettled.unwrap_or(now.instant));
        if !entry.busy {
            entry.queued = due(&written, &desired, entry.times, self.interval, now.instant);
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
        written: &TokenBucketStatus,
        connections: &HashMap<Endpoint, Connection>,
        now: DateTime<Utc>,
    ) -> TokenBucketStatus {
        let connection = self
            .pass
            .judgement
            .broker()
            .and_then(|broker| connections.get(broker));
        compose(&self.pass, self.state.as_deref(), connection, written, now)
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
mod tests;
