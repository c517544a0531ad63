//! What people and the world do to operators, the broker and the resources.

use bucket::machine::{Event, Removal};

use bucket::{Origin, RefillRequest, ledger_queue_name, queue_name};

use super::process::Process;
use super::{Act, Micros, Todo, World};
use crate::accountant::Violation;
use crate::broker::Policy;
use crate::fixture::{self, bucket_name, refill_queue};
use crate::operator::Body;
use crate::plan::{ALARM_FORGOTTEN, FAULTS_END, Step};

/// Resources whose removal was refused are tried again after this.
const REMOVE_AGAIN: Micros = 700_000;
/// Somebody who finds a ledger held comes again after this.
const MEND_AGAIN: Micros = 130_000;

impl World {
    pub(super) fn carry_out(&mut self, step: Step) -> Result<(), Violation> {
        let millis = |millis: u64| millis * 1_000;
        match step {
            Step::Create(resource) => self.create(resource),
            Step::Edit(resource, edit) => {
                if self.is_there(resource) {
                    self.resources[resource].spec = self.resources[resource].spec.edited(edit);
                    self.changed(resource);
                }
            }
            Step::Delete(resource, policy) => {
                if self.is_there(resource) {
                    self.resources[resource].deleting = Some(policy);
                    self.after(0, Todo::Remove(resource));
                }
            }
            Step::Crash(operator, down, notice) => {
                self.crash(operator, millis(down), millis(notice))
            }
            Step::Pause(operator, pause, sleeps) => {
                let until = self.now + millis(pause);
                let process = &mut self.processes[operator];
                let before = process.paused_until.max(self.now);
                process.paused_until = before.max(until);
                if sleeps {
                    process.slept += process.paused_until - before;
                }
                // Heartbeats do not come either.
                if millis(pause) > super::HOLD_LIMIT / 2
                    && let Some(shell) = &process.shell
                {
                    let connection = shell.connection;
                    let notice = self.upto(super::HOLD_LIMIT * 3 / 4);
                    self.after(notice, Todo::Notice(connection));
                }
            }
            Step::Cut(operator, here, there) => {
                if let Some(shell) = &self.processes[operator].shell {
                    let connection = shell.connection;
                    self.after(millis(there), Todo::Notice(connection));
                    let (epoch, link) = self.processes[operator].ids();
                    self.after(
                        millis(here),
                        Todo::Operator(operator, epoch, Act::Lost(link)),
                    );
                }
            }
            Step::SetClock(operator, by) => self.processes[operator].ahead += by,
            Step::Permit(operator, permitted) => {
                self.processes[operator].permitted = permitted;
                let event = Event::Permitted(permitted);
                self.operator_todo(operator, 0, Act::Event(None, Box::new(event)));
            }
            Step::Alarm(lasts) => {
                self.alarm(true);
                self.after(millis(lasts), Todo::AlarmEnds);
                self.after(millis(lasts + ALARM_FORGOTTEN), Todo::AlarmIsOver);
            }
            Step::Restart(down) => {
                self.restart_broker(millis(down));
            }
            Step::Request(bucket, queue, id) => {
                // A ledger knows the last few: beside a flood nobody asks twice by the same id.
                let flooded = self.plan.any(|step| matches!(step, Step::Flood(..)));
                let once = if flooded { self.now } else { 0 };
                let id = id.map(|id| format!("id-{bucket}-{once}-{id}"));
                self.ask(bucket, queue, id);
            }
            Step::Flood(bucket, queue, requests) => {
                self.floods += 1;
                for number in 0..requests {
                    let id = format!("flood-{}-{number}", self.floods);
                    self.ask(bucket, queue, Some(id));
                }
            }
            Step::Garbage(queue) => {
                self.broker.put(refill_queue(queue), Body::Garbage);
            }
            Step::DeleteQueue(bucket) => {
                self.broker.remove(&queue_name(bucket_name(bucket.into())));
            }
            Step::DeleteLedger(bucket) => {
                self.broker
                    .remove(&ledger_queue_name(bucket_name(bucket.into())));
            }
            Step::PurgeQueue(bucket) => {
                self.broker.empty(&queue_name(bucket_name(bucket.into())));
            }
            Step::PurgeLedger(bucket) => {
                self.broker
                    .empty(&ledger_queue_name(bucket_name(bucket.into())));
            }
            Step::DamageLedger(bucket, lasts) => {
                let queue = ledger_queue_name(bucket_name(bucket.into()));
                self.broker.put(&queue, Body::Garbage);
                self.after(millis(lasts), Todo::MendLedger(bucket));
            }
            Step::PurgeRequests(queue) => {
                self.broker.empty(refill_queue(queue));
            }
            Step::DeleteRequests(queue) => {
                self.broker.remove(refill_queue(queue));
                self.wake_consumers(refill_queue(queue));
            }
            Step::Put(bucket, tokens) => {
                let queue = queue_name(bucket_name(bucket.into()));
                for _ in 0..tokens {
                    self.broker.put(&queue, Body::Token);
                }
            }
            Step::Limit(bucket, limit, lasts) => {
                let policy = Policy {
                    max_length: Some(limit),
                    reject_publish: false,
                };
                self.policy(bucket.into(), policy, millis(lasts));
            }
            Step::Reject(bucket, lasts) => {
                let policy = Policy {
                    max_length: None,
                    reject_publish: true,
                };
                self.policy(bucket.into(), policy, millis(lasts));
            }
        }
        Ok(())
    }

