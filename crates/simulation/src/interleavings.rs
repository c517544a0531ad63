//! A bounded exhaustive check of the protocol: two operators with refill queues of their own refill one bucket, and every
//! order of their primitive steps is tried in which the one that runs is interrupted at most so many times, with a crash
//! at every step. Decisions are those of the machine.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bucket::machine::{ConsumerId, Effect, Event, MOST_TOKENS, Machine, Now, Settings};
use bucket::{BucketId, Known, queue_name};

use crate::accountant::{Accountant, Leniency, Violation};
use crate::broker::{Broker, ConnectionId};
use crate::fixture;
use crate::operator::{Body, Mutant, Progress, Shell, Work};

/// Ticks of the bucket that are carried out.
pub const TICKS: u64 = 3;
/// Seconds between two of them: the first of [`crate::plan::SCHEDULES`].
const PERIOD: u64 = 2;
/// When everything has to have been carried out.
const END: Duration = Duration::from_millis(1_000 * PERIOD * TICKS + 900);
const HOLD_LIMIT: Duration = Duration::from_secs(4);

/// What may happen in one order of steps.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Whether the bucket is there already when anything can happen; else it is created meanwhile.
    pub created: bool,
    /// How often the operator that runs is interrupted although it could go on.
    pub interruptions: u32,
    /// How often one crashes, the broker noticing at once or when nothing else happens any more.
    pub crashes: u32,
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored {
    /// Orders of steps, each to the end.
    pub orders: u64,
    /// Steps in all.
    pub steps: u64,
}

#[derive(Clone, Debug)]
struct Process {
    machine: Machine,
    shell: Option<Shell>,
    works: BTreeMap<u64, Work>,
    /// Effects that go on at these times.
    waiting: BTreeMap<(Duration, u64), Work>,
    newest: u64,
    inbox: VecDeque<Event>,
}

#[derive(Clone, Debug)]
struct State {
    now: Duration,
    broker: Broker<Body>,
    processes: [Process; 2],
    /// Connections of dead operators that the broker has not noticed.
    dead: Vec<ConnectionId>,
    accountant: Accountant,
    running: usize,
    left: Bounds,
    path: Vec<(usize, String)>,
}

/// Tries every order of steps within the bounds.
///
/// # Errors
/// What should not have been, and the steps that led to it.
pub fn explore(
    bounds: Bounds,
    mutant: Option<Mutant>,
) -> Result<Explored, (Violation, Vec<(usize, String)>)> {
    let mut explored = Explored::default();
    let mut states =
        vec![State::begin(bounds, mutant).map_err(|violation| (violation, Vec::new()))?];
    while let Some(state) = states.pop() {
        state.follow(mutant, &mut explored, &mut states)?;
    }
    Ok(explored)
}

impl State {
    fn begin(left: Bounds, mutant: Option<Mutant>) -> Result<Self, Violation> {
        let mut accountant = Accountant::new(1, Leniency::default());
        accountant.specified(0, "uid", fixture::at(0), fixture::at(0), fixture::spec());
        let process = |number: usize| Process {
            machine: machine(number),
            shell: None,
            works: BTreeMap::new(),
            waiting: BTreeMap::new(),
            newest: 0,
            inbox: VecDeque::new(),
        };
        let mut state = Self {
            now: Duration::ZERO,
            broker: Broker::new(None).with_journal(),
            processes: [process(0), process(1)],
            dead: Vec::new(),
            accountant,
            running: 0,
            left,
            path: Vec::new(),
        };
        for operator in 0..2 {
            state.start(operator, mutant);
        }
        while left.created
            && let Some(operator) = (0..2).find(|operator| state.can_run(*operator))
        {
            state.step(operator)?;
        }
        Ok(state)
    }

    fn start(&mut self, operator: usize, mutant: Option<Mutant>) {
        let connection = self.broker.connect();
        let process = &mut self.processes[operator];
        process.machine = machine(operator);
        process.shell = Some(Shell::new(connection, mutant, false));
        let known: Option<Known> = None;
        let uid = "uid".into();
        let id = BucketId::new("shop", fixture::bucket_name(0));
        let queue = fixture::refill_queue(u8::try_from(operator).unwrap_or_default());
        let bucket = Arc::new(fixture::bucket(&uid, &id, 0, 0, fixture::spec(), queue));
        process.inbox.push_back(Event::Connected);
        process.inbox.push_back(Event::Apply {
            bucket,
            revision: 1,
            known,
        });
    }

    /// Goes on to the end, and puts aside what else could have happened on the way.
    fn follow(
        mut self,
        mutant: Option<Mutant>,
        explored: &mut Explored,
        others: &mut Vec<Self>,
    ) -> Result<(), (Violation, Vec<(usize, String)>)> {
        loop {
            let (mine, other) = (self.running, 1 - self.running);
            if !self.can_run(mine) {
                if self.can_run(other) {
                    self.running = other;
                } else if !self.sleep() {
                    break;
                }
                continue;
            }
            if self.left.interruptions > 0 && self.can_run(other) {
                let mut interrupted = self.clone();
                interrupted.left.interruptions -= 1;
                interrupted.running = other;
                // It has to do something, or this is no other order.
                if let Err(violation) = interrupted.step(other) {
                    return Err((violation, interrupted.path));
                }
                others.push(interrupted);
            }
            if self.left.crashes > 0 && !self.processes[mine].works.is_empty() {
                for noticed in [true, false] {
                    let mut crashed = self.clone();
                    crashed.left.crashes -= 1;
                    if let Err(violation) = crashed.crash(mine, noticed, mutant) {
                        return Err((violation, crashed.path));
                    }
                    others.push(crashed);
                }
            }
            explored.steps += 1;
            if let Err(violation) = self.step(mine) {
                return Err((violation, self.path));
            }
        }
        explored.orders += 1;
        self.check().map_err(|violation| (violation, self.path))
    }

