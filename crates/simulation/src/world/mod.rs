//! One simulated schedule: a plan, the broker, operators, people, and time that passes only here.

mod calm;
mod connection;
mod people;
mod process;
mod watch;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use bucket::machine::{ConsumerId, Event};
use bucket::{BucketId, Known};
use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::accountant::{Accountant, Doing, Leniency, Violation};
use crate::broker::{Broker, ConnectionId, Entry};
use crate::fixture;
use crate::operator::{Body, Mutant, Shell, Work};
use crate::plan::{Edit, FAULTS_END, Plan, Spec, Step};
use process::Process;

/// Microseconds since the beginning.
pub(crate) type Micros = u64;

/// A broker takes at most this long to notice that a connection is dead; ledgers that are absent for longer are lost.
pub(crate) const HOLD_LIMIT: Micros = 4_000_000;
/// When everything has calmed down is looked at so often …
const LOOK: Micros = 4_000_000;
/// … and has to be true at last: the longest waits of the machine are half a minute.
const CALM_AT_LAST: Micros = FAULTS_END * 1_000 + 75_000_000;
/// More than this in one schedule is a loop.
const MOST_EVENTS: u64 = 400_000;

/// Something that is going to happen.
#[derive(Debug)]
enum Todo {
    /// A step of the plan.
    Plan(usize),
    /// Somebody takes tokens.
    Take(usize),
    /// An operator's process.
    Operator(usize, u64, Act),
    /// The broker notices that a connection is dead.
    Notice(ConnectionId),
    /// What a dead operator had sent still arrives.
    Sent(usize),
    /// Somebody tries to remove the queues of a deleted resource.
    Remove(usize),
    /// Somebody takes out what is no ledger.
    MendLedger(u8),
    /// The alarm ends.
    AlarmEnds,
    /// It has ended a while ago.
    AlarmIsOver,
    /// A policy ends.
    PolicyEnds(usize),
    /// A resource is created whose predecessor was not gone yet.
    Create(usize),
    /// From now on nobody breaks anything.
    Calm,
    /// Everything should be calm.
    Look,
}

/// What an operator's process does next. What is about a connection has its number.
#[derive(Debug)]
enum Act {
    Start,
    Connect,
    Wake,
    /// A resource is as it is by then.
    Apply(usize),
    /// A resource is gone. Where another of its name has been made meanwhile, a watch tells of that one only.
    Leave(usize),
    Event(Option<u64>, Box<Event>),
    Step(u64, u64),
    Deliver(u64, ConsumerId),
    Lost(u64),
    Status(usize, Box<Known>),
}

/// A resource in a cluster.
#[derive(Debug)]
struct Resource {
    uid: Arc<str>,
    id: BucketId,
    bucket: usize,
    cluster: u8,
    spec: Spec,
    created: Option<u64>,
    revision: u64,
    /// What its status says.
    status: Option<Known>,
    deleting: Option<bucket::DeletionPolicy>,
    gone: bool,
}

/// A schedule that runs.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    rng: SmallRng,
    now: Micros,
    order: u64,
    todo: BinaryHeap<Reverse<(Micros, u64)>>,
    acts: std::collections::HashMap<u64, Todo, Hasher>,
    broker: Broker<Body>,
    broker_down_until: Micros,
    processes: Vec<Process>,
    resources: Vec<Resource>,
    sent: Vec<(Shell, Work)>,
    accountant: Accountant,
    mutant: Option<Mutant>,
    /// How many floods of requests there have been.
    floods: u32,
    /// What the journal comes from.
    doing: Doing,
    events: u64,
    /// What people read to find out what went wrong.
    trace: Option<Vec<String>>,
}

type Hasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// What a schedule came to.
#[derive(Debug)]
pub struct Report {
    /// What should not have been.
    pub violation: Option<Violation>,
    /// Steps of all kinds.
    pub events: u64,
    /// Refills of a schedule that were carried out.
    pub refills: u64,
    /// What happened, if that was asked for.
    pub trace: Vec<String>,
}

/// Runs a plan to its end.
#[must_use]
pub fn run(plan: &Plan, mutant: Option<Mutant>, traced: bool) -> Report {
    let mut world = World::new(plan.clone(), mutant, traced);
    let violation = world.run().err();
    let buckets = world.plan.takers.len();
    let refills = (0..buckets).map(|bucket| world.accountant.books(bucket).refills);
    Report {
        violation,
        events: world.events,
        refills: refills.sum(),
        trace: world.trace.unwrap_or_default(),
    }
}

