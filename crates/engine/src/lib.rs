//! The engine: the set of buckets in force on one broker, and everything that runs for them. It knows nothing of
//! Kubernetes: buckets come in, [`Outcome`]s go out.

mod adjust;
mod agenda;
mod ahead;
mod backoff;
mod board;
mod clock;
mod commit;
mod ensure;
mod intake;
mod look;
mod observer;
mod outcome;
mod permit;
mod plan;
mod removals;
mod scheduler;
mod session;
mod slot;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use amqp::{Broker, BrokerError, Endpoint};
use backoff::Backoff;
use board::Board;
use bucket::{Bucket, BucketId, DeletionPolicy, QueueType};
use session::Session;

pub use outcome::{BucketState, Connection, Observed, Outcome, Phase};
pub use permit::{Granter, Moment, Permit};

/// A connection that lasted this long was a good one: the next try after it comes soon.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);

/// What applies to all buckets of an engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the connection, as the broker's tools show it.
    pub connection_name: String,
    /// Replicas that take turns have it in common: the namespace of their lease.
    pub operator: String,
    /// How often tokens are counted.
    pub status_interval: Duration,
    /// Type of the refill queues.
    pub refill_queue_type: QueueType,
    /// While it is not in force no refill is asked for.
    pub permit: Permit,
}

/// A handle of an engine.
#[derive(Clone, Debug)]
pub struct Engine {
    commands: mpsc::UnboundedSender<Command>,
}

/// A bucket whose queues are not needed any more.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Whose bucket it was.
    pub id: BucketId,
    /// Name of the bucket.
    pub name: String,
    /// Its refill queue, which goes too when no other bucket uses it and nothing is in it.
    pub refill_queue: String,
    /// Whether queues are deleted at all.
    pub policy: DeletionPolicy,
}

/// Why queues could not be removed; try again later.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is no connection to the broker at the moment.
    #[error("the broker is not connected")]
    NotConnected,
    /// The broker refused, or went away meanwhile.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl RemoveError {
    /// One of a fixed set of CamelCase words.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotConnected => "NotConnected",
            Self::Broker(error) => error.kind(),
        }
    }
}

#[derive(Debug)]
enum Command {
    Apply(Arc<Bucket>, u64),
    Release(BucketId),
    Remove(Removal, oneshot::Sender<Result<(), RemoveError>>),
}

/// The buckets that shall be in force, with the caller's revision.
type Desired = HashMap<BucketId, (Arc<Bucket>, u64)>;

impl Engine {
    /// Starts an engine. It connects by itself, with backoff, and goes on until `stop` is given; the future ends when
    /// everything is released.
    pub fn start(
        endpoint: Endpoint,
        options: Options,
        outcomes: mpsc::UnboundedSender<Outcome>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let board = Arc::new(Board::new(outcomes));
        (
            Self { commands },
            run(endpoint, options, board, receiver, stop),
        )
    }

    /// The bucket shall be so. Applying an equal bucket again changes nothing. `revision` comes back in
    /// [`BucketState::revision`] once this specification is in force.
    pub fn apply(&self, bucket: Bucket, revision: u64) {
        let _ = self
            .commands
            .send(Command::Apply(Arc::new(bucket), revision));
    }

    /// Stops working on a bucket; its queues stay.
    pub fn release(&self, id: &BucketId) {
        let _ = self.commands.send(Command::Release(id.clone()));
    }

    /// Stops working on a bucket and, by policy, deletes its queues. Works for buckets that were never applied. Queues
    /// that are gone already are success.
    ///
    /// # Errors
    /// When the broker is away or refuses; nothing is lost by calling again.
    pub async fn remove(&self, removal: Removal) -> Result<(), RemoveError> {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::Remove(removal, done));
        wait.await.unwrap_or(Err(RemoveError::NotConnected))
    }
}

async fn run(
    endpoint: Endpoint,
    options: Options,
    board: Arc<Board>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    stop: CancellationToken,
) {
    let mut desired = Desired::new();
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        let error = match connect(
            &endpoint,
            &options,
            &mut desired,
            &board,
            &mut commands,
            &stop,
        )
        .await
        {
            None => return,
            Some(Err(error)) => error,
            Some(Ok(broker)) => {
                match broker.version() {
                    Some(version) => info!(broker = %endpoint, %version, "connected to the broker"),
                    None => {
                        info!(broker = %endpoint, "connected to a broker that tells no version")
                    }
                }
                board.tell(Outcome::Connection(Connection::Up));
                let since = Instant::now();
                let session = Session::start(broker, options.clone(), board.clone()).await;
                let end = match session {
                    Ok(session) => session.run(&mut desired, &mut commands, &stop).await,
                    Err(error) => Some(error),
                };
                if since.elapsed() > GOOD_CONNECTION {
                    backoff = Backoff::default();
                }
                match end {
                    None => return,
                    Some(error) => error,
                }
            }
        };
        let delay = backoff.next();
        warn!(broker = %endpoint, %error, retry_in = ?delay, "not connected to the broker");
        let (reason, message) = (error.kind(), error.to_string());
        board.tell(Outcome::Connection(Connection::Down { reason, message }));
        let wait = tokio::time::sleep(delay);
        if offline(wait, &mut desired, &board, &mut commands, &stop)
            .await
            .is_none()
        {
            return;
        }
    }
}

/// Tries once to connect. None when the engine is to stop.
async fn connect(
    endpoint: &Endpoint,
    options: &Options,
    desired: &mut Desired,
    board: &Board,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    stop: &CancellationToken,
) -> Option<Result<Broker, BrokerError>> {
    offline(
        Broker::connect(endpoint, &options.connection_name),
        desired,
        board,
        commands,
        stop,
    )
    .await
}

/// Waits for `until` and obeys commands meanwhile as far as that needs no broker. None when the engine is to stop.
async fn offline<T>(
    until: impl Future<Output = T>,
    desired: &mut Desired,
    board: &Board,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    stop: &CancellationToken,
) -> Option<T> {
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            output = &mut until => return Some(output),
            command = commands.recv() => match command? {
                Command::Apply(bucket, revision) => {
                    board.enter(&bucket);
                    desired.insert(bucket.id.clone(), (bucket, revision));
                }
                Command::Release(id) => {
                    desired.remove(&id);
                    board.leave(&id);
                }
                Command::Remove(removal, done) => {
                    desired.remove(&removal.id);
                    board.leave(&removal.id);
                    let retained = removal.policy == DeletionPolicy::Retain;
                    let _ = done.send(if retained { Ok(()) } else { Err(RemoveError::NotConnected) });
                }
            },
        }
    }
}
