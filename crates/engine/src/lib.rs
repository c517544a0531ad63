//! The engine: the set of buckets in force at one broker, and everything that runs for them. It knows nothing of
//! Kubernetes: buckets come in, [`Outcome`]s go out. All decisions are made by [`bucket::machine`]; this crate has the
//! connection, the tasks and the clocks.

#![warn(unreachable_pub)]

mod backoff;
mod clock;
mod consumer;
mod desired;
mod lease;
mod logging;
mod options;
mod remove_error;
mod run;
mod session;
mod shell;

use std::sync::Arc;

use amqp::{Endpoint, Place};
use bucket::{Bucket, BucketId, Contents, Known};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use desired::Desired;

pub use bucket::machine::{BucketState, ConnectionState, Observed, Outcome, Phase, Removal};
pub use clock::Clock;
pub use lease::{LeaseRenewer, LeaseValidity};
pub use options::Options;
pub use remove_error::RemoveError;

/// A handle of an engine.
#[derive(Clone, Debug)]
pub struct Engine {
    desired: Arc<Desired>,
    place: watch::Receiver<Place>,
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
        let desired = Arc::new(Desired::default());
        let (located, place) = watch::channel(Place::unknown(&endpoint));
        let running = run::run(endpoint, options, outcomes, desired.clone(), located, stop);
        (Self { desired, place }, running)
    }

    /// Where its queues are, as the broker itself said at the last connection. It is known when that is told to be up.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place.borrow().clone()
    }

    /// Waits until that is known. None: the engine has ended before.
    pub async fn located(&self) -> Option<Place> {
        let mut place = self.place.clone();
        let known = place.wait_for(Place::is_known).await;
        known.ok().map(|place| place.clone())
    }

    /// The bucket shall be so. Applying an equal bucket again changes nothing. `revision` comes back in
    /// [`BucketState::revision`] once this specification is in force; of several that come fast only the newest may be.
    pub fn apply(&self, bucket: Bucket, revision: u64) {
        self.apply_known(bucket, revision, None);
    }

    /// The same for a bucket of which it is known from elsewhere what was done for it, should its ledger be lost.
    pub fn apply_known(&self, bucket: Bucket, revision: u64, known: Option<Known>) {
        self.desired.apply(Arc::new(bucket), revision, known);
    }

    /// Stops working on a bucket; its queues stay.
    pub fn release(&self, id: &BucketId) {
        self.desired.release(id);
    }

    /// Stops working on a bucket and, by policy, deletes its queues. Works for buckets that were never applied. Queues
    /// that are gone already are success, and so are queues that belong to another resource: they stay. Answers what the
    /// bucket had, if it moves and they were its own.
    ///
    /// # Errors
    /// When the broker is away or refuses; nothing is lost by calling again.
    pub async fn remove(&self, removal: Removal) -> Result<Option<Contents>, RemoveError> {
        let answer = self.desired.remove(removal).await;
        answer.unwrap_or(Err(RemoveError::NotConnected))
    }
}
