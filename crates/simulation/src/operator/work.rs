//! Effects under way, and their steps.

use std::sync::Arc;
use std::time::Duration;

use bucket::machine::{
    BatchId, ConsumerId, Delivered, Effect, Event, JobId, Move, Take, Taken, Transaction,
};
use bucket::{Bucket, BucketId, Ledger, RefillRequest, Rejection, parked_queue_name, queue_name};

use super::removal::Removing;
use super::{Body, Shell, failure};
use crate::accountant::Doing;
use crate::broker::{Broker, ChannelId, Got, Published, Refused};

/// Requests that a consumer is handed at once.
const PREFETCH: usize = 300;

/// Looks at a ledger that is absent, until it is lost.
pub const WAITS: u32 = 8;

/// How far an effect is.
#[derive(Debug)]
pub enum Progress {
    /// There are more steps.
    More,
    /// There are more steps, and this has come meanwhile.
    Also(Event),
    /// The next step comes after an eighth of the hold limit.
    Wait,
    /// This is the answer.
    Done(Event),
}

/// An effect, and what it has seen so far.
#[derive(Clone, Debug)]
pub struct Work {
    pub(super) what: What,
    pub(super) step: usize,
    pub(super) channel: Option<ChannelId>,
    pub(super) waits: u32,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Consume(Arc<str>, ConsumerId),
    Settle(ConsumerId, Vec<u64>, Vec<Move>),
    Drain(ConsumerId),
    Release(ConsumerId, bool),
    Publish(
        Vec<(Arc<str>, RefillRequest)>,
        Vec<Result<(), bucket::machine::Failure>>,
    ),
    Inspect(JobId, Arc<Bucket>, bool),
    WriteLedger(JobId, Arc<Bucket>, Box<Ledger>, Option<Duration>),
    Take(BatchId, Vec<Take>, Vec<Taken>),
    Replace(BatchId, Arc<Bucket>),
    Commit(BatchId, Transaction),
    Count(
        Vec<(BucketId, Arc<str>)>,
        Vec<(BucketId, Result<Option<u64>, bucket::machine::Failure>)>,
    ),
    Remove(JobId, Removing),
}

impl Work {
    /// None for what is no work at the broker.
    #[must_use]
    pub fn of(effect: Effect) -> Option<Self> {
        let what = match effect {
            Effect::Consume { queue, consumer } => What::Consume(queue, consumer),
            Effect::Settle {
                consumer,
                acks,
                moves,
            } => What::Settle(consumer, acks, moves),
            Effect::Drain { consumer } => What::Drain(consumer),
            Effect::Release { consumer, delete } => What::Release(consumer, delete),
            Effect::Publish { requests } => What::Publish(requests, Vec::new()),
            Effect::Inspect { job, bucket, new } => What::Inspect(job, bucket, new),
            Effect::WriteLedger {
                job,
                bucket,
                ledger,
                wait,
            } => What::WriteLedger(job, bucket, ledger, wait),
            Effect::Take { batch, wanted } => What::Take(batch, wanted, Vec::new()),
            Effect::Replace { batch, bucket } => What::Replace(batch, bucket),
            Effect::Commit { batch, transaction } => What::Commit(batch, transaction),
            Effect::Count { buckets } => What::Count(buckets, Vec::new()),
            Effect::Remove {
                job,
                name,
                uid,
                policy,
                refill_queue,
            } => {
                let removing = Removing {
                    name,
                    uid,
                    policy,
                    refill_queue,
                };
                What::Remove(job, removing)
            }
            Effect::Answer { .. } | Effect::Tell(_) => return None,
        };
        Some(Self {
            what,
            step: 0,
            channel: None,
            waits: 0,
        })
    }

