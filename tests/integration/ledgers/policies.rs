//! Policies of the broker touch ledgers.

use std::panic::AssertUnwindSafe;

use chrono::Utc;
use futures::future::{FutureExt, join_all};
use lapin::types::FieldTable;
use serde_json::{Value, json};
use token_bucket_operator::api::QueueType;
use token_bucket_operator::bucket::Bucket;
use token_bucket_operator::bucket::machine::Phase;
use token_bucket_operator::engine::Outcome;

use super::{
    Count, LEDGER, Operator, QUEUE, each_second, goes_on_exactly_after_a_crash, no_tick_is_doubled,
    ticks,
};
use crate::support::{SOON, Vhost, eventually, testbed};

#[tokio::test]
async fn policies_that_lose_ledgers_mint_nothing() {
    with_policies([
        json!({"message-ttl": 100}),
        json!({"expires": 500}),
        json!({"max-length": 0}),
    ])
    .await;
}

#[tokio::test]
async fn policies_for_what_is_too_much_or_dead_concern_no_ledger() {
    let policies = [
        json!({"overflow": "reject-publish", "max-length": 1}),
        json!({"overflow": "reject-publish-dlx", "max-length": 1, "dead-letter-exchange": "", "dead-letter-routing-key": "dead"}),
        json!({"dead-letter-exchange": "", "dead-letter-routing-key": "dead"}),
    ];
    for (vhost, bucket) in with_policies(policies).await {
        Count::of(&vhost).await.is_exact_since(bucket.created);
        assert_eq!(vhost.depth("dead").await, Some(0));
    }
}

/// Queues of a policy: their pattern, and one of them.
type Queues = [&'static str; 2];
const LEDGERS: Queues = [r"^token_bucket_.*\.ledger$", LEDGER];
const BUCKETS: Queues = [r"^token_bucket_x$", QUEUE];
const REFILL: Queues = [r"^refill$", "refill"];
const PARKED: Queues = [r"^refill\.rejected$", "refill.rejected"];
const ALL: Queues = [".*", QUEUE];

/// Who sets a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    User,
    Operator,
}

/// A policy, and when it is set.
#[derive(Clone, Debug)]
struct Policy {
    queues: Queues,
    by: By,
    definition: Value,
    /// Before the bucket was created, or after it.
    first: bool,
    queue_type: QueueType,
}

impl Policy {
    async fn set(&self, vhost: &Vhost<'_>) {
        let ([pattern, queue], definition) = (self.queues, self.definition.clone());
        match self.by {
            By::User => vhost.set_policy(pattern, queue, definition).await,
            By::Operator => {
                vhost.set_operator_policy(pattern, queue, definition).await;
            }
        }
    }

    fn everywhere(
        by: By,
        queue_type: QueueType,
        definitions: impl IntoIterator<Item = Value>,
    ) -> Vec<Self> {
        let mut all = Vec::new();
        for definition in definitions {
            for queues in [BUCKETS, REFILL, PARKED, ALL] {
                for first in [true, false] {
                    all.push(Self {
                        queues,
                        by,
                        definition: definition.clone(),
                        first,
                        queue_type,
                    });
                }
            }
        }
        all
    }
}

/// That of Amazon MQ for all queues of a broker.
fn of_amazon_mq() -> Value {
    json!({"overflow": "reject-publish", "max-length": 8_000_000, "queue-mode": "lazy"})
}

async fn try_all(policies: Vec<Policy>) {
    let tried = policies.into_iter().map(|policy| async move {
        let name = format!("{policy:?}");
        let tried = AssertUnwindSafe(with_policy(policy));
        tried.catch_unwind().await.map(drop).map_err(|_| name)
    });
    let failed: Vec<_> = join_all(tried)
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test]
async fn policies_for_tokens_and_for_everything_double_no_tick_and_block_no_refill() {
    let definitions = [
        json!({"max-length": 3}),
        json!({"max-length": 3, "overflow": "reject-publish"}),
        json!({"max-length": 3, "overflow": "reject-publish-dlx", "dead-letter-exchange": "", "dead-letter-routing-key": "dead"}),
        json!({"message-ttl": 300}),
        json!({"expires": 300}),
        json!({"dead-letter-exchange": "", "dead-letter-routing-key": "dead"}),
        of_amazon_mq(),
    ];
    try_all(Policy::everywhere(
        By::User,
        QueueType::Classic,
        definitions,
    ))
    .await;
}

