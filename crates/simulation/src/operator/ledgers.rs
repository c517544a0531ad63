//! The steps that need no ledger: how the queues of a bucket are, and a first or a lost ledger.

use std::sync::Arc;

use bucket::Bucket;
use bucket::QueueType;
use bucket::machine::{Event, Inspection, QueueState};
use chrono::TimeDelta;

use super::work::{Progress, WAITS, What, Work};
use super::{Body, Mutant, Shell};
use crate::broker::{Arguments, Broker, Refused};

/// What a mutant forgets of what was carried out before a ledger was lost.
const FORGOTTEN: TimeDelta = TimeDelta::seconds(3);

impl Work {
    pub(super) fn inspect_step(
        &mut self,
        shell: &mut Shell,
        broker: &mut Broker<Body>,
    ) -> Result<Progress, Refused> {
        let done = |event| Ok(Progress::Done(event));
        let What::Inspect(job, bucket, new) = &self.what else {
            return Err(Refused::Gone);
        };
        let job = *job;
        if shell.writing.contains(&bucket.name) {
            return Err(Refused::InUse);
        }
        let found = |found| {
            done(Event::Inspected {
                job,
                found: Ok(found),
            })
        };
        let channel = broker.open(shell.connection, false)?;
        self.channel = Some(channel);
        let quorum = bucket.queue_type == QueueType::Quorum;
        let (queue, ledger) = (bucket.queue(), bucket.ledger_queue());
        match self.step {
            // Exclusive queues under both names at the same time.
            0 if *new && broker.arguments(&ledger).is_none() => {
                let bucket_exists = broker.arguments(&queue).is_some();
                return found(Inspection::NoLedger { bucket_exists });
            }
            0 => match broker.count(channel, &ledger) {
                Ok(_) => {
                    broker.declare(channel, &ledger, ledger_arguments(quorum), false)?;
                    self.step += 1;
                }
                Err(Refused::NotFound) => {}
                Err(refused) => return Err(refused),
            },
            1 => {
                let bucket_exists = match broker.count(channel, &queue) {
                    Ok(_) => true,
                    Err(Refused::NotFound) => false,
                    Err(refused) => return Err(refused),
                };
                return found(Inspection::NoLedger { bucket_exists });
            }
            _ => {
                let limit = Some(bucket.maximum);
                let arguments = Arguments {
                    quorum,
                    max_length: limit,
                };
                let there = broker.arguments(&queue);
                let inspection = match broker.declare(channel, &queue, arguments, false) {
                    Ok(tokens) => Inspection::Queues(QueueState { tokens, limit }),
                    // The broker's words name the limit that there is.
                    Err(Refused::Precondition)
                        if there.is_some_and(|there| there.quorum == quorum) =>
                    {
                        Inspection::Queues(QueueState {
                            tokens: broker.ready(&queue).unwrap_or_default(),
                            limit: there.and_then(|there| there.max_length),
                        })
                    }
                    Err(Refused::Precondition) => Inspection::OtherArguments {
                        queue,
                        message: "406".into(),
                    },
                    Err(refused) => return Err(refused),
                };
                return found(inspection);
            }
        }
        broker.close(channel);
        self.channel = None;
        Ok(Progress::More)
    }

    pub(super) fn write_step(
        &mut self,
        shell: &mut Shell,
        broker: &mut Broker<Body>,
    ) -> Result<Progress, Refused> {
        let done = |event| Ok(Progress::Done(event));
        let What::WriteLedger(job, bucket, ledger, wait) = &self.what else {
            return Err(Refused::Gone);
        };
        let channel = match self.channel {
            Some(channel) => channel,
            None => *self.channel.insert(broker.open(shell.connection, true)?),
        };
        let (queue, job) = (bucket.ledger_queue(), *job);
        let lock = lock_of(bucket);
        let quorum = bucket.queue_type == QueueType::Quorum;
        let mut answer = |broker: &mut Broker<Body>, written| {
            broker.delete(channel, &lock, false)?;
            shell.writing.remove(&bucket.name);
            done(Event::LedgerWritten {
                job,
                written: Ok(written),
            })
        };
        match self.step {
            0 => {
                if shell.writing.contains(&bucket.name) {
                    return Err(Refused::InUse);
                }
                broker.declare(channel, &lock, Arguments::default(), true)?;
                shell.writing.insert(bucket.name.clone());
            }
            1 => {
                let new = broker.arguments(&queue).is_none();
                match (wait.is_some(), new) {
                    (true, _) => {
                        broker.declare(channel, &queue, ledger_arguments(quorum), false)?;
                        broker.consume(channel, &queue, false)?;
                    }
                    // Of a queue that was never there nobody holds a message.
                    (false, true) => {
                        broker.declare(channel, &queue, ledger_arguments(quorum), false)?;
                        self.step += 1;
                    }
                    (false, false) => return answer(broker, false),
                }
            }
            // A consumer is handed the ledger as soon as anybody gives it back or writes it.
            2 => {
                if let Some(got) = broker.deliver(channel, &queue)? {
                    broker.settle(channel, got.tag, false)?;
                    broker.commit(channel)?;
                    return answer(broker, false);
                }
                if self.waits < WAITS {
                    self.waits += 1;
                    return Ok(Progress::Wait);
                }
            }
            3 => {
                let mut written = (**ledger).clone();
                if shell.mutant == Some(Mutant::ForgetsTicks) && wait.is_some() {
                    written.tick = written.tick.map(|tick| tick - FORGOTTEN);
                }
                let body = Body::Ledger(Arc::new(written));
                broker.publish(channel, &queue, body, true)?;
                if !broker.commit(channel)?.is_empty() {
                    return Err(Refused::NotFound);
                }
            }
            _ => return answer(broker, true),
        };
        Ok(Progress::More)
    }
}

/// An exclusive queue: who has it may write the first ledger of a bucket.
pub(super) fn lock_of(bucket: &Bucket) -> String {
    format!("{}.lock", bucket.ledger_queue())
}

pub(super) fn ledger_arguments(quorum: bool) -> Arguments {
    Arguments {
        quorum,
        max_length: Some(1),
    }
}
