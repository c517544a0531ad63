//! What is known about every bucket, and which status is to be written next. No client required, and the time is passed
//! in.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::compose::compose;
use super::interned::{InternedStatus, StatusInterner};
use super::report::{Decision, ReconcileResult};
use super::write_policy::{Priority, Times, due, is_unsettled};
use crate::controller::public::Whose;
use amqp::Endpoint;
use api::TokenBucketStatus;
use bucket::machine::Now;
use bucket::{BucketId, backoff};
use engine::{BucketState, ConnectionState};

/// The pause after a failed write doubles from this…
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// …up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A status to write.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: BucketId,
    pub(super) uid: Arc<str>,
    pub(super) before: TokenBucketStatus,
    pub(super) status: TokenBucketStatus,
}

struct Entry {
    result: ReconcileResult,
    state: Option<Arc<BucketState>>,
    written: InternedStatus,
    times: Times,
    failures: u32,
    busy: bool,
    queued: Option<(Priority, Duration)>,
}

/// The newest knowledge about every bucket.
pub(super) struct StatusQueue {
    interval: Duration,
    /// Boxed: a large entry in each empty place of the map would be half of its memory.
    entries: HashMap<BucketId, Box<Entry>>,
    interner: StatusInterner,
    connections: HashMap<Endpoint, ConnectionState>,
    urgent: BTreeSet<(Duration, BucketId)>,
    routine: BTreeSet<(Duration, BucketId)>,
}