    /// Somebody asks for a refill.
    fn ask(&mut self, bucket: u8, queue: u8, id: Option<String>) {
        let request = RefillRequest {
            bucket: bucket_name(bucket.into()).into(),
            origin: Origin::Foreign { id },
        };
        self.broker
            .put(refill_queue(queue), Body::Request(request.into()));
    }

    /// Somebody purges a ledger that cannot be read, once nobody looks at it.
    pub(super) fn mend_ledger(&mut self, bucket: u8) {
        let queue = ledger_queue_name(bucket_name(bucket.into()));
        let is_damaged = self.broker.messages(&queue).next() == Some(&Body::Garbage);
        if is_damaged {
            self.broker.empty(&queue);
        } else if self.broker.held(&queue) > 0 {
            self.after(MEND_AGAIN, Todo::MendLedger(bucket));
        }
    }

    fn policy(&mut self, bucket: usize, policy: Policy, lasts: Micros) {
        self.broker
            .set_policy(&queue_name(bucket_name(bucket)), policy);
        self.after(lasts, Todo::PolicyEnds(bucket));
    }

    pub(super) fn create(&mut self, number: usize) {
        let taken = |resource: &super::Resource| resource.created.is_some() && !resource.gone;
        let it = &self.resources[number];
        let same =
            |resource: &super::Resource| resource.id == it.id && resource.cluster == it.cluster;
        if self
            .resources
            .iter()
            .any(|other| same(other) && taken(other))
        {
            // Its predecessor is not gone yet.
            if self.now < FAULTS_END * 1_000 * 2 {
                self.after(300_000, Todo::Create(number));
            }
            return;
        }
        self.resources[number].created = Some(self.now);
        self.changed(number);
    }

    /// All operators of its cluster get to know how a resource is now.
    fn changed(&mut self, number: usize) {
        let queue = self.refill_queue(number);
        let resource = &mut self.resources[number];
        resource.revision += 1;
        let created = resource.created.unwrap_or_default() / 1_000;
        let bucket = fixture::bucket(
            &resource.uid,
            &resource.id,
            resource.bucket,
            created,
            resource.spec,
            queue,
        );
        let (cluster, spec) = (resource.cluster, resource.spec);
        let number_of_bucket = resource.bucket;
        let now = self.instant();
        self.accountant
            .specified(number_of_bucket, &bucket.uid, bucket.created, now, spec);
        for operator in 0..self.processes.len() {
            let process = &self.processes[operator];
            if process.operator.cluster == cluster && process.is_alive() {
                let late = if self.upto(8) == 0 { 1_500_000 } else { 60_000 };
                let delay = self.upto(late);
                self.apply(operator, number, delay);
            }
        }
    }

