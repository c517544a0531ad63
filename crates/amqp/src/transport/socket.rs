//! The TCP socket under a connection. The client library runs each connection on a thread of its own, which waits for
//! ever on a peer that is silent; a second handle to the socket can end that wait.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPQueryString, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use tokio::time::Duration;

use super::frames::LIBRARY_FRAME;
use super::inbound::{LIBRARY_CHANNELS, Told};
use super::stream::{self, AmqpStream};
use crate::version::Version;
use endpoint::{Endpoint, dial};

/// A handle to the socket of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Socket(Arc<State>);

#[derive(Debug, Default)]
struct State {
    socket: OnceLock<TcpStream>,
    aborted: AtomicBool,
    told: Told,
}

impl Socket {
    /// Connects within `limit`, the TLS handshake included, and speaks AMQP on what comes of it.
    pub(crate) async fn open(
        &self,
        endpoint: &Endpoint,
        properties: ConnectionProperties,
        limit: Duration,
    ) -> lapin::Result<Connection> {
        let (this, endpoint, uri) = (self.clone(), endpoint.clone(), endpoint.uri());
        let query = AMQPQueryString {
            frame_max: u32::try_from(LIBRARY_FRAME).ok(),
            ..uri.query
        };
        Connection::connector(
            AMQPUri { query, ..uri },
            stream::runtime(),
            async move |_, _| {
                let (socket, handle) = dial(&endpoint, limit).await?;
                // Each connection is made once; recovery is off.
                let _ = this.0.socket.set(handle);
                // Given up while it was being made.
                if this.0.aborted.load(Ordering::SeqCst) {
                    this.abort();
                }
                // Outside of TLS, so that it reads what the broker says.
                Ok(AsyncTcpStream::Plain(AmqpStream::new(
                    socket,
                    this.0.told.clone(),
                )))
            },
            properties,
        )
        .await
    }

    /// What the broker says of itself, once it is connected.
    pub(crate) fn version(&self) -> Option<&Version> {
        self.0.told.greeting.get()?.version.as_ref()
    }

    /// The name of its cluster, if it tells one.
    pub(crate) fn cluster(&self) -> Option<&str> {
        self.0.told.greeting.get()?.cluster.as_deref()
    }

    /// The largest frame that the broker takes, in octets.
    pub(crate) fn frame_max(&self) -> usize {
        let agreed = self.0.told.frame_max.get();
        agreed.map_or(LIBRARY_FRAME, |&agreed| {
            usize::try_from(agreed).unwrap_or(LIBRARY_FRAME)
        })
    }

    /// The most channels that may be open at one time.
    pub(crate) fn channel_max(&self) -> usize {
        let agreed = self.0.told.channel_max.get();
        agreed.copied().unwrap_or(LIBRARY_CHANNELS).into()
    }

    /// Ends the connection at once, without a word to the peer.
    pub(crate) fn abort(&self) {
        self.0.aborted.store(true, Ordering::SeqCst);
        if let Some(socket) = self.0.socket.get() {
            // An error means that it has ended already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
