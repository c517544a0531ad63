//! The status writer: one task that knows the newest about every bucket and writes it, the urgent first and the rest
//! within a budget. What cannot be written is tried again; only the newest counts.

mod broker_names;
mod compose;
#[cfg(test)]
mod fixture;
mod interned;
mod patch;
mod queue;
mod report;
mod transition;
mod write_policy;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use kube::Client;
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::events::{Events, Notice};
use super::public;
use super::triggers::ReconcileTriggers;
use crate::ops::api_error::message;
use crate::ops::{Metrics, Reading};
use amqp::Endpoint;
use broker_names::BrokerNames;
use bucket::BucketId;
use bucket::machine::Now;
use engine::{Clock, ConnectionState, Outcome};
use patch::Written;
use queue::{Job, StatusQueue};
pub(super) use report::{Decision, ReconcileResult, Report};
use transition::transition;
use write_policy::Priority;

/// Writes under way at the same time.
const IN_FLIGHT: usize = 32;
/// What a broker is refused for, or refuses, that is in the Secret: account and certificates.
const MAY_BE_OUTDATED: [&str; 3] = [
    "AuthenticationRefused",
    "CertificateRefused",
    "ClientCertificateRefused",
];

/// Writes statuses until the channel is closed, then finishes what is under way.
pub(super) struct StatusWriter {
    /// Tells the time.
    pub clock: Clock,
    /// Writes the statuses.
    pub client: Client,
    /// Tells what happened.
    pub events: Events,
    /// Has resources reconciled.
    pub triggers: ReconcileTriggers,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// How often a changed count is written, at most.
    pub interval: Duration,
    /// How many statuses with nothing but changed counts are written in a second, at most.
    pub per_second: NonZeroU32,
}

impl StatusWriter {
    /// Runs the writer.
    pub(super) async fn run(self, mut reports: mpsc::UnboundedReceiver<Report>) {
        let mut queue = StatusQueue::new(self.interval);
        let mut names = BrokerNames::default();
        let budget = Budget::new(self.per_second);
        let mut writes = FuturesUnordered::new();
        loop {
            let mut wake = None;
            while writes.len() < IN_FLIGHT {
                match next(&mut queue, &budget, self.clock.now()) {
                    Ok(job) => writes.push(self.write(job)),
                    Err(due) => {
                        wake = due;
                        break;
                    }
                }
            }
            tokio::select! {
                report = reports.recv() => match report {
                    Some(report) => self.take_note(&mut queue, &mut names, report),
                    None => break,
                },
                Some((job, written)) = writes.next() => self.finish(&mut queue, job, written),
                () = sleep_until(self.clock.instant(wake.unwrap_or_default())), if wake.is_some() => {}
            }
        }
        while writes.next().await.is_some() {}
    }

