//! What happens in one simulated schedule, as plain data: it is made from a seed, and shrinks by leaving things out.

mod generator;

use bucket::{DeletionPolicy, MissedRefills};

/// Milliseconds since the beginning.
pub type Millis = u64;

/// Nobody breaks anything after this.
pub const FAULTS_END: Millis = 14_000;

/// So long after an alarm nothing waits for its end any more.
pub const ALARM_FORGOTTEN: Millis = 1_000;

/// The schedules that buckets have.
pub const SCHEDULES: [&str; 5] = [
    "*/2 * * * * *",
    "@every 3s",
    "*/4 * * * * *",
    "*/5 * * * * *",
    "1-59/7 * * * * *",
];

/// One schedule.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of all that is random while it runs.
    pub seed: u64,
    /// The cluster of each operator; those of one cluster are replicas.
    pub operators: Vec<Operator>,
    /// All resources that there ever are.
    pub resources: Vec<Resource>,
    /// How often somebody takes a token of each bucket, on average.
    pub takers: Vec<Option<Millis>>,
    /// Most tokens in one transaction: with few of them nearly all refills take several.
    pub most_tokens: u64,
    /// A broker that removes what is given back more often than this.
    pub delivery_limit: Option<u32>,
    /// Replicas may all consume a refill queue, and one of them is active; else it is exclusive.
    pub single_active: bool,
    /// Operators of two clusters want the same refill queues: then one of them waits, for whatever is in its way.
    pub shared_queues: bool,
    /// What happens when.
    pub steps: Vec<(Millis, Step)>,
}

/// One operator.
#[derive(Clone, Copy, Debug)]
pub struct Operator {
    /// The cluster that it watches.
    pub cluster: u8,
    /// Transactions at the same time.
    pub channels: usize,
    /// What it does takes so many times as long.
    pub slowness: u64,
}

/// One resource.
#[derive(Clone, Copy, Debug)]
pub struct Resource {
    /// Where it is.
    pub cluster: u8,
    /// The bucket that it names.
    pub bucket: u8,
    /// As it is created.
    pub spec: Spec,
}

/// The specification of a resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spec {
    /// `amount`
    pub amount: u64,
    /// `maximum`
    pub maximum: u64,
    /// `initialTokens`
    pub initial: u64,
    /// `schedule`, one of [`SCHEDULES`].
    pub schedule: usize,
    /// `refillQueue`, by number.
    pub refill_queue: u8,
    /// `suspend`
    pub suspend: bool,
    /// `missedRefills`
    pub missed: MissedRefills,
    /// `startingDeadlineSeconds`
    pub deadline: Option<u64>,
    /// `queueType: quorum`
    pub quorum: bool,
    /// Value of the refill annotation.
    pub annotation: Option<u8>,
}

/// Something that happens. Operators, resources and buckets are named by their numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// A resource is created.
    Create(usize),
    /// A resource is edited.
    Edit(usize, Edit),
    /// A resource is deleted.
    Delete(usize, DeletionPolicy),
    /// An operator dies and starts again after a while; the broker notices after another.
    Crash(usize, Millis, Millis),
    /// An operator stands still; with true its monotonic clock does too.
    Pause(usize, Millis, bool),
    /// A connection is cut: when the operator notices, and when the broker does.
    Cut(usize, Millis, Millis),
    /// A wall clock is set, by so many milliseconds.
    SetClock(usize, i64),
    /// An operator may ask for refills, or may not.
    Permit(usize, bool),
    /// A resource alarm that lasts so long.
    Alarm(Millis),
    /// The broker starts anew; what it was doing may be done in part.
    Restart(Millis),
    /// A request of somebody else: bucket, refill queue, id.
    Request(u8, u8, Option<u8>),
    /// Many requests of somebody else, each with an id of its own: bucket, refill queue, number.
    Flood(u8, u8, u8),
    /// Something that is no request.
    Garbage(u8),
    /// Somebody deletes the queue of a bucket.
    DeleteQueue(u8),
    /// Somebody deletes a ledger.
    DeleteLedger(u8),
    /// Somebody empties the queue of a bucket.
    PurgeQueue(u8),
    /// A ledger is purged, or expires.
    PurgeLedger(u8),
    /// Somebody puts something that is no ledger in the place of one, and takes it out after so long.
    DamageLedger(u8, Millis),
    /// Requests are lost.
    PurgeRequests(u8),
    /// Somebody deletes a refill queue.
    DeleteRequests(u8),
    /// Somebody puts tokens into a bucket.
    Put(u8, u64),
    /// A policy lowers the limit of a bucket for a while.
    Limit(u8, u64, Millis),
    /// A policy makes a bucket refuse what does not fit, for a while.
    Reject(u8, Millis),
}

/// An edit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Edit {
    /// `amount`
    Amount(u64),
    /// `maximum`
    Maximum(u64),
    /// `schedule`
    Schedule(usize),
    /// `refillQueue`
    RefillQueue(u8),
    /// `suspend`
    Suspend(bool),
    /// `missedRefills`
    Missed(MissedRefills),
    /// `startingDeadlineSeconds`
    Deadline(Option<u64>),
    /// The refill annotation.
    Annotate(u8),
}

impl Step {
    /// The operator that it happens to.
    #[must_use]
    pub fn operator(&self) -> Option<usize> {
        match self {
            Self::Crash(operator, ..)
            | Self::Pause(operator, ..)
            | Self::Cut(operator, ..)
            | Self::SetClock(operator, _)
            | Self::Permit(operator, _) => Some(*operator),
            _ => None,
        }
    }
}

impl Spec {
    /// The specification after an edit.
    #[must_use]
    pub fn edited(mut self, edit: Edit) -> Self {
        match edit {
            Edit::Amount(amount) => self.amount = amount,
            Edit::Maximum(maximum) => self.maximum = maximum,
            Edit::Schedule(schedule) => self.schedule = schedule,
            Edit::RefillQueue(queue) => self.refill_queue = queue,
            Edit::Suspend(suspend) => self.suspend = suspend,
            Edit::Missed(missed) => self.missed = missed,
            Edit::Deadline(deadline) => self.deadline = deadline,
            Edit::Annotate(value) => self.annotation = Some(value),
        }
        self
    }
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        generator::plan(seed)
    }

    /// Whether any step is so.
    pub fn any(&self, is: impl Fn(&Step) -> bool) -> bool {
        self.steps.iter().any(|(_, step)| is(step))
    }
}
