//! The status writer: one task that knows the newest about every bucket and writes it, the urgent first and the rest
//! within a budget. What cannot be written is tried again; only the newest counts.

mod book;
mod compose;
#[cfg(test)]
mod fixture;
mod kept;
mod pace;
mod patch;
mod transition;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use kube::Client;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::events::{Events, Notice};
use super::pokes::Pokes;
use crate::ops::api_error::words;
use crate::ops::{Metrics, Reading};
use amqp::Endpoint;
use api::TokenBucketStatus;
use api::conditions::{State, Verdict};
use book::{Book, Job, Moment};
use bucket::BucketId;
use engine::{Connection, Outcome};
use pace::Class;
use patch::Written;
use transition::transition;

/// Writes under way at the same time.
const IN_FLIGHT: usize = 32;
/// The broker's reason for refusing user name or password.
const AUTHENTICATION_REFUSED: &str = "AuthenticationRefused";

/// What the writer is told.
#[derive(Debug)]
pub enum Report {
    /// A pass over a resource ended.
    Pass(Pass),
    /// The engine of a broker told something.
    Outcome(Endpoint, Outcome),
    /// No bucket is at the broker any more.
    Left(Endpoint),
    /// The resource is gone, or about to be.
    Gone(BucketId),
}

/// The end of a pass over a resource.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Which resource.
    pub id: BucketId,
    /// Its UID.
    pub uid: Arc<str>,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// Whether there shall be an alert when it is empty for long.
    pub alert_when_empty: bool,
    /// Name of the bucket's queue, when that is known.
    pub queue: Option<String>,
    /// Its status in the API when it was first seen; what is there later, the writer has written itself.
    pub published: Option<Box<TokenBucketStatus>>,
    /// How the pass ended.
    pub judgement: Judgement,
}

/// How a pass over a resource ended.
#[derive(Clone, Debug)]
pub enum Judgement {
    /// The engine has it: the rest is for the engine to tell.
    InForce {
        /// At which broker.
        broker: Endpoint,
        /// Whether scheduled refills are suspended.
        suspend: bool,
    },
    /// It did not come to that.
    Refused(Box<Verdict>),
}

/// Writes statuses until the channel is closed, then finishes what is under way.
pub struct Writer {
    /// Writes the statuses.
    pub client: Client,
    /// Tells what happened.
    pub events: Events,
    /// Asks for passes over resources.
    pub pokes: Pokes,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// How often a changed count is written, at most.
    pub interval: Duration,
    /// How many statuses with nothing but changed counts are written in a second, at most.
    pub per_second: NonZeroU32,
}

impl Writer {
    /// Runs the writer.
    pub async fn run(self, mut reports: mpsc::UnboundedReceiver<Report>) {
        let mut book = Book::new(self.interval);
        let budget = Budget::new(self.per_second);
        let mut writes = FuturesUnordered::new();
        loop {
            let mut wake = None;
            while writes.len() < IN_FLIGHT {
                match next(&mut book, &budget, moment()) {
                    Ok(job) => writes.push(self.write(job)),
                    Err(due) => {
                        wake = due;
                        break;
                    }
                }
            }
            tokio::select! {
                report = reports.recv() => match report {
                    Some(report) => self.take_note(&mut book, report),
                    None => break,
                },
                Some((job, written)) = writes.next() => self.finish(&mut book, job, written),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
        while writes.next().await.is_some() {}
    }

    fn take_note(&self, book: &mut Book, report: Report) {
        let now = moment();
        match report {
            Report::Pass(pass) => {
                self.metrics
                    .alert_when_empty(&pass.id, pass.alert_when_empty);
                if let Judgement::Refused(verdict) = &pass.judgement {
                    let stalled = (verdict.state == State::Stalled).then_some(verdict.reason);
                    let reading = Reading::Refused { stalled };
                    self.metrics.bucket(&pass.id, reading);
                }
                book.pass(pass, now);
            }
            Report::Gone(id) => {
                book.forget(&id);
                self.metrics.forget(&id);
            }
            Report::Left(broker) => {
                book.connection(&broker, None, now);
                self.metrics.forget_broker(&broker.to_string());
            }
            Report::Outcome(broker, Outcome::Connection(connection)) => {
                self.metrics
                    .connection(&broker.to_string(), connection == Connection::Up);
                if matches!(
                    connection,
                    Connection::Down {
                        reason: AUTHENTICATION_REFUSED,
                        ..
                    }
                ) {
                    // Their Secret may have been changed.
                    self.pokes.send(&book.at(&broker));
                }
                book.connection(&broker, Some(connection), now);
            }
            Report::Outcome(broker, Outcome::Bucket(id, state)) => {
                if book.state(&broker, &id, state.clone(), now) {
                    self.metrics.bucket(&id, Reading::Told(state));
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
            Report::Outcome(_, Outcome::LeftOut { policy, ticks }) => {
                self.metrics.left_out(policy, ticks);
            }
            Report::Outcome(_, Outcome::Completed { .. }) => {}
            Report::Outcome(_, Outcome::QueueMissing(_)) => self.metrics.repaired(),
            Report::Outcome(broker, Outcome::LedgerLost(id)) => {
                self.metrics.ledger_lost();
                let note = "The ledger of the bucket was lost: its queue was deleted or purged, or a policy took the message away. \
                    It is written anew; no tick is carried out twice, and those up to the loss are not made up for.";
                self.warn(book, &broker, &id, Notice::warning("LedgerLost", note));
            }
            Report::Outcome(broker, Outcome::Contested { bucket: id, rival }) => {
                let note = format!(
                    "The bucket is refilled for {rival} too. This resource comes first and keeps it: give the other one \
                     another spec.name, or delete it."
                );
                self.warn(book, &broker, &id, Notice::warning("NameConflict", &note));
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
    fn warn(&self, book: &Book, broker: &Endpoint, id: &BucketId, notice: Notice) {
        if let Some(uid) = book.uid(broker, id) {
            self.events.publish(id, uid, notice);
        }
    }

    async fn write(&self, job: Job) -> (Job, kube::Result<Written>) {
        let written = patch::write(&self.client, &job).await;
        (job, written)
    }

    fn finish(&self, book: &mut Book, job: Job, written: kube::Result<Written>) {
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
                book.written(job, moment());
            }
            // The watch will say so too.
            Ok(Written::Gone) => {
                self.metrics.status_write("gone");
                book.written(job, moment());
            }
            Err(error) => {
                self.metrics.status_write("error");
                warn!(bucket = %job.id, error = words(&error), "cannot write the status: trying again");
                book.failed(&job, rand::random(), moment());
            }
        }
    }
}

/// The next status to write, or when to look again.
fn next(book: &mut Book, budget: &Budget, now: Moment) -> Result<Job, Option<Instant>> {
    if let Some(job) = book.next(Class::Urgent, now) {
        return Ok(job);
    }
    let (urgent, routine) = (book.next_due(Class::Urgent), book.next_due(Class::Routine));
    let routine = match routine {
        Some(due) if due <= now.instant => match budget.take() {
            Ok(()) => return book.next(Class::Routine, now).ok_or(urgent),
            Err(pause) => Some(now.instant + pause),
        },
        due => due,
    };
    Err(urgent.into_iter().chain(routine).min())
}

fn moment() -> Moment {
    Moment {
        utc: Utc::now(),
        instant: Instant::now(),
    }
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
