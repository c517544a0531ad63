//! Names that others see: the program's own, and by the wire contract those of its queues.

/// Name of the program, as events, leases, field managers, the broker and its messages show it.
pub const PROGRAM: &str = "token-bucket-operator";

/// What stands before a bucket's name in the name of its queue.
pub const BUCKET_QUEUE_PREFIX: &str = "token_bucket_";

/// What stands behind the name of a bucket's queue in the name of its ledger.
pub(crate) const LEDGER_QUEUE_SUFFIX: &str = ".ledger";

/// What stands behind the name of a refill queue in the name of the queue of its parked requests.
pub(crate) const PARKED_QUEUE_SUFFIX: &str = ".rejected";

/// The queue that holds the tokens of the bucket `name`, by the wire contract.
#[must_use]
pub fn queue_name(name: &str) -> String {
    format!("{BUCKET_QUEUE_PREFIX}{name}")
}

/// The queue that holds the ledger of the bucket `name`, by the wire contract.
#[must_use]
pub fn ledger_queue_name(name: &str) -> String {
    format!("{BUCKET_QUEUE_PREFIX}{name}{LEDGER_QUEUE_SUFFIX}")
}

/// The queue of what was parked from a refill queue, by the wire contract.
#[must_use]
pub fn parked_queue_name(refill_queue: &str) -> String {
    format!("{refill_queue}{PARKED_QUEUE_SUFFIX}")
}
