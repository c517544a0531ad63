//! What applies to all buckets of an engine.

use std::time::Duration;

use bucket::QueueType;

use crate::lease::LeaseValidity;

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
