//! The life of an engine: it connects, runs a session, and connects again. The machine lives through all of that.

use std::collections::HashMap;
use std::time::Duration;

use amqp::{Broker, BrokerError, Endpoint};
use bucket::machine::{Effect, Event, MOST_TOKENS, Machine, Now, Outcome, RemoveFailure, Settings};
use chrono::Utc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::logging::log;
use crate::permit::{Moment, Permit};
use crate::session::Session;
use crate::{Command, Options, RemoveError};

/// A connection that lasted this long was a good one: the next try after it comes soon.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);
/// Transactions under way at the same time. One channel leaves the broker idle while it waits for the next transaction;
/// see docs/performance.md.
const CHANNELS: usize = 4;

/// The machine, and what connects it with whoever uses the engine.
pub(crate) struct Shell {
    pub(crate) machine: Machine,
    pub(crate) permit: Permit,
    began: Instant,
    permitted: bool,
    outcomes: mpsc::UnboundedSender<Outcome>,
    answers: HashMap<u64, oneshot::Sender<Result<(), RemoveError>>>,
    tickets: u64,
}

impl Shell {
    fn new(
        endpoint: &Endpoint,
        options: &Options,
        outcomes: mpsc::UnboundedSender<Outcome>,
    ) -> Self {
        let machine = Machine::new(Settings {
            operator: options.operator.as_str().into(),
            status_interval: options.status_interval,
            channels: CHANNELS,
            most_tokens: MOST_TOKENS,
            hold_limit: endpoint.hold_limit(),
        });
        Self {
            machine,
            permit: options.permit.clone(),
            began: Instant::now(),
            permitted: true,
            outcomes,
            answers: HashMap::new(),
            tickets: 0,
        }
    }

    fn now(&self) -> Now {
        Now {
            utc: Utc::now(),
            monotonic: self.began.elapsed(),
        }
    }

    /// When the machine wants to be asked again.
    pub(crate) fn wakeup(&self) -> Instant {
        self.began + self.machine.wakeup(self.now())
    }

    /// Tells the machine of an event. What only has to be told is told; the answer is what is to be done at the broker.
    pub(crate) fn handle(&mut self, event: Event) -> Vec<Effect> {
        let permitted = self.permit.allows(Moment::now());
        let mut effects = Vec::new();
        if permitted != self.permitted {
            self.permitted = permitted;
            effects = self.machine.handle(Event::Permitted(permitted), self.now());
        }
        effects.extend(self.machine.handle(event, self.now()));
        let mut rest = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Tell(outcome) => {
                    log(&outcome);
                    // Nobody listens any more only while the program ends.
                    let _ = self.outcomes.send(outcome);
                }
                Effect::Answer { ticket, result } => {
                    let result = result.map_err(|failure| match failure {
                        RemoveFailure::NotConnected => RemoveError::NotConnected,
                        RemoveFailure::Broker(failure) => RemoveError::Broker(failure),
                    });
                    // Who asked may have given up meanwhile.
                    let answer = self.answers.remove(&ticket);
                    answer.map(|answer| answer.send(result));
                }
                effect => rest.push(effect),
            }
        }
        rest
    }

    /// What a command is to the machine.
    pub(crate) fn event(&mut self, command: Command) -> Event {
        match command {
            Command::Apply(bucket, revision, known) => Event::Apply {
                bucket,
                revision,
                known,
            },
            Command::Release(id) => Event::Leave(id),
            Command::Remove(removal, answer) => {
                self.tickets += 1;
                let ticket = self.tickets;
                self.answers.insert(ticket, answer);
                Event::Remove { removal, ticket }
            }
        }
    }

    /// Waits for `until` and obeys commands meanwhile as far as that needs no broker. None when the engine is to stop.
    async fn offline<T>(
        &mut self,
        until: impl Future<Output = T>,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        stop: &CancellationToken,
    ) -> Option<T> {
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                output = &mut until => return Some(output),
                command = commands.recv() => {
                    let event = self.event(command?);
                    self.handle(event);
                }
            }
        }
    }
}

pub(crate) async fn run(
    endpoint: Endpoint,
    options: Options,
    outcomes: mpsc::UnboundedSender<Outcome>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    stop: CancellationToken,
) {
    let mut shell = Shell::new(&endpoint, &options, outcomes);
    let mut backoff = Backoff::default();
    loop {
        let connecting = Broker::connect(&endpoint, &options.connection_name);
        let Some(connected) = shell.offline(connecting, &mut commands, &stop).await else {
            return;
        };
        let error = match connected {
            Ok(broker) => {
                let since = Instant::now();
                greet(&endpoint, &broker);
                let session = Session::new(broker, options.refill_queue_type);
                let end = session.run(&mut shell, &mut commands, &stop).await;
                if since.elapsed() > GOOD_CONNECTION {
                    backoff = Backoff::default();
                }
                match end {
                    None => return,
                    // It is replaced before anybody needs to know.
                    Some(BrokerError::WornOut) => {
                        info!(broker = %endpoint, "the connection is used up: there is a new one");
                        shell.handle(Event::Lost(None));
                        continue;
                    }
                    Some(error) => error,
                }
            }
            Err(error) => error,
        };
        let delay = backoff.next();
        warn!(broker = %endpoint, %error, retry_in = ?delay, "not connected to the broker");
        shell.handle(Event::Lost(Some(error.failure())));
        let wait = tokio::time::sleep(delay);
        if shell.offline(wait, &mut commands, &stop).await.is_none() {
            return;
        }
    }
}

fn greet(endpoint: &Endpoint, broker: &Broker) {
    match broker.version() {
        Some(version) => info!(broker = %endpoint, %version, "connected to the broker"),
        None => info!(broker = %endpoint, "connected to a broker that tells no version"),
    }
}

/// The connection ends for a reason of our own.
pub(crate) fn given_up(reason: impl Into<String>) -> BrokerError {
    BrokerError::ConnectionLost {
        reason: reason.into(),
    }
}