impl World {
    fn new(plan: Plan, mutant: Option<Mutant>, traced: bool) -> Self {
        let lenient = Leniency {
            drops: plan.any(|step| matches!(step, Step::Put(..) | Step::Limit(..) | Step::Reject(..)))
                || plan.resources.iter().any(|resource| resource.cluster > 0)
                // Replicas get to know of an edit one after the other.
                || plan.operators.len() > 1 && plan.any(|step| matches!(step, Step::Edit(_, Edit::Maximum(_)))),
            anonymous: plan.any(|step| matches!(step, Step::Request(.., None))),
            several: plan.operators.len() > 1,
            late: plan.any(|step| matches!(step, Step::Pause(..))),
            clocks: plan.any(|step| matches!(step, Step::SetClock(..))),
            forgets: plan.any(|step| matches!(step, Step::DeleteQueue(_)))
                && plan.any(|step| matches!(step, Step::DeleteLedger(_)))
                && plan.any(|step| matches!(step, Step::Crash(..) | Step::Restart(_))),
            requests: plan.shared_queues
                || plan.any(|step| {
                    matches!(
                        step,
                        Step::Delete(..)
                            | Step::PurgeRequests(_)
                            | Step::DeleteRequests(_)
                            | Step::PurgeLedger(_)
                            | Step::DeleteLedger(_)
                            | Step::DamageLedger(..)
                    )
                }),
        };
        let resource = |(number, resource): (usize, &crate::plan::Resource)| Resource {
            uid: format!("uid-{number}").into(),
            id: BucketId::new("shop", fixture::bucket_name(resource.bucket.into())),
            bucket: resource.bucket.into(),
            cluster: resource.cluster,
            spec: resource.spec,
            created: None,
            revision: 0,
            status: None,
            deleting: None,
            gone: false,
        };
        let mut world = Self {
            rng: SmallRng::seed_from_u64(plan.seed ^ 0x5eed),
            now: 0,
            order: 0,
            todo: BinaryHeap::new(),
            acts: Default::default(),
            broker: Broker::new(plan.delivery_limit).with_journal(),
            broker_down_until: 0,
            processes: Vec::new(),
            resources: plan.resources.iter().enumerate().map(resource).collect(),
            sent: Vec::new(),
            accountant: Accountant::new(plan.takers.len(), lenient),
            mutant,
            floods: 0,
            doing: Doing::Else,
            events: 0,
            trace: traced.then(Vec::new),
            plan,
        };
        for (number, (at, _)) in world.plan.steps.clone().into_iter().enumerate() {
            world.at(at * 1_000, Todo::Plan(number));
        }
        for bucket in 0..world.plan.takers.len() {
            world.at(100_000, Todo::Take(bucket));
        }
        for (number, operator) in world.plan.operators.clone().into_iter().enumerate() {
            world.processes.push(Process::new(operator));
            let at = world.upto(20_000);
            world.at(at, Todo::Operator(number, 0, Act::Start));
        }
        if world.processes.len() == 1 {
            world.accountant.down(fixture::at(0));
        }
        world.at(FAULTS_END * 1_000, Todo::Calm);
        // Not when everything is due.
        world.at(FAULTS_END * 1_000 + LOOK + 1_700_000, Todo::Look);
        world
    }

