//! The next step of whatever is under way, and what becomes of a failure.

use std::sync::Arc;

use bucket::machine::Event;
use bucket::{parked_queue_name, queue_name};

use super::ledgers::lock_of;
use super::work::{Progress, What, Work};
use super::{Body, Shell, failure};
use crate::broker::{Broker, Published, Refused};

/// Requests that a consumer is handed at once.
const PREFETCH: usize = 300;

impl Work {
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
                if !matches!(progress, Progress::Wait(_)) {
                    self.step += 1;
                }
                if matches!(progress, Progress::Done(_)) {
                    self.unclaim(shell);
                    if let Some(channel) = self.channel.take() {
                        broker.close(channel);
                    }
                }
                Ok(progress)
            }
        }
    }

    /// An alarm lasts long: what can be asked again is given up, anything else is waited for.
    pub fn give_up(&mut self, shell: &mut Shell, broker: &mut Broker<Body>) -> Option<Event> {
        let again = matches!(
            self.what,
            What::Consume(..)
                | What::Publish(..)
                | What::Count(..)
                | What::Recount(..)
                | What::Inspect(..)
        );
        again.then(|| self.failed(Refused::Stalled, shell, broker))
    }

    fn failed(&mut self, refused: Refused, shell: &mut Shell, broker: &mut Broker<Body>) -> Event {
        let failure = failure(refused, broker.connected(shell.connection));
        self.unclaim(shell);
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
                    // The lock belongs to the connection and would stay.
                    if let Ok(channel) = broker.open(shell.connection, false) {
                        let _ = broker.delete(channel, &lock_of(bucket), false);
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
            What::Recount(bucket, ..) => Event::Recounted {
                bucket: bucket.clone(),
                tokens: Err(failure),
            },
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
                let channel = Self::own_channel(&mut self.channel, shell, broker, true)?;
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
                let mut publisher = shell.publisher.take();
                let channel = Self::own_channel(&mut publisher, shell, broker, false)?;
                shell.publisher = publisher;
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
                let channel = Self::own_channel(&mut self.channel, shell, broker, false)?;
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
            What::Recount(bucket, name) => {
                let channel = Self::own_channel(&mut self.channel, shell, broker, false)?;
                let (bucket, tokens) = (bucket.clone(), broker.count(channel, &queue_name(name))?);
                let tokens = Ok(tokens);
                return done(Event::Recounted { bucket, tokens });
            }
            What::Remove(job, removing) => {
                let (job, removing) = (*job, removing.clone());
                return self.remove_step(shell, broker, job, &removing);
            }
        }
        Ok(Progress::More)
    }
}
