//! What the status writer is told.

use std::sync::Arc;

use amqp::Endpoint;
use api::TokenBucketStatus;
use bucket::BucketId;
use engine::{Outcome, Phase};

/// Something that may change a status.
#[derive(Debug)]
pub(crate) enum Report {
    /// A resource was reconciled.
    Reconciled(ReconcileResult),
    /// The engine of a broker told something.
    Outcome(Endpoint, Outcome),
    /// No bucket is at the broker any more.
    Left(Endpoint),
    /// The resource is gone, or about to be.
    Gone(BucketId),
}

/// What came of reconciling a resource.
#[derive(Clone, Debug)]
pub(crate) struct ReconcileResult {
    /// Which resource.
    pub id: BucketId,
    /// Its UID.
    pub uid: Arc<str>,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// Whether there shall be an alert when it is empty for long.
    pub alert_when_empty: bool,
    /// Name of the bucket's queue, when that is known.
    pub queue: Option<String>,
    /// Its status in the API when it was first seen; what is there later, the writer has written itself.
    pub published: Option<Box<TokenBucketStatus>>,
    /// What was decided.
    pub decision: Decision,
}

/// What is done about a resource.
#[derive(Clone, Debug)]
pub(crate) enum Decision {
    /// The engine has it: the rest is for the engine to tell.
    InForce {
        /// At which broker.
        broker: Endpoint,
        /// The Secret that names it; None: it is the operator's own.
        secret: Option<Box<str>>,
        /// The virtual host that the resource names.
        vhost: Option<Box<str>>,
        /// Whether scheduled refills are suspended.
        suspend: bool,
        /// The engine gets it when it has left the broker where it was.
        moving: bool,
    },
    /// It did not come to that.
    Refused(Box<Phase>),
}