    /// The refill queue of a resource: clusters have their own, unless the plan says otherwise.
    fn refill_queue(&self, resource: usize) -> &'static str {
        let Resource { cluster, spec, .. } = &self.resources[resource];
        let cluster = if self.plan.shared_queues { 0 } else { *cluster };
        fixture::refill_queue(spec.refill_queue + 2 * cluster)
    }

    fn at(&mut self, at: Micros, todo: Todo) {
        self.order += 1;
        self.acts.insert(self.order, todo);
        self.todo.push(Reverse((at.max(self.now), self.order)));
    }

    fn after(&mut self, delay: Micros, todo: Todo) {
        self.at(self.now + delay, todo);
    }

    /// What a clock that is right says.
    fn instant(&self) -> DateTime<Utc> {
        let micros = i64::try_from(self.now).unwrap_or_default();
        fixture::at(0) + TimeDelta::microseconds(micros)
    }

    fn upto(&mut self, end: u64) -> u64 {
        self.rng.random_range(0..end.max(1))
    }

    /// How long something takes: mostly very little.
    fn latency(&mut self) -> Micros {
        match self.upto(20) {
            0 => self.upto(60_000),
            1..=4 => self.upto(6_000),
            _ => self.upto(900),
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.4} {}", now as f64 / 1e6, what()));
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        while let Some(Reverse((at, order))) = self.todo.pop() {
            self.now = at;
            self.events += 1;
            if self.events > MOST_EVENTS {
                return Err(format!("I5: {MOST_EVENTS} events, and no end"));
            }
            let Some(todo) = self.acts.remove(&order) else {
                continue;
            };
            if let Todo::Operator(operator, epoch, _) = todo
                && let Some(until) = self.sleeps_until(operator, epoch)
            {
                // In the same place: a process that wakes finds what has come in the order in which it came.
                self.acts.insert(order, todo);
                self.todo.push(Reverse((until, order)));
                continue;
            }
            match todo {
                Todo::Plan(step) => {
                    let step = self.plan.steps[step].1;
                    self.note(|| format!("{step:?}"));
                    self.carry_out(step)?;
                }
                Todo::Take(bucket) => self.take(bucket),
                Todo::Operator(operator, epoch, act) => self.act(operator, epoch, act)?,
                Todo::Notice(connection) => {
                    if self.broker.connected(connection) {
                        self.note(|| format!("the broker closes {connection:?}"));
                    }
                    self.broker.disconnect(connection);
                }
                Todo::Sent(number) => self.arrive(number),
                Todo::Remove(resource) => self.remove(resource)?,
                Todo::Create(resource) => self.create(resource),
                Todo::Calm => {
                    for operator in 0..self.processes.len() {
                        self.processes[operator].permitted = true;
                        let event = Box::new(Event::Permitted(true));
                        self.operator_todo(operator, 0, Act::Event(None, event));
                    }
                }
                Todo::MendLedger(bucket) => self.mend_ledger(bucket),
                Todo::AlarmEnds => self.alarm(false),
                Todo::AlarmIsOver => self.nobody_waits_for_an_alarm()?,
                Todo::PolicyEnds(bucket) => {
                    let queue = bucket::queue_name(fixture::bucket_name(bucket));
                    self.broker.set_policy(&queue, Default::default());
                }
                Todo::Look => {
                    match self.unrest() {
                        None => return Ok(()),
                        Some(unrest) if self.now > CALM_AT_LAST => return Err(unrest),
                        Some(_) => {}
                    }
                    self.after(LOOK, Todo::Look);
                }
            }
            self.settle_accounts()?;
        }
        Ok(())
    }

    /// Shows the accountant what has happened at the broker, and wakes consumers.
    fn settle_accounts(&mut self) -> Result<(), Violation> {
        let doing = std::mem::take(&mut self.doing);
        if self.broker.journal.is_empty() {
            return Ok(());
        }
        let journal = std::mem::take(&mut self.broker.journal);
        if self.trace.is_some() {
            for entry in &journal {
                self.note(|| format!("    {}", describe(entry)));
            }
        }
        self.accountant.observe(&self.broker, &journal, doing)?;
        for entry in &journal {
            if let Entry::Published(queue, _) | Entry::Requeued(queue, _) | Entry::Cancelled(queue) =
                entry
                && bucket_queue(queue).is_none()
            {
                self.wake_consumers(queue);
            }
        }
        self.broker.journal = journal;
        self.broker.journal.clear();
        Ok(())
    }
}

fn bucket_queue(queue: &str) -> Option<&str> {
    queue.strip_prefix(bucket::BUCKET_QUEUE_PREFIX)
}

fn describe(entry: &Entry<Body>) -> String {
    let body = |body: &Body| match body {
        Body::Ledger(ledger) => format!(
            "ledger of {} tick {} owed {} issued {}",
            ledger.owner.as_ref().map_or("nobody", |owner| &owner.uid),
            ledger
                .tick
                .map_or("-".into(), |tick| tick.format("%T%.f").to_string()),
            ledger.owed,
            ledger.issued
        ),
        Body::Token => "token".into(),
        Body::Request(request) => format!("{request:?}"),
        Body::Garbage => "garbage".into(),
    };
    match entry {
        Entry::Published(queue, it) => format!("published to {queue}: {}", body(it)),
        Entry::Unroutable(queue, it) => format!("no queue {queue}: {}", body(it)),
        Entry::Taken(queue, it) => format!("taken from {queue}: {}", body(it)),
        Entry::Got(queue) => format!("got from {queue}"),
        Entry::Requeued(queue, it) => format!("back to {queue}: {}", body(it)),
        Entry::Dropped(queue, it) => format!("dropped from {queue}: {}", body(it)),
        Entry::Exhausted(queue, it) => format!("given back too often to {queue}: {}", body(it)),
        Entry::Rejected(queue, it) => format!("refused by {queue}: {}", body(it)),
        Entry::Removed(queue, it) => format!("removed from {queue}: {}", body(it)),
        Entry::Committed(_) => "committed".into(),
        Entry::Declared(queue, limit) => format!("declared {queue} {limit:?}"),
        Entry::Deleted(queue) => format!("deleted {queue}"),
        Entry::Cancelled(queue) => format!("a consumer of {queue} is gone"),
    }
}