#[tokio::test]
async fn operator_policies_double_no_tick_and_block_no_refill() {
    let definitions = [json!({"max-length": 3}), json!({"message-ttl": 300})];
    try_all(Policy::everywhere(
        By::Operator,
        QueueType::Classic,
        definitions,
    ))
    .await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ 4"]
async fn policies_for_quorum_queues_double_no_tick_and_block_no_refill() {
    let quorum = QueueType::Quorum;
    let by_users = [
        json!({"max-length": 3}),
        json!({"max-length": 3, "overflow": "reject-publish"}),
        json!({"message-ttl": 300}),
        json!({"expires": 300}),
        json!({"delivery-limit": 1}),
        // That of Amazon MQ has `queue-mode` too, and so concerns no quorum queue.
        json!({"max-length": 8_000_000, "overflow": "reject-publish"}),
    ];
    let by_operators = [json!({"max-length": 3}), json!({"delivery-limit": 1})];
    let mut all = Policy::everywhere(By::User, quorum, by_users);
    all.extend(Policy::everywhere(By::Operator, quorum, by_operators));
    // The refill queue and that of parked requests are classic ones.
    all.retain(|policy| {
        policy.queues == BUCKETS
            || policy.queues == ALL
            || policy.definition.get("delivery-limit").is_none()
    });
    all.extend([true, false].map(|first| Policy {
        queues: LEDGERS,
        by: By::User,
        definition: json!({"delivery-limit": 1}),
        first,
        queue_type: quorum,
    }));
    try_all(all).await;
}

/// A policy for ledgers, from before the bucket was created or from after it, never makes a tick count twice; without it
/// refills go on.
async fn with_policies(
    definitions: impl IntoIterator<Item = Value>,
) -> Vec<(Vhost<'static>, Bucket)> {
    let of_ledgers = |first| {
        move |definition| Policy {
            queues: LEDGERS,
            by: By::User,
            definition,
            first,
            queue_type: QueueType::Classic,
        }
    };
    let both = definitions
        .into_iter()
        .flat_map(|definition| [true, false].map(|first| of_ledgers(first)(definition.clone())));
    join_all(both.map(with_policy)).await
}

async fn with_policy(policy: Policy) -> (Vhost<'static>, Bucket) {
    let [_, queue] = policy.queues;
    let vhost = testbed().await.vhost().await;
    vhost.declare("dead", FieldTable::default()).await;
    if policy.first {
        policy.set(&vhost).await;
    }
    let mut operator = Operator::start(&vhost, "one").await;
    let bucket = Bucket {
        queue_type: policy.queue_type,
        ..each_second()
    };
    operator.apply(&bucket, 1);
    if !policy.first {
        operator.refills_after(bucket.created).await;
        policy.set(&vhost).await;
    }
    // Long enough for a lost ledger to be written anew.
    pass(&vhost, &bucket, 11).await;
    operator.crash().await;
    let mut operator = Operator::start(&vhost, "one").await;
    operator.apply(&bucket, 1);
    pass(&vhost, &bucket, 6).await;

    vhost.delete_policy(queue).await;
    operator.refills_after(Utc::now()).await;
    if queue == QUEUE && policy.definition.get("message-ttl").is_some() {
        // Tokens of that time are still going.
        no_tick_is_doubled(&vhost, &bucket).await;
    } else {
        goes_on_exactly_after_a_crash(&vhost, operator, &bucket).await;
    }
    (vhost, bucket)
}

/// So many ticks pass, and none is doubled.
async fn pass(vhost: &Vhost<'_>, bucket: &Bucket, number: u64) {
    let since = Utc::now();
    eventually("time to pass", SOON, async || {
        no_tick_is_doubled(vhost, bucket).await;
        let passed = ticks(since, Utc::now());
        (passed >= number)
            .then_some(())
            .ok_or(format!("{passed} ticks"))
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_refuses_tokens_is_told_and_that_a_policy_does_it() {
    let vhost = testbed().await.vhost().await;
    let definition = json!({"max-length": 3, "overflow": "reject-publish"});
    let [pattern, queue] = BUCKETS;
    vhost.set_policy(pattern, queue, definition).await;
    let mut operator = Operator::start(&vhost, "one").await;
    let bucket = each_second();
    operator.apply(&bucket, 1);
    let refused = |outcome: &Outcome| stalled(outcome, "MessageRefused");
    let outcome = operator.running.until(|it| refused(it).is_some()).await;
    let told = refused(&outcome).unwrap_or_default();
    assert!(
        told.contains("a policy") && !told.contains("elete"),
        "{told}"
    );
    assert_eq!(vhost.depth(queue).await, Some(3));
    operator.running.stop().await;
}

#[tokio::test]
async fn a_limit_that_drops_tokens_is_told_and_that_a_policy_does_it() {
    let is_new = std::env::var("TESTBED_BROKER").is_ok_and(|version| version == "4");
    let quorum = is_new.then_some(QueueType::Quorum);
    let types = [QueueType::Classic].into_iter().chain(quorum);
    let all = types.flat_map(|queue_type| {
        [By::User, By::Operator].map(|by| Policy {
            queues: BUCKETS,
            by,
            definition: json!({"max-length": 3}),
            first: false,
            queue_type,
        })
    });
    join_all(all.map(async |policy| {
        let vhost = testbed().await.vhost().await;
        let mut operator = Operator::start(&vhost, "one").await;
        let bucket = Bucket {
            queue_type: policy.queue_type,
            ..each_second()
        };
        operator.apply(&bucket, 1);
        operator.refills_after(bucket.created).await;
        policy.set(&vhost).await;
        let id = bucket.id.clone();
        let told = |outcome: &Outcome| matches!(outcome, Outcome::TokensVanish { bucket, left: 3 } if *bucket == id);
        let telling = operator.running.until(told);
        let telling = tokio::time::timeout(SOON, telling).await;
        telling.unwrap_or_else(|_| panic!("nothing is told: {policy:?}"));
        operator.running.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn workers_that_take_as_much_as_is_added_are_no_policy() {
    let vhost = testbed().await.vhost().await;
    let mut operator = Operator::start(&vhost, "one").await;
    let bucket = each_second();
    operator.apply(&bucket, 1);
    eventually("some tokens", SOON, async || {
        match vhost.depth(QUEUE).await {
            Some(4..) => Ok(()),
            depth => Err(format!("{depth:?}")),
        }
    })
    .await;
    let mut seen = Utc::now();
    for _ in 0..8 {
        operator.refills_after(seen).await;
        seen = Utc::now();
        assert_eq!(vhost.take(QUEUE, 1).await, 1);
    }
    while let Ok(outcome) = operator.running.outcomes.try_recv() {
        assert!(!matches!(outcome, Outcome::TokensVanish { .. }));
    }
    operator.running.stop().await;
}

#[tokio::test]
async fn a_refill_queue_that_refuses_requests_is_told_and_refills_go_on_without_the_policy() {
    let vhost = testbed().await.vhost().await;
    let mut operator = Operator::start(&vhost, "one").await;
    let bucket = each_second();
    operator.apply(&bucket, 1);
    operator.refills_after(bucket.created).await;
    let [pattern, queue] = REFILL;
    let definition = json!({"max-length": 0, "overflow": "reject-publish"});
    vhost.set_policy(pattern, queue, definition).await;
    let refused = |outcome: &Outcome| stalled(outcome, "MessageRefused");
    let outcome = operator.running.until(|it| refused(it).is_some()).await;
    let told = refused(&outcome).unwrap_or_default();
    assert!(
        told.contains("queue refill refuses") && told.contains("a policy"),
        "{told}"
    );
    vhost.delete_policy(queue).await;
    let ready = |outcome: &Outcome| matches!(outcome, Outcome::Bucket(_, state) if state.phase == Phase::Ready);
    operator.running.until(ready).await;
    goes_on_exactly_after_a_crash(&vhost, operator, &bucket).await;
}

/// Why a bucket waits for a person, if that is for this reason.
fn stalled(outcome: &Outcome, why: &str) -> Option<String> {
    match outcome {
        Outcome::Bucket(_, state) => match &state.phase {
            Phase::Stalled { reason, message } if *reason == why => Some(message.to_string()),
            _ => None,
        },
        _ => None,
    }
}
