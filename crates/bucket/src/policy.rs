//! The choices that a bucket's resource makes and its status names, in the words that people write and read there. They are
//! part of the CustomResourceDefinition.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to do about ticks that passed while nobody could refill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum MissedRefills {
    /// The newest one is carried out, once.
    #[default]
    Latest,
    /// None is carried out.
    Skip,
    /// Every one is carried out.
    All,
}

/// Type of a bucket's queue at the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    /// A queue on one node.
    #[default]
    Classic,
    /// A queue replicated by Raft.
    Quorum,
}

/// What deleting the resource does to the queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They are deleted.
    #[default]
    Delete,
    /// They stay.
    Retain,
}

/// What asked for a refill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Trigger {
    /// A tick of `spec.schedule`.
    Schedule,
    /// The annotation `tokenbucket.dev/refill-requested-at`.
    Manual,
    /// A message in the refill queue that the operator did not send itself.
    Request,
    /// `spec.initialTokens`, when the queue was created.
    Initial,
}
