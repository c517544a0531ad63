//! The steps that need no ledger: how the queues of a bucket are, and a first or a lost ledger.

use std::sync::Arc;
use std::time::Duration;

use bucket::machine::{Absence, Event, Inspection, JobId, QueueState};
use bucket::{Bucket, Ledger, QueueType};
use chrono::TimeDelta;

use super::work::{Progress, WAITS, What, Work};
use super::{Body, Mutant, Shell};
use crate::broker::{Arguments, Broker, ChannelId, Got, Refused};

/// What a mutant forgets of what was carried out before a ledger was lost.
const FORGOTTEN: TimeDelta = TimeDelta::seconds(3);

/// What others have published when an alarm ended is carried out within this.
const AFTER_PROBE: Duration = Duration::from_secs(1);

/// The step of a first ledger which gives back the name that was reserved.
const GIVES_BACK: usize = 8;

/// No queue has this name.
const NOBODYS: &str = "nobodys";

/// What became of a ledger that is waited for.
pub(super) enum Awaited {
    Found(Got<Body>),
    Lost,
    /// Look again after so long.
    Not(Duration),
}

impl Work {
    pub(super) fn inspect_step(
        &mut self,
        shell: &mut Shell,
        broker: &mut Broker<Body>,
    ) -> Result<Progress, Refused> {
        let done = |event| Ok(Progress::Done(event));
        let What::Inspect(job, bucket) = &self.what else {
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
                        tokens: None,
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

    /// A ledger where there is none. All who write one of a bucket exclude each other, with a lock.
    pub(super) fn write_step(
        &mut self,
        shell: &mut Shell,
        broker: &mut Broker<Body>,
    ) -> Result<Progress, Refused> {
        let channel = Self::own_channel(&mut self.channel, shell, broker, true)?;
        let What::WriteLedger(_, bucket, _, absence) = &self.what else {
            return Err(Refused::Gone);
        };
        if self.step == 0 {
            claim(&mut self.claims, shell, bucket)?;
            broker.declare(channel, &lock_of(bucket), Arguments::default(), true)?;
            return Ok(Progress::More);
        }
        match *absence {
            Absence::Unseen(limit) => self.write_unseen_step(limit, shell.mutant, channel, broker),
            Absence::NoQueues => self.write_first_step(true, channel, broker),
            Absence::NoQueue => self.write_first_step(false, channel, broker),
        }
    }

    /// A ledger whose queue is there or not.
    fn write_unseen_step(
        &mut self,
        limit: Duration,
        mutant: Option<Mutant>,
        channel: ChannelId,
        broker: &mut Broker<Body>,
    ) -> Result<Progress, Refused> {
        let What::WriteLedger(job, bucket, ledger, _) = &self.what else {
            return Err(Refused::Gone);
        };
        let (queue, lock, job) = (bucket.ledger_queue(), lock_of(bucket), *job);
        let mut written = Ledger::clone(ledger);
        let quorum = bucket.queue_type == QueueType::Quorum;
        match self.step {
            1 => {
                broker.declare(channel, &queue, ledger_arguments(quorum), false)?;
                broker.consume(channel, &queue, false)?;
            }
            2 => match self.await_ledger(limit, channel, &queue, broker)? {
                Awaited::Not(pause) => return Ok(Progress::Wait(pause)),
                Awaited::Found(got) => {
                    broker.settle(channel, got.tag, false)?;
                    broker.commit(channel)?;
                    broker.delete(channel, &lock, false)?;
                    return Ok(ledger_written(job, false));
                }
                Awaited::Lost => {}
            },
            3 => {
                if mutant == Some(Mutant::ForgetsTicks) {
                    written.tick = written.tick.map(|tick| tick - FORGOTTEN);
                }
                publish(broker, channel, &queue, written)?;
            }
            _ => {
                broker.delete(channel, &lock, false)?;
                return Ok(ledger_written(job, true));
            }
        }
        Ok(Progress::More)
    }

    /// A consumer is handed the ledger as soon as anybody gives it back or writes it.
    pub(super) fn await_ledger(
        &mut self,
        limit: Duration,
        channel: ChannelId,
        queue: &str,
        broker: &mut Broker<Body>,
    ) -> Result<Awaited, Refused> {
        if let Some(got) = broker.deliver(channel, queue)? {
            return Ok(Awaited::Found(got));
        }
        if self.waits > WAITS {
            return Ok(Awaited::Lost);
        }
        // It waits for the end of an alarm, as what others have published does.
        let probe = broker.publish(channel, NOBODYS, Body::Garbage, false);
        self.alarmed |= matches!(probe, Err(Refused::Stalled));
        probe?;
        broker.commit(channel)?;
        if std::mem::take(&mut self.alarmed) {
            self.waits = 0;
        }
        self.waits += 1;
        let is_last = self.waits > WAITS;
        Ok(Awaited::Not(if is_last {
            AFTER_PROBE
        } else {
            limit / WAITS
        }))
    }

    /// A ledger that has no queue: exclusive queues are the test and the lock.
    fn write_first_step(
        &mut self,
        alone: bool,
        channel: ChannelId,
        broker: &mut Broker<Body>,
    ) -> Result<Progress, Refused> {
        let What::WriteLedger(job, bucket, ledger, _) = &self.what else {
            return Err(Refused::Gone);
        };
        let (queue, job) = (bucket.ledger_queue(), *job);
        let quorum = bucket.queue_type == QueueType::Quorum;
        match self.step {
            1 => {
                if !reserve(broker, channel, &queue)? {
                    self.channel = None;
                    self.yields = true;
                    self.step = 6;
                } else if !alone {
                    self.step = 3;
                }
            }
            2 => {
                if !reserve(broker, channel, &bucket.queue())? {
                    self.channel = None;
                    self.yields = true;
                    self.step = GIVES_BACK - 1;
                }
            }
            3 => {
                broker.delete(channel, &bucket.queue(), false)?;
            }
            4 => self.yields = broker.delete(channel, &queue, false)? > 0,
            5 => {
                broker.declare(channel, &queue, ledger_arguments(quorum), false)?;
                if self.yields {
                    self.step = 6;
                }
            }
            6 => publish(broker, channel, &queue, (**ledger).clone())?,
            7 => {
                broker.delete(channel, &lock_of(bucket), false)?;
                return Ok(ledger_written(job, !self.yields));
            }
            // GIVES_BACK
            _ => {
                broker.delete(channel, &queue, false)?;
                self.step = 6;
            }
        }
        Ok(Progress::More)
    }
}

/// An operator's own exclusive queues do not lock it out.
fn claim(claims: &mut bool, shell: &mut Shell, bucket: &Bucket) -> Result<(), Refused> {
    if !*claims && !shell.writing.insert(bucket.name.clone()) {
        return Err(Refused::InUse);
    }
    *claims = true;
    Ok(())
}

fn ledger_written(job: JobId, written: bool) -> Progress {
    let written = Ok(written);
    Progress::Done(Event::LedgerWritten { job, written })
}

fn publish(
    broker: &mut Broker<Body>,
    channel: ChannelId,
    queue: &str,
    ledger: Ledger,
) -> Result<(), Refused> {
    broker.publish(channel, queue, Body::Ledger(Arc::new(ledger)), true)?;
    if broker.commit(channel)?.is_empty() {
        Ok(())
    } else {
        Err(Refused::NotFound)
    }
}

/// Declares an exclusive queue. False when there is one of that name already: then the channel is closed.
fn reserve(broker: &mut Broker<Body>, channel: ChannelId, queue: &str) -> Result<bool, Refused> {
    match broker.declare(channel, queue, Arguments::default(), true) {
        Ok(_) => Ok(true),
        Err(Refused::Locked | Refused::Precondition) => Ok(false),
        Err(refused) => Err(refused),
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
