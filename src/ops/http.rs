//! The HTTP server: hyper, with limits. Whoever reaches the port can cost so much memory and so many file descriptors and no
//! more, and cannot keep the kubelet from its probes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// A request line and its headers, all together.
const HEAD_BYTES: usize = 16 * 1024;
/// What keeps connections from being accepted, as a lack of file descriptors does, keeps on for a moment.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// What connections may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How many there are at the same time. One more, and the oldest is closed.
    pub(super) connections: usize,
    /// How long the head of a request may take, from the first moment of the connection.
    pub(super) head: Duration,
    /// How long all of it may take: the request, the answer, and that somebody reads it.
    pub(super) connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            head: Duration::from_secs(5),
            connection: Duration::from_secs(30),
        }
    }
}

/// Serves until the future is dropped.
///
/// A connection has one request: what it may cost can be told for the whole of it, and none is idle. When there are too many,
/// the oldest gives way instead of the new one. So a probe, which sends its request at once, is answered however many
/// connections others keep open.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits) -> Infallible {
    let mut connections = Connections::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.make_room(limits.connections).await;
                    connections.add(connection(stream, router.clone(), limits));
                }
                Err(error) if is_of_the_connection(error.kind()) => debug!(%error, "a connection was gone again"),
                Err(error) => {
                    warn!(%error, "cannot accept connections to the HTTP listener: trying again");
                    // Nothing tells when there will be a file descriptor again.
                    sleep(PAUSE_AFTER_ERROR).await;
                }
            },
            () = connections.one_ended() => {}
        }
    }
}

fn is_of_the_connection(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

async fn connection(stream: TcpStream, router: Router, limits: Limits) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(limits.connection, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "an HTTP connection ended early"),
        Err(_) => debug!("an HTTP connection took too long"),
    }
}

/// The open connections.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// The oldest one first.
    by_age: VecDeque<AbortHandle>,
}

impl Connections {
    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.by_age.push_back(self.tasks.spawn(connection));
    }

    /// Closes the oldest ones until there are fewer than `limit`.
    async fn make_room(&mut self, limit: usize) {
        while self.tasks.len() >= limit
            && let Some(oldest) = self.by_age.pop_front()
        {
            if !oldest.is_finished() {
                debug!("too many HTTP connections: closing the oldest");
                oldest.abort();
            }
            self.one_ended().await;
        }
    }

    /// Waits until a connection has ended; for ever while there is none.
    async fn one_ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
        self.by_age.retain(|connection| !connection.is_finished());
    }
}

#[cfg(test)]
mod tests;
