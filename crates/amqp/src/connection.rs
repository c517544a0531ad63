//! One connection to a broker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt;
use lapin::{Connection, ConnectionProperties, ConnectionStatus, Event};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Duration, interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::allowance::{Allowance, LEAST_CHANNELS, OwnChannel, Use};
use super::claims::Claims;
use super::error::{Action, BrokerError};
use super::parked::Parked;
use super::pool::{Lease, Pool};
use super::stamps::Stamps;
use super::transport::Socket;
use super::version::Version;
use bucket::PROGRAM;
use endpoint::{Endpoint, closes_channel, open_channel};

/// Limit for TCP, TLS and AMQP handshake together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Limit for an answer of the broker. It is long: a broker that synchronises its disk can be slow, and giving up means
/// a new connection.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Limit for an answer to a question that costs the broker nothing.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Limit for a farewell.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Numbers of channels that the client library can use no more, of the 2,047 that a connection has by default. Then there
/// is a new connection.
const MOST_CLOSED_CHANNELS: u32 = 1_500;
/// How often the client library is asked whether it has closed the connection without an event.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// One live AMQP connection. When it is lost it stays lost: make another.
pub struct Broker {
    connection: Connection,
    socket: Socket,
    state: watch::Sender<State>,
    allowance: Arc<Allowance>,
    pool: Pool,
    claims: Claims,
    stamps: Stamps,
    parked: Parked,
    /// Channels that the broker has closed over an error.
    closed_channels: AtomicU32,
    watcher: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct State {
    blocked: bool,
    /// How many resource alarms there were.
    alarms: u64,
    lost: Option<BrokerError>,
}

/// What to do while the broker accepts nothing because of a resource alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum During {
    /// Give up after a while, with an error that says so. For what can be asked again.
    AlarmFail,
    /// Wait as long as it takes. For what must not be left undecided.
    AlarmWait,
}

impl Broker {
    /// Connects, once, within 10 s. `name` is shown in RabbitMQ's list of connections.
    ///
    /// # Errors
    /// Says whether a person has to do something ([`BrokerError::needs_person`]).
    pub async fn connect(endpoint: &Endpoint, name: &str) -> Result<Self, BrokerError> {
        Self::connect_with(endpoint, name, usize::MAX).await
    }

