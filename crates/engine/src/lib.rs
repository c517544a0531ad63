//! The engine: the set of buckets in force at one broker, and everything that runs for them. It knows nothing of
//! Kubernetes: buckets come in, [`Outcome`]s go out. All decisions are made by [`bucket::machine`]; this crate has the
//! connection, the tasks and the clocks.

mod backoff;
mod clock;
mod consumer;
mod lease;
mod logging;
mod session;
mod shell;

use std::sync::Arc;
use std::time::Duration;

use amqp::Endpoint;
use bucket::machine::Failure;
use bucket::{Bucket, BucketId, Known, QueueType};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use bucket::machine::{BucketState, ConnectionState, Observed, Outcome, Phase, Removal};
pub use clock::Clock;
pub use lease::{LeaseRenewer, LeaseValidity};

/// What applies to all buckets of an engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the connection, as the broker's tools show it.
    pub connection_name: String,
    /// Names the operator in ledgers. Replicas that take turns have it in common: the namespace of their lease.
    pub operator: String,
    /// How often tokens are counted.
    pub status_interval: Duration,
    /// Type of the refill queues.
    pub refill_queue_type: QueueType,
    /// While it is not valid no refill is asked for.
    pub lease: LeaseValidity,
}

/// A handle of an engine.
#[derive(Clone, Debug)]
pub struct Engine {
    commands: mpsc::UnboundedSender<Command>,
}

/// Why queues could not be removed; try again later.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is no connection to the broker at the moment.
    #[error("the broker is not connected")]
    NotConnected,
    /// The broker refused, or went away meanwhile.
    #[error("{}", .0.message)]
    Broker(Failure),
}

impl RemoveError {
    /// One of a fixed set of CamelCase words.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotConnected => "NotConnected",
            Self::Broker(failure) => failure.reason,
        }
    }
}

#[derive(Debug)]
enum Command {
    Apply(Arc<Bucket>, u64, Option<Known>),
    Release(BucketId),
    Remove(Removal, oneshot::Sender<Result<(), RemoveError>>),
}

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
        let running = shell::run(endpoint, options, outcomes, receiver, stop);
        (Self { commands }, running)
    }

    /// The bucket shall be so. Applying an equal bucket again changes nothing. `revision` comes back in
    /// [`BucketState::revision`] once this specification is in force.
    pub fn apply(&self, bucket: Bucket, revision: u64) {
        self.apply_known(bucket, revision, None);
    }

    /// The same for a bucket of which it is known from elsewhere what was done for it, should its ledger be lost.
    pub fn apply_known(&self, bucket: Bucket, revision: u64, known: Option<Known>) {
        let command = Command::Apply(Arc::new(bucket), revision, known);
        let _ = self.commands.send(command);
    }

    /// Stops working on a bucket; its queues stay.
    pub fn release(&self, id: &BucketId) {
        let _ = self.commands.send(Command::Release(id.clone()));
    }

    /// Stops working on a bucket and, by policy, deletes its queues. Works for buckets that were never applied. Queues
    /// that are gone already are success, and so are queues that belong to another resource: they stay.
    ///
    /// # Errors
    /// When the broker is away or refuses; nothing is lost by calling again.
    pub async fn remove(&self, removal: Removal) -> Result<(), RemoveError> {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::Remove(removal, done));
        wait.await.unwrap_or(Err(RemoveError::NotConnected))
    }
}
