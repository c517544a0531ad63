//! Effects under way.

use std::sync::Arc;
use std::time::Duration;

use bucket::machine::{
    Absence, BatchId, ConsumerId, Effect, Event, JobId, Move, Take, Taken, Transaction,
};
use bucket::{Bucket, BucketId, DeletionPolicy, Ledger, RefillRequest};

use super::{Body, Shell};
use crate::accountant::Doing;
use crate::broker::{Broker, ChannelId, Got, Refused};

/// Looks at a ledger that is absent, until it is lost.
pub(super) const WAITS: u32 = 8;

/// How far an effect is.
#[derive(Debug)]
pub enum Progress {
    /// There are more steps.
    More,
    /// There are more steps, and this has come meanwhile.
    Also(Event),
    /// The next step comes after so long.
    Wait(Duration),
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
    /// There is a queue for the ledger.
    pub(super) ledger_exists: bool,
    /// The ledger that it holds.
    pub(super) got: Option<Got<Body>>,
    /// It is among those of its connection that have reserved names of a bucket.
    pub(super) claims: bool,
    /// The ledger is not as absent as it has to be, so none is written.
    pub(super) yields: bool,
    /// An alarm has held it up.
    pub(super) alarmed: bool,
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
    Inspect(JobId, Arc<Bucket>),
    WriteLedger(JobId, Arc<Bucket>, Box<Ledger>, Absence),
    Take(BatchId, Vec<Take>, Vec<Taken>),
    Replace(BatchId, Arc<Bucket>),
    Commit(BatchId, Transaction),
    Count(
        Vec<(BucketId, Arc<str>)>,
        Vec<(BucketId, Result<Option<u64>, bucket::machine::Failure>)>,
    ),
    Recount(BucketId, Arc<str>),
    Remove(JobId, Removing),
}

/// What to remove.
#[derive(Clone, Debug)]
pub(super) struct Removing {
    pub(super) name: Arc<str>,
    pub(super) uid: Arc<str>,
    pub(super) policy: DeletionPolicy,
    pub(super) established: bool,
    pub(super) hold_limit: Duration,
    pub(super) refill_queue: Option<Arc<str>>,
}

impl Work {
    /// None for what is no work at the broker.
    #[must_use]
    pub fn of(effect: Effect) -> Option<Self> {
        let what = match effect {
            Effect::Consume {
                queue, consumer, ..
            } => What::Consume(queue, consumer),
            Effect::Settle {
                consumer,
                acks,
                moves,
            } => What::Settle(consumer, acks, moves),
            Effect::Drain { consumer } => What::Drain(consumer),
            Effect::Release { consumer, delete } => What::Release(consumer, delete),
            Effect::Publish { requests } => What::Publish(requests, Vec::new()),
            Effect::Inspect { job, bucket, .. } => What::Inspect(job, bucket),
            Effect::WriteLedger {
                job,
                bucket,
                ledger,
                absence,
            } => What::WriteLedger(job, bucket, ledger, absence),
            Effect::Take { batch, wanted } => What::Take(batch, wanted, Vec::new()),
            Effect::Replace { batch, bucket } => What::Replace(batch, bucket),
            Effect::Commit { batch, transaction } => What::Commit(batch, transaction),
            Effect::Count { buckets } => What::Count(buckets, Vec::new()),
            Effect::Recount { bucket, name } => What::Recount(bucket, name),
            Effect::Remove {
                job,
                name,
                uid,
                policy,
                // The world of a schedule is one broker.
                moves: _,
                established,
                hold_limit,
                refill_queue,
            } => {
                let removing = Removing {
                    name,
                    uid,
                    policy,
                    established,
                    hold_limit,
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
            ledger_exists: false,
            got: None,
            claims: false,
            yields: false,
            alarmed: false,
        })
    }

    /// The channel of its own, which is opened at its first step.
    pub(super) fn own_channel(
        channel: &mut Option<ChannelId>,
        shell: &Shell,
        broker: &mut Broker<Body>,
        transactional: bool,
    ) -> Result<ChannelId, Refused> {
        match *channel {
            Some(channel) if broker.is_open(channel) => Ok(channel),
            _ => Ok(*channel.insert(broker.open(shell.connection, transactional)?)),
        }
    }

    pub(super) fn unclaim(&mut self, shell: &mut Shell) {
        if std::mem::take(&mut self.claims)
            && let What::WriteLedger(_, bucket, ..) = &self.what
        {
            shell.writing.remove(&bucket.name);
        }
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
            // Both names are reserved in one go, and given back so.
            What::WriteLedger(..) => matches!(self.step, 0..=2 | 4),
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
}
