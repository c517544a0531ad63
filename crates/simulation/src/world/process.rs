//! Operators' processes: they start, connect, carry out effects step by step, and die.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bucket::machine::{
    BatchId, BucketState, ConsumerId, Effect, Event, Machine, Now, Outcome, Settings,
};
use chrono::{DateTime, TimeDelta, Utc};

use super::watch::found;
use super::{Act, HOLD_LIMIT, Micros, Todo, World};
use crate::accountant::Violation;
use crate::broker::ChannelId;
use crate::fixture;
use crate::operator::{Progress, Shell, Work};
use crate::plan::Operator;

/// How often a stalled connection is tried.
const STALL: Micros = 90_000;

/// Stands for what is about a connection as a whole. Machines begin with 1.
pub(super) const CONNECTION: ConsumerId = ConsumerId(0);

/// The process of an operator, and what it believes.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) operator: Operator,
    /// Counts its lives.
    pub(super) epoch: u64,
    pub(super) machine: Option<Machine>,
    pub(super) shell: Option<Shell>,
    /// Counts its connections.
    pub(super) link: u64,
    pub(super) works: BTreeMap<u64, Work>,
    next_work: u64,
    /// When the last event about a consumer arrives: what comes later arrives later.
    pub(super) queues: BTreeMap<ConsumerId, Micros>,
    pub(super) delivering: Vec<ConsumerId>,
    pub(super) paused_until: Micros,
    /// What its wall clock is ahead.
    pub(super) ahead: i64,
    /// How long its monotonic clock has stood still.
    pub(super) slept: Micros,
    wakes_at: Micros,
    pub(super) blocked: bool,
    pub(super) permitted: bool,
    /// What it has told last of each resource.
    pub(super) told: BTreeMap<usize, Arc<BucketState>>,
    /// The newest tick of each resource that it has told to be carried out.
    pub(super) carried_out: BTreeMap<usize, DateTime<Utc>>,
    /// What it knows each bucket to hold at most.
    pub(super) maxima: BTreeMap<Arc<str>, u64>,
    /// Room that each bucket of a batch has, as it has found it.
    pub(super) rooms: BTreeMap<BatchId, Vec<(Arc<str>, u64)>>,
}

impl Process {
    pub(super) fn new(operator: Operator) -> Self {
        Self {
            operator,
            epoch: 0,
            machine: None,
            shell: None,
            link: 0,
            works: BTreeMap::new(),
            next_work: 0,
            queues: BTreeMap::new(),
            delivering: Vec::new(),
            paused_until: 0,
            ahead: 0,
            slept: 0,
            wakes_at: 0,
            blocked: false,
            permitted: true,
            told: BTreeMap::new(),
            carried_out: BTreeMap::new(),
            maxima: BTreeMap::new(),
            rooms: BTreeMap::new(),
        }
    }

    /// Its life and its connection.
    pub(super) fn ids(&self) -> (u64, u64) {
        (self.epoch, self.link)
    }

    /// The connections of a new life are told from those of the one before.
    pub(super) fn goes_on_from(&mut self, before: &Self) {
        self.epoch = before.epoch + 1;
        self.link = before.link + 1;
        self.permitted = before.permitted;
        self.ahead = before.ahead;
    }

    /// The channel of a transaction that it is about to commit.
    pub(super) fn commit_under_way(&self) -> Option<ChannelId> {
        let shell = self.shell.as_ref()?;
        self.works.values().find_map(|work| work.commits(shell))
    }

    pub(super) fn is_alive(&self) -> bool {
        self.machine.is_some()
    }
}

impl World {
    pub(super) fn clock(&self, operator: usize) -> Now {
        let process = &self.processes[operator];
        let micros = i64::try_from(self.now).unwrap_or_default() + process.ahead * 1_000;
        Now {
            utc: fixture::at(0) + TimeDelta::microseconds(micros),
            monotonic: Duration::from_micros(self.now.saturating_sub(process.slept)),
        }
    }

    /// When the process goes on, if it stands still.
    pub(super) fn sleeps_until(&self, operator: usize, epoch: u64) -> Option<Micros> {
        let Process {
            epoch: now,
            paused_until,
            ..
        } = &self.processes[operator];
        (*now == epoch && *paused_until > self.now).then_some(*paused_until)
    }

    pub(super) fn operator_todo(&mut self, operator: usize, delay: Micros, act: Act) {
        let epoch = self.processes[operator].epoch;
        self.after(delay, Todo::Operator(operator, epoch, act));
    }

