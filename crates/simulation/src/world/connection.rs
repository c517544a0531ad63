//! Connections of operators: made, lost, noticed late, with deliveries and alarms.

use std::sync::Arc;

use bucket::machine::{Class, ConsumerId, Event, Failure};

use super::process::CONNECTION;
use super::{Act, Todo, World};
use crate::accountant::Violation;
use crate::broker::{ConnectionId, Refused};
use crate::operator::{Progress, Shell};

impl World {
    pub(super) fn connect(&mut self, operator: usize) -> Result<(), Violation> {
        if self.processes[operator].shell.is_some() {
            return Ok(());
        }
        if self.broker_down_until > self.now {
            let delay = 100_000 + self.upto(600_000);
            self.operator_todo(operator, delay, Act::Connect);
            return self.handle(operator, Event::Lost(Some(no_connection())));
        }
        let connection = self.broker.connect();
        self.accountant.up(self.instant());
        self.note(|| format!("operator {operator} connects: {connection:?}"));
        let process = &mut self.processes[operator];
        process.link += 1;
        process.blocked = false;
        process.shell = Some(Shell::new(connection, self.mutant, self.plan.single_active));
        self.handle(operator, Event::Connected)
    }

    /// The operator notices that its connection is gone.
    pub(super) fn lost(&mut self, operator: usize) -> Result<(), Violation> {
        if self.drop_connection(operator).is_none() {
            return Ok(());
        }
        self.note(|| format!("operator {operator} has lost its connection"));
        let delay = self.upto(400_000);
        self.operator_todo(operator, delay, Act::Connect);
        self.handle(operator, Event::Lost(Some(no_connection())))
    }

    /// The operator's side of a connection is no more. What had been sent arrives, perhaps.
    pub(super) fn drop_connection(&mut self, operator: usize) -> Option<ConnectionId> {
        let process = &mut self.processes[operator];
        let shell = process.shell.take()?;
        process.link += 1;
        process.queues.clear();
        process.delivering.clear();
        let works = std::mem::take(&mut process.works);
        let connection = shell.connection;
        if self.processes.len() == 1 {
            self.accountant.down(self.instant());
        }
        self.accountant.forget_replaced(connection);
        for work in works.into_values() {
            if work.is_sent() && self.upto(2) == 0 {
                self.sent.push((shell.clone(), work));
                let delay = self.latency();
                self.after(delay, Todo::Sent(self.sent.len() - 1));
            }
        }
        Some(connection)
    }

    /// Another frame of a dead operator arrives.
    pub(super) fn arrive(&mut self, number: usize) {
        let (mut shell, mut work) = self.sent[number].clone();
        if !self.broker.connected(shell.connection) {
            return;
        }
        self.note(|| format!("what a dead operator had sent arrives: {}", work.name()));
        let progress = work.step(&mut shell, &mut self.broker);
        let goes_on = matches!(progress, Ok(Progress::More | Progress::Also(_)));
        self.doing = work.doing();
        self.take_replaced(&mut shell);
        self.accountant.forget_replaced(shell.connection);
        if goes_on && work.is_sent() {
            self.sent[number] = (shell, work);
            let delay = self.latency();
            self.after(delay, Todo::Sent(number));
        }
    }

    pub(super) fn deliver_soon(&mut self, operator: usize, consumer: ConsumerId) {
        let process = &mut self.processes[operator];
        if process.delivering.contains(&consumer) {
            return;
        }
        process.delivering.push(consumer);
        let link = process.link;
        let delay = self.latency();
        self.operator_todo(operator, delay, Act::Deliver(link, consumer));
    }

    pub(super) fn deliver(
        &mut self,
        operator: usize,
        consumer: ConsumerId,
    ) -> Result<(), Violation> {
        let process = &mut self.processes[operator];
        process.delivering.retain(|other| *other != consumer);
        let Some(shell) = &mut process.shell else {
            return Ok(());
        };
        match shell.deliveries(&mut self.broker, consumer, 20) {
            Ok(None) | Err(Refused::Stalled) => {}
            Ok(Some(event)) => {
                self.tell_machine(operator, Some(consumer), event);
                self.deliver_soon(operator, consumer);
            }
            Err(_) if !self.broker.connected(shell.connection) => self.lost(operator)?,
            // The queue is gone: the broker cancels the consumer.
            Err(_) => {
                if shell.consumers.remove(&consumer).is_some() {
                    let failure = Some(Failure {
                        reason: "ConsumerCancelled",
                        message: "the queue is gone".into(),
                        class: Class::Transient,
                    });
                    let event = Event::ConsumerEnded { consumer, failure };
                    self.tell_machine(operator, Some(consumer), event);
                }
            }
        }
        Ok(())
    }

    /// Something has come into a queue, or it is gone.
    pub(super) fn wake_consumers(&mut self, queue: &str) {
        for operator in 0..self.processes.len() {
            let Some(shell) = &self.processes[operator].shell else {
                continue;
            };
            let of_queue =
                |(id, (_, name)): (&ConsumerId, &(_, Arc<str>))| (**name == *queue).then_some(*id);
            let consumers: Vec<_> = shell.consumers.iter().filter_map(of_queue).collect();
            for consumer in consumers {
                self.deliver_soon(operator, consumer);
            }
        }
    }

    /// Connections that have published get to know of an alarm; all of them of its end.
    pub(super) fn alarm(&mut self, alarm: bool) {
        self.broker.set_alarm(alarm);
        for operator in 0..self.processes.len() {
            let told = !alarm && self.processes[operator].blocked || alarm && self.upto(3) > 0;
            let process = &mut self.processes[operator];
            if told && process.shell.is_some() {
                process.blocked = alarm;
                self.tell_machine(operator, Some(CONNECTION), Event::Blocked(alarm));
            }
            // What has come meanwhile.
            let shell = self.processes[operator].shell.as_ref();
            let consumers: Option<Vec<_>> =
                shell.map(|shell| shell.consumers.keys().copied().collect());
            for consumer in consumers.unwrap_or_default() {
                self.deliver_soon(operator, consumer);
            }
        }
    }
}

fn no_connection() -> Failure {
    Failure {
        reason: "ConnectionLost",
        message: "the connection is gone".into(),
        class: Class::ConnectionLost,
    }
}