    fn take_note(&self, queue: &mut StatusQueue, names: &mut BrokerNames, report: Report) {
        let now = self.clock.now();
        match report {
            Report::Reconciled(result) => {
                self.metrics
                    .alert_when_empty(&result.id, result.alert_when_empty);
                if let Decision::Refused(phase) = &result.decision {
                    let reading = Reading::Refused(phase.clone());
                    self.metrics.bucket(&result.id, reading);
                }
                if let Some(broker) = result.decision.broker() {
                    names.expect(broker, || result.broker_name());
                }
                queue.reconciled(result, now);
            }
            Report::Gone(id) => {
                queue.forget(&id);
                self.metrics.forget(&id);
            }
            Report::Left(broker) => {
                queue.connection(&broker, None, now);
                let name = names.get(&broker).map(str::to_owned);
                if let Some(unused) = names.remove(&broker) {
                    self.metrics.forget_broker(&unused);
                } else if let Some(name) = name {
                    let others = names.called(&name);
                    let known: Vec<_> = others.filter_map(|it| queue.connection_to(it)).collect();
                    // Otherwise it is being connected to: it will tell.
                    if !known.is_empty() {
                        let connected = known.contains(&&ConnectionState::Up);
                        self.metrics.broker_connected(&name, connected);
                    }
                }
            }
            Report::Outcome(broker, Outcome::Connection(connection)) => {
                if let Some(name) = queue.name_of(&broker) {
                    if let Some(unused) = names.set(&broker, &name) {
                        self.metrics.forget_broker(&unused);
                    }
                    let connected = connection == ConnectionState::Up;
                    self.metrics.connection(&name, connected);
                }
                if matches!(connection, ConnectionState::Down { reason, .. } if MAY_BE_OUTDATED.contains(&reason))
                {
                    // Their Secret may have been changed.
                    self.triggers.send(&queue.at(&broker));
                }
                queue.connection(&broker, Some(connection), now);
            }
            Report::Outcome(broker, Outcome::Bucket(id, state)) => {
                if let Some(is_new) = queue.state(&broker, &id, state.clone(), now) {
                    if let Some(message) = public::hidden(&state.phase).filter(|_| is_new) {
                        warn!(bucket = %id, %broker, "{message}");
                    }
                    self.metrics.bucket(&id, Reading::Known(state));
                }
            }
            Report::Outcome(
                _,
                Outcome::Refilled {
                    bucket: _,
                    trigger,
                    added,
                    tick: _,
                    lag,
                    owed: _,
                },
            ) => {
                self.metrics.refilled(trigger, added, lag);
            }
            Report::Outcome(_, Outcome::Skipped { policy, ticks }) => {
                self.metrics.skipped(policy, ticks);
            }
            Report::Outcome(_, Outcome::Completed { .. } | Outcome::Owned { .. }) => {}
            Report::Outcome(broker, Outcome::QueueMissing(id)) => {
                self.metrics.repaired();
                let note = "The queue of the bucket was gone: somebody has deleted it, or a policy let it expire. It is declared \
                    again, and the tokens that were in it are lost.";
                self.warn(queue, &broker, &id, Notice::warning("QueueMissing", note));
            }
            Report::Outcome(broker, Outcome::TokensVanish { bucket: id, left }) => {
                let note = format!(
                    "A policy takes messages away: the queue of the bucket holds {left} tokens at most, after refill upon refill, though \
                     its maximum is more. Look for max-length in rabbitmqctl list_policies and list_operator_policies, and take the queues \
                     of buckets out of it."
                );
                self.warn(queue, &broker, &id, Notice::warning("TokensVanish", &note));
            }
            Report::Outcome(
                broker,
                Outcome::QueueReplaced {
                    bucket: id,
                    message,
                },
            ) => {
                self.metrics.repaired();
                let note = public::replaced(&message);
                self.warn(queue, &broker, &id, Notice::warning("QueueReplaced", &note));
            }
            Report::Outcome(broker, Outcome::LedgerLost(id)) => {
                self.metrics.ledger_lost();
                let note = "The ledger of the bucket was lost: its queue was deleted or purged, or a policy took the message away. \
                    It is written anew; no tick is carried out twice, and those up to the loss are not made up for.";
                self.warn(queue, &broker, &id, Notice::warning("LedgerLost", note));
            }
            Report::Outcome(broker, Outcome::Contested { bucket: id, rival }) => {
                let note = format!(
                    "The bucket is refilled for {rival} too. This resource comes first and keeps it: give the other one \
                     another spec.name, or delete it."
                );
                self.warn(queue, &broker, &id, Notice::warning("NameConflict", &note));
            }
            Report::Outcome(
                _,
                Outcome::Dropped {
                    bucket: _,
                    reason,
                    parked,
                    message: _,
                },
            ) => self.metrics.dropped(reason, parked),
        }
    }

    /// Something that no condition says.
    fn warn(&self, queue: &StatusQueue, broker: &Endpoint, id: &BucketId, notice: Notice) {
        if let Some(uid) = queue.uid(broker, id) {
            self.events.publish(id, uid, notice);
        }
    }

    async fn write(&self, job: Job) -> (Job, kube::Result<Written>) {
        let written = patch::write(&self.client, &job).await;
        (job, written)
    }

    fn finish(&self, queue: &mut StatusQueue, job: Job, written: kube::Result<Written>) {
        match written {
            Ok(Written::Yes) => {
                self.metrics.status_write("ok");
                if let Some(notice) = transition(&job.before, &job.status) {
                    if notice.is_warning() {
                        warn!(bucket = %job.id, reason = notice.reason, "{}", notice.note);
                    } else {
                        info!(bucket = %job.id, reason = notice.reason, "{}", notice.note);
                    }
                    self.events.publish(&job.id, &job.uid, notice);
                }
                queue.written(job, self.clock.now());
            }
            // The watch will say so too.
            Ok(Written::Gone) => {
                self.metrics.status_write("gone");
                queue.written(job, self.clock.now());
            }
            Err(error) => {
                self.metrics.status_write("error");
                warn!(bucket = %job.id, error = message(&error), "cannot write the status: trying again");
                queue.failed(&job, rand::random(), self.clock.now());
            }
        }
    }
}

/// The next status to write, or when to look again.
fn next(queue: &mut StatusQueue, budget: &Budget, now: Now) -> Result<Job, Option<Duration>> {
    if let Some(job) = queue.next(Priority::Urgent, now) {
        return Ok(job);
    }
    let (urgent, routine) = (
        queue.next_due(Priority::Urgent),
        queue.next_due(Priority::Routine),
    );
    let routine = match routine {
        Some(due) if due <= now.monotonic => match budget.take() {
            Ok(()) => return queue.next(Priority::Routine, now).ok_or(urgent),
            Err(pause) => Some(now.monotonic + pause),
        },
        due => due,
    };
    Err(urgent.into_iter().chain(routine).min())
}

/// The budget of routine writes.
struct Budget {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

impl Budget {
    fn new(per_second: NonZeroU32) -> Self {
        Self {
            limiter: RateLimiter::direct(Quota::per_second(per_second)),
            clock: DefaultClock::default(),
        }
    }

    fn take(&self) -> Result<(), Duration> {
        self.limiter
            .check()
            .map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}