    fn crash(&mut self, operator: usize, down: Micros, notice: Micros) {
        if !self.processes[operator].is_alive() {
            return;
        }
        if let Some(connection) = self.drop_connection(operator) {
            self.after(notice, Todo::Notice(connection));
        }
        let before = &self.processes[operator];
        let mut process = Process::new(before.operator);
        process.goes_on_from(before);
        let epoch = process.epoch;
        self.processes[operator] = process;
        self.after(down, Todo::Operator(operator, epoch, Act::Start));
        // Whoever waited for its answers asks again.
        for resource in 0..self.resources.len() {
            if self.resources[resource].deleting.is_some() && !self.resources[resource].gone {
                self.after(REMOVE_AGAIN, Todo::Remove(resource));
            }
        }
    }

    fn restart_broker(&mut self, down: Micros) {
        // What it was committing may be done in part.
        for operator in 0..self.processes.len() {
            let commit = self.processes[operator].commit_under_way();
            if let Some(channel) = commit
                && self.upto(3) == 0
            {
                let rng = &mut self.rng;
                let done = |_: &str| rand::RngExt::random_bool(rng, 0.5);
                if self.broker.commit_where(channel, done).is_ok() {
                    self.accountant.broker_died();
                }
            }
        }
        self.broker.restart();
        self.broker.set_alarm(false);
        self.broker_down_until = self.now + down;
        for operator in 0..self.processes.len() {
            let (epoch, link) = self.processes[operator].ids();
            let delay = self.upto(50_000);
            self.after(delay, Todo::Operator(operator, epoch, Act::Lost(link)));
        }
    }

    /// Somebody takes up to three tokens.
    pub(super) fn take(&mut self, bucket: usize) {
        let Some(period) = self.plan.takers[bucket] else {
            return;
        };
        if self.now > FAULTS_END * 1_000 {
            return;
        }
        let queue = queue_name(bucket_name(bucket));
        for _ in 0..=self.upto(3) {
            self.broker.take_one(&queue);
        }
        let next = self.upto(2 * period * 1_000);
        self.after(next, Todo::Take(bucket));
    }

    /// The queues of a resource that is being deleted are removed by an operator of its cluster.
    pub(super) fn remove(&mut self, number: usize) -> Result<(), Violation> {
        let resource = &self.resources[number];
        let (Some(policy), false) = (resource.deleting, resource.gone) else {
            return Ok(());
        };
        let cluster = resource.cluster;
        let removal = Removal {
            id: resource.id.clone(),
            uid: resource.uid.clone(),
            name: bucket_name(resource.bucket).into(),
            refill_queue: self.refill_queue(number).into(),
            policy,
            moves: false,
            established: true,
        };
        let mut asked = false;
        for operator in 0..self.processes.len() {
            let process = &self.processes[operator];
            if process.operator.cluster != cluster || !process.is_alive() {
                continue;
            }
            if !asked && process.paused_until <= self.now {
                asked = true;
                let ticket = number as u64;
                let removal = removal.clone();
                self.handle(operator, Event::Remove { removal, ticket })?;
            } else {
                self.operator_todo(operator, 0, Act::Leave(number));
            }
        }
        if !asked {
            self.after(REMOVE_AGAIN, Todo::Remove(number));
        }
        Ok(())
    }

    pub(super) fn answered(&mut self, ticket: u64, done: bool) {
        let number = usize::try_from(ticket).unwrap_or_default();
        let resource = &mut self.resources[number];
        if done {
            resource.gone = true;
            let bucket = resource.bucket;
            let [queue, ledger] = [queue_name, ledger_queue_name].map(|of| of(bucket_name(bucket)));
            if self.broker.arguments(&queue).is_none() && self.broker.arguments(&ledger).is_none() {
                self.accountant.removed(bucket);
            }
        } else {
            self.after(REMOVE_AGAIN, Todo::Remove(number));
        }
    }
}