impl StatusQueue {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            entries: HashMap::new(),
            interner: StatusInterner::default(),
            connections: HashMap::new(),
            urgent: BTreeSet::new(),
            routine: BTreeSet::new(),
        }
    }

    /// A resource was reconciled.
    pub(super) fn reconciled(&mut self, mut result: ReconcileResult, now: Now) {
        let published = result.published.take();
        let id = result.id.clone();
        match self.entries.get_mut(&id) {
            Some(entry) if entry.result.uid == result.uid => {
                // What another engine told, or this one before the bucket was taken from it, is of the past.
                if entry.result.decision.broker() != result.decision.broker() {
                    entry.state = None;
                }
                entry.result = result;
            }
            _ => {
                self.forget(&id);
                let entry = Entry {
                    state: None,
                    written: self.interner.intern(*published.unwrap_or_default()),
                    times: Times {
                        touched: now.monotonic,
                        unsettled: None,
                        not_before: None,
                    },
                    failures: 0,
                    busy: false,
                    queued: None,
                    result,
                };
                self.entries.insert(id.clone(), Box::new(entry));
            }
        }
        self.schedule(&id, now);
    }

    /// The engine told about a bucket. None when the bucket is not at that broker (any more), else whether its
    /// phase is a new one.
    pub(super) fn state(
        &mut self,
        broker: &Endpoint,
        id: &BucketId,
        state: Arc<BucketState>,
        now: Now,
    ) -> Option<bool> {
        let entry = self.entries.get_mut(id)?;
        if entry.result.decision.broker() != Some(broker) {
            return None;
        }
        let before = entry.state.replace(state.clone());
        self.schedule(id, now);
        Some(before.is_none_or(|before| before.phase != state.phase))
    }

    /// UID of a resource whose bucket is at that broker.
    pub(super) fn uid(&self, broker: &Endpoint, id: &BucketId) -> Option<&str> {
        let entry = self.entries.get(id)?;
        (entry.result.decision.broker() == Some(broker)).then_some(&*entry.result.uid)
    }

    /// The connection to a broker changed; None when the broker is not used any more.
    pub(super) fn connection(
        &mut self,
        broker: &Endpoint,
        connection: Option<ConnectionState>,
        now: Now,
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
        let results = self.entries.values().map(|entry| &entry.result);
        results
            .filter(|result| result.decision.broker() == Some(broker))
            .map(|result| result.id.clone())
            .collect()
    }

    /// What metrics call a broker; None when no bucket is there. Of several Secrets that name it, the first.
    pub(super) fn name_of(&self, broker: &Endpoint) -> Option<String> {
        let results = self.entries.values().map(|entry| &entry.result);
        let at = results.filter(|result| result.decision.broker() == Some(broker));
        at.map(ReconcileResult::named_by).min().map(broker_name)
    }

    /// What is known of the connection to a broker.
    pub(super) fn connection_to(&self, broker: &Endpoint) -> Option<&ConnectionState> {
        self.connections.get(broker)
    }

    /// Nothing is to be written about the bucket any more.
    pub(super) fn forget(&mut self, id: &BucketId) {
        if let Some((priority, due)) = self.entries.remove(id).and_then(|entry| entry.queued) {
            self.queue(priority).remove(&(due, id.clone()));
        }
    }

    /// The next status of that priority which is due.
    pub(super) fn next(&mut self, priority: Priority, now: Now) -> Option<Job> {
        if self.next_due(priority)? > now.monotonic {
            return None;
        }
        let (_, id) = self.queue(priority).pop_first()?;
        let entry = self.entries.get_mut(&id)?;
        entry.queued = None;
        entry.busy = true;
        let before = entry.written.status();
        Some(Job {
            id,
            uid: entry.result.uid.clone(),
            status: entry.desired(&before, &self.connections, now.utc),
            before,
        })
    }

    /// When the next status of that priority is due.
    pub(super) fn next_due(&self, priority: Priority) -> Option<Duration> {
        let queue = match priority {
            Priority::Urgent => &self.urgent,
            Priority::Routine => &self.routine,
        };
        queue.first().map(|(due, _)| *due)
    }

    /// A status was written.
    pub(super) fn written(&mut self, mut job: Job, now: Now) {
        let written = self.interner.intern(std::mem::take(&mut job.status));
        if let Some(entry) = self.finished(&job) {
            entry.written = written;
            entry.failures = 0;
            entry.times.touched = now.monotonic;
            entry.times.not_before = None;
            self.schedule(&job.id, now);
        }
    }

    /// A status could not be written; `jitter` from 0 to 1 spreads the next attempts. The newest is written then.
    pub(super) fn failed(&mut self, job: &Job, jitter: f64, now: Now) {
        if let Some(entry) = self.finished(job) {
            let pause = backoff(FIRST_PAUSE, entry.failures, LONGEST_PAUSE);
            entry.failures = entry.failures.saturating_add(1);
            entry.times.not_before = Some(now.monotonic + pause.mul_f64(0.5 + jitter / 2.0));
            self.schedule(&job.id, now);
        }
    }

    fn finished(&mut self, job: &Job) -> Option<&mut Entry> {
        let entry = self
            .entries
            .get_mut(&job.id)
            .filter(|entry| entry.result.uid == job.uid)?;
        entry.busy = false;
        Some(entry)
    }

    fn queue(&mut self, priority: Priority) -> &mut BTreeSet<(Duration, BucketId)> {
        match priority {
            Priority::Urgent => &mut self.urgent,
            Priority::Routine => &mut self.routine,
        }
    }

    fn schedule(&mut self, id: &BucketId, now: Now) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let queued = entry.queued.take();
        let written = entry.written.status();
        let desired = entry.desired(&written, &self.connections, now.utc);
        entry.times.unsettled =
            is_unsettled(&desired).then(|| entry.times.unsettled.unwrap_or(now.monotonic));
        if !entry.busy {
            entry.queued = due(
                &written,
                &desired,
                entry.times,
                self.interval,
                now.monotonic,
            );
        }
        let next = entry.queued;
        if let Some((priority, due)) = queued {
            self.queue(priority).remove(&(due, id.clone()));
        }
        if let Some((priority, due)) = next {
            self.queue(priority).insert((due, id.clone()));
        }
    }
}

impl Entry {
    fn desired(
        &self,
        written: &TokenBucketStatus,
        connections: &HashMap<Endpoint, ConnectionState>,
        now: DateTime<Utc>,
    ) -> TokenBucketStatus {
        let connection = self
            .result
            .decision
            .broker()
            .and_then(|broker| connections.get(broker));
        compose(
            &self.result,
            self.state.as_deref(),
            connection,
            written,
            now,
        )
    }
}

impl ReconcileResult {
    /// What metrics call its broker, unless others are there too.
    pub(super) fn broker_name(&self) -> String {
        broker_name(self.named_by())
    }

    /// Who names its broker: namespace and name of a Secret, or the operator, which comes before all namespaces; and the
    /// virtual host where the resource does.
    fn named_by(&self) -> Naming<'_> {
        let Whose { secret, vhost } = self.decision.whose();
        (secret.map(|name| (self.id.namespace(), name)), vhost)
    }
}

type Naming<'r> = (Option<(&'r str, &'r str)>, Option<&'r str>);

fn broker_name((secret, vhost): Naming<'_>) -> String {
    let broker = secret.map_or_else(
        || "default".to_owned(),
        |(namespace, name)| format!("{namespace}/{name}"),
    );
    // No name of a Secret has a colon.
    match vhost {
        Some(vhost) => format!("{broker}:{vhost}"),
        None => broker,
    }
}

impl Decision {
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