    /// What it is, for people who read traces.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{:?}", self.what)
            .chars()
            .take(120)
            .collect::<String>()
            + &format!(" step {}", self.step)
    }

    /// Whether the frames of its next step are sent with those of the one before, so that they arrive even when the sender
    /// dies meanwhile.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        match self.what {
            What::Commit(..) | What::Settle(..) | What::Take(..) | What::Publish(..) => true,
            What::Replace(..) => true,
            _ => self.step == 0,
        }
    }

    /// The transaction that it is about to commit, if its next step is the commit.
    #[must_use]
    pub fn commits(&self, shell: &Shell) -> Option<ChannelId> {
        match self.what {
            What::Commit(batch, _) if self.step == 1 => {
                shell.batches.get(&batch).map(|batch| batch.channel)
            }
            _ => None,
        }
    }

    /// What it is for the accountant.
    #[must_use]
    pub fn doing(&self) -> Doing {
        match self.what {
            What::Remove(..) => Doing::Removes,
            What::WriteLedger(..) => Doing::WritesLedger,
            _ => Doing::Else,
        }
    }

    /// The consumer that this work is about.
    #[must_use]
    pub fn consumer(&self) -> Option<ConsumerId> {
        match self.what {
            What::Consume(_, consumer)
            | What::Settle(consumer, ..)
            | What::Drain(consumer)
            | What::Release(consumer, _) => Some(consumer),
            _ => None,
        }
    }

    /// Does one step.
    ///
    /// # Errors
    /// When nothing can be done at the moment.
    pub fn step(
        &mut self,
        shell: &mut Shell,
        broker: &mut Broker<Body>,
    ) -> Result<Progress, Refused> {
        match self.try_step(shell, broker) {
            Err(Refused::Stalled) => Err(Refused::Stalled),
            Err(refused) => Ok(Progress::Done(self.failed(refused, shell, broker))),
            Ok(progress) => {
                if !matches!(progress, Progress::Wait) {
                    self.step += 1;
                }
                if matches!(progress, Progress::Done(_))
                    && let Some(channel) = self.channel.take()
                {
                    broker.close(channel);
                }
                Ok(progress)
            }
        }
    }

    fn failed(&mut self, refused: Refused, shell: &mut Shell, broker: &mut Broker<Body>) -> Event {
        let failure = failure(refused, broker.connected(shell.connection));
        if let Some(channel) = self.channel.take() {
            broker.close(channel);
        }
        match &mut self.what {
            What::Consume(_, consumer)
            | What::Settle(consumer, ..)
            | What::Drain(consumer)
            | What::Release(consumer, _) => {
                if let Some((channel, _)) = shell.consumers.remove(consumer) {
                    broker.close(channel);
                }
                Event::ConsumerEnded {
                    consumer: *consumer,
                    failure: Some(failure),
                }
            }
            What::Publish(requests, results) => {
                results.resize(requests.len(), Err(failure));
                Event::Published(std::mem::take(results))
            }
            What::Inspect(job, ..) => Event::Inspected {
                job: *job,
                found: Err(failure),
            },
            What::WriteLedger(job, bucket, ..) => {
                if self.step > 0 {
                    shell.writing.remove(&bucket.name);
                    // The lock belongs to the connection and would stay.
                    if let Ok(channel) = broker.open(shell.connection, false) {
                        let _ = broker.delete(channel, &super::ledgers::lock_of(bucket), false);
                        broker.close(channel);
                    }
                }
                Event::LedgerWritten {
                    job: *job,
                    written: Err(failure),
                }
            }
            What::Take(batch, ..) | What::Replace(batch, _) | What::Commit(batch, _) => {
                let batch = *batch;
                if let Some(ended) = shell.batches.remove(&batch) {
                    broker.close(ended.channel);
                }
                match self.what {
                    What::Take(..) => Event::Taken {
                        batch,
                        taken: Err(failure),
                    },
                    What::Replace(..) => Event::Replaced {
                        batch,
                        tokens: Err(failure),
                    },
                    _ => Event::Committed {
                        batch,
                        returned: Err(failure),
                    },
                }
            }
            What::Count(buckets, counts) => {
                for (id, _) in buckets.iter().skip(counts.len()) {
                    counts.push((id.clone(), Err(failure.clone())));
                }
                Event::Counted(std::mem::take(counts))
            }
            What::Remove(job, ..) => Event::Removed {
                job: *job,
                result: Err(failure),
            },
        }
    }

    fn try_step(
        &mut self,
        shell: &mut Shell,
        broker: &mut Broker<Body>,
    ) -> Result<Progress, Refused> {
        let done = |event| Ok(Progress::Done(event));
        match &mut self.what {
            What::Consume(queue, consumer) => {
                let channel = match self.channel {
                    Some(channel) => channel,
                    None => {
                        let channel = broker.open(shell.connection, true)?;
                        *self.channel.insert(channel)
                    }
                };
                match self.step {
                    0 => {
                        broker.declare(channel, queue, shell.refill_arguments(), false)?;
                    }
                    _ => {
                        broker.consume(channel, queue, true)?;
                        self.channel = None;
                        let consumes = (channel, queue.clone());
                        shell.consumers.insert(*consumer, consumes);
                        return done(Event::Consuming(*consumer));
                    }
                }
            }
            What::Settle(consumer, acks, moves) => {
                let Some((channel, _)) = shell.consumers.get(consumer) else {
                    return Err(Refused::Gone);
                };
                if self.step > 0 {
                    broker.commit(*channel)?;
                    return done(Event::Settled(*consumer));
                }
                for moved in moves {
                    broker.publish(*channel, &moved.to, Body::Garbage, false)?;
                    broker.settle(*channel, moved.tag, true)?;
                }
                for tag in acks {
                    broker.settle(*channel, *tag, true)?;
                }
            }
            What::Drain(consumer) => {
                let Some((_, queue)) = shell.consumers.get(consumer) else {
                    return Err(Refused::Gone);
                };
                let queue = queue.clone();
                if let Some(delivered) = shell.deliveries(broker, *consumer, PREFETCH)? {
                    return Ok(Progress::Also(delivered));
                }
                let empty = broker.ready(&queue) == Some(0);
                return done(Event::Drained {
                    consumer: *consumer,
                    empty,
                });
            }
            What::Release(consumer, delete) => {
                let ended = Event::ConsumerEnded {
                    consumer: *consumer,
                    failure: None,
                };
                let Some((channel, queue)) = shell.consumers.remove(consumer) else {
                    return done(ended);
                };
                broker.close(channel);
                if *delete {
                    // The rest is best effort: a queue that is in use stays.
                    for name in [queue.clone(), parked_queue_name(&queue).into()] {
                        let channel = broker.open(shell.connection, false)?;
                        let _ = broker.delete(channel, &name, true);
                        broker.close(channel);
                    }
                }
                return done(ended);
            }
            What::Publish(requests, results) => {
                let channel = match shell.publisher.filter(|channel| broker.is_open(*channel)) {
                    Some(channel) => channel,
                    None => broker.open(shell.connection, false)?,
                };
                shell.publisher = Some(channel);
                if let Some((queue, request)) = requests.get(self.step) {
                    let body = Body::Request(Arc::new(request.clone()));
                    results.push(match broker.publish(channel, queue, body, true)? {
                        Published::Unroutable => Err(failure(Refused::NotFound, true)),
                        Published::Rejected => Err(failure(Refused::Partial, true)),
                        Published::Routed | Published::Buffered => Ok(()),
                    });
                }
                if results.len() == requests.len() {
                    return done(Event::Published(std::mem::take(results)));
                }
            }
            What::Inspect(..) => return self.inspect_step(shell, broker),
            What::WriteLedger(..) => return self.write_step(shell, broker),
            What::Take(..) | What::Replace(..) | What::Commit(..) => {
                return self.batch_step(shell, broker);
            }
            What::Count(buckets, counts) => {
                let channel = match self.channel.filter(|channel| broker.is_open(*channel)) {
                    Some(channel) => channel,
                    None => *self.channel.insert(broker.open(shell.connection, false)?),
                };
                if let Some((id, name)) = buckets.get(self.step) {
                    let count = match broker.count(channel, &queue_name(name)) {
                        Ok(count) => Some(count),
                        Err(Refused::NotFound) => None,
                        Err(refused) => return Err(refused),
                    };
                    counts.push((id.clone(), Ok(count)));
                }
                if counts.len() == buckets.len() {
                    return done(Event::Counted(std::mem::take(counts)));
                }
            }
            What::Remove(job, removing) => {
                let (job, removing) = (*job, removing.clone());
                return self.remove_step(shell, broker, job, &removing);
            }
        }
        Ok(Progress::More)
    }
}

pub(super) fn delivered(got: Got<Body>) -> Delivered {
    let request = match got.body {
        Body::Request(request) => Ok((*request).clone()),
        _ => Err(Rejection::NotCelery),
    };
    Delivered {
        tag: got.tag,
        request,
    }
}
