//! What the operator reports about a bucket.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use bucket::Trigger;

/// What the operator saw at the broker, and what it will do next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenBucketStatus {
    /// The metadata.generation that this status is about. When it is smaller than metadata.generation, the last
    /// change of the spec has not been acted upon yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: the bucket is at the broker as the spec says and is refilled. Reconciling: the operator is still working
    /// towards that or waits for the broker. Stalled: nothing will happen until somebody changes something; the message
    /// says what. BrokerConnected: the operator has a connection to the bucket's broker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// Name of the queue that holds the tokens. Workers take tokens from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_name: Option<String>,

    /// Tokens in the bucket when they were last counted, at observedAt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub available_tokens: Option<u32>,

    /// When the tokens were counted at the broker. A count that stays the same is written anew only every ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,

    /// The limit, in tokens, that the broker enforces on the queue now. It differs from spec.maximum while a change of
    /// spec.maximum is being carried out, and when a queue that existed before has a larger limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub maximum: Option<u32>,

    /// The last refill that was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refill: Option<LastRefill>,

    /// When the next refill is due. Empty while the bucket is suspended or Stalled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_refill_time: Option<Time>,

    /// Tokens added by all refills since the bucket's ledger began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub tokens_issued: Option<u64>,

    /// The last value of the annotation tokenbucket.dev/refill-requested-at that was carried out. A refill asked for by
    /// that annotation is done when both are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_refill_request: Option<String>,
}

impl TokenBucketStatus {
    /// Whether `other` says the same, apart from the times at which it was seen: such a status need not be written
    /// at once.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let undated = |status: &Self| Self {
            observed_at: None,
            conditions: status
                .conditions
                .iter()
                .map(super::conditions::undated)
                .collect(),
            ..status.clone()
        };
        undated(self) == undated(other)
    }
}

/// A refill that was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastRefill {
    /// When the refill was due by the schedule. Only with trigger Schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_time: Option<Time>,

    /// When its last transaction was sent to the broker, which confirmed it.
    pub completed_time: Time,

    /// Tokens that were added: as many as fitted under spec.maximum.
    #[schemars(with = "i64")]
    pub added: u32,

    /// What asked for the refill. Schedule: spec.schedule. Manual: the annotation tokenbucket.dev/refill-requested-at.
    /// Request: a message that a program sent to the refill queue. Initial: spec.initialTokens, when the queue was created.
    pub trigger: Trigger,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_time;

    #[test]
    fn a_status_that_differs_only_in_its_times_says_the_same() {
        let at = |seconds| {
            Some(to_time(
                chrono::DateTime::from_timestamp(seconds, 0).unwrap(),
            ))
        };
        let status = |observed_at, available_tokens| TokenBucketStatus {
            observed_at: at(observed_at),
            available_tokens: Some(available_tokens),
            ..Default::default()
        };
        assert!(status(1, 10).says_the_same_as(&status(2, 10)));
        assert!(!status(1, 10).says_the_same_as(&status(1, 11)));
    }
}
