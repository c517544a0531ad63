//! The machine, its clock, and whoever it tells and answers. It lives through all connections.

use std::collections::HashMap;
use std::time::Duration;

use amqp::Endpoint;
use bucket::machine::{Effect, Event, MOST_TOKENS, Machine, Outcome, Settings};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::desired::{Answer, Change};
use crate::lease::LeaseValidity;
use crate::logging::log;
use crate::options::Options;
use crate::remove_error::RemoveError;

/// Transactions under way at the same time. One channel leaves the broker idle while it waits for the next transaction;
/// see docs/performance.md.
const CHANNELS: usize = 4;
/// How long a change that somebody makes at the broker can stay unnoticed where no refill meets it. It costs a bucket four
/// answers of the broker, and its refills wait for them.
const RESYNC_INTERVAL: Duration = Duration::from_secs(600);

/// The machine, and what connects it with whoever uses the engine.
pub(crate) struct Shell {
    pub(crate) machine: Machine,
    pub(crate) lease: LeaseValidity,
    clock: Clock,
    permitted: bool,
    outcomes: mpsc::UnboundedSender<Outcome>,
    answers: HashMap<u64, Answer>,
    tickets: u64,
}

impl Shell {
    pub(crate) fn new(
        endpoint: &Endpoint,
        options: &Options,
        outcomes: mpsc::UnboundedSender<Outcome>,
    ) -> Self {
        let machine = Machine::new(Settings {
            operator: options.operator.as_str().into(),
            status_interval: options.status_interval,
            resync_interval: RESYNC_INTERVAL,
            channels: CHANNELS,
            most_tokens: MOST_TOKENS,
            hold_limit: endpoint.hold_limit(),
        });
        Self {
            machine,
            lease: options.lease.clone(),
            clock: Clock::start(),
            permitted: true,
            outcomes,
            answers: HashMap::new(),
            tickets: 0,
        }
    }

    /// When the machine wants to be asked again.
    pub(crate) fn wakeup(&self) -> Instant {
        self.clock.instant(self.machine.wakeup(self.clock.now()))
    }

    /// Tells the machine of an event. What only has to be told is told; the answer is what is to be done at the broker.
    pub(crate) fn handle(&mut self, event: Event) -> Vec<Effect> {
        let permitted = self.lease.is_valid();
        let mut effects = Vec::new();
        if permitted != self.permitted {
            self.permitted = permitted;
            effects = self
                .machine
                .handle(Event::Permitted(permitted), self.clock.now());
        }
        effects.extend(self.machine.handle(event, self.clock.now()));
        let mut rest = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Tell(outcome) => {
                    log(&outcome);
                    // Nobody listens any more only while the program ends.
                    let _ = self.outcomes.send(outcome);
                }
                Effect::Answer { ticket, result } => {
                    let result = result.map_err(RemoveError::from);
                    // Who asked may have given up meanwhile.
                    let answer = self.answers.remove(&ticket);
                    answer.map(|answer| answer.send(result));
                }
                effect => rest.push(effect),
            }
        }
        rest
    }

    /// What a change is to the machine.
    pub(crate) fn event(&mut self, change: Change) -> Event {
        match change {
            Change::Apply(bucket, revision, known) => Event::Apply {
                bucket,
                revision,
                known,
            },
            Change::Release(id) => Event::Leave(id),
            Change::Remove(removal, answer) => {
                self.tickets += 1;
                let ticket = self.tickets;
                self.answers.insert(ticket, answer);
                Event::Remove { removal, ticket }
            }
        }
    }
}
