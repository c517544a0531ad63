//! What the machine is told: commands of its user, answers to its effects, and what happens to the connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::failure::Failure;
use crate::request::{RefillRequest, Rejection, Window};
use crate::{Bucket, BucketId, Contents, DeletionPolicy, Known, Ledger};

/// An instant on both clocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Now {
    /// The wall clock, which can be set.
    pub utc: DateTime<Utc>,
    /// The monotonic clock, since an instant of the shell's choice; it may stand still while the machine sleeps.
    pub monotonic: Duration,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// Names a batch: buckets whose ledgers are held together on one channel.
    BatchId
);
id!(
    /// Names one time that a refill queue is consumed.
    ConsumerId
);
id!(
    /// Names an effect that is about one bucket.
    JobId
);

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The bucket shall be so. `revision` comes back in the state of the bucket when this is in force; `known` is what is
    /// known to be done from elsewhere, should its ledger be lost.
    Apply {
        /// The bucket.
        bucket: Arc<Bucket>,
        /// The caller's number for this specification.
        revision: u64,
        /// Of interest when the bucket is new to the machine.
        known: Option<Known>,
    },
    /// Nothing is done for the bucket any more; its queues stay.
    Leave(BucketId),
    /// Nothing is done for the bucket any more, and its queues go if the policy says so. Answered by `Effect::Answer`.
    Remove {
        /// What to remove.
        removal: Removal,
        /// Comes back in the answer.
        ticket: u64,
    },
    /// There is a connection. All that was under way on an earlier one is void.
    Connected,
    /// There is none any more, or none could be made. None: it is being replaced.
    Lost(Option<Failure>),
    /// A resource alarm began or ended at the broker.
    Blocked(bool),
    /// Whether refills may be asked for.
    Permitted(bool),
    /// Answer to `Effect::Consume`.
    Consuming(ConsumerId),
    /// Messages of a refill queue.
    Delivered {
        /// Where they were delivered.
        consumer: ConsumerId,
        /// In order.
        deliveries: Vec<Delivered>,
    },
    /// Answer to `Effect::Settle`.
    Settled(ConsumerId),
    /// Answer to `Effect::Drain`: what the queue had handed out was delivered before this.
    Drained {
        /// Whose refill queue.
        consumer: ConsumerId,
        /// Nothing waits in it.
        empty: bool,
    },
    /// A consumer is gone, by itself or after `Effect::Release` (None).
    ConsumerEnded {
        /// Which one. Its deliveries have gone back to the queue.
        consumer: ConsumerId,
        /// Why.
        failure: Option<Failure>,
    },
    /// Answer to `Effect::Publish`: one result for each request, in order.
    Published(Vec<Result<(), Failure>>),
    /// Answer to `Effect::Inspect`.
    Inspected {
        /// Of the effect.
        job: JobId,
        /// What was found.
        found: Result<Inspection, Failure>,
    },
    /// Answer to `Effect::WriteLedger`: true when it was written, false when it is not as absent as that asks for.
    LedgerWritten {
        /// Of the effect.
        job: JobId,
        /// Whether it was written.
        written: Result<bool, Failure>,
    },
    /// Answer to `Effect::Take`: one for each bucket, in order. After a failure nothing is held.
    Taken {
        /// Of the effect.
        batch: BatchId,
        /// What was taken.
        taken: Result<Vec<Taken>, Failure>,
    },
    /// Answer to `Effect::Replace`: ready messages that went with the old queue.
    Replaced {
        /// Of the effect.
        batch: BatchId,
        /// How many tokens went.
        tokens: Result<u64, Failure>,
    },
    /// Answer to `Effect::Commit`: the names of buckets whose ledgers came back because their queues are gone. After a
    /// failure nobody knows whether it was applied; nothing is held.
    Committed {
        /// Of the effect.
        batch: BatchId,
        /// What came back.
        returned: Result<Vec<Arc<str>>, Failure>,
    },
    /// Answer to `Effect::Count`: None where there is no queue.
    Counted(Vec<(BucketId, Result<Option<u64>, Failure>)>),
    /// Answer to `Effect::Recount`.
    Recounted {
        /// Of the effect.
        bucket: BucketId,
        /// How many there are.
        tokens: Result<u64, Failure>,
    },
    /// Answer to `Effect::Remove`.
    Removed {
        /// Of the effect.
        job: JobId,
        /// Whether it was done, and what the bucket had, if it is to take that along.
        result: Result<Option<Contents>, Failure>,
    },
    /// Nothing new is to be begun; what is under way ends.
    Stop,
    /// Time has passed.
    Tick,
}

/// A bucket whose queues are not needed any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Removal {
    /// Whose bucket it was.
    pub id: BucketId,
    /// UID of the resource.
    pub uid: Arc<str>,
    /// Name of the bucket.
    pub name: Arc<str>,
    /// Its refill queue, which goes too when no other bucket uses it and nothing is in it.
    pub refill_queue: Arc<str>,
    /// Whether queues are deleted at all.
    pub policy: DeletionPolicy,
    /// It moves to another broker and takes its tokens along, whatever the policy says.
    pub moves: bool,
    /// The bucket is known to have been in force for the resource. Otherwise only its ledger can say so.
    pub established: bool,
}

/// A message of a refill queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    /// What to acknowledge it by.
    pub tag: u64,
    /// What it asks for, or why it is not understood.
    pub request: Result<RefillRequest, Rejection>,
    /// When it may be carried out.
    pub window: Window,
}

/// How the queues of a bucket are.
#[derive(Clone, Debug, PartialEq)]
pub enum Inspection {
    /// There is no queue for the ledger, and nothing was declared.
    NoLedger {
        /// The bucket's own queue is there.
        bucket_exists: bool,
    },
    /// Both are there; the bucket's was declared if need be.
    Queues(QueueState),
    /// The same, and the bucket's had been there and was missing.
    Restored(QueueState),
    /// One of them is there with other arguments.
    OtherArguments {
        /// Which one.
        queue: String,
        /// The broker's own words.
        message: String,
        /// Ready messages of the bucket's, if it is of the right type: an empty one can be declared anew.
        tokens: Option<u64>,
    },
}

/// A queue of tokens as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueueState {
    /// Ready messages.
    pub tokens: u64,
    /// `x-max-length` that is in force.
    pub limit: Option<u64>,
}

/// What became of one bucket of `Effect::Take`.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Its ledger.
    pub baton: Baton,
    /// Tags of the tokens that were taken out.
    pub tokens_out: Vec<u64>,
    /// Ready messages in its queue, counted after all that.
    pub tokens: u64,
}

/// The answer to a get of a ledger.
#[derive(Clone, Debug, PartialEq)]
pub enum Baton {
    /// There was none: somebody holds it, or it is lost.
    Absent,
    /// It is held now.
    Held {
        /// Its tag.
        tag: u64,
        /// What it says, or why that is not understood.
        ledger: Result<Box<Ledger>, String>,
    },
}