    pub(super) fn act(&mut self, operator: usize, epoch: u64, act: Act) -> Result<(), Violation> {
        let process = &mut self.processes[operator];
        if process.epoch != epoch {
            return Ok(());
        }
        let link = process.link;
        match act {
            Act::Start => self.start(operator)?,
            Act::Connect => self.connect(operator)?,
            Act::Wake if process.wakes_at <= self.now => {
                process.wakes_at = Micros::MAX;
                self.handle(operator, Event::Tick)?;
            }
            Act::Apply(resource) => self.applied(operator, resource)?,
            Act::Leave(resource) => {
                let super::Resource { id, cluster, .. } = &self.resources[resource];
                let (id, cluster) = (id.clone(), *cluster);
                let is_next = |next: &super::Resource| {
                    (&next.id, next.cluster) == (&id, cluster) && next.created.is_some()
                };
                if !self.resources[resource + 1..].iter().any(is_next) {
                    self.handle(operator, Event::Leave(id))?;
                }
            }
            Act::Event(of, event) if of.is_none_or(|of| of == link) => {
                self.handle(operator, *event)?;
            }
            Act::Step(of, work) if of == link => self.step(operator, work)?,
            Act::Deliver(of, consumer) if of == link => self.deliver(operator, consumer)?,
            Act::Lost(of) if of == link => self.lost(operator)?,
            Act::Status(resource, known) => self.status_written(resource, *known),
            Act::Wake | Act::Event(..) | Act::Step(..) | Act::Deliver(..) | Act::Lost(..) => {}
        }
        Ok(())
    }

    fn start(&mut self, operator: usize) -> Result<(), Violation> {
        let process = &mut self.processes[operator];
        let cluster = process.operator.cluster;
        process.machine = Some(Machine::new(Settings {
            operator: format!("cluster-{cluster}").into(),
            status_interval: Duration::from_secs(10),
            resync_interval: Duration::from_secs(20),
            channels: process.operator.channels,
            most_tokens: self.plan.most_tokens,
            hold_limit: Duration::from_micros(HOLD_LIMIT),
        }));
        process.wakes_at = Micros::MAX;
        if !process.permitted {
            self.handle(operator, Event::Permitted(false))?;
        }
        for resource in 0..self.resources.len() {
            if self.is_there(resource) && self.resources[resource].cluster == cluster {
                let delay = self.upto(30_000);
                self.apply(operator, resource, delay);
            }
        }
        let delay = self.upto(30_000);
        self.operator_todo(operator, delay, Act::Connect);
        Ok(())
    }

    pub(super) fn take_replaced(&mut self, shell: &mut Shell) {
        for (name, tokens) in shell.replaced.drain(..) {
            self.accountant.replaced(&name, shell.connection, tokens);
        }
    }