    fn can_run(&self, operator: usize) -> bool {
        let process = &self.processes[operator];
        !process.inbox.is_empty()
            || !process.works.is_empty()
            || self.deliverable(operator).is_some()
    }

    fn deliverable(&self, operator: usize) -> Option<ConsumerId> {
        let shell = self.processes[operator].shell.as_ref()?;
        let mut consumers = shell.consumers.iter();
        consumers.find_map(|(id, (_, queue))| (self.broker.ready(queue)? > 0).then_some(*id))
    }

    /// One primitive step: an event, a delivery, or a step of the effect that waits longest.
    fn step(&mut self, operator: usize) -> Result<(), Violation> {
        if let Some(event) = self.processes[operator].inbox.pop_front() {
            self.handle(operator, event);
            return Ok(());
        }
        let consumer = self.deliverable(operator);
        let process = &mut self.processes[operator];
        let Some(shell) = &mut process.shell else {
            return Ok(());
        };
        if let Some(consumer) = consumer {
            if let Ok(Some(event)) = shell.deliveries(&mut self.broker, consumer, 10) {
                process.inbox.push_back(event);
            }
            return self.observe(None);
        }
        let Some((number, mut work)) = process.works.pop_first() else {
            return Ok(());
        };
        let doing = work.doing();
        self.path.push((operator, work.name()));
        match work.step(shell, &mut self.broker) {
            Ok(Progress::Done(event)) => process.inbox.push_back(event),
            Ok(Progress::Also(event)) => {
                process.inbox.push_back(event);
                process.works.insert(number, work);
            }
            Ok(Progress::More) => {
                process.works.insert(number, work);
            }
            Ok(Progress::Wait(pause)) => {
                let until = self.now + pause;
                process.waiting.insert((until, number), work);
            }
            Err(refused) => return Err(format!("I5: {refused:?}")),
        }
        if let Some(complaint) = shell.complaint.take() {
            return Err(complaint);
        }
        self.observe(Some(doing))
    }

    fn observe(&mut self, doing: Option<crate::accountant::Doing>) -> Result<(), Violation> {
        let journal = std::mem::take(&mut self.broker.journal);
        self.accountant
            .observe(&self.broker, &journal, doing.unwrap_or_default())
    }

    fn clock(&self) -> Now {
        let millis = i64::try_from(self.now.as_millis()).unwrap_or_default();
        Now {
            utc: fixture::at(millis),
            monotonic: self.now,
        }
    }

    fn handle(&mut self, operator: usize, event: Event) {
        let now = self.clock();
        let process = &mut self.processes[operator];
        let effects: Vec<Effect> = process.machine.handle(event, now);
        for work in effects.into_iter().filter_map(Work::of) {
            process.newest += 1;
            process.works.insert(process.newest, work);
        }
    }

    fn crash(
        &mut self,
        operator: usize,
        noticed: bool,
        mutant: Option<Mutant>,
    ) -> Result<(), Violation> {
        self.path
            .push((operator, format!("crash, noticed: {noticed}")));
        let process = &mut self.processes[operator];
        process.works.clear();
        process.waiting.clear();
        process.inbox.clear();
        if let Some(shell) = process.shell.take() {
            if noticed {
                self.broker.disconnect(shell.connection);
            } else {
                self.dead.push(shell.connection);
            }
        }
        self.start(operator, mutant);
        self.observe(None)
    }

    /// Nobody has anything to do: time passes until somebody has. False when the end is reached.
    fn sleep(&mut self) -> bool {
        for connection in std::mem::take(&mut self.dead) {
            self.broker.disconnect(connection);
            let _ = self.observe(None);
        }
        if (0..2).any(|operator| self.can_run(operator)) {
            return true;
        }
        let now = self.clock();
        let wakeups = self
            .processes
            .iter()
            .map(|process| process.machine.wakeup(now));
        let waiting = self
            .processes
            .iter()
            .filter_map(|process| process.waiting.first_key_value());
        let next = wakeups
            .chain(waiting.map(|((at, _), _)| *at))
            .min()
            .unwrap_or(END)
            .max(self.now + Duration::from_millis(1));
        if next > END {
            return false;
        }
        // Whole milliseconds, as the clock shows them.
        self.now = Duration::from_millis(
            u64::try_from(next.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX),
        );
        for operator in 0..2 {
            let process = &mut self.processes[operator];
            while let Some(first) = process
                .waiting
                .first_entry()
                .filter(|it| it.key().0 <= self.now)
            {
                let ((_, number), work) = first.remove_entry();
                process.works.insert(number, work);
            }
            self.handle(operator, Event::Tick);
        }
        true
    }

    /// Each tick was carried out once.
    fn check(&self) -> Result<(), Violation> {
        let tokens = self.broker.ready(&queue_name(fixture::bucket_name(0)));
        if tokens != Some(fixture::spec().amount * TICKS) {
            return Err(format!("I3: {tokens:?} tokens after {TICKS} ticks"));
        }
        Ok(())
    }
}

fn machine(_: usize) -> Machine {
    Machine::new(Settings {
        operator: "cluster".into(),
        status_interval: Duration::from_secs(60),
        resync_interval: Duration::from_secs(600),
        channels: 1,
        most_tokens: MOST_TOKENS,
        hold_limit: HOLD_LIMIT,
    })
}
