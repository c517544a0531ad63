//! One AMQP connection, and channels of it. When it is lost it stays lost: [`crate::slot`] makes another.

use std::net::{Shutdown, TcpStream};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lapin::runtime::default_runtime;
use lapin::tcp::AsyncTcpStream;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use token_bucket_endpoint::{Endpoint, closes_channel, dial, open_channel};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::Error;
use crate::failure::Failure;

/// Limit for TCP, TLS and AMQP handshake together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Limit for an answer of the broker. After it the connection is given up.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Channels for takes. More make nothing faster.
const CHANNELS: usize = 16;
/// The AMQP library can never use the number of a channel again that the broker has closed over an error, and a connection has
/// 2,047 of them. Then there is a new connection.
const MOST_CLOSED_CHANNELS: u32 = 1_000;

/// A live connection.
pub(crate) struct Link {
    connection: Connection,
    socket: Arc<OnceLock<TcpStream>>,
    permits: Semaphore,
    idle: Mutex<Vec<Channel>>,
    closed_channels: AtomicU32,
    given_up: AtomicBool,
}

impl Link {
    /// Connects, once. `name` is shown in RabbitMQ's list of connections.
    pub(crate) async fn connect(endpoint: &Endpoint, name: &str) -> Result<Self, Error> {
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let socket = Arc::new(OnceLock::new());
        let (its_socket, its_endpoint) = (socket.clone(), endpoint.clone());
        let opening = async {
            let runtime = default_runtime()?;
            let open = async move |_, _| {
                let (stream, handle) = dial(&its_endpoint, CONNECT_LIMIT).await?;
                // Each connection is made once; recovery is off.
                let _ = its_socket.set(handle);
                Ok::<AsyncTcpStream<_>, lapin::Error>(stream)
            };
            Connection::connector(endpoint.uri(), runtime, open, properties).await
        };
        let connection = match timeout(CONNECT_LIMIT, opening).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(not_connected(endpoint, &error)),
            Err(_) => {
                shut_down(&socket);
                return Err(Error::Unreachable {
                    endpoint: endpoint.to_string(),
                    reason: format!("no answer within {} s", CONNECT_LIMIT.as_secs()),
                });
            }
        };
        Ok(Self {
            connection,
            socket,
            permits: Semaphore::new(CHANNELS),
            idle: Mutex::default(),
            closed_channels: AtomicU32::new(0),
            given_up: AtomicBool::new(false),
        })
    }

    /// Whether it can be used for something new.
    pub(crate) fn is_usable(&self) -> bool {
        self.connection.status().connected()
            && !self.given_up.load(Ordering::Relaxed)
            && self.closed_channels.load(Ordering::Relaxed) < MOST_CLOSED_CHANNELS
    }

    /// Awaits an answer of the broker, within a limit. One that is late is never waited for again: the connection ends.
    pub(crate) async fn answer<T>(
        &self,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Failure> {
        match timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if closes_channel(&error) {
                    self.closed_channels.fetch_add(1, Ordering::Relaxed);
                }
                match Failure::from(error) {
                    Failure::Channel(reason) if !self.connection.status().connected() => {
                        Err(Failure::Lost(reason))
                    }
                    failure => Err(failure),
                }
            }
            Err(_) => {
                self.give_up();
                let reason = format!("no answer within {} s", ANSWER_LIMIT.as_secs());
                Err(Failure::Lost(reason))
            }
        }
    }

    /// A channel of its own.
    pub(crate) async fn channel(&self) -> Result<Channel, Failure> {
        self.answer(open_channel(&self.connection)).await
    }

    /// Closes one. What is held on it goes back.
    pub(crate) async fn close_channel(&self, channel: &Channel) {
        // An error means that it has ended already.
        let _ = self.answer(channel.close(200, "OK".into())).await;
    }

    /// A channel for one verb, of a few that are kept.
    pub(crate) async fn lease(&self) -> Result<Lease<'_>, Failure> {
        let Ok(permit) = self.permits.acquire().await else {
            unreachable!("the semaphore is never closed")
        };
        let idle = self.lock().pop();
        let channel = match idle {
            Some(channel) => channel,
            None => self.channel().await?,
        };
        Ok(Lease {
            link: self,
            channel,
            _permit: permit,
        })
    }

    /// Ends it at once.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        shut_down(&self.socket);
    }

    /// Says goodbye.
    pub(crate) async fn close(&self) {
        let farewell = self.connection.close(200, "OK".into());
        let _ = timeout(ANSWER_LIMIT, farewell).await;
        self.give_up();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        shut_down(&self.socket);
    }
}

/// A channel on loan. Dropped without being put back it is used no more.
pub(crate) struct Lease<'a> {
    link: &'a Link,
    channel: Channel,
    _permit: SemaphorePermit<'a>,
}

impl Lease<'_> {
    /// Gives the channel back for others, unless it is closed. Nothing may be on its way on it.
    pub(crate) fn put_back(self) {
        if self.channel.status().connected() {
            self.link.lock().push(self.channel.clone());
        }
    }
}

impl Deref for Lease<'_> {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

fn shut_down(socket: &OnceLock<TcpStream>) {
    if let Some(socket) = socket.get() {
        // An error means that it has ended already.
        let _ = socket.shutdown(Shutdown::Both);
    }
}

fn not_connected(endpoint: &Endpoint, error: &lapin::Error) -> Error {
    let endpoint = endpoint.to_string();
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            match (error.get_id(), error.get_message().to_string()) {
                (403, _) => Error::AuthenticationRefused { endpoint },
                (402 | 530, message) if !message.contains("limit") => {
                    Error::VhostRefused { endpoint, message }
                }
                (_, reason) => Error::Unreachable { endpoint, reason },
            }
        }
        _ => Error::Unreachable {
            endpoint,
            reason: error.to_string(),
        },
    }
}