    pub(super) fn handle(&mut self, operator: usize, event: Event) -> Result<(), Violation> {
        let now = self.clock(operator);
        let process = &mut self.processes[operator];
        let Some(machine) = &mut process.machine else {
            return Ok(());
        };
        if let Event::Taken { batch, taken } = &event {
            found(
                &mut process.rooms,
                *batch,
                taken.as_deref().unwrap_or_default(),
            );
        }
        let text = self.trace.is_some().then(|| format!("{event:?}"));
        let effects = machine.handle(event, now);
        let wakeup = machine.wakeup(now).saturating_sub(now.monotonic);
        let at = self.now
            + Micros::try_from(wakeup.as_micros())
                .unwrap_or(Micros::MAX / 2)
                .max(50);
        if let Some(text) = text
            && text != "Tick"
        {
            self.note(|| format!("operator {operator} <- {text}"));
        }
        if at < self.processes[operator].wakes_at {
            self.processes[operator].wakes_at = at;
            let epoch = self.processes[operator].epoch;
            self.at(at, Todo::Operator(operator, epoch, Act::Wake));
        }
        for effect in effects {
            if self.trace.is_some() {
                self.note(|| format!("operator {operator} -> {effect:?}"));
            }
            match effect {
                Effect::Tell(Outcome::Bucket(id, state)) => self.told(operator, &id, state)?,
                Effect::Tell(Outcome::Refilled { bucket, tick, .. }) => {
                    self.told_refill(operator, &bucket, tick);
                }
                Effect::Tell(Outcome::Dropped {
                    bucket: Some(id),
                    reason: "BucketStalled",
                    ..
                }) => self.told_parked(operator, &id)?,
                Effect::Tell(_) => {}
                Effect::Answer { ticket, result } => self.answered(ticket, result.is_ok()),
                effect => {
                    match &effect {
                        Effect::WriteLedger { bucket, ledger, .. } => {
                            self.remembers(operator, bucket, ledger)?;
                        }
                        Effect::Take { batch, wanted } => self.wants(operator, *batch, wanted),
                        Effect::Commit { batch, transaction } => {
                            self.fits(operator, *batch, transaction)?;
                        }
                        _ => {}
                    }
                    self.begin(operator, effect);
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, operator: usize, effect: Effect) {
        let delay = self.latency();
        let process = &mut self.processes[operator];
        let (Some(work), Some(_)) = (Work::of(effect), &process.shell) else {
            return;
        };
        process.next_work += 1;
        let (number, link) = (process.next_work, process.link);
        process.works.insert(number, work);
        let slowness = process.operator.slowness;
        self.operator_todo(operator, delay * slowness, Act::Step(link, number));
    }

    fn step(&mut self, operator: usize, number: u64) -> Result<(), Violation> {
        let process = &mut self.processes[operator];
        let (Some(mut work), Some(mut shell)) =
            (process.works.remove(&number), process.shell.take())
        else {
            return Ok(());
        };
        if !self.broker.connected(shell.connection) {
            process.shell = Some(shell);
            return self.lost(operator);
        }
        let link = process.link;
        let progress = work.step(&mut shell, &mut self.broker);
        let given_up = match progress {
            Err(_) if self.upto(3) == 0 => work.give_up(&mut shell, &mut self.broker),
            _ => None,
        };
        if self.trace.is_some() {
            self.note(|| format!("  operator {operator}: {}", work.name()));
        }
        self.doing = work.doing();
        self.take_replaced(&mut shell);
        let complaint = shell.complaint.take();
        let batches = shell.batches();
        let process = &mut self.processes[operator];
        process.shell = Some(shell);
        let (consumer, slowness) = (work.consumer(), process.operator.slowness);
        if let Some(complaint) = complaint {
            return Err(complaint);
        }
        if batches > process.operator.channels {
            return Err(format!(
                "{batches} batches on {} channels",
                process.operator.channels
            ));
        }
        match progress {
            Ok(Progress::More) => {
                process.works.insert(number, work);
                let delay = self.latency() * slowness;
                self.operator_todo(operator, delay, Act::Step(link, number));
            }
            Ok(Progress::Wait(pause)) => {
                process.works.insert(number, work);
                let pause = Micros::try_from(pause.as_micros()).unwrap_or(Micros::MAX / 2);
                self.operator_todo(operator, pause, Act::Step(link, number));
            }
            Ok(Progress::Also(event)) => {
                process.works.insert(number, work);
                self.tell_machine(operator, consumer, event);
                let delay = self.latency() * slowness;
                self.operator_todo(operator, delay, Act::Step(link, number));
            }
            Ok(Progress::Done(event)) => {
                if let Event::Consuming(consumer) = &event {
                    let consumer = *consumer;
                    self.deliver_soon(operator, consumer);
                }
                self.tell_machine(operator, consumer, event);
            }
            Err(_) => {
                if !std::mem::replace(&mut process.blocked, true) {
                    self.tell_machine(operator, Some(CONNECTION), Event::Blocked(true));
                }
                match given_up {
                    Some(event) => self.tell_machine(operator, consumer, event),
                    None => {
                        self.processes[operator].works.insert(number, work);
                        self.operator_todo(operator, STALL, Act::Step(link, number));
                    }
                }
            }
        }
        Ok(())
    }

    /// An answer or a delivery is on its way. What is about one consumer arrives in order.
    pub(super) fn tell_machine(
        &mut self,
        operator: usize,
        consumer: Option<ConsumerId>,
        event: Event,
    ) {
        let mut at = self.now + self.latency();
        let process = &mut self.processes[operator];
        if let Some(consumer) = consumer {
            let last = process.queues.entry(consumer).or_default();
            at = at.max(*last);
            *last = at;
        }
        let act = Act::Event(Some(process.link), Box::new(event));
        let epoch = process.epoch;
        self.at(at, Todo::Operator(operator, epoch, act));
    }
}
