//! Pure decisions about buckets: what a refill adds, what the ledger says afterwards, which ticks are missed.
//! No I/O and no clock: the broker's answers and the time are passed in.

#![warn(unreachable_pub)]

mod backoff;
mod catch_up;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
mod ledger;
pub mod machine;
mod moved;
mod names;
mod parting;
mod policy;
mod refill;
mod request;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use schedule::Timetable;

pub use backoff::backoff;
pub use ledger::{Known, Ledger, Owner, Refill};
pub use moved::{Contents, Moved};
pub use names::{BUCKET_QUEUE_PREFIX, PROGRAM, ledger_queue_name, parked_queue_name, queue_name};
pub use parting::Parting;
pub use policy::{DeletionPolicy, MissedRefills, QueueType, Trigger};
pub use request::{Origin, REFILL_TASK, RefillRequest, Rejection, Window};

use catch_up::{Passed, TickSpan, catch_up, due};
use refill::{Cause, Refusal, accept};

/// Names a bucket towards people: `namespace/name` of its resource. Every part of the program has a map of these, so it
/// is one text, and clones share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketId(Arc<str>);

impl BucketId {
    /// Of the resource `name` in `namespace`; neither has a slash in it.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// Namespace of the resource.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// Name of the resource.
    #[must_use]
    pub fn name(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or_default()
    }
}

impl fmt::Display for BucketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A bucket as it should be: validated, its schedule parsed, its defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// Whose bucket it is.
    pub id: BucketId,
    /// UID of the resource.
    pub uid: Arc<str>,
    /// When the resource was created: ticks before that were never due.
    pub created: DateTime<Utc>,
    /// Name of the bucket, as refill requests name it; its queue is `token_bucket_<name>`.
    pub name: Arc<str>,
    /// When refills are due. Its anchor is replaced by what the ledger says.
    pub timetable: Timetable,
    /// Tokens that one refill adds.
    pub amount: u64,
    /// Tokens that the bucket can hold.
    pub maximum: u64,
    /// Tokens in the bucket when its queue is created.
    pub initial_tokens: u64,
    /// Queue of its refill requests.
    pub refill_queue: String,
    /// No scheduled refills while true.
    pub suspend: bool,
    /// What to do about ticks that passed while nobody could refill.
    pub missed_refills: MissedRefills,
    /// A tick older than this is not run.
    pub starting_deadline: Option<Duration>,
    /// Type of the bucket's and the ledger's queue.
    pub queue_type: QueueType,
    /// Value of the refill annotation.
    pub refill_request: Option<Box<str>>,
    /// UIDs of other resources that exist and name the same queue, for all that is known at the same broker. A ledger of one
    /// of them is not taken over.
    pub rivals: Box<[Arc<str>]>,
    /// What it brings along from the broker where it was before.
    pub moved: Option<Arc<Moved>>,
}

impl Bucket {
    /// The queue that holds the tokens.
    #[must_use]
    pub fn queue(&self) -> String {
        queue_name(&self.name)
    }

    /// The queue that holds the ledger.
    #[must_use]
    pub fn ledger_queue(&self) -> String {
        ledger_queue_name(&self.name)
    }
}