    /// The same, with so many channels at most: after [`BrokerError::ChannelLimit`] no more are tried to be opened.
    ///
    /// # Errors
    /// As for [`Broker::connect`].
    pub async fn connect_with(
        endpoint: &Endpoint,
        name: &str,
        channels: usize,
    ) -> Result<Self, BrokerError> {
        // The client library panics beyond the limit of AMQP.
        if endpoint.vhost().len() > usize::from(u8::MAX) {
            let message = "its name is longer than 255 bytes".to_owned();
            return Err(BrokerError::VhostRefused {
                vhost: endpoint.vhost().to_owned(),
                message,
            });
        }
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), PROGRAM.into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let socket = Socket::default();
        let opening = socket.open(endpoint, properties, CONNECT_LIMIT);
        let connection = match timeout(CONNECT_LIMIT, opening).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                socket.abort();
                return Err(BrokerError::connecting(endpoint, &error));
            }
            Err(_) => {
                socket.abort();
                let reason = format!("no answer within {} s", CONNECT_LIMIT.as_secs());
                return Err(BrokerError::Unreachable {
                    endpoint: endpoint.to_string(),
                    reason,
                });
            }
        };
        let agreed = socket.channel_max();
        if agreed < LEAST_CHANNELS {
            socket.abort();
            let message = format!("it allows {agreed} channels on a connection (channel_max)");
            return Err(BrokerError::Limit { message });
        }
        let allowance = Allowance::new(agreed.min(channels));
        let state = watch::Sender::new(State::default());
        let watcher = tokio::spawn(watch_over(
            connection.status().clone(),
            Box::pin(connection.events_listener()),
            socket.clone(),
            state.clone(),
            allowance.clone(),
        ));
        Ok(Self {
            connection,
            socket,
            state,
            allowance,
            pool: Pool::new(),
            claims: Claims::default(),
            stamps: Stamps::default(),
            parked: Parked::default(),
            closed_channels: AtomicU32::new(0),
            watcher,
        })
    }

    /// Waits until the connection is of no use any more, and says why.
    pub async fn lost(&self) -> BrokerError {
        let mut state = self.state.subscribe();
        let lost = state.wait_for(|state| state.lost.is_some()).await;
        lost.ok()
            .and_then(|state| state.lost.clone())
            .unwrap_or_else(|| closed("it was dropped"))
    }

    /// True while the broker accepts nothing because it is short of memory or disk space.
    #[must_use]
    pub fn blocked(&self) -> bool {
        self.state.borrow().blocked
    }

    /// How many resource alarms have held up what was published on the connection.
    pub(super) fn alarms(&self) -> u64 {
        self.state.borrow().alarms
    }

    /// Waits until [`Broker::blocked`] tells this.
    pub async fn blocked_is(&self, blocked: bool) {
        let mut state = self.state.subscribe();
        // The state lasts as long as `self`.
        let _ = state.wait_for(|state| state.blocked == blocked).await;
    }

    /// What the broker says of itself; None when it tells no version.
    #[must_use]
    pub fn version(&self) -> Option<&Version> {
        self.socket.version()
    }

    /// The name of the broker's cluster, by which it is known whatever name it was reached by; None when it tells none. A
    /// server says what it likes.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.socket.cluster()
    }

    /// The largest frame that the broker takes, in octets.
    pub(super) fn frame_max(&self) -> usize {
        self.socket.frame_max()
    }

    /// Says goodbye. Everything that is under way on the connection ends with an error.
    pub async fn close(&self) {
        if self.connection.status().connected() {
            let farewell = self.connection.close(200, "OK".into());
            if let Ok(Err(error)) = timeout(CLOSE_LIMIT, farewell).await {
                debug!(%error, "the connection was not closed in order");
            }
        }
        self.give_up(closed("it was closed"));
    }

    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(super) fn parked(&self) -> &Parked {
        &self.parked
    }

    pub(super) fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// A channel of the pool, for one verb.
    pub(super) async fn lease(&self, action: Action<'_>) -> Result<Lease<'_>, BrokerError> {
        let turn = self.awaited(self.pool.turn()).await?;
        let channel = match self.pool.idle() {
            Some(idle) => {
                let idle = std::future::ready(Ok(idle));
                self.answer(action, During::AlarmFail, idle).await?
            }
            None => (self.channel(Use::Verb, action).await?, 0),
        };
        Ok(self.pool.lend(turn, channel))
    }

    /// A channel of its own.
    pub(super) async fn channel(
        &self,
        what: Use,
        action: Action<'_>,
    ) -> Result<OwnChannel, BrokerError> {
        let permit = self.awaited(self.allowance.permit(what)).await??;
        let turn = self.awaited(permit.turn()).await?;
        let opening = open_channel(&self.connection);
        let channel = self.answer(action, During::AlarmFail, opening).await?;
        drop(turn);
        Ok(OwnChannel::new(channel, permit))
    }

    /// Whether there are so few channels that none can be kept for later.
    #[must_use]
    pub fn has_few_channels(&self) -> bool {
        self.allowance.is_scarce()
    }

    /// Awaits what others of this connection have to do before, however long that takes.
    async fn awaited<T>(&self, what: impl Future<Output = T>) -> Result<T, BrokerError> {
        tokio::select! {
            biased;
            done = what => Ok(done),
            lost = self.lost() => Err(lost),
        }
    }

    /// Awaits what the broker answers to `action`, within a limit. A broker that is connected and does not answer is
    /// given up: what it was asked may or may not happen. But when it answers others, and can be asked the same again, it is
    /// the queue that does not answer; the channel is left to it, unless there are few.
    pub(super) async fn answer<T>(
        &self,
        action: Action<'_>,
        during: During,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        let mut state = self.state.subscribe();
        match &*state.borrow() {
            State {
                lost: Some(lost), ..
            } => return Err(lost.clone()),
            State { blocked: true, .. } if during == During::AlarmFail => {
                return Err(BrokerError::Blocked);
            }
            State { .. } => {}
        }
        let mut answer = std::pin::pin!(answer);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.map_err(|error| self.explain(action, &error)),
                // An alarm that begins or ends starts the limit anew.
                Ok(()) = state.changed() => {
                    if let Some(lost) = state.borrow_and_update().lost.clone() {
                        return Err(lost);
                    }
                }
                () = sleep(ANSWER_LIMIT) => match (self.blocked(), during) {
                    (true, During::AlarmWait) => {}
                    (true, During::AlarmFail) => return Err(BrokerError::Blocked),
                    (false, During::AlarmFail)
                        if !action.queue.is_empty()
                            && !self.has_few_channels()
                            && self.answers().await =>
                    {
                        return Err(BrokerError::QueueUnavailable {
                            queue: action.queue.to_owned(),
                            message: format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
                        });
                    }
                    (false, _) => {
                        let error = BrokerError::Timeout { doing: action.verb };
                        return Err(self.give_up(error));
                    }
                },
            }
        }
    }

    /// Whether the broker answers anything on the connection.
    async fn answers(&self) -> bool {
        let opened = timeout(PROBE_LIMIT, open_channel(&self.connection)).await;
        matches!(opened, Ok(Ok(_)))
    }

    /// Channels report the end of their connection each in its own way; the connection knows the reason.
    pub(super) fn explain(&self, action: Action<'_>, error: &lapin::Error) -> BrokerError {
        if closes_channel(error) {
            self.wear();
        }
        let error = BrokerError::doing(action, error);
        match error {
            BrokerError::ChannelClosed { reason } if !self.connection.status().connected() => self
                .state
                .borrow()
                .lost
                .clone()
                .unwrap_or(BrokerError::ConnectionLost { reason }),
            // It has closed the connection with that.
            BrokerError::Limit { message } if is_of_channels(&message) => closed(&message),
            // Too many of their numbers are worn.
            BrokerError::WornOut => self.give_up(BrokerError::WornOut),
            error => error,
        }
    }

    /// The broker has closed a channel: see [`open_channel`].
    fn wear(&self) {
        if self.closed_channels.fetch_add(1, Ordering::Relaxed) >= MOST_CLOSED_CHANNELS {
            self.give_up(BrokerError::WornOut);
        }
    }

    /// Ends it at once, and answers why.
    pub(super) fn give_up(&self, error: BrokerError) -> BrokerError {
        lose(&self.state, error.clone());
        self.socket.abort();
        error
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.watcher.abort();
        self.socket.abort();
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

fn closed(reason: &str) -> BrokerError {
    BrokerError::ConnectionLost {
        reason: reason.to_owned(),
    }
}

/// Whether a limit is one of channels. RabbitMQ closes the connection over it.
fn is_of_channels(message: &str) -> bool {
    message.contains("number of channels")
}

/// The first reason is the one that counts.
fn lose(state: &watch::Sender<State>, error: BrokerError) {
    state.send_if_modified(|state| {
        let first = state.lost.is_none();
        if first {
            state.lost = Some(error);
        }
        first
    });
}

/// Follows the state of the connection until it is lost.
async fn watch_over(
    status: ConnectionStatus,
    mut events: impl futures::Stream<Item = Event> + Unpin,
    socket: Socket,
    state: watch::Sender<State>,
    allowance: Arc<Allowance>,
) {
    let mut ticks = interval(STATUS_INTERVAL);
    let mut gone = false;
    let reason = loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    warn!(reason, "the broker accepts nothing at present");
                    state.send_modify(|state| {
                        state.blocked = true;
                        state.alarms += 1;
                    });
                }
                Some(Event::ConnectionUnblocked) => {
                    info!("the broker accepts messages again");
                    state.send_modify(|state| state.blocked = false);
                }
                // Channels report their errors here too.
                Some(Event::Error(error)) if !status.connected() => break BrokerError::lost(&error),
                Some(_) => {}
                None => break closed("its thread ended"),
            },
            // The second time: the event that says why may be just behind.
            _ = ticks.tick() => match (status.connected(), gone) {
                (false, true) => break closed("it was closed"),
                (connected, _) => gone = !connected,
            }
        }
    };
    let reason = match reason {
        BrokerError::Limit { message } if is_of_channels(&message) => {
            allowance.refused(message).await
        }
        reason => reason,
    };
    lose(&state, reason);
    socket.abort();
}
