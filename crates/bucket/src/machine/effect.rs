//! What the machine wants done. The shell carries effects out in the order in which they come, many at the same time, and
//! reports each with the event that its documentation names.

use std::sync::Arc;
use std::time::Duration;

use super::event::{BatchId, ConsumerId, JobId};
use super::outcome::Outcome;
use crate::request::RefillRequest;
use crate::{Bucket, BucketId, Contents, DeletionPolicy, Ledger, QueueType};

/// Something to do at the broker, or to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Consume a refill queue, exclusively where its type knows that; answered by `Event::Consuming`. From then on there
    /// is `Event::Delivered` for what comes, and `Event::ConsumerEnded` in the end.
    Consume {
        /// The refill queue.
        queue: Arc<str>,
        /// Names this consumer.
        consumer: ConsumerId,
        /// Only while there is no message in it: what is in it may be somebody else's.
        if_empty: bool,
    },
    /// Acknowledge and move messages of a refill queue, in one transaction; answered by `Event::Settled`.
    Settle {
        /// Whose deliveries.
        consumer: ConsumerId,
        /// Tags to acknowledge.
        acks: Vec<u64>,
        /// Messages to publish elsewhere and to acknowledge.
        moves: Vec<Move>,
    },
    /// Hand over what waits in the refill queue, then answer `Event::Drained`.
    Drain {
        /// Whose refill queue.
        consumer: ConsumerId,
    },
    /// Stop consuming: what is not acknowledged goes back. Then, when `delete` says so, delete the queue and that of its
    /// parked requests, each if nothing is in it and nobody consumes it. Answered by `Event::ConsumerEnded`.
    Release {
        /// The consumer.
        consumer: ConsumerId,
        /// Whether its queue is not needed any more.
        delete: bool,
    },
    /// Publish requests with confirms; answered by `Event::Published`.
    Publish {
        /// Each with its refill queue.
        requests: Vec<(Arc<str>, RefillRequest)>,
    },
    /// Find out how the queues of a bucket are, and declare the bucket's; answered by `Event::Inspected`.
    Inspect {
        /// Comes back in the answer.
        job: JobId,
        /// The bucket as it should be.
        bucket: Arc<Bucket>,
        /// Its queue has been there: it is told when it is missing.
        was_there: bool,
    },
    /// Write a ledger where there is none; nobody else does so at the same time. That it is absent as asked for is looked at
    /// once more meanwhile, whatever was found before. Answered by `Event::LedgerWritten`.
    WriteLedger {
        /// Comes back in the answer.
        job: JobId,
        /// Whose ledger.
        bucket: Arc<Bucket>,
        /// What to write.
        ledger: Box<Ledger>,
        /// Only then.
        absence: Absence,
    },
    /// On one channel: get the ledgers, in order; then take tokens out; then count the buckets. Answered by
    /// `Event::Taken`.
    Take {
        /// Names the batch, and so the channel.
        batch: BatchId,
        /// The buckets that take part.
        wanted: Vec<Take>,
    },
    /// Delete and declare anew the queue of a bucket whose ledger is held; answered by `Event::Replaced`.
    Replace {
        /// The batch that holds the ledger.
        batch: BatchId,
        /// Whose queue.
        bucket: Arc<Bucket>,
    },
    /// Commit on the channel of the batch; answered by `Event::Committed`.
    Commit {
        /// The batch.
        batch: BatchId,
        /// All of it, or nothing.
        transaction: Transaction,
    },
    /// Count the tokens of buckets; answered by `Event::Counted`.
    Count {
        /// Each with its name.
        buckets: Vec<(BucketId, Arc<str>)>,
    },
    /// Count the tokens of a bucket with all that was sent to it before; answered by `Event::Recounted`.
    Recount {
        /// The bucket.
        bucket: BucketId,
        /// Its name.
        name: Arc<str>,
    },
    /// Delete the queues of a bucket, or say in its ledger that it has no owner any more; nothing happens to what belongs
    /// to another resource. Answered by `Event::Removed`.
    Remove {
        /// Comes back in the answer.
        job: JobId,
        /// Name of the bucket.
        name: Arc<str>,
        /// UID of the resource that it belonged to.
        uid: Arc<str>,
        /// Whether its queues go or stay.
        policy: DeletionPolicy,
        /// Its tokens are counted and taken away in any case, for another broker.
        moves: bool,
        /// The bucket was in force for that resource. Otherwise only its ledger can say so.
        established: bool,
        /// How long somebody can hold the ledger: one that is absent for longer is lost.
        hold_limit: Duration,
        /// A refill queue that nobody consumes here: it goes too, if nothing is in it and nobody consumes it.
        refill_queue: Option<Arc<str>>,
    },
    /// Answer whoever asked for a removal.
    Answer {
        /// The request's number.
        ticket: u64,
        /// Success, with what the bucket takes along, or why not.
        result: Result<Option<Contents>, RemoveFailure>,
    },
    /// Tell something. No answer.
    Tell(Outcome),
}

/// How absent a ledger has to be for another one to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// There is no queue for it, and none for the bucket: so nobody has refilled that since it was looked for.
    NoQueues,
    /// There is no queue for it.
    NoQueue,
    /// Its queue may be there, and stays empty for so long. It is consumed meanwhile, so that a ledger that somebody holds
    /// is seen as soon as it is given back.
    Unseen(Duration),
}

/// Why queues could not be removed; try again later.
#[derive(Clone, Debug, PartialEq)]
pub enum RemoveFailure {
    /// There is no connection to the broker at the moment.
    NotConnected,
    /// The broker refused, or went away meanwhile.
    Broker(super::Failure),
}

/// A message that moves to another queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Tag of its delivery.
    pub tag: u64,
    /// The queue that it goes to.
    pub to: Arc<str>,
    /// Why it is no request that can be carried out; goes into a header.
    pub reason: Option<String>,
}

/// A bucket that takes part in a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Take {
    /// Name of the bucket.
    pub name: Arc<str>,
    /// Type of its queues.
    pub queue_type: QueueType,
    /// Tokens to take out of its queue, at most.
    pub tokens: u64,
}

/// What happens together on the channel that holds the ledgers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transaction {
    /// Tokens to publish: name of the bucket and number.
    pub tokens: Vec<(Arc<str>, u64)>,
    /// Ledgers to write: name of the bucket and contents. They are `mandatory`: those whose queue is gone come back.
    pub ledgers: Vec<(Arc<str>, Box<Ledger>)>,
    /// Tags of messages to acknowledge: ledgers that are replaced, tokens that go.
    pub acks: Vec<u64>,
    /// Tags of messages to give back: ledgers that stay as they are.
    pub nacks: Vec<u64>,
}

impl Transaction {
    /// Number of messages that it publishes and settles.
    #[must_use]
    pub fn len(&self) -> u64 {
        let tokens = self.tokens.iter().map(|(_, count)| *count);
        let others = self.ledgers.len() + self.acks.len() + self.nacks.len();
        tokens.fold(others as u64, u64::saturating_add)
    }

    /// There is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
